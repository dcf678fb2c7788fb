//! The mapping: what a user says about names, tags and references that no file of the tree says.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::import::{
    definition::{BuildDefinition, MappedImage},
    tree::{join, read_text},
};

/// The mapping file.
#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ImportMapping {
    /// Repository prefix of the images.
    pub repository: Option<String>,
    /// Tags of the images whose tags no file says.
    pub tags: Vec<String>,
    /// The images of Dockerfiles whose names, tags or arguments no other file says.
    pub images: Vec<MappingEntry>,
    /// References of Dockerfiles that mean an image of the tree, each with its name.
    pub local: BTreeMap<String, String>,
    /// References of Dockerfiles that mean an image of somebody else.
    pub external: Vec<String>,
    /// Globs of files that are not read, as in a `.gitignore`.
    pub skip: Vec<String>,
}

/// An image of a Dockerfile. Several entries of one Dockerfile are several images.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MappingEntry {
    /// Path of the Dockerfile below the root.
    pub dockerfile: String,
    /// Folder of the build context below the root. Defaults to the folder of the Dockerfile.
    pub context: Option<String>,
    pub name: Option<String>,
    pub path: Option<String>,
    pub family: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub args: BTreeMap<String, String>,
    pub target: Option<String>,
}

impl ImportMapping {
    /// Reads the mapping, or returns an empty one without a file.
    ///
    /// # Errors
    /// Returns an error that names the line, or a name that is no DNS label.
    pub fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        let text = read_text(file).with_context(|| file.display().to_string())?;
        let mapping: Self =
            serde_yaml::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        for entry in &mapping.images {
            for (field, name, most) in [("name", &entry.name, 63), ("family", &entry.family, 47)] {
                if let Some(name) = name.as_ref().filter(|name| !is_label(name, most)) {
                    bail!(
                        "{}: {}: `{field}: {name}` is no DNS label of at most {most} characters: \
                         use lower case letters, digits and dashes",
                        file.display(),
                        entry.dockerfile
                    );
                }
            }
        }
        Ok(mapping)
    }
}

impl MappingEntry {
    /// Returns the build that the entry defines.
    ///
    /// # Errors
    /// Returns an error if the Dockerfile is not below the context, or if a path leads out of the
    /// tree.
    pub fn definition(&self) -> Result<BuildDefinition, String> {
        let below = |path: &str| {
            join("", path).ok_or_else(|| format!("`{path}` is no path below the root of the tree"))
        };
        let dockerfile = below(&self.dockerfile)?;
        let mut definition = BuildDefinition::of_dockerfile(&dockerfile);
        if let Some(context) = &self.context {
            let context = &below(context)?;
            let file = dockerfile.strip_prefix(context.as_str()).unwrap_or_default();
            let file = if context.is_empty() { Some(file) } else { file.strip_prefix('/') };
            let Some(file) = file.filter(|file| !file.is_empty()) else {
                return Err(format!("the Dockerfile is not below the context `{context}`"));
            };
            definition.dockerfile = super::definition::DockerfileOrigin::File(file.to_owned());
            context.clone_into(&mut definition.context);
        }
        definition.target.clone_from(&self.target);
        definition.args.clone_from(&self.args);
        definition.mapped = MappedImage {
            name: self.name.clone(),
            path: self.path.clone(),
            family: self.family.clone(),
            tags: self.tags.clone(),
        };
        Ok(definition)
    }
}

/// Whether a text is a DNS label of at most this many characters.
pub fn is_label(text: &str, most: usize) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= most
        && text.chars().all(is_allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<ImportMapping> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        ImportMapping::read(Some(file.path()))
    }

    #[test]
    fn an_entry_is_a_build() {
        let mapping = read(
            "repository: registry.example.com/team\nlocal: {'base:1': base}\nimages:\n\
             - {dockerfile: a/docker/Dockerfile, context: a, name: app, args: {V: \"1\"}}\n",
        );
        let mapping = mapping.expect("a mapping");
        let definition = mapping.images[0].definition().expect("a build");
        assert_eq!(definition.context, "a");
        assert_eq!(definition.dockerfile_path().as_deref(), Some("a/docker/Dockerfile"));
        assert_eq!(definition.mapped.name.as_deref(), Some("app"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, problem) in [
            ("images: [{dockerfile: a, name: My_App}]", "`name: My_App` is no DNS label"),
            ("image: []", "image"),
            ("images: [{name: a}]", "dockerfile"),
        ] {
            let error = format!("{:#}", read(text).expect_err(text));
            assert!(error.contains(problem), "{error}");
        }
        for (entry, problem) in [
            ("images: [{dockerfile: a/Dockerfile, context: b}]", "not below the context `b`"),
            ("images: [{dockerfile: ../a/Dockerfile}]", "no path below the root"),
            ("images: [{dockerfile: /etc/Dockerfile}]", "no path below the root"),
        ] {
            let found = read(entry).expect("a mapping").images[0].definition();
            let error = found.expect_err("outside");
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn labels_are_recognized() {
        assert!(is_label("a-1", 63) && !is_label("A", 63) && !is_label("-a", 63));
        assert!(!is_label("", 63) && !is_label("aa", 1));
    }
}
