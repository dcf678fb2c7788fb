//! `Release` of Debian and its kin: what a suite is, how long it is valid, and the hash of each
//! index.

use std::collections::BTreeMap;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

use crate::package_indexes::{IndexError, IndexPriority};

/// Maximum number of files that are listed.
const MAX_FILES: usize = 100_000;

/// The part of a suite that the indexes of installable packages need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SuiteRelease {
    pub(super) label: String,
    pub(super) suite: String,
    pub(super) codename: String,
    pub(super) date: Option<Timestamp>,
    pub(super) valid_until: Option<Timestamp>,
    /// Whether each file also has a name with its hash, which does not change its content.
    pub(super) by_hash: bool,
    pub(super) priority: IndexPriority,
    /// Whether packages for all architectures have an index of their own, and are in no other.
    pub(super) separates_all: bool,
    /// The files by their path below the suite.
    files: BTreeMap<String, ListedFile>,
}

/// A file that a release lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedFile {
    /// The path below the suite.
    pub(super) path: String,
    /// The SHA-256 in lower case.
    pub(super) sha256: String,
    /// The size in bytes.
    pub(super) size: u64,
}

/// Which list of hashes a line belongs to.
#[derive(PartialEq, Eq)]
enum HashList {
    None,
    Sha256,
}

impl SuiteRelease {
    /// Reads a release from its text, without a signature.
    ///
    /// # Errors
    /// Returns an error if it lists no SHA-256, or has a time that cannot be read.
    pub(super) fn parse(url: &str, text: &str) -> Result<Self, IndexError> {
        let (mut release, mut list) = (Self::default(), HashList::None);
        let (mut is_manual, mut is_upgraded) = (false, false);
        let (mut has_all, mut repeats_all) = (false, false);
        for line in text.lines() {
            if line.starts_with([' ', '\t']) {
                if list == HashList::Sha256 {
                    release.add_file(url, line)?;
                }
                continue;
            }
            list = HashList::None;
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "label" => value.clone_into(&mut release.label),
                "suite" => value.clone_into(&mut release.suite),
                "codename" => value.clone_into(&mut release.codename),
                "date" => release.date = Some(time(url, name, value)?),
                "valid-until" => release.valid_until = Some(time(url, name, value)?),
                "acquire-by-hash" => release.by_hash = is_yes(value),
                "notautomatic" => is_manual = is_yes(value),
                "butautomaticupgrades" => is_upgraded = is_yes(value),
                "architectures" => has_all = value.split_whitespace().any(|name| name == "all"),
                "no-support-for-architecture-all" => repeats_all = value == "Packages",
                "sha256" => list = HashList::Sha256,
                _ => {}
            }
        }
        // As apt reads it: Debian's security suite has an index for all, and does not serve it.
        release.separates_all = has_all && !repeats_all;
        release.priority = match (is_manual, is_upgraded) {
            (false, _) => IndexPriority::Default,
            (true, true) => IndexPriority::Upgrades,
            (true, false) => IndexPriority::Manual,
        };
        if release.files.is_empty() {
            return Err(IndexError::malformed(url, "lists no file with a SHA-256"));
        }
        Ok(release)
    }

    fn add_file(&mut self, url: &str, line: &str) -> Result<(), IndexError> {
        let mut parts = line.split_whitespace();
        let (Some(sha256), Some(size), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            return Ok(());
        };
        // Only these are read, and a release of Debian lists thousands of others.
        if !path.rsplit('/').next().is_some_and(|name| name.starts_with("Packages")) {
            return Ok(());
        }
        let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = size.parse().ok().filter(|_| is_hash).ok_or_else(|| {
            IndexError::malformed(url, format!("has a malformed SHA-256 or size of {path}"))
        })?;
        if self.files.len() >= MAX_FILES {
            return Err(IndexError::malformed(url, format!("lists more than {MAX_FILES} files")));
        }
        let file = ListedFile { path: path.to_owned(), sha256: sha256.to_ascii_lowercase(), size };
        self.files.insert(path.to_owned(), file);
        Ok(())
    }

    /// Returns the index of a folder such as `main/binary-amd64`, or of the suite itself if it is
    /// empty, in the compression that takes the least time to read.
    pub(super) fn packages(&self, folder: &str) -> Option<&ListedFile> {
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let names = [".zst", ".xz", ".gz", ""];
        names.iter().find_map(|name| self.files.get(&format!("{folder}Packages{name}")))
    }

    /// Checks that the release is still valid.
    ///
    /// # Errors
    /// Returns an error if it has expired.
    pub(super) fn check_time(&self, url: &str, now: Timestamp) -> Result<(), IndexError> {
        match self.valid_until.filter(|until| *until < now) {
            None => Ok(()),
            Some(until) => {
                Err(IndexError::Expired { url: url.to_owned(), valid_until: until.to_string() })
            }
        }
    }

    /// Whether the suite has security updates alone: by Debian's label, or by its name.
    pub(super) fn is_security(&self, requested: &str) -> bool {
        let is_named = |name: &str| {
            let name = name.trim_end_matches("/updates").rsplit('/').next().unwrap_or_default();
            name.ends_with("-security")
        };
        let names = [self.suite.as_str(), self.codename.as_str(), requested];
        self.label == "Debian-Security" || names.into_iter().any(is_named)
    }
}

fn is_yes(value: &str) -> bool {
    value.eq_ignore_ascii_case("yes")
}

fn time(url: &str, field: &str, value: &str) -> Result<Timestamp, IndexError> {
    let value = value.split_whitespace().collect::<Vec<_>>().join(" ").replace("UTC", "GMT");
    let parsed = DateTimeParser::new().relaxed_weekday(true).parse_timestamp(&value);
    parsed.map_err(|_| IndexError::malformed(url, format!("has a {field} that is no time")))
}
