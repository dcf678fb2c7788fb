//! Adoption: what the floating tags of an image point to that has no build yet, and whether that is
//! built on its base. No client of the API server is needed.
//!
//! Anyone who may push to the repository decides what its tags point to. Nothing is therefore
//! adopted unless the family says so, and no image that has a recorded build.

use jiff::SignedDuration;

use crate::{
    api::{adoption::MAX_MISMATCH, condition::shorten, labels},
    controller::family::registry::{
        lookup::{ComparedBase, FingerprintQuery},
        pushed_image::{self, BaseComparison},
    },
    engine::{ExistingImage, FoundImage, LookupResult, Problem, causes::short, tags},
    identity::Fingerprint,
    registry::{Manifest, PlatformImage},
};

/// The pause until the tags of an image are read again that could not be adopted.
const EXISTING_RETRY_PAUSE: SignedDuration = SignedDuration::from_mins(10);

/// What the floating tags of an image say.
pub(super) enum TaggedImage {
    /// All of them point to this image.
    Agreed(Box<Manifest>),
    /// They name no image, for this reason.
    None(String),
}

impl FingerprintQuery<'_> {
    /// Whether the image may begin with what its tags point to: the family says so, no build is
    /// recorded, and no user requests one.
    pub(super) fn may_adopt(&self) -> bool {
        let (reconcile, position) = (self.reconcile, self.image.position());
        let record = reconcile.snapshot.records.get(position).and_then(Option::as_ref);
        let has_build = record.is_some_and(|record| {
            record.status.as_ref().is_some_and(|status| status.digest.is_some())
        });
        let inputs = reconcile.decision.images.get(position);
        let is_requested = inputs
            .and_then(|decided| decided.inputs.as_ref())
            .is_some_and(|inputs| !inputs.nonce.is_empty());
        reconcile.snapshot.family.spec.adopt.is_some() && !has_build && !is_requested
    }

    /// Returns what the image begins with, or `None` if it is to be built as usual: it is a build
    /// of ours on another base.
    pub(super) async fn existing(
        &self,
        fingerprint: &Fingerprint,
    ) -> Result<Option<ExistingImage>, Problem> {
        let retry_at = self.reconcile.now.saturating_add(EXISTING_RETRY_PAUSE);
        let existing = ExistingImage {
            found: None,
            mismatch: None,
            last_build: self.last_build(fingerprint).await?,
            ask_at: retry_at.unwrap_or(self.reconcile.now),
        };
        let manifest = match self.tagged_image(fingerprint).await? {
            TaggedImage::Agreed(manifest) => manifest,
            TaggedImage::None(why) => {
                let mismatch = Some(shorten(&why, MAX_MISMATCH));
                return Ok(Some(ExistingImage { mismatch, ..existing }));
            }
        };
        let images = self.repository.images(&manifest).await?;
        let LookupResult::Present { digest, size, content, blobs, .. } =
            pushed_image::present(&manifest, &images)
        else {
            return Ok(None);
        };
        // The other platforms of an index are not built here.
        let platform = self.reconcile.snapshot.platform(self.image);
        let of_platform: Vec<PlatformImage> = images
            .into_iter()
            .filter(|image| platform.is_none_or(|wanted| image.platform.is_for(wanted)))
            .collect();
        let compared = self.compare_base(&of_platform).await?;
        let mismatch = match compared {
            _ if of_platform.is_empty() => Some(format!(
                "its tags point to {}, which has no image for its platform",
                short(&digest)
            )),
            None | Some(ComparedBase { comparison: BaseComparison::IsBase, .. }) => None,
            Some(_) if manifest.annotations().contains_key(labels::OCI_FINGERPRINT) => {
                return Ok(None);
            }
            Some(ComparedBase { parent: base, platform, .. }) => Some(format!(
                "its tags point to {}, whose first layers are not those of its base {} at {} for \
                 {platform}",
                short(&digest),
                base.name,
                short(&base.digest)
            )),
        };
        let mismatch = mismatch.map(|why| shorten(&why, MAX_MISMATCH));
        let found = Some(FoundImage { digest, size, content, blobs });
        Ok(Some(ExistingImage { found, mismatch, ..existing }))
    }

    /// Returns the image that all floating tags point to.
    async fn tagged_image(&self, fingerprint: &Fingerprint) -> Result<TaggedImage, Problem> {
        let spec = &self.reconcile.snapshot.family.spec;
        let image = self.reconcile.image(self.image);
        let tags = image.and_then(|image| tags::render(spec, image, 0, fingerprint).ok());
        let floating = tags.unwrap_or_default().into_iter().filter(|tag| !tag.immutable);
        let mut agreed: Option<(String, Manifest)> = None;
        for tag in floating {
            let Some(manifest) = self.repository.tagged(&tag.name).await? else {
                let why = format!("the registry has no tag {} of it", tag.name);
                return Ok(TaggedImage::None(why));
            };
            match &agreed {
                Some((first, known)) if known.digest != manifest.digest => {
                    let why = format!(
                        "its tags point to different images: {first} to {}, {} to {}",
                        short(known.digest.as_str()),
                        tag.name,
                        short(manifest.digest.as_str())
                    );
                    return Ok(TaggedImage::None(why));
                }
                Some(_) => {}
                None => agreed = Some((tag.name, manifest)),
            }
        }
        Ok(match agreed {
            Some((_, manifest)) => TaggedImage::Agreed(Box::new(manifest)),
            None => TaggedImage::None("it has no floating tag that says which image it is".into()),
        })
    }
}
