//! Where a suite of Debian has its indexes, and its release with its signature.

use jiff::Timestamp;

use crate::package_indexes::{IndexError, SignatureState, release::SuiteRelease};

/// A suite of Debian, and which of its indexes are read.
pub(super) struct DebSuite<'r> {
    pub(super) uri: &'r str,
    pub(super) suite: &'r str,
    pub(super) components: &'r [String],
    pub(super) architectures: &'r [String],
}

/// A folder of a suite with an index.
pub(super) struct DebFolder {
    pub(super) path: String,
    pub(super) architecture: String,
}

impl DebSuite<'_> {
    /// Returns the URL of a file of the suite. One that ends with a slash is a path of its own.
    pub(super) fn url(&self, path: &str) -> String {
        let Self { uri, suite, .. } = self;
        match suite.strip_suffix('/') {
            Some("" | ".") => format!("{uri}/{path}"),
            Some(folder) => format!("{uri}/{}/{path}", folder.trim_start_matches("./")),
            None => format!("{uri}/dists/{suite}/{path}"),
        }
    }

    pub(super) fn folders(&self, release: &SuiteRelease) -> Vec<DebFolder> {
        let mut folders = Vec::new();
        for architecture in self.architectures {
            if self.suite.ends_with('/') {
                let architecture = architecture.clone();
                folders.push(DebFolder { path: String::new(), architecture });
                continue;
            }
            for component in self.components {
                let path = format!("{component}/binary-{architecture}");
                let for_all = format!("{component}/binary-all");
                let has_own = release.separates_all && release.packages(&for_all).is_some();
                folders.push(DebFolder { path, architecture: architecture.clone() });
                if has_own {
                    let architecture = architecture.clone();
                    folders.push(DebFolder { path: for_all, architecture });
                }
            }
        }
        folders
    }
}

/// A release, and whether its signature is verified.
pub(super) struct SignedRelease {
    pub(super) url: String,
    pub(super) release: SuiteRelease,
    pub(super) signature: SignatureState,
}

impl SignedRelease {
    pub(super) fn parse(
        url: &str,
        text: &str,
        signature: SignatureState,
        now: Timestamp,
    ) -> Result<Self, IndexError> {
        let release = SuiteRelease::parse(url, text)?;
        release.check_time(url, now)?;
        Ok(Self { url: url.to_owned(), release, signature })
    }
}

/// Returns the text of a release without its signature, which is not verified.
pub(super) fn without_signature(text: &str) -> String {
    let Some(start) = text.find("-----BEGIN PGP SIGNED MESSAGE-----") else {
        return text.to_owned();
    };
    let signed = text.get(start..).unwrap_or_default();
    let body = signed.split_once("\n\n").map_or(signed, |(_, body)| body);
    body.split("-----BEGIN PGP SIGNATURE-----").next().unwrap_or_default().to_owned()
}
