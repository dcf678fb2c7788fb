//! What a builder may pull, in the format of `BuildKit`'s source policies. Other builders ignore
//! the files.
//!
//! `prepare` has compared the Dockerfile with the edges before. The policy does not depend on how a
//! Dockerfile is read, so that an image which that reading misses still fails the build.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::{
    builds::{
        pod_paths,
        prepare::{PodPaths, disk_error, error::PrepareError, spec::PrepareSpec},
    },
    registry::Reference,
};

/// Whether a build may use sources that are no images: files and Git repositories that `ADD` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteSources {
    /// They may be used. They are no input of the fingerprint.
    Allowed,
    /// They are refused.
    Denied,
}

/// Writes both policies into the workspace. The strategy passes one of them to the builder.
pub(super) fn write(spec: &PrepareSpec, paths: &PodPaths) -> Result<(), PrepareError> {
    let pinned: Vec<&str> = spec.parents.iter().map(|parent| parent.pinned.as_str()).collect();
    for (file, remote) in [
        (pod_paths::SOURCE_POLICY, RemoteSources::Allowed),
        (pod_paths::IMAGES_ONLY_POLICY, RemoteSources::Denied),
    ] {
        let path = paths.root.join(file.trim_start_matches('/'));
        fs::write(&path, policy(&pinned, remote).to_string())
            .map_err(|error| disk_error(&path, &error))?;
    }
    Ok(())
}

/// Returns the policy that denies every source, and then allows the build context and exactly these
/// images: `repository@sha256:...`. The last rule that matches decides.
#[must_use]
pub fn policy(pinned: &[&str], remote: RemoteSources) -> Value {
    let schemes = match remote {
        RemoteSources::Allowed => "^(local|https?|git)://",
        RemoteSources::Denied => "^local://",
    };
    let images: BTreeSet<String> = pinned.iter().flat_map(|pinned| image_rules(pinned)).collect();
    let mut rules = vec![rule("DENY", ".*"), rule("ALLOW", schemes)];
    rules.extend(images.iter().map(|pattern| rule("ALLOW", pattern)));
    json!({"version": 1, "rules": rules})
}

/// Returns the patterns for a pinned image: as written, and in the full form in which `BuildKit`
/// names an image of Docker Hub. A Dockerfile may write a tag before the digest, which says nothing
/// more.
fn image_rules(pinned: &str) -> Vec<String> {
    let Some((written, digest)) = pinned.split_once('@') else { return Vec::new() };
    let full = pinned.parse::<Reference>().ok().map(|reference| reference.repository());
    let pattern = |repository: &str| {
        format!(
            "^docker-image://{}(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?@{}$",
            regex::escape(repository),
            regex::escape(digest)
        )
    };
    full.iter().map(String::as_str).chain([written]).map(pattern).collect()
}

fn rule(action: &str, pattern: &str) -> Value {
    json!({"action": action, "selector": {"identifier": pattern, "match_type": "REGEX"}})
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    /// Whether a policy allows a source, by the rules of `BuildKit`. `tests/dockerfile` asks
    /// `BuildKit` itself.
    fn is_allowed(policy: &Value, source: &str) -> bool {
        let matches = |rule: &&Value| {
            let pattern = rule["selector"]["identifier"].as_str().expect("a pattern");
            Regex::new(pattern).expect("a regular expression").is_match(source)
        };
        let last = policy["rules"].as_array().expect("rules").iter().rfind(matches);
        last.is_none_or(|rule| rule["action"] == "ALLOW")
    }

    #[test]
    fn only_the_pinned_images_are_allowed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = [format!("alpine@{digest}"), format!("r.example.com:5000/a.b/c@{digest}")];
        let pinned: Vec<&str> = pinned.iter().map(String::as_str).collect();
        let policy = policy(&pinned, RemoteSources::Allowed);
        for source in [
            format!("docker-image://docker.io/library/alpine@{digest}"),
            format!("docker-image://docker.io/library/alpine:3.20@{digest}"),
            format!("docker-image://r.example.com:5000/a.b/c@{digest}"),
            "local://context".into(),
            "https://example.com/file".into(),
            "git://example.com/repository.git".into(),
        ] {
            assert!(is_allowed(&policy, &source), "{source}");
        }
        for source in [
            "docker-image://docker.io/library/alpine:latest".to_owned(),
            format!("docker-image://docker.io/library/alpine@sha256:{}", "b".repeat(64)),
            format!("docker-image://docker.io/library/alpine@{digest}0"),
            format!("docker-image://evil.example.com/docker.io/library/alpine@{digest}"),
            format!("docker-image://r.example.com:5000/aXb/c@{digest}"),
            format!("docker-image://r.example.com:5000/a.b/c/d@{digest}"),
            format!("docker-image+blob://docker.io/library/alpine@{digest}"),
            format!("oci-layout://alpine@{digest}"),
            "new-scheme://local://context".into(),
        ] {
            assert!(!is_allowed(&policy, &source), "{source}");
        }
    }

    #[test]
    fn remote_sources_may_be_denied() {
        let policy = policy(&[], RemoteSources::Denied);
        assert!(is_allowed(&policy, "local://dockerfile"));
        for source in ["http://a/b", "https://a/b", "git://a/b", "docker-image://a/b"] {
            assert!(!is_allowed(&policy, source), "{source}");
        }
    }
}
