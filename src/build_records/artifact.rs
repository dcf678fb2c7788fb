//! A record as a registry keeps it: an OCI manifest without content of its own, as the image
//! specification describes artifacts. The envelope is one of its annotations, so that one request
//! reads or writes a record. It refers to the image, so that registries list it as a referrer.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::api::labels;

/// The type of the artifact.
pub const ARTIFACT_TYPE: &str = "application/vnd.groundswell.build-record.v1";
/// The content of an artifact without content, which a repository must have before a manifest that
/// refers to it.
pub const EMPTY_BLOB: &[u8] = b"{}";
/// The media type of that content.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The digest of that content.
const EMPTY_DIGEST: &str =
    "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
/// The media type of the manifest.
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The image that a record is about.
#[derive(Clone, Copy, Debug)]
pub struct RecordedImage<'a> {
    /// The media type of its manifest or index.
    pub media_type: &'a str,
    /// The digest of that.
    pub digest: &'a str,
    /// The size of that in bytes.
    pub size: usize,
}

/// Returns the manifest of a record.
#[must_use]
pub fn manifest(envelope: &[u8], image: RecordedImage<'_>) -> Vec<u8> {
    let empty = json!({
        "mediaType": EMPTY_TYPE, "digest": EMPTY_DIGEST, "size": EMPTY_BLOB.len(),
    });
    let RecordedImage { media_type, digest, size } = image;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": empty,
        "layers": [empty],
        "subject": { "mediaType": media_type, "digest": digest, "size": size },
        "annotations": { labels::OCI_RECORD: BASE64_STANDARD.encode(envelope) },
    });
    manifest.to_string().into_bytes()
}

/// Returns the envelope in the annotation of a record.
#[must_use]
pub fn envelope(annotation: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(annotation).ok()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn a_record_is_an_artifact_without_content_that_refers_to_its_image() {
        assert_eq!(format!("sha256:{}", hex::encode(Sha256::digest(EMPTY_BLOB))), EMPTY_DIGEST);
        let image = RecordedImage { media_type: "t", digest: "sha256:aa", size: 7 };
        let written = manifest(b"the envelope", image);
        let written: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
        let expected = json!({ "mediaType": "t", "digest": "sha256:aa", "size": 7 });
        assert_eq!(written["subject"], expected);
        assert_eq!(written["config"]["mediaType"], EMPTY_TYPE);
        let annotation = written["annotations"][labels::OCI_RECORD].as_str().expect("a text");
        assert_eq!(envelope(annotation).as_deref(), Some(&b"the envelope"[..]));
        assert_eq!(envelope("no base64"), None);
    }
}
