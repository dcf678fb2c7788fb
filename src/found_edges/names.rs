//! The names of the upstreams that Dockerfiles name. They follow from the references alone, so that
//! they are the same after every restart.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::{api::dns_label::to_label, found_edges::parents::FollowedTag};

/// Maximum length of a name.
const MAX_NAME: usize = 63;
/// Length of the hash in hexadecimal digits that makes a name unique.
const HASH_LENGTH: usize = 8;

/// Returns the name of the upstream for each followed tag: `alpine:3.20` becomes `alpine-3-20`. A
/// name that is too long, or that something else has, ends with a hash of the reference.
pub(super) fn upstream_names<'a, 'd>(
    followed: impl Iterator<Item = &'a FollowedTag>,
    declared: impl Iterator<Item = &'d str>,
) -> BTreeMap<&'a FollowedTag, String> {
    let plain: BTreeMap<&FollowedTag, String> =
        followed.map(|followed| (followed, to_label(&followed.familiar()))).collect();
    let declared: BTreeSet<&str> = declared.collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for name in plain.values() {
        *uses.entry(name).or_default() += 1;
    }
    let unique = |followed: &FollowedTag, name: &String| {
        let is_taken = declared.contains(name.as_str()) || uses.get(&**name) != Some(&1);
        if is_taken || name.is_empty() || name.len() > MAX_NAME {
            with_hash(name, followed)
        } else {
            name.clone()
        }
    };
    plain.iter().map(|(followed, name)| (*followed, unique(followed, name))).collect()
}

fn with_hash(name: &str, followed: &FollowedTag) -> String {
    let mut hash = hex::encode(Sha256::digest(followed.to_string()));
    hash.truncate(HASH_LENGTH);
    let name: String = name.chars().take(MAX_NAME - HASH_LENGTH - 1).collect();
    let name = name.trim_end_matches('-');
    if name.is_empty() { format!("upstream-{hash}") } else { format!("{name}-{hash}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(followed: &[(&str, &str)], declared: &[&str]) -> Vec<String> {
        let followed: Vec<FollowedTag> = followed
            .iter()
            .map(|(repository, tag)| FollowedTag {
                repository: (*repository).into(),
                tag: (*tag).into(),
            })
            .collect();
        let names = upstream_names(followed.iter(), declared.iter().copied());
        followed.iter().map(|followed| names[followed].clone()).collect()
    }

    #[test]
    fn a_name_is_the_reference_as_a_label() {
        for (repository, tag, expected) in [
            ("docker.io/library/alpine", "3.20", "alpine-3-20"),
            ("docker.io/library/alpine", "latest", "alpine"),
            ("ghcr.io/Team/app", "1_a", "ghcr-io-team-app-1-a"),
            ("localhost:5000/app", "v1", "localhost-5000-app-v1"),
        ] {
            assert_eq!(names(&[(repository, tag)], &[]), [expected]);
        }
    }

    #[test]
    fn equal_and_long_names_end_with_a_hash() {
        let clashing = [("docker.io/library/a", "1.2"), ("docker.io/library/a", "1-2")];
        let both = names(&clashing, &[]);
        assert_ne!(both[0], both[1]);
        assert!(both.iter().all(|name| name.starts_with("a-1-2-")), "{both:?}");
        assert_eq!(names(&[clashing[0]], &[]), ["a-1-2"]);
        assert_eq!(names(&[clashing[0]], &["a-1-2"]), [both[0].clone()]);
        let long = "a".repeat(100);
        let name = names(&[(&format!("r.example.com/{long}"), &long)], &[]).remove(0);
        assert_eq!(name.len(), MAX_NAME);
        assert!(name.starts_with("r-example-com-aaa"), "{name}");
    }
}
