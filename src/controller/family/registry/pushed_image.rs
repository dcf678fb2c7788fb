//! What a registry holds of an image: what it is, whether a manifest is of a fingerprint, whether
//! it stands on a base. Needs a registry and no cluster.

use crate::{
    api::{condition::reason, labels},
    engine::{
        LookupResult, Problem,
        tags::{self, Tag},
    },
    identity::Fingerprint,
    registry::{
        self, Client, ContentIdentity, Descriptor, Digest, IndexEntry, Keychain, Manifest,
        ManifestKind, PlatformImage, Reference,
    },
};

/// The most platforms of one image that are looked at.
const MAX_PLATFORMS: usize = 32;

/// The highest number that is taken for one of a build: more than anybody makes, and the next ones
/// are numbers still.
const MAX_BUILD: i64 = 1 << 40;
/// How many numbers in a row no tag names, until those after them are taken for free as well: a
/// build that failed leaves its number unused.
const FREE_IN_A_ROW: i64 = 3;
/// The most numbers that are looked at.
const MOST_NUMBERS: usize = 1000;

/// A repository of a registry, and with whose credentials it is asked.
pub struct Repository<'a> {
    client: &'a Client,
    keychain: &'a Keychain,
    name: Reference,
}

impl<'a> Repository<'a> {
    /// The repository of this name, `host/path`.
    pub fn new(client: &'a Client, keychain: &'a Keychain, name: &str) -> Result<Self, Problem> {
        Ok(Self { client, keychain, name: name.parse()? })
    }

    /// The reference of a tag in it.
    pub fn tag(&self, tag: &str) -> Result<Reference, Problem> {
        Ok(self.name.with_tag(tag)?)
    }

    /// The manifest under a tag, if there is one.
    pub async fn tagged(&self, tag: &str) -> Result<Option<Manifest>, Problem> {
        match self.client.manifest(&self.tag(tag)?, self.keychain).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(registry::RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The number of the last build in it; `tags` tells the tags of a build by its number. A
    /// floating one stands on the last build, or on an earlier one: in a cascade that did not come
    /// whole, or after an upstream went back. Those after it are known by the tags that name them.
    pub async fn last_build(&self, tags: impl Fn(i64) -> Vec<Tag>) -> Result<Option<i64>, Problem> {
        let of_none = tags(0);
        let told = match of_none.iter().find(|tag| !tag.immutable) {
            Some(floating) => self.tagged(&floating.name).await?.as_ref().and_then(number),
            None => None,
        };
        let mut last = told.unwrap_or(0);
        let mut build = last;
        for _ in 0..MOST_NUMBERS {
            if build - last >= FREE_IN_A_ROW {
                break;
            }
            build += 1;
            // One that names the fingerprint alone is the same under every number, and tells of
            // none.
            for tag in tags(build).into_iter().filter(|tag| tag.immutable && !of_none.contains(tag))
            {
                if self.has(&tag.name).await? {
                    last = build;
                }
            }
        }
        Ok((last > 0).then_some(last))
    }

    /// Whether there is anything under a tag.
    async fn has(&self, tag: &str) -> Result<bool, Problem> {
        Ok(self.client.head(&self.tag(tag)?, self.keychain).await?.is_some())
    }

    /// Points a tag at the manifest of a digest that the repository has, and gives that.
    pub async fn retag(
        &self,
        tag: &Reference,
        digest: &Digest,
    ) -> Result<Manifest, registry::RegistryError> {
        let manifest = self.manifest(digest).await?;
        self.client.set_tag(tag, &manifest, self.keychain).await?;
        Ok(manifest)
    }

    async fn manifest(&self, digest: &Digest) -> Result<Manifest, registry::RegistryError> {
        self.client.manifest(&self.name.with_digest(digest), self.keychain).await
    }

    /// The images of a manifest, one per platform, with their configurations.
    pub async fn images(&self, manifest: &Manifest) -> Result<Vec<PlatformImage>, Problem> {
        match &manifest.kind {
            ManifestKind::Image(_) => Ok(vec![self.image(manifest, None).await?]),
            ManifestKind::Index(index) => {
                let mut images = Vec::new();
                for entry in index.images() {
                    if images.len() == MAX_PLATFORMS {
                        let message = format!(
                            "{}@{} lists more than {MAX_PLATFORMS} images, and no more are read",
                            self.name.repository(),
                            manifest.digest
                        );
                        return Err(Problem { reason: reason::INVALID_REGISTRY_RESPONSE, message });
                    }
                    images.push(self.entry(entry).await?);
                }
                Ok(images)
            }
        }
    }

    async fn entry(&self, entry: &IndexEntry) -> Result<PlatformImage, Problem> {
        self.image(&self.manifest(&entry.descriptor.digest).await?, Some(entry)).await
    }

    async fn image(
        &self,
        manifest: &Manifest,
        entry: Option<&IndexEntry>,
    ) -> Result<PlatformImage, Problem> {
        let ManifestKind::Image(image) = &manifest.kind else {
            let name = self.name.repository();
            let message = format!(
                "{name}@{} is an index in an index, which nothing here reads",
                manifest.digest
            );
            return Err(Problem { reason: reason::INVALID_REGISTRY_RESPONSE, message });
        };
        let config = self
            .client
            .config(&self.name.with_digest(&manifest.digest), image, self.keychain)
            .await?;
        let platform = entry
            .and_then(|entry| entry.platform.clone())
            .unwrap_or_else(|| config.platform.clone());
        Ok(PlatformImage { platform, manifest: image.clone(), config })
    }

    /// Whether a manifest is of this fingerprint: pushed by its build, or remembered for it because
    /// its build came out the same as an earlier one. Such a one carries the earlier fingerprint,
    /// under whose tag it stands as well; without that, anybody's image could be passed off as one
    /// of ours.
    pub async fn is_of(
        &self,
        manifest: &Manifest,
        fingerprint: &Fingerprint,
    ) -> Result<bool, Problem> {
        let Some(own) = manifest.annotations().get(labels::OCI_FINGERPRINT) else {
            return Ok(false);
        };
        if *fingerprint == *own {
            return Ok(true);
        }
        let well_formed = own.len() == fingerprint.as_str().len()
            && own.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !well_formed {
            return Ok(false);
        }
        let original =
            self.client.head(&self.tag(&tags::pushed_as(&own.into()))?, self.keychain).await?;
        Ok(original.is_some_and(|original| original.digest == manifest.digest))
    }

    /// Whether each of these images has the first layers of this digest of this repository: of any
    /// of its platforms.
    pub async fn is_below(
        &self,
        digest: &Digest,
        images: &[PlatformImage],
    ) -> Result<bool, Problem> {
        let base = self.manifest(digest).await?;
        let mut unproven: Vec<&PlatformImage> = images.iter().collect();
        let proves = |base: &PlatformImage, image: &PlatformImage| {
            image.config.diff_ids.starts_with(&base.config.diff_ids)
        };
        let ManifestKind::Index(index) = &base.kind else {
            let base = self.image(&base, None).await?;
            return Ok(unproven.iter().all(|image| proves(&base, image)));
        };
        // Most images stand on their own platform: looked at first, the others need not be asked
        // for.
        let mut entries: Vec<&IndexEntry> = index.images().collect();
        entries.sort_by_key(|entry| {
            !images.iter().any(|image| entry.platform.as_ref() == Some(&image.platform))
        });
        for entry in entries.into_iter().take(MAX_PLATFORMS) {
            let base = self.entry(entry).await?;
            unproven.retain(|image| !proves(&base, image));
            if unproven.is_empty() {
                return Ok(true);
            }
        }
        Ok(unproven.is_empty())
    }
}

/// What is said of a manifest that is a build of ours.
#[must_use]
pub fn present(manifest: &Manifest, images: &[PlatformImage]) -> LookupResult {
    let ContentIdentity { content, blobs } = ContentIdentity::of(images);
    LookupResult::Present {
        digest: manifest.digest.as_str().into(),
        build: number(manifest).unwrap_or(1),
        size: size(images),
        content: Some(content.into()),
        blobs: Some(blobs.into()),
    }
}

/// The number of the build that a manifest is of.
fn number(manifest: &Manifest) -> Option<i64> {
    let number = manifest.annotations().get(labels::OCI_BUILD)?.parse().ok()?;
    (1..=MAX_BUILD).contains(&number).then_some(number)
}

/// Bytes of configurations and layers, as they are stored; what platforms share counts once.
fn size(images: &[PlatformImage]) -> i64 {
    let mut parts: Vec<&Descriptor> = images
        .iter()
        .flat_map(|image| image.manifest.layers.iter().chain([&image.manifest.config]))
        .collect();
    parts.sort_by(|a, b| a.digest.cmp(&b.digest));
    parts.dedup_by(|a, b| a.digest == b.digest);
    i64::try_from(parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.size)))
        .unwrap_or(i64::MAX)
}
