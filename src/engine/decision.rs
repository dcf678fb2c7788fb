//! What is to be done, and what is to be recorded.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use crate::{
    api::{
        BreakerStatus, Cause, CheckRecord, Edge, FailureRecord, HandledRequest, ImageState, Inputs,
        ManualHold, Pending, RunningBuild, UpstreamStatus, WindowStatus,
    },
    engine::{
        Problem,
        input::{Target, VerifiedBuild},
    },
    identity::{BuildIdentity, Fingerprint, ImageDigest, JobName},
    lineage::ImageIndex,
};

/// The whole decision of one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The upstreams as they are to be recorded, as `spec.upstreams`.
    pub upstreams: Vec<UpstreamStatus>,
    /// Changes that wait for a cascade.
    pub pending: Option<Pending>,
    /// Whether a window is open, if there are any.
    pub window: Option<WindowStatus>,
    /// The breaker, while it is open.
    pub breaker: Option<BreakerStatus>,
    /// What becomes of the cascade.
    pub cascade: CascadeStep,
    /// The images, as `spec.images`.
    pub images: Vec<ImageDecision>,
    /// The effects, in the order in which they are to be carried out.
    pub actions: Vec<Action>,
    /// Requests that are handled with this decision, each to be recorded on its object together
    /// with what it brought about.
    pub handled: Vec<(Target, HandledRequest)>,
    /// When to look again though nothing has changed.
    pub wake_at: Option<Timestamp>,
}

/// What becomes of the cascade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CascadeStep {
    /// None runs.
    None,
    /// One begins; it must be recorded before any of its builds starts.
    Open {
        /// Its name.
        name: String,
        /// What set it off.
        causes: Vec<Cause>,
        /// The superseded cascade that it takes the place of.
        supersedes: Option<String>,
        /// What it is about to build: image indices level by level.
        levels: Vec<Vec<ImageIndex>>,
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
        /// Whether it ends early because an upstream has moved on.
        superseded: bool,
    },
}

impl CascadeStep {
    /// The name of the cascade that runs after this step, or is just ending.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Open { name, .. } | Self::Running { name } | Self::Close { name, .. } => {
                Some(name)
            }
        }
    }
}

/// The state of one image, and what is to be recorded of it.
///
/// Small, for there is one of each image in every pass, and in most passes most images are at rest:
/// what only some have is boxed, and nothing is allocated for an image that is current.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageDecision {
    /// What it is doing.
    pub state: ImageState,
    /// A reason constant.
    pub reason: &'static str,
    /// The same in words.
    pub message: Message,
    /// Whether it is on its way, rather than at rest until something outside changes.
    pub in_progress: bool,
    /// Whether children may be built from `verified` as it stands.
    pub stands: bool,
    /// The fingerprint that is wanted, once every input of a stale image is known.
    pub fingerprint: Option<Fingerprint>,
    /// The inputs behind it.
    pub inputs: Option<Box<Inputs>>,
    /// The last good build.
    pub verified: Option<Arc<VerifiedBuild>>,
    /// Whether `verified` has passed its checks as they are now, or has none to pass.
    pub is_checked: bool,
    /// The build that runs.
    pub running: Option<Box<RunningBuild>>,
    /// Failures at the wanted fingerprint.
    pub failure: Option<Box<FailureRecord>>,
    /// Why it is stale, down to what changed first; empty if it is not.
    pub causes: Vec<Cause>,
    /// The failed ancestor that blocks it.
    pub blocked_by: Option<String>,
    /// How the checks of the newest digest go.
    pub checks: Vec<CheckRecord>,
    /// Where floating tags are to be.
    pub promoted: Promoted,
    /// The hold that a request has set.
    pub hold: Option<Box<ManualHold>>,
    /// The request by which it is rebuilt though its inputs are the same.
    pub nonce: Option<String>,
}

/// What is told of an image. What is told of nearly all of them is put into words only where it is
/// read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// This build is made from the inputs as they are.
    Current {
        /// Its number.
        build: i64,
    },
    /// A rebuild came out the same, so that this build stays.
    Spared {
        /// Its number.
        build: i64,
    },
    /// Anything else.
    Words(String),
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current { build } => {
                write!(f, "build {build} is made from the inputs as they are")
            }
            Self::Spared { build } => write!(f, "a rebuild came out the same; build {build} stays"),
            Self::Words(words) => f.write_str(words),
        }
    }
}

impl From<String> for Message {
    fn from(words: String) -> Self {
        Self::Words(words)
    }
}

impl From<&str> for Message {
    fn from(words: &str) -> Self {
        Self::Words(words.into())
    }
}

/// Where floating tags are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// Nowhere yet.
    Nowhere,
    /// On the last good build.
    Verified,
    /// On this digest, of an earlier build.
    Earlier(ImageDigest),
}

/// An effect on the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the registry whether a fingerprint was pushed.
    Probe {
        /// The image.
        image: ImageIndex,
        /// The fingerprint.
        fingerprint: Fingerprint,
        /// The highest attempt that has succeeded.
        after: Option<i32>,
    },
    /// Start a build.
    Build {
        /// The image.
        image: ImageIndex,
        /// Which build it is, and what it is started for.
        identity: BuildIdentity,
        /// The parents with the digests to build from, in the order of `from`.
        parents: Vec<PinnedParent>,
        /// The source's revision.
        source: String,
    },
    /// End a Job that counts as failed or cancelled and has not ended, so that nothing of it builds
    /// beside the next attempt.
    Stop {
        /// The Job's name.
        job: JobName,
    },
    /// Start a check of a digest.
    Check {
        /// The image.
        image: ImageIndex,
        /// The check, by its place in the image's `checks`.
        check: usize,
        /// The digest.
        digest: ImageDigest,
        /// Which attempt, from 0.
        attempt: i32,
    },
    /// Let the registry remember that this fingerprint came out the same as a digest that stands
    /// already.
    Remember {
        /// The image.
        image: ImageIndex,
        /// The fingerprint.
        fingerprint: Fingerprint,
        /// The digest that stays.
        digest: ImageDigest,
    },
    /// Set tags to a digest.
    Promote {
        /// The image.
        image: ImageIndex,
        /// The digest.
        digest: ImageDigest,
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
    /// The reference by which the Dockerfile names it, unless it takes it from an argument.
    pub reference: String,
    /// The digest.
    pub digest: ImageDigest,
}

/// A tag that is to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagMove {
    /// The tag.
    pub tag: String,
    /// Whether it names the build: then it is only ever set once.
    pub immutable: bool,
    /// The digest that somebody else has moved it to.
    pub moved_to: Option<ImageDigest>,
}

impl ImageDecision {
    /// An image at rest in the state `Waiting`.
    #[must_use]
    pub fn waiting(problem: Problem, in_progress: bool) -> Self {
        Self {
            state: ImageState::Waiting,
            reason: problem.reason,
            message: problem.message.into(),
            in_progress,
            stands: false,
            fingerprint: None,
            inputs: None,
            verified: None,
            is_checked: false,
            running: None,
            failure: None,
            causes: Vec::new(),
            blocked_by: None,
            checks: Vec::new(),
            promoted: Promoted::Nowhere,
            hold: None,
            nonce: None,
        }
    }

    /// The digest that floating tags are to be on.
    #[must_use]
    pub fn promoted(&self) -> Option<&ImageDigest> {
        match &self.promoted {
            Promoted::Nowhere => None,
            Promoted::Verified => self.verified.as_ref().map(|verified| &verified.digest),
            Promoted::Earlier(digest) => Some(digest),
        }
    }
}
