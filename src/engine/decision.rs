//! What is to be done, and what is to be recorded.

use jiff::Timestamp;

use super::Fault;
use crate::api::{Cause, Edge, EdgeUse, FailureRecord, ImageState, Inputs, Pending, RunningBuild, UpstreamStatus};

/// The whole decision of one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The upstreams as they are to be recorded, as `spec.upstreams`.
    pub upstreams: Vec<UpstreamStatus>,
    /// Changes that wait for the quiet time.
    pub pending: Option<Pending>,
    /// What becomes of the wave.
    pub wave: WaveStep,
    /// The images, as `spec.images`.
    pub images: Vec<ImageDecision>,
    /// The effects, in the order in which they are to be carried out.
    pub actions: Vec<Action>,
    /// When to look again though nothing has changed.
    pub wake_at: Option<Timestamp>,
}

/// What becomes of the wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaveStep {
    /// None runs.
    None,
    /// One begins; it must be recorded before any of its builds starts.
    Open {
        /// Its name.
        name: String,
        /// What set it off.
        causes: Vec<Cause>,
        /// What it is about to build: image indices level by level.
        levels: Vec<Vec<usize>>,
    },
    /// It goes on.
    Running {
        /// Its name.
        name: String,
    },
    /// It has come to its end.
    Close {
        /// Its name.
        name: String,
    },
}

impl WaveStep {
    /// The name of the wave that runs after this step, or is just ending.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Open { name, .. } | Self::Running { name } | Self::Close { name } => Some(name),
        }
    }
}

/// The state of one image, and what is to be recorded of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageDecision {
    /// What it is doing.
    pub state: ImageState,
    /// A reason constant.
    pub reason: &'static str,
    /// The same in words.
    pub message: String,
    /// Whether it is on its way, rather than at rest until something outside changes.
    pub in_progress: bool,
    /// The fingerprint that is wanted, once every input is known.
    pub fingerprint: Option<String>,
    /// The inputs behind it.
    pub inputs: Option<Inputs>,
    /// The last good build.
    pub good: Option<Good>,
    /// The build that runs.
    pub running: Option<RunningBuild>,
    /// Failures at the wanted fingerprint.
    pub failure: Option<FailureRecord>,
    /// Why it is stale; empty if it is not.
    pub causes: Vec<Cause>,
    /// The failed ancestor that blocks it, by index.
    pub blocked_by: Option<usize>,
}

/// A build that is pushed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good {
    /// Its digest.
    pub digest: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Its number.
    pub build: i64,
    /// Bytes of its config and layers.
    pub size: i64,
    /// What it was made from.
    pub inputs: Inputs,
    /// When the oldest upstream digest below it was first seen.
    pub base_seen: Option<Timestamp>,
}

/// An effect on the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the registry whether a fingerprint was pushed.
    Probe {
        /// The image.
        image: usize,
        /// The fingerprint.
        fingerprint: String,
        /// The highest attempt that has succeeded.
        after: Option<i32>,
    },
    /// Start a build.
    Build {
        /// The image.
        image: usize,
        /// The fingerprint.
        fingerprint: String,
        /// Which attempt at it, from 0.
        attempt: i32,
        /// The number that the build gets.
        build: i64,
        /// The parents with the digests to build from, in the order of `from`.
        parents: Vec<PinnedParent>,
        /// The source's revision.
        source: String,
    },
    /// End a Job that counts as failed and has not ended, so that nothing of it builds beside the next attempt.
    Stop {
        /// The Job's name.
        job: String,
    },
    /// Let the registry remember that this fingerprint came out the same as a digest that stands already.
    Remember {
        /// The image.
        image: usize,
        /// The fingerprint.
        fingerprint: String,
        /// The digest that stays.
        digest: String,
    },
    /// Set tags to a digest.
    Promote {
        /// The image.
        image: usize,
        /// The digest.
        digest: String,
        /// The tags.
        tags: Vec<TagMove>,
    },
}

/// A parent and the digest of it that a build uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedParent {
    /// The edge.
    pub edge: Edge,
    /// The parent's repository.
    pub repository: String,
    /// The reference that the Dockerfile names it by, unless it takes it from an argument.
    pub reference: String,
    /// The digest.
    pub digest: String,
}

impl PinnedParent {
    /// Whether the image's layers stand on this parent's.
    #[must_use]
    pub fn is_base(&self) -> bool {
        self.edge.usage == EdgeUse::Base
    }
}

/// A tag that is to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagMove {
    /// The tag.
    pub tag: String,
    /// Whether it names the build, and so is never moved once it stands.
    pub immutable: bool,
    /// The digest that somebody else moved it to, where that is why it is set again.
    pub moved_to: Option<String>,
}

impl ImageDecision {
    /// An image that can't be looked at further.
    #[must_use]
    pub fn waiting(fault: Fault, in_progress: bool) -> Self {
        Self {
            state: ImageState::Waiting,
            reason: fault.reason,
            message: fault.message,
            in_progress,
            fingerprint: None,
            inputs: None,
            good: None,
            running: None,
            failure: None,
            causes: Vec::new(),
            blocked_by: None,
        }
    }
}
