//! The images that a credential applies to: the key of an entry in a Docker configuration,
//! interpreted as the kubelet does.
//!
//! <https://kubernetes.io/docs/concepts/containers/images/#config-json> specifies a host whose
//! labels may contain `*`, a port that must be equal, and a prefix of the path. A `*` never matches
//! a dot.

use std::{cmp::Reverse, fmt};

use crate::registry::reference::DOCKER_HUB;

/// The images that one credential applies to.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct CredentialScope {
    /// Host and port, in lower case; the labels of the host may hold `*`.
    host: String,
    /// The prefix of the path, without a slash at its start. A slash at its end is a boundary.
    path: String,
}

/// The order of scopes: the longest path first, then the fewest wildcards, then the longest host.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ScopeRank {
    path_length: Reverse<usize>,
    wildcards: usize,
    host_length: Reverse<usize>,
}

impl CredentialScope {
    /// Parses an entry's key: `r.example`, `r.example:5000/team`, `*.r.example`,
    /// `https://index.docker.io/v1/`. Returns `None` if the key has no host.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let key = key.trim();
        let bare = match key.split_once("://") {
            Some((scheme, bare)) if is_http(scheme) => bare,
            _ => key,
        };
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        // Old clients appended the version of the API, which is not part of an image's name.
        let path = match path.split_once('/') {
            Some(("v1" | "v2", rest)) => rest,
            _ if matches!(path, "v1" | "v2") => "",
            _ => path,
        };
        if host.is_empty() || host.contains('@') || host.contains(char::is_whitespace) {
            return None;
        }
        let host = match host.to_ascii_lowercase() {
            name if matches!(name.as_str(), "index.docker.io" | "registry-1.docker.io") => {
                DOCKER_HUB.to_owned()
            }
            name => name,
        };
        Some(Self { host, path: path.trim_start_matches('/').to_owned() })
    }

    /// Returns the rank by which scopes are sorted, the most specific first.
    pub(super) fn rank(&self) -> ScopeRank {
        ScopeRank {
            path_length: Reverse(self.path.len()),
            wildcards: self.host.matches('*').count(),
            host_length: Reverse(self.host.len()),
        }
    }

    /// Whether a repository, given by its registry and its path, is in this scope. The path is
    /// compared by characters, as the kubelet does, so `team` also covers `team-a/app`: both are on
    /// the host that the credential is for.
    pub(super) fn matches(&self, registry: &str, path: &str) -> bool {
        let (pattern, pattern_port) = split_port(&self.host);
        let (host, port) = split_port(registry);
        port == pattern_port
            && host.split('.').count() == pattern.split('.').count()
            && host
                .split('.')
                .zip(pattern.split('.'))
                .all(|(label, pattern)| label_matches(pattern, label))
            && path.starts_with(&self.path)
    }
}

impl fmt::Debug for CredentialScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

fn is_http(scheme: &str) -> bool {
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    host.rsplit_once(':').map_or((host, None), |(name, port)| (name, Some(port)))
}

/// Whether a label matches a pattern in which `*` matches any number of characters.
fn label_matches(pattern: &str, label: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| label.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_normalized() {
        for (key, expected) in [
            ("r.example", Some("r.example")),
            ("https://R.example/v2/", Some("r.example")),
            ("http://r.example:5000/v1", Some("r.example:5000")),
            ("r.example/v2/team", Some("r.example/team")),
            ("r.example/team/", Some("r.example/team/")),
            ("HTTPS://R.Example/", Some("r.example")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("", None),
            ("https:///v1/", None),
            ("user@r.example", None),
        ] {
            assert_eq!(
                CredentialScope::parse(key).map(|scope| format!("{scope:?}")).as_deref(),
                expected,
                "{key}"
            );
        }
    }

    #[test]
    fn hosts_ports_and_paths_are_compared() {
        for (key, registry, path, expected) in [
            ("r.example", "r.example", "a", true),
            ("r.example", "r.example:443", "a", false),
            ("*:5000", "host:5000", "a", true),
            ("*.example", "a.b.example", "a", false),
            ("reg-*-eu.example", "reg-1-eu.example", "a", true),
            ("reg-*-eu.example", "reg-eu.example", "a", false),
            ("r.example/team", "r.example", "team/app", true),
            ("r.example/team", "r.example", "tea", false),
            ("*", "docker.io", "library/alpine", false),
        ] {
            let scope = CredentialScope::parse(key).expect(key);
            assert_eq!(scope.matches(registry, path), expected, "{key} {registry}/{path}");
        }
    }

    #[test]
    fn keys_are_read_as_the_kubelet_does() {
        for (key, image, expected) in [
            ("https://index.docker.io/v1/", "alpine", true),
            ("registry-1.docker.io", "alpine", true),
            ("https://docker.io/v1/", "docker.io/org/x", true),
            ("docker.io/org", "docker.io/org/x", true),
            ("registry.hub.docker.com", "registry.hub.docker.com/library/alpine", true),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/a:1", true),
            ("https://r.example/", "r.example/a:1", true),
            ("r.example/team/", "r.example/team/a:1", true),
            ("r.example/team/", "r.example/team-evil/a:1", false),
            ("r.example/team", "r.example/team-evil/a:1", true),
            ("r.example:443", "r.example/a:1", false),
            ("HTTPS://R.Example", "r.example/a:1", true),
            ("*:5000", "localhost:5000/a", true),
            ("https://r.example/v2/team", "r.example/team/a", true),
            ("r.example/v1beta/x", "r.example/v1beta/x", true),
        ] {
            let image: crate::registry::Reference = image.parse().expect(image);
            let scope = CredentialScope::parse(key).expect(key);
            assert_eq!(scope.matches(image.registry(), image.path()), expected, "{key} {image}");
        }
    }

    #[test]
    fn wildcards_match_within_a_label() {
        for (pattern, label, expected) in [
            ("*", "", true),
            ("a*", "a", true),
            ("a*a", "a", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
            ("**", "x", true),
            ("a", "ab", false),
        ] {
            assert_eq!(label_matches(pattern, label), expected, "{pattern} {label}");
        }
    }
}
