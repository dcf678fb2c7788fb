//! What a registry has, and how tags are moved in it, against a model of a registry that can fail.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use serde_json::{Value, json};

use crate::{
    api::{Inputs, condition::Reason},
    build_records::{
        RecordPolicy, RecordSettings,
        keys::tests::{key, keys},
        statement::{BuildStatement, RecordedInputs, StatementKind},
    },
    controller::{
        family::registry::{
            build_records::{RecordStore, recorded_family},
            existing_image::is_build_of_another,
            pushed_image::{BaseComparison, Repository, present},
            rebuilds::{MarkError, find_rebuild, set_rebuild_mark},
            recognition::{Recognition, recognize_by_record, record_build},
            retag_unchanged::keep_digest,
        },
        object_cache::Key,
    },
    engine::{Lookup, LookupResult, Problem, fingerprint::fingerprint, tags::Tag},
    identity::{BlobsHash, ContentHash, Fingerprint},
    registry::{
        Client, Config, Digest, Keychain, OCI_INDEX, OCI_MANIFEST, Platform,
        fault_registry::{FaultRegistry, FaultReply, RecordedRequest, not_found, reply},
    },
};

/// A fingerprint of a build.
const F1: &str = "1111111111111111111111111111111111111111";
/// The fingerprint of a later build.
const F2: &str = "2222222222222222222222222222222222222222";

/// Manifests by tag and by digest, with their types; blobs by digest; the status that answers
/// every PUT; and the status that answers a PUT that would move a tag.
#[derive(Default)]
struct RepositoryContent {
    manifests: HashMap<String, (&'static str, Vec<u8>)>,
    blobs: HashMap<String, Vec<u8>>,
    refuses: Option<u16>,
    keeps_tags: Option<u16>,
}

/// A registry with one repository.
struct RegistryModel {
    content: Arc<Mutex<RepositoryContent>>,
    registry: FaultRegistry,
    client: Client,
    keychain: Keychain,
    settings: RecordSettings,
    family: Key,
}

impl RegistryModel {
    async fn start() -> Self {
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
    fn statement(
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
    async fn keep(
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
    async fn mark(&self, fingerprint: &Fingerprint, digest: &Digest) -> Result<(), MarkError> {
        let repository = self.repository();
        let store = RecordStore::new(&repository, &self.settings, &self.family);
        let kind = StatementKind::Rebuild;
        let statement = self.statement(kind, fingerprint.as_str(), &[digest]);
        set_rebuild_mark(&store, &digest.as_str().into(), &statement).await
    }

    /// Returns whether a record says that a digest is the result of a fingerprint.
    async fn is_recorded(&self, tag: &str, fingerprint: &str, digest: &Digest) -> bool {
        let repository = self.repository();
        let store = RecordStore::new(&repository, &self.settings, &self.family);
        let found = store.find(tag, &fingerprint.into(), &digest.as_str().into()).await;
        found.expect("an answer").is_some()
    }

    fn repository(&self) -> Repository<'_> {
        let name = format!("{}/team/app", self.registry.address);
        Repository::new(&self.client, &self.keychain, &name).expect("repository")
    }

    fn store(&self, tag: Option<&str>, media_type: &'static str, manifest: &Value) -> Digest {
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
    fn push(
        &self,
        tag: Option<&str>,
        architecture: &str,
        layers: &[&str],
        ours: Option<(&str, i64)>,
    ) -> Digest {
        self.push_for(tag, architecture, layers, ours, None)
    }

    /// Pushes an image that this request has rebuilt.
    fn push_for(
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
    fn push_index(&self, tag: &str, images: &[(&str, &Digest)]) -> Digest {
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

    async fn present(&self, tag: &str) -> LookupResult {
        let repository = self.repository();
        let manifest = repository.tagged(tag).await.expect("answer").expect("a manifest");
        present(&manifest, &repository.images(&manifest).await.expect("images"))
    }

    async fn has_fingerprint(&self, tag: &str, fingerprint: &str) -> bool {
        let repository = self.repository();
        let manifest = repository.tagged(tag).await.expect("answer").expect("a manifest");
        repository.has_fingerprint(&manifest, &fingerprint.into()).await.expect("answer")
    }

    fn tagged(&self, tag: &str) -> Option<Digest> {
        let content = self.content.lock().expect("content");
        content.manifests.get(tag).map(|(_, bytes)| Digest::of(bytes))
    }
}

fn serve(content: &mut RepositoryContent, request: &RecordedRequest) -> FaultReply {
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

fn tag(fingerprint: &str) -> String {
    format!("gs-{fingerprint}")
}

/// What a lookup has found.
#[derive(Debug, PartialEq)]
struct FoundBuild<'a> {
    digest: &'a str,
    build: i64,
    is_comparable: bool,
}

fn found(result: &LookupResult) -> FoundBuild<'_> {
    match result {
        LookupResult::Present { digest, build, content, blobs, .. } => {
            assert_eq!(content.is_some(), blobs.is_some());
            let is_comparable = content.is_some();
            FoundBuild { digest: digest.as_str(), build: *build, is_comparable }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pushed_image_is_described() {
    let model = RegistryModel::start().await;
    let digest = model.push(Some("1"), "amd64", &["base", "app"], Some((F1, 7)));
    let LookupResult::Present { digest: found, build, size, content, blobs, .. } =
        model.present("1").await
    else {
        panic!("not present")
    };
    assert_eq!((found, build), (digest.as_str().into(), 7));
    assert!((200..1000).contains(&size), "two layers of 100 bytes and a configuration: {size}");
    let texts =
        content.as_ref().map(ContentHash::as_str).zip(blobs.as_ref().map(BlobsHash::as_str));
    assert!(texts.is_some_and(|(content, blobs)| content != blobs));
    model.push(Some("2"), "amd64", &["base", "app"], Some((F2, 8)));
    let LookupResult::Present { content: other, blobs: other_blobs, .. } = model.present("2").await
    else {
        panic!("not present")
    };
    assert_eq!((other, other_blobs), (content, blobs), "annotations are not content");
}

#[tokio::test]
async fn the_last_build_is_found_by_floating_and_numbered_tags() {
    let tags = |floats: bool| {
        move |build: i64| {
            let floating =
                floats.then(|| Tag { name: "latest".into(), immutable: false, ..Tag::default() });
            floating
                .into_iter()
                .chain([Tag { name: format!("r{build}"), immutable: true, ..Tag::default() }])
                .collect::<Vec<_>>()
        }
    };
    let model = RegistryModel::start().await;
    let last = async |floats| model.repository().last_build(tags(floats)).await.expect("an answer");
    assert_eq!(last(true).await, None);
    model.push(Some("latest"), "amd64", &["app"], Some((F1, 5)));
    assert_eq!((last(true).await, last(false).await), (Some(5), None));
    // The cascade did not complete: build 6 has failed, and builds 7 and 8 were pushed.
    for later in ["r7", "r8"] {
        model.push(Some(later), "amd64", &["app"], Some((F2, 7)));
    }
    assert_eq!((last(true).await, last(false).await), (Some(8), None));
    model.push(Some("r1"), "amd64", &["app"], Some((F2, 1)));
    model.push(Some("r4"), "amd64", &["app"], Some((F2, 4)));
    assert_eq!(last(false).await, Some(8), "from gap to gap");

    model.push(Some("x-f2"), "amd64", &["app"], Some((F2, 4)));
    let of_fingerprint = |_| vec![Tag { name: "x-f2".into(), immutable: true, ..Tag::default() }];
    assert_eq!(
        model.repository().last_build(of_fingerprint).await.expect("an answer"),
        None,
        "it names no build"
    );

    for hostile in [i64::MAX, 0, -1] {
        model.push(Some("latest"), "amd64", &["app"], Some((F1, hostile)));
        assert_eq!(last(true).await, Some(8), "{hostile}");
        assert_eq!(found(&model.present("latest").await).build, 1, "{hostile}");
    }
}

#[tokio::test]
async fn an_index_is_described_by_its_images() {
    let model = RegistryModel::start().await;
    let amd = model.push(None, "amd64", &["base", "app"], None);
    let arm = model.push(None, "arm64", &["base", "app"], None);
    model.push_index("1", &[("amd64", &amd), ("arm64", &arm)]);
    let LookupResult::Present { size, content: both, .. } = model.present("1").await else {
        panic!("not present")
    };
    assert!((200..1000).contains(&size), "shared layers are stored once: {size}");
    model.push_index("2", &[("amd64", &amd)]);
    let LookupResult::Present { content: one, .. } = model.present("2").await else {
        panic!("not present")
    };
    assert_ne!(one, both);

    let many: Vec<(&str, &Digest)> = std::iter::repeat_n(("amd64", &amd), 33).collect();
    model.push_index("3", &many);
    let repository = model.repository();
    let manifest = repository.tagged("3").await.expect("answer").expect("a manifest");
    let problem = repository.images(&manifest).await.expect_err("too many");
    assert_eq!(problem.reason, Reason::InvalidRegistryResponse);
    assert!(problem.message.contains("more than 32 images"), "{}", problem.message);
}

#[tokio::test]
async fn a_retagged_build_is_distinguished_from_a_foreign_image() {
    let model = RegistryModel::start().await;
    let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
    assert!(model.has_fingerprint(&tag(F1), F1).await);
    assert!(
        !model.registry.request_lines().iter().any(|asked| asked.starts_with("HEAD")),
        "its own tag says enough"
    );

    assert_eq!(model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F1, 7))), kept);
    assert!(
        model.has_fingerprint(&tag(F2), F2).await,
        "the same image under the tag of its own fingerprint"
    );

    model.push(Some(&tag(F1)), "amd64", &["base", "other"], Some((F1, 7)));
    assert!(!model.has_fingerprint(&tag(F2), F2).await, "its own tag points to another image");
    model.content.lock().expect("content").manifests.remove(&tag(F1));
    assert!(!model.has_fingerprint(&tag(F2), F2).await, "its own tag is gone");

    model.push(Some(&tag(F2)), "amd64", &["base", "app"], None);
    assert!(!model.has_fingerprint(&tag(F2), F2).await, "not a build of ours");
    let before = model.registry.request_lines().len();
    for written in ["latest", "../../other/app/manifests/1", "é"] {
        model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((written, 7)));
        assert!(!model.has_fingerprint(&tag(F2), F2).await, "{written}");
    }
    assert_eq!(
        model.registry.request_lines().len() - before,
        3,
        "what is no fingerprint is not asked for"
    );
}

#[tokio::test]
async fn an_image_is_built_on_its_base_if_it_begins_with_its_layers() {
    use BaseComparison::{IsBase, NotOffered, OtherLayers, OtherPlatform};

    let model = RegistryModel::start().await;
    let amd = model.push(None, "amd64", &["base amd64"], None);
    let arm = model.push(None, "arm64", &["base arm64"], None);
    let base = model.push_index("base", &[("amd64", &amd), ("arm64", &arm)]);
    let only_amd = model.push_index("amd", &[("amd64", &amd)]);
    let unknown = model.push(None, "", &["base arm64"], None);
    let repository = model.repository();
    let Ok(platform) = "linux/arm64".parse::<Platform>();
    for (base, layers, expected) in [
        (&base, &["base arm64", "app"][..], IsBase),
        (&base, &["base arm64"], IsBase),
        // The image of another platform proves nothing: a child must not change architecture.
        (&base, &["base amd64", "app"], OtherLayers),
        (&base, &["app", "base arm64"], OtherLayers),
        (&base, &[], OtherLayers),
        (&arm, &["base arm64", "app"], IsBase),
        (&unknown, &["base arm64", "app"], IsBase),
        (&amd, &["base amd64", "app"], OtherPlatform(Platform::default())),
        (&only_amd, &["base amd64", "app"], NotOffered),
    ] {
        model.push(Some("app"), "arm64", layers, None);
        let manifest = repository.tagged("app").await.expect("answer").expect("a manifest");
        let images = repository.images(&manifest).await.expect("images");
        let compared = repository.compare_base(base, &images, &platform).await;
        assert_eq!(compared, Ok(expected), "{base} {layers:?}");
    }
    let asked = model.registry.request_lines();
    let of =
        |digest: &Digest| asked.iter().filter(|asked| asked.ends_with(digest.as_str())).count();
    assert_eq!((of(&arm), of(&amd)), (1, 1), "a digest is read once");
}

#[tokio::test]
async fn the_platforms_of_a_tag_are_read() {
    let model = RegistryModel::start().await;
    let arm = model.push(Some("1"), "arm64", &["app"], None);
    model.push_index("2", &[("arm64", &arm), ("amd64", &arm)]);
    let repository = model.repository();
    for (tag, expected) in [("1", &["linux/arm64"][..]), ("2", &["linux/amd64", "linux/arm64"])] {
        let manifest = repository.tagged(tag).await.expect("answer").expect("a manifest");
        let platforms = repository.platforms(&manifest).await.expect("platforms");
        let platforms: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        assert_eq!(platforms, expected);
    }
}

#[tokio::test]
async fn a_build_that_changed_nothing_is_retagged() {
    let model = RegistryModel::start().await;
    let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
    let rebuilt = model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F2, 8)));
    assert_ne!(kept, rebuilt);
    let lookup = Lookup { fingerprint: F2.into(), result: model.present(&tag(F2)).await };
    // Twice: a process may die after the first.
    for _ in 0..2 {
        let result = model.keep(&lookup, &kept, &rebuilt).await.expect("retagged");
        let expected = FoundBuild { digest: kept.as_str(), build: 7, is_comparable: true };
        assert_eq!(found(&result), expected);
        assert_eq!(model.tagged(&tag(F2)), Some(kept.clone()));
        assert!(
            model.has_fingerprint(&tag(F2), F2).await,
            "and a process without a cache finds it"
        );
        for digest in [&kept, &rebuilt] {
            assert!(model.is_recorded(&tag(F2), F2, digest).await, "before and after the retag");
        }
    }
}

#[tokio::test]
async fn a_build_that_cannot_be_retagged_uses_its_own_digest() {
    for (gone, refuses) in [(true, None), (false, Some(412)), (false, Some(403))] {
        let model = RegistryModel::start().await;
        let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
        let rebuilt = model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F2, 8)));
        let lookup = Lookup { fingerprint: F2.into(), result: model.present(&tag(F2)).await };
        if gone {
            model.content.lock().expect("content").manifests.remove(kept.as_str());
        }
        model.content.lock().expect("content").refuses = refuses;
        let result = model.keep(&lookup, &kept, &rebuilt).await.expect("an answer");
        let expected = FoundBuild { digest: rebuilt.as_str(), build: 8, is_comparable: false };
        assert_eq!(found(&result), expected, "{gone} {refuses:?}");
        assert_eq!(model.tagged(&tag(F2)), Some(rebuilt));
    }
}

#[tokio::test]
async fn a_retag_is_retried_while_the_registry_is_unreachable() {
    let model = RegistryModel::start().await;
    let kept = model.push(Some(&tag(F1)), "amd64", &["base", "app"], Some((F1, 7)));
    let rebuilt = model.push(Some(&tag(F2)), "amd64", &["base", "app"], Some((F2, 8)));
    let lookup = Lookup { fingerprint: F2.into(), result: model.present(&tag(F2)).await };
    model.content.lock().expect("content").refuses = Some(503);
    let problem = model.keep(&lookup, &kept, &rebuilt).await.expect_err("unreachable");
    assert_eq!(problem.reason, Reason::RegistryUnavailable);
    model.content.lock().expect("content").refuses = None;
    assert!(model.keep(&lookup, &kept, &rebuilt).await.is_ok());
}

#[tokio::test]
async fn a_build_of_ours_from_other_inputs_is_not_what_others_have_pushed() {
    let model = RegistryModel::start().await;
    model.push(Some("ours"), "amd64", &["a"], Some((F1, 1)));
    model.push(Some("theirs"), "amd64", &["a"], None);
    for (tag, wanted, is_another) in
        [("ours", F1, false), ("ours", F2, true), ("theirs", F1, false)]
    {
        let manifest = model.repository().tagged(tag).await.expect("answer").expect("a manifest");
        assert_eq!(is_build_of_another(&manifest, &wanted.into()), is_another, "{tag} {wanted}");
    }
}

#[tokio::test]
async fn a_marked_rebuild_is_found_with_its_request() {
    let inputs = Inputs { source: "s".into(), ..Inputs::default() };
    let requested = |id: &str| Inputs { nonce: id.into(), ..inputs.clone() };
    let (plain, first, second) =
        (fingerprint(&inputs), fingerprint(&requested("r:1")), fingerprint(&requested("r:2")));
    let model = RegistryModel::start().await;
    let repository = model.repository();
    let store = RecordStore::new(&repository, &model.settings, &model.family);
    let find = async || find_rebuild(&store, &plain, &inputs).await.expect("an answer");
    let build = |fingerprint: &str, number: i64, request: Option<&str>| {
        model.push_for(
            Some(&tag(fingerprint)),
            "amd64",
            &["x"],
            Some((fingerprint, number)),
            request,
        )
    };
    build(plain.as_str(), 1, None);
    assert_eq!(find().await, None, "nothing is marked");
    for (number, made, id) in [(2, &first, "r:1"), (3, &second, "r:2")] {
        let digest = build(made.as_str(), number, Some(id));
        // Twice: a process may die after the first.
        for _ in 0..2 {
            let marked = model.mark(&plain, &digest).await;
            assert!(marked.is_ok(), "{marked:?}");
        }
        let Some(LookupResult::Present { digest: found, build, request, .. }) = find().await else {
            panic!("not found")
        };
        assert_eq!((found.as_str(), build), (digest.as_str(), number));
        assert_eq!(request.as_deref(), Some(id));
    }
    // A request that has not made this build from these inputs is not believed.
    let other = build(F1, 4, Some("r:1"));
    model.mark(&plain, &other).await.expect("set");
    let Some(LookupResult::Present { digest, request, .. }) = find().await else {
        panic!("not found")
    };
    assert_eq!((digest.as_str(), request), (other.as_str(), None));
    // What is no build of ours is not found.
    let foreign = model.push(None, "amd64", &["y"], None);
    model.mark(&plain, &foreign).await.expect("set");
    assert_eq!(find().await, None);
    // A mark that somebody else has set has no record.
    model.mark(&plain, &other).await.expect("set");
    build(plain.as_str(), 1, None);
    let mark = format!("{}-rebuilt", tag(plain.as_str()));
    let original = model.push(Some(&mark), "amd64", &["x"], Some((plain.as_str(), 1)));
    assert_eq!(model.tagged(&mark), Some(original));
    assert_eq!(find().await, None);
}

#[tokio::test]
async fn a_registry_that_forbids_a_mark_is_not_asked_for_it_again() {
    let model = RegistryModel::start().await;
    let digest = model.push(Some(&tag(F1)), "amd64", &["x"], Some((F1, 2)));
    for (status, is_transient) in [(403, false), (412, false), (503, true)] {
        model.content.lock().expect("content").refuses = Some(status);
        let error = model.mark(&F2.into(), &digest).await.expect_err("refused");
        assert_eq!(error.is_transient, is_transient, "{status}");
    }
}

#[tokio::test]
async fn a_record_counts_for_one_family_one_repository_one_fingerprint_and_one_digest() {
    let mut model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let other = model.push(Some(&tag(F2)), "amd64", &["b"], Some((F2, 2)));
    assert!(!model.is_recorded(&tag(F1), F1, &built).await, "nothing is recorded");
    let write = async |tag: &str, statement: &BuildStatement, digest: &Digest| {
        let repository = model.repository();
        let image = repository.manifest(digest).await.expect("a manifest");
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        store.write(tag, statement, &image).await.expect("written");
    };
    let of_build =
        |fingerprint, digest| model.statement(StatementKind::Build, fingerprint, &[digest]);
    write(&tag(F1), &of_build(F1, &built), &built).await;
    assert!(model.is_recorded(&tag(F1), F1, &built).await);
    assert!(!model.is_recorded(&tag(F1), F1, &other).await, "another digest");
    // Whoever may push copies the record of an earlier build to the tag of another one.
    write(&tag(F2), &of_build(F1, &built), &built).await;
    assert!(!model.is_recorded(&tag(F2), F2, &built).await, "an earlier build");
    let elsewhere = BuildStatement { repository: "r.test/other".into(), ..of_build(F2, &other) };
    write(&tag(F2), &elsewhere, &other).await;
    assert!(!model.is_recorded(&tag(F2), F2, &other).await, "another repository");
    // Whoever may push to a shared prefix declares the same image in a namespace of their own.
    let of_another = BuildStatement { family: "other/apps".into(), ..of_build(F2, &other) };
    write(&tag(F2), &of_another, &other).await;
    assert!(!model.is_recorded(&tag(F2), F2, &other).await, "another family");
    write(&tag(F2), &of_build(F2, &other), &other).await;
    assert!(model.is_recorded(&tag(F2), F2, &other).await);
    // A build is no mark of a rebuild, and the other way around.
    let mark = format!("{}-rebuilt", tag(F1));
    write(&mark, &of_build(F1, &built), &built).await;
    assert!(!model.is_recorded(&mark, F1, &built).await);
    let of_mark = model.statement(StatementKind::Rebuild, F2, &[&other]);
    write(&tag(F2), &of_mark, &other).await;
    assert!(!model.is_recorded(&tag(F2), F2, &other).await);
    // The record is an artifact that refers to the image.
    let record = model.repository().tagged(&format!("{}-record", tag(F1))).await;
    let record = record.expect("answer").expect("a record");
    let written: Value = serde_json::from_slice(&record.bytes).expect("JSON");
    assert_eq!(written["subject"]["digest"], built.as_str());
    // With another key, nothing that was recorded counts.
    model.settings.keys = keys(&[("2027", &key())]);
    assert!(!model.is_recorded(&tag(F1), F1, &built).await);
}

#[tokio::test]
async fn a_record_that_cannot_be_replaced_is_enough() {
    let model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let repository = model.repository();
    let store = RecordStore::new(&repository, &model.settings, &model.family);
    let image = repository.manifest(&built).await.expect("a manifest");
    let statement = model.statement(StatementKind::Build, F1, &[&built]);
    model.content.lock().expect("content").refuses = Some(412);
    let refused = store.ensure(&tag(F1), &statement, &image).await.expect_err("refused");
    assert_eq!(refused.problem.reason, Reason::PushRefused);
    model.content.lock().expect("content").refuses = None;
    let signer = store.ensure(&tag(F1), &statement, &image).await.expect("written");
    model.content.lock().expect("content").refuses = Some(412);
    assert_eq!(store.ensure(&tag(F1), &statement, &image).await, Ok(signer));
}

#[tokio::test]
async fn keys_are_replaced_where_no_tag_can_be_moved() {
    for status in [400, 403, 409, 412] {
        let mut model = RegistryModel::start().await;
        model.content.lock().expect("content").keeps_tags = Some(status);
        let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
        let image = model.repository().manifest(&built).await.expect("a manifest");
        let statement = model.statement(StatementKind::Build, F1, &[&built]);
        let (old, new, newest) = (key(), key(), key());
        for held in [
            keys(&[("2026", &old)]),
            keys(&[("2026", &old), ("2027", &new)]),
            keys(&[("2027", &new)]),
            keys(&[("2027", &new), ("2028", &newest)]),
        ] {
            let signer = held.signer().id().to_owned();
            model.settings.keys = held;
            // Twice: a process may die after the first.
            for _ in 0..2 {
                let repository = model.repository();
                let store = RecordStore::new(&repository, &model.settings, &model.family);
                let recorded = store.ensure(&tag(F1), &statement, &image).await;
                assert_eq!(recorded.as_ref(), Ok(&signer), "{status}");
                let found = store.find(&tag(F1), &F1.into(), &built.as_str().into()).await;
                assert_eq!(found.as_ref(), Ok(&Some(signer.clone())), "{status}");
            }
        }
        model.settings.keys = keys(&[("2026", &old)]);
        assert!(model.is_recorded(&tag(F1), F1, &built).await, "the first one is still there");
        model.settings.keys = keys(&[("2029", &key())]);
        assert!(!model.is_recorded(&tag(F1), F1, &built).await);
    }
}

#[tokio::test]
async fn an_earlier_key_stays_in_use_where_no_record_can_be_written() {
    let mut model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let image = model.repository().manifest(&built).await.expect("a manifest");
    let statement = model.statement(StatementKind::Build, F1, &[&built]);
    let (old, new) = (key(), key());
    let mut recorded = Vec::new();
    for (refuses, held) in [
        (None, keys(&[("2026", &old)])),
        (Some(403), keys(&[("2026", &old), ("2027", &new)])),
        (None, keys(&[("2026", &old), ("2027", &new)])),
    ] {
        model.content.lock().expect("content").refuses = refuses;
        model.settings.keys = held;
        let repository = model.repository();
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        recorded.push(store.ensure(&tag(F1), &statement, &image).await.expect("a record"));
    }
    let (first, last) = (keys(&[("2026", &old)]), keys(&[("2027", &new)]));
    assert_eq!(recorded, [first.signer().id(), first.signer().id(), last.signer().id()]);
}

#[tokio::test]
async fn a_family_records_its_builds_where_another_has_taken_the_tag() {
    let model = RegistryModel::start().await;
    model.content.lock().expect("content").keeps_tags = Some(412);
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let repository = model.repository();
    let image = repository.manifest(&built).await.expect("a manifest");
    for name in ["theirs", "ours"] {
        let family = Key::new("team", name);
        let store = RecordStore::new(&repository, &model.settings, &family);
        let found = async || store.find(&tag(F1), &F1.into(), &built.as_str().into()).await;
        assert_eq!(found().await, Ok(None), "{name}");
        let statement = BuildStatement {
            family: recorded_family(&family),
            ..model.statement(StatementKind::Build, F1, &[&built])
        };
        let signer = model.settings.keys.signer().id().to_owned();
        assert_eq!(store.ensure(&tag(F1), &statement, &image).await, Ok(signer.clone()));
        assert_eq!(found().await, Ok(Some(signer)), "{name}");
    }
}

#[tokio::test]
async fn a_build_without_a_record_counts_only_where_records_are_not_required() {
    let mut model = RegistryModel::start().await;
    let built = model.push(Some(&tag(F1)), "amd64", &["a"], Some((F1, 1)));
    let image = model.repository().manifest(&built).await.expect("a manifest");
    let statement = model.statement(StatementKind::Build, F1, &[&built]);
    let (fingerprint, digest) = (F1.into(), built.as_str().into());
    let signer = model.settings.keys.signer().id().to_owned();
    for (policy, expected) in [
        (RecordPolicy::Required, Recognition::Unknown),
        (RecordPolicy::Warn, Recognition::Unrecorded),
    ] {
        model.settings.policy = policy;
        let repository = model.repository();
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        let recognized = recognize_by_record(&store, &fingerprint, &digest).await;
        assert_eq!(recognized, Ok(expected), "{policy:?}");
        // A registry that takes no record.
        model.content.lock().expect("content").refuses = Some(403);
        let recorded = record_build(&store, "app", &statement, &image).await;
        model.content.lock().expect("content").refuses = None;
        match recorded {
            Err(problem) if policy == RecordPolicy::Required => {
                assert!(problem.message.starts_with("app was pushed as "), "{problem:?}");
            }
            recorded => assert_eq!((policy, recorded), (RecordPolicy::Warn, Ok(None))),
        }
    }
    for policy in [RecordPolicy::Warn, RecordPolicy::Required] {
        model.settings.policy = policy;
        let repository = model.repository();
        let store = RecordStore::new(&repository, &model.settings, &model.family);
        // What is believed is recorded, and counts without the setting from then on.
        if policy == RecordPolicy::Warn {
            let recorded = record_build(&store, "app", &statement, &image).await;
            assert_eq!(recorded.map(|it| it.map(|it| it.key)), Ok(Some(signer.clone())));
        }
        let recognized = recognize_by_record(&store, &fingerprint, &digest).await;
        assert_eq!(recognized, Ok(Recognition::Recorded(signer.clone())), "{policy:?}");
    }
}
