//! The result of an evaluation, and the context that its steps share.

use jiff::Timestamp;

use crate::{
    api::Image,
    engine::{
        blueprint::ImageBlueprint,
        decision::{Effect, ImageDecision, PlannedBuild},
        image::environment::Recovery,
        input::{DecideInput, ObservedCascade, ObservedImage},
        members::CascadeMembers,
        requests::RequestEffects,
        upstreams::FollowedUpstreams,
    },
    identity::ImageDigest,
    lineage::{CheckIndex, ImageIndex},
};

/// The images with the given upstream digests, and what to do for them.
#[derive(Debug)]
pub struct Evaluation {
    /// The images, parallel to `spec.images`.
    pub images: Vec<ImageDecision>,
    /// What to do for the images.
    pub plan: Plan,
    /// When the first hold of an image expires.
    pub next_hold_end: Option<Timestamp>,
}

/// What to do for the images of an evaluation.
#[derive(Debug, Default)]
pub struct Plan {
    /// Lookups, builds and checks to stop, and tags of unchanged rebuilds.
    pub effects: Vec<Effect>,
    /// The builds that may start when the gates of the cascade allow it.
    pub ready_builds: Vec<ReadyBuild>,
    /// The checks that may start when their gates are open.
    pub ready_checks: Vec<ReadyCheck>,
    /// The images that only wait for the end of an outage.
    pub in_outage: Vec<ImageIndex>,
    /// The images that only wait for a Job to be admitted.
    pub not_admitted: Vec<ImageIndex>,
    /// The images whose last Jobs were rejected, and whose builds may start again.
    pub tried_again: Vec<ImageIndex>,
    /// The images whose rebuild the registry could not mark yet. Their tags wait for it.
    pub unmarked: Vec<ImageIndex>,
    /// The earliest time at which something is tried again.
    pub wake_at: Option<Timestamp>,
}

/// A build that has all of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyBuild {
    /// The build.
    pub build: PlannedBuild,
    /// Whether only images of other families changed. The quiet time has then passed in the family
    /// where the change started.
    pub only_imports_changed: bool,
}

/// A check that is to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyCheck {
    /// The image.
    pub image: ImageIndex,
    /// The check.
    pub check: CheckIndex,
    /// The digest to check.
    pub digest: ImageDigest,
    /// Which attempt it is, counted from 0.
    pub attempt: i32,
    /// Whether a user caused the build of the digest.
    pub user_caused: bool,
}

impl Plan {
    /// Requests a reconcile at this time at the latest.
    pub(in crate::engine) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// What all images of an evaluation share.
pub(in crate::engine) struct EvalContext<'a> {
    pub(in crate::engine) input: &'a DecideInput<'a>,
    pub(in crate::engine) followed: &'a FollowedUpstreams,
    pub(in crate::engine) request_effects: &'a RequestEffects,
    pub(in crate::engine) members: &'a CascadeMembers,
    /// The last builds that have shown that what is around builds works.
    pub(in crate::engine) recoveries: &'a [Recovery<'a>],
    pub(in crate::engine) now: Timestamp,
}

/// The evaluation of one image.
pub(in crate::engine) struct ImageEval<'a> {
    pub(in crate::engine) context: &'a EvalContext<'a>,
    pub(in crate::engine) index: ImageIndex,
    pub(in crate::engine) image: &'a Image,
    pub(in crate::engine) blueprint: &'a ImageBlueprint,
    pub(in crate::engine) observed: &'a ObservedImage<'a>,
    /// The nonce of the refresh that is due, if one is.
    pub(in crate::engine) due_refresh: Option<String>,
}

impl<'a> ImageEval<'a> {
    /// Returns the running cascade that the image belongs to, or `None` if it belongs to none.
    pub(in crate::engine) fn cascade(&self) -> Option<&'a ObservedCascade<'a>> {
        self.context.members.cascade_of(self.context.input, self.index)
    }
}
