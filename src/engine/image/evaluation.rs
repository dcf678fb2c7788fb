//! What a walk over the lineage carries along: shared by
//! [`images`](crate::engine::image::evaluate), `inputs`, `builds` and `checks`, which take its
//! steps.

use jiff::Timestamp;

use crate::{
    api::{Image, UpstreamStatus},
    engine::{
        blueprint::ImageBlueprint,
        decision::{Action, ImageDecision},
        input::{DecideInput, ObservedImage},
        requests::RequestEffects,
    },
    lineage::ImageIndex,
};

/// The images as they are with the given upstream digests, and what is to be done for them.
#[derive(Debug)]
pub struct Evaluation {
    /// The images, as `spec.images`.
    pub images: Vec<ImageDecision>,
    /// What is to be done.
    pub plan: Plan,
    /// When the first hold of an image ends by itself.
    pub holds_end: Option<Timestamp>,
}

/// What is to be done for the images of a walk.
#[derive(Debug, Default)]
pub struct Plan {
    /// Questions to the registry, checks to start, builds to end, and what the registry is to
    /// remember.
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
    pub image: ImageIndex,
    /// The build that it needs.
    pub action: Action,
    /// Whether the image itself changed, or a person asked: such builds go first.
    pub user_caused: bool,
    /// Whether nothing but images of other families changed: the quiet time has passed where the
    /// change came in.
    pub imported: bool,
}

impl Plan {
    /// Looks again at this time, if nothing earlier comes.
    pub(in crate::engine) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// What is the same for all images of a walk.
pub(in crate::engine) struct EvalContext<'a> {
    pub(in crate::engine) input: &'a DecideInput<'a>,
    pub(in crate::engine) upstreams: &'a [UpstreamStatus],
    pub(in crate::engine) effects: &'a RequestEffects,
    pub(in crate::engine) now: Timestamp,
}

/// One image of the walk.
pub(in crate::engine) struct ImageEval<'a> {
    pub(in crate::engine) context: &'a EvalContext<'a>,
    pub(in crate::engine) index: ImageIndex,
    pub(in crate::engine) image: &'a Image,
    pub(in crate::engine) blueprint: &'a ImageBlueprint,
    pub(in crate::engine) observed: &'a ObservedImage<'a>,
}
