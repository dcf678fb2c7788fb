//! What a walk over the lineage carries along: shared by [`images`](super::images), `inputs`, `builds` and `checks`, which take
//! its steps.

use jiff::Timestamp;

use super::{
    blueprint::ImageBlueprint,
    decision::{Action, ImageDecision},
    observation::{ImageSight, Observation},
    requests::Wishes,
};
use crate::api::{Image, UpstreamStatus};

/// The images as they are with the given upstream digests, and what is to be done for them.
#[derive(Debug)]
pub struct Walk {
    /// The images, as `spec.images`.
    pub images: Vec<ImageDecision>,
    /// What is to be done.
    pub todo: Todo,
    /// When the first hold of an image ends by itself.
    pub holds_end: Option<Timestamp>,
}

/// What is to be done for the images of a walk.
#[derive(Debug, Default)]
pub struct Todo {
    /// Questions to the registry, checks to start, builds to end, and what the registry is to remember.
    pub actions: Vec<Action>,
    /// Images that are ready to build.
    pub ready: Vec<Ready>,
    /// The earliest time at which something is to be tried again.
    pub wake_at: Option<Timestamp>,
}

/// An image that is ready to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The image.
    pub image: usize,
    /// The build that it needs.
    pub action: Action,
    /// Whether the image itself changed, or a person asked: such builds go first.
    pub user_caused: bool,
    /// Whether nothing but images of other families changed: the quiet time has passed where the change came in.
    pub imported: bool,
}

impl Todo {
    /// Looks again at this time, if nothing earlier comes.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// What is the same for all images of a walk.
pub(super) struct Frame<'a> {
    pub(super) seen: &'a Observation<'a>,
    pub(super) upstreams: &'a [UpstreamStatus],
    pub(super) wishes: &'a Wishes,
    pub(super) now: Timestamp,
}

/// One image of the walk.
pub(super) struct Step<'a> {
    pub(super) frame: &'a Frame<'a>,
    pub(super) index: usize,
    pub(super) image: &'a Image,
    pub(super) blueprint: &'a ImageBlueprint,
    pub(super) sight: &'a ImageSight<'a>,
}
