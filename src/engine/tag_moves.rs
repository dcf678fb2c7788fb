//! Which tags to set, and to what.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api::{ImageState, condition::Reason},
    engine::{
        decision::{Effect, ImageDecision, TagMove},
        input::{DecideInput, ObservedImage, ObservedTag, VerifiedBuild},
        label_tags::LabelTagProblems,
        tags::{BuildTags, Tag},
    },
    identity::ImageDigest,
    lineage::ImageIndex,
};

/// The tags of all images, and what they should point to.
pub struct TagPromotion<'a> {
    /// What the reconcile has read.
    pub input: &'a DecideInput<'a>,
    /// The decided images.
    pub images: &'a [ImageDecision],
    /// The images whose tags wait until the registry has marked their rebuilds.
    pub unmarked: &'a [ImageIndex],
    /// The tags that are not set because of labels.
    pub(in crate::engine) unset: &'a LabelTagProblems,
}

impl TagPromotion<'_> {
    /// Adds the tag moves that images need: new tags, tags that point to an older digest, and tags
    /// that somebody else has moved. Tags that name the build point to the digest of a current
    /// image. The others point to the digest that the image is promoted to, whatever its state is.
    pub fn add_moves(
        &self,
        now: Timestamp,
        effects: &mut Vec<Effect>,
        wake_at: &mut Option<Timestamp>,
    ) {
        for (index, decision) in ImageIndex::enumerate(self.images) {
            let (Some(verified), Some(observed)) =
                (&decision.verified, self.input.images.get(index.position()))
            else {
                continue;
            };
            if is_forbidden(self.input, index) || self.unmarked.contains(&index) {
                continue;
            }
            let Some(build) = build_tags(self.input, index, verified) else { continue };
            let mut moves: Vec<(&ImageDigest, Vec<TagMove>)> = Vec::new();
            for (tag, digest) in self.wanted(index, decision, verified, &build.tags) {
                let Some(moved) = needed_move(observed, tag, digest, now, wake_at) else {
                    continue;
                };
                match moves.iter_mut().find(|(to, _)| *to == digest) {
                    Some((_, tags)) => tags.push(moved),
                    None => moves.push((digest, vec![moved])),
                }
            }
            let moves = moves.into_iter();
            effects.extend(moves.map(|(digest, tags)| Effect::Promote {
                image: index,
                digest: digest.clone(),
                tags,
            }));
        }
    }

    /// Returns these tags of an image with the digests that they should point to.
    fn wanted<'d>(
        &self,
        index: ImageIndex,
        decision: &'d ImageDecision,
        verified: &'d VerifiedBuild,
        tags: &'d [Tag],
    ) -> impl Iterator<Item = (&'d Tag, &'d ImageDigest)> {
        let current = decision.state == ImageState::Current;
        let record = self.input.images.get(index.position()).and_then(|observed| observed.record);
        let earlier = record.and_then(|record| record.adopted.as_ref());
        // No build of ours has made an adopted digest. No tag names it as one, and no tag is moved
        // to it: its tags pointed to it when it was adopted, and whoever has moved them since goes
        // first.
        let is_adopted = move |digest: &ImageDigest| {
            verified.adopted.is_some() && verified.digest == *digest
                || earlier.is_some_and(|adopted| *digest == adopted.digest)
        };
        let target = move |tag: &'d Tag| {
            let digest = if tag.immutable {
                current.then_some(&verified.digest)
            } else {
                decision.promoted_digest()
            };
            let digest = digest.filter(|digest| !is_adopted(digest))?;
            // The labels of the verified build are not those of an earlier one.
            let is_labelled = tag.names_label && *digest != verified.digest;
            (!is_labelled && !self.unset.withholds(index, &tag.name)).then_some((tag, digest))
        };
        tags.iter().filter_map(target)
    }
}

/// Returns the tags of an image for its verified build.
fn build_tags(
    input: &DecideInput<'_>,
    index: ImageIndex,
    verified: &VerifiedBuild,
) -> Option<Arc<BuildTags>> {
    let image = input.spec.images.get(index.position())?;
    let known = input.blueprint.images.get(index.position())?;
    Some(known.tags.of_build(input.spec, image, verified))
}

/// A floating tag that does not point to the digest that its image was adopted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrayTag {
    /// The name of the tag.
    pub name: String,
    /// What it points to, if it was read.
    pub digest: Option<ImageDigest>,
}

/// Returns a floating tag of an adopted image that points to another digest, or that was not read
/// yet. The tags of such an image are read again.
#[must_use]
pub fn stray_tag(
    input: &DecideInput<'_>,
    index: ImageIndex,
    observed: &ObservedImage<'_>,
    verified: &VerifiedBuild,
) -> Option<StrayTag> {
    let recorded = observed.record.map_or(&[][..], |record| &record.tags);
    let points_to = |name: &str| match observed.tags.get(name) {
        Some(ObservedTag::At(digest)) => Some(digest.clone()),
        Some(ObservedTag::Taken(_) | ObservedTag::Failed(..)) | None => {
            let record = recorded.iter().find(|record| record.tag == name);
            record.map(|record| ImageDigest::from(&record.digest))
        }
    };
    let build = build_tags(input, index, verified)?;
    let floating = build.tags.iter().filter(|tag| !tag.immutable && !tag.names_label);
    let mut read =
        floating.map(|tag| StrayTag { name: tag.name.clone(), digest: points_to(&tag.name) });
    read.find(|tag| tag.digest.as_ref() != Some(&verified.digest))
}

/// Whether no tag of an image may move: another image claims one of them, so that moving it would
/// start a contest, or the operator does not allow its repository.
fn is_forbidden(input: &DecideInput<'_>, index: ImageIndex) -> bool {
    let problem = input.blueprint.images.get(index.position());
    let problem = problem.and_then(|image| image.problem.as_ref());
    problem.is_some_and(|problem| {
        [Reason::TagCollision, Reason::RepositoryNotAllowed].contains(&problem.reason)
    })
}

/// Returns the move that a tag needs, if any. A tag that could not be set is retried later.
fn needed_move(
    observed: &ObservedImage<'_>,
    tag: &Tag,
    digest: &ImageDigest,
    now: Timestamp,
    wake_at: &mut Option<Timestamp>,
) -> Option<TagMove> {
    let record = observed
        .record
        .into_iter()
        .flat_map(|record| &record.tags)
        .find(|record| record.tag == tag.name);
    let recorded = record.is_some_and(|record| *digest == record.digest);
    let moved_to = match observed.tags.get(&tag.name) {
        Some(ObservedTag::Failed(_, retry_at)) if *retry_at > now => {
            *wake_at = Some(wake_at.map_or(*retry_at, |at| at.min(*retry_at)));
            return None;
        }
        // Whatever is recorded: only another attempt shows what the tag points to.
        Some(ObservedTag::Failed(..)) => None,
        Some(ObservedTag::Taken(_)) if tag.immutable => return None,
        Some(ObservedTag::At(at)) if at == digest => {
            if recorded {
                return None;
            }
            None
        }
        Some(ObservedTag::At(at)) if recorded && !tag.immutable => Some(at.clone()),
        _ if recorded => return None,
        _ => None,
    };
    Some(TagMove { tag: tag.name.clone(), immutable: tag.immutable, moved_to })
}
