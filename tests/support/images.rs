//! Tiny images in a real registry: pushed, read and moved over plain HTTP.

use std::collections::BTreeMap;

use reqwest::{Client, Method, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry without credentials.
#[derive(Clone)]
pub struct Images {
    registry: String,
    http: Client,
}

/// An image in the registry.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's digest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
}

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The architecture in its configuration.
    pub architecture: &'a str,
    /// The image, by digest, whose layers come first.
    pub base: Option<&'a str>,
    /// The content of its own layer.
    pub content: &'a str,
    /// Annotations of its manifest.
    pub annotations: &'a BTreeMap<String, String>,
    /// Labels in its configuration.
    pub labels: &'a BTreeMap<String, String>,
}

impl Images {
    /// The registry at `host:port`.
    pub fn new(registry: &str) -> Self {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self { registry: registry.into(), http: Client::new() }
    }

    /// Pushes an image with the layers of `base`, if any, and one that holds `content`. Returns its
    /// digest.
    pub async fn push(
        &self,
        repository: &str,
        tag: &str,
        base: Option<&str>,
        content: &str,
        annotations: &BTreeMap<String, String>,
    ) -> String {
        self.push_for("amd64", repository, tag, base, content, annotations).await
    }

    /// Pushes an image for an architecture, as [`Self::push`] does.
    pub async fn push_for(
        &self,
        architecture: &str,
        repository: &str,
        tag: &str,
        base: Option<&str>,
        content: &str,
        annotations: &BTreeMap<String, String>,
    ) -> String {
        let labels = BTreeMap::new();
        let parts = Parts { architecture, base, content, annotations, labels: &labels };
        self.push_parts(repository, tag, &parts).await
    }

    /// Pushes an image made of these parts. Returns its digest.
    pub async fn push_parts(&self, repository: &str, tag: &str, parts: &Parts<'_>) -> String {
        let mut descriptors = match parts.base {
            Some(base) => self.layers(repository, base).await,
            None => Vec::new(),
        };
        descriptors.push(self.blob(repository, LAYER, parts.content.as_bytes()).await);
        // Layers are not compressed, so that a layer's digest is its diff id.
        let diff_ids: Vec<&Value> = descriptors.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": parts.architecture, "os": "linux", "config": { "Labels": parts.labels },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(repository, CONFIG, config.to_string().as_bytes()).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors,
            "annotations": parts.annotations,
        });
        self.tag(repository, tag, &manifest).await
    }

    /// Writes an index of images of the repository, by architecture, to a tag. Returns its digest.
    pub async fn push_index(&self, repository: &str, tag: &str, images: &[(&str, &str)]) -> String {
        let mut manifests = Vec::new();
        for (architecture, digest) in images {
            let image = self.get(repository, digest).await.expect("an image");
            manifests.push(json!({
                "mediaType": MANIFEST, "digest": digest, "size": image.manifest.to_string().len(),
                "platform": { "os": "linux", "architecture": architecture },
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.tag(repository, tag, &index).await
    }

    /// Writes a manifest to a tag. Returns its digest.
    pub async fn tag(&self, repository: &str, tag: &str, manifest: &Value) -> String {
        let body = manifest.to_string();
        let url = self.url(repository, &format!("manifests/{tag}"));
        let media_type = manifest["mediaType"].as_str().unwrap_or(MANIFEST);
        let digest = digest_of(body.as_bytes());
        let answer = self
            .http
            .put(url)
            .header(header::CONTENT_TYPE, media_type)
            .body(body)
            .send()
            .await
            .expect("a put");
        assert_eq!(answer.status(), StatusCode::CREATED, "{:?}", answer.text().await);
        digest
    }

    /// The image that a tag or a digest points to.
    pub async fn get(&self, repository: &str, reference: &str) -> Option<Image> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let accepted = format!("{MANIFEST}, {INDEX}");
        let answer =
            self.http.get(url).header(header::ACCEPT, accepted).send().await.expect("a manifest");
        if answer.status() == StatusCode::NOT_FOUND {
            return None;
        }
        assert!(answer.status().is_success(), "{repository}:{reference}: {}", answer.status());
        let body = answer.bytes().await.expect("a manifest");
        Some(Image {
            digest: digest_of(&body),
            manifest: serde_json::from_slice(&body).expect("JSON"),
        })
    }

    /// The digest that a tag points to; empty if the tag does not exist.
    pub async fn digest(&self, repository: &str, tag: &str) -> String {
        self.get(repository, tag).await.map(|image| image.digest).unwrap_or_default()
    }

    /// Splits a reference as the controller writes it, `host/repository@digest`, into repository
    /// and digest. The host is dropped: this registry mirrors every host.
    pub fn locate(pinned: &str) -> (String, String) {
        let (name, digest) = pinned.split_once('@').expect("a pinned reference");
        let (_, repository) = name.split_once('/').expect("a host");
        (repository.into(), digest.into())
    }

    /// Mounts the layers of an image in another repository, so that they are not sent again.
    async fn layers(&self, repository: &str, pinned: &str) -> Vec<Value> {
        let (from, digest) = Self::locate(pinned);
        let image = self
            .get(&from, &digest)
            .await
            .unwrap_or_else(|| panic!("{pinned} is not in the registry"));
        let layers = image.manifest["layers"].as_array().expect("layers").clone();
        for layer in &layers {
            let digest = layer["digest"].as_str().expect("a digest");
            let url = self.url(repository, &format!("blobs/uploads/?mount={digest}&from={from}"));
            let status =
                self.http.request(Method::POST, url).send().await.expect("a mount").status();
            assert_eq!(status, StatusCode::CREATED, "{digest} of {pinned}");
        }
        layers
    }

    async fn blob(&self, repository: &str, media_type: &str, content: &[u8]) -> Value {
        let digest = digest_of(content);
        let start = self
            .http
            .request(Method::POST, self.url(repository, "blobs/uploads/"))
            .send()
            .await
            .expect("an upload");
        let location = start.headers()[header::LOCATION].to_str().expect("text").to_owned();
        let location = if location.starts_with('/') {
            format!("http://{}{location}", self.registry)
        } else {
            location
        };
        let separator = if location.contains('?') { '&' } else { '?' };
        let answer = self
            .http
            .put(format!("{location}{separator}digest={digest}"))
            .body(content.to_vec())
            .send()
            .await;
        let status = answer.expect("an upload").status();
        assert_eq!(status, StatusCode::CREATED);
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    fn url(&self, repository: &str, rest: &str) -> String {
        format!("http://{}/v2/{repository}/{rest}", self.registry)
    }
}

fn digest_of(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}
