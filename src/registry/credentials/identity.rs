//! Identities of credentials.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
};

use sha2::{Digest as _, Sha256};

use crate::registry::credentials::Credential;

/// Distinguishes credentials without revealing them. It is equal for equal credentials within one
/// process. It is useless outside of the process, because every process uses a new random salt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialIdentity([u8; 16]);

impl CredentialIdentity {
    /// Returns the identity of one credential, or of none.
    pub(in crate::registry) fn of(credential: Option<&Credential>) -> Self {
        Self::of_all([credential.into_iter()])
    }

    /// Returns the identity of the credentials that each of several hosts may receive.
    pub(super) fn of_all<'a>(
        hosts: impl IntoIterator<Item = impl Iterator<Item = &'a Credential>>,
    ) -> Self {
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
        for credentials in hosts {
            add_part(b"host");
            credentials.flat_map(Credential::parts).for_each(&mut add_part);
        }
        let mut identity = [0; 16];
        identity.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self(identity)
    }
}

impl fmt::Debug for CredentialIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialIdentity(redacted)")
    }
}
