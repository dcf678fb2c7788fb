//! The first step of a check in another image, from the operator's own image:
//! `groundswell credentials`.
//!
//! It writes a Docker configuration with the credential for the new image and no other: a scanner
//! needs one file, a family may have several Secrets, and those may hold credentials for much else.

use std::{ffi::OsString, fs, path::Path, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::{
    builds::{
        prepare::{
            docker_config::{self, ConfigAccess},
            error::{PrepareError, PrepareReason},
        },
        source,
    },
    registry::Reference,
};

/// The operator's subcommand, and the name of the container that runs it.
pub const SUBCOMMAND: &str = "credentials";
/// The environment variable that holds the specification, as JSON.
pub const VARIABLE: &str = "GROUNDSWELL_CREDENTIALS";

/// What the step is told. Never a secret: those are mounted.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CredentialsSpec {
    /// The image that is looked at.
    pub image: String,
    /// Names of the Secrets with registry credentials, in the order in which they are mounted.
    pub credentials: Vec<String>,
}

impl CredentialsSpec {
    /// The value of [`VARIABLE`]. It has no `$`, which the kubelet would expand.
    #[must_use]
    pub fn to_variable(&self) -> String {
        serde_json::to_string(self).unwrap_or_default().replace('$', "\\u0024")
    }
}

/// The subcommand: writes the file, and on a refusal the termination message.
#[must_use]
pub fn main() -> ExitCode {
    let root = Path::new("/");
    let Err(refusal) = write(std::env::var_os(VARIABLE), root) else { return ExitCode::SUCCESS };
    tracing::error!(reason = refusal.reason.as_str(), "{}", refusal.message);
    if let Err(error) = fs::write(root.join("dev/termination-log"), refusal.write()) {
        tracing::error!(%error, "the termination message can't be written");
    }
    ExitCode::FAILURE
}

/// Writes the file for what the variable says; all paths are under `root`.
fn write(variable: Option<OsString>, root: &Path) -> Result<(), PrepareError> {
    let broken = |problem: &str| {
        PrepareError::new(PrepareReason::InfrastructureFailed, format!("{VARIABLE}: {problem}"))
    };
    let variable = variable.and_then(|value| value.into_string().ok()).ok_or_else(|| {
        broken("it is not set: this step is started by the controller, in a check's pod")
    })?;
    let specification: CredentialsSpec =
        serde_json::from_str(&variable).map_err(|error| broken(&error.to_string()))?;
    let image: Reference =
        specification.image.parse().map_err(|error| broken(&format!("`image`: {error}")))?;
    let place = |path: &str| root.join(path.trim_start_matches('/'));
    let keychain = docker_config::merge(&specification.credentials, &place(source::CREDENTIALS))?;
    // Whatever user the check's image runs as reads it; no other pod can.
    docker_config::put(
        &keychain.docker_config([&image]),
        &place(source::DOCKER_CONFIG),
        ConfigAccess::AllUsers,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn specified(image: &str) -> OsString {
        let specification =
            CredentialsSpec { image: image.into(), credentials: vec!["all".into()] };
        specification.to_variable().into()
    }

    #[test]
    fn only_the_images_own_credential_is_shown() {
        let root = tempfile::tempdir().expect("a folder");
        let secret = r#"{"auths": {"registry.example.com/team": {"auth": "bWU6bWluZQ=="}, "other.example.com": {"auth": "bWU6dGhlaXJz"}}}"#;
        fs::create_dir_all(root.path().join("credentials/0")).expect("a folder");
        fs::create_dir(root.path().join("docker-config")).expect("a folder");
        fs::write(root.path().join("credentials/0/config.json"), secret).expect("a Secret");

        write(Some(specified("registry.example.com/team/pyenv@sha256:0123456789012345678901234567890123456789012345678901234567890123")), root.path()).expect("written");
        let path = root.path().join("docker-config/config.json");
        let written = fs::read_to_string(&path).expect("a file");
        assert_eq!(written, r#"{"auths":{"registry.example.com":{"auth":"bWU6bWluZQ=="}}}"#);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "the check's user is not known");
    }

    #[test]
    fn what_is_missing_is_told() {
        let root = tempfile::tempdir().expect("a folder");
        let refusal =
            write(Some(specified("registry.example.com/a")), root.path()).expect_err("no Secret");
        assert_eq!(refusal.reason, PrepareReason::InvalidSecret);
        assert!(refusal.message.contains("Secret all"), "{}", refusal.message);
        assert_eq!(
            write(None, root.path()).expect_err("no variable").reason,
            PrepareReason::InfrastructureFailed
        );
        assert_eq!(
            write(Some(specified("A")), root.path()).expect_err("no image").reason,
            PrepareReason::InfrastructureFailed
        );
    }
}
