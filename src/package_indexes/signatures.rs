//! Who has signed an index: signatures of `OpenPGP` for Debian and its kin, and of RSA for Alpine.
//!
//! The keys are those of the image, as its package manager uses them: an index that the image would
//! reject must not say what is newest.

use std::{collections::BTreeMap, io::Cursor};

use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use pgp::{
    composed::{CleartextSignedMessage, Deserializable as _, DetachedSignature, SignedPublicKey},
    crypto::hash::HashAlgorithm,
    packet::Signature,
    types::{KeyDetails as _, Tag},
};

use crate::package_indexes::{IndexError, apk_index::ApkIndex};

/// Maximum number of keys of a repository.
const MAX_KEYS: usize = 256;
/// Maximum number of signatures of a file.
const MAX_SIGNATURES: usize = 16;
/// Maximum number of certifications of a key that are checked.
const MAX_CERTIFICATIONS: usize = 64;

/// Whether an index is what its repository has signed.
#[derive(schemars::JsonSchema, serde::Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureState {
    /// A key of the image has signed it.
    Verified,
    /// The image has no key for it, trusts it without one, or has a package manager whose
    /// signatures are not read.
    #[default]
    NotVerified,
}

/// The keys that an image trusts for a repository.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
    /// The keys of apk by the name of their file: the public key in DER.
    apk_keys: BTreeMap<String, Vec<u8>>,
}

impl Keyring {
    /// Adds the keys of a file of `OpenPGP`, in binary form or armoured. What is no key is skipped,
    /// as apt does.
    pub fn add(&mut self, file: &[u8]) {
        let Ok((keys, _)) = SignedPublicKey::from_reader_many_buf(Cursor::new(file)) else {
            return;
        };
        let free = MAX_KEYS.saturating_sub(self.keys.len());
        self.keys.extend(keys.filter_map(Result::ok).take(free));
    }

    /// Adds a key of apk: a file with a public key in PEM.
    pub fn add_apk(&mut self, name: &str, pem: &[u8]) {
        let text = String::from_utf8_lossy(pem);
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        if let Ok(der) = STANDARD.decode(body.trim())
            && self.apk_keys.len() < MAX_KEYS
        {
            self.apk_keys.insert(name.to_owned(), der);
        }
    }

    /// Keeps only keys with one of these fingerprints, of the key or of one of its subkeys.
    pub fn restrict(&mut self, fingerprints: &[String]) {
        let is_listed = |fingerprint: String| {
            fingerprints.iter().any(|listed| listed.eq_ignore_ascii_case(&fingerprint))
        };
        self.keys.retain(|key| {
            is_listed(format!("{:X}", key.fingerprint()))
                || key
                    .public_subkeys
                    .iter()
                    .any(|sub| is_listed(format!("{:X}", sub.key.fingerprint())))
        });
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.apk_keys.is_empty()
    }

    /// Verifies a text that is signed in the clear, and returns what is signed of it.
    ///
    /// # Errors
    /// Returns an error if it is not signed, or not by one of the keys.
    pub(super) fn signed_text(
        &self,
        url: &str,
        text: &str,
        now: Timestamp,
    ) -> Result<String, IndexError> {
        let (message, _) = CleartextSignedMessage::from_string(text)
            .map_err(|_| IndexError::Unsigned { url: url.to_owned() })?;
        let signed = message.signed_text();
        self.verify(url, message.signatures(), signed.as_bytes(), now)?;
        Ok(signed)
    }

    /// Verifies a signature that is a file of its own.
    ///
    /// # Errors
    /// Returns an error if it is no signature, or not by one of the keys.
    pub(super) fn verify_detached(
        &self,
        url: &str,
        content: &[u8],
        signatures: &[u8],
        now: Timestamp,
    ) -> Result<(), IndexError> {
        let (read, _) = DetachedSignature::from_reader_many_buf(Cursor::new(signatures))
            .map_err(|_| IndexError::Unsigned { url: url.to_owned() })?;
        let read: Vec<Signature> = read
            .take(MAX_SIGNATURES)
            .filter_map(|signature| signature.ok().map(|signature| signature.signature))
            .collect();
        self.verify(url, &read, content, now)
    }

    fn verify(
        &self,
        url: &str,
        signatures: &[Signature],
        content: &[u8],
        now: Timestamp,
    ) -> Result<(), IndexError> {
        if signatures.is_empty() {
            return Err(IndexError::Unsigned { url: url.to_owned() });
        }
        let considered = signatures.iter().take(MAX_SIGNATURES);
        let mut valid = considered.filter(|signature| has_sound_hash(signature));
        if valid.any(|signature| self.has_signed(signature, content, now)) {
            return Ok(());
        }
        let issuers = signatures.iter().take(MAX_SIGNATURES).flat_map(Signature::issuer_key_id);
        let issuers: Vec<String> = issuers.map(ToString::to_string).collect();
        let problem = match issuers.as_slice() {
            [] => "its signature names no key".to_owned(),
            issuers => format!("its signatures name {}", issuers.join(", ")),
        };
        Err(IndexError::OtherKey { url: url.to_owned(), problem })
    }

    fn has_signed(&self, signature: &Signature, content: &[u8], now: Timestamp) -> bool {
        self.keys.iter().any(|key| {
            let primary = &key.primary_key;
            if signature.verify(primary, content).is_ok() {
                return is_valid(key, now);
            }
            let mut subkeys = key.public_subkeys.iter();
            subkeys.any(|subkey| {
                signature.verify(&subkey.key, content).is_ok()
                    && subkey.verify_bindings(primary).is_ok()
                    && subkey.signatures.iter().any(|binding| binding.key_flags().sign())
                    && !subkey
                        .signatures
                        .iter()
                        .any(|binding| is_past(subkey.key.created_at().as_secs(), binding, now))
                    && is_valid(key, now)
            })
        })
    }

    /// Verifies the signature of an index of Alpine.
    ///
    /// # Errors
    /// Returns an error if it has none, or one by another key.
    pub(super) fn verify_apk(&self, url: &str, index: &ApkIndex<'_>) -> Result<(), IndexError> {
        let Some(signature) = &index.signature else {
            return Err(IndexError::Unsigned { url: url.to_owned() });
        };
        let other = |problem: String| IndexError::OtherKey { url: url.to_owned(), problem };
        let key = self.apk_keys.get(&signature.key);
        let key = key.ok_or_else(|| other(format!("its signature names {}", signature.key)))?;
        let algorithm = match signature.algorithm.as_str() {
            "RSA" => &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
            "RSA256" => &RSA_PKCS1_2048_8192_SHA256,
            other_algorithm => {
                return Err(other(format!("its algorithm {other_algorithm} is not known")));
            }
        };
        UnparsedPublicKey::new(algorithm, key)
            .verify(index.signed, &signature.bytes)
            .map_err(|_| other(format!("its signature by {} is wrong", signature.key)))
    }
}

/// Whether a signature is made with a hash for which nobody finds a second text, as apt demands.
fn has_sound_hash(signature: &Signature) -> bool {
    let sound = [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512];
    signature.hash_alg().is_some_and(|hash| sound.contains(&hash))
}

/// Whether a key is neither revoked nor expired.
fn is_valid(key: &SignedPublicKey, now: Timestamp) -> bool {
    let primary = &key.primary_key;
    let mut revocations = key.details.revocation_signatures.iter().take(MAX_CERTIFICATIONS);
    if revocations.any(|revocation| revocation.verify_key(primary).is_ok()) {
        return false;
    }
    // The last certification by the key itself says until when it is valid.
    let of_users = key.details.users.iter().flat_map(|user| {
        let signatures = user.signatures.iter().take(MAX_CERTIFICATIONS);
        signatures.filter(|signature| {
            signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
        })
    });
    let direct = key.details.direct_signatures.iter().take(MAX_CERTIFICATIONS);
    let direct = direct.filter(|signature| signature.verify_key(primary).is_ok());
    let last = of_users.chain(direct).max_by_key(|signature| signature.created());
    last.is_some_and(|signature| !is_past(primary.created_at().as_secs(), signature, now))
}

/// Whether a key that was created at a time has expired, as its certification says.
fn is_past(created: u32, certification: &Signature, now: Timestamp) -> bool {
    let lifetime = certification.key_expiration_time().map_or(0, pgp::types::Duration::as_secs);
    lifetime > 0 && i64::from(created) + i64::from(lifetime) < now.as_second()
}
