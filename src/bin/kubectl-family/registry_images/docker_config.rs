//! The credentials of the user's Docker configuration.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use groundswell::registry::{Keychain, SecretError};
use serde::Deserialize;
use serde_json::Value;

use crate::output::note;

/// Maximum size of a Docker configuration in bytes.
const MAX_DOCKER_CONFIG_BYTES: u64 = 1 << 20;

/// The parts of a configuration that name programs with credentials. They are not run.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct CredentialPrograms {
    creds_store: Value,
    cred_helpers: Value,
}

/// Reads the credentials. Without a configuration, or in one without any, there are none:
/// registries are asked anonymously.
///
/// # Errors
///
/// Returns an error if the configuration cannot be read, or is none.
pub fn keychain(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Keychain> {
    let Some(path) = first_file(variable) else { return Ok(Keychain::default()) };
    let read = read(&path)?;
    for problem in &read.problems {
        note(problem);
    }
    Ok(read.keychain)
}

fn first_file(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let below = |variable: Option<String>, rest: &str| Some(PathBuf::from(variable?).join(rest));
    let places = [
        variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
        below(variable("DOCKER_CONFIG"), "config.json"),
        below(variable("HOME"), ".docker/config.json"),
        below(variable("XDG_RUNTIME_DIR"), "containers/auth.json"),
    ];
    places.into_iter().flatten().find(|path| path.is_file())
}

/// A configuration as far as it can be used.
#[derive(Debug)]
struct DockerConfigRead {
    keychain: Keychain,
    /// What is not used of it, each as a sentence.
    problems: Vec<String>,
}

fn read(path: &Path) -> anyhow::Result<DockerConfigRead> {
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("read {shown}"))?;
    file.take(MAX_DOCKER_CONFIG_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {shown}"))?;
    let mut problems = Vec::new();
    let keychain = match Keychain::from_secrets([(shown.as_str(), bytes.as_slice())]) {
        Ok(keychain) => {
            problems.extend(keychain.ignored().iter().map(|ignored| sentence(&shown, ignored)));
            keychain
        }
        Err(SecretError::Empty { .. }) => Keychain::default(),
        Err(unused @ SecretError::Entry { .. }) => {
            problems.push(sentence(&shown, &unused));
            Keychain::default()
        }
        Err(error) => bail!("{}", sentence(&shown, &error)),
    };
    if runs_programs(&bytes) {
        problems.push(format!(
            "{shown} keeps credentials in a program (credsStore, credHelpers), which is not run; \
             registries without an entry in `auths` are asked anonymously"
        ));
    }
    Ok(DockerConfigRead { keychain, problems })
}

fn runs_programs(bytes: &[u8]) -> bool {
    let programs: CredentialPrograms = serde_json::from_slice(bytes).unwrap_or_default();
    let names = |value: &Value| match value {
        Value::String(name) => !name.is_empty(),
        Value::Object(names) => !names.is_empty(),
        _ => false,
    };
    names(&programs.creds_store) || names(&programs.cred_helpers)
}

/// Returns what is wrong in the words of a user of Docker, who has no Secret.
fn sentence(path: &str, error: &SecretError) -> String {
    match error {
        SecretError::TooLarge { .. } => format!("{path} has more than 1 MiB"),
        SecretError::Malformed { line, column, .. } => {
            format!("{path} is no Docker configuration (line {line}, column {column})")
        }
        SecretError::Entry { entries, host, problem, .. } => {
            format!("{path}: {entries}[{host}] {problem}; it is not used")
        }
        SecretError::Empty { .. } => format!("{path} has no credential"),
        SecretError::TooMany { .. } => format!("{path} has too many entries"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the problems of a configuration, or the error.
    fn problems(text: &[u8]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).expect("a file");
        read(&file).map(|read| read.problems).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_first_configuration_that_exists_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().to_str().expect("a path").to_owned();
        let of = |name: &str| (name == "HOME").then(|| home.clone());
        assert!(keychain(of).is_ok(), "without a file");
        std::fs::create_dir(folder.path().join(".docker")).expect("a folder");
        let file = folder.path().join(".docker/config.json");
        std::fs::write(&file, "no JSON").expect("a file");
        assert!(keychain(of).is_err());
        let first = folder.path().join("first.json");
        std::fs::write(&first, "{}").expect("a file");
        let first = first.to_str().expect("a path").to_owned();
        let of =
            |name: &str| if name == "REGISTRY_AUTH_FILE" { Some(first.clone()) } else { of(name) };
        assert!(keychain(of).is_ok());
    }

    /// Docker writes all of these.
    #[test]
    fn a_configuration_without_credentials_is_fine() {
        for text in [
            "{}",
            r#"{"auths": {}}"#,
            r#"{"auths": {"r.example": {}}}"#,
            r#"{"auths": {"r.example": {"auth": "YTpi"}}}"#,
            r#"{"credsStore": "", "credHelpers": {}, "currentContext": "default"}"#,
        ] {
            assert_eq!(problems(text.as_bytes()), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn programs_are_not_run_and_named_once() {
        for text in [
            r#"{"credsStore": "desktop"}"#,
            r#"{"auths": {"r.example": {}}, "credHelpers": {"r.example": "gcloud"}}"#,
            r#"{"auths": {"r.example": {"auth": "YTpi"}}, "credsStore": "desktop"}"#,
        ] {
            let found = problems(text.as_bytes()).expect("it is usable");
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains("is not run"), "{found:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_docker() {
        let entry = problems(br#"{"auths": {"r.example": {"auth": "?"}}}"#).expect("it is usable");
        assert!(
            entry[0].contains("auths[r.example] has an `auth` that is not base64"),
            "{entry:?}"
        );
        let large = vec![b' '; 2 << 20];
        for (text, said) in
            [(&b"no JSON"[..], "no Docker configuration (line 1"), (&large, "1 MiB")]
        {
            let error = problems(text).expect_err("it is none");
            assert!(error.contains("config.json") && error.contains(said), "{error}");
            assert!(!error.contains("Secret"), "{error}");
        }
    }
}
