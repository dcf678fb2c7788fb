//! The files of a `ConfigMap` source, and their hash. The controller and `prepare` share them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{api::ConfigMapItem, builds::pod_paths::DOCKERFILE};

/// A file of a build context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile<'a> {
    /// The path of the file in the build context.
    pub path: &'a str,
    /// Whether the file is executable.
    pub executable: bool,
    /// The content of the file.
    pub content: &'a [u8],
}

/// Why a `ConfigMap` cannot be used as a source.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigMapError {
    /// An item of the source names a key that the `ConfigMap` does not have.
    #[error("the ConfigMap has no key `{0}`, but `source.configMap.items` names it")]
    MissingKey(String),
    /// No file of the source is named `Dockerfile`.
    #[error("the ConfigMap has no key `Dockerfile`, and no item has that path")]
    NoDockerfile,
}

/// Returns the files that a `ConfigMap` becomes, sorted by path.
///
/// # Errors
/// Returns an error if an item names a missing key, or if no file is named `Dockerfile`.
pub fn config_map_files<'a>(
    content: &'a BTreeMap<String, Vec<u8>>,
    items: &'a [ConfigMapItem],
) -> Result<Vec<ContextFile<'a>>, ConfigMapError> {
    let mut files = if items.is_empty() {
        content
            .iter()
            .map(|(path, content)| ContextFile { path, executable: false, content })
            .collect::<Vec<_>>()
    } else {
        items
            .iter()
            .map(|item| {
                let content = content
                    .get(&item.key)
                    .ok_or_else(|| ConfigMapError::MissingKey(item.key.clone()))?;
                Ok(ContextFile { path: &item.path, executable: item.executable, content })
            })
            .collect::<Result<_, ConfigMapError>>()?
    };
    files.sort_by_key(|file| file.path);
    if files.iter().any(|file| file.path == DOCKERFILE) {
        Ok(files)
    } else {
        Err(ConfigMapError::NoDockerfile)
    }
}

/// Returns the revision of a `ConfigMap` source: a hash of the files that it becomes. A key that no
/// item names does not change it. `data` and `binary_data` are the fields of the `ConfigMap`.
///
/// # Errors
/// Returns the same errors as [`config_map_files`].
pub fn config_map_hash(
    data: &BTreeMap<String, String>,
    binary_data: &BTreeMap<String, Vec<u8>>,
    items: &[ConfigMapItem],
) -> Result<String, ConfigMapError> {
    let text = data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let content = binary_data.clone().into_iter().chain(text).collect();
    Ok(files_hash(&config_map_files(&content, items)?))
}

/// Returns the SHA-256 of a list of files as 64 hexadecimal digits. It covers the path, the mode
/// and the content of each file, with the lengths of path and content.
#[must_use]
pub fn files_hash(files: &[ContextFile<'_>]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.path.len() as u64).to_be_bytes());
        hash.update(file.path);
        hash.update([u8::from(file.executable)]);
        hash.update((file.content.len() as u64).to_be_bytes());
        hash.update(file.content);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, path: &str) -> ConfigMapItem {
        ConfigMapItem { key: key.into(), path: path.into(), executable: false }
    }

    #[test]
    fn the_hash_covers_the_files_and_nothing_else() {
        let data =
            BTreeMap::from([("Dockerfile".into(), "FROM a".into()), ("run".into(), "x".into())]);
        let none = BTreeMap::new();
        let plain = config_map_hash(&data, &none, &[]).expect("plain");
        let binary = BTreeMap::from([
            ("Dockerfile".into(), b"FROM a".to_vec()),
            ("run".into(), b"x".to_vec()),
        ]);
        assert_eq!(config_map_hash(&BTreeMap::new(), &binary, &[]).expect("binary"), plain);

        let executable = ConfigMapItem { executable: true, ..item("run", "bin/run") };
        let items = [executable, item("Dockerfile", "Dockerfile")];
        let chosen = config_map_hash(&data, &none, &items).expect("items");
        assert_ne!(chosen, plain);
        let mut more = data.clone();
        more.insert("other".into(), "y".into());
        assert_eq!(config_map_hash(&more, &none, &items).expect("more"), chosen);
        let changed = [item("run", "bin/run"), item("Dockerfile", "Dockerfile")];
        assert_ne!(config_map_hash(&data, &none, &changed).expect("mode"), chosen);
    }

    #[test]
    fn paths_and_contents_are_hashed_separately() {
        let file = |path, content: &'static str| ContextFile {
            path,
            executable: false,
            content: content.as_bytes(),
        };
        assert_ne!(
            files_hash(&[file("a", "b"), file("c", "d")]),
            files_hash(&[file("a", "bc"), file("", "d")])
        );
    }

    #[test]
    fn a_missing_key_or_dockerfile_is_an_error() {
        let content = BTreeMap::from([("a".to_owned(), Vec::new())]);
        assert_eq!(config_map_files(&content, &[]), Err(ConfigMapError::NoDockerfile));
        let items = [item("b", "Dockerfile")];
        assert_eq!(config_map_files(&content, &items), Err(ConfigMapError::MissingKey("b".into())));
    }
}
