//! The newest version of each package of an index, in little memory: one text with all names and
//! versions, and 16 bytes per package.

use std::{cmp::Ordering, io};

use crate::contents::{Ecosystem, compare_versions};

/// Maximum number of packages of an index. Debian's main has 64,000, Fedora 70,000.
const MAX_ENTRIES: usize = 2_000_000;
/// Maximum length of a name, version or architecture in bytes.
const MAX_FIELD: usize = 512;
/// Maximum length of all names and versions together in bytes.
const MAX_TEXT: usize = 512 << 20;
/// Maximum number of architectures of an index.
const MAX_ARCHITECTURES: usize = 256;

/// The newest version of each package of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageTable {
    text: String,
    architectures: Vec<Box<str>>,
    /// Sorted by name, then by architecture. Each of both once.
    entries: Vec<TableEntry>,
}

/// A package: where its name is in the text, which its version follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TableEntry {
    start: u32,
    name: u16,
    version: u16,
    architecture: u16,
}

/// A package of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePackage<'t> {
    /// The name.
    pub name: &'t str,
    /// The newest version.
    pub version: &'t str,
    /// The architecture, such as `amd64`, `all` or `noarch`. Empty if the index does not name it.
    pub architecture: &'t str,
}

impl PackageTable {
    /// Returns the packages of this name, one per architecture.
    pub fn packages<'t>(&'t self, name: &str) -> impl Iterator<Item = TablePackage<'t>> {
        let start = self.entries.partition_point(|entry| self.package(*entry).name < name);
        let rest = self.entries.get(start..).unwrap_or_default();
        let rest = rest.iter().map(|entry| self.package(*entry));
        rest.take_while(move |package| package.name == name)
    }

    /// Returns the number of packages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no package.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns about how many bytes this takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<TableEntry>()
    }

    fn package(&self, entry: TableEntry) -> TablePackage<'_> {
        let TableEntry { start, name, version, architecture } = entry;
        let (start, name) = (start as usize, usize::from(name));
        let middle = start + name;
        TablePackage {
            name: self.text.get(start..middle).unwrap_or_default(),
            version: self.text.get(middle..middle + usize::from(version)).unwrap_or_default(),
            architecture: self.architectures.get(usize::from(architecture)).map_or("", |name| name),
        }
    }
}

/// Collects the packages of an index in any order.
#[derive(Debug)]
pub struct TableBuilder {
    ecosystem: Ecosystem,
    table: PackageTable,
}

impl TableBuilder {
    /// Begins a table whose versions compare by the rules of a package manager.
    #[must_use]
    pub fn new(ecosystem: Ecosystem) -> Self {
        Self { ecosystem, table: PackageTable::default() }
    }

    /// Adds a package. One without a name or a version is left out: it cannot be installed.
    ///
    /// # Errors
    /// Returns an error if there are too many, or if a text is too long: a predicate whose subject
    /// is the index.
    pub fn add(&mut self, package: TablePackage<'_>) -> io::Result<()> {
        let TablePackage { name, version, architecture } = package;
        if name.is_empty() || version.is_empty() {
            return Ok(());
        }
        if [name, version, architecture].iter().any(|text| text.len() > MAX_FIELD) {
            let problem = format!("lists a package with a field of more than {MAX_FIELD} bytes");
            return Err(io::Error::other(problem));
        }
        let too_many = || io::Error::other(format!("lists more than {MAX_ENTRIES} packages"));
        let table = &mut self.table;
        if table.entries.len() >= MAX_ENTRIES || table.text.len() > MAX_TEXT {
            return Err(too_many());
        }
        let known = table.architectures.iter().position(|known| **known == *architecture);
        let position = known.unwrap_or_else(|| {
            table.architectures.push(architecture.into());
            table.architectures.len() - 1
        });
        if table.architectures.len() > MAX_ARCHITECTURES {
            return Err(io::Error::other("lists packages of too many architectures"));
        }
        let start = u32::try_from(table.text.len()).map_err(|_| too_many())?;
        let short = |length: usize| u16::try_from(length).map_err(|_| too_many());
        table.entries.push(TableEntry {
            start,
            name: short(name.len())?,
            version: short(version.len())?,
            architecture: short(position)?,
        });
        table.text.push_str(name);
        table.text.push_str(version);
        Ok(())
    }

    /// Sorts the packages, and drops all but the newest version of each. A version that does not
    /// compare with another one, because it is none, is dropped for that.
    #[must_use]
    pub fn finish(self) -> PackageTable {
        let Self { ecosystem, table } = self;
        let mut entries = table.entries.clone();
        let key = |entry: &TableEntry| {
            let package = table.package(*entry);
            (package.name, package.architecture)
        };
        entries.sort_by(|a, b| key(a).cmp(&key(b)));
        let mut newest: Vec<TableEntry> = Vec::with_capacity(entries.len());
        for entry in entries {
            let same = newest.last_mut().filter(|last| key(last) == key(&entry));
            let Some(last) = same else {
                newest.push(entry);
                continue;
            };
            let (old, new) = (table.package(*last).version, table.package(entry).version);
            let is_newer = match compare_versions(ecosystem, new, old) {
                Some(order) => order == Ordering::Greater,
                None => compare_versions(ecosystem, old, old).is_none(),
            };
            if is_newer {
                *last = entry;
            }
        }
        newest.shrink_to_fit();
        let PackageTable { mut text, architectures, .. } = table;
        text.shrink_to_fit();
        PackageTable { text, architectures, entries: newest }
    }
}
