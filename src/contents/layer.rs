//! Reads one layer: a tar, of which only the databases and settings of package managers and what
//! removes them are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use bytes::Bytes;
use tar::{Archive, Entry, EntryType};

use crate::contents::{
    decompress::{Decompressed, OutputBounds},
    packages::{is_database, is_setting, may_hold_database},
    stack::DatabaseFile,
};

/// What may come out of a layer. A file of zeros compresses with zstd much more than the usual
/// ratio, so that layers with one are not rejected before they are large.
const BOUNDS: OutputBounds = OutputBounds { max_bytes: 16 << 30, free_bytes: 4 << 30 };
/// Maximum number of entries of a layer.
const MAX_LAYER_ENTRIES: u64 = 2_000_000;
/// Maximum length of a path in bytes.
const MAX_PATH: u64 = 4096;
/// Maximum number of folders in a path.
const MAX_DEPTH: usize = 256;
/// Maximum size of an extended header of an entry in bytes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Maximum size of one database in bytes.
const MAX_DATABASE_BYTES: u64 = 256 << 20;
/// Maximum size of one setting in bytes: larger ones are none.
const MAX_SETTING_BYTES: u64 = 1 << 20;
/// Maximum size of the databases of a layer together in bytes.
const MAX_DATABASES_BYTES: u64 = 384 << 20;
/// Maximum number of databases that a layer has, and that it removes: distroless images have one
/// per package.
pub(super) const MAX_DATABASES: usize = 10_000;

/// What a layer without databases takes in bytes, about.
const MIN_KEPT_BYTES: usize = 1024;

/// The prefix of a file that removes the file of that name from the layers below.
const WHITEOUT: &str = ".wh.";
/// The file that hides all that the layers below have in its folder.
const OPAQUE: &str = ".wh..wh..opq";

/// Why a layer cannot be read: a predicate whose subject is the layer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LayerError(String);

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<&str> for LayerError {
    fn from(problem: &str) -> Self {
        Self(problem.into())
    }
}

/// What a layer changes, as far as it concerns the databases of package managers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerContent {
    /// Size of the uncompressed layer in bytes.
    pub unpacked: u64,
    /// Number of its files, folders and links.
    pub entries: u64,
    /// The databases that it has, by path.
    pub(super) databases: BTreeMap<String, DatabaseFile>,
    /// What it removes from the layers below, with all below it.
    pub(super) removed: BTreeSet<String>,
    /// The folders whose content in the layers below it hides.
    pub(super) hidden: BTreeSet<String>,
}

impl LayerContent {
    /// Reads a layer as a registry sends it.
    ///
    /// # Errors
    /// Returns an error if it is no tar, ends early, or exceeds a bound.
    pub fn read(layer: impl Read) -> Result<Self, LayerError> {
        let mut reader = LayerReader::default();
        let mut unpacked = Decompressed::new(layer, BOUNDS)?;
        let mut archive = Archive::new(&mut unpacked);
        // The library would read extended headers of any size.
        for entry in archive.entries()?.raw(true) {
            reader.read(entry?)?;
        }
        // What follows the end of the tar counts for the bounds, and for the layer's digest.
        io::copy(&mut unpacked, &mut io::sink())?;
        reader.content.unpacked = unpacked.came_out();
        Ok(reader.content)
    }

    /// Returns about how many bytes this takes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.databases.values().map(DatabaseFile::len).sum::<usize>() + MIN_KEPT_BYTES
    }
}

#[derive(Default)]
struct LayerReader {
    content: LayerContent,
    databases_bytes: u64,
    /// The path of the next entry, if an extended header names it.
    long_path: Option<Vec<u8>>,
    /// The size of the next entry, if an extended header names it.
    long_size: Option<u64>,
}

impl LayerReader {
    fn read(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), LayerError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let mut path = extension(&mut entry, MAX_PATH)?;
                path.retain(|byte| *byte != 0);
                self.long_path = Some(path);
            }
            EntryType::XHeader => {
                let records = extension(&mut entry, MAX_EXTENSION_BYTES)?;
                let named = PaxNames::read(&records)?;
                self.long_path = named.path.or(self.long_path.take());
                self.long_size = named.size.or(self.long_size);
            }
            EntryType::XGlobalHeader | EntryType::GNULongLink => {}
            EntryType::GNUSparse => return Err("has a sparse file, which is not supported".into()),
            _ => {
                self.content.entries += 1;
                if self.content.entries > MAX_LAYER_ENTRIES {
                    return Err(LayerError(format!("has more than {MAX_LAYER_ENTRIES} entries")));
                }
                // Another size than that of the entry would move the next one.
                if self.long_size.take().is_some_and(|size| size != entry.size()) {
                    return Err("has a file of 8 GiB or more".into());
                }
                let path = self.long_path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let is_folder = entry.header().entry_type() == EntryType::Directory
                    // Before POSIX, only the name said it.
                    || entry.header().entry_type().is_file() && path.ends_with(b"/");
                if let Some(path) = normalized(&path)? {
                    let kind =
                        if is_folder { EntryType::Directory } else { entry.header().entry_type() };
                    self.read_named(path, kind, entry)?;
                }
            }
        }
        Ok(())
    }

    fn read_named(
        &mut self,
        path: String,
        kind: EntryType,
        mut entry: Entry<'_, impl Read>,
    ) -> Result<(), LayerError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == OPAQUE {
            self.hide(folder)?;
        } else if let Some(removed) = name.strip_prefix(WHITEOUT) {
            let removed =
                if folder.is_empty() { removed.to_owned() } else { format!("{folder}/{removed}") };
            self.remove(removed)?;
        } else if kind == EntryType::Directory {
            // A folder hides nothing of the layers below but a file of its name.
            if is_database(&path) {
                self.remove(path)?;
            }
        } else if !is_database(&path) {
            // A file in place of a folder hides what the layers below have in that.
            self.remove(path)?;
        } else if kind.is_file() && is_setting(&path) && entry.size() > MAX_SETTING_BYTES {
            self.content.databases.insert(path, DatabaseFile::Oversized);
        } else if kind.is_file() {
            let bytes = self.database(&path, &mut entry)?;
            self.content.databases.insert(path, DatabaseFile::Content(bytes));
        } else {
            // It counts only if no layer above has another file there.
            self.content.databases.insert(path, DatabaseFile::Link);
        }
        Ok(())
    }

    fn database(
        &mut self,
        path: &str,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<Bytes, LayerError> {
        let size = entry.size();
        self.databases_bytes = self.databases_bytes.saturating_add(size);
        let too_many = self.content.databases.len() >= MAX_DATABASES;
        if size > MAX_DATABASE_BYTES || self.databases_bytes > MAX_DATABASES_BYTES || too_many {
            return Err(LayerError(format!(
                "has a database of packages at {path} that is too large"
            )));
        }
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size { Ok(bytes.into()) } else { Err("ends early".into()) }
    }

    fn remove(&mut self, path: String) -> Result<(), LayerError> {
        if may_hold_database(&path) {
            self.content.removed.insert(path);
        }
        self.check_removals()
    }

    fn hide(&mut self, folder: &str) -> Result<(), LayerError> {
        if folder.is_empty() || may_hold_database(folder) {
            self.content.hidden.insert(folder.to_owned());
        }
        self.check_removals()
    }

    fn check_removals(&self) -> Result<(), LayerError> {
        if self.content.removed.len() + self.content.hidden.len() > MAX_DATABASES {
            return Err(LayerError(format!("removes more than {MAX_DATABASES} databases")));
        }
        Ok(())
    }
}

/// Reads the body of an extended header.
fn extension(entry: &mut Entry<'_, impl Read>, max: u64) -> Result<Vec<u8>, LayerError> {
    if entry.size() > max {
        return Err(LayerError(format!("has an extended header of more than {max} bytes")));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What an extended header says of the next entry.
#[derive(Default)]
struct PaxNames {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl PaxNames {
    fn read(records: &[u8]) -> Result<Self, LayerError> {
        let mut names = Self::default();
        for record in tar::PaxExtensions::new(records) {
            let record = record?;
            match record.key_bytes() {
                b"path" => names.path = Some(record.value_bytes().to_owned()),
                b"size" => {
                    let size = record.value().ok().and_then(|size| size.parse().ok());
                    names.size = Some(size.ok_or("has an extended header with a malformed size")?);
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err("has a sparse file, which is not supported".into());
                }
                _ => {}
            }
        }
        Ok(names)
    }
}

/// Returns a path without its leading `./` or `/`, and without `..`, which does not lead out of the
/// image, as containerd cleans it. Returns `None` if it is the root.
fn normalized(path: &[u8]) -> Result<Option<String>, LayerError> {
    if path.len() as u64 > MAX_PATH {
        return Err(LayerError(format!("has a path of more than {MAX_PATH} bytes")));
    }
    let path = String::from_utf8_lossy(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match part {
            ".." => _ = parts.pop(),
            _ => parts.push(part),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err(LayerError(format!("has a path of more than {MAX_DEPTH} folders")));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}
