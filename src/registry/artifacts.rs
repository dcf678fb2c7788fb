//! Artifacts without content of their own that we push: one manifest, and one small blob that all
//! of them share.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use url::Url;

use crate::registry::{
    Client, Digest, Keychain, Manifest, OCI_MANIFEST, Reference, RegistryError, call::RegistryCall,
    error::ErrorContext, http::HttpResponse, operation::Operation,
};

impl Client {
    /// Points a tag to a manifest that refers to one small blob. The blob is uploaded only if the
    /// registry rejects the manifest, because nearly always the repository has it already.
    pub async fn push_artifact(
        &self,
        tag: &Reference,
        manifest: Vec<u8>,
        blob: &'static [u8],
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let name = tag.to_string();
        let context = ErrorContext { image: &name, host: tag.registry() };
        let manifest = Manifest::parse(Some(OCI_MANIFEST), manifest.into())
            .map_err(|problem| context.invalid_response(problem))?;
        match self.set_tag(tag, &manifest, keychain).await {
            Err(refused) if may_lack_blob(&refused) => {
                match self.push_blob(tag, blob, keychain).await {
                    Ok(()) => self.set_tag(tag, &manifest, keychain).await,
                    Err(error) if error.is_transient() => Err(error),
                    Err(_) => Err(refused),
                }
            }
            result => result,
        }
    }

    /// Uploads a small blob.
    async fn push_blob(
        &self,
        image: &Reference,
        blob: &'static [u8],
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let call = RegistryCall::new(self, image, keychain);
        let origin = self.0.config.origin(image.registry());
        let begin = Operation::upload(Method::POST, "blobs/uploads/".into());
        let digest = Digest::of(blob);
        let location = call
            .execute(&begin, |context, response| {
                upload_path(&origin.base, &response, &digest).ok_or_else(|| {
                    let quoted = response.quoted(&[]);
                    let problem = format!("began no upload on its own host, but sent {quoted}");
                    context.invalid_response(problem)
                })
            })
            .await?;
        let complete = Operation::complete_upload(location, Bytes::from_static(blob));
        call.execute(&complete, |_, _| Ok(())).await
    }
}

/// Whether a registry may have rejected a manifest because it does not have its blob. Registries
/// say so in different ways.
const fn may_lack_blob(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::PushRejected { .. } | RegistryError::NotFound { is_name_unknown: false, .. }
    )
}

/// Returns where a blob with this digest is sent, on the host that has begun its upload. A
/// credential is sent to no other host.
fn upload_path(base: &str, response: &HttpResponse, digest: &Digest) -> Option<String> {
    let location = response.header(header::LOCATION)?;
    let base = Url::parse(base).ok()?;
    let mut url = base.join(location).ok()?;
    if response.status != StatusCode::ACCEPTED || url.origin() != base.origin() {
        return None;
    }
    url.query_pairs_mut().append_pair("digest", digest.as_str());
    Some(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::registry::{
        Client, Config, Keychain, Reference,
        fault_registry::{FaultRegistry, FaultReply, RecordedRequest, not_found, reply},
    };

    /// Returns a manifest that refers to the blob `{}`.
    fn manifest() -> Vec<u8> {
        let empty = serde_json::json!({
            "mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        });
        let layers = [empty.clone()];
        let manifest = serde_json::json!({"schemaVersion": 2, "config": empty, "layers": layers});
        manifest.to_string().into_bytes()
    }

    /// Pushes two artifacts to a registry that begins uploads at `location`, and returns the
    /// requests.
    async fn push_twice(location: &'static str) -> Vec<String> {
        let uploaded = std::sync::Mutex::new(HashSet::new());
        let respond = move |request: &RecordedRequest| -> FaultReply {
            let is_upload = request.method == "PUT" && request.target.contains("digest=");
            let mut uploaded = uploaded.lock().expect("a lock");
            match request.method.as_str() {
                "POST" => reply(202, &[("location", location)], ""),
                "PUT" if is_upload => {
                    assert_eq!(request.body, b"{}");
                    uploaded.insert("{}");
                    reply(201, &[], "")
                }
                "PUT" if uploaded.is_empty() => {
                    let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#;
                    reply(400, &[], body)
                }
                "PUT" => {
                    let digest = crate::registry::Digest::of(&request.body).to_string();
                    reply(201, &[("docker-content-digest", &digest)], "")
                }
                _ => not_found("MANIFEST_UNKNOWN"),
            }
        };
        let registry = FaultRegistry::start(respond).await;
        let config = Config { plain_http: vec![registry.address.to_string()], ..Config::default() };
        let client = Client::new(config).expect("a client");
        for tag in ["one", "two"] {
            let tag: Reference =
                format!("{}/team/app:{tag}", registry.address).parse().expect("a tag");
            // It fails where the upload is refused.
            _ = client.push_artifact(&tag, manifest(), b"{}", &Keychain::default()).await;
        }
        registry.request_lines()
    }

    #[tokio::test]
    async fn the_blob_is_uploaded_once_and_only_if_it_is_missing() {
        for (location, put) in [
            ("/v2/team/app/blobs/uploads/1?state=a", "/v2/team/app/blobs/uploads/1?state=a&digest"),
            ("/elsewhere/on/the/host/1", "/elsewhere/on/the/host/1?digest"),
        ] {
            let requests = push_twice(location).await;
            let digest =
                "sha256%3A44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
            let expected = [
                "PUT /v2/team/app/manifests/one".to_owned(),
                "POST /v2/team/app/blobs/uploads/".to_owned(),
                format!("PUT {put}={digest}"),
                "PUT /v2/team/app/manifests/one".to_owned(),
                "PUT /v2/team/app/manifests/two".to_owned(),
            ];
            assert_eq!(requests, expected, "{location}");
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_to_another_host() {
        let requests = push_twice("http://127.0.0.1:1/v2/team/app/blobs/uploads/1").await;
        assert!(requests.iter().all(|request| !request.contains("digest=")), "{requests:?}");
    }
}
