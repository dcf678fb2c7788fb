//! Resolving a tag to its digest in a registry.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{
    api::condition::{Problem, reason},
    registry::{Client, CredentialIdentity, Keychain, ManifestKind, Platform, Reference},
};

/// A tag, the platforms required of it and the credential. Families with equal keys share one poll;
/// different credentials never share a poll.
#[derive(Clone)]
pub struct ImageKey {
    reference: String,
    platforms: Vec<String>,
    identity: Option<CredentialIdentity>,
    keychain: Arc<Keychain>,
}

/// The digest that a tag points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamDigest {
    /// The digest; that of the index if the tag points to an index.
    pub digest: String,
    /// The required platforms that the image does not offer.
    pub missing_platforms: Vec<String>,
}

impl ImageKey {
    /// Creates the key of a reference, `host/repository:tag`, that must offer these platforms.
    #[must_use]
    pub fn new(
        client: &Client,
        reference: &str,
        platforms: &[String],
        keychain: &Arc<Keychain>,
    ) -> Self {
        let parsed: Option<Reference> = reference.parse().ok();
        let identity = parsed.map(|parsed| client.identity(&parsed, keychain));
        let mut platforms = platforms.to_vec();
        platforms.sort();
        Self { reference: reference.into(), platforms, identity, keychain: Arc::clone(keychain) }
    }

    /// Returns what tells two keys apart. The keychain does not: its identity is among these.
    fn distinction(&self) -> KeyDistinction<'_> {
        KeyDistinction {
            reference: &self.reference,
            platforms: &self.platforms,
            identity: self.identity.as_ref(),
        }
    }
}

/// What two [`ImageKey`]s are compared by.
#[derive(PartialEq, Eq, Hash)]
struct KeyDistinction<'a> {
    reference: &'a str,
    platforms: &'a [String],
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
        f.debug_tuple("ImageKey").field(&self.reference).field(&self.platforms).finish()
    }
}

/// Resolves the tag. It sends a HEAD, which registries do not count as a pull. The manifest itself
/// is read only if the digest has changed since `last` and the key requires platforms.
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
    let digest = found.digest.to_string();
    if let Some(last) = last.filter(|last| last.digest == digest) {
        return Ok(last.clone());
    }
    if key.platforms.is_empty() {
        return Ok(UpstreamDigest { digest, missing_platforms: Vec::new() });
    }
    let by_digest = reference.with_digest(&found.digest);
    let manifest = client.manifest(&by_digest, &key.keychain).await?;
    let offered = match &manifest.kind {
        ManifestKind::Index(index) => index.platforms(),
        ManifestKind::Image(image) => {
            vec![client.config(&by_digest, image, &key.keychain).await?.platform]
        }
    };
    let missing = key
        .platforms
        .iter()
        .filter(|required| !offered.iter().any(|offered| platform_matches(offered, required)));
    Ok(UpstreamDigest { digest, missing_platforms: missing.cloned().collect() })
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

    /// Starts a registry that serves an index of one platform, whose digest is returned.
    async fn registry() -> (FaultRegistry, Digest) {
        let body = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "m", "digest": Digest::of(b"x"), "size": 1,
                "platform": { "os": "linux", "architecture": "amd64" },
            }],
        })
        .to_string();
        let digest = Digest::of(body.as_bytes());
        let digest_header = digest.to_string();
        let respond = move |request: &crate::registry::fault_registry::RecordedRequest| {
            let (length, head) = (body.len().to_string(), request.method == "HEAD");
            let headers = [
                ("content-type", OCI_INDEX),
                ("docker-content-digest", &digest_header),
                ("content-length", &length),
            ];
            reply(200, &headers, if head { Body::empty() } else { Body::from(body.clone()) })
        };
        (FaultRegistry::start(respond).await, digest)
    }

    #[tokio::test]
    async fn a_manifest_is_read_only_for_a_new_digest_and_required_platforms() {
        let (registry, digest) = registry().await;
        let plain_http = vec![registry.address.to_string()];
        let client = Client::new(Config { plain_http, ..Config::default() }).expect("client");
        let reference = format!("{}/team/app:1", registry.address);
        let keychain = Arc::new(Keychain::default());
        let key = |platforms: &[&str]| {
            let platforms: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            ImageKey::new(&client, &reference, &platforms, &keychain)
        };
        let gets =
            || registry.request_lines().iter().filter(|request| request.starts_with("GET")).count();

        let any = resolve_tag(&client, &key(&[]), None).await.expect("any");
        assert_eq!(
            (any.digest.as_str(), any.missing_platforms.len(), gets()),
            (digest.as_str(), 0, 0)
        );

        let with_platforms = key(&["linux/amd64", "linux/arm64"]);
        let first = resolve_tag(&client, &with_platforms, None).await.expect("first");
        assert_eq!(
            (first.missing_platforms.as_slice(), gets()),
            (&["linux/arm64".to_owned()][..], 1)
        );
        let second = resolve_tag(&client, &with_platforms, Some(&first)).await.expect("second");
        assert_eq!((second, gets()), (first, 1));
    }
}
