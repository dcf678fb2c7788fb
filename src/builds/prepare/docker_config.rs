//! Merges the credentials of a build into the single `config.json` that builders read.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    api::{CredentialUse, RegistryCredential},
    builds::prepare::{
        PodPaths, buildkitd, disk_error,
        error::{PrepareError, PrepareReason},
        spec::PrepareSpec,
    },
    registry::{Config, Keychain, Reference, SecretForm, SecretPayload},
};

/// Maximum number of bytes that are read of a Secret, one more than a [`Keychain`] accepts.
const MAX_SECRET_READ: u64 = (1 << 20) + 1;

/// Who can read the file inside of the pod. Nobody outside of the pod can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::builds) enum ConfigAccess {
    /// Only the user that writes it.
    OwnerOnly,
    /// Every user.
    AllUsers,
}

/// Merges the mounted Secrets and writes the file, which only its owner can read. It contains the
/// credentials for what the build pulls and pushes, and no others: a command of a Dockerfile cannot
/// read the file, but a builder might be tricked into disclosing it. Returns all of the
/// credentials.
pub(super) fn write(
    spec: &PrepareSpec,
    registries: &Config,
    paths: &PodPaths,
) -> Result<Keychain, PrepareError> {
    let keychain = merge(&spec.credentials, &paths.credentials)?;
    let images = images(spec, registries);
    let wanted = || images.iter().map(|(image, wanted)| (image, *wanted));
    for repository in keychain.hidden_by_host(wanted()) {
        tracing::warn!(
            repository,
            "the credential of this repository differs from that of another image on its host; \
             BuildKit uses one credential per host, and that is the one of the other image"
        );
    }
    write_file(&keychain.docker_config(wanted()), &paths.docker_config, ConfigAccess::OwnerOnly)?;
    Ok(keychain)
}

/// Returns the credentials of these Secrets. Each is mounted in a folder named by its index. As for
/// the kubelet, one that does not exist does not affect the others.
pub(in crate::builds) fn merge(
    credentials: &[RegistryCredential],
    mounted: &Path,
) -> Result<Keychain, PrepareError> {
    let mut secrets = Vec::new();
    for (index, credential) in credentials.iter().enumerate() {
        let folder = mounted.join(index.to_string());
        let found = SecretForm::find(|form| read(&folder.join(mounted_name(form))));
        if let Some((form, value)) = found {
            secrets.push((credential, form, value));
        } else {
            tracing::warn!("{}; it is not used", not_mounted(credential));
        }
    }
    if let (true, Some(first)) = (secrets.is_empty(), credentials.first()) {
        return Err(PrepareError::new(PrepareReason::InvalidSecret, not_mounted(first)));
    }
    let payloads =
        secrets.iter().map(|(known, form, value)| (*known, SecretPayload { form: *form, value }));
    Keychain::from_credentials(payloads)
        .map_err(|error| PrepareError::new(PrepareReason::InvalidSecret, error.to_string()))
}

/// Returns the name of the file that the value of a Secret is mounted as.
pub(in crate::builds) const fn mounted_name(form: SecretForm) -> &'static str {
    match form {
        SecretForm::DockerConfigJson => "config.json",
        SecretForm::DockerCfg => "dockercfg",
    }
}

/// Reads a mounted value; `None` if it is not mounted.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_SECRET_READ).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn not_mounted(credential: &RegistryCredential) -> String {
    let [key, old_key] = SecretForm::ALL.map(SecretForm::key);
    format!(
        "Secret `{}`, which `spec.credentials` names, does not exist or has neither of the keys \
         `{key}` and `{old_key}`",
        credential.name
    )
}

/// Writes a Docker configuration into a folder that has none yet.
pub(in crate::builds) fn write_file(
    config: &SecretString,
    folder: &Path,
    access: ConfigAccess,
) -> Result<(), PrepareError> {
    let path = folder.join("config.json");
    let mode = match access {
        ConfigAccess::OwnerOnly => 0o600,
        ConfigAccess::AllUsers => 0o644,
    };
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).and_then(
        |mut file| {
            // The umask of the process may have removed bits.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(config.expose_secret().as_bytes())
        },
    );
    written.map_err(|error| disk_error(&path, &error))
}

/// Returns what the build pushes, what it pulls, and what it may pull from mirrors instead.
fn images(spec: &PrepareSpec, registries: &Config) -> Vec<(Reference, CredentialUse)> {
    let parents = spec.parents.iter().filter_map(|parent| parent.pinned.parse().ok());
    let parents = parents.map(|parent| (parent, CredentialUse::Pull));
    let pushed = spec.image.parse().into_iter().map(|image| (image, CredentialUse::Push));
    let named: Vec<(Reference, CredentialUse)> = pushed.chain(parents).collect();
    let mirrored: Vec<(Reference, CredentialUse)> = named
        .iter()
        .flat_map(|(image, _)| {
            let mirrors = buildkitd::mirrors(registries, image.registry());
            mirrors.into_iter().map(|mirror| buildkitd::mirrored_name(&mirror, image.path()))
        })
        .filter_map(|text| Some((text.parse().ok()?, CredentialUse::Pull)))
        .collect();
    named.into_iter().chain(mirrored).collect()
}
