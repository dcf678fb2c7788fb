//! Credentials for registries, from `kubernetes.io/dockerconfigjson` Secrets.
//!
//! A [`Keychain`] contains the credentials of one namespace's Secrets and finds the one for an
//! image as the kubelet does. This module never runs a program: `credsStore` and `credHelpers` name
//! programs that the author of a Secret chose, and are ignored. Passwords are kept in
//! `SecretString`s and appear in no `Debug` output, error or log.

mod docker_config;
mod scope;

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock},
};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

use crate::{
    api::{
        CredentialUse, RegistryCredential,
        condition::{Reason, reason},
    },
    registry::{Reference, credentials::scope::CredentialScope},
};

/// Maximum size of one Secret's payload in bytes, the same as the API server's limit.
const MAX_SECRET_BYTES: usize = 1024 * 1024;
/// Maximum number of entries of a keychain. A lookup scans them all.
const MAX_ENTRIES: usize = 1024;

/// The credentials of one namespace's Secrets. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Keychain(Arc<Vec<KeychainEntry>>);

/// The credential that is sent to a registry.
#[derive(Clone)]
pub(super) enum Credential {
    /// A user name and a password.
    Password { username: String, password: SecretString },
    /// A refresh token that the registry's token service exchanges for access tokens.
    IdentityToken { username: String, token: SecretString },
}

impl Credential {
    /// Returns the part of the credential that must not appear in any message.
    pub(super) fn secret(&self) -> &str {
        match self {
            Self::Password { password, .. } => password.expose_secret(),
            Self::IdentityToken { token, .. } => token.expose_secret(),
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

/// Distinguishes credentials without revealing them. It is equal for equal credentials within one
/// process. It is useless outside of the process, because every process uses a new random salt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialIdentity([u8; 16]);

/// The error for a Secret that cannot be used. The messages name the Secret and quote only host
/// names of its content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    /// The payload is too large.
    #[error("Secret {secret}: .dockerconfigjson has {bytes} bytes, more than the maximum of 1 MiB")]
    TooLarge {
        /// The Secret's name.
        secret: String,
        /// The size of the payload in bytes.
        bytes: usize,
    },
    /// The payload is not JSON, or does not have the structure of a Docker configuration.
    #[error(
        "Secret {secret}: .dockerconfigjson is not a Docker configuration (line {line}, column \
         {column}); create it with `kubectl create secret docker-registry`"
    )]
    Malformed {
        /// The Secret's name.
        secret: String,
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// The entry of a host cannot be used.
    #[error("Secret {secret}: auths[{host}] {problem}")]
    Entry {
        /// The Secret's name.
        secret: String,
        /// The key of the entry.
        host: String,
        /// What is wrong with the entry: a predicate whose subject is the entry.
        problem: &'static str,
    },
    /// The Secret contains no credential.
    #[error(
        "Secret {secret}: .dockerconfigjson has no credential under `auths`; credential helpers \
         (credsStore, credHelpers) are ignored"
    )]
    Empty {
        /// The Secret's name.
        secret: String,
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
        reason::INVALID_SECRET
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
        Self::from_credentials(both.iter().map(|(credential, payload)| (credential, *payload)))
    }

    /// Reads the credentials of these Secrets, given with the value of the key
    /// `.dockerconfigjson`.
    ///
    /// If several entries match an image, the one with the longest path wins, then the one with the
    /// fewest wildcards, then the one with the longest host, then one that cannot push, then the
    /// one of the first Secret.
    pub fn from_credentials<'a>(
        secrets: impl IntoIterator<Item = (&'a RegistryCredential, &'a [u8])>,
    ) -> Result<Self, SecretError> {
        let mut entries = Vec::new();
        for (RegistryCredential { name, uses }, payload) in secrets {
            let parsed = docker_config::parse(name, payload)?.into_iter();
            entries.extend(parsed.map(|entry| KeychainEntry { uses: uses.clone(), ..entry }));
            if entries.len() > MAX_ENTRIES {
                return Err(SecretError::TooMany { secret: name.clone() });
            }
        }
        // The sort is stable, so equal ranks keep the order of the Secrets.
        entries.sort_by_key(|entry: &KeychainEntry| {
            (entry.scope.rank(), entry.uses.contains(&CredentialUse::Push))
        });
        Ok(Self(Arc::new(entries)))
    }

    /// Returns a Docker configuration for builders with only the credentials for these images and
    /// what is done with them. Builders look credentials up by host alone: if two images on one
    /// host have different credentials, the first image's credential is used.
    #[must_use]
    pub fn docker_config<'a>(
        &self,
        images: impl IntoIterator<Item = (&'a Reference, CredentialUse)>,
    ) -> SecretString {
        let mut auths = BTreeMap::new();
        for (image, wanted) in images {
            if let Some(credential) = self.lookup(image.registry(), image.path(), wanted) {
                auths.entry(docker_config::auth_key(image.registry())).or_insert(credential);
            }
        }
        docker_config::render(&auths)
    }

    /// Returns the credential for a repository.
    pub(super) fn lookup(
        &self,
        registry: &str,
        path: &str,
        wanted: CredentialUse,
    ) -> Option<&Credential> {
        self.0
            .iter()
            .find(|entry| entry.uses.contains(&wanted) && entry.scope.matches(registry, path))
            .map(|entry| &entry.credential)
    }

    /// Returns the identity of the credentials that these registries would receive for a
    /// repository.
    pub(super) fn identity<'a>(
        &self,
        registries: impl IntoIterator<Item = &'a str>,
        path: &str,
        wanted: CredentialUse,
    ) -> CredentialIdentity {
        static SALT: OnceLock<[u64; 2]> = OnceLock::new();
        // RandomState is keyed from the operating system's randomness.
        let salt =
            SALT.get_or_init(|| [RandomState::new().hash_one(0), RandomState::new().hash_one(1)]);
        let mut hash = Sha256::new();
        let mut add_part = |part: &[u8]| {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        };
        for part in salt {
            add_part(&part.to_le_bytes());
        }
        for registry in registries {
            match self.lookup(registry, path, wanted) {
                None => add_part(b"anonymous"),
                Some(Credential::Password { username, password }) => {
                    [b"password", username.as_bytes(), password.expose_secret().as_bytes()]
                        .into_iter()
                        .for_each(&mut add_part);
                }
                Some(Credential::IdentityToken { username, token }) => {
                    [b"token".as_slice(), username.as_bytes(), token.expose_secret().as_bytes()]
                        .into_iter()
                        .for_each(&mut add_part);
                }
            }
        }
        let mut identity = [0; 16];
        identity.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        CredentialIdentity(identity)
    }
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|entry| &entry.scope)).finish()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

impl fmt::Debug for CredentialIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialIdentity(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(auths: &str) -> String {
        format!(r#"{{"auths":{{{auths}}}}}"#)
    }

    fn keychain(auths: &str) -> Keychain {
        Keychain::from_secrets([("s", secret(auths).as_bytes())]).expect(auths)
    }

    fn user(keychain: &Keychain, image: &str) -> Option<String> {
        let image: Reference = image.parse().expect(image);
        let found = keychain.lookup(image.registry(), image.path(), CredentialUse::Pull);
        found.map(|credential| match credential {
            Credential::Password { username, .. } | Credential::IdentityToken { username, .. } => {
                username.clone()
            }
        })
    }

    fn entry(key: &str, user: &str) -> String {
        format!(r#""{key}":{{"username":"{user}","password":"hunter2"}}"#)
    }

    #[test]
    fn the_longest_path_wins_then_the_fewest_wildcards_then_the_first_secret() {
        let first = secret(
            &[
                entry("*.example.com", "glob"),
                entry("r.example.com", "host"),
                entry("r.example.com/team", "team"),
            ]
            .join(","),
        );
        let second = secret(
            &[entry("r.example.com", "late"), entry("r.example.com/team/app", "app")].join(","),
        );
        let keychain = Keychain::from_secrets([("a", first.as_bytes()), ("b", second.as_bytes())])
            .expect("keychain");
        for (image, expected) in [
            ("r.example.com/other/x", Some("host")),
            ("r.example.com/team/x", Some("team")),
            ("r.example.com/team/app", Some("app")),
            ("q.example.com/team/app", Some("glob")),
            ("example.com/x/y", None),
            ("a.b.example.com/x/y", None),
            ("r.example.com:5000/x/y", None),
            ("alpine", None),
        ] {
            assert_eq!(user(&keychain, image).as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn all_names_of_docker_hub_are_equivalent() {
        for key in [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
            "https://registry-1.docker.io/v2/",
        ] {
            assert_eq!(
                user(&keychain(&entry(key, "hub")), "alpine").as_deref(),
                Some("hub"),
                "{key}"
            );
        }
    }

    #[test]
    fn identity_follows_the_credential_of_the_repository() {
        let identity =
            |keychain: &Keychain, path| keychain.identity(["r.example"], path, CredentialUse::Pull);
        let (a, b) = (keychain(&entry("r.example", "a")), keychain(&entry("r.example", "b")));
        assert_eq!(
            identity(&a, "x/y"),
            identity(&keychain(&entry("https://r.example/v1/", "a")), "other")
        );
        assert_ne!(identity(&a, "x/y"), identity(&b, "x/y"));
        assert_ne!(identity(&a, "x/y"), identity(&Keychain::default(), "x/y"));
        assert_eq!(
            identity(&keychain(&entry("elsewhere.example", "a")), "x/y"),
            identity(&Keychain::default(), "x/y")
        );
    }

    #[test]
    fn the_docker_config_contains_only_the_requested_credentials() {
        let all = [
            entry("docker.io", "hub"),
            entry("*.example.com/team", "team"),
            entry("secret.example", "other"),
        ]
        .join(",");
        let images: Vec<Reference> = ["r.example.com/team/app", "alpine", "quay.io/x/y"]
            .iter()
            .map(|image| image.parse().expect(image))
            .collect();
        let pulled = images.iter().map(|image| (image, CredentialUse::Pull));
        let emitted = keychain(&all).docker_config(pulled);
        let expected = concat!(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOmh1bnRlcjI="},"#,
            r#""r.example.com":{"auth":"dGVhbTpodW50ZXIy"}}}"#
        );
        assert_eq!(emitted.expose_secret(), expected);
        assert_eq!(
            user(
                &Keychain::from_secrets([("again", expected.as_bytes())]).expect("own output"),
                "alpine"
            )
            .as_deref(),
            Some("hub")
        );
    }

    #[test]
    fn a_secret_is_used_only_for_what_it_is_for() {
        use CredentialUse::{Pull, Push};

        let payloads = ["both", "push", "pull"].map(|user| secret(&entry("r.example", user)));
        let credential = |name: &str, uses: &[CredentialUse]| RegistryCredential {
            name: name.into(),
            uses: uses.into(),
        };
        let find = |credentials: &[RegistryCredential], wanted| {
            let payload = |name: &str| payloads.iter().find(|payload| payload.contains(name));
            let secrets = credentials
                .iter()
                .map(|known| (known, payload(&known.name).expect("a payload").as_bytes()));
            let keychain = Keychain::from_credentials(secrets).expect("a keychain");
            let image: Reference = "r.example/team/app".parse().expect("an image");
            let config = keychain.docker_config([(&image, wanted)]).expose_secret().to_owned();
            let found =
                keychain.lookup("r.example", "team/app", wanted).map(
                    |credential| match credential {
                        Credential::Password { username, .. }
                        | Credential::IdentityToken { username, .. } => username.clone(),
                    },
                );
            assert_eq!(config.contains("r.example"), found.is_some());
            found
        };
        let (both, push, pull) = (
            credential("both", &[Pull, Push]),
            credential("push", &[Push]),
            credential("pull", &[Pull]),
        );
        for (credentials, pulls, pushes) in [
            (vec![both.clone()], Some("both"), Some("both")),
            (vec![both.clone(), pull.clone()], Some("pull"), Some("both")),
            (vec![push.clone(), both.clone()], Some("both"), Some("push")),
            (vec![push, pull.clone()], Some("pull"), Some("push")),
            (vec![pull], Some("pull"), None),
        ] {
            assert_eq!(find(&credentials, Pull).as_deref(), pulls, "{credentials:?}");
            assert_eq!(find(&credentials, Push).as_deref(), pushes, "{credentials:?}");
        }
    }

    #[test]
    fn debug_shows_hosts_and_no_secrets() {
        let debug = format!("{:?}", keychain(&entry("r.example/team", "somebody")));
        assert_eq!(debug, r"{r.example/team}");
    }

    #[test]
    fn too_many_entries_are_rejected() {
        let many: Vec<String> =
            (0..=MAX_ENTRIES).map(|n| entry(&format!("r{n}.example"), "u")).collect();
        let error = Keychain::from_secrets([("s", secret(&many.join(",")).as_bytes())])
            .expect_err("too many");
        assert_eq!(error, SecretError::TooMany { secret: "s".into() });
    }
}
