//! Where package managers keep their databases and settings, and the packages that an image's
//! databases list.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::contents::{
    Ecosystem, Package, package::MAX_PACKAGES, rpm_sqlite, stack::DatabaseFile, text_databases,
};

/// How a database is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Apk,
    Dpkg,
    RpmSqlite,
    /// The write-ahead log of a `SQLite` database: what is in it is missing in the database.
    SqliteLog,
    /// A format of RPM that is not read: Berkeley DB (until Red Hat Enterprise Linux 8), and ndb
    /// (SUSE).
    OtherRpm,
    /// No database: a setting that says which repositories packages come from, and which keys sign
    /// them.
    Settings,
}

/// A place of databases or settings: a file, or all files of a folder.
pub(super) struct DatabasePath {
    path: &'static str,
    format: Format,
}

impl DatabasePath {
    const fn new(path: &'static str, format: Format) -> Self {
        Self { path, format }
    }
}

/// All places. One that ends with a slash is a folder, of whose files each is a database.
pub(super) const DATABASE_PATHS: [DatabasePath; 31] = [
    DatabasePath::new("lib/apk/db/installed", Format::Apk),
    DatabasePath::new("usr/lib/apk/db/installed", Format::Apk),
    DatabasePath::new("var/lib/dpkg/status", Format::Dpkg),
    DatabasePath::new("var/lib/dpkg/status.d/", Format::Dpkg),
    DatabasePath::new("var/lib/rpm/rpmdb.sqlite", Format::RpmSqlite),
    DatabasePath::new("usr/lib/sysimage/rpm/rpmdb.sqlite", Format::RpmSqlite),
    DatabasePath::new("var/lib/rpm/rpmdb.sqlite-wal", Format::SqliteLog),
    DatabasePath::new("usr/lib/sysimage/rpm/rpmdb.sqlite-wal", Format::SqliteLog),
    DatabasePath::new("var/lib/rpm/Packages", Format::OtherRpm),
    DatabasePath::new("usr/lib/sysimage/rpm/Packages", Format::OtherRpm),
    DatabasePath::new("var/lib/rpm/Packages.db", Format::OtherRpm),
    DatabasePath::new("usr/lib/sysimage/rpm/Packages.db", Format::OtherRpm),
    DatabasePath::new("etc/apk/keys/", Format::Settings),
    DatabasePath::new("etc/apk/repositories", Format::Settings),
    DatabasePath::new("etc/apk/repositories.d/", Format::Settings),
    DatabasePath::new("etc/apk/world", Format::Settings),
    DatabasePath::new("etc/apt/keyrings/", Format::Settings),
    DatabasePath::new("etc/apt/preferences", Format::Settings),
    DatabasePath::new("etc/apt/preferences.d/", Format::Settings),
    DatabasePath::new("etc/apt/sources.list", Format::Settings),
    DatabasePath::new("etc/apt/sources.list.d/", Format::Settings),
    DatabasePath::new("etc/apt/trusted.gpg", Format::Settings),
    DatabasePath::new("etc/apt/trusted.gpg.d/", Format::Settings),
    DatabasePath::new("etc/distro.repos.d/", Format::Settings),
    DatabasePath::new("etc/dnf/vars/", Format::Settings),
    DatabasePath::new("etc/os-release", Format::Settings),
    DatabasePath::new("etc/yum.repos.d/", Format::Settings),
    DatabasePath::new("etc/yum/vars/", Format::Settings),
    DatabasePath::new("etc/zypp/repos.d/", Format::Settings),
    DatabasePath::new("usr/lib/os-release", Format::Settings),
    DatabasePath::new("usr/share/keyrings/", Format::Settings),
];

/// The files of `status.d` that list the files of a package.
const CHECKSUMS: &str = ".md5sums";

fn format(path: &str) -> Option<Format> {
    let place = DATABASE_PATHS.iter().find(|place| match place.path.strip_suffix('/') {
        Some(folder) => {
            let name = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            name.is_some_and(|name| !name.contains('/') && !name.ends_with(CHECKSUMS))
        }
        None => path == place.path,
    });
    place.map(|place| place.format)
}

/// Whether a file of this path is a database that lists installed packages.
pub(super) fn lists_packages(path: &str) -> bool {
    format(path).is_some_and(|format| format != Format::Settings)
}

/// Whether a file of this path is a setting: it says where packages come from.
pub(super) fn is_setting(path: &str) -> bool {
    format(path) == Some(Format::Settings)
}

/// Whether a file of this path is a database or a setting.
pub(super) fn is_database(path: &str) -> bool {
    format(path).is_some()
}

/// Whether this path is that of a database, or of a folder that may have one below it.
pub(super) fn may_hold_database(path: &str) -> bool {
    let is_above = |place: &DatabasePath| {
        place.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
    };
    is_database(path) || DATABASE_PATHS.iter().any(is_above)
}

/// The packages of an image.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagePackages {
    /// The packages, sorted, each once.
    pub packages: BTreeSet<Package>,
    /// The databases that were read, sorted by path. Without any, nothing is known of the packages.
    pub databases: Vec<String>,
    /// What could not be read, each as a sentence. Packages may be missing then.
    pub problems: Vec<String>,
}

impl ImagePackages {
    /// Reads the databases of an image, by path.
    pub(super) fn read(databases: BTreeMap<String, DatabaseFile>) -> Self {
        let (mut read, mut empty) = (Self::default(), Vec::new());
        for (path, file) in databases {
            let Some(format) = format(&path).filter(|format| *format != Format::Settings) else {
                continue;
            };
            let DatabaseFile::Content(bytes) = file else {
                read.problems.push(format!("{path} is a link, which is not followed"));
                continue;
            };
            let is_blank = bytes.iter().all(u8::is_ascii_whitespace);
            let packages = match format {
                Format::Apk => text_databases::apk(&bytes),
                Format::Dpkg => text_databases::dpkg(&bytes),
                Format::RpmSqlite => rpm_sqlite::packages(bytes.into()),
                Format::SqliteLog if bytes.is_empty() => continue,
                Format::SqliteLog => {
                    Err("has changes that are not in the database yet, which are not read".into())
                }
                Format::Settings => continue,
                Format::OtherRpm => Err("is a database of RPM in a format that is not read".into()),
            };
            match packages {
                Ok(packages) if packages.is_empty() && is_blank => empty.push(path),
                Ok(packages) if packages.is_empty() => {
                    read.problems.push(format!("{path} lists no package"));
                }
                Ok(packages) => read.add(path, packages),
                Err(problem) => read.problems.push(format!("{path} {problem}")),
            }
        }
        // Some builders leave an empty file of the package manager that they do not use.
        if read.packages.is_empty() {
            read.problems.extend(empty.iter().map(|path| format!("{path} is empty")));
        }
        read
    }

    fn add(&mut self, path: String, packages: Vec<Package>) {
        if self.packages.len() + packages.len() > MAX_PACKAGES {
            self.problems.push(format!("{path} and others list more than {MAX_PACKAGES} packages"));
            return;
        }
        self.packages.extend(packages);
        self.databases.push(path);
    }

    /// Returns the package managers whose databases list a package.
    #[must_use]
    pub fn ecosystems(&self) -> BTreeSet<Ecosystem> {
        self.packages.iter().map(|package| package.ecosystem).collect()
    }
}
