//! The Jobs of an image as a reconcile has found them: builds, checks, and those that are not
//! admitted now.

use jiff::Timestamp;

use crate::{
    api::{
        BuildFailure,
        condition::{Problem, Reason},
    },
    identity::{BuildIdentity, Fingerprint, ImageDigest, JobName},
};

/// A Job that a quota, a policy or a node has rejected. It is created again, and no attempt is
/// spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeferredJob {
    /// What the Job is for.
    pub work: DeferredWork,
    /// Why it was rejected.
    pub problem: Problem,
    /// When it was first rejected, of the rejections in a row.
    pub since: Timestamp,
    /// When it is created again.
    pub retry_at: Timestamp,
}

/// What a Job that was rejected is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeferredWork {
    /// A build of a fingerprint.
    Build(Fingerprint),
    /// A check of a digest.
    Check {
        /// The digest.
        digest: ImageDigest,
        /// Hash of the check's spec.
        revision: String,
    },
}

/// A build as its Job shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBuild {
    /// The name of the Job.
    pub job: JobName,
    /// Identifies the build, and says what it was started for.
    pub identity: BuildIdentity,
    /// When the Job was created.
    pub started_at: Option<Timestamp>,
    /// When our own containers ended, or the Job was completed; `None` if neither is known.
    pub ended_at: Option<Timestamp>,
    /// The outcome so far.
    pub outcome: BuildOutcome,
    /// The digest that the pod reports to have pushed.
    pub pushed: Option<ImageDigest>,
    /// What the pod waits for, if it has not started.
    pub waits_for: Option<String>,
    /// The reason for what the pod waits for.
    pub wait_reason: Option<Reason>,
    /// Whether a container of ours has started, or may have.
    pub has_started: bool,
    /// The repository that the build pushes to; `None` if its Job does not say so, because an
    /// earlier version has created it.
    pub repository: Option<String>,
    /// Whether the Job has not ended, so that its pods may run or start, whatever `outcome` says.
    pub live: bool,
}

impl ObservedBuild {
    /// Whether the build pushes to this repository, as far as its Job says.
    #[must_use]
    pub fn pushes_to(&self, repository: &str) -> bool {
        self.repository.as_ref().is_none_or(|known| known == repository)
    }

    /// Ignores how the build has ended if it does not push to the repository that its image has
    /// now. It is then neither a success nor a failure.
    pub fn ignore_other_repository(&mut self, wanted: &str) {
        if !self.pushes_to(wanted) && self.outcome != BuildOutcome::Running {
            self.outcome = BuildOutcome::Stopped;
        }
    }

    /// Returns when the build was started, unless a user caused it or it was not admitted.
    /// `policy.rateLimit` counts these starts only.
    #[must_use]
    pub fn rate_limited_start(&self) -> Option<Timestamp> {
        self.started_at.filter(|_| !self.identity.user_caused && !self.is_rejected())
    }

    /// Whether the Job has no pod that may run, because the pod was rejected.
    #[must_use]
    pub const fn is_rejected(&self) -> bool {
        matches!(self.outcome, BuildOutcome::NotAdmitted(_))
    }
}

/// The outcome of a build so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildOutcome {
    /// The build has not ended.
    Running,
    /// The build has succeeded. Only the registry says what was pushed.
    Succeeded,
    /// The build has failed.
    Failed(BuildFailure),
    /// The Job's pod was rejected, so that nothing has run. This is not a failure.
    NotAdmitted(Problem),
    /// The Job is being deleted on purpose, or was. It counts neither as a success nor as a
    /// failure.
    Stopped,
}

/// A check as its Job shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedCheck {
    /// The Job's name.
    pub job: JobName,
    /// The name of the check.
    pub check: String,
    /// Hash of the check's spec.
    pub revision: String,
    /// The digest that is checked.
    pub digest: ImageDigest,
    /// The image that the check runs in, with its digest, if that is not the new image.
    pub image: Option<String>,
    /// Which attempt it is, counted from 0.
    pub attempt: i32,
    /// What its pod waits for, if it has not started.
    pub waits_for: Option<String>,
    /// The outcome so far.
    pub outcome: CheckOutcome,
    /// Whether the Job has not ended. A stopped check runs until its pod is gone.
    pub live: bool,
}

/// The outcome of a check so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The check has not ended.
    Running,
    /// The exit code was 0. Holds the end of its output.
    Passed(String),
    /// The exit code was not 0, or the infrastructure failed. The class says which.
    Failed(BuildFailure),
    /// The Job's pod was rejected, so that nothing has run. There is no result.
    NotAdmitted(Problem),
    /// The Job was deleted before it ended, so that there is no result.
    Stopped,
}
