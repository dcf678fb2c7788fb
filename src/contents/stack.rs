//! The layers of an image on top of one another.

use std::collections::BTreeMap;

use crate::contents::{ImagePackages, LayerContent};

/// The databases of package managers in an image, from its layers.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    databases: BTreeMap<String, Vec<u8>>,
}

impl Stack {
    /// Puts a layer on top of those before it. What a layer removes is removed from the layers
    /// below it, never from itself.
    pub fn add(&mut self, layer: &LayerContent) {
        self.databases.retain(|path, _| {
            let removed = layer.removed.iter().any(|removed| is_at_or_below(path, removed));
            let hidden = layer
                .hidden
                .iter()
                .any(|folder| folder.is_empty() || path != folder && is_at_or_below(path, folder));
            !removed && !hidden
        });
        for (path, bytes) in &layer.databases {
            self.databases.insert(path.clone(), bytes.clone());
        }
    }

    /// Reads the packages of the image.
    #[must_use]
    pub fn packages(self) -> ImagePackages {
        ImagePackages::read(self.databases)
    }
}

fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
