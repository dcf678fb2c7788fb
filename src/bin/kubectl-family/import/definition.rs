//! A build: one image that the files of a tree describe.

use std::collections::BTreeMap;

use groundswell::registry::Reference;

use crate::import::tree::join;

/// Where a Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DockerfileOrigin {
    /// A file, by its path below the context.
    File(String),
    /// A text in a Bake or Compose file.
    Inline(String),
}

impl DockerfileOrigin {
    /// Returns the file of this path below a context: `./a//b` is `a/b`. A path that leads out of
    /// the context stays as it is written.
    pub fn of_path(path: &str) -> Self {
        let normal = join("", path).filter(|normal| !normal.is_empty());
        Self::File(normal.unwrap_or_else(|| path.to_owned()))
    }
}

/// What a named context of a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildContext {
    /// Another build: that of the Bake target or Compose service of this name in the same file.
    Target(String),
    /// An image in a registry.
    Image(String),
    /// Files, which a family cannot name.
    Files(String),
}

/// One image and how it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildDefinition {
    /// The file that defines the build: the Dockerfile itself, a Bake or a Compose file, or the
    /// mapping.
    pub defined_in: String,
    /// Name of the Bake target or of the Compose service.
    pub label: Option<String>,
    /// Folder of the build context below the root; empty for the root.
    pub context: String,
    pub dockerfile: DockerfileOrigin,
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    pub contexts: BTreeMap<String, BuildContext>,
    /// The references under which the image is pushed.
    pub references: Vec<Reference>,
    /// What the mapping says about the image.
    pub mapped: MappedImage,
    /// Whether other Bake targets inherit from it. Without a Dockerfile it is no image then.
    pub is_inherited: bool,
}

/// What the mapping says about one image, in place of what would follow from the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedImage {
    pub name: Option<String>,
    pub path: Option<String>,
    pub family: Option<String>,
    pub tags: Vec<String>,
}

impl BuildDefinition {
    /// Returns the build of a Dockerfile alone, in its own folder.
    pub fn of_dockerfile(path: &str) -> Self {
        let (context, file) = path.rsplit_once('/').unwrap_or(("", path));
        Self {
            defined_in: path.to_owned(),
            label: None,
            context: context.to_owned(),
            dockerfile: DockerfileOrigin::File(file.to_owned()),
            target: None,
            args: BTreeMap::new(),
            contexts: BTreeMap::new(),
            references: Vec::new(),
            mapped: MappedImage::default(),
            is_inherited: false,
        }
    }

    /// Adds references under which the image is pushed, too.
    pub fn add_references(&mut self, references: Vec<Reference>) {
        for reference in references {
            if !self.references.contains(&reference) {
                self.references.push(reference);
            }
        }
    }

    /// Returns the path of the Dockerfile below the root, if it is a file there.
    pub fn dockerfile_path(&self) -> Option<String> {
        match &self.dockerfile {
            DockerfileOrigin::File(file) => join(&self.context, file),
            DockerfileOrigin::Inline(_) => None,
        }
    }

    /// Returns where the user finds the build: the file, and the target or service in it.
    pub fn place(&self) -> String {
        match &self.label {
            Some(label) => format!("{}: {label}", self.defined_in),
            None => self.defined_in.clone(),
        }
    }
}
