//! Registries in memory: manifests, configurations and tags, and what is known of who made them.

use std::collections::BTreeMap;

use bytes::Bytes;
use groundswell::registry::{Digest, OCI_INDEX, OCI_MANIFEST};
use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

/// The platform that everything is built for.
pub const PLATFORM: &str = "amd64";
/// A platform that some upstreams are asked for beside it.
pub const OTHER_PLATFORM: &str = "arm64";

/// What a build was made from, as its pod was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The uid of the Job.
    pub job: String,
    /// The uid of the family, and the image's name.
    pub family: String,
    pub image: String,
    pub fingerprint: String,
    /// The parents in the order of `from`, as `repository@digest`.
    pub parents: Vec<String>,
    /// The text of the Dockerfile.
    pub source: String,
    pub args: BTreeMap<String, String>,
}

/// One repository.
#[derive(Debug, Default)]
pub struct Repository {
    manifests: BTreeMap<String, (&'static str, Bytes)>,
    blobs: BTreeMap<String, Bytes>,
    pub tags: BTreeMap<String, String>,
    /// The builds that each digest came from.
    pub made: BTreeMap<String, Vec<Made>>,
    /// What a user would notice of each digest.
    contents: BTreeMap<String, String>,
    /// The lowest layers of each digest, for the platform that is built for.
    layers: BTreeMap<String, Vec<String>>,
}

/// All registries, by `host/path` of their repositories.
#[derive(Debug, Default)]
pub struct Registry {
    pub repositories: BTreeMap<String, Repository>,
}

/// What is pushed for one platform.
#[derive(Clone, Debug)]
pub struct Content {
    pub architecture: &'static str,
    pub layers: Vec<String>,
    /// Changes nothing that a user would notice: a time of creation.
    pub created: u64,
}

impl Content {
    fn config(&self) -> Bytes {
        let created =
            format!("2026-01-01T{:02}:{:02}:00Z", self.created / 60 % 24, self.created % 60);
        let config = json!({
            "os": "linux",
            "architecture": self.architecture,
            "created": created,
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": self.layers},
            "history": self.layers.iter().map(|_| json!({"created": created, "created_by": "RUN"})).collect::<Vec<_>>(),
        });
        config.to_string().into()
    }
}

impl Registry {
    pub fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.into()).or_default()
    }

    /// Where a tag stands.
    pub fn tag(&self, repository: &str, tag: &str) -> Option<&str> {
        self.repositories.get(repository)?.tags.get(tag).map(String::as_str)
    }

    /// What a user would notice of `repository@digest`.
    pub fn content(&self, pinned: &str) -> Option<&str> {
        let (repository, digest) = pinned.split_once('@')?;
        self.repositories.get(repository)?.contents.get(digest).map(String::as_str)
    }

    /// The layers of `repository@digest` for the platform that is built for.
    pub fn layers(&self, pinned: &str) -> Option<&[String]> {
        let (repository, digest) = pinned.split_once('@')?;
        self.repositories.get(repository)?.layers.get(digest).map(Vec::as_slice)
    }

    /// Whether `repository@digest` offers every platform.
    pub fn offers_all(&self, pinned: &str) -> bool {
        self.content(pinned)
            .is_some_and(|content| content.contains(PLATFORM) && content.contains(OTHER_PLATFORM))
    }

    /// The builds that `repository@digest` came from.
    pub fn made(&self, pinned: &str) -> &[Made] {
        let found = pinned.split_once('@').and_then(|(repository, digest)| {
            self.repositories.get(repository)?.made.get(digest).map(Vec::as_slice)
        });
        found.unwrap_or_default()
    }

    /// Answers one request. `path` is without the leading `/v2/`.
    pub fn answer(
        &mut self,
        method: &Method,
        host: &str,
        path: &str,
        body: &Bytes,
    ) -> Response<Bytes> {
        let parts: Vec<&str> = path.rsplitn(3, '/').collect();
        let [reference, part, name] = parts[..] else {
            return refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
        };
        let name = format!("{host}/{name}");
        match (method.as_str(), part) {
            ("GET" | "HEAD", "manifests") => {
                match self.repositories.get(&name).and_then(|known| known.manifest(reference)) {
                    Some((digest, media_type, bytes)) => {
                        let length = bytes.len();
                        let body = if method == Method::HEAD { Bytes::new() } else { bytes };
                        Response::builder()
                            .header(header::CONTENT_TYPE, media_type)
                            .header(header::CONTENT_LENGTH, length)
                            .header("docker-content-digest", digest)
                            .body(body)
                            .expect("a response")
                    }
                    None => refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
                }
            }
            ("GET", "blobs") => {
                match self.repositories.get(&name).and_then(|known| known.blobs.get(reference)) {
                    Some(blob) => Response::new(blob.clone()),
                    None => refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
                }
            }
            ("PUT", "manifests") => {
                let digest = Digest::of(body).to_string();
                let repository = self.repository(&name);
                if !repository.manifests.contains_key(&digest) {
                    return refusal(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN");
                }
                repository.tags.insert(reference.into(), digest.clone());
                let mut answer = Response::new(Bytes::new());
                *answer.status_mut() = StatusCode::CREATED;
                answer
                    .headers_mut()
                    .insert("docker-content-digest", digest.parse().expect("a header"));
                answer
            }
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        }
    }
}

impl Repository {
    fn manifest(&self, reference: &str) -> Option<(String, &'static str, Bytes)> {
        let digest =
            if reference.starts_with("sha256:") { reference } else { self.tags.get(reference)? };
        let (media_type, bytes) = self.manifests.get(digest)?;
        Some((digest.into(), media_type, bytes.clone()))
    }

    /// Keeps an image for one platform; its digest.
    pub fn push(&mut self, content: &Content, annotations: &BTreeMap<String, String>) -> String {
        let config = content.config();
        let descriptor = |media_type: &str, digest: &str, size: usize| json!({"mediaType": media_type, "digest": digest, "size": size});
        let config_digest = Digest::of(&config).to_string();
        let layers: Vec<Value> = content
            .layers
            .iter()
            .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer, 1000))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len()),
            "layers": layers,
            "annotations": annotations,
        });
        let digest = self.keep(OCI_MANIFEST, &manifest);
        self.blobs.insert(config_digest, config);
        self.contents.insert(
            digest.clone(),
            format!("{} {}", content.architecture, content.layers.join(" ")),
        );
        self.layers.insert(digest.clone(), content.layers.clone());
        digest
    }

    /// Keeps an index over images that are kept already; its digest.
    pub fn push_index(&mut self, images: &[(String, &'static str)]) -> String {
        let entries: Vec<Value> = images
            .iter()
            .map(|(digest, architecture)| {
                json!({
                    "mediaType": OCI_MANIFEST,
                    "digest": digest,
                    "size": 100,
                    "platform": {"os": "linux", "architecture": architecture},
                })
            })
            .collect();
        let digest = self.keep(
            OCI_INDEX,
            &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}),
        );
        let contents: Vec<&str> =
            images.iter().map(|(digest, _)| self.contents[digest].as_str()).collect();
        let contents = contents.join("|");
        self.contents.insert(digest.clone(), contents);
        let built = images.iter().find(|(_, architecture)| *architecture == PLATFORM);
        if let Some(layers) = built.and_then(|(digest, _)| self.layers.get(digest)).cloned() {
            self.layers.insert(digest.clone(), layers);
        }
        digest
    }

    fn keep(&mut self, media_type: &'static str, manifest: &Value) -> String {
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::of(&bytes).to_string();
        self.manifests.insert(digest.clone(), (media_type, bytes));
        digest
    }
}

/// The digest of a layer that these words determine.
pub fn layer(words: &[&str]) -> String {
    Digest::of(words.join("\n").as_bytes()).to_string()
}

fn refusal(status: StatusCode, code: &str) -> Response<Bytes> {
    let body = json!({"errors": [{"code": code, "message": "no"}]}).to_string();
    Response::builder().status(status).body(body.into()).expect("a response")
}
