//! The decision: what to do, and what to record.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use crate::{
    api::{
        BreakerStatus, Cause, CheckRecord, FailureRecord, ImageState, Inputs, ManualHold, Pending,
        RequestState, RollbackRecord, RolledBackImage, RunningBuild, UpstreamStatus, WindowStatus,
        condition::Reason,
    },
    engine::{
        Problem,
        input::{EndedCascade, VerifiedBuild},
        members::CascadeMembers,
    },
    identity::{BuildIdentity, CascadeName, Fingerprint, ImageDigest, JobName, PinnedParent},
    lineage::{CheckIndex, ImageIndex},
};

/// The whole decision of one reconcile.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The upstreams to record, parallel to `spec.upstreams`.
    pub upstreams: Vec<UpstreamStatus>,
    /// The changes that wait for the next cascade.
    pub pending: Option<Pending>,
    /// Whether a window is open; `None` if the spec has no windows.
    pub window: Option<WindowStatus>,
    /// The breaker, while it is open.
    pub breaker: Option<BreakerStatus>,
    /// What happens to the cascades.
    pub cascade: CascadeDecision,
    /// The running cascade of each image, before this decision.
    pub members: CascadeMembers,
    /// The images, parallel to `spec.images`.
    pub images: Vec<ImageDecision>,
    /// The effects, in the order in which they are carried out.
    pub effects: Vec<Effect>,
    /// What happens to the requests, in their order. It is recorded after everything that the
    /// requests have changed.
    pub requests: Vec<RequestDecision>,
    /// When to reconcile again even if nothing changes.
    pub wake_at: Option<Timestamp>,
}

impl Decision {
    /// Returns the builds to start, in their order.
    pub fn builds(&self) -> impl Iterator<Item = &PlannedBuild> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Build(build) => Some(build),
            _ => None,
        })
    }

    /// Returns the upstreams that each build to start counts for, and none for each check, in their
    /// order. Each takes a place within the operator's limits.
    pub fn starts(&self) -> impl Iterator<Item = &[String]> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Build(build) => Some(build.identity.upstreams.as_slice()),
            Effect::Check { .. } => Some(&[][..]),
            _ => None,
        })
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestDecision {
    /// The name of its object.
    pub name: String,
    /// The state of the request.
    pub state: RequestState,
    /// The message that explains `state` to users.
    pub message: String,
    /// How many images the request applies to, if it applies to images.
    pub images: Option<usize>,
    /// The digest that it holds an upstream at.
    pub digest: Option<String>,
    /// The image and tag of the upstream that it holds.
    pub reference: Option<String>,
    /// The images that it holds at earlier builds.
    pub rollbacks: Vec<RolledBackImage>,
}

/// What happens to the cascades of the family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CascadeDecision {
    /// No cascade runs.
    None,
    /// A cascade starts, next to those that run. It must be recorded before any of its builds
    /// starts.
    Start {
        /// The name of the cascade.
        name: CascadeName,
        /// What caused it.
        causes: Vec<Cause>,
        /// The superseded cascade that it replaces.
        supersedes: Option<CascadeName>,
        /// The images that it plans to build, level by level.
        levels: Vec<Vec<ImageIndex>>,
    },
    /// The running cascades continue.
    Continue,
    /// Some of the running cascades end. The others continue.
    Finish {
        /// Those that end.
        ending: Vec<EndedCascade>,
    },
}

impl CascadeDecision {
    /// Returns the running cascade of this name if it ends.
    #[must_use]
    pub fn ending(&self, name: &CascadeName) -> Option<&EndedCascade> {
        match self {
            Self::Finish { ending } => ending.iter().find(|cascade| cascade.name == *name),
            Self::None | Self::Start { .. } | Self::Continue => None,
        }
    }
}

/// The state of one image, and what to record about it.
///
/// Every reconcile creates one per image, and most images are at rest most of the time. The struct
/// is therefore small: what only some images have is boxed, and a current image needs no
/// allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageDecision {
    /// The state of the image.
    pub state: ImageState,
    /// The reason that explains `state`.
    pub reason: Reason,
    /// The message that explains `state` to users.
    pub message: Message,
    /// Whether the image changes its state without an event from outside, for example because a
    /// build runs. Otherwise it is at rest.
    pub in_progress: bool,
    /// Whether children may be built from `verified` while the image is in this state.
    pub releases_children: bool,
    /// The wanted fingerprint, once every input of a stale image is known.
    pub fingerprint: Option<Fingerprint>,
    /// The inputs of the wanted fingerprint.
    pub inputs: Option<Box<Inputs>>,
    /// The last verified build.
    pub verified: Option<Arc<VerifiedBuild>>,
    /// Whether `verified` has passed the checks of the current spec, or the spec has none.
    pub is_checked: bool,
    /// The running build.
    pub running: Option<Box<RunningBuild>>,
    /// The failures at the wanted fingerprint.
    pub failure: Option<Box<FailureRecord>>,
    /// Why the image is stale, including what changed first; empty if it is not stale.
    pub causes: Vec<Cause>,
    /// The failed ancestor that blocks the image.
    pub blocked_by: Option<String>,
    /// The results of the checks of the newest digest.
    pub checks: Vec<CheckRecord>,
    /// What floating tags should point to.
    pub promotion: PromotionTarget,
    /// The hold that a request has set.
    pub hold: Option<Box<ManualHold>>,
    /// The earlier build that a request has rolled the image back to.
    pub rollback: Option<Box<RollbackRecord>>,
    /// The nonce of the request or refresh that rebuilds the image from the same inputs.
    pub nonce: Option<String>,
    /// Since when `verified` stands.
    pub stands_since: Option<Timestamp>,
    /// From when the image may be refreshed by age, if it is.
    pub refresh_at: Option<Timestamp>,
}

/// The message of an image. Messages that nearly all images have are formatted only where they are
/// read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The build is made from the current inputs.
    Current {
        /// The number of the build.
        build: i64,
    },
    /// A rebuild gave the same content, so that the earlier build stays.
    Spared {
        /// The number of the earlier build.
        build: i64,
    },
    /// The digest was adopted from the registry.
    Adopted,
    /// Any other message.
    Text(String),
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current { build } => {
                write!(f, "build {build} is made from the current inputs")
            }
            Self::Spared { build } => {
                write!(f, "a rebuild gave the same content; build {build} stays")
            }
            Self::Adopted => {
                write!(f, "adopted from the registry; it is built when an input changes")
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// What floating tags should point to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromotionTarget {
    /// No build yet.
    None,
    /// The last verified build.
    Verified,
    /// The digest of an earlier build.
    Earlier(ImageDigest),
}

/// One effect outside of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Asks the registry whether a fingerprint was pushed.
    LookUp {
        /// The image.
        image: ImageIndex,
        /// The fingerprint to look up.
        fingerprint: Fingerprint,
        /// What else is read if it was not.
        scope: LookupScope,
        /// The highest attempt that has succeeded.
        after: Option<i32>,
    },
    /// Marks a digest as the newest build of its inputs, which a request has rebuilt. The registry
    /// then says so, even if every record is lost.
    MarkRebuild {
        /// The image.
        image: ImageIndex,
        /// The fingerprint of the inputs without the request.
        fingerprint: Fingerprint,
        /// The digest.
        digest: ImageDigest,
    },
    /// Asks the registry whether it has a digest that an image is to be rolled back to.
    FindDigest {
        /// The image.
        image: ImageIndex,
        /// The digest.
        digest: ImageDigest,
    },
    /// Reads labels of a digest, which tags of the image name.
    ReadLabels {
        /// The image.
        image: ImageIndex,
        /// The digest.
        digest: ImageDigest,
        /// The names of the labels.
        names: Vec<String>,
    },
    /// Starts a build.
    Build(PlannedBuild),
    /// Deletes a Job that still runs although its build has ended or is cancelled: one that counts
    /// as failed, so that it does not build at the same time as the next attempt, or one that has
    /// succeeded and in whose pod a container that something else has added runs.
    Stop {
        /// The name of the Job.
        job: JobName,
    },
    /// Starts a check of a digest.
    Check {
        /// The image.
        image: ImageIndex,
        /// The check.
        check: CheckIndex,
        /// The digest to check.
        digest: ImageDigest,
        /// Which attempt it is, counted from 0.
        attempt: i32,
    },
    /// Points the tag of this fingerprint to an existing digest, because the rebuild gave the same
    /// content. From then on the registry itself says that the fingerprint is built.
    RetagUnchanged {
        /// The image.
        image: ImageIndex,
        /// The fingerprint of the rebuild.
        fingerprint: Fingerprint,
        /// The digest that stays.
        digest: ImageDigest,
    },
    /// Points tags to a digest.
    Promote {
        /// The image.
        image: ImageIndex,
        /// The digest.
        digest: ImageDigest,
        /// The tags to set.
        tags: Vec<TagMove>,
    },
}

/// What a lookup reads if the fingerprint was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupScope {
    /// Nothing more.
    Fingerprint,
    /// What the floating tags of the image point to: the image may be adopted.
    FloatingTags,
}

/// A build with all of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBuild {
    /// The image.
    pub image: ImageIndex,
    /// Identifies the build, and says what it is started for.
    pub identity: BuildIdentity,
    /// The parents with the digests to build from, in the order of `from`.
    pub parents: Vec<PinnedParent>,
    /// The revision of the source.
    pub source: String,
}

/// A tag to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagMove {
    /// The name of the tag.
    pub tag: String,
    /// Whether the tag names the build, so that it is set only once.
    pub immutable: bool,
    /// The digest that somebody else has moved the tag to.
    pub moved_to: Option<ImageDigest>,
}

impl ImageDecision {
    /// Returns the decision for an image in the state `Waiting`, with nothing but a reason.
    #[must_use]
    pub fn waiting(problem: Problem, progress: WaitProgress) -> Self {
        Self {
            state: ImageState::Waiting,
            reason: problem.reason,
            message: problem.message.into(),
            in_progress: progress == WaitProgress::InProgress,
            releases_children: false,
            fingerprint: None,
            inputs: None,
            verified: None,
            is_checked: false,
            running: None,
            failure: None,
            causes: Vec::new(),
            blocked_by: None,
            checks: Vec::new(),
            promotion: PromotionTarget::None,
            hold: None,
            rollback: None,
            nonce: None,
            stands_since: None,
            refresh_at: None,
        }
    }

    /// Returns what a child that waits for this image waits for.
    #[must_use]
    pub const fn progress(&self) -> WaitProgress {
        if self.in_progress { WaitProgress::InProgress } else { WaitProgress::AtRest }
    }

    /// Returns the digest that floating tags should point to.
    #[must_use]
    pub fn promoted_digest(&self) -> Option<&ImageDigest> {
        match &self.promotion {
            PromotionTarget::None => None,
            PromotionTarget::Verified => self.verified.as_ref().map(|verified| &verified.digest),
            PromotionTarget::Earlier(digest) => Some(digest),
        }
    }
}

/// Whether what an image waits for is in progress. Ordered, so that the progress of a wait for
/// several things is the minimum of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitProgress {
    /// It is in progress, so that the wait ends without an event from outside.
    InProgress,
    /// Nothing happens until something outside changes.
    AtRest,
}

impl WaitProgress {
    /// Returns the progress of a wait with this reason: what is being looked up is known soon.
    #[must_use]
    pub fn of_lookup(reason: Reason) -> Self {
        if reason == Reason::Resolving { Self::InProgress } else { Self::AtRest }
    }
}
