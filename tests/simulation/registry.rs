//! Registries in memory: manifests, configs and tags, and the builds that they came from.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use groundswell::registry::{Digest, OCI_INDEX, OCI_MANIFEST};
use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

/// The platform of every build.
pub const PLATFORM: &str = "amd64";
/// A second platform that some upstreams require.
pub const OTHER_PLATFORM: &str = "arm64";

/// Returns the digest that builds use of an adopted digest or a candidate, as a status records it.
pub fn built_digest(recorded: &Value) -> Option<&str> {
    let platform = format!("linux/{PLATFORM}");
    let mut images = recorded["platforms"].as_array().into_iter().flatten();
    let image = images.find(|image| image["platform"] == platform.as_str());
    image.unwrap_or(recorded)["digest"].as_str()
}

/// The inputs of a build, as its pod received them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOrigin {
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
    /// The builds that produced each digest.
    pub origins: BTreeMap<String, Vec<BuildOrigin>>,
    /// The order in which digests were first pushed.
    pub order: BTreeMap<String, usize>,
    /// The content of each digest that a user would notice.
    contents: BTreeMap<String, String>,
    /// The layers of each digest for [`PLATFORM`].
    layers: BTreeMap<String, Vec<String>>,
    /// The manifest for [`PLATFORM`] of each index.
    built: BTreeMap<String, String>,
    /// Manifests that a tag has offered together with every other platform.
    complete: BTreeSet<String>,
}

/// All registries, by `host/path` of their repositories.
#[derive(Debug, Default)]
pub struct Registry {
    pub repositories: BTreeMap<String, Repository>,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Content {
    pub architecture: &'static str,
    pub layers: Vec<String>,
    /// Determines the time of creation, which a user would not notice.
    pub created: u64,
}

impl Content {
    fn config(&self) -> Bytes {
        let created =
            format!("2026-01-01T{:02}:{:02}:00Z", self.created / 60 % 24, self.created % 60);
        let entry = json!({"created": created, "created_by": "RUN"});
        let history = vec![entry; self.layers.len()];
        let config = json!({
            "os": "linux",
            "architecture": self.architecture,
            "created": created,
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": self.layers},
            "history": history,
        });
        config.to_string().into()
    }
}

impl Registry {
    pub fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.into()).or_default()
    }

    /// Returns the digest that a tag points to.
    pub fn tag(&self, repository: &str, tag: &str) -> Option<&str> {
        self.repositories.get(repository)?.tags.get(tag).map(String::as_str)
    }

    /// Returns the content of `repository@digest` that a user would notice.
    pub fn content(&self, pinned: &str) -> Option<&str> {
        let (repository, digest) = pinned.split_once('@')?;
        self.repositories.get(repository)?.contents.get(digest).map(String::as_str)
    }

    /// Returns the layers of `repository@digest` for [`PLATFORM`].
    pub fn layers(&self, pinned: &str) -> Option<&[String]> {
        let (repository, digest) = pinned.split_once('@')?;
        self.repositories.get(repository)?.layers.get(digest).map(Vec::as_slice)
    }

    /// Returns the digest that builds use of what a tag points to.
    pub fn followed(&self, repository: &str, tag: &str) -> Option<String> {
        let digest = self.tag(repository, tag)?;
        let built = self.repositories.get(repository)?.built.get(digest).map(String::as_str);
        Some(built.unwrap_or(digest).to_owned())
    }

    /// Points a tag to an index.
    pub fn set_tag(&mut self, repository: &str, tag: &str, digest: &str) {
        let offers_all = self.offers_all(&format!("{repository}@{digest}"));
        let known = self.repository(repository);
        known.tags.insert(tag.into(), digest.into());
        if let Some(built) = known.built.get(digest).filter(|_| offers_all).cloned() {
            known.complete.insert(built);
        }
    }

    /// Returns whether `repository@digest` offers every platform, or was offered together with
    /// every other.
    pub fn offers_all(&self, pinned: &str) -> bool {
        let is_complete = pinned.split_once('@').is_some_and(|(repository, digest)| {
            self.repositories.get(repository).is_some_and(|known| known.complete.contains(digest))
        });
        is_complete
            || self.content(pinned).is_some_and(|content| {
                content.contains(PLATFORM) && content.contains(OTHER_PLATFORM)
            })
    }

    /// Returns the builds that produced `repository@digest`.
    pub fn origins(&self, pinned: &str) -> &[BuildOrigin] {
        let found = pinned.split_once('@').and_then(|(repository, digest)| {
            self.repositories.get(repository)?.origins.get(digest).map(Vec::as_slice)
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
            return error_response(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
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
                    None => error_response(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
                }
            }
            ("GET", "blobs") => {
                match self.repositories.get(&name).and_then(|known| known.blobs.get(reference)) {
                    Some(blob) => Response::new(blob.clone()),
                    None => error_response(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
                }
            }
            ("POST", "uploads") => Response::builder()
                .status(StatusCode::ACCEPTED)
                .header(header::LOCATION, format!("/v2/{path}1"))
                .body(Bytes::new())
                .expect("a response"),
            ("PUT", "uploads") => {
                let name = name.trim_end_matches("/blobs").to_owned();
                let digest = Digest::of(body).to_string();
                self.repository(&name).blobs.insert(digest, body.clone());
                Response::builder().status(StatusCode::CREATED).body(Bytes::new()).expect("one")
            }
            ("PUT", "manifests") => {
                let digest = Digest::of(body).to_string();
                let repository = self.repository(&name);
                if is_record(reference) && repository.has_blobs(body) {
                    repository.manifests.insert(digest.clone(), (OCI_MANIFEST, body.clone()));
                }
                if !repository.manifests.contains_key(&digest) {
                    return error_response(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN");
                }
                repository.tags.insert(reference.into(), digest.clone());
                let mut answer = Response::new(Bytes::new());
                *answer.status_mut() = StatusCode::CREATED;
                answer
                    .headers_mut()
                    .insert("docker-content-digest", digest.parse().expect("a header"));
                answer
            }
            _ => error_response(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        }
    }
}

/// Returns whether this is the tag of a build's record.
pub fn is_record(tag: &str) -> bool {
    tag.starts_with("gs-") && tag.ends_with("-record")
}

impl Repository {
    /// Returns whether the blobs that the manifest of a record refers to exist.
    fn has_blobs(&self, manifest: &Bytes) -> bool {
        let manifest: Value = serde_json::from_slice(manifest).expect("a manifest");
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let mut blobs = layers.chain([&manifest["config"]]);
        blobs.all(|blob| blob["digest"].as_str().is_some_and(|it| self.blobs.contains_key(it)))
    }

    fn manifest(&self, reference: &str) -> Option<(String, &'static str, Bytes)> {
        let digest =
            if reference.starts_with("sha256:") { reference } else { self.tags.get(reference)? };
        let (media_type, bytes) = self.manifests.get(digest)?;
        Some((digest.into(), media_type, bytes.clone()))
    }

    /// Stores an image for one platform and returns its digest.
    pub fn push(&mut self, content: &Content, annotations: &BTreeMap<String, String>) -> String {
        let config = content.config();
        let descriptor = |type_: &str, digest: &str, size: usize| {
            let media_type = json!(type_);
            json!({"mediaType": media_type, "digest": digest, "size": size})
        };
        let config_digest = Digest::of(&config).to_string();
        let layers: Vec<Value> = content
            .layers
            .iter()
            .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer, 1000))
            .collect();
        let config_type = "application/vnd.oci.image.config.v1+json";
        let config_descriptor = descriptor(config_type, &config_digest, config.len());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config_descriptor,
            "layers": layers,
            "annotations": annotations,
        });
        let digest = self.keep(OCI_MANIFEST, &manifest);
        let order = self.order.len();
        self.order.entry(digest.clone()).or_insert(order);
        self.blobs.insert(config_digest, config);
        self.contents.insert(
            digest.clone(),
            format!("{} {}", content.architecture, content.layers.join(" ")),
        );
        self.layers.insert(digest.clone(), content.layers.clone());
        digest
    }

    /// Stores an index of images that are stored already, and returns its digest.
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
        if let Some((manifest, _)) = built {
            self.built.insert(digest.clone(), manifest.clone());
        }
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

/// Returns the digest of the layer that these words determine.
pub fn layer(words: &[&str]) -> String {
    Digest::of(words.join("\n").as_bytes()).to_string()
}

fn error_response(status: StatusCode, code: &str) -> Response<Bytes> {
    let body = json!({"errors": [{"code": code, "message": "no"}]}).to_string();
    Response::builder().status(status).body(body.into()).expect("a response")
}
