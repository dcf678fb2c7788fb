//! The metadata of RPM's repositories: `repomd.xml`, which lists the others, `primary.xml` with the
//! packages, and `updateinfo.xml` with the advisories.

use std::io::{self, Read};

use crate::{
    contents::Ecosystem,
    package_indexes::{
        IndexError, PackageTable, TableBuilder,
        decompress::decompressed,
        table::TablePackage,
        xml::{XmlElement, XmlEvent, read_xml},
    },
};

/// Maximum number of files that `repomd.xml` lists.
const MAX_FILES: usize = 256;

/// A file that `repomd.xml` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MetadataFile {
    /// What it is: `primary`, `updateinfo`, ...
    pub(super) kind: String,
    /// The path below the repository.
    pub(super) path: String,
    /// The SHA-256 in lower case.
    pub(super) sha256: String,
    /// The size in bytes. 0 if it is not listed.
    pub(super) size: u64,
}

/// What `repomd.xml` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RepositoryMetadata {
    files: Vec<MetadataFile>,
}

impl RepositoryMetadata {
    /// Reads `repomd.xml`.
    ///
    /// # Errors
    /// Returns an error if it is malformed.
    pub(super) fn parse(url: &str, bytes: &[u8]) -> Result<Self, IndexError> {
        let (mut metadata, mut file) = (Self::default(), MetadataFile::default());
        let (mut is_file_hash, mut is_size) = (false, false);
        let read = read_xml(bytes, |event| {
            match event {
                XmlEvent::Start(element) => {
                    is_file_hash =
                        element.name == "checksum" && element.attribute("type") == "sha256";
                    is_size = element.name == "size";
                    match element.name.as_str() {
                        "data" => {
                            let kind = element.attribute("type").to_owned();
                            file = MetadataFile { kind, ..MetadataFile::default() };
                        }
                        "location" => element.attribute("href").clone_into(&mut file.path),
                        _ => {}
                    }
                }
                XmlEvent::Text(text) if is_file_hash => {
                    file.sha256.push_str(text.trim().to_ascii_lowercase().as_str());
                }
                XmlEvent::Text(text) if is_size => file.size = text.trim().parse().unwrap_or(0),
                XmlEvent::Text(_) => {}
                XmlEvent::End(name) => {
                    (is_file_hash, is_size) = (false, false);
                    if name == "data" && metadata.files.len() < MAX_FILES {
                        metadata.files.push(std::mem::take(&mut file));
                    }
                }
            }
            Ok(())
        });
        read.map_err(|problem| IndexError::malformed(url, problem.to_string()))?;
        Ok(metadata)
    }

    /// Returns the file of a kind.
    pub(super) fn file(&self, kind: &str) -> Option<&MetadataFile> {
        self.files.iter().find(|file| file.kind == kind)
    }
}

/// Reads `primary.xml` in any compression as a stream.
///
/// # Errors
/// Returns an error if it is malformed, ends early or exceeds a bound.
pub(super) fn read_primary(file: impl Read) -> io::Result<PackageTable> {
    let mut table = TableBuilder::new(Ecosystem::Rpm);
    let (mut depth, mut field) = (0_usize, PrimaryField::Other);
    let mut package = RpmPackage::default();
    read_xml(decompressed(file)?, |event| {
        match event {
            XmlEvent::Start(element) => {
                depth += 1;
                field = PrimaryField::Other;
                // `metadata`, `package`, and what is in it. Requirements are deeper.
                match (depth, element.name.as_str()) {
                    (2, "package") => package = RpmPackage::default(),
                    (3, "name") => field = PrimaryField::Name,
                    (3, "arch") => field = PrimaryField::Architecture,
                    (3, "version") => package.version = version(&element),
                    _ => {}
                }
            }
            XmlEvent::Text(text) => match field {
                PrimaryField::Name => package.name.push_str(&text),
                PrimaryField::Architecture => package.architecture.push_str(&text),
                PrimaryField::Other => {}
            },
            XmlEvent::End(name) => {
                field = PrimaryField::Other;
                // A package in source form is never installed.
                if depth == 2 && name == "package" && package.architecture != "src" {
                    package.add_to(&mut table)?;
                }
                depth = depth.saturating_sub(1);
            }
        }
        Ok(())
    })?;
    Ok(table.finish())
}

/// Reads the packages of the advisories in `updateinfo.xml` that are about security.
///
/// # Errors
/// Returns an error if it is malformed, ends early or exceeds a bound.
pub(super) fn read_security_advisories(file: impl Read) -> io::Result<PackageTable> {
    let mut table = TableBuilder::new(Ecosystem::Rpm);
    let mut is_security = false;
    read_xml(decompressed(file)?, |event| {
        let XmlEvent::Start(element) = event else { return Ok(()) };
        match element.name.as_str() {
            "update" => is_security = element.attribute("type") == "security",
            "package" if is_security => RpmPackage {
                name: element.attribute("name").to_owned(),
                architecture: element.attribute("arch").to_owned(),
                version: element_version(&element),
            }
            .add_to(&mut table)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(table.finish())
}

/// The element of a package whose text comes next.
enum PrimaryField {
    Name,
    Architecture,
    Other,
}

#[derive(Default)]
struct RpmPackage {
    name: String,
    architecture: String,
    version: String,
}

impl RpmPackage {
    fn add_to(&self, table: &mut TableBuilder) -> io::Result<()> {
        let (name, architecture) = (self.name.trim(), self.architecture.trim());
        table.add(TablePackage { name, version: &self.version, architecture })
    }
}

/// Returns the version of `<version epoch="0" ver="1.2" rel="3"/>`.
fn version(element: &XmlElement) -> String {
    full_version(element.attribute("epoch"), element.attribute("ver"), element.attribute("rel"))
}

/// Returns the version of `<package epoch="0" version="1.2" release="3"/>`.
fn element_version(element: &XmlElement) -> String {
    let attribute = |name| element.attribute(name);
    full_version(attribute("epoch"), attribute("version"), attribute("release"))
}

/// Writes a version as the database of RPM has it: without an epoch of 0.
fn full_version(epoch: &str, version: &str, release: &str) -> String {
    if version.is_empty() {
        return String::new();
    }
    match epoch {
        "" | "0" => format!("{version}-{release}"),
        _ => format!("{epoch}:{version}-{release}"),
    }
}
