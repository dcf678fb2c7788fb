//! Promotion: the digest that floating tags and workloads should move to.
//!
//! With `Image` it follows the last verified build of each image. With `Cascade` it stays until a
//! cascade completes, or only waits for optional images to be admitted, and then moves for all
//! images at once. Each of the cascades that run side by side moves its own images. The target is
//! recorded per image, so that the next reconcile finishes a move that was interrupted.

use std::collections::HashSet;

use crate::{
    api::{ImageState, Promotion},
    engine::{
        cascade::{CascadeContext, admission, is_worked_on},
        decision::{CascadeDecision, ImageDecision, PromotionTarget},
        image::evaluation::Evaluation,
        input::DecideInput,
        members::CascadeMembers,
    },
    identity::CascadeName,
    lineage::ImageIndex,
};

/// Sets the promotion targets of a family with `promotion: Cascade`.
///
/// This also happens while the family is suspended: tags and workloads follow only when it is
/// resumed.
pub fn set_targets(
    context: &CascadeContext<'_>,
    cascade: &CascadeDecision,
    evaluation: &mut Evaluation,
) {
    if context.input.spec.policy.promotion != Promotion::Cascade {
        return;
    }
    let complete: Vec<usize> = match cascade {
        // Covers images that became current without a cascade, or before the policy was `Cascade`.
        CascadeDecision::None => {
            if is_complete(context.input, &evaluation.images, |_| true) {
                promote(&mut evaluation.images, |_| true);
            }
            return;
        }
        CascadeDecision::Finish { ending } => {
            let ends = |name: &CascadeName| {
                ending.iter().any(|ending| ending.name == *name && !ending.superseded)
            };
            let names = context.members.names().iter().enumerate();
            names.filter(|(_, name)| ends(name)).map(|(position, _)| position).collect()
        }
        // Nobody knows how long an optional image waits to be admitted.
        CascadeDecision::Continue => (0..context.members.names().len())
            .filter(|position| {
                admission::waits_only_for_outside(evaluation, context.members, *position)
            })
            .collect(),
        CascadeDecision::Start { .. } => return,
    };
    for position in complete {
        let (input, members) = (context.input, context.members);
        if missing_images(input, members, &evaluation.images, position).is_empty() {
            // What an earlier cascade has left incomplete does not move with another one.
            let is_free = |image| members.position_of(image).is_none();
            let others_are_complete = is_complete(input, &evaluation.images, is_free);
            promote(&mut evaluation.images, |image| {
                members.position_of(image).map_or(others_are_complete, |of| of == position)
            });
        }
    }
}

/// Sets the last verified build as the target of those of these images that may be promoted.
fn promote(images: &mut [ImageDecision], is_part: impl Fn(ImageIndex) -> bool) {
    for (index, image) in ImageIndex::enumerate(images) {
        if is_part(index) && is_promotable(image) && image.rollback.is_none() {
            image.promotion = PromotionTarget::Verified;
        }
    }
}

/// Whether every required image of these may be promoted.
fn is_complete(
    input: &DecideInput<'_>,
    images: &[ImageDecision],
    is_part: impl Fn(ImageIndex) -> bool,
) -> bool {
    let held = held_before_first_build(input, images);
    let images = ImageIndex::enumerate(input.spec.images.iter().zip(images).zip(&held));
    images
        .filter(|(index, _)| is_part(*index))
        .all(|(_, ((spec, image), held))| !spec.required || *held || is_promotable(image))
}

/// Returns the required images without which the running cascade at this position is incomplete:
/// those that it planned, built, or lost to a failure or a cancellation, and those whose newest
/// digest no cascade has promoted yet. Images of other running cascades are promoted with those.
#[must_use]
pub fn missing_images(
    input: &DecideInput<'_>,
    members: &CascadeMembers,
    images: &[ImageDecision],
    position: usize,
) -> Vec<ImageIndex> {
    let Some(cascade) = input.cascades.get(position) else { return Vec::new() };
    let planned: HashSet<&str> = cascade.planned.iter().flatten().map(String::as_str).collect();
    let listed: HashSet<&str> =
        cascade.status.images.iter().map(|image| image.name.as_str()).collect();
    let is_part = |index: ImageIndex, name: &str, image: &ImageDecision| {
        planned.contains(name)
            || listed.contains(name)
            || is_worked_on(cascade.name, input.images.get(index.position()), image)
    };
    let is_unpromoted = |image: &ImageDecision| {
        image
            .verified
            .as_ref()
            .is_some_and(|verified| image.promoted_digest() != Some(&verified.digest))
    };
    let held = held_before_first_build(input, images);
    let images = ImageIndex::enumerate(input.spec.images.iter().zip(images));
    images
        .filter(|(index, _)| members.position_of(*index).is_none_or(|of| of == position))
        .filter(|(index, (spec, image))| {
            let is_held = held.get(index.position()) == Some(&true);
            let is_expected = || is_part(*index, &spec.name, image) || is_unpromoted(image);
            spec.required && !is_held && !is_promotable(image) && is_expected()
        })
        .map(|(index, _)| index)
        .collect()
}

/// Returns, as a mask, the images that a user holds before their first build, and those that have
/// no build either because they are built on them. The others do not wait for the end of the hold.
fn held_before_first_build(input: &DecideInput<'_>, images: &[ImageDecision]) -> Vec<bool> {
    let is_unbuilt = |image: &ImageDecision| image.verified.is_none();
    let held = ImageIndex::enumerate(images)
        .filter(|(_, image)| image.state == ImageState::Held && is_unbuilt(image));
    let mut mask = input.lineage().with_descendants(held.map(|(index, _)| index));
    for (is_member, image) in mask.iter_mut().zip(images) {
        *is_member &= is_unbuilt(image);
    }
    mask
}

/// Returns whether an image has a digest that may be promoted: it is current, or a user holds it at
/// a digest that has passed the checks as they are now, or that tags point to already. No cascade
/// waits for an image that is rolled back, and none moves its tags.
fn is_promotable(image: &ImageDecision) -> bool {
    let Some(verified) = &image.verified else { return false };
    match image.state {
        ImageState::Current => true,
        ImageState::Held if image.rollback.is_some() => true,
        ImageState::Held => image.is_checked || image.promoted_digest() == Some(&verified.digest),
        _ => false,
    }
}
