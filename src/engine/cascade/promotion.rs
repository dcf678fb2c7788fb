//! Promotion: the digest that floating tags and workloads are to be on.
//!
//! With `Image` it follows each image's last good build. With `Cascade` it stays where it was until
//! a cascade has come whole, and then moves for all images at once. The target is recorded per
//! image, so that a flip that was interrupted is completed by whoever comes next.

use crate::{
    api::{ImageState, Promotion},
    engine::{
        decision::{CascadeStep, ImageDecision, Promoted},
        input::DecideInput,
    },
};

/// Sets the targets of a family whose policy is `Cascade`; also while it is suspended, for tags and
/// workloads follow only when it is resumed.
pub fn flip(input: &DecideInput<'_>, cascade: &CascadeStep, images: &mut [ImageDecision]) {
    if input.spec.policy.promotion != Promotion::Cascade {
        return;
    }
    let whole = match cascade {
        CascadeStep::Close { superseded: false, .. } => missing(input, images).is_empty(),
        // What came right without a cascade, or before the policy was `Cascade`.
        CascadeStep::None => input
            .spec
            .images
            .iter()
            .zip(images.iter())
            .all(|(spec, image)| !spec.required || stands(image)),
        CascadeStep::Open { .. }
        | CascadeStep::Running { .. }
        | CascadeStep::Close { superseded: true, .. } => false,
    };
    if whole {
        for image in images.iter_mut().filter(|image| stands(image)) {
            image.promoted = Promoted::Verified;
        }
    }
}

/// The required images that keep the cascade which runs from being whole: of those that it was
/// about to build, and of those whose newest digest no cascade has promoted yet.
#[must_use]
pub fn missing(input: &DecideInput<'_>, images: &[ImageDecision]) -> Vec<usize> {
    let Some(cascade) = input.cascade else { return Vec::new() };
    let planned: std::collections::HashSet<&str> =
        cascade.planned.iter().flatten().map(String::as_str).collect();
    let touched = |name: &str| {
        planned.contains(name) || cascade.status.images.iter().any(|image| image.name == name)
    };
    let unpromoted = |image: &ImageDecision| {
        image.verified.as_ref().is_some_and(|verified| image.promoted() != Some(&verified.digest))
    };
    let images = input.spec.images.iter().zip(images).enumerate();
    images
        .filter(|(_, (spec, image))| {
            spec.required && !stands(image) && (touched(&spec.name) || unpromoted(image))
        })
        .map(|(index, _)| index)
        .collect()
}

/// Whether an image is where it is to be: built from its inputs as they are, or kept by a person on
/// a digest that has passed the checks as they are now, or that tags stand on anyway.
fn stands(image: &ImageDecision) -> bool {
    let Some(verified) = &image.verified else { return false };
    match image.state {
        ImageState::Current => true,
        ImageState::Held => image.is_checked || image.promoted() == Some(&verified.digest),
        _ => false,
    }
}
