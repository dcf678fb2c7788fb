//! What a registry has of an image: what the image is, whether a manifest belongs to a fingerprint,
//! and whether the image is built on a base. Needs a registry, and no client of the API server.

use std::collections::VecDeque;

use crate::{
    api::{condition::Reason, labels},
    engine::{
        LookupResult, Problem,
        fingerprint::FINGERPRINT_LENGTH,
        tags::{self, Tag},
    },
    identity::Fingerprint,
    registry::{
        self, Client, ContentIdentity, Descriptor, Digest, IndexEntry, Keychain, Manifest,
        ManifestKind, Platform, PlatformImage, Reference,
    },
};

/// The most platforms of one image that are read.
const MAX_PLATFORMS: usize = 32;
/// The most bytes of the manifests and configurations of one image with all its platforms. They are
/// in memory at the same time.
const MAX_DESCRIPTION: usize = 8 << 20;
/// The most indexes inside of each other that are followed.
const MAX_DEPTH: usize = 3;

/// The highest build number that is accepted: higher than any real one, and far from an overflow of
/// the numbers that follow.
const MAX_BUILD_NUMBER: i64 = 1 << 40;
/// The number of unused build numbers in a row after which all later ones count as unused, too. A
/// failed build leaves its number unused.
const MAX_NUMBER_GAP: i64 = 3;
/// The most build numbers that are looked up.
const MAX_NUMBERS: usize = 1000;

/// A repository of a registry, and the credentials for it.
pub struct Repository<'a> {
    client: &'a Client,
    keychain: &'a Keychain,
    name: Reference,
}

impl<'a> Repository<'a> {
    /// Returns the repository of this name, `host/path`.
    pub fn new(client: &'a Client, keychain: &'a Keychain, name: &str) -> Result<Self, Problem> {
        Ok(Self { client, keychain, name: name.parse()? })
    }

    /// Returns its full name, with the host of the registry.
    #[must_use]
    pub fn full_name(&self) -> String {
        self.name.repository()
    }

    /// Returns the reference of a tag in it.
    pub fn tag(&self, tag: &str) -> Result<Reference, Problem> {
        Ok(self.name.with_tag(tag)?)
    }

    /// Returns the manifest that a tag points to, or `None` if there is no such tag.
    pub async fn tagged(&self, tag: &str) -> Result<Option<Manifest>, Problem> {
        Ok(self.client.own_manifest(&self.tag(tag)?, self.keychain).await?)
    }

    /// Returns the number of the last build in the repository; `tags` returns the tags of a build
    /// by its number.
    ///
    /// A floating tag points to the last build or to an earlier one: after a cascade that did not
    /// complete, or after an upstream went back. Later builds are found by the tags that contain
    /// their numbers.
    pub async fn last_build(&self, tags: impl Fn(i64) -> Vec<Tag>) -> Result<Option<i64>, Problem> {
        let without_number = tags(0);
        let floating = match without_number.iter().find(|tag| !tag.immutable) {
            Some(floating) => self.tagged(&floating.name).await?.as_ref().and_then(build_number),
            None => None,
        };
        let mut last = floating.unwrap_or(0);
        let mut build = last;
        for _ in 0..MAX_NUMBERS {
            if build - last >= MAX_NUMBER_GAP {
                break;
            }
            build += 1;
            // A tag that contains only the fingerprint is the same for every number, and shows
            // none.
            let has_number = |tag: &Tag| tag.immutable && !without_number.contains(tag);
            for tag in tags(build).into_iter().filter(has_number) {
                if self.has(&tag.name).await? {
                    last = build;
                }
            }
        }
        Ok((last > 0).then_some(last))
    }

    /// Returns whether a tag exists.
    async fn has(&self, tag: &str) -> Result<bool, Problem> {
        Ok(self.digest_of(tag).await?.is_some())
    }

    /// Returns the digest that a tag points to, or `None` if there is no such tag.
    pub async fn digest_of(&self, tag: &str) -> Result<Option<Digest>, Problem> {
        let found = self.client.own_head(&self.tag(tag)?, self.keychain).await?;
        Ok(found.map(|found| found.digest))
    }

    /// Points a tag to a digest that the repository has, unless it points there already.
    pub async fn point_to(
        &self,
        tag: &Reference,
        digest: &Digest,
    ) -> Result<(), registry::RegistryError> {
        let known = self.client.own_head(tag, self.keychain).await?;
        if known.is_none_or(|known| known.digest != *digest) {
            self.retag(tag, digest).await?;
        }
        Ok(())
    }

    /// Points a tag to a digest that the repository has, and returns the manifest.
    pub async fn retag(
        &self,
        tag: &Reference,
        digest: &Digest,
    ) -> Result<Manifest, registry::RegistryError> {
        let manifest = self.manifest(digest).await?;
        self.set_tag(tag, &manifest).await?;
        Ok(manifest)
    }

    /// Points a tag to a manifest whose blobs the repository has.
    pub async fn set_tag(
        &self,
        tag: &Reference,
        manifest: &Manifest,
    ) -> Result<(), registry::RegistryError> {
        self.client.set_tag(tag, manifest, self.keychain).await
    }

    /// Points a tag to an artifact that refers to one small blob.
    pub async fn push_artifact(
        &self,
        tag: &Reference,
        manifest: Vec<u8>,
        blob: &'static [u8],
    ) -> Result<(), registry::RegistryError> {
        self.client.push_artifact(tag, manifest, blob, self.keychain).await
    }

    /// Returns the manifest of a digest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Manifest, registry::RegistryError> {
        self.client.manifest(&self.name.with_digest(digest), self.keychain).await
    }

    /// Returns the manifest of a digest, which is read at most once as long as it is remembered.
    pub async fn known_manifest(
        &self,
        digest: &Digest,
    ) -> Result<Manifest, registry::RegistryError> {
        self.client.known_manifest(&self.name.with_digest(digest), self.keychain).await
    }

    /// Returns the images of a manifest, one per platform, with their configurations. Indexes
    /// inside of indexes are followed.
    pub async fn images(&self, manifest: &Manifest) -> Result<Vec<PlatformImage>, Problem> {
        let root = ListedManifest { manifest: manifest.clone(), platform: None, depth: 0 };
        let (mut images, mut listed) = (Vec::new(), VecDeque::from([root]));
        let mut described = 0_usize;
        while let Some(ListedManifest { manifest: known, platform, depth }) = listed.pop_front() {
            let ManifestKind::Index(index) = &known.kind else {
                let image = self.image(&known, platform).await?;
                described += known.bytes.len() + image.config.size;
                self.check_description(manifest, described)?;
                images.push(image);
                continue;
            };
            self.check_depth(&known, depth)?;
            for entry in index.images() {
                if images.len() + listed.len() == MAX_PLATFORMS {
                    let message = format!(
                        "{}@{} lists more than {MAX_PLATFORMS} images, which is the limit",
                        self.name.repository(),
                        manifest.digest
                    );
                    return Err(Problem { reason: Reason::InvalidRegistryResponse, message });
                }
                let platform = known_platform(entry).or_else(|| platform.clone());
                let manifest = self.known_manifest(&entry.descriptor.digest).await?;
                listed.push_back(ListedManifest { manifest, platform, depth: depth + 1 });
            }
        }
        Ok(images)
    }

    /// Rejects an image whose platforms take too many bytes to describe.
    fn check_description(&self, image: &Manifest, described: usize) -> Result<(), Problem> {
        if described <= MAX_DESCRIPTION {
            return Ok(());
        }
        let message = format!(
            "{}@{} has manifests and configurations of more than {} MiB, which is the limit",
            self.name.repository(),
            image.digest,
            MAX_DESCRIPTION >> 20
        );
        Err(Problem { reason: Reason::InvalidRegistryResponse, message })
    }

    /// Rejects an index that is nested too deep.
    fn check_depth(&self, index: &Manifest, depth: usize) -> Result<(), Problem> {
        if depth < MAX_DEPTH {
            return Ok(());
        }
        let message = format!(
            "{}@{} is an index inside of {MAX_DEPTH} others, which is the limit",
            self.name.repository(),
            index.digest
        );
        Err(Problem { reason: Reason::InvalidRegistryResponse, message })
    }

    /// Returns the platforms of a manifest's images.
    pub async fn platforms(&self, manifest: &Manifest) -> Result<Vec<Platform>, Problem> {
        match &manifest.kind {
            ManifestKind::Image(_) => Ok(vec![self.image(manifest, None).await?.platform]),
            ManifestKind::Index(index) => Ok(index.platforms()),
        }
    }

    /// Reads an image. `platform` is what an index says that it is for.
    async fn image(
        &self,
        manifest: &Manifest,
        platform: Option<Platform>,
    ) -> Result<PlatformImage, Problem> {
        let ManifestKind::Image(image) = &manifest.kind else {
            let message = format!("{}@{} is an index", self.name.repository(), manifest.digest);
            return Err(Problem { reason: Reason::InvalidRegistryResponse, message });
        };
        let config = self
            .client
            .config(&self.name.with_digest(&manifest.digest), image, self.keychain)
            .await?;
        let variant_is_named = platform.is_some() || config.variant_is_named;
        let platform = platform.unwrap_or_else(|| config.platform.clone());
        Ok(PlatformImage { platform, variant_is_named, manifest: image.clone(), config })
    }

    /// Returns whether a manifest belongs to this fingerprint: its build has pushed the manifest,
    /// or its tag was pointed to the manifest because its build changed nothing.
    ///
    /// In the second case the manifest carries an earlier fingerprint, and the tag of that one must
    /// point to the manifest, too. Otherwise any image could be passed off as one of ours.
    pub async fn has_fingerprint(
        &self,
        manifest: &Manifest,
        fingerprint: &Fingerprint,
    ) -> Result<bool, Problem> {
        let Some(own) = own_fingerprint(manifest) else { return Ok(false) };
        if *fingerprint == own {
            return Ok(true);
        }
        let tag = self.tag(&tags::pushed_as(&own))?;
        let original = self.client.own_head(&tag, self.keychain).await?;
        Ok(original.is_some_and(|original| original.digest == manifest.digest))
    }

    /// Compares images for a platform with a digest of the repository that is to be their base. If
    /// the digest is that of an index, its image for the platform is compared.
    pub async fn compare_base(
        &self,
        digest: &Digest,
        images: &[PlatformImage],
        platform: &Platform,
    ) -> Result<BaseComparison, Problem> {
        let Some(base) = self.image_for(digest, platform).await? else {
            return Ok(BaseComparison::NotOffered);
        };
        let is_other = |known: &Platform| {
            known.is_known()
                && (&known.os, &known.architecture) != (&platform.os, &platform.architecture)
        };
        if is_other(&base.config.platform) {
            return Ok(BaseComparison::OtherPlatform(base.config.platform));
        }
        let is_base =
            images.iter().all(|image| image.config.diff_ids.starts_with(&base.config.diff_ids));
        Ok(if is_base { BaseComparison::IsBase } else { BaseComparison::OtherLayers })
    }

    /// Returns the image of a digest for a platform, or `None` if the digest is that of an index
    /// without one. Indexes inside of indexes are followed.
    async fn image_for(
        &self,
        digest: &Digest,
        platform: &Platform,
    ) -> Result<Option<PlatformImage>, Problem> {
        let mut manifest = self.known_manifest(digest).await?;
        let mut labelled = None;
        let mut depth = 0;
        while let ManifestKind::Index(index) = &manifest.kind {
            self.check_depth(&manifest, depth)?;
            depth += 1;
            let unlabelled = || index.images().find(|entry| known_platform(entry).is_none());
            let listed = index.image_for(platform).or_else(|| index.nested_for(platform));
            let Some(entry) = listed.or_else(unlabelled) else { return Ok(None) };
            labelled = known_platform(entry).or(labelled);
            manifest = self.known_manifest(&entry.descriptor.digest).await?;
        }
        Ok(Some(self.image(&manifest, labelled).await?))
    }
}

/// A manifest that an index lists.
struct ListedManifest {
    manifest: Manifest,
    /// The platform that the index names.
    platform: Option<Platform>,
    /// The number of indexes around it.
    depth: usize,
}

/// Returns the platform of an entry if it is one that says something.
fn known_platform(entry: &IndexEntry) -> Option<Platform> {
    entry.platform.clone().filter(Platform::is_known)
}

/// How images compare with what is to be their base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseComparison {
    /// The layers of the base are the first ones of each image.
    IsBase,
    /// The first layers are others.
    OtherLayers,
    /// The base is an image for this other platform.
    OtherPlatform(Platform),
    /// The base is an index without an image for the platform.
    NotOffered,
}

/// Returns the result of a lookup that has found a build of ours.
#[must_use]
pub fn present(manifest: &Manifest, images: &[PlatformImage]) -> LookupResult {
    let ContentIdentity { content, blobs } = ContentIdentity::of(images);
    LookupResult::Present {
        digest: manifest.digest.as_str().into(),
        build: build_number(manifest).unwrap_or(1),
        size: size(images),
        content: Some(content.as_str().into()),
        blobs: Some(blobs.as_str().into()),
        request: None,
    }
}

/// Returns the id of the request that has rebuilt a manifest of ours.
#[must_use]
pub fn rebuild_request(manifest: &Manifest) -> Option<&str> {
    let id = manifest.annotations().get(labels::OCI_REQUEST)?;
    labels::is_annotated_request(id).then_some(id)
}

/// Returns the fingerprint that a manifest of ours carries.
#[must_use]
pub fn own_fingerprint(manifest: &Manifest) -> Option<Fingerprint> {
    let own = manifest.annotations().get(labels::OCI_FINGERPRINT)?;
    let is_fingerprint =
        own.len() == FINGERPRINT_LENGTH && own.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_fingerprint.then(|| own.into())
}

/// Returns the number of the build that has pushed a manifest.
fn build_number(manifest: &Manifest) -> Option<i64> {
    let number = manifest.annotations().get(labels::OCI_BUILD)?.parse().ok()?;
    (1..=MAX_BUILD_NUMBER).contains(&number).then_some(number)
}

/// Returns the size of configurations and layers in bytes, as they are stored. What platforms share
/// counts once.
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
