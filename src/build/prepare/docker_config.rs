//! The credentials of a build, merged into the one `config.json` that builders read.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
};

use secrecy::ExposeSecret as _;

use super::{
    Places, buildkitd, disk,
    refusal::{Reason, Refusal},
    specification::Specification,
};
use crate::registry::{Config, Keychain, Reference};

/// The most bytes of a Secret that are read, one more than a [`Keychain`] takes.
const MAX_SECRET: u64 = (1 << 20) + 1;

/// Merges the mounted Secrets and writes the file, for its owner's eyes only. It has the credentials for what the build
/// pulls and pushes, and no others: a command of a Dockerfile can't see the file, but a builder might be made to.
pub(super) fn write(specification: &Specification, registries: &Config, places: &Places) -> Result<(), Refusal> {
    let mut secrets = Vec::new();
    for (index, name) in specification.credentials.iter().enumerate() {
        let path = places.credentials.join(index.to_string()).join("config.json");
        let mut bytes = Vec::new();
        fs::File::open(&path).and_then(|file| file.take(MAX_SECRET).read_to_end(&mut bytes)).map_err(|_| {
            let message = format!("Secret {name}, of `credentials`, is gone, or has no key .dockerconfigjson");
            Refusal::new(Reason::InvalidSecret, message)
        })?;
        secrets.push((name.as_str(), bytes));
    }
    let keychain = Keychain::from_secrets(secrets.iter().map(|(name, bytes)| (*name, bytes.as_slice())))
        .map_err(|error| Refusal::new(Reason::InvalidSecret, error.to_string()))?;
    let config = keychain.docker_config(&images(specification, registries));
    let path = places.docker_config.join("config.json");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(config.expose_secret().as_bytes()))
        .map_err(|error| disk(&path, &error))
}

/// What the build pushes, what it pulls, and what it may pull from mirrors instead.
fn images(specification: &Specification, registries: &Config) -> Vec<Reference> {
    let parents = specification.parents.iter().filter_map(|parent| parent.pinned.parse().ok());
    let named: Vec<Reference> = specification.image.parse().into_iter().chain(parents).collect();
    let mirrored: Vec<Reference> = named
        .iter()
        .flat_map(|image| {
            let mirrors = buildkitd::mirrors(registries, image.registry());
            mirrors.into_iter().map(|mirror| format!("{}/{}", buildkitd::authority(&mirror), image.path()))
        })
        .filter_map(|text| text.parse().ok())
        .collect();
    named.into_iter().chain(mirrored).collect()
}
