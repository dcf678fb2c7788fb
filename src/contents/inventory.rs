//! The packages of an image with the layer that brings each, and the settings of its package
//! managers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::contents::{
    ImagePackages, LayerContent, LayerError, Package, Stack,
    packages::{is_setting, lists_packages},
    stack::DatabaseFile,
    text_databases,
};

/// The packages of an image, and what says where they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The packages.
    pub packages: ImagePackages,
    /// The layer that brings each package in its version, counted from the lowest. It is unknown of
    /// a package whose layer has a database that cannot be read.
    pub layers: BTreeMap<Package, usize>,
    /// The packages that a user has set on hold, as `name:architecture`.
    pub held: BTreeSet<String>,
    /// The settings of package managers.
    pub settings: PackageSettings,
}

/// The settings of the package managers in an image: repositories, keys, pins and variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageSettings {
    /// The content of each file, by its path without a leading slash.
    pub files: BTreeMap<String, Bytes>,
    /// The files that are not read, because they are links or too large.
    pub unread: BTreeSet<String>,
}

impl PackageSettings {
    /// Returns a file as text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<std::borrow::Cow<'_, str>> {
        self.files.get(path).map(|bytes| String::from_utf8_lossy(bytes))
    }

    /// Returns the files in a folder, whose path ends with a slash, sorted.
    pub fn folder<'s>(&'s self, folder: &'s str) -> impl Iterator<Item = (&'s str, &'s Bytes)> {
        let files = self.files.range(folder.to_owned()..);
        files
            .map(|(path, bytes)| (path.as_str(), bytes))
            .take_while(move |(path, _)| path.starts_with(folder))
    }
}

/// Collects the layers of an image, the lowest first.
#[derive(Default)]
pub(super) struct Inventories {
    stack: Stack,
    layers: usize,
    /// The stacks up to each layer that changes what is installed.
    changes: Vec<StackedLayer>,
}

struct StackedLayer {
    layer: usize,
    stack: Stack,
}

impl Inventories {
    /// Puts a layer on top.
    ///
    /// # Errors
    /// Returns an error if the layers together exceed a bound.
    pub(super) fn add(&mut self, content: Arc<LayerContent>) -> Result<(), LayerError> {
        self.stack.add(&content)?;
        let lists = content.databases.keys().any(|path| lists_packages(path));
        if lists || !content.removed.is_empty() || !content.hidden.is_empty() {
            self.changes.push(StackedLayer { layer: self.layers, stack: self.stack.clone() });
        }
        self.layers += 1;
        Ok(())
    }

    /// Reads the packages of each layer. This takes long: it must not run on a thread of the
    /// runtime.
    pub(super) fn finish(self) -> Inventory {
        let mut inventory = Inventory::default();
        for (path, file) in &self.stack.databases {
            match file {
                DatabaseFile::Content(bytes) if is_setting(path) => {
                    inventory.settings.files.insert(path.clone(), bytes.clone());
                }
                DatabaseFile::Content(bytes) if path.starts_with("var/lib/dpkg/") => {
                    inventory.held.extend(text_databases::held(bytes));
                }
                DatabaseFile::Link | DatabaseFile::Oversized if is_setting(path) => {
                    inventory.settings.unread.insert(path.clone());
                }
                _ => {}
            }
        }
        for StackedLayer { layer, stack } in self.changes {
            let packages = stack.packages();
            let mut layers = BTreeMap::new();
            for package in &packages.packages {
                let known = inventory.layers.remove(package);
                layers.insert(package.clone(), known.unwrap_or(layer));
            }
            inventory.packages = packages;
            inventory.layers = layers;
        }
        inventory
    }
}
