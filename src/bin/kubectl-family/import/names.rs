//! The names of images: DNS labels that follow from targets, services and folders.

use std::collections::BTreeMap;

use groundswell::api::dns_label::to_label;

use crate::import::{
    definition::{BuildDefinition, DockerfileOrigin},
    mapping::is_label,
};

/// Maximum length of the name of an image.
pub const MAX_NAME: usize = 63;

/// Returns the name of each build, or why it has none. Names are unique. `root` is the name of the
/// folder that is imported, for a Dockerfile in the root itself.
pub fn image_names(definitions: &[BuildDefinition], root: &str) -> Vec<Result<String, String>> {
    let parts: Vec<Vec<String>> =
        definitions.iter().map(|definition| name_parts(definition, root)).collect();
    let first: Vec<usize> = definitions
        .iter()
        .zip(&parts)
        .map(|(definition, parts)| first_part(definition, parts))
        .collect();
    let mut starts = first;
    // Names that are equal get more of their paths, until they differ or nothing is left.
    let names = loop {
        let names: Vec<String> = parts
            .iter()
            .zip(&starts)
            .map(|(parts, start)| to_label(&parts.get(*start..).unwrap_or_default().join("-")))
            .collect();
        let counts = counts(&names);
        let mut is_changed = false;
        for (name, start) in names.iter().zip(&mut starts) {
            if counts.get(name.as_str()).is_some_and(|count| *count > 1) && *start > 0 {
                *start -= 1;
                is_changed = true;
            }
        }
        if !is_changed {
            break names;
        }
    };
    let counts = counts(&names);
    names
        .iter()
        .map(|name| match counts.get(name.as_str()) {
            Some(1) => checked(name),
            count => Err(format!(
                "{} builds would have the name `{name}`; give each a name in the mapping",
                count.copied().unwrap_or_default()
            )),
        })
        .collect()
}

fn counts(names: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

fn checked(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err(
            "its path has no letters or digits for a DNS label; name it in the mapping".into()
        );
    }
    if !is_label(name, MAX_NAME) {
        return Err(format!(
            "`{name}` is too long for a DNS label of {MAX_NAME} characters; name it in the mapping"
        ));
    }
    Ok(name.to_owned())
}

/// Returns the parts from the end of which the name of a build is made.
fn name_parts(definition: &BuildDefinition, root: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        definition.context.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if let Some(name) = &definition.mapped.name {
        return vec![name.clone()];
    }
    if let Some(label) = &definition.label {
        parts.push(label.clone());
        return parts;
    }
    if parts.is_empty() {
        parts.push(root.to_owned());
    }
    if let DockerfileOrigin::File(file) = &definition.dockerfile {
        let (folder, file) = file.rsplit_once('/').unwrap_or(("", file));
        if !folder.is_empty() {
            parts.extend(folder.split('/').map(str::to_owned));
        }
        parts.extend(variant(file).map(str::to_owned));
    }
    parts.extend(definition.target.clone());
    parts
}

/// Returns what the name of a Dockerfile says in addition: `debug` for `Dockerfile.debug`.
fn variant(file: &str) -> Option<&str> {
    let known = ["dockerfile", "containerfile"];
    let (first, rest) = file.split_once('.')?;
    if known.contains(&first.to_ascii_lowercase().as_str()) {
        return Some(rest);
    }
    let (rest, last) = file.rsplit_once('.')?;
    known.contains(&last.to_ascii_lowercase().as_str()).then_some(rest)
}

/// Returns the index of the first part of the shortest name: the last one that is no version, and
/// everything that follows. A variant below a version is no name either.
fn first_part(definition: &BuildDefinition, parts: &[String]) -> usize {
    let last = parts.len().saturating_sub(1);
    if definition.mapped.name.is_some() || definition.label.is_some() {
        return last;
    }
    let version = parts.iter().position(|part| is_version(part));
    let of_context = definition.context.split('/').filter(|part| !part.is_empty()).count();
    let of_folder = of_context.saturating_sub(1).min(last);
    version.map_or(of_folder, |version| version.saturating_sub(1).min(of_folder))
}

/// Whether a text is a version: `3`, `3.12`, `v2.1-slim`.
pub fn is_version(text: &str) -> bool {
    let digits = text.strip_prefix('v').unwrap_or(text);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit());
    let first = digits.split(['.', '-', '_']).next().unwrap_or_default();
    is_number && digits.chars().all(is_allowed) && first.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[&str]) -> Vec<Result<String, String>> {
        let definitions: Vec<_> =
            paths.iter().map(|path| BuildDefinition::of_dockerfile(path)).collect();
        image_names(&definitions, "My Images")
    }

    #[test]
    fn a_name_is_the_end_of_the_path() {
        for (path, expected) in [
            ("images/base/Dockerfile", "base"),
            ("python/3.12/Dockerfile", "python-3-12"),
            ("python/3.12/slim/Dockerfile", "python-3-12-slim"),
            ("app/Dockerfile.debug", "app-debug"),
            ("app/debug.Dockerfile", "app-debug"),
            ("Dockerfile", "my-images"),
            ("Some_App/Containerfile", "some-app"),
        ] {
            assert_eq!(names(&[path]), [Ok(expected.to_owned())], "{path}");
        }
    }

    #[test]
    fn equal_names_get_more_of_their_paths() {
        let names = names(&["a/web/Dockerfile", "b/web/Dockerfile", "c/api/Dockerfile"]);
        assert_eq!(names, ["a-web", "b-web", "api"].map(|name| Ok(name.to_owned())));
    }

    #[test]
    fn a_build_without_a_name_is_named_with_its_reason() {
        let long = format!("{}/Dockerfile", "x".repeat(64));
        for (paths, problem) in [
            (vec!["日本/Dockerfile"], "no letters or digits"),
            (vec![long.as_str()], "too long"),
            (vec!["a-b/Dockerfile", "a_b/Dockerfile"], "2 builds would have the name `a-b`"),
        ] {
            let error = names(&paths).remove(0).expect_err(problem);
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn versions_are_recognized() {
        for version in ["3", "3.12", "v2.1", "3.12-slim", "20_1"] {
            assert!(is_version(version), "{version}");
        }
        for other in ["v", "slim", "alpine3.19", "3proxy", "2fa", ""] {
            assert!(!is_version(other), "{other}");
        }
    }
}
