//! Where things lie in a build's pod, and what a source's content hashes to. Shared by the
//! controller and `prepare`.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::api::ConfigMapItem;

/// The folder that `prepare` and the builder share.
pub const WORKSPACE: &str = "/workspace";
/// The build context in it.
pub const CONTEXT: &str = "/workspace/context";
/// The folder with the merged `config.json`; `DOCKER_CONFIG` names it.
pub const DOCKER_CONFIG: &str = "/docker-config";
/// Where a `ConfigMap` source is mounted, for `prepare` only.
pub const CONFIG_MAP: &str = "/source";
/// Where a Git credential is mounted, for `prepare` only.
pub const GIT_SECRET: &str = "/git-credential";
/// The folder in which each registry credential is mounted under its number, for `prepare` only.
pub const CREDENTIALS: &str = "/credentials";
/// The name of a Dockerfile, where none is given.
pub const DOCKERFILE: &str = "Dockerfile";

/// A file of a build context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Its path in the context.
    pub path: &'a str,
    /// Whether it may be executed.
    pub executable: bool,
    /// Its content.
    pub content: &'a [u8],
}

/// Why a `ConfigMap` is not a source.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigMapError {
    /// An item names a key that does not exist.
    #[error("the ConfigMap has no key `{0}`, which an item of the source names")]
    MissingKey(String),
    /// There is no Dockerfile.
    #[error("the ConfigMap has no key `Dockerfile`, and no item with that path")]
    NoDockerfile,
}

/// The files that a `ConfigMap` becomes, sorted by path.
///
/// # Errors
/// An item names a missing key, or no file is named `Dockerfile`.
pub fn config_map_files<'a>(
    content: &'a BTreeMap<String, Vec<u8>>,
    items: &'a [ConfigMapItem],
) -> Result<Vec<File<'a>>, ConfigMapError> {
    let mut files = if items.is_empty() {
        content
            .iter()
            .map(|(path, content)| File { path, executable: false, content })
            .collect::<Vec<_>>()
    } else {
        items
            .iter()
            .map(|item| {
                let content = content
                    .get(&item.key)
                    .ok_or_else(|| ConfigMapError::MissingKey(item.key.clone()))?;
                Ok(File { path: &item.path, executable: item.executable, content })
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

/// The revision of a `ConfigMap` source: a hash of the files that it becomes, so that a key that no
/// item names changes nothing. `data` and `binary_data` are the object's fields.
///
/// # Errors
/// As [`config_map_files`].
pub fn config_map_hash(
    data: &BTreeMap<String, String>,
    binary_data: &BTreeMap<String, Vec<u8>>,
    items: &[ConfigMapItem],
) -> Result<String, ConfigMapError> {
    let text = data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let content = binary_data.clone().into_iter().chain(text).collect();
    Ok(files_hash(&config_map_files(&content, items)?))
}

/// The hash of a list of files: 64 hexadecimal digits over their paths, modes and contents, each
/// with its length.
#[must_use]
pub fn files_hash(files: &[File<'_>]) -> String {
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

    fn item(key: &str, path: &str, executable: bool) -> ConfigMapItem {
        ConfigMapItem { key: key.into(), path: path.into(), executable }
    }

    #[test]
    fn the_hash_is_of_the_files_and_of_nothing_else() {
        let data =
            BTreeMap::from([("Dockerfile".into(), "FROM a".into()), ("run".into(), "x".into())]);
        let none = BTreeMap::new();
        let plain = config_map_hash(&data, &none, &[]).expect("plain");
        let binary = BTreeMap::from([
            ("Dockerfile".into(), b"FROM a".to_vec()),
            ("run".into(), b"x".to_vec()),
        ]);
        assert_eq!(config_map_hash(&BTreeMap::new(), &binary, &[]).expect("binary"), plain);

        let items = [item("run", "bin/run", true), item("Dockerfile", "Dockerfile", false)];
        let chosen = config_map_hash(&data, &none, &items).expect("items");
        assert_ne!(chosen, plain);
        let mut more = data.clone();
        more.insert("other".into(), "y".into());
        assert_eq!(config_map_hash(&more, &none, &items).expect("more"), chosen);
        let changed = [item("run", "bin/run", false), item("Dockerfile", "Dockerfile", false)];
        assert_ne!(config_map_hash(&data, &none, &changed).expect("mode"), chosen);
    }

    #[test]
    fn names_and_contents_do_not_run_into_each_other() {
        let file = |path, content: &'static str| File {
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
    fn a_missing_key_or_dockerfile_is_told() {
        let content = BTreeMap::from([("a".to_owned(), Vec::new())]);
        assert_eq!(config_map_files(&content, &[]), Err(ConfigMapError::NoDockerfile));
        let items = [item("b", "Dockerfile", false)];
        assert_eq!(config_map_files(&content, &items), Err(ConfigMapError::MissingKey("b".into())));
    }
}
