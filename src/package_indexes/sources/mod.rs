//! The repositories that an image's packages come from, as the settings of its package managers
//! name them.

mod apk;
mod apt;
#[cfg(test)]
mod tests;
mod yum;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use url::Url;

use crate::{
    contents::{Ecosystem, Inventory, PackageSettings},
    package_indexes::Keyring,
};

/// Maximum number of repositories of an image.
const MAX_REPOSITORIES: usize = 256;
/// Maximum number of problems that are listed.
const MAX_PROBLEMS: usize = 64;
/// The architectures of packages that are for all.
const FOR_ALL: [&str; 3] = ["all", "noarch", ""];

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// A suite of a repository of Debian or its kin.
    Deb {
        /// The URL above `dists`, without a slash at its end.
        uri: String,
        /// The suite, or a path that ends with a slash and has no components.
        suite: String,
        /// The components, such as `main`.
        components: Vec<String>,
        /// The architectures.
        architectures: Vec<String>,
    },
    /// A repository of Alpine or its kin.
    Apk {
        /// The URL above the architecture, without a slash at its end.
        uri: String,
        /// The architecture.
        architecture: String,
    },
    /// A repository of RPM.
    Rpm {
        /// The URL above `repodata`, without a slash at its end.
        uri: String,
    },
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deb { uri, suite, .. } => write!(f, "{uri} {suite}"),
            Self::Apk { uri, architecture } => write!(f, "{uri}/{architecture}"),
            Self::Rpm { uri } => write!(f, "{uri}"),
        }
    }
}

/// Which keys an image trusts for a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum SignedBy {
    /// Those that its package manager trusts for every repository.
    #[default]
    Default,
    /// Those of these files, by their path without a leading slash.
    Files(Vec<String>),
    /// This armoured key.
    Key(String),
    /// Those of the first kind with these fingerprints.
    Fingerprints(Vec<String>),
    /// None: the image says that it trusts the repository without a signature.
    Trusted,
}

/// A repository of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageRepository {
    /// Where it is.
    pub location: Location,
    /// The tag with which packages of the image have to ask for it (apk). `None` if every package
    /// may come from it.
    pub tag: Option<String>,
    pub(super) signed_by: SignedBy,
}

/// Where the packages of an image come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSources {
    /// The repositories, each once.
    pub repositories: Vec<PackageRepository>,
    /// The architecture of the image's own packages, as its package manager names it.
    pub architecture: String,
    /// The packages that come from a tagged repository (apk): the tag by name.
    pub tagged: BTreeMap<String, String>,
    /// The packages that the image prevents from moving to any newer version (apk).
    pub pinned: BTreeSet<String>,
    /// What is not followed, each a sentence that begins with its place.
    pub problems: Vec<String>,
}

impl ImageSources {
    /// Reads the repositories of an image.
    #[must_use]
    pub fn read(inventory: &Inventory) -> Self {
        let settings = &inventory.settings;
        let mut sources = Self::default();
        for path in &settings.unread {
            // What a link leads to is read at its own path, if it is one that is read.
            if !path.ends_with("os-release") && !path.contains("keyrings/") {
                sources.problem(path, "is a link or larger than 1 MiB, and is not read");
            }
        }
        for ecosystem in inventory.packages.ecosystems() {
            let architectures = Architectures::of(inventory, ecosystem);
            architectures.native.clone_into(&mut sources.architecture);
            match ecosystem {
                Ecosystem::Deb => apt::read(settings, &architectures, &mut sources),
                Ecosystem::Apk => apk::read(settings, &architectures, &mut sources),
                Ecosystem::Rpm => yum::read(settings, &architectures, &mut sources),
            }
        }
        sources
    }

    fn add(&mut self, repository: PackageRepository) {
        if self.repositories.contains(&repository) {
            return;
        }
        if self.repositories.len() < MAX_REPOSITORIES {
            self.repositories.push(repository);
        } else {
            let problem = format!("and others list more than {MAX_REPOSITORIES} repositories");
            self.problem(&repository.location.to_string(), &problem);
        }
    }

    fn problem(&mut self, place: &str, problem: &str) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(format!("{place} {problem}"));
        }
    }

    /// Returns a URL that can be requested, without a slash at its end. What cannot is a problem:
    /// it is named without its credential.
    fn url(&mut self, place: &str, text: &str) -> Option<String> {
        let parsed = Url::parse(text).ok();
        let Some(url) = parsed.filter(|url| matches!(url.scheme(), "http" | "https")) else {
            let scheme = text.split_once(':').map_or("a path", |(scheme, _)| scheme);
            let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
            let scheme = if scheme.chars().all(is_scheme) { scheme } else { "a path" };
            let problem = format!("names a repository by {scheme}, which cannot be requested");
            self.problem(place, &problem);
            return None;
        };
        let host = url.host_str().unwrap_or_default();
        let secret = if !url.username().is_empty() || url.password().is_some() {
            "a credential"
        } else if url.query().is_some() || url.fragment().is_some() {
            "a query, which may be a credential"
        } else {
            return Some(url.as_str().trim_end_matches('/').to_owned());
        };
        let problem = format!(
            "names a repository at {host} with {secret}; it is not used, and the repository is not \
             read"
        );
        self.problem(place, &problem);
        None
    }
}

impl PackageRepository {
    /// Returns the keys that the image trusts for the repository.
    #[must_use]
    pub fn keyring(&self, settings: &PackageSettings) -> Keyring {
        let mut keyring = Keyring::default();
        match (&self.location, &self.signed_by) {
            (Location::Apk { .. }, _) => {
                for (path, key) in settings.folder("etc/apk/keys/") {
                    keyring.add_apk(path.rsplit('/').next().unwrap_or_default(), key);
                }
            }
            (Location::Rpm { .. }, _) | (_, SignedBy::Trusted) => {}
            (_, SignedBy::Key(key)) => keyring.add(key.as_bytes()),
            (_, SignedBy::Files(paths)) => {
                let files = paths.iter().filter_map(|path| keyring_file(settings, path));
                files.for_each(|file| keyring.add(file));
            }
            (_, SignedBy::Default | SignedBy::Fingerprints(_)) => {
                let files = settings.folder("etc/apt/trusted.gpg.d/").map(|(_, file)| file);
                files
                    .chain(settings.files.get("etc/apt/trusted.gpg"))
                    .for_each(|file| keyring.add(file));
            }
        }
        if let SignedBy::Fingerprints(fingerprints) = &self.signed_by {
            keyring.restrict(fingerprints);
        }
        keyring
    }

    /// Whether an index must have a signature by one of the image's keys. If not, either the image
    /// has no key at all for it, or it says itself that it trusts the repository.
    #[must_use]
    pub fn must_be_signed(&self, settings: &PackageSettings) -> bool {
        match (&self.location, &self.signed_by) {
            (Location::Rpm { .. }, _) | (_, SignedBy::Trusted) => false,
            // A file that the image does not have is a reason to trust nothing.
            (_, SignedBy::Files(_) | SignedBy::Key(_) | SignedBy::Fingerprints(_)) => true,
            (_, SignedBy::Default) => !self.keyring(settings).is_empty(),
        }
    }
}

/// Returns a file of keys. Debian 13 has links to files of another extension.
fn keyring_file<'s>(settings: &'s PackageSettings, path: &str) -> Option<&'s bytes::Bytes> {
    let other = match path.rsplit_once('.')? {
        (path, "gpg") => format!("{path}.pgp"),
        (path, _) => format!("{path}.gpg"),
    };
    settings.files.get(path).or_else(|| settings.files.get(&other))
}

/// The architectures of the packages of an image.
struct Architectures {
    /// That of most packages that are not for all.
    native: String,
    all: BTreeSet<String>,
}

impl Architectures {
    fn of(inventory: &Inventory, ecosystem: Ecosystem) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for package in &inventory.packages.packages {
            if package.ecosystem == ecosystem && !FOR_ALL.contains(&package.architecture.as_str()) {
                *counts.entry(&package.architecture).or_default() += 1;
            }
        }
        let native = counts.iter().max_by_key(|(_, count)| **count);
        Self {
            native: native.map(|(name, _)| (*name).to_owned()).unwrap_or_default(),
            all: counts.keys().map(|name| (*name).to_owned()).collect(),
        }
    }
}

/// Whether the name of a file has this extension, in which case counts.
fn has_extension(path: &str, extension: &str) -> bool {
    std::path::Path::new(path).extension().is_some_and(|known| known == extension)
}
