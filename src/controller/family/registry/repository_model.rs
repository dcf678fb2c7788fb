//! A model of a registry with one repository that can fail, for tests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use serde_json::{Value, json};

use crate::{
    build_records::{
        RecordPolicy, RecordSettings,
        keys::tests::{key, keys},
        statement::{BuildStatement, RecordedInputs, StatementKind},
    },
    controller::{
        family::registry::{
            build_records::{RecordStore, recorded_family},
            pushed_image::{Repository, present},
            rebuilds::{MarkError, set_rebuild_mark},
            retag_unchanged::keep_digest,
        },
        object_cache::Key,
    },
    engine::{Lookup, LookupResult, Problem},
    identity::Fingerprint,
    registry::{
        Client, Config, Digest, Keychain, OCI_INDEX, OCI_MANIFEST,
        fault_registry::{FaultRegistry, FaultReply, RecordedRequest, not_found, reply},
    },
};

/// A fingerprint of a build.
pub(super) const F1: &str = "1111111111111111111111111111111111111111";
/// The fingerprint of a later build.
pub(super) const F2: &str = "2222222222222222222222222222222222222222";

/// Manifests by tag and by digest, with their types; blobs by digest; the status that answers
/// every PUT; and the status that answers a PUT that would move a tag.
#[derive(Default)]
pub(super) struct RepositoryContent {
    pub(super) manifests: HashMap<String, (&'static str, Vec<u8>)>,
    pub(super) blobs: HashMap<String, Vec<u8>>,
    pub(super) refuses: Option<u16>,
    pub(super) keeps_tags: Option<u16>,
}

/// A registry with one repository.
pub(super) struct RegistryModel {
    pub(super) content: Arc<Mutex<RepositoryContent>>,
    pub(super) registry: FaultRegistry,
    pub(super) client: Client,
    pub(super) keychain: Keychain,
    pub(super) settings: RecordSettings,
    pub(super) family: Key,
}

impl RegistryModel {
    pub(super) async fn start() -> Self {
        let content = Arc::new(Mutex::new(RepositoryContent::default()));
        let served = Arc::clone(&content);
        let registry = FaultRegistry::start(move |request| {
            serve(&mut served.lock().expect("content"), request)
        })
        .await;
        let config = Config {
            plain_http: vec![registry.address.to_string()],
            timeout: crate::api::Duration::from_secs(20),
            ..Config::default()
        };
        Self {
            content,
            registry,
            client: Client::new(config).expect("client"),
            keychain: Keychain::default(),
            settings: RecordSettings {
                keys: keys(&[("2026", &key())]),
                policy: RecordPolicy::Required,
            },
            family: Key::new("team", "apps"),
        }
    }

    /// Returns a statement about digests, the one that counts first.
    pub(super) fn statement(
        &self,
        kind: StatementKind,
        fingerprint: &str,
        digests: &[&Digest],
    ) -> BuildStatement {
        BuildStatement {
            kind,
            family: recorded_family(&self.family),
            repository: self.repository().full_name(),
            fingerprint: fingerprint.into(),
            digests: digests.iter().map(|digest| digest.as_str().into()).collect(),
            inputs: RecordedInputs::default(),
        }
    }

    /// Points the tag of a fingerprint back to a digest.
    pub(super) async fn keep(
        &self,
        lookup: &Lookup,
        kept: &Digest,
        built: &Digest,
    ) -> Result<LookupResult, Problem> {
        let repository = self.repository();
        let store = RecordStore::new(&repository, &self.settings, &self.family);
        let fingerprint = lookup.fingerprint.as_str();
        let statement = self.statement(StatementKind::Unchanged, fingerprint, &[kept, built]);
        Ok(keep_digest(&store, lookup, &statement).await?.result)
    }

    /// Marks a digest as the newest build of the inputs with a fingerprint.
    pub(super) async fn mark(
        &self,
        fingerprint: &Fingerprint,
        digest: &Digest,
    ) -> Result<(), MarkError> {
        let repository = self.repository();
        let store = RecordStore::new(&repository, &self.settings, &self.family);
        let kind = StatementKind::Rebuild;
        let statement = self.statement(kind, fingerprint.as_str(), &[digest]);
        set_rebuild_mark(&store, &digest.as_str().into(), &statement).await
    }

    /// Returns whether a record says that a digest is the result of a fingerprint.
    pub(super) async fn is_recorded(&self, tag: &str, fingerprint: &str, digest: &Digest) -> bool {
        let repository = self.repository();
        let store = RecordStore::new(&repository, &self.settings, &self.family);
        let found = store.find(tag, &fingerprint.into(), &digest.as_str().into()).await;
        found.expect("an answer").is_some()
    }

    pub(super) fn repository(&self) -> Repository<'_> {
        let name = format!("{}/team/app", self.registry.address);
        Repository::new(&self.client, &self.keychain, &name).expect("repository")
    }

    pub(super) fn store(
        &self,
        tag: Option<&str>,
        media_type: &'static str,
        manifest: &Value,
    ) -> Digest {
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let mut content = self.content.lock().expect("content");
        for name in tag.into_iter().chain([digest.as_str()]) {
            content.manifests.insert(name.into(), (media_type, bytes.clone()));
        }
        digest
    }

    /// Pushes an image with these layers, and with the annotations of a build of ours if its
    /// fingerprint and number are given.
    pub(super) fn push(
        &self,
        tag: Option<&str>,
        architecture: &str,
        layers: &[&str],
        ours: Option<(&str, i64)>,
    ) -> Digest {
        self.push_for(tag, architecture, layers, ours, None)
    }

    /// Pushes an image that this request has rebuilt.
    pub(super) fn push_for(
        &self,
        tag: Option<&str>,
        architecture: &str,
        layers: &[&str],
        ours: Option<(&str, i64)>,
        request: Option<&str>,
    ) -> Digest {
        let diff_ids: Vec<Digest> =
            layers.iter().map(|layer| Digest::of(layer.as_bytes())).collect();
        let config = json!({
            "os": "linux", "architecture": architecture, "rootfs": { "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let descriptor = |digest: Digest, size: usize| {
            json!({
                "mediaType": "text/plain", "digest": digest, "size": size,
            })
        };
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(Digest::of(&config), config.len()),
            "layers": diff_ids.into_iter().map(|layer| descriptor(layer, 100)).collect::<Vec<_>>(),
        });
        if let Some((fingerprint, build)) = ours {
            manifest["annotations"] = json!({
                "dev.groundswell.fingerprint": fingerprint,
                "dev.groundswell.build": build.to_string(),
            });
        }
        if let Some(request) = request {
            manifest["annotations"]["dev.groundswell.request"] = json!(request);
        }
        self.content.lock().expect("content").blobs.insert(Digest::of(&config).to_string(), config);
        self.store(tag, OCI_MANIFEST, &manifest)
    }

    /// Pushes an index of pushed images and an attestation.
    pub(super) fn push_index(&self, tag: &str, images: &[(&str, &Digest)]) -> Digest {
        let entry = |os: &str, architecture: &str, digest: &Digest| {
            let platform = json!({ "os": os, "architecture": architecture });
            json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "platform": platform })
        };
        let mut entries: Vec<Value> = images
            .iter()
            .map(|(architecture, digest)| entry("linux", architecture, digest))
            .collect();
        entries.push(entry(
            "unknown",
            "unknown",
            &Digest::of(b"an attestation that nobody asks for"),
        ));
        self.store(
            Some(tag),
            OCI_INDEX,
            &json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }),
        )
    }

    pub(super) async fn present(&self, tag: &str) -> LookupResult {
        let repository = self.repository();
        let manifest = repository.tagged(tag).await.expect("answer").expect("a manifest");
        present(&manifest, &repository.images(&manifest).await.expect("images"))
    }

    pub(super) async fn has_fingerprint(&self, tag: &str, fingerprint: &str) -> bool {
        let repository = self.repository();
        let manifest = repository.tagged(tag).await.expect("answer").expect("a manifest");
        repository.has_fingerprint(&manifest, &fingerprint.into()).await.expect("answer")
    }

    pub(super) fn tagged(&self, tag: &str) -> Option<Digest> {
        let content = self.content.lock().expect("content");
        content.manifests.get(tag).map(|(_, bytes)| Digest::of(bytes))
    }
}

pub(super) fn serve(content: &mut RepositoryContent, request: &RecordedRequest) -> FaultReply {
    let nothing = || not_found("MANIFEST_UNKNOWN");
    let Some(path) = request.target.strip_prefix("/v2/team/app/") else { return nothing() };
    match (request.method.as_str(), path.split_once('/')) {
        ("PUT", Some(("manifests", name))) => {
            let kept = content.keeps_tags.filter(|_| content.manifests.contains_key(name));
            if let Some(status) = content.refuses.or(kept) {
                return reply(status, &[], Body::empty());
            }
            content.manifests.insert(name.into(), (OCI_MANIFEST, request.body.clone()));
            reply(
                201,
                &[("docker-content-digest", Digest::of(&request.body).as_str())],
                Body::empty(),
            )
        }
        (method, Some(("manifests", name))) => {
            let Some((media_type, bytes)) = content.manifests.get(name) else { return nothing() };
            let (digest, length) = (Digest::of(bytes), bytes.len().to_string());
            let headers =
                [("content-type", *media_type), ("docker-content-digest", digest.as_str())];
            let body = if method == "HEAD" { Body::empty() } else { Body::from(bytes.clone()) };
            reply(200, &[headers[0], headers[1], ("content-length", &length)], body)
        }
        (_, Some(("blobs", digest))) => {
            content.blobs.get(digest).map_or_else(nothing, |blob| reply(200, &[], blob.clone()))
        }
        _ => nothing(),
    }
}

pub(super) fn tag(fingerprint: &str) -> String {
    format!("gs-{fingerprint}")
}

/// What a lookup has found.
#[derive(Debug, PartialEq)]
pub(super) struct FoundBuild<'a> {
    pub(super) digest: &'a str,
    pub(super) build: i64,
    pub(super) is_comparable: bool,
}

pub(super) fn found(result: &LookupResult) -> FoundBuild<'_> {
    match result {
        LookupResult::Present { digest, build, content, blobs, .. } => {
            assert_eq!(content.is_some(), blobs.is_some());
            let is_comparable = content.is_some();
            FoundBuild { digest: digest.as_str(), build: *build, is_comparable }
        }
        other => panic!("{other:?}"),
    }
}
