//! The keys of the controller: ECDSA over P-256, in a Secret of its own namespace. Whoever has one
//! can make records, so that nothing here shows a private key.
//!
//! All keys verify, and the one with the highest name signs. That is how keys are replaced: a key
//! is added, then what is recorded is signed again, and then the old one is removed.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    hkdf, hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

/// Maximum size of a key's file in bytes.
const MAX_KEY_BYTES: usize = 4096;
/// Maximum number of keys that are used: those with the highest names.
const MAX_KEYS: usize = 16;
/// Number of characters in a line of a PEM file.
const PEM_WIDTH: usize = 64;
/// Number of bytes of the hash of a public key that are its id.
const ID_BYTES: usize = 16;
/// What the keys that seal Jobs are derived for.
const SEAL_PURPOSE: &[u8] = b"groundswell.dev/seal";

/// Why a key cannot be used. It never contains a part of a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// An entry is not a key.
    #[error(
        "the entry `{0}` is not a private key of ECDSA over P-256 in PKCS#8 as PEM; make one with \
         `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    NotAKey(String),
    /// There is no key.
    #[error("it has no key; delete it, and the controller makes a new one when it starts")]
    NoKey,
    /// A new key could not be made.
    #[error("no new key could be made: the system gives no random numbers")]
    Generation,
    /// A statement could not be signed.
    #[error("the record could not be signed")]
    Signature,
}

/// A key.
pub struct RecordKey {
    id: String,
    pair: EcdsaKeyPair,
    seal: hmac::Key,
}

impl RecordKey {
    /// Reads a private key.
    fn parse(name: &str, pem: &[u8]) -> Result<Self, KeyError> {
        let not_a_key = || KeyError::NotAKey(name.chars().take(80).collect());
        if pem.len() > MAX_KEY_BYTES {
            return Err(not_a_key());
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| not_a_key())?;
        let der = der.secret_pkcs8_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| not_a_key())?;
        let hash = Sha256::digest(pair.public_key().as_ref());
        let id = hex::encode(hash.get(..ID_BYTES).unwrap_or_default());
        let seal = seal_key(der).ok_or_else(not_a_key)?;
        Ok(Self { id, pair, seal })
    }

    /// Returns the id of the key, which says nothing about its private part.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Signs a message.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature =
            self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Signature)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Whether this key has signed a message.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = self.pair.public_key().as_ref();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Derives the key that seals Jobs from a private key.
fn seal_key(der: &[u8]) -> Option<hmac::Key> {
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(der);
    let purpose = [SEAL_PURPOSE];
    let derived = pseudorandom.expand(&purpose, hkdf::HKDF_SHA256).ok()?;
    let mut bytes = [0; 32];
    derived.fill(&mut bytes).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// The keys, the one that signs last. There is at least one.
#[derive(Clone, Debug)]
pub struct RecordKeys {
    signer: Arc<RecordKey>,
    /// The others.
    earlier: Arc<[RecordKey]>,
}

/// The keys of a Secret, and what is wrong with its other entries.
#[derive(Debug)]
pub struct ReadKeys {
    /// The keys.
    pub keys: RecordKeys,
    /// The entries that are no keys.
    pub unusable: Vec<KeyError>,
}

impl RecordKeys {
    /// Reads the entries of a Secret, by name.
    ///
    /// # Errors
    /// Returns an error if no entry is a key.
    pub fn read<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<ReadKeys, KeyError> {
        let mut entries: Vec<(&str, &[u8])> = entries.into_iter().collect();
        entries.sort_unstable_by(|one, other| other.0.cmp(one.0));
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for (name, pem) in entries.into_iter().take(MAX_KEYS) {
            match RecordKey::parse(name, pem) {
                Ok(key) => keys.push(key),
                Err(error) => unusable.push(error),
            }
        }
        let mut keys = keys.into_iter();
        match keys.next() {
            Some(signer) => {
                let keys = Self { signer: signer.into(), earlier: keys.collect() };
                Ok(ReadKeys { keys, unusable })
            }
            None => Err(unusable.into_iter().next().unwrap_or(KeyError::NoKey)),
        }
    }

    /// Makes a key, and returns it as a file.
    ///
    /// # Errors
    /// Returns an error if the system gives no random numbers.
    pub fn generate_pem() -> Result<String, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1())
            .map_err(|_| KeyError::Generation)?;
        let text = BASE64_STANDARD.encode(pair.as_ref());
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        for (position, character) in text.chars().enumerate() {
            if position > 0 && position % PEM_WIDTH == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        Ok(pem)
    }

    /// Returns the key that signs.
    #[must_use]
    pub fn signer(&self) -> &RecordKey {
        &self.signer
    }

    /// Returns the key with this id.
    #[must_use]
    pub fn with_id(&self, id: &str) -> Option<&RecordKey> {
        self.all().find(|key| key.id == id)
    }

    /// Returns the ids of all keys, that of the key that signs first. There are at most 16.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.all().map(RecordKey::id)
    }

    /// Returns the seal of a text, in hexadecimal digits.
    #[must_use]
    pub fn seal(&self, text: &str) -> String {
        hex::encode(hmac::sign(&self.signer.seal, text.as_bytes()))
    }

    /// Whether one of the keys has sealed a text.
    #[must_use]
    pub fn has_sealed(&self, text: &str, seal: &str) -> bool {
        let Ok(seal) = hex::decode(seal) else { return false };
        self.all().any(|key| hmac::verify(&key.seal, text.as_bytes(), &seal).is_ok())
    }

    fn all(&self) -> impl Iterator<Item = &RecordKey> {
        std::iter::once(&*self.signer).chain(self.earlier.iter())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a new key as a file.
    pub fn key() -> String {
        RecordKeys::generate_pem().expect("a key")
    }

    /// Returns keys by name.
    pub fn keys(entries: &[(&str, &String)]) -> RecordKeys {
        let entries = entries.iter().map(|(name, pem)| (*name, pem.as_bytes()));
        RecordKeys::read(entries).expect("keys").keys
    }

    #[test]
    fn a_made_key_can_be_read_and_is_never_shown() {
        let pem = key();
        assert!(pem.lines().all(|line| line.len() <= PEM_WIDTH), "{}", pem.len());
        let keys = keys(&[("2026", &pem)]);
        assert_eq!(keys.signer().id().len(), 2 * ID_BYTES);
        let shown = format!("{keys:?}");
        assert!(shown.contains(keys.signer().id()), "{shown}");
        let secret: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = BASE64_STANDARD.decode(&secret).expect("base64");
        for window in der.windows(8) {
            assert!(!shown.contains(&hex::encode(window)) && shown.len() < 400, "{shown}");
        }
    }

    #[test]
    fn an_entry_that_is_no_key_disturbs_no_other() {
        let (old, new) = (key(), key());
        let long = vec![b'a'; MAX_KEY_BYTES + 1];
        let entries: [(&str, &[u8]); 5] = [
            ("2026", old.as_bytes()),
            ("2027", new.as_bytes()),
            ("2028", b"hunter2 is not a key"),
            ("note", b""),
            ("long", &long),
        ];
        let read = RecordKeys::read(entries).expect("keys");
        assert_eq!(read.keys.signer().id(), keys(&[("2027", &new)]).signer().id());
        assert!(read.keys.with_id(keys(&[("2026", &old)]).signer().id()).is_some());
        let messages: Vec<String> = read.unusable.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 3);
        assert!(messages.iter().any(|message| message.contains("the entry `2028`")));
        assert!(messages.iter().all(|message| !message.contains("hunter2")), "{messages:?}");
        let none = RecordKeys::read([("2028", &b"hunter2"[..])]).expect_err("no key");
        assert_eq!(none, KeyError::NotAKey("2028".into()));
        assert_eq!(RecordKeys::read([]).expect_err("no key"), KeyError::NoKey);
    }

    #[test]
    fn a_key_of_another_curve_is_refused() {
        let pair = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1())
            .expect("a key");
        let text = BASE64_STANDARD.encode(pair.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let refused = RecordKeys::read([("p384", pem.as_bytes())]).expect_err("another curve");
        assert_eq!(refused, KeyError::NotAKey("p384".into()));
    }

    #[test]
    fn every_key_verifies_seals_and_no_other_does() {
        let (one, other) = (key(), key());
        let old = keys(&[("2026", &one)]);
        let seal = old.seal("job");
        let both = keys(&[("2026", &one), ("2027", &other)]);
        assert!(old.has_sealed("job", &seal) && both.has_sealed("job", &seal));
        assert!(!old.has_sealed("another", &seal), "of another text");
        assert!(!old.has_sealed("job", "") && !old.has_sealed("job", "zz"));
        assert!(!keys(&[("2027", &other)]).has_sealed("job", &seal), "a removed key is over");
        assert_ne!(both.seal("job"), seal, "the newest one seals");
        assert!(!old.has_sealed("job", &both.seal("job")));
    }
}
