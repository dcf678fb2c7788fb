//! Promotion: the digest that floating tags and workloads are to be on.
//!
//! With `Image` it follows each image's last good build. With `Wave` it stays where it was until a wave has come whole, and
//! then moves for all images at once. The target is recorded per image, so that a flip that was interrupted is completed by
//! whoever comes next.

use super::{
    decision::{ImageDecision, Promoted, WaveStep},
    observation::Observation,
};
use crate::api::{ImageState, Promotion};

/// Sets the targets of a family whose policy is `Wave`; also while it is suspended, for tags and workloads follow only when it
/// is resumed.
pub fn flip(seen: &Observation<'_>, wave: &WaveStep, images: &mut [ImageDecision]) {
    if seen.spec.policy.promotion != Promotion::Wave {
        return;
    }
    let whole = match wave {
        WaveStep::Close { superseded: false, .. } => missing(seen, images).is_empty(),
        // What came right without a wave, or before the policy was `Wave`.
        WaveStep::None => {
            seen.spec.images.iter().zip(images.iter()).all(|(spec, image)| !spec.required || stands(image))
        }
        WaveStep::Open { .. } | WaveStep::Running { .. } | WaveStep::Close { superseded: true, .. } => false,
    };
    if whole {
        for image in images.iter_mut().filter(|image| stands(image)) {
            image.promoted = Promoted::Good;
        }
    }
}

/// The required images that keep the wave which runs from being whole: of those that it was about to build, and of those
/// whose newest digest no wave has promoted yet.
#[must_use]
pub fn missing(seen: &Observation<'_>, images: &[ImageDecision]) -> Vec<usize> {
    let Some(wave) = seen.wave else { return Vec::new() };
    let planned: std::collections::HashSet<&str> = wave.planned.iter().flatten().map(String::as_str).collect();
    let touched = |name: &str| planned.contains(name) || wave.status.images.iter().any(|image| image.name == name);
    let unpromoted =
        |image: &ImageDecision| image.good.as_ref().is_some_and(|good| image.promoted() != Some(&good.digest));
    let images = seen.spec.images.iter().zip(images).enumerate();
    images
        .filter(|(_, (spec, image))| spec.required && !stands(image) && (touched(&spec.name) || unpromoted(image)))
        .map(|(index, _)| index)
        .collect()
}

/// Whether an image is where it is to be: built from its inputs as they are, or kept by a person on a digest that has passed
/// the checks as they are now, or that tags stand on anyway.
fn stands(image: &ImageDecision) -> bool {
    let Some(good) = &image.good else { return false };
    match image.state {
        ImageState::Current => true,
        ImageState::Held => image.is_checked || image.promoted() == Some(&good.digest),
        _ => false,
    }
}
