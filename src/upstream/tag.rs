//! Resolving a tag to its digest in a registry.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{
    api::condition::{Problem, reason},
    registry::{
        Client, CredentialIdentity, DOCKER_MANIFEST, Keychain, ManifestKind, OCI_MANIFEST,
        Platform, Reference,
    },
};

/// What a family needs of the image that a tag points to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TagNeeds {
    /// The platform that is built, if it is only one. The digest is then that of the platform's own
    /// manifest, so that a change of the index that does not concern the platform is no change.
    pub built_for: Option<Platform>,
    /// Further platforms that the image must offer.
    pub required: Vec<String>,
}

/// A tag, what is needed of it and the credential. Families with equal keys share one poll;
/// different credentials never share a poll.
#[derive(Clone)]
pub struct ImageKey {
    reference: String,
    needs: TagNeeds,
    identity: Option<CredentialIdentity>,
    keychain: Arc<Keychain>,
}

/// The digest that a tag points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamDigest {
    /// The digest to build from: that of the manifest for the built platform, or that of the tag
    /// if it points to no index, if no single platform is built, or if the index does not say for
    /// which platforms its images are.
    pub digest: String,
    /// The digest that the tag itself points to.
    pub tagged: String,
    /// The required platforms, and the built one, if the image does not offer them.
    pub missing_platforms: Vec<String>,
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
        let identity = parsed.map(|parsed| client.identity(&parsed, keychain));
        let mut needs = needs.clone();
        needs.required.sort();
        Self { reference: reference.into(), needs, identity, keychain: Arc::clone(keychain) }
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

/// What two [`ImageKey`]s are compared by.
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

/// Resolves the tag. It sends a HEAD, which registries do not count as a pull. The manifest itself
/// is read only if the digest has changed since `last` and the key needs platforms; for the built
/// platform alone only if it is an index.
pub async fn resolve_tag(
    client: &Client,
    key: &ImageKey,
    last: Option<&UpstreamDigest>,
) -> Result<UpstreamDigest, Problem> {
    let reference: Reference = key.reference.parse()?;
    let Some(found) = client.head(&reference, &key.keychain).await? else {
        let message = format!(
            "{reference} does not exist in the registry; correct the image or the tag, or push the \
             image"
        );
        return Err(Problem { reason: reason::IMAGE_NOT_FOUND, message });
    };
    let tagged = found.digest.to_string();
    if let Some(last) = last.filter(|last| last.tagged == tagged) {
        return Ok(last.clone());
    }
    let TagNeeds { built_for, required } = &key.needs;
    let is_image = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&found.media_type.as_str());
    if required.is_empty() && (built_for.is_none() || is_image) {
        return Ok(UpstreamDigest { digest: tagged.clone(), tagged, missing_platforms: vec![] });
    }
    let by_digest = reference.with_digest(&found.digest);
    let manifest = client.manifest(&by_digest, &key.keychain).await?;
    let (digest, built_is_missing, offered) = match &manifest.kind {
        ManifestKind::Index(index) => {
            let offered = index.platforms();
            let built = built_for.as_ref().map(|built| index.image_for(built));
            let digest = built.flatten().map(|entry| entry.descriptor.digest.to_string());
            // An index that names no platforms is left to the builder.
            let is_missing = built == Some(None) && !offered.is_empty();
            (digest, is_missing, offered)
        }
        ManifestKind::Image(_) if required.is_empty() => (None, false, Vec::new()),
        ManifestKind::Image(image) => {
            let config = client.config(&by_digest, image, &key.keychain).await?;
            (None, false, vec![config.platform])
        }
    };
    let missing = required
        .iter()
        .filter(|required| !offered.iter().any(|offered| platform_matches(offered, required)));
    let mut missing: Vec<String> = missing.cloned().collect();
    if let Some(built) = built_for.as_ref().filter(|_| built_is_missing)
        && !missing.iter().any(|missing| platform_matches(built, missing))
    {
        missing.push(built.to_string());
    }
    let digest = digest.unwrap_or_else(|| tagged.clone());
    Ok(UpstreamDigest { digest, tagged, missing_platforms: missing })
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

        fn key(&self, built_for: Option<&str>, required: &[&str]) -> ImageKey {
            let reference = format!("{}/team/app:1", self.registry.address);
            let needs = TagNeeds {
                built_for: built_for.and_then(Platform::from_user),
                required: required.iter().map(ToString::to_string).collect(),
            };
            ImageKey::new(&self.client, &reference, &needs, &Arc::new(Keychain::default()))
        }

        async fn resolve(&self, key: &ImageKey, last: Option<&UpstreamDigest>) -> UpstreamDigest {
            resolve_tag(&self.client, key, last).await.expect("a digest")
        }

        fn gets(&self) -> usize {
            let lines = self.registry.request_lines();
            lines.iter().filter(|request| request.starts_with("GET")).count()
        }
    }

    #[tokio::test]
    async fn a_manifest_is_read_only_for_a_new_digest_and_needed_platforms() {
        let body = index(&[("linux/amd64", "x")]);
        let (registry, _) = registry(OCI_INDEX, &body).await;
        let tag = ServedTag::new(registry);
        let digest = Digest::of(body.as_bytes());

        let any = tag.resolve(&tag.key(None, &[]), None).await;
        assert_eq!(
            (any.digest.as_str(), any.missing_platforms.len(), tag.gets()),
            (digest.as_str(), 0, 0)
        );

        let with_platforms = tag.key(None, &["linux/amd64", "linux/arm64"]);
        let first = tag.resolve(&with_platforms, None).await;
        assert_eq!(
            (first.missing_platforms.as_slice(), tag.gets()),
            (&["linux/arm64".to_owned()][..], 1)
        );
        let second = tag.resolve(&with_platforms, Some(&first)).await;
        assert_eq!((second, tag.gets()), (first, 1));
    }

    #[tokio::test]
    async fn the_digest_is_that_of_the_built_platform() {
        let (registry, served) = registry(OCI_INDEX, &index(&[("linux/amd64", "1")])).await;
        let tag = ServedTag::new(registry);
        let key = tag.key(Some("linux/amd64"), &[]);
        let of = |content: &str| Digest::of(content.as_bytes()).to_string();
        let mut last = tag.resolve(&key, None).await;
        assert_eq!((last.digest.clone(), tag.gets()), (of("1"), 1));
        assert_ne!(last.tagged, last.digest);
        // Other platforms and attestations change nothing.
        for others in [
            &[("linux/arm64", "2"), ("linux/amd64", "1")][..],
            &[("linux/amd64", "1"), ("linux/arm64", "3"), ("unknown/unknown", "attestation")],
        ] {
            served.lock().expect("state").1 = index(others);
            let next = tag.resolve(&key, Some(&last)).await;
            assert_eq!((&next.digest, next.missing_platforms.len()), (&last.digest, 0));
            assert_ne!(next.tagged, last.tagged);
            last = next;
        }
        served.lock().expect("state").1 = index(&[("linux/amd64", "4"), ("linux/arm64", "3")]);
        assert_eq!(tag.resolve(&key, Some(&last)).await.digest, of("4"));

        let body = index(&[("linux/arm64", "3")]);
        served.lock().expect("state").1 = body.clone();
        let lacking = tag.resolve(&key, None).await;
        assert_eq!(
            (lacking.digest, lacking.missing_platforms),
            (of(&body), vec!["linux/amd64".into()])
        );
        let required = tag.key(Some("linux/amd64"), &["linux/amd64", "linux/s390x"]);
        let missing = tag.resolve(&required, None).await.missing_platforms;
        assert_eq!(missing, ["linux/amd64", "linux/s390x"], "each is named once");

        let unlabelled = index(&[("", "5")]);
        served.lock().expect("state").1 = unlabelled.clone();
        let left = tag.resolve(&key, None).await;
        assert_eq!((left.digest, left.missing_platforms.len()), (of(&unlabelled), 0));
    }

    #[tokio::test]
    async fn a_tag_without_an_index_is_not_read() {
        let (registry, _) = registry(OCI_MANIFEST, "an image").await;
        let tag = ServedTag::new(registry);
        let found = tag.resolve(&tag.key(Some("linux/arm64"), &[]), None).await;
        assert_eq!((found.digest.as_str(), tag.gets()), (found.tagged.as_str(), 0));
        assert_eq!(found.digest, Digest::of(b"an image").to_string());
    }
}
