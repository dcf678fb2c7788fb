//! The manifests that an earlier import has written, with what users have changed in them since.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use groundswell::{
    api::{GitSource, ImageFamily, Upstream},
    builds::dockerfile::{Dockerfile, undeclared_args},
    engine::expansion::expand,
    registry::Reference,
};
use serde_json::Value;

use crate::import::{
    definition::{BuildDefinition, DockerfileOrigin},
    finding::ImportFinding,
    tree::read_text_of,
};

/// Maximum size of a manifest in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// Maximum number of manifests of a folder.
const MAX_FILES: usize = 4096;

/// A file with families, divided into its documents.
#[derive(Clone, Debug)]
pub struct ManifestFile {
    pub path: PathBuf,
    /// The texts of its documents, with the lines that separate them.
    pub documents: Vec<String>,
}

/// A document that is a family.
#[derive(Clone, Debug)]
pub struct FamilyDocument {
    /// Index of the file.
    pub file: usize,
    /// Index of the document in the file.
    pub document: usize,
    pub value: Value,
}

/// The name of an image in the manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenImage {
    pub family: String,
    pub image: String,
}

/// What identifies the build of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BuildKey {
    context: String,
    dockerfile: String,
    target: Option<String>,
    args: BTreeMap<String, String>,
}

/// A context, a Dockerfile in it and a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BuildPlace<'a> {
    context: &'a str,
    dockerfile: &'a str,
    target: Option<&'a str>,
}

impl BuildKey {
    /// Returns what identifies a build; `None` if its Dockerfile is no file.
    fn of(definition: &BuildDefinition) -> Option<Self> {
        let DockerfileOrigin::File(dockerfile) = &definition.dockerfile else { return None };
        let dockerfile =
            if dockerfile.is_empty() { GitSource::DOCKERFILE.into() } else { dockerfile.clone() };
        Some(Self {
            context: definition.context.clone(),
            dockerfile,
            target: definition.target.clone(),
            args: definition.args.clone(),
        })
    }

    fn place(&self) -> BuildPlace<'_> {
        BuildPlace {
            context: &self.context,
            dockerfile: &self.dockerfile,
            target: self.target.as_deref(),
        }
    }
}

/// A build and an image of the manifests that it may make.
struct BuildMatch<'a> {
    key: &'a BuildKey,
    /// The name that would follow for the build.
    name: Option<&'a str>,
    known: &'a BuildKey,
    written: &'a WrittenImage,
}

impl BuildMatch<'_> {
    fn is_twin(&self) -> bool {
        self.key == self.known
    }

    fn is_named(&self) -> bool {
        self.name == Some(&self.written.image) && self.key.place() == self.known.place()
    }

    fn is_named_twin(&self) -> bool {
        self.is_named() && self.is_twin()
    }
}

/// The manifests of a folder.
#[derive(Debug, Default)]
pub struct ExistingManifests {
    pub files: Vec<ManifestFile>,
    /// The families by name.
    pub families: BTreeMap<String, FamilyDocument>,
    images: Vec<(BuildKey, WrittenImage)>,
}

impl ExistingManifests {
    /// Reads the manifests of a folder. A folder that does not exist has none.
    ///
    /// # Errors
    /// Returns an error that names the file if one cannot be read: it could not be updated.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut manifests = Self::default();
        if !folder.exists() {
            return Ok(manifests);
        }
        let entries = folder.read_dir().with_context(|| format!("read {}", folder.display()))?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if matches!(extension, Some("yaml" | "yml")) && path.is_file() {
                paths.push(path);
            }
        }
        if paths.len() > MAX_FILES {
            bail!("{} has more than {MAX_FILES} manifests", folder.display());
        }
        paths.sort();
        for path in paths {
            let text =
                read_text_of(&path, MAX_BYTES).with_context(|| path.display().to_string())?;
            manifests.add_file(path, &text)?;
        }
        Ok(manifests)
    }

    fn add_file(&mut self, path: PathBuf, text: &str) -> anyhow::Result<()> {
        let documents = documents(text);
        let file = self.files.len();
        for (document, text) in documents.iter().enumerate() {
            let value: Value = serde_yaml::from_str(text)
                .with_context(|| format!("{}: it is no YAML", path.display()))?;
            let is_family = value.get("kind").is_some_and(|kind| kind == "ImageFamily");
            if !is_family {
                continue;
            }
            let family: ImageFamily = serde_json::from_value(value.clone())
                .with_context(|| format!("{}: it is no valid ImageFamily", path.display()))?;
            let name = family.metadata.name.clone().unwrap_or_default();
            self.add_images(&name, family);
            let found = FamilyDocument { file, document, value };
            if self.families.insert(name.clone(), found).is_some() {
                bail!("{}: the folder has the family {name} twice; remove one", path.display());
            }
        }
        self.files.push(ManifestFile { path, documents });
        Ok(())
    }

    fn add_images(&mut self, family: &str, object: ImageFamily) {
        for image in expand(object.spec).images {
            let Some(git) = image.source.git else { continue };
            let context = git.path.unwrap_or_default();
            let context = context.trim_start_matches("./").trim_end_matches('/');
            let context = if context == "." { "" } else { context };
            let key = BuildKey {
                context: context.to_owned(),
                dockerfile: git.dockerfile,
                target: image.target,
                args: image.args,
            };
            let found = WrittenImage { family: family.to_owned(), image: image.name };
            self.images.push((key, found));
        }
    }

    /// Returns the image that each build makes already: its name stays, even if another one would
    /// follow from the files. `builds` are the definitions, with the names that would follow.
    /// Arguments change more often than names, so that a build with others is the same one, if no
    /// other build may be meant.
    pub fn of_builds(
        &self,
        builds: &[(&BuildDefinition, Option<&str>)],
    ) -> Vec<Option<&WrittenImage>> {
        let keys: Vec<Option<BuildKey>> =
            builds.iter().map(|(definition, _)| BuildKey::of(definition)).collect();
        let mut found: Vec<Option<usize>> = vec![None; builds.len()];
        for is_close in [BuildMatch::is_named_twin, BuildMatch::is_twin, BuildMatch::is_named] {
            for (at, (key, (_, name))) in keys.iter().zip(builds).enumerate() {
                let Some(key) = key.as_ref().filter(|_| found.get(at) == Some(&None)) else {
                    continue;
                };
                let is_free = |image: &usize| !found.contains(&Some(*image));
                let is_meant = |image: &usize| {
                    self.images.get(*image).is_some_and(|(known, written)| {
                        is_close(&BuildMatch { key, name: *name, known, written })
                    })
                };
                let image = (0..self.images.len()).filter(is_free).find(is_meant);
                if let Some(place) = found.get_mut(at) {
                    *place = image;
                }
            }
        }
        let left: Vec<usize> =
            (0..self.images.len()).filter(|image| !found.contains(&Some(*image))).collect();
        let mut similar: BTreeMap<BuildPlace<'_>, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for image in left {
            if let Some((key, _)) = self.images.get(image) {
                similar.entry(key.place()).or_default().0.push(image);
            }
        }
        for (at, key) in keys.iter().enumerate() {
            if let Some(key) = key.as_ref().filter(|_| found.get(at) == Some(&None))
                && let Some((_, builds)) = similar.get_mut(&key.place())
            {
                builds.push(at);
            }
        }
        for (images, builds) in similar.values() {
            if let ([image], [build]) = (images.as_slice(), builds.as_slice())
                && let Some(place) = found.get_mut(*build)
            {
                *place = Some(*image);
            }
        }
        let written = |image: Option<usize>| Some(&self.images.get(image?)?.1);
        found.into_iter().map(written).collect()
    }

    /// Lists the arguments that the manifests give to a build and that its Dockerfile does not
    /// declare, for example not any more. Whether the import or a user has written them is not
    /// known, so that they stay.
    pub fn stale_args(&self, image: &WrittenImage, dockerfile: &Dockerfile) -> Vec<ImportFinding> {
        let known = self.images.iter().find(|(_, written)| written == image);
        let args = known.into_iter().flat_map(|(key, _)| key.args.keys());
        let finding = |name: &str| {
            let place = format!("family {}: image {}", image.family, image.image);
            let why = format!(
                "args.{name} of the manifest stays, but the Dockerfile does not declare it, so \
                 that it changes nothing; remove it there"
            );
            ImportFinding::new(place, why)
        };
        undeclared_args(dockerfile, args).into_iter().map(finding).collect()
    }

    /// Returns the upstreams of a family by name, each with the reference that it follows.
    pub fn upstreams(&self, family: &str) -> BTreeMap<String, String> {
        let document = self.families.get(family);
        let upstreams = document.and_then(|family| family.value.pointer("/spec/upstreams"));
        let followed = |upstream: &Value| {
            let upstream: Upstream = serde_json::from_value(upstream.clone()).ok()?;
            let image = upstream.image.parse::<Reference>();
            let image = image.map_or(upstream.image, |image| image.repository());
            Some((upstream.name, format!("{image}:{}", upstream.follow.tag)))
        };
        upstreams.and_then(Value::as_array).into_iter().flatten().filter_map(followed).collect()
    }

    /// Returns the repository of the families, if all have the same.
    pub fn repository(&self) -> Option<String> {
        let mut all = self.families.values().map(|family| family.value.pointer("/spec/repository"));
        let first = all.next().flatten()?;
        all.all(|other| other == Some(first)).then(|| first.as_str().map(str::to_owned))?
    }

    /// Returns the names of the entries of a family: those without a matrix, or those with one.
    pub fn entry_names(&self, family: &str, of: EntryKind) -> Vec<String> {
        let document = self.families.get(family);
        let entries = document.and_then(|family| family.value.pointer("/spec/images"));
        let entries = entries.and_then(Value::as_array).into_iter().flatten();
        let wanted =
            |entry: &&Value| entry.get("matrix").is_some() == matches!(of, EntryKind::WithMatrix);
        let names = entries.filter(wanted).filter_map(|entry| entry.get("name")?.as_str());
        names.map(str::to_owned).collect()
    }
}

/// Whether an entry of `spec.images` has a `matrix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    WithMatrix,
    Plain,
}

/// Divides a text into its documents. Each but the first begins with its `---`.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let is_separator = line.trim_end() == "---" || line.starts_with("--- ");
        if is_separator && documents.last().is_some_and(|last| !last.trim().is_empty()) {
            documents.push(String::new());
        }
        if let Some(last) = documents.last_mut() {
            last.push_str(line);
        }
    }
    documents
}
