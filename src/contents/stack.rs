//! The layers of an image on top of one another.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::contents::{ImagePackages, LayerContent, LayerError, layer::MAX_DATABASES};

/// Maximum size of the databases of an image together in bytes.
const MAX_IMAGE_DATABASES_BYTES: usize = 384 << 20;
/// Maximum size of the uncompressed layers of an image together in bytes.
const MAX_IMAGE_UNPACKED_BYTES: u64 = 64 << 30;

/// What an image has at the path of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DatabaseFile {
    Content(Bytes),
    /// A link, which is not followed.
    Link,
    /// A setting that is too large to be one.
    Oversized,
}

impl DatabaseFile {
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Content(bytes) => bytes.len(),
            Self::Link | Self::Oversized => 0,
        }
    }
}

/// The databases of package managers in an image, from its layers.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    pub(super) databases: BTreeMap<String, DatabaseFile>,
    databases_bytes: usize,
    unpacked: u64,
}

impl Stack {
    /// Puts a layer on top of those before it. What a layer removes is removed from the layers
    /// below it, never from itself.
    ///
    /// # Errors
    /// Returns an error if the layers together exceed a bound. Its subject is the layer.
    pub fn add(&mut self, layer: &LayerContent) -> Result<(), LayerError> {
        self.unpacked = self.unpacked.saturating_add(layer.unpacked);
        if self.unpacked > MAX_IMAGE_UNPACKED_BYTES {
            let max = MAX_IMAGE_UNPACKED_BYTES >> 30;
            return Err(format!("and those below it are larger than {max} GiB when decompressed")
                .as_str()
                .into());
        }
        for removed in &layer.removed {
            self.remove(removed);
            self.remove_below(removed);
        }
        for folder in &layer.hidden {
            self.remove_below(folder);
        }
        for (path, file) in &layer.databases {
            self.remove(path);
            self.databases_bytes += file.len();
            self.databases.insert(path.clone(), file.clone());
        }
        if self.databases_bytes > MAX_IMAGE_DATABASES_BYTES || self.databases.len() > MAX_DATABASES
        {
            let max = MAX_IMAGE_DATABASES_BYTES >> 20;
            let problem = format!(
                "and those below it have databases of packages of more than {max} MiB, or more \
                 than {MAX_DATABASES} of them"
            );
            return Err(problem.as_str().into());
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) {
        if let Some(removed) = self.databases.remove(path) {
            self.databases_bytes -= removed.len();
        }
    }

    /// Removes what is below a folder; the empty path is the root.
    fn remove_below(&mut self, folder: &str) {
        if folder.is_empty() {
            *self = Self { unpacked: self.unpacked, ..Self::default() };
            return;
        }
        let prefix = format!("{folder}/");
        let below = self.databases.range(prefix.clone()..).map(|(path, _)| path);
        let below: Vec<String> =
            below.take_while(|path| path.starts_with(&prefix)).cloned().collect();
        for path in below {
            self.remove(&path);
        }
    }

    /// Reads the packages of the image.
    #[must_use]
    pub fn packages(self) -> ImagePackages {
        ImagePackages::read(self.databases)
    }
}
