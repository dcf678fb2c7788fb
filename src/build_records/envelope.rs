//! A statement with its signature: a DSSE envelope, whose signature covers the type of the payload
//! as well as the payload.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use crate::build_records::{
    keys::{KeyError, RecordKeys},
    statement::BuildStatement,
};

/// The type of in-toto statements.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Maximum size of an envelope that is read, in bytes.
const MAX_ENVELOPE_BYTES: usize = 64 * 1024;
/// Maximum number of signatures of an envelope that are verified.
const MAX_SIGNATURES: usize = 8;

/// An envelope as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenEnvelope {
    payload_type: String,
    payload: String,
    signatures: Vec<WrittenSignature>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSignature {
    keyid: String,
    sig: String,
}

/// A statement whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedStatement {
    /// The statement.
    pub statement: BuildStatement,
    /// The id of the key that has signed it.
    pub key: String,
}

/// Signs a statement with the newest key, and returns the envelope as JSON.
///
/// # Errors
/// Returns an error if the statement cannot be signed.
pub fn sign(statement: &BuildStatement, keys: &RecordKeys) -> Result<Vec<u8>, KeyError> {
    let payload = statement.to_json().map_err(|_| KeyError::Signature)?;
    let signer = keys.signer();
    let signature = signer.sign(&authenticated(PAYLOAD_TYPE, &payload))?;
    let envelope = WrittenEnvelope {
        payload_type: PAYLOAD_TYPE.into(),
        payload: BASE64_STANDARD.encode(payload),
        signatures: vec![WrittenSignature {
            keyid: signer.id().to_owned(),
            sig: BASE64_STANDARD.encode(signature),
        }],
    };
    serde_json::to_vec(&envelope).map_err(|_| KeyError::Signature)
}

/// Returns the statement of an envelope if one of the keys has signed it.
#[must_use]
pub fn verify(envelope: &[u8], keys: &RecordKeys) -> Option<VerifiedStatement> {
    if envelope.len() > MAX_ENVELOPE_BYTES {
        return None;
    }
    let envelope: WrittenEnvelope = serde_json::from_slice(envelope).ok()?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return None;
    }
    let payload = BASE64_STANDARD.decode(&envelope.payload).ok()?;
    let signed = authenticated(&envelope.payload_type, &payload);
    let key = envelope.signatures.iter().take(MAX_SIGNATURES).find_map(|signature| {
        let bytes = BASE64_STANDARD.decode(&signature.sig).ok()?;
        keys.with_id(&signature.keyid).filter(|key| key.has_signed(&signed, &bytes))
    })?;
    let statement = BuildStatement::parse(&payload)?;
    Some(VerifiedStatement { statement, key: key.id().to_owned() })
}

/// Returns what a signature covers: DSSE's pre-authentication encoding.
fn authenticated(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build_records::{
        keys::tests::{key, keys},
        statement::tests::statement,
    };

    #[test]
    fn the_signature_covers_what_dsse_says() {
        let expected = b"DSSEv1 24 https://example.com/type 9 a payload";
        assert_eq!(authenticated("https://example.com/type", b"a payload"), expected);
    }

    #[test]
    fn any_known_key_verifies_and_no_other() {
        let (one, other) = (key(), key());
        let old = keys(&[("2026", &one)]);
        let envelope = sign(&statement(), &old).expect("an envelope");
        let verified = verify(&envelope, &old).expect("a statement");
        assert_eq!((&verified.statement, verified.key.as_str()), (&statement(), old.signer().id()));
        let both = keys(&[("2026", &one), ("2027", &other)]);
        assert_ne!(both.signer().id(), old.signer().id(), "the newest one signs");
        assert_eq!(verify(&envelope, &both), Some(verified), "an added key changes nothing");
        assert_eq!(verify(&envelope, &keys(&[("2027", &other)])), None, "a removed key is over");
        let newer = sign(&statement(), &both).expect("an envelope");
        assert!(verify(&newer, &old).is_none());
        assert!(verify(&newer, &both).is_some());
    }

    #[test]
    fn nothing_that_was_changed_verifies() {
        let keys = keys(&[("2026", &key())]);
        let envelope = sign(&statement(), &keys).expect("an envelope");
        let written: serde_json::Value = serde_json::from_slice(&envelope).expect("JSON");
        let forged = BuildStatement { fingerprint: "f2".into(), ..statement() };
        let forged = BASE64_STANDARD.encode(forged.to_json().expect("JSON"));
        for (pointer, value) in [
            ("/payload", forged.as_str()),
            ("/payloadType", "application/json"),
            ("/signatures/0/keyid", "00"),
            ("/signatures/0/sig", "AAAA"),
            ("/signatures/0/sig", "no base64"),
        ] {
            let mut changed = written.clone();
            *changed.pointer_mut(pointer).expect(pointer) = value.into();
            assert_eq!(verify(changed.to_string().as_bytes(), &keys), None, "{pointer}");
        }
        let padded = [envelope.clone(), vec![b' '; MAX_ENVELOPE_BYTES]].concat();
        assert_eq!(verify(&padded, &keys), None, "too large");
        assert!(verify(&envelope, &keys).is_some());
    }
}
