//! Image references: parsed once, and written in the form that each consumer expects.
//!
//! Parsing follows the grammar of `oci-spec`. The familiar form and the repository follow the rules
//! of `github.com/distribution/reference`, because `BuildKit` and container runtimes compare with
//! those.

use std::{fmt, str::FromStr};

use oci_distribution::Reference as OciReference;

use crate::{
    api::condition::{Problem, Reason},
    registry::Digest,
};

/// The name of Docker Hub in references.
pub(super) const DOCKER_HUB: &str = "docker.io";
/// Maximum length of a reference in bytes: host, path of 255, tag of 128, and digest.
const MAX_LENGTH: usize = 1024;

/// A reference to an image: registry, repository, and a tag, a digest, or both. It is always
/// complete: `alpine` is parsed as `docker.io/library/alpine:latest`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference(OciReference);

/// The error for a text that is not a [`Reference`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{text}` is not an image reference: {problem}; write it as registry.example.com/path/name:tag"
)]
pub struct ParseReferenceError {
    text: String,
    problem: String,
}

impl Reference {
    /// Returns the registry's name, with its port if it has one: `docker.io`,
    /// `registry.example.com:5000`. The name is in lower case, because host names are
    /// case-insensitive.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// Returns the path of the repository in its registry: `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.repository()
    }

    /// Returns the full repository without tag and digest: `docker.io/library/alpine`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry(), self.path())
    }

    /// Returns the tag, if the reference has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// Returns the digest, if the reference has one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.0.digest().and_then(|digest| digest.parse().ok())
    }

    /// Returns the identifier under which the manifest is requested: the digest if there is one,
    /// otherwise the tag.
    #[must_use]
    pub fn identifier(&self) -> &str {
        self.0.digest().or(self.0.tag()).unwrap_or("latest")
    }

    /// Returns a reference to this tag of the same repository, without a digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        if tag.is_empty() || tag.contains(['/', ':', '@']) {
            return Err(ParseReferenceError {
                text: printable(tag),
                problem: "a tag consists of letters, digits, `_`, `.` and `-`".into(),
            });
        }
        format!("{}:{tag}", self.repository()).parse()
    }

    /// Returns a reference to this digest in the same repository, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self(self.0.clone_with_digest(digest.to_string()))
    }

    /// Returns the form in which `BuildKit` names the build context of a `FROM`. It omits Docker
    /// Hub's host, `library/` and `:latest`: `docker.io/library/alpine:3.20` becomes `alpine:3.20`.
    /// Other registries keep their host.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = if self.registry() == DOCKER_HUB {
            self.path()
                .strip_prefix("library/")
                .filter(|name| !name.contains('/'))
                .unwrap_or(self.path())
                .to_owned()
        } else {
            self.repository()
        };
        if let Some(tag) = self.tag().filter(|tag| *tag != "latest" || self.0.digest().is_some()) {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = self.0.digest() {
            text.push('@');
            text.push_str(digest);
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error =
            |problem: &str| ParseReferenceError { text: printable(text), problem: problem.into() };
        if text.len() > MAX_LENGTH {
            return Err(error("it has more than 1024 characters"));
        }
        if text.starts_with('[') {
            return Err(error("IPv6 addresses are not supported; use the host's name"));
        }
        let parsed = OciReference::try_from(text).map_err(|source| error(&source.to_string()))?;
        if parsed.digest().is_some_and(|digest| digest.parse::<Digest>().is_err()) {
            return Err(error("only sha256 digests are supported"));
        }
        if parsed.repository().contains(|c: char| c.is_ascii_uppercase()) {
            // The grammar accepts it as a host, but it has neither a dot nor a port and is
            // therefore part of the path.
            return Err(error("repository name must be lowercase"));
        }
        let registry = parsed.registry().to_ascii_lowercase();
        let path = parsed.repository().to_owned();
        // `index.docker.io` and `docker.io` are the same registry; the parser maps the former to
        // the latter.
        Ok(Self(match (parsed.tag().map(str::to_owned), parsed.digest().map(str::to_owned)) {
            (Some(tag), Some(digest)) => {
                OciReference::with_tag_and_digest(registry, path, tag, digest)
            }
            (None, Some(digest)) => OciReference::with_digest(registry, path, digest),
            (tag, None) => {
                OciReference::with_tag(registry, path, tag.unwrap_or_else(|| "latest".into()))
            }
        }))
    }
}

impl From<ParseReferenceError> for Problem {
    fn from(error: ParseReferenceError) -> Self {
        Self { reason: Reason::InvalidSpec, message: error.to_string() }
    }
}

/// Writes the full form: `docker.io/library/alpine:3.20`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Removes control characters and shortens the text to 200 characters for an error message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parsed(text: &str) -> Reference {
        text.parse().expect(text)
    }

    #[test]
    fn full_and_familiar_forms() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("index.docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("docker.io/grafana/grafana", "docker.io/grafana/grafana:latest", "grafana/grafana"),
            ("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
            (
                "Registry.Example.com/team/app:1",
                "registry.example.com/team/app:1",
                "registry.example.com/team/app:1",
            ),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app"),
        ] {
            let reference = parsed(text);
            assert_eq!(
                (reference.to_string().as_str(), reference.familiar().as_str()),
                (full, familiar),
                "{text}"
            );
            assert_eq!(parsed(full), reference);
        }
    }

    #[test]
    fn a_digest_is_kept_and_replaces_the_tag() {
        let pinned = parsed(&format!("alpine:3.20@{DIGEST}"));
        assert_eq!(pinned.familiar(), format!("alpine:3.20@{DIGEST}"));
        assert_eq!(pinned.identifier(), DIGEST);
        let by_digest = parsed("alpine:3.20").with_digest(&DIGEST.parse().expect("digest"));
        assert_eq!(by_digest.to_string(), format!("docker.io/library/alpine@{DIGEST}"));
        assert_eq!(by_digest.tag(), None);
        assert_eq!(
            by_digest.with_tag("3.21").expect("tag").to_string(),
            "docker.io/library/alpine:3.21"
        );
    }

    #[test]
    fn ipv6_addresses_are_rejected_by_name() {
        for text in ["[::1]:5000/app:1", "[2001:db8::1]/app:1"] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains("IPv6 addresses are not supported"), "{error}");
        }
    }

    #[test]
    fn invalid_references_are_rejected() {
        let long = "a".repeat(2000);
        for text in [
            "",
            "UPPER/case",
            "a b",
            "alpine:",
            "alpine@sha256:12",
            &format!("alpine@sha512:{}", "a".repeat(128)),
            &long,
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains("is not an image reference") && error.len() < 400, "{error}");
        }
        assert!(parsed("alpine").with_tag("a/b").is_err());
        assert!(parsed("alpine").with_tag("b@sha256:1").is_err());
    }
}
