//! Asking a registry where a tag stands.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{
    api::condition::{Fault, reason},
    registry::{Client, Identity, Keychain, Kind, Reference},
};

/// A tag, and how it is asked for: families that ask alike share one poll, and only they.
#[derive(Clone)]
pub struct ImageKey {
    reference: String,
    platforms: Vec<String>,
    identity: Option<Identity>,
    keychain: Arc<Keychain>,
}

/// Where a tag stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamDigest {
    /// The digest; of the index, where the tag names one.
    pub digest: String,
    /// The platforms asked for that it does not offer.
    pub missing_platforms: Vec<String>,
}

impl ImageKey {
    /// The key of a reference, `host/repository:tag`, of which these platforms must be there.
    #[must_use]
    pub fn new(client: &Client, reference: &str, platforms: &[String], keychain: &Arc<Keychain>) -> Self {
        let parsed: Option<Reference> = reference.parse().ok();
        let identity = parsed.map(|parsed| client.identity(&parsed, keychain));
        let mut platforms = platforms.to_vec();
        platforms.sort();
        Self { reference: reference.into(), platforms, identity, keychain: Arc::clone(keychain) }
    }

    fn parts(&self) -> (&str, &[String], Option<&Identity>) {
        (&self.reference, &self.platforms, self.identity.as_ref())
    }
}

impl PartialEq for ImageKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for ImageKey {}

impl Hash for ImageKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl fmt::Debug for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageKey").field(&self.reference).field(&self.platforms).finish()
    }
}

/// Asks where the tag stands. A HEAD, which registries do not count as a pull; the manifest itself is read only when the
/// digest is a new one and platforms are asked for.
pub async fn look(client: &Client, key: &ImageKey, last: Option<&UpstreamDigest>) -> Result<UpstreamDigest, Fault> {
    let reference: Reference = key.reference.parse()?;
    let Some(found) = client.head(&reference, &key.keychain).await? else {
        let message = format!("{reference} does not exist in the registry; correct the image or the tag, or push it");
        return Err(Fault { reason: reason::IMAGE_NOT_FOUND, message });
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
    let offered: Vec<String> = match &manifest.kind {
        Kind::Index(index) => index.platforms().iter().map(ToString::to_string).collect(),
        Kind::Image(image) => {
            let config = client.config(&by_digest, image, &key.keychain).await?;
            vec![config.platform.to_string()]
        }
    };
    let missing = key.platforms.iter().filter(|wanted| !offered.iter().any(|offered| offers(offered, wanted)));
    Ok(UpstreamDigest { digest, missing_platforms: missing.cloned().collect() })
}

/// Whether a platform is the wanted one; one that is wanted without a variant is met by any.
fn offers(offered: &str, wanted: &str) -> bool {
    offered == wanted || offered.strip_prefix(wanted).is_some_and(|variant| variant.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_asked_for_or_any_will_do() {
        assert!(offers("linux/amd64", "linux/amd64"));
        assert!(offers("linux/arm64/v8", "linux/arm64"));
        assert!(!offers("linux/arm64", "linux/arm64/v8"));
        assert!(!offers("linux/arm64", "linux/arm"));
    }
}
