//! `rpmdb.sqlite`: the database of RPM on Fedora and on Red Hat Enterprise Linux 9 and later.

use rusqlite::{Connection, config::DbConfig, limits::Limit};

use crate::contents::{
    package::{MAX_PACKAGES, Package},
    rpm_header,
};

const MAGIC: &[u8] = b"SQLite format 3\0";
/// Offsets of the versions of the format that a writer and a reader need: 2 is for a write-ahead
/// log, which a database in memory cannot have.
const FORMAT_VERSIONS: std::ops::Range<usize> = 18..20;
/// Maximum size of a package's header in bytes.
const MAX_HEADER_BYTES: i32 = 64 << 20;
/// Number of instructions of the machine of `SQLite` between two checks of [`MAX_CHECKS`].
const CHECK_INTERVAL: i32 = 10_000;
/// Maximum number of checks. Reading 100,000 packages takes about 200.
const MAX_CHECKS: u32 = 10_000;

/// Reads the packages. The database is hostile: it is read in memory, its schema is not trusted,
/// and the work is bounded.
pub(super) fn packages(mut bytes: Vec<u8>) -> Result<Vec<Package>, String> {
    if !bytes.starts_with(MAGIC) {
        return Err("is no SQLite database".into());
    }
    if let Some(versions) = bytes.get_mut(FORMAT_VERSIONS) {
        versions.fill(1);
    }
    read(&bytes).map_err(|error| match error {
        DatabaseError::Sqlite(error) => format!("cannot be read: {error}"),
        DatabaseError::Content(problem) => problem,
    })
}

/// Why a database cannot be read.
enum DatabaseError {
    Sqlite(rusqlite::Error),
    /// What it lists is wrong: a predicate whose subject is the database.
    Content(String),
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn read(bytes: &[u8]) -> Result<Vec<Package>, DatabaseError> {
    let mut database = Connection::open_in_memory()?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    database.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_HEADER_BYTES)?;
    let mut checks = 0;
    let is_too_long = move || {
        checks += 1;
        checks > MAX_CHECKS
    };
    database.progress_handler(CHECK_INTERVAL, Some(is_too_long))?;
    database.deserialize_read_exact("main", bytes, bytes.len(), true)?;
    let mut statement = database.prepare("SELECT blob FROM Packages")?;
    let mut rows = statement.query([])?;
    let mut packages = Vec::new();
    while let Some(row) = rows.next()? {
        if packages.len() >= MAX_PACKAGES {
            let problem = format!("lists more than {MAX_PACKAGES} packages");
            return Err(DatabaseError::Content(problem));
        }
        let header = row.get_ref(0)?.as_blob().unwrap_or_default();
        packages.extend(rpm_header::package(header).map_err(DatabaseError::Content)?);
    }
    Ok(packages)
}
