//! Credentials for registries, from Secrets of the types `kubernetes.io/dockerconfigjson` and
//! `kubernetes.io/dockercfg`.
//!
//! A [`Keychain`] contains the credentials of one namespace's Secrets and finds the one for an
//! image as the kubelet does. This module never runs a program: `credsStore` and `credHelpers` name
//! programs that the author of a Secret chose, and are ignored. Passwords are kept in
//! `SecretString`s and appear in no `Debug` output, error or log.

mod decoded_text;
mod docker_config;
mod identity;
mod redaction;
mod scope;

use std::{collections::BTreeMap, fmt, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    api::{CredentialUse, RegistryCredential, condition::Reason},
    registry::{
        Reference,
        credentials::{redaction::Redaction, scope::CredentialScope},
    },
};

pub use crate::registry::credentials::{
    docker_config::{SecretForm, SecretPayload},
    identity::CredentialIdentity,
};

/// Maximum size of one Secret's payload in bytes, the same as the API server's limit.
const MAX_SECRET_BYTES: usize = 1024 * 1024;
/// Maximum number of entries of a keychain. A lookup scans them all.
const MAX_ENTRIES: usize = 1024;

/// Maximum number of credentials that are tried for one repository.
const MAX_CANDIDATES: usize = 8;

/// The credentials of one namespace's Secrets. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Keychain(Arc<KeychainContent>);

#[derive(Default)]
struct KeychainContent {
    /// The entries, the most specific first.
    entries: Vec<KeychainEntry>,
    /// The Secrets and the entries that cannot be used.
    ignored: Vec<SecretError>,
    /// Finds the credentials in texts.
    redaction: Redaction,
}

/// The credential that is sent to a registry.
#[derive(Clone)]
pub(super) enum Credential {
    /// A user name and a password.
    Password { username: String, password: SecretString },
    /// A refresh token that the registry's token service exchanges for access tokens.
    IdentityToken { username: String, token: SecretString },
    /// A token that is sent to the registry as it is.
    RegistryToken { token: SecretString },
}

impl Credential {
    /// Returns the part of the credential that must not appear in any message.
    pub(super) fn secret(&self) -> &str {
        match self {
            Self::Password { password, .. } => password.expose_secret(),
            Self::IdentityToken { token, .. } | Self::RegistryToken { token } => {
                token.expose_secret()
            }
        }
    }

    /// Returns the parts that distinguish the credential from others.
    fn parts(&self) -> [&[u8]; 3] {
        match self {
            Self::Password { username, password } => {
                [b"password", username.as_bytes(), password.expose_secret().as_bytes()]
            }
            Self::IdentityToken { username, token } => {
                [b"token", username.as_bytes(), token.expose_secret().as_bytes()]
            }
            Self::RegistryToken { token } => {
                [b"registry token", b"", token.expose_secret().as_bytes()]
            }
        }
    }
}

/// A credential and the images that it applies to.
struct KeychainEntry {
    scope: CredentialScope,
    credential: Credential,
    /// What the entry's Secret is used for.
    uses: Vec<CredentialUse>,
}

/// The error for a Secret that cannot be used. The messages name the Secret and quote only host
/// names of its content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    /// The payload is too large.
    #[error("Secret {secret}: {key} has {bytes} bytes, more than the maximum of 1 MiB")]
    TooLarge {
        /// The Secret's name.
        secret: String,
        /// The key of its data.
        key: &'static str,
        /// The size of the payload in bytes.
        bytes: usize,
    },
    /// The payload is not JSON, or does not have the structure of a Docker configuration.
    #[error(
        "Secret {secret}: {key} is not a Docker configuration (line {line}, column {column}); \
         create it with `kubectl create secret docker-registry`"
    )]
    Malformed {
        /// The Secret's name.
        secret: String,
        /// The key of its data.
        key: &'static str,
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// The entry of a host cannot be used.
    #[error("Secret {secret}: {entries}[{host}] {problem}")]
    Entry {
        /// The Secret's name.
        secret: String,
        /// The list that has the entry.
        entries: &'static str,
        /// The key of the entry.
        host: String,
        /// What is wrong with the entry: a predicate whose subject is the entry.
        problem: &'static str,
    },
    /// The Secret contains no credential.
    #[error(
        "Secret {secret}: {key} has no credential; credential helpers (credsStore, credHelpers) \
         are ignored"
    )]
    Empty {
        /// The Secret's name.
        secret: String,
        /// The key of its data.
        key: &'static str,
    },
    /// The Secrets together have too many entries.
    #[error(
        "Secret {secret}: the family's Secrets up to this one have more than {MAX_ENTRIES} entries"
    )]
    TooMany {
        /// The Secret's name.
        secret: String,
    },
}

impl SecretError {
    /// Returns the reason for conditions and Events.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::InvalidSecret
    }
}

impl Keychain {
    /// Reads the credentials of these Secrets, given as name and value of the key
    /// `.dockerconfigjson`. All of them are used to pull and to push.
    pub fn from_secrets<'a>(
        secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, SecretError> {
        let secrets = secrets.into_iter();
        let both: Vec<_> = secrets
            .map(|(name, payload)| (RegistryCredential::unrestricted(name), payload))
            .collect();
        Self::from_credentials(both.iter().map(|(credential, value)| {
            (credential, SecretPayload { form: SecretForm::DockerConfigJson, value })
        }))
    }

    /// Reads the credentials of these Secrets. A Secret that cannot be used does not affect the
    /// others.
    ///
    /// If several entries match an image, the one with the longest path wins, then the one with the
    /// fewest wildcards, then the one with the longest host, then one that cannot push, then the
    /// one of the first Secret.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the first Secret if none can be used, and an error if they have
    /// too many entries.
    pub fn from_credentials<'a>(
        secrets: impl IntoIterator<Item = (&'a RegistryCredential, SecretPayload<'a>)>,
    ) -> Result<Self, SecretError> {
        let (mut entries, mut ignored) = (Vec::new(), Vec::new());
        for (RegistryCredential { name, uses }, payload) in secrets {
            let parsed = match docker_config::parse(name, payload) {
                Ok(parsed) => parsed,
                Err(error) => {
                    ignored.push(error);
                    continue;
                }
            };
            ignored.extend(parsed.ignored);
            ignored.truncate(MAX_ENTRIES);
            let parsed = parsed.entries.into_iter();
            entries.extend(parsed.map(|entry| KeychainEntry { uses: uses.clone(), ..entry }));
            if entries.len() > MAX_ENTRIES {
                return Err(SecretError::TooMany { secret: name.clone() });
            }
        }
        if entries.is_empty() && !ignored.is_empty() {
            return Err(ignored.swap_remove(0));
        }
        // The sort is stable, so equal ranks keep the order of the Secrets.
        entries.sort_by_key(|entry: &KeychainEntry| {
            (entry.scope.rank(), entry.uses.contains(&CredentialUse::Push))
        });
        let redaction = Redaction::of(&entries);
        Ok(Self(Arc::new(KeychainContent { entries, ignored, redaction })))
    }

    /// Returns the Secrets and the entries that cannot be used, each with what is wrong with it.
    /// They do not affect the others.
    #[must_use]
    pub fn ignored(&self) -> &[SecretError] {
        &self.0.ignored
    }

    /// Returns a Docker configuration for builders with only the credentials for these images and
    /// what is done with them.
    ///
    /// `BuildKit` looks credentials up by host alone, so that it uses the credential of the first
    /// image of a host. If another image of that host has a different one, that is written under
    /// the image's repository as well, for builders that look it up there.
    #[must_use]
    pub fn docker_config<'a>(
        &self,
        images: impl IntoIterator<Item = (&'a Reference, CredentialUse)>,
    ) -> SecretString {
        let mut auths: BTreeMap<String, &Credential> = BTreeMap::new();
        for (image, wanted) in images {
            let Some(credential) = self.lookup(image.registry(), image.path(), wanted) else {
                continue;
            };
            let of_host =
                auths.entry(docker_config::auth_key(image.registry()).into()).or_insert(credential);
            if of_host.parts() != credential.parts() {
                auths.entry(image.repository()).or_insert(credential);
            }
        }
        docker_config::render(&auths)
    }

    /// Returns the repositories whose credentials a builder that looks them up by host alone does
    /// not find, because another image of the host has a different one.
    #[must_use]
    pub fn hidden_by_host<'a>(
        &self,
        images: impl IntoIterator<Item = (&'a Reference, CredentialUse)>,
    ) -> Vec<String> {
        let mut by_host: BTreeMap<&str, &Credential> = BTreeMap::new();
        let mut hidden = Vec::new();
        for (image, wanted) in images {
            let Some(credential) = self.lookup(image.registry(), image.path(), wanted) else {
                continue;
            };
            let of_host = by_host.entry(image.registry()).or_insert(credential);
            if of_host.parts() != credential.parts() {
                hidden.push(image.repository());
            }
        }
        hidden
    }

    /// Returns the most specific credential for a repository.
    pub(super) fn lookup(
        &self,
        registry: &str,
        path: &str,
        wanted: CredentialUse,
    ) -> Option<&Credential> {
        self.matching(registry, path, wanted).next()
    }

    /// Returns the different credentials for a repository in the order in which they are tried.
    pub(super) fn candidates(
        &self,
        registry: &str,
        path: &str,
        wanted: CredentialUse,
    ) -> Vec<&Credential> {
        let mut candidates: Vec<&Credential> = Vec::new();
        for credential in self.matching(registry, path, wanted) {
            if candidates.iter().all(|known| known.parts() != credential.parts()) {
                candidates.push(credential);
            }
            if candidates.len() == MAX_CANDIDATES {
                break;
            }
        }
        candidates
    }

    fn matching(
        &self,
        registry: &str,
        path: &str,
        wanted: CredentialUse,
    ) -> impl Iterator<Item = &Credential> {
        let entries = self.0.entries.iter();
        entries
            .filter(move |entry| {
                entry.uses.contains(&wanted) && entry.scope.matches(registry, path)
            })
            .map(|entry| &entry.credential)
    }

    /// Returns the identity of the credentials that these registries may receive for a repository.
    pub(super) fn identity<'r>(
        &self,
        registries: impl IntoIterator<Item = &'r str>,
        path: &str,
        wanted: CredentialUse,
    ) -> CredentialIdentity {
        let registries = registries.into_iter();
        CredentialIdentity::of_all(
            registries.map(|registry| self.candidates(registry, path, wanted).into_iter()),
        )
    }
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.entries.iter().map(|entry| &entry.scope)).finish()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

#[cfg(test)]
mod tests;
