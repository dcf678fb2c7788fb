//! Blobs of any size, read part by part, so that a call is as short and as small as any other.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::registry::{
    Client, Descriptor, Keychain, Reference, RegistryError, call::RegistryCall,
    operation::Operation,
};

/// Maximum number of bytes of a blob that are read at a time.
pub const MAX_BLOB_PART_BYTES: usize = 16 << 20;

impl Client {
    /// Returns a part of a blob of the image's repository: from the offset `start` to the end, and
    /// at most [`MAX_BLOB_PART_BYTES`]. The caller compares the digest of all parts with that of
    /// the blob.
    ///
    /// # Errors
    /// Fails if a registry does not send parts and the blob is larger than one.
    pub async fn blob_part(
        &self,
        image: &Reference,
        blob: &Descriptor,
        start: u64,
        keychain: &Keychain,
    ) -> Result<Bytes, RegistryError> {
        let rest = usize::try_from(blob.size.saturating_sub(start)).unwrap_or(usize::MAX);
        let length = rest.min(MAX_BLOB_PART_BYTES);
        let is_whole = start == 0 && length == rest;
        let end = start + (length as u64).saturating_sub(1);
        let range = HeaderValue::try_from(format!("bytes={start}-{end}")).ok();
        let range = range.filter(|_| !is_whole);
        let expected = if is_whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
        let operation = Operation::blob(blob.digest.as_str(), range, length);
        let call = RegistryCall::new(self, image, keychain);
        call.execute(&operation, |context, response| {
            if response.status != expected {
                let problem = format!(
                    "responded with status {} to a request for a part of a layer",
                    response.status.as_u16()
                );
                return Err(context.invalid_response(problem));
            }
            if response.body.len() != length {
                let sent = response.body.len();
                let problem = format!("sent {sent} bytes of {} instead of {length}", blob.digest);
                return Err(context.invalid_response(problem));
            }
            Ok(response.body)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{
        Config, Digest,
        fault_registry::{FaultRegistry, RecordedRequest, reply},
    };

    /// Reads a blob of two parts from a registry that responds in this way to a range.
    async fn read_twice(status: u16, missing: usize) -> Vec<Result<usize, String>> {
        let content = vec![7; MAX_BLOB_PART_BYTES + 10];
        let blob = Descriptor {
            digest: Digest::of(&content),
            media_type: "application/octet-stream".into(),
            size: content.len() as u64,
        };
        let registry = FaultRegistry::start(move |request: &RecordedRequest| {
            let length = if request.previous == 0 { MAX_BLOB_PART_BYTES } else { 10 };
            reply(status, &[], vec![7; length - missing])
        })
        .await;
        let config = Config { plain_http: vec![registry.address.to_string()], ..Config::default() };
        let client = Client::new(config).expect("a client");
        let image = format!("{}/team/app:1", registry.address).parse().expect("a reference");
        let mut parts = Vec::new();
        for start in [0, MAX_BLOB_PART_BYTES as u64] {
            let part = client.blob_part(&image, &blob, start, &Keychain::default()).await;
            parts.push(part.map(|part| part.len()).map_err(|error| error.to_string()));
        }
        parts
    }

    #[tokio::test]
    async fn a_blob_is_read_in_parts() {
        assert_eq!(read_twice(206, 0).await, [Ok(MAX_BLOB_PART_BYTES), Ok(10)]);
    }

    #[tokio::test]
    async fn what_is_not_the_requested_part_is_an_error() {
        for (status, missing, said) in
            [(200, 0, "status 200 to a request for a part"), (206, 1, "instead of 10")]
        {
            let parts = read_twice(status, missing).await;
            let error = parts[1].clone().expect_err("no part");
            assert!(error.contains(said), "{error}");
        }
    }
}
