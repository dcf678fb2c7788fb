//! What a walk over the lineage carries along: shared by [`images`](super::images) and `inputs`, which take its steps.

use jiff::Timestamp;

use super::{
    decision::{Action, ImageDecision},
    observation::{ImageSight, Observation},
};
use crate::api::{Image, ImageFamilySpec, UpstreamStatus};

/// The images as they are with the given upstream digests, and what is ready to be done for them.
#[derive(Debug)]
pub struct Walk {
    /// The images, as `spec.images`.
    pub images: Vec<ImageDecision>,
    /// Questions to the registry.
    pub probes: Vec<Action>,
    /// Images that are ready to build, with the build that they need.
    pub ready: Vec<(usize, Action)>,
    /// The earliest time at which something is to be tried again.
    pub wake_at: Option<Timestamp>,
}

impl Walk {
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// One image of the walk.
pub(super) struct Step<'a> {
    pub(super) seen: &'a Observation<'a>,
    pub(super) upstreams: &'a [UpstreamStatus],
    pub(super) index: usize,
    pub(super) image: &'a Image,
    pub(super) sight: &'a ImageSight<'a>,
    pub(super) now: Timestamp,
}

/// The repository that an image is pushed to.
#[must_use]
pub fn repository(spec: &ImageFamilySpec, image: &Image) -> String {
    format!("{}/{}", spec.repository, image.path.as_deref().unwrap_or(&image.name))
}
