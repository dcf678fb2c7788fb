//! Resolving a tag to its digest in a registry.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{
    api::{
        PlatformDigest, TagContent,
        condition::{Problem, Reason},
    },
    registry::{
        Client, CredentialIdentity, DOCKER_MANIFEST, Digest, Index, IndexEntry, Keychain, Manifest,
        ManifestHead, ManifestKind, OCI_MANIFEST, Platform, PlatformEntry, Reference,
        RegistryError, image_of,
    },
    upstream::PollFailure,
};

/// Maximum number of images of an index that are kept. An index with more is followed as a whole.
const MAX_ENTRIES: usize = 64;
/// Maximum number of images without a platform whose configurations are read.
const MAX_UNNAMED_ENTRIES: usize = 4;
/// Maximum number of characters of an artifact's type in a message.
const MAX_ARTIFACT_TYPE: usize = 100;

/// What is needed to know of a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum TagNeeds {
    /// Its digest.
    #[default]
    Digest,
    /// Its digest, the images of its index, and which of the required platforms it does not offer.
    Images {
        /// The required platforms.
        required: Vec<String>,
    },
}

/// A tag, what is needed of it and the credential. Families with equal keys share one poll;
/// different credentials never share a poll.
#[derive(Clone)]
pub struct ImageKey {
    reference: String,
    needs: TagNeeds,
    identity: Option<CredentialIdentity>,
    keychain: Arc<Keychain>,
    /// The host that serves the registry.
    host: Arc<str>,
    /// The reference in the form in which references are compared.
    canonical: Arc<str>,
}

/// What a tag points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamDigest {
    /// The digest that the tag itself points to.
    pub tagged: String,
    /// The images of its index that name their platform. The list is empty if the tag points to no
    /// index or to one that cannot be read, if its images name no platforms, and if only the digest
    /// is needed.
    pub images: Vec<PlatformEntry>,
    /// The required platforms that the tag does not offer.
    pub missing_platforms: Vec<String>,
    /// Whether `images` are only those that an earlier process has recorded. They are named by the
    /// platforms that were built, and not by those of the index.
    pub is_partial: bool,
}

impl UpstreamDigest {
    /// Returns the digest of the image that a build for a platform uses, or `None` if there is none
    /// among `images`.
    #[must_use]
    pub fn image_for(&self, platform: &Platform) -> Option<&str> {
        if self.is_partial {
            let mut images = self.images.iter();
            return images
                .find(|image| image.platform == *platform)
                .map(|image| image.digest.as_str());
        }
        image_of(&self.images, platform).map(Digest::as_str)
    }

    /// Returns what an earlier process has recorded of a tag, or `None` if that is not enough to
    /// rely on.
    #[must_use]
    pub fn recorded(content: TagContent<'_>) -> Option<Self> {
        let image = |image: &PlatformDigest| {
            let platform = Platform::from_user(&image.platform)?;
            Some(PlatformEntry { platform, digest: image.digest.parse().ok()? })
        };
        let images: Vec<PlatformEntry> = content.platforms.iter().filter_map(image).collect();
        let tagged = content.digest.to_owned();
        let found = Self { tagged, images, missing_platforms: Vec::new(), is_partial: true };
        (!found.images.is_empty()).then_some(found)
    }
}

impl ImageKey {
    /// Creates the key of a reference, `host/repository:tag`.
    #[must_use]
    pub fn new(
        client: &Client,
        reference: &str,
        needs: &TagNeeds,
        keychain: &Arc<Keychain>,
    ) -> Self {
        let parsed: Option<Reference> = reference.parse().ok();
        let host = parsed.as_ref().map(|parsed| client.serving_host(parsed.registry()));
        let canonical = parsed.as_ref().map(ToString::to_string);
        let identity = parsed.map(|parsed| client.identity(&parsed, keychain));
        let mut needs = needs.clone();
        if let TagNeeds::Images { required } = &mut needs {
            required.sort();
        }
        Self {
            reference: reference.into(),
            needs,
            identity,
            keychain: Arc::clone(keychain),
            host: host.unwrap_or_default().into(),
            canonical: canonical.unwrap_or_default().into(),
        }
    }

    /// Returns the reference in the form in which references are compared:
    /// `docker.io/library/alpine:3.20`. Empty for what is no reference.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Returns the host that serves the tag's registry: it is polled at one rate, whichever of its
    /// names is used.
    #[must_use]
    pub fn host(&self) -> String {
        self.host.to_string()
    }

    /// Returns what tells two keys apart. The keychain does not: its identity is among these.
    fn distinction(&self) -> KeyDistinction<'_> {
        KeyDistinction {
            reference: &self.reference,
            needs: &self.needs,
            identity: self.identity.as_ref(),
        }
    }
}

/// What two [`ImageKey`]s are compared by. Their host follows from the reference.
#[derive(PartialEq, Eq, Hash)]
struct KeyDistinction<'a> {
    reference: &'a str,
    needs: &'a TagNeeds,
    identity: Option<&'a CredentialIdentity>,
}

impl PartialEq for ImageKey {
    fn eq(&self, other: &Self) -> bool {
        self.distinction() == other.distinction()
    }
}

impl Eq for ImageKey {}

impl Hash for ImageKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.distinction().hash(state);
    }
}

impl fmt::Debug for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageKey").field(&self.reference).field(&self.needs).finish()
    }
}

/// Resolves the tag; see [`poll_tag`].
pub async fn resolve_tag(
    client: &Client,
    key: &ImageKey,
    last: Option<&UpstreamDigest>,
) -> Result<UpstreamDigest, Problem> {
    poll_tag(client, key, last).await.map_err(|failure| failure.problem)
}

/// Resolves the tag. It sends a HEAD, which registries do not count as a pull. The manifest itself
/// is read only if the digest has changed since `last`, and if more than the digest is needed.
pub async fn poll_tag(
    client: &Client,
    key: &ImageKey,
    last: Option<&UpstreamDigest>,
) -> Result<UpstreamDigest, PollFailure> {
    let reference: Reference = key.reference.parse().map_err(Problem::from)?;
    let last_digest = last.and_then(|last| last.tagged.parse().ok());
    let Some(found) = client.poll(&reference, &key.keychain, last_digest.as_ref()).await? else {
        let message = format!(
            "{reference} does not exist in the registry; correct the image or the tag, or push the \
             image"
        );
        return Err(Problem { reason: Reason::ImageNotFound, message }.into());
    };
    let tagged = found.digest.to_string();
    if let Some(last) = last.filter(|last| last.tagged == tagged) {
        return Ok(last.clone());
    }
    let tag = TagContentReader { client, keychain: &key.keychain, tag: &reference };
    let (images, missing_platforms) = match &key.needs {
        TagNeeds::Images { required } if !required.is_empty() => {
            tag.required(&found, required).await?
        }
        TagNeeds::Images { .. } => (tag.any(&found).await?, Vec::new()),
        TagNeeds::Digest => (Vec::new(), Vec::new()),
    };
    Ok(UpstreamDigest { tagged, images, missing_platforms, is_partial: false })
}

/// Reads what a tag points to.
struct TagContentReader<'a> {
    client: &'a Client,
    keychain: &'a Keychain,
    tag: &'a Reference,
}

impl TagContentReader<'_> {
    /// Returns the images of an index, and which of the required platforms are missing.
    async fn required(
        &self,
        found: &ManifestHead,
        required: &[String],
    ) -> Result<(Vec<PlatformEntry>, Vec<String>), PollFailure> {
        let by_digest = self.tag.with_digest(&found.digest);
        let manifest = self.client.known_manifest(&by_digest, self.keychain).await?;
        self.reject_artifact(&manifest)?;
        let offered = match &manifest.kind {
            ManifestKind::Index(index) => self.offered(index).await?,
            ManifestKind::Image(image) => {
                vec![self.client.config(&by_digest, image, self.keychain).await?.platform]
            }
        };
        let is_missing =
            |required: &&String| !offered.iter().any(|offered| platform_matches(offered, required));
        let missing = required.iter().filter(is_missing).cloned().collect();
        Ok((images(Some(&manifest)), missing))
    }

    /// Returns the images of an index. What cannot be read is followed by its digest, which says as
    /// much.
    async fn any(&self, found: &ManifestHead) -> Result<Vec<PlatformEntry>, PollFailure> {
        let by_digest = self.tag.with_digest(&found.digest);
        let media_type = found.media_type.as_deref();
        let is_image =
            media_type.is_some_and(|known| [OCI_MANIFEST, DOCKER_MANIFEST].contains(&known));
        let manifest = match self.client.readable_manifest(&by_digest, self.keychain).await {
            // A single image need not be read; only an artifact would be noticed.
            Err(error) if is_image && error.is_transient() => None,
            manifest => manifest?,
        };
        if let Some(manifest) = &manifest {
            self.reject_artifact(manifest)?;
        }
        Ok(images(manifest.as_ref()))
    }

    /// Returns the platforms of an index. Images that are listed without one say in their
    /// configuration what they are for.
    async fn offered(&self, index: &Index) -> Result<Vec<Platform>, RegistryError> {
        let mut offered = index.platforms();
        let is_unnamed =
            |entry: &&IndexEntry| entry.platform.as_ref().is_none_or(|known| !known.is_known());
        for entry in index.images().filter(is_unnamed).take(MAX_UNNAMED_ENTRIES) {
            let image = self.tag.with_digest(&entry.descriptor.digest);
            let manifest = self.client.known_manifest(&image, self.keychain).await?;
            if let ManifestKind::Image(content) = &manifest.kind {
                offered.push(self.client.config(&image, content, self.keychain).await?.platform);
            }
        }
        Ok(offered)
    }

    /// Rejects what is no image, such as a chart or a signature: no build can be built on it.
    fn reject_artifact(&self, manifest: &Manifest) -> Result<(), PollFailure> {
        let Some(artifact) = manifest.artifact_type() else { return Ok(()) };
        let artifact: String =
            artifact.chars().filter(|c| !c.is_control()).take(MAX_ARTIFACT_TYPE).collect();
        let message = format!(
            "{} is not an image, but an artifact of the type {artifact}; follow a tag of an image",
            self.tag
        );
        Err(Problem { reason: Reason::InvalidRegistryResponse, message }.into())
    }
}

/// Returns the images of an index that name their platform. Of an index with too many it returns
/// none.
fn images(manifest: Option<&Manifest>) -> Vec<PlatformEntry> {
    let Some(ManifestKind::Index(index)) = manifest.map(|manifest| &manifest.kind) else {
        return Vec::new();
    };
    let entries = index.platform_entries();
    if entries.len() > MAX_ENTRIES { Vec::new() } else { entries }
}

/// Whether an offered platform satisfies the required one, in any spelling. A required platform
/// without a variant is satisfied by any variant.
fn platform_matches(offered: &Platform, required: &str) -> bool {
    let Ok(platform) = required.parse::<Platform>();
    let any_variant = required.split('/').count() < 3;
    *offered == platform
        || any_variant
            && (&offered.os, &offered.architecture) == (&platform.os, &platform.architecture)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::Body;

    use super::*;
    use crate::registry::{
        Config, Digest, OCI_INDEX,
        fault_registry::{FaultRegistry, reply},
    };

    #[test]
    fn a_platform_without_a_variant_matches_any_variant() {
        for (offered, required, expected) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm/v6", "linux/arm", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm64", "linux/arm", false),
            ("linux/amd64", "windows/amd64", false),
        ] {
            let Ok(platform) = offered.parse();
            assert_eq!(platform_matches(&platform, required), expected, "{offered} {required}");
        }
    }

    /// What the tag of a served repository points to.
    type Served = Arc<Mutex<(&'static str, String)>>;

    /// Starts a registry with one tag.
    async fn registry(media_type: &'static str, body: &str) -> (FaultRegistry, Served) {
        let served = Arc::new(Mutex::new((media_type, body.to_owned())));
        let state = Arc::clone(&served);
        let respond = move |request: &crate::registry::fault_registry::RecordedRequest| {
            let (media_type, body) = state.lock().expect("state").clone();
            let (length, head) = (body.len().to_string(), request.method == "HEAD");
            let digest = Digest::of(body.as_bytes()).to_string();
            let headers = [
                ("content-type", media_type),
                ("docker-content-digest", &digest),
                ("content-length", &length),
            ];
            reply(200, &headers, if head { Body::empty() } else { Body::from(body) })
        };
        (FaultRegistry::start(respond).await, served)
    }

    /// Returns an index whose images are named by platform and content.
    fn index(images: &[(&str, &str)]) -> String {
        let entry = |(platform, content): &(&str, &str)| {
            let mut entry = serde_json::json!({
                "mediaType": OCI_MANIFEST, "digest": Digest::of(content.as_bytes()), "size": 1,
            });
            if let Some((os, architecture)) = platform.split_once('/') {
                entry["platform"] = serde_json::json!({ "os": os, "architecture": architecture });
            }
            entry
        };
        let manifests: Vec<_> = images.iter().map(entry).collect();
        serde_json::json!({ "schemaVersion": 2, "manifests": manifests }).to_string()
    }

    /// A client of the registry, and the keys of its tag.
    struct ServedTag {
        registry: FaultRegistry,
        client: Client,
    }

    impl ServedTag {
        fn new(registry: FaultRegistry) -> Self {
            let plain_http = vec![registry.address.to_string()];
            let client = Client::new(Config { plain_http, ..Config::default() }).expect("client");
            Self { registry, client }
        }

        fn key(&self, needs: &TagNeeds) -> ImageKey {
            let reference = format!("{}/team/app:1", self.registry.address);
            ImageKey::new(&self.client, &reference, needs, &Arc::new(Keychain::default()))
        }

        /// Returns the key of an upstream that requires these platforms.
        fn upstream(&self, required: &[&str]) -> ImageKey {
            let required = required.iter().map(ToString::to_string).collect();
            self.key(&TagNeeds::Images { required })
        }

        async fn resolve(&self, key: &ImageKey, last: Option<&UpstreamDigest>) -> UpstreamDigest {
            resolve_tag(&self.client, key, last).await.expect("a digest")
        }

        fn gets(&self) -> usize {
            let lines = self.registry.request_lines();
            lines.iter().filter(|request| request.starts_with("GET")).count()
        }
    }

    fn digest_of(content: &str) -> String {
        Digest::of(content.as_bytes()).to_string()
    }

    fn image_for(found: &UpstreamDigest, platform: &str) -> Option<String> {
        let Ok(platform) = platform.parse();
        found.image_for(&platform).map(str::to_owned)
    }

    #[tokio::test]
    async fn a_manifest_is_read_only_for_a_new_digest() {
        let body = index(&[("linux/amd64", "x"), ("linux/arm64", "y")]);
        let (registry, _) = registry(OCI_INDEX, &body).await;
        let tag = ServedTag::new(registry);

        let any = tag.resolve(&tag.key(&TagNeeds::Digest), None).await;
        assert_eq!((any.tagged, any.images.len(), tag.gets()), (digest_of(&body), 0, 0));

        let first = tag.resolve(&tag.upstream(&[]), None).await;
        assert_eq!((first.tagged.clone(), tag.gets()), (digest_of(&body), 1));
        assert_eq!(image_for(&first, "linux/amd64"), Some(digest_of("x")));
        assert_eq!(image_for(&first, "linux/arm64"), Some(digest_of("y")), "read once for all");
        assert_eq!(image_for(&first, "linux/s390x"), None);
        let second = tag.resolve(&tag.upstream(&[]), Some(&first)).await;
        assert_eq!((second, tag.gets()), (first, 1));

        // What was recorded of the same tag is enough for the platforms that it names.
        let recorded = [PlatformDigest { platform: "linux/amd64".into(), digest: digest_of("x") }];
        let digest = digest_of(&body);
        let content = TagContent { digest: &digest, platforms: &recorded };
        let seed = UpstreamDigest::recorded(content).expect("a seed");
        let third = tag.resolve(&tag.upstream(&[]), Some(&seed)).await;
        assert_eq!((image_for(&third, "linux/amd64"), tag.gets()), (Some(digest_of("x")), 1));
        assert!(third.is_partial && image_for(&third, "linux/arm64").is_none());
        assert_eq!(image_for(&third, "linux/amd64/v2"), None, "the index may offer a better one");

        let required = tag.upstream(&["linux/amd64", "linux/s390x"]);
        let missing = tag.resolve(&required, None).await.missing_platforms;
        assert_eq!(missing, ["linux/s390x"]);
    }

    #[tokio::test]
    async fn a_tag_without_an_index_is_read_once() {
        let (registry, _) = registry(OCI_MANIFEST, "an image").await;
        let tag = ServedTag::new(registry);
        let found = tag.resolve(&tag.upstream(&[]), None).await;
        assert_eq!((found.tagged.as_str(), found.images.len()), (&*digest_of("an image"), 0));
        tag.resolve(&tag.upstream(&[]), Some(&found)).await;
        assert_eq!(tag.gets(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_read_of_an_index_does_not_stop_the_upstream() {
        let (registry, served) = registry(OCI_INDEX, "").await;
        let tag = ServedTag::new(registry);
        let readable = index(&[("linux/amd64", "x")]);
        let entry =
            serde_json::from_str::<serde_json::Value>(&readable).expect("JSON")["manifests"][0]
                .to_string();
        let of = |entries: &[&str]| {
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
        };
        let artifact = entry.replace(&digest_of("x"), &digest_of("a"));
        let nested = artifact.replace(OCI_MANIFEST, OCI_INDEX);
        let artifact = artifact.replacen('{', r#"{"artifactType":"application/x","#, 1);
        let foreign = entry.replace("sha256:", "sha512:").replace("amd64", "arm64");
        let sizeless = entry.replace(r#""size":1"#, r#""urls":[]"#).replace("amd64", "s390x");
        let bare = entry.replace(r#"{"architecture":"amd64","os":"linux"}"#, "{}");
        assert!(bare.contains(r#""platform":{}"#), "{bare}");
        let many: Vec<String> =
            (0..=MAX_ENTRIES).map(|n| entry.replace("amd64", &format!("a{n}"))).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (body, expected) in [
            // Entries that cannot be read, or that are no images, are left out.
            (readable.replacen('{', r#"{"annotations":null,"#, 1), Some("x")),
            (of(&[&foreign, &entry]), Some("x")),
            (of(&[&sizeless, &entry, "null", "5"]), Some("x")),
            (of(&[&artifact, &nested, &entry]), Some("x")),
            // What says nothing of platforms is followed as a whole.
            (of(&[&bare]), None),
            (of(&[&entry.replace(r#""linux""#, "null").replace(r#""amd64""#, "null")]), None),
            (r#"{"schemaVersion":1}"#.to_owned(), None),
            (r#"{"schemaVersion":2,"manifests":null}"#.to_owned(), None),
            ("no manifest".to_owned(), None),
            (format!("{readable}{}", " ".repeat(crate::registry::MAX_MANIFEST_BYTES)), None),
            (of(&many), None),
        ] {
            served.lock().expect("state").1.clone_from(&body);
            let found = tag.resolve(&tag.upstream(&[]), None).await;
            let shown = &body[..body.len().min(300)];
            assert_eq!(found.tagged, digest_of(&body), "{shown}");
            assert_eq!(image_for(&found, "linux/amd64"), expected.map(digest_of), "{shown}");
            assert_eq!(found.images.len(), usize::from(expected.is_some()), "{shown}");
        }
        // A required platform cannot be looked for in it.
        served.lock().expect("state").1 = "no manifest".to_owned();
        let key = tag.upstream(&["linux/amd64"]);
        assert!(resolve_tag(&tag.client, &key, None).await.is_err());
    }
}
