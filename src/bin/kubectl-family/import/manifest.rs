//! The manifest of a family, as it is written: the fields that the import owns, in the order in
//! which users write them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::{Context as _, bail};
use groundswell::{
    api::{Export, Follow, GitSource, Image, ImageFamilySpec, SourceDefaults, Upstream},
    engine::{expansion::expand, validate::validate},
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Value, json};

use crate::import::{
    entries::{PlainFamily, name_upstreams},
    finding::ImportFinding,
};

/// The fields of an entry of `spec.images` that the import owns, in their order. `tags` belongs to
/// it only if a file or the mapping says the tags.
pub const OWNED_FIELDS: [&str; 9] =
    ["name", "path", "matrix", "edges", "from", "source", "args", "target", "tags"];

/// A field and its value.
pub type ManifestField = (&'static str, Value);

/// Fields in the order in which they are written.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderedFields(pub Vec<ManifestField>);

impl Serialize for OrderedFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// An entry of `spec.images`.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestEntry {
    pub fields: OrderedFields,
    /// Whether its tags are those that a file or the mapping says.
    pub owns_tags: bool,
}

impl ManifestEntry {
    pub fn name(&self) -> &str {
        self.value("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the value of a field.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.fields.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// A family as the import writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyManifest {
    pub name: String,
    pub namespace: Option<String>,
    pub repository: String,
    /// The fields of `spec` that come after the repository, and are written only into new files.
    pub head: OrderedFields,
    pub upstreams: Vec<OrderedFields>,
    pub entries: Vec<ManifestEntry>,
    /// The names of the images that the entries stand for.
    pub images: BTreeSet<String>,
    /// The names of the images that other families are built on.
    pub exports: Vec<String>,
}

/// What all families have in common.
pub struct ManifestSettings {
    pub namespace: Option<String>,
    pub repository: String,
    /// The repository of the sources, if they are in Git.
    pub git: Option<GitSource>,
    pub start: FamilyStart,
}

/// How a new family begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyStart {
    /// With a build of each image.
    Build,
    /// With the images that exist, and suspended until the sources are known.
    AdoptSuspended,
}

impl ManifestSettings {
    fn head(&self) -> OrderedFields {
        let mut head = Vec::new();
        if let Some(git) = &self.git {
            let git = json!({"git": {"url": git.url, "revision": git.revision}});
            head.push(("sourceDefaults", git));
        }
        if self.start == FamilyStart::AdoptSuspended {
            head.push(("adopt", json!({})));
            head.push(("suspend", Value::Bool(true)));
        }
        OrderedFields(head)
    }
}

impl FamilyManifest {
    /// Returns the manifest of a family. `fold` makes the entries from the images.
    ///
    /// # Errors
    /// Returns an error if the engine does not accept it.
    pub fn new(
        mut family: PlainFamily,
        settings: &ManifestSettings,
        fold: impl Fn(&[Image]) -> Vec<Image>,
        findings: &mut Vec<ImportFinding>,
    ) -> anyhow::Result<Self> {
        let upstreams = upstreams(&name_upstreams(&mut family));
        let plain = spec(&family.images, &upstreams, settings, &family);
        let entries = fold(&family.images);
        let folded = spec(&entries, &upstreams, settings, &family);
        let entries =
            if same_images(folded, plain.clone()) { entries } else { family.images.clone() };
        check(&family.name, plain, findings)?;
        let owns_tags = |entry: &Image| {
            let is_template = entry.tags.iter().any(|tag| tag.contains("{{"));
            is_template || family.known_tags.contains(&entry.name)
        };
        Ok(Self {
            name: family.name.clone(),
            namespace: settings.namespace.clone(),
            repository: settings.repository.clone(),
            head: settings.head(),
            upstreams: upstreams.iter().map(upstream_fields).collect(),
            entries: entries
                .iter()
                .map(|entry| ManifestEntry { fields: fields(entry), owns_tags: owns_tags(entry) })
                .collect(),
            images: family.images.iter().map(|image| image.name.clone()).collect(),
            exports: family.exports.into_iter().collect(),
        })
    }

    /// Returns the text of a new file.
    ///
    /// # Errors
    /// Returns an error if a value cannot be written as YAML.
    pub fn text(&self) -> anyhow::Result<String> {
        let mut text = format!(
            "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\nmetadata:\n  name: {}\n",
            self.name
        );
        if let Some(namespace) = &self.namespace {
            _ = writeln!(text, "  namespace: {namespace}");
        }
        text.push_str("spec:\n");
        let mut head = self.head.clone();
        head.0.insert(0, ("repository", Value::String(self.repository.clone())));
        text.push_str(&indented(&yaml(&head)?, 2));
        if !self.upstreams.is_empty() {
            text.push_str("  upstreams:\n");
            for upstream in &self.upstreams {
                text.push_str(&item(upstream, 2)?);
            }
        }
        text.push_str("  images:\n");
        for entry in &self.entries {
            text.push_str(&item(&entry.fields, 2)?);
        }
        if !self.exports.is_empty() {
            text.push_str("  exports:\n");
            for image in &self.exports {
                text.push_str(&item(&export_fields(image), 2)?);
            }
        }
        Ok(text)
    }
}

pub fn export_fields(image: &str) -> OrderedFields {
    OrderedFields(vec![("image", Value::String(image.to_owned()))])
}

fn upstreams(names: &BTreeMap<String, String>) -> Vec<Upstream> {
    let upstream = |(reference, name): (&String, &String)| {
        let (image, tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
        Upstream {
            name: name.clone(),
            image: image.to_owned(),
            follow: Follow { tag: tag.to_owned() },
            ..Upstream::default()
        }
    };
    names.iter().map(upstream).collect()
}

fn upstream_fields(upstream: &Upstream) -> OrderedFields {
    OrderedFields(vec![
        ("name", Value::String(upstream.name.clone())),
        ("image", Value::String(upstream.image.clone())),
        ("follow", json!({"tag": upstream.follow.tag})),
    ])
}

fn spec(
    images: &[Image],
    upstreams: &[Upstream],
    settings: &ManifestSettings,
    family: &PlainFamily,
) -> ImageFamilySpec {
    ImageFamilySpec {
        repository: settings.repository.clone(),
        upstreams: upstreams.to_vec(),
        source_defaults: settings.git.clone().map(|git| SourceDefaults { git: Some(git) }),
        images: images.to_vec(),
        exports: family
            .exports
            .iter()
            .map(|image| Export { image: image.clone(), namespaces: Vec::new() })
            .collect(),
        ..ImageFamilySpec::default()
    }
}

/// Whether two specs stand for the same images.
fn same_images(a: ImageFamilySpec, b: ImageFamilySpec) -> bool {
    let by_name = |spec: ImageFamilySpec| {
        let spec = expand(spec);
        let plain = |image: Image| (image.name.clone(), Image { matrix: BTreeMap::new(), ..image });
        spec.images.into_iter().map(plain).collect::<BTreeMap<_, _>>()
    };
    by_name(a) == by_name(b)
}

/// Checks a spec as the controller does.
fn check(
    family: &str,
    spec: ImageFamilySpec,
    findings: &mut Vec<ImportFinding>,
) -> anyhow::Result<()> {
    let spec = expand(spec);
    for left_out in &spec.left_out {
        let place = format!("family {family}");
        findings.push(ImportFinding::new(place, left_out.problem.message.clone()));
    }
    let blueprint = match validate(&spec) {
        Ok(blueprint) => blueprint,
        Err(problem) => bail!("family {family}: {}", problem.message),
    };
    for problem in blueprint.images.iter().filter_map(|image| image.problem.as_ref()) {
        let place = format!("family {family}");
        findings.push(ImportFinding::new(place, problem.message.clone()));
    }
    Ok(())
}

/// Returns the owned fields of an entry that differ from their defaults.
fn fields(entry: &Image) -> OrderedFields {
    let value = serde_json::to_value(entry).unwrap_or_default();
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let mut fields = Vec::new();
    for key in OWNED_FIELDS {
        let Some(value) = value.get(key).filter(|value| !is_empty(value)) else { continue };
        let mut value = value.clone();
        if key == "from" {
            for edge in value.as_array_mut().into_iter().flatten() {
                // The default of the API.
                if let Some(edge) = edge.as_object_mut()
                    && edge.get("use").is_some_and(|usage| usage == "Base")
                {
                    edge.remove("use");
                }
            }
        }
        fields.push((key, value));
    }
    OrderedFields(fields)
}

/// Returns a value as YAML, with a line break at the end.
///
/// # Errors
/// Returns an error if the value cannot be written.
pub fn yaml(value: &impl Serialize) -> anyhow::Result<String> {
    let mut text = serde_yaml::to_string(value).context("write YAML")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Returns fields as an item of a list whose dash has this many spaces before it.
///
/// # Errors
/// Returns an error if a value cannot be written.
pub fn item(fields: &OrderedFields, indent: usize) -> anyhow::Result<String> {
    let text = indented(&yaml(fields)?, indent + 2);
    let dash = format!("{}- ", " ".repeat(indent));
    Ok(dash + text.get(indent + 2..).unwrap_or_default())
}

/// Returns a text with spaces before each line that is not empty.
pub fn indented(text: &str, indent: usize) -> String {
    let indent = " ".repeat(indent);
    let line = |line: &str| {
        if line.trim().is_empty() { line.to_owned() } else { format!("{indent}{line}") }
    };
    text.split_inclusive('\n').map(line).collect()
}
