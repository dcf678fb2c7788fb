//! The init container of a check in another image, from the operator's own image:
//! `groundswell credentials`.
//!
//! It writes a Docker configuration with the credential for the new image, which cannot push, and
//! no other. A scanner needs a single file, whereas a family may have several Secrets, which may
//! contain credentials for many other repositories.

use std::{ffi::OsString, path::Path, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::{
    api::{CredentialUse, RegistryCredential},
    builds::{
        pod_paths,
        prepare::{
            docker_config::{self, ConfigAccess},
            error::{PrepareError, PrepareReason},
        },
    },
    registry::{CaBundle, Reference},
};

/// The operator's subcommand, and the name of the container that runs it.
pub const SUBCOMMAND: &str = "credentials";
/// The environment variable with the [`CredentialsSpec`], as JSON.
pub const CREDENTIALS_VARIABLE: &str = "GROUNDSWELL_CREDENTIALS";

/// The input of the init container. It never contains a secret: Secrets are mounted.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CredentialsSpec {
    /// The image that the check inspects.
    pub image: String,
    /// The Secrets with registry credentials, in the order in which they are mounted. None of them
    /// can push.
    pub credentials: Vec<RegistryCredential>,
    /// Private certificate authorities in PEM; empty without any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_bundle: String,
}

impl CredentialsSpec {
    /// Returns the value of [`CREDENTIALS_VARIABLE`]. It contains no `$`, because the kubelet would
    /// expand it.
    #[must_use]
    pub fn to_variable(&self) -> String {
        serde_json::to_string(self).unwrap_or_default().replace('$', "\\u0024")
    }
}

/// Runs the subcommand: writes the Docker configuration, or else the error as the termination
/// message.
#[must_use]
pub fn main() -> ExitCode {
    let root = Path::new("/");
    match write_config(std::env::var_os(CREDENTIALS_VARIABLE), root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(&root.join("dev/termination-log")),
    }
}

/// Writes the Docker configuration for the spec in the variable. All paths are under `root`.
fn write_config(variable: Option<OsString>, root: &Path) -> Result<(), PrepareError> {
    let broken = |problem: &str| {
        PrepareError::new(
            PrepareReason::InfrastructureFailed,
            format!("{CREDENTIALS_VARIABLE}: {problem}"),
        )
    };
    let variable = variable.and_then(|value| value.into_string().ok()).ok_or_else(|| {
        broken("the variable is not set; only the controller runs this command, in a check's pod")
    })?;
    let spec: CredentialsSpec =
        serde_json::from_str(&variable).map_err(|error| broken(&error.to_string()))?;
    let image: Reference =
        spec.image.parse().map_err(|error| broken(&format!("`image`: {error}")))?;
    let under_root = |path: &str| root.join(path.trim_start_matches('/'));
    write_authorities(&spec, root)?;
    let keychain = docker_config::merge(&spec.credentials, &under_root(pod_paths::CREDENTIALS))?;
    // The check's image may run as any user. No other pod can read the file.
    docker_config::write_file(
        &keychain.docker_config([(&image, CredentialUse::Pull)]),
        &under_root(pod_paths::DOCKER_CONFIG),
        ConfigAccess::AllUsers,
    )
}

/// Writes the private certificate authorities together with those of the operator's image.
fn write_authorities(spec: &CredentialsSpec, root: &Path) -> Result<(), PrepareError> {
    if spec.ca_bundle.is_empty() {
        return Ok(());
    }
    let failed = |problem: String| {
        let message = format!("the operator's bundle of certificates: {problem}");
        PrepareError::new(PrepareReason::InfrastructureFailed, message)
    };
    let bundle = CaBundle::parse(&spec.ca_bundle).map_err(|error| failed(error.to_string()))?;
    let path = root.join(pod_paths::CHECK_TRUST_FILE.trim_start_matches('/'));
    bundle.write_with_system(root, &path).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn variable(image: &str) -> OsString {
        let credentials = vec![RegistryCredential::unrestricted("all")];
        let spec = CredentialsSpec { image: image.into(), credentials, ca_bundle: String::new() };
        spec.to_variable().into()
    }

    #[test]
    fn the_private_authorities_are_written_with_those_of_the_image() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("etc/ssl/certs")).expect("a folder");
        fs::create_dir(root.path().join("docker-config")).expect("a folder");
        let system = root.path().join("etc/ssl/certs/ca-certificates.crt");
        fs::write(system, "of the system\n").expect("a file");
        let certificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
        let spec = CredentialsSpec {
            image: "registry.example.com/team/pyenv:1".into(),
            credentials: Vec::new(),
            ca_bundle: certificate.into(),
        };
        write_config(Some(spec.to_variable().into()), root.path()).expect("written");
        let written = fs::read_to_string(root.path().join("docker-config/ca-certificates.crt"));
        let written = written.expect("a file");
        assert!(written.contains("of the system") && written.contains("MA=="), "{written}");
    }

    #[test]
    fn only_the_credential_of_the_new_image_is_written() {
        let root = tempfile::tempdir().expect("a folder");
        let secret = r#"{"auths": {"registry.example.com/team": {"auth": "bWU6bWluZQ=="},
            "other.example.com": {"auth": "bWU6dGhlaXJz"}}}"#;
        fs::create_dir_all(root.path().join("credentials/0")).expect("a folder");
        fs::create_dir(root.path().join("docker-config")).expect("a folder");
        fs::write(root.path().join("credentials/0/config.json"), secret).expect("a Secret");

        write_config(
            Some(variable(concat!(
                "registry.example.com/team/pyenv@sha256:",
                "0123456789012345678901234567890123456789012345678901234567890123"
            ))),
            root.path(),
        )
        .expect("written");
        let path = root.path().join("docker-config/config.json");
        let written = fs::read_to_string(&path).expect("a file");
        assert_eq!(written, r#"{"auths":{"registry.example.com":{"auth":"bWU6bWluZQ=="}}}"#);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "the check's user is not known");
    }

    #[test]
    fn a_missing_input_is_reported() {
        let root = tempfile::tempdir().expect("a folder");
        let error = write_config(Some(variable("registry.example.com/a")), root.path())
            .expect_err("no Secret");
        assert_eq!(error.reason, PrepareReason::InvalidSecret);
        assert!(error.message.contains("Secret `all`"), "{}", error.message);
        assert_eq!(
            write_config(None, root.path()).expect_err("no variable").reason,
            PrepareReason::InfrastructureFailed
        );
        assert_eq!(
            write_config(Some(variable("A")), root.path()).expect_err("no image").reason,
            PrepareReason::InfrastructureFailed
        );
    }
}
