//! The tags of a build: their templates, and what they give. `tag_moves` sets them.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Value, context, value::merge_maps};

use crate::{
    api::{Image, ImageFamilySpec, LabelRecord, Upstream},
    engine::{
        causes::short,
        fingerprint::Hasher,
        input::VerifiedBuild,
        tag_labels::{
            LABEL_VARIABLE, absent_labels, are_read, check_count, label_values, named_labels,
        },
        templates::{self, RenderedTemplate, Templates, UnrenderableTemplate},
    },
    identity::Fingerprint,
};

/// Placeholder for any build number in a claim. Real numbers count from 1.
const ANY_BUILD: i64 = 0;
/// Placeholder for any fingerprint in a claim.
const ANY_FINGERPRINT: &str = "000000000000";
/// Placeholder for the value of any label in a check of a template.
const ANY_LABEL: &str = "0";
/// The variables of a template.
const VARIABLES: [&str; 7] =
    ["args", "build", "fingerprint", LABEL_VARIABLE, "matrix", "name", "upstream"];
/// Prefix of the operator's own tags.
const RESERVED_PREFIX: &str = "gs-";
/// Number of hexadecimal digits by which the records of keys and families differ.
const RECORD_PLACE_LENGTH: usize = 16;
/// Prefixes of the tags under which registries keep signatures and referrers. Whoever builds an
/// image sets its labels, which must not replace those.
const ARTEFACT_PREFIXES: [&str; 2] = ["sha256-", "sha512-"];

/// Why a tag's template can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TagError {
    /// It does not parse, or names an unknown variable.
    #[error(
        "`{template}`: {why}; known are build, fingerprint, upstream.NAME.tag, args.NAME, \
             matrix.KEY, name and label[\"NAME\"]"
    )]
    Template {
        /// The template.
        template: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its result is not a tag.
    #[error(
        "`{template}` gives `{tag}`, which is not a tag: write at most 128 letters, digits, `_`, \
         `.` and `-`, not beginning with `.`, `-` or `gs-`, nor, with a label, with `sha256-` or \
         `sha512-`"
    )]
    NotATag {
        /// The template.
        template: String,
        /// Its result.
        tag: String,
    },
    /// The image does not have a label that it names.
    #[error(
        "`{template}` names the label `{label}`, which the built image does not have: set it with \
         LABEL in the Dockerfile or in `labels`, or give it a default, as in `label[\"{label}\"] | \
         default(\"0\")`"
    )]
    MissingLabel {
        /// The template.
        template: String,
        /// The label.
        label: String,
    },
    /// The labels of the image give no tag.
    #[error("`{template}` is not a tag with {labels}: {why}; correct the label or the template")]
    Label {
        /// The template.
        template: String,
        /// The labels and their values.
        labels: String,
        /// What is wrong.
        why: String,
    },
}

/// A rendered tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The tag.
    pub name: String,
    /// Whether its template names the build or the fingerprint, so that it is never moved.
    pub immutable: bool,
    /// Whether its template names a label of the built image.
    pub names_label: bool,
}

/// The tags of one build.
#[derive(Debug, Default)]
pub struct BuildTags {
    /// The tags.
    pub tags: Vec<Tag>,
    /// The tags that the labels of the image do not give.
    pub errors: Vec<TagError>,
    /// Whether a label that a template names was not read yet.
    pub is_unread: bool,
}

/// Returns the tag under which a build of this fingerprint is pushed.
#[must_use]
pub fn pushed_as(fingerprint: &Fingerprint) -> String {
    format!("{RESERVED_PREFIX}{fingerprint}")
}

/// Returns the tag of the newest build of the inputs with this fingerprint, if a request has
/// rebuilt them.
#[must_use]
pub fn rebuilt_as(fingerprint: &Fingerprint) -> String {
    format!("{RESERVED_PREFIX}{fingerprint}-rebuilt")
}

/// Returns the tag of the record of what one of the operator's own tags points to.
#[must_use]
pub fn recorded_as(tag: &str) -> String {
    format!("{tag}-record")
}

/// Returns the tag of the record that the key with the id `signer` makes for a family, in a
/// registry that keeps another record under [`recorded_as`]. Each key and each family has another
/// one, so that it is free where no tag can be moved.
#[must_use]
pub fn recorded_by(tag: &str, signer: &str, family: &str) -> String {
    let mut place = Hasher::new("record").text(signer).text(family).hex();
    place.truncate(RECORD_PLACE_LENGTH);
    format!("{tag}-{place}-record")
}

/// Renders the tags that an image claims. One that names the build or the fingerprint stands for
/// those of all builds. What a template with a label gives is known only after a build, so that it
/// claims nothing: it is only checked.
///
/// # Errors
///
/// Returns an error for a template that can't be rendered, or whose result is not a tag.
pub fn claimed(spec: &ImageFamilySpec, image: &Image) -> Result<Vec<Tag>, TagError> {
    let fingerprint = Fingerprint::from(ANY_FINGERPRINT);
    let renderer = TagRenderer::new(spec, image, ANY_BUILD, &fingerprint);
    check_count(&image.tags).map_err(|why| TagError::Template {
        template: image.tags.last().cloned().unwrap_or_default(),
        why,
    })?;
    let mut tags = Vec::new();
    for template in &image.tags {
        let named = named(template)?;
        if named.is_empty() {
            tags.push(renderer.plain_tag(template)?);
        } else {
            renderer.check(template, &named)?;
        }
    }
    Ok(tags)
}

/// Renders the tags of an image for one build, without those that name a label.
///
/// # Errors
///
/// Returns an error for a template that can't be rendered, or whose result is not a tag.
pub fn render(
    spec: &ImageFamilySpec,
    image: &Image,
    build: i64,
    fingerprint: &Fingerprint,
) -> Result<Vec<Tag>, TagError> {
    let renderer = TagRenderer::new(spec, image, build, fingerprint);
    let plain =
        image.tags.iter().filter(|tag| named_labels(tag).is_ok_and(|named| named.is_empty()));
    plain.map(|template| renderer.plain_tag(template)).collect()
}

/// Renders the tags of an image for its verified build. An adopted image has no tags that name a
/// label: its tags are those that it was found with.
#[must_use]
pub fn of_build(spec: &ImageFamilySpec, image: &Image, verified: &VerifiedBuild) -> BuildTags {
    let renderer = TagRenderer::new(spec, image, verified.build, &verified.fingerprint);
    let mut build = BuildTags::default();
    for template in &image.tags {
        // Templates are validated before; one that fails nevertheless gives no tag.
        let Ok(named) = named_labels(template) else { continue };
        if named.is_empty() {
            build.tags.extend(renderer.plain_tag(template));
        } else if verified.adopted.is_some() {
            // Nothing is set.
        } else if are_read(&named, &verified.labels) {
            match renderer.label_tag(template, &named, &verified.labels) {
                Ok(tag) => build.tags.push(tag),
                Err(error) => build.errors.push(error),
            }
        } else {
            build.is_unread = true;
        }
    }
    build
}

/// Returns the labels that a template names.
fn named(template: &str) -> Result<BTreeSet<String>, TagError> {
    named_labels(template).map_err(|why| TagError::Template { template: template.into(), why })
}

/// Renders the templates of an image's tags for one build.
struct TagRenderer {
    templates: Templates,
    /// The values of the variables, without labels.
    values: Value,
}

impl TagRenderer {
    fn new(spec: &ImageFamilySpec, image: &Image, build: i64, fingerprint: &Fingerprint) -> Self {
        let followed = |upstream: &Upstream| {
            (upstream.name.clone(), context! { tag => upstream.follow.tag.as_str() })
        };
        let upstream: BTreeMap<String, Value> = spec.upstreams.iter().map(followed).collect();
        // In a plain spec, each key has one value.
        let matrix = image.matrix.iter().filter_map(|(key, values)| Some((key, values.first()?)));
        let fingerprint = short(fingerprint);
        let values = context! {
            build => build, fingerprint => fingerprint, upstream => upstream,
            args => templates::object(&image.args), matrix => templates::object(matrix),
            name => image.name.as_str(),
        };
        Self { templates: Templates::default(), values }
    }

    /// Renders a template that names no label.
    fn plain_tag(&self, template: &str) -> Result<Tag, TagError> {
        let rendered = self.templates.render(template, &self.values);
        let rendered = rendered.map_err(|error| unrenderable(template, &error))?;
        tag_of(rendered).map_err(|text| not_a_tag(template, &text))
    }

    /// Renders a template that names labels, all of which were read.
    fn label_tag(
        &self,
        template: &str,
        named: &BTreeSet<String>,
        labels: &[LabelRecord],
    ) -> Result<Tag, TagError> {
        let wrong = |why: String| TagError::Label {
            template: template.into(),
            labels: described(named, labels),
            why,
        };
        let rendered = self.with_labels(template, label_values(labels));
        let rendered = rendered.map_err(|error| match absent_labels(named, labels).first() {
            Some(label) => {
                TagError::MissingLabel { template: template.into(), label: (*label).into() }
            }
            None => wrong(error.to_string()),
        })?;
        label_tag_of(rendered).map_err(|text| {
            wrong(format!(
                "`{text}` is not one of at most 128 letters, digits, `_`, `.` and `-`, or begins \
                 with `gs-`, `sha256-` or `sha512-`"
            ))
        })
    }

    /// Checks a template that names labels before any of them is known.
    fn check(&self, template: &str, named: &BTreeSet<String>) -> Result<(), TagError> {
        let any = |name: &String| LabelRecord {
            name: name.clone(),
            value: Some(ANY_LABEL.into()),
            problem: None,
        };
        let labels: Vec<LabelRecord> = named.iter().map(any).collect();
        match self.with_labels(template, label_values(&labels)) {
            Ok(rendered) => {
                let unknown = unknown_variable(&rendered);
                if let Some(unknown) = unknown {
                    let why = format!("`{unknown}` is unknown");
                    return Err(TagError::Template { template: template.into(), why });
                }
                label_tag_of(rendered).map(|_| ()).map_err(|text| not_a_tag(template, &text))
            }
            // A label may have another value.
            Err(error) if error.depends_on_values => Ok(()),
            Err(error) => Err(unrenderable(template, &error)),
        }
    }

    fn with_labels(
        &self,
        template: &str,
        labels: Value,
    ) -> Result<RenderedTemplate, UnrenderableTemplate> {
        let values = merge_maps([context! { label => labels }, self.values.clone()]);
        self.templates.render(template, &values)
    }
}

/// Returns a variable that no template has.
fn unknown_variable(rendered: &RenderedTemplate) -> Option<&str> {
    rendered.variables.iter().map(String::as_str).find(|name| !VARIABLES.contains(name))
}

fn unrenderable(template: &str, error: &UnrenderableTemplate) -> TagError {
    TagError::Template { template: template.into(), why: error.to_string() }
}

fn not_a_tag(template: &str, text: &str) -> TagError {
    TagError::NotATag { template: template.into(), tag: text.into() }
}

/// Returns the labels that a template names, with their values.
fn described(named: &BTreeSet<String>, labels: &[LabelRecord]) -> String {
    let named = labels.iter().filter(|label| named.contains(&label.name));
    let text = |label: &LabelRecord| match &label.value {
        Some(value) => format!("the label `{}` = `{value}`", label.name),
        None => format!("the label `{}`", label.name),
    };
    named.map(text).collect::<Vec<_>>().join(" and ")
}

/// Returns the tag that a template has given, or the beginning of its text if that is no tag.
fn tag_of(rendered: RenderedTemplate) -> Result<Tag, String> {
    let (name, variables) = (rendered.text, rendered.variables);
    if is_tag(&name) && !name.starts_with(RESERVED_PREFIX) {
        let immutable = variables.contains("build") || variables.contains("fingerprint");
        Ok(Tag { name, immutable, names_label: false })
    } else {
        Err(name.chars().take(130).collect())
    }
}

/// Like [`tag_of`], of a template that names labels.
fn label_tag_of(rendered: RenderedTemplate) -> Result<Tag, String> {
    let tag = tag_of(rendered)?;
    if ARTEFACT_PREFIXES.iter().any(|prefix| tag.name.starts_with(prefix)) {
        return Err(tag.name);
    }
    Ok(Tag { names_label: true, ..tag })
}

/// Whether a text is a tag as the OCI distribution spec defines it.
fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Follow;

    fn rendered(template: &str) -> Result<Tag, TagError> {
        let upstream = |name: &str, tag: &str| Upstream {
            name: name.into(),
            follow: Follow { tag: tag.into() },
            ..Upstream::default()
        };
        let spec = ImageFamilySpec {
            upstreams: vec![upstream("alpine", "3.20"), upstream("my-base", "12")],
            ..ImageFamilySpec::default()
        };
        let image = Image { tags: vec![template.into()], ..Image::default() };
        render(&spec, &image, 7, &"0123456789abcdef".into()).map(|mut tags| tags.remove(0))
    }

    #[test]
    fn templates_render_and_say_whether_they_float() {
        for (template, name, immutable) in [
            ("latest", "latest", false),
            ("1.2.14", "1.2.14", false),
            ("sha256-1", "sha256-1", false),
            ("{{ upstream.alpine.tag }}", "3.20", false),
            ("{{ upstream['my-base'].tag }}-r{{ build }}", "12-r7", true),
            ("x-{{ fingerprint }}", "x-0123456789ab", true),
        ] {
            let tag = Tag { name: name.into(), immutable, names_label: false };
            assert_eq!(rendered(template), Ok(tag), "{template}");
        }
    }

    #[test]
    fn templates_with_labels_are_checked_before_a_build() {
        let claim = |template: &str| {
            let tags = vec!["latest".into(), template.into()];
            claimed(&ImageFamilySpec::default(), &Image { tags, ..Image::default() })
        };
        for valid in [
            "{{ label['a.b'] }}",
            "v{{ label.a }}-r{{ build }}",
            "{{ (label.a | split('.'))[1] }}",
            "{{ label.a | default('x') }}",
        ] {
            let tags = claim(valid).expect(valid);
            assert_eq!(tags.len(), 1, "{valid} is no constant: it claims nothing");
        }
        for (template, part) in [
            ("{{ label }}", "name a label as"),
            ("{{ label[name] }}", "name a label as"),
            ("{{ label.a }}{{ bild if label.b == 'x' else '' }}", "`bild` is unknown"),
            ("{{ label.a | lowr }}", "lowr"),
            ("{{ label.a", "known are build"),
            ("gs-{{ label.a }}", "not a tag"),
            ("-{{ label.a }}", "not a tag"),
            ("sha256-{{ label.a }}", "not a tag"),
        ] {
            let error = claim(template).expect_err(template).to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn bad_templates_are_reported() {
        for (template, part) in [
            ("{{ bild }}", "known are build"),
            ("{{ upstream.debian.tag }}", "known are build"),
            ("{{ build", "known are build"),
            ("a b", "not a tag"),
            ("gs-{{ build }}", "not a tag"),
            ("-x", "not a tag"),
            ("", "not a tag"),
            ("{% for i in range(100000) %}x{% endfor %}", "known are build"),
        ] {
            let error = rendered(template).expect_err(template).to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
    }
}
