//! Image references: parsed once, written in the form that each listener expects.
//!
//! Parsing is the grammar of `oci-spec`; the forms on top (familiar, repository) follow the rules
//! of `github.com/distribution/reference`, because that is what `BuildKit` and container runtimes
//! compare with.

use std::{fmt, str::FromStr};

use oci_distribution::Reference as OciReference;

use crate::registry::Digest;

/// The name that Docker Hub has in references.
pub(super) const DOCKER_HUB: &str = "docker.io";
/// The most characters of a reference: host, path of 255, tag of 128, digest.
const MAX_LENGTH: usize = 1024;

/// A reference to an image: registry, repository, and a tag, a digest, or both. Always in full:
/// `alpine` is parsed as `docker.io/library/alpine:latest`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference(OciReference);

/// Why a text is not a [`Reference`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{text}` is not an image reference: {problem}; write it as \
         registry.example.com/path/name:tag"
)]
pub struct ParseReferenceError {
    text: String,
    problem: String,
}

impl Reference {
    /// The registry's name, with its port if it has one: `docker.io`, `registry.example.com:5000`.
    /// In lower case, because host names are compared without regard to case.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The path of the repository in its registry: `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.repository()
    }

    /// The repository in full, without tag and digest: `docker.io/library/alpine`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry(), self.path())
    }

    /// The tag, if it names one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest, if it names one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.0.digest().and_then(|digest| digest.parse().ok())
    }

    /// What a manifest is asked for by: the digest if there is one, else the tag.
    #[must_use]
    pub fn identifier(&self) -> &str {
        self.0.digest().or(self.0.tag()).unwrap_or("latest")
    }

    /// The same repository under this tag, without a digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        if tag.is_empty() || tag.contains(['/', ':', '@']) {
            return Err(ParseReferenceError {
                text: shown(tag),
                problem: "a tag has letters, \
                digits, _ . -"
                    .into(),
            });
        }
        format!("{}:{tag}", self.repository()).parse()
    }

    /// The same repository at this digest, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: &Digest) -> Self {
        Self(self.0.clone_with_digest(digest.to_string()))
    }

    /// The form in which `BuildKit` names a build asked for a `FROM`: Docker Hub's host and
    /// `library/` left out, and no `:latest`. `docker.io/library/alpine:3.20` becomes
    /// `alpine:3.20`; other registries keep their host.
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
            |problem: &str| ParseReferenceError { text: shown(text), problem: problem.into() };
        if text.len() > MAX_LENGTH {
            return Err(error("it is longer than 1024 characters"));
        }
        let parsed = OciReference::try_from(text).map_err(|source| error(&source.to_string()))?;
        if parsed.digest().is_some_and(|digest| digest.parse::<Digest>().is_err()) {
            return Err(error("only sha256 digests are supported"));
        }
        if parsed.repository().contains(|c: char| c.is_ascii_uppercase()) {
            // The grammar took it for a host, which it is not for want of a dot or a port.
            return Err(error("repository name must be lowercase"));
        }
        let registry = parsed.registry().to_ascii_lowercase();
        let path = parsed.repository().to_owned();
        // `index.docker.io` and `docker.io` are one registry; the parser maps the first to the
        // second.
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

/// The full form: `docker.io/library/alpine:3.20`.
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

fn shown(text: &str) -> String {
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
    fn forms() {
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
    fn digests() {
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
    fn refuses() {
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
