//! The images of a registry, from what builds leave in them: the annotations that name the base,
//! the number of the build, and labels. No cluster is needed.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::bail;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;

use groundswell::{
    api::labels,
    registry::{Digest, Manifest, ManifestKind, Reference},
};

use crate::{
    audit::{
        AuditArguments,
        report::{
            AuditOrigin, AuditReport, AuditedBase, AuditedImage, AuditedUpstream, BehindReason,
        },
    },
    discover::{
        ancestry::{DiscoveredImage, FoundBase, bases},
        scan::{BASE_DIGEST, BASE_NAME, RegistryPrefix, list_tags, read_images},
    },
    registry_images::RegistryAccess,
};

/// Maximum number of builds between an image and its upstream.
const MAX_CHAIN: usize = 64;
/// Number of tags of upstreams that are read at the same time.
const MAX_CONCURRENT_TAGS: usize = 16;

/// Describes the images of a registry at a time.
///
/// # Errors
///
/// Returns an error if the registry has no image that can be read.
pub async fn audit(
    access: &RegistryAccess,
    registry: &str,
    arguments: &AuditArguments,
    now: Timestamp,
) -> anyhow::Result<AuditReport> {
    let prefix = RegistryPrefix::parse(registry)?;
    let mut problems = Vec::new();
    let references = list_tags(access, &prefix, arguments.limit, &mut problems).await?;
    let owner = arguments.owner_label.as_str();
    let kept = [BASE_NAME, labels::OCI_FINGERPRINT, labels::OCI_BUILD, owner];
    let mut scan = read_images(access, references, &kept).await;
    problems.append(&mut scan.problems);
    if scan.images.is_empty() {
        let first = problems.first().map_or("it has no tag", String::as_str);
        bail!("there is no image: {first}");
    }
    let mut chains = BaseChains::new(access, &prefix, &scan.images);
    let mut upstreams = Vec::new();
    for image in &scan.images {
        upstreams.push(chains.upstream(image, &mut problems).await);
    }
    let tags = read_tags(access, upstreams.iter().flatten(), &mut problems).await;
    let found = bases(&scan.images);
    let images = scan.images.iter().zip(&found).zip(upstreams).map(|((image, base), upstream)| {
        let described = DescribedImage { images: &scan.images, image, tags: &tags };
        described.describe(base, upstream, owner, now)
    });
    let images = images.collect();
    let time_to_patched = None;
    Ok(AuditReport { origin: AuditOrigin::Registry, images, time_to_patched, problems })
}

/// A base as an annotation names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedBase {
    /// As it is written, with or without a tag.
    name: String,
    digest: Digest,
}

impl NamedBase {
    /// Returns the reference by tag, or `None` if the annotation has no tag.
    fn tagged(&self) -> Option<Reference> {
        let name = self.name.split_once('@').map_or(self.name.as_str(), |(name, _)| name);
        let last = name.rsplit('/').next().unwrap_or_default();
        last.contains(':').then(|| name.parse().ok()).flatten()
    }
}

/// A build, as far as the way to its upstream needs it.
#[derive(Clone, Debug, Default)]
struct BuildOnBase {
    /// Whether Groundswell has built it.
    is_built: bool,
    base: Option<NamedBase>,
}

impl BuildOnBase {
    fn of(annotations: &BTreeMap<String, String>, digest: Option<&Digest>) -> Self {
        let base = annotations.get(BASE_NAME).zip(digest);
        Self {
            is_built: annotations.contains_key(labels::OCI_FINGERPRINT),
            base: base
                .map(|(name, digest)| NamedBase { name: name.clone(), digest: digest.clone() }),
        }
    }
}

/// The way from images to their upstreams, by the digests that annotations name.
struct BaseChains<'a> {
    access: &'a RegistryAccess,
    prefix: &'a RegistryPrefix,
    /// The builds that are known, by digest; `None` if one cannot be read.
    known: HashMap<Digest, Option<BuildOnBase>>,
}

impl<'a> BaseChains<'a> {
    fn new(
        access: &'a RegistryAccess,
        prefix: &'a RegistryPrefix,
        images: &[DiscoveredImage],
    ) -> Self {
        let mut known = HashMap::new();
        for image in images {
            let build = BuildOnBase::of(&image.labels, image.base.digest.as_ref());
            known.insert(image.digest.clone(), Some(build.clone()));
            known.insert(image.image_digest.clone(), Some(build));
        }
        Self { access, prefix, known }
    }

    /// Returns the upstream of an image: the first base that Groundswell has not built.
    /// What is between is read by digest where no tag points to it any more.
    async fn upstream(
        &mut self,
        image: &DiscoveredImage,
        problems: &mut Vec<String>,
    ) -> Option<NamedBase> {
        let mut at = BuildOnBase::of(&image.labels, image.base.digest.as_ref()).base?;
        for _ in 0..MAX_CHAIN {
            match self.build(&at, problems).await {
                Some(build) if build.is_built => at = build.base?,
                _ => return Some(at),
            }
        }
        None
    }

    async fn build(&mut self, base: &NamedBase, problems: &mut Vec<String>) -> Option<BuildOnBase> {
        if let Some(known) = self.known.get(&base.digest) {
            return known.clone();
        }
        let reference: Reference = base.name.parse().ok()?;
        // Whatever another registry has is an upstream.
        if reference.registry() != self.prefix.registry {
            return None;
        }
        let reference = reference.with_digest(&base.digest);
        let read = self.access.client.known_manifest(&reference, &self.access.keychain).await;
        let build = match read {
            Ok(manifest) => Some(annotated(&manifest)),
            Err(error) => {
                problems.push(error.to_string());
                None
            }
        };
        self.known.insert(base.digest.clone(), build.clone());
        build
    }
}

fn annotated(manifest: &Manifest) -> BuildOnBase {
    let annotations = manifest.annotations();
    let digest = annotations.get(BASE_DIGEST).and_then(|digest| digest.parse().ok());
    BuildOnBase::of(annotations, digest.as_ref())
}

/// What tags point to: the digest of the tag, and those of its images.
type CurrentTags = HashMap<String, (Digest, HashSet<Digest>)>;

/// Reads what the tags of upstreams point to now.
async fn read_tags(
    access: &RegistryAccess,
    upstreams: impl Iterator<Item = &NamedBase>,
    problems: &mut Vec<String>,
) -> CurrentTags {
    let tagged = upstreams.filter_map(|upstream| Some((upstream.name.clone(), upstream.tagged()?)));
    let distinct: BTreeMap<String, Reference> = tagged.collect();
    let calls = distinct.into_iter().map(|(name, tag)| async move {
        (name, access.client.manifest(&tag, &access.keychain).await)
    });
    let mut calls = stream::iter(calls).buffer_unordered(MAX_CONCURRENT_TAGS);
    let mut tags = CurrentTags::new();
    while let Some((name, manifest)) = calls.next().await {
        match manifest {
            Ok(manifest) => {
                let mut digests = HashSet::from([manifest.digest.clone()]);
                if let ManifestKind::Index(index) = &manifest.kind {
                    digests.extend(index.images().map(|entry| entry.descriptor.digest.clone()));
                }
                tags.insert(name, (manifest.digest, digests));
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    tags
}

/// An image, and what is known around it.
struct DescribedImage<'a> {
    images: &'a [DiscoveredImage],
    image: &'a DiscoveredImage,
    tags: &'a CurrentTags,
}

impl DescribedImage<'_> {
    fn describe(
        &self,
        base: &FoundBase,
        upstream: Option<NamedBase>,
        owner_label: &str,
        now: Timestamp,
    ) -> AuditedImage {
        let image = self.image;
        let name = image.names.first();
        let build = image.labels.get(labels::OCI_BUILD);
        AuditedImage {
            name: name.map(ToString::to_string).unwrap_or_default(),
            repository: name.map(Reference::repository).unwrap_or_default(),
            owner: image.labels.get(owner_label).cloned(),
            state: None,
            build: build.and_then(|build| build.parse().ok()),
            digest: Some(image.digest.to_string()),
            built_at: image.created,
            age_seconds: image.created.map(|at| now.duration_since(at).as_secs().max(0)),
            base: self.base(base),
            upstreams: upstream.into_iter().map(|upstream| self.upstream(upstream)).collect(),
        }
    }

    fn base(&self, base: &FoundBase) -> Option<AuditedBase> {
        let annotated = self.image.base.digest.as_ref();
        match base {
            FoundBase::Image { index, is_outdated, .. } => {
                let found = self.images.get(*index)?;
                let newest = annotated.filter(|_| !is_outdated).unwrap_or(&found.digest);
                let digest = annotated.or_else(|| (!is_outdated).then_some(newest));
                Some(AuditedBase {
                    name: found.names.first()?.to_string(),
                    digest: digest.map(ToString::to_string),
                    newest: Some(newest.to_string()),
                    is_outdated: Some(*is_outdated),
                })
            }
            FoundBase::Elsewhere(reference) => {
                let written = self.image.labels.get(BASE_NAME);
                let tag = written.and_then(|name| self.tags.get(name));
                let is_outdated =
                    annotated.zip(tag).map(|(digest, (_, digests))| !digests.contains(digest));
                let newest = match (is_outdated, tag) {
                    (Some(false), _) => annotated,
                    (_, Some((newest, _))) => Some(newest),
                    (_, None) => None,
                };
                Some(AuditedBase {
                    name: written.cloned().unwrap_or_else(|| reference.to_string()),
                    digest: annotated.map(ToString::to_string),
                    newest: newest.map(ToString::to_string),
                    is_outdated,
                })
            }
            FoundBase::Ambiguous(_) | FoundBase::Unknown(_) => None,
        }
    }

    fn upstream(&self, upstream: NamedBase) -> AuditedUpstream {
        let tag = self.tags.get(&upstream.name);
        let behind = match tag {
            Some((_, digests)) if digests.contains(&upstream.digest) => None,
            Some(_) => Some(BehindReason::NotRebuilt),
            None => Some(BehindReason::Unknown),
        };
        AuditedUpstream {
            reference: upstream.name,
            digest: Some(upstream.digest.to_string()),
            adopted: None,
            observed: tag.map(|(digest, _)| digest.to_string()),
            behind,
            behind_since: None,
            behind_seconds: None,
        }
    }
}
