//! The two written forms of an image reference: whole, for comparing, and short, as `BuildKit` keys its named contexts.
//!
//! This is about names as a Dockerfile writes them, and not about what a registry answers.

use std::fmt;

/// The longest reference that is looked at, in bytes.
const MAX_LENGTH: usize = 4096;

/// An image reference in its whole form: host, path, and a tag or digest, so that `alpine`, `alpine:latest` and
/// `docker.io/library/alpine:latest` are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is not an image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an image reference: write [host[:port]/]path[:tag][@digest] in lower case")]
pub struct InvalidReference(String);

impl Reference {
    /// Reads a reference, filling in `docker.io`, `library/` and `latest` where Docker's own tools do.
    ///
    /// # Errors
    /// The text is empty, longer than 4096 bytes, or has characters that no reference has.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let error = || InvalidReference(text.chars().take(128).collect());
        if text.len() > MAX_LENGTH {
            return Err(error());
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (host, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest),
            _ => ("docker.io", rest),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        let path = if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        let valid = is_path(&path)
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        if !valid {
            return Err(error());
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { host: host.to_owned(), path, tag, digest: digest.map(str::to_owned) })
    }

    /// The key that `BuildKit` looks a named context up by: the short form without `docker.io/`, `library/` and `:latest`.
    /// A context under a key that is spelled otherwise is ignored without a word
    /// (`NamedContext` in `BuildKit`'s `frontend/dockerui/config.go`).
    #[must_use]
    pub fn context_key(&self) -> String {
        let mut key = match (self.host.as_str(), self.path.strip_prefix("library/")) {
            ("docker.io", Some(name)) if !name.contains('/') => name.to_owned(),
            ("docker.io", _) => self.path.clone(),
            (host, _) => format!("{host}/{}", self.path),
        };
        self.append_version(&mut key);
        key.strip_suffix(":latest").map(str::to_owned).unwrap_or(key)
    }

    fn append_version(&self, name: &mut String) {
        for (sign, part) in [(':', &self.tag), ('@', &self.digest)] {
            if let Some(part) = part {
                name.push(sign);
                name.push_str(part);
            }
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.host, self.path);
        self.append_version(&mut text);
        f.write_str(&text)
    }
}

fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_path(path: &str) -> bool {
    path.len() <= 255
        && path.split('/').all(|part| {
            let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let bytes = part.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
        })
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, value)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && value.len() >= 32
            && value.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789012345678901234567890123456789012345678901234567890123";

    #[test]
    fn one_image_has_one_whole_form_and_one_key() {
        for (text, whole, key) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine"),
            ("alpine:latest", "docker.io/library/alpine:latest", "alpine"),
            ("docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("index.docker.io/alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis"),
            ("ghcr.io/a/b:1", "ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a"),
            ("localhost/a/b:x", "localhost/a/b:x", "localhost/a/b:x"),
            ("10.1.0.1:5000/team/base:1.2", "10.1.0.1:5000/team/base:1.2", "10.1.0.1:5000/team/base:1.2"),
        ] {
            let reference = Reference::parse(text).expect(text);
            assert_eq!((reference.to_string().as_str(), reference.context_key().as_str()), (whole, key));
        }
        let pinned = Reference::parse(&format!("alpine@{DIGEST}")).expect("digest");
        assert_eq!(pinned.context_key(), format!("alpine@{DIGEST}"));
        assert_eq!(pinned.to_string(), format!("docker.io/library/alpine@{DIGEST}"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in
            ["", "Alpine", "a b", "alpine:", "alpine@sha256:12", "a//b", "/a", "a:b:c", "a\n", "a/", "docker.io/", "-a"]
        {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
