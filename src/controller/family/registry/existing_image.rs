//! Adoption: what the floating tags of an image point to that has no build yet, and whether that is
//! built on its base. No client of the API server is needed.
//!
//! Anyone who may push to the repository decides what its tags point to. Nothing is therefore
//! adopted unless the family says so, and no image that has a recorded build.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::{
    api::{
        adoption::{MAX_LOST_PLATFORMS, MAX_MISMATCH},
        condition::shorten,
    },
    controller::family::registry::{
        lookup::{ComparedBase, FingerprintQuery},
        pushed_image::{self, BaseComparison, own_fingerprint},
    },
    engine::{ExistingImage, FoundImage, LookupResult, Problem, causes::short, tags},
    identity::{Fingerprint, ImageDigest},
    registry::{Manifest, Platform, PlatformImage},
};

/// The pause until the tags of an image are read again that could not be adopted.
const EXISTING_RETRY_PAUSE: SignedDuration = SignedDuration::from_mins(10);
/// The most platforms that a message names.
const MAX_NAMED_PLATFORMS: usize = 5;

/// What the floating tags of an image point to.
struct FloatingTags {
    /// The digest of each of them that exists.
    digests: BTreeMap<String, ImageDigest>,
    /// The image that all of them point to, or why there is none.
    agreed: Result<Box<Manifest>, String>,
}

/// The images of a manifest, for the platform of the build and for others.
struct OfferedPlatforms {
    built: Vec<PlatformImage>,
    others: Vec<Platform>,
}

impl FingerprintQuery<'_> {
    /// Returns what the image begins with, or `None` if it is to be built as usual: it is a build
    /// of ours that was made from other inputs.
    pub(super) async fn existing(
        &self,
        fingerprint: &Fingerprint,
    ) -> Result<Option<ExistingImage>, Problem> {
        let now = self.reconcile.now;
        let FloatingTags { digests, agreed } = self.floating_tags(fingerprint).await?;
        let existing = ExistingImage {
            tags: digests,
            found: None,
            mismatch: None,
            lost_platforms: Vec::new(),
            last_build: self.last_build(fingerprint).await?,
            read_at: now,
            ask_at: now.saturating_add(EXISTING_RETRY_PAUSE).unwrap_or(now),
        };
        let manifest = match agreed {
            Ok(manifest) => manifest,
            Err(why) => {
                let mismatch = Some(shorten(&why, MAX_MISMATCH));
                return Ok(Some(ExistingImage { mismatch, ..existing }));
            }
        };
        if is_build_of_another(&manifest, fingerprint) {
            return Ok(None);
        }
        let images = self.repository.images(&manifest).await?;
        let LookupResult::Present { digest, size, content, blobs, .. } =
            pushed_image::present(&manifest, &images)
        else {
            return Ok(None);
        };
        let offered = offered_platforms(images, self.reconcile.snapshot.platform(self.image));
        let mismatch = self.mismatch(&digest, &offered).await?;
        let lost = offered.others.iter().take(MAX_LOST_PLATFORMS).map(ToString::to_string);
        Ok(Some(ExistingImage {
            found: Some(FoundImage { digest, size, content, blobs }),
            mismatch: mismatch.map(|why| shorten(&why, MAX_MISMATCH)),
            lost_platforms: lost.collect(),
            ..existing
        }))
    }

    /// Returns why an image is not adopted as current, if so.
    async fn mismatch(
        &self,
        digest: &ImageDigest,
        offered: &OfferedPlatforms,
    ) -> Result<Option<String>, Problem> {
        let found = format!("its tags point to {}", short(digest));
        let platform = self.reconcile.snapshot.platform(self.image);
        if let (false, Some(platform)) = (offered.others.is_empty(), platform) {
            return Ok(Some(format!(
                "{found}, which has images for {}: a rebuild would take them away, because the \
                 family builds it for {platform} only",
                platform_names(&offered.others)
            )));
        }
        if offered.built.is_empty() {
            return Ok(Some(format!("{found}, which has no image for its platform")));
        }
        Ok(match self.compare_base(&offered.built).await? {
            None | Some(ComparedBase { comparison: BaseComparison::IsBase, .. }) => None,
            Some(ComparedBase { parent: base, platform, .. }) => Some(format!(
                "{found}, whose first layers are not those of its base {} at {} for {platform}",
                base.name,
                short(&base.digest)
            )),
        })
    }

    /// Reads what the floating tags of the image point to.
    async fn floating_tags(&self, fingerprint: &Fingerprint) -> Result<FloatingTags, Problem> {
        let spec = &self.reconcile.snapshot.family.spec;
        let image = self.reconcile.image(self.image);
        let tags = image.and_then(|image| tags::render(spec, image, 0, fingerprint).ok());
        let floating = tags.unwrap_or_default().into_iter().filter(|tag| !tag.immutable);
        let mut digests = BTreeMap::new();
        let mut agreed: Option<(String, Box<Manifest>)> = None;
        let mut disagreement = None;
        for tag in floating {
            let Some(manifest) = self.repository.tagged(&tag.name).await? else {
                disagreement
                    .get_or_insert_with(|| format!("the registry has no tag {} of it", tag.name));
                continue;
            };
            digests.insert(tag.name.clone(), ImageDigest::from(manifest.digest.as_str()));
            match &agreed {
                Some((first, known)) if known.digest != manifest.digest => {
                    disagreement.get_or_insert_with(|| {
                        format!(
                            "its tags point to different images: {first} to {}, {} to {}",
                            short(known.digest.as_str()),
                            tag.name,
                            short(manifest.digest.as_str())
                        )
                    });
                }
                Some(_) => {}
                None => agreed = Some((tag.name, manifest.into())),
            }
        }
        let agreed = match (disagreement, agreed) {
            (Some(why), _) => Err(why),
            (None, Some((_, manifest))) => Ok(manifest),
            (None, None) => Err("it has no floating tag that says which image it is".into()),
        };
        Ok(FloatingTags { digests, agreed })
    }
}

/// Whether a manifest is a build of ours with another fingerprint. It was made from other inputs,
/// so that it is built again and not adopted.
pub(super) fn is_build_of_another(manifest: &Manifest, fingerprint: &Fingerprint) -> bool {
    own_fingerprint(manifest).is_some_and(|own| own != *fingerprint)
}

/// Returns which images are for the platform of a build, and the platforms of the others. Without a
/// platform all of them are built.
fn offered_platforms(images: Vec<PlatformImage>, wanted: Option<&Platform>) -> OfferedPlatforms {
    let is_built = |image: &PlatformImage| wanted.is_none_or(|wanted| image.is_for(wanted));
    let (built, others): (Vec<_>, Vec<_>) = images.into_iter().partition(is_built);
    let others = others.into_iter().map(|image| image.platform);
    let mut others: Vec<Platform> = others.filter(Platform::is_known).collect();
    others.sort();
    others.dedup();
    OfferedPlatforms { built, others }
}

/// Returns the names of the first platforms, and how many more there are.
fn platform_names(platforms: &[Platform]) -> String {
    let named = platforms.iter().take(MAX_NAMED_PLATFORMS).map(ToString::to_string);
    let names = named.collect::<Vec<_>>().join(", ");
    match platforms.len().saturating_sub(MAX_NAMED_PLATFORMS) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}
