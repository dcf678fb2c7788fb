//! Credentials for registries, from `kubernetes.io/dockerconfigjson` Secrets.
//!
//! A [`Keychain`] holds what the Secrets of one namespace say and finds the credential for an image
//! as the kubelet does. Nothing here runs a program: `credsStore` and `credHelpers` name programs
//! that the author of a Secret chose, and are not followed. Passwords live in `SecretString`s and
//! appear in no `Debug`, error or log.

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
    api::condition::reason,
    registry::{Reference, credentials::scope::CredentialScope},
};

/// The most bytes of one Secret's payload; the API server allows no more either.
const MAX_SECRET_BYTES: usize = 1024 * 1024;
/// The most entries of a keychain. Lookups walk them.
const MAX_ENTRIES: usize = 1024;

/// The credentials that one namespace's Secrets hold. Cheap to clone.
#[derive(Clone, Default)]
pub struct Keychain(Arc<Vec<KeychainEntry>>);

/// What a registry is shown.
#[derive(Clone)]
pub(super) enum Credential {
    /// A user name and a password.
    Password { username: String, password: SecretString },
    /// A refresh token that the registry's token service exchanges for access tokens.
    IdentityToken { username: String, token: SecretString },
}

struct KeychainEntry {
    scope: CredentialScope,
    credential: Credential,
}

/// Tells credentials apart without showing them: equal for equal credentials within one run of the
/// program, and of no use to anybody else, because it is salted anew at every start.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialIdentity([u8; 16]);

/// Why a Secret can't be used. The messages name the Secret and quote nothing of its content but
/// host names.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    /// The payload is too large.
    #[error("Secret {secret}: .dockerconfigjson has {bytes} bytes, more than 1 MiB")]
    TooLarge {
        /// The Secret's name.
        secret: String,
        /// How many bytes it has.
        bytes: usize,
    },
    /// The payload is not JSON, or not of the shape of a Docker configuration.
    #[error(
        "Secret {secret}: .dockerconfigjson is not a Docker configuration (line {line}, column \
         {column}); make it with `kubectl create secret docker-registry`"
    )]
    Malformed {
        /// The Secret's name.
        secret: String,
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// One host's entry can't be used.
    #[error("Secret {secret}: auths[{host}] {problem}")]
    Entry {
        /// The Secret's name.
        secret: String,
        /// The entry's key.
        host: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It holds no credential.
    #[error(
        "Secret {secret}: .dockerconfigjson holds no credential under `auths`; credential helpers \
         (credsStore, credHelpers) are not run"
    )]
    Empty {
        /// The Secret's name.
        secret: String,
    },
    /// The Secrets together hold too many entries.
    #[error("Secret {secret}: with it the family's Secrets hold more than {MAX_ENTRIES} entries")]
    TooMany {
        /// The Secret's name.
        secret: String,
    },
}

impl SecretError {
    /// The reason for conditions and Events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        reason::INVALID_SECRET
    }
}

impl Keychain {
    /// The credentials of these Secrets, given as name and value of the key `.dockerconfigjson`.
    ///
    /// Where several entries match an image, the one with the longest path wins, then the one with
    /// the fewest wildcards, then the one of the Secret that comes first.
    pub fn from_secrets<'a>(
        secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, SecretError> {
        let mut entries = Vec::new();
        for (secret, payload) in secrets {
            entries.extend(docker_config::parse(secret, payload)?);
            if entries.len() > MAX_ENTRIES {
                return Err(SecretError::TooMany { secret: secret.into() });
            }
        }
        // The sort is stable: among equals the order of the Secrets stays.
        entries.sort_by_key(|entry: &KeychainEntry| entry.scope.rank());
        Ok(Self(Arc::new(entries)))
    }

    /// A Docker configuration with the credentials for these images and no others, for builders,
    /// which look credentials up by host alone: where two images of one host have different
    /// credentials, the first image's is taken.
    #[must_use]
    pub fn docker_config<'a>(
        &self,
        images: impl IntoIterator<Item = &'a Reference>,
    ) -> SecretString {
        let mut auths = BTreeMap::new();
        for image in images {
            if let Some(credential) = self.lookup(image.registry(), image.path()) {
                auths.entry(docker_config::auth_key(image.registry())).or_insert(credential);
            }
        }
        docker_config::render(&auths)
    }

    /// The credential for a repository.
    pub(super) fn lookup(&self, registry: &str, path: &str) -> Option<&Credential> {
        self.0
            .iter()
            .find(|entry| entry.scope.matches(registry, path))
            .map(|entry| &entry.credential)
    }

    /// Tells apart what these registries would be shown for a repository.
    pub(super) fn identity<'a>(
        &self,
        registries: impl IntoIterator<Item = &'a str>,
        path: &str,
    ) -> CredentialIdentity {
        static SALT: OnceLock<[u64; 2]> = OnceLock::new();
        // RandomState is keyed from the operating system's randomness.
        let salt =
            SALT.get_or_init(|| [RandomState::new().hash_one(0), RandomState::new().hash_one(1)]);
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        };
        for word in salt {
            add(&word.to_le_bytes());
        }
        for registry in registries {
            match self.lookup(registry, path) {
                None => add(b"anonymous"),
                Some(Credential::Password { username, password }) => {
                    [b"password", username.as_bytes(), password.expose_secret().as_bytes()]
                        .into_iter()
                        .for_each(&mut add);
                }
                Some(Credential::IdentityToken { username, token }) => {
                    [b"token".as_slice(), username.as_bytes(), token.expose_secret().as_bytes()]
                        .into_iter()
                        .for_each(&mut add);
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
        keychain.lookup(image.registry(), image.path()).map(|credential| match credential {
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
    fn the_names_of_docker_hub_are_one() {
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
        let identity = |keychain: &Keychain, path| keychain.identity(["r.example"], path);
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
    fn the_docker_config_holds_what_is_asked_for_and_nothing_else() {
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
        let emitted = keychain(&all).docker_config(&images);
        let expected = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOmh1bnRlcjI="},"r.example.com":{"auth":"dGVhbTpodW50ZXIy"}}}"#;
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
    fn debug_shows_where_and_not_what() {
        let shown = format!("{:?}", keychain(&entry("r.example/team", "somebody")));
        assert_eq!(shown, r"{r.example/team}");
    }

    #[test]
    fn too_many_entries() {
        let many: Vec<String> =
            (0..=MAX_ENTRIES).map(|n| entry(&format!("r{n}.example"), "u")).collect();
        let error = Keychain::from_secrets([("s", secret(&many.join(",")).as_bytes())])
            .expect_err("too many");
        assert_eq!(error, SecretError::TooMany { secret: "s".into() });
    }
}
