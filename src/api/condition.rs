//! Conditions: their types and reasons, and how one is set.
//!
//! metav1 conditions with kstatus polarity, so that `kubectl wait`, Argo CD and Flux read them
//! without a plugin.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// True when everything is as the spec wants it.
pub const READY: &str = "Ready";
/// True while the controller is moving toward it.
pub const RECONCILING: &str = "Reconciling";
/// True when it can't go on until a person changes something.
pub const STALLED: &str = "Stalled";

/// The most characters of a condition's message; the API server allows 32768, a person reads less.
pub const MAX_MESSAGE: usize = 1024;

/// Reasons of conditions and Events. Each says what happened; the message names the object, the
/// field and what to do.
pub mod reason {
    /// Everything is current.
    pub const CURRENT: &str = "Current";
    /// A cascade is under way, or is about to start.
    pub const CASCADING: &str = "Cascading";
    /// Changes have come and the quiet time has not passed.
    pub const SETTLING: &str = "Settling";
    /// The first digest of an upstream has not been seen yet.
    pub const RESOLVING: &str = "Resolving";
    /// `spec.suspend` is set.
    pub const SUSPENDED: &str = "Suspended";
    /// One or more images have failed.
    pub const IMAGES_FAILED: &str = "ImagesFailed";
    /// The edges of the family run in a circle.
    pub const CYCLE: &str = "Cycle";
    /// `from` names an image or upstream that does not exist.
    pub const UNKNOWN_PARENT: &str = "UnknownParent";
    /// Two images claim one tag of one repository.
    pub const TAG_COLLISION: &str = "TagCollision";
    /// A tag's template names an unknown variable or does not parse.
    pub const INVALID_TAG_TEMPLATE: &str = "InvalidTagTemplate";
    /// A field has a value that can't be used.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A `BuildStrategy` does not exist.
    pub const STRATEGY_NOT_FOUND: &str = "StrategyNotFound";
    /// A `BuildStrategy`, or a parameter given to it, can't be used.
    pub const INVALID_STRATEGY: &str = "InvalidStrategy";
    /// A Secret does not exist.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A Secret exists, and can't be used.
    pub const INVALID_SECRET: &str = "InvalidSecret";
    /// A source does not exist: no such `ConfigMap`, key, repository or revision.
    pub const SOURCE_NOT_FOUND: &str = "SourceNotFound";
    /// A source exists, and can't be used or reached.
    pub const SOURCE_UNAVAILABLE: &str = "SourceUnavailable";
    /// A Dockerfile does not parse, or names an image that `from` does not declare.
    pub const DOCKERFILE_MISMATCH: &str = "DockerfileMismatch";
    /// A registry refused a credential.
    pub const REGISTRY_DENIED: &str = "RegistryDenied";
    /// A registry is away, or slow, or limits us.
    pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
    /// A registry answered with something that is not an image.
    pub const INVALID_REGISTRY_RESPONSE: &str = "InvalidRegistryResponse";
    /// A registry does not have the image or the tag.
    pub const IMAGE_NOT_FOUND: &str = "ImageNotFound";
    /// A manifest is larger than 4 MiB.
    pub const MANIFEST_TOO_LARGE: &str = "ManifestTooLarge";
    /// An upstream's index does not offer a platform that is asked for.
    pub const PLATFORM_MISSING: &str = "PlatformMissing";
    /// An upstream is held where it is.
    pub const HELD: &str = "Held";
    /// The cluster does not give pods a user namespace, and the strategy requires one.
    pub const USER_NAMESPACE_UNAVAILABLE: &str = "UserNamespaceUnavailable";
    /// A parent is not current.
    pub const WAITING_FOR_PARENT: &str = "WaitingForParent";
    /// An ancestor has failed.
    pub const ANCESTOR_FAILED: &str = "AncestorFailed";
    /// As many builds run as `policy.parallelism` allows.
    pub const PARALLELISM_REACHED: &str = "ParallelismReached";
    /// A failed build is tried again after a pause.
    pub const RETRYING: &str = "Retrying";
    /// A build runs.
    pub const BUILDING: &str = "Building";
    /// A build has pushed, and the registry is asked for it.
    pub const VERIFYING: &str = "Verifying";
    /// A build failed as often as `policy.retries` allows.
    pub const BUILD_FAILED: &str = "BuildFailed";
    /// What is around a build failed as often as `policy.retries` allows.
    pub const INFRASTRUCTURE_FAILED: &str = "InfrastructureFailed";
    /// A build took longer than its strategy's `timeout` allows.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// A build, or a command in it, ran out of memory.
    pub const OUT_OF_MEMORY: &str = "OutOfMemory";
    /// A build's disk is full.
    pub const DISK_FULL: &str = "DiskFull";
    /// A pod was evicted: its node was short of something, was drained or shut down.
    pub const EVICTED: &str = "Evicted";
    /// A pod had to make room for one of a higher priority.
    pub const PREEMPTED: &str = "Preempted";
    /// A pod's node is gone, or no longer answers.
    pub const NODE_LOST: &str = "NodeLost";
    /// A node did not take a pod that it was given.
    pub const NODE_REFUSED: &str = "NodeRefused";
    /// A pod was deleted before its end.
    pub const POD_LOST: &str = "PodLost";
    /// A pod can't be started as it is.
    pub const POD_NOT_STARTED: &str = "PodNotStarted";
    /// A node can't pull an image of a pod: the builder's, or the operator's.
    pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
    /// No node has room for a pod.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// The cluster makes no pod for a Job: a quota or a policy forbids it.
    pub const POD_NOT_CREATED: &str = "PodNotCreated";
    /// A quota of the namespace leaves no room for a Job.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// A policy, or a missing right, forbids a Job.
    pub const JOB_REFUSED: &str = "JobRefused";
    /// A registry took the credential and refused what was pushed.
    pub const PUSH_REFUSED: &str = "PushRefused";
    /// The builder's daemon did not start, or went away.
    pub const BUILDER_UNAVAILABLE: &str = "BuilderUnavailable";
    /// Somebody else moved a tag of ours; it was put back.
    pub const TAG_MOVED: &str = "TagMoved";
    /// An immutable tag already stands on another digest, and was left there.
    pub const TAG_IMMUTABLE: &str = "TagImmutable";
    /// A workload can't be rolled out: it or its container does not exist, or its namespace does
    /// not consent.
    pub const ROLLOUT_REFUSED: &str = "RolloutRefused";
    /// A workload does not come up on the new digest.
    pub const ROLLOUT_STALLED: &str = "RolloutStalled";
    /// A workload is moving to the new digest.
    pub const ROLLING_OUT: &str = "RollingOut";
    /// An upstream moved to a new digest.
    pub const UPSTREAM_MOVED: &str = "UpstreamMoved";
    /// A cascade began.
    pub const CASCADE_STARTED: &str = "CascadeStarted";
    /// A cascade ended.
    pub const CASCADE_FINISHED: &str = "CascadeFinished";
    /// A candidate is younger than `minimumAge`.
    pub const MINIMUM_AGE: &str = "MinimumAge";
    /// A candidate waits for a person's agreement.
    pub const AWAITING_APPROVAL: &str = "AwaitingApproval";
    /// No window of `policy.windows` is open.
    pub const WINDOW_CLOSED: &str = "WindowClosed";
    /// Too many builds in a row have failed from one cause.
    pub const BREAKER_OPEN: &str = "BreakerOpen";
    /// As many builds started as `policy.rate_limit` allows.
    pub const RATE_LIMITED: &str = "RateLimited";
    /// As many builds run in the namespace, in the cluster or for an upstream as the operator
    /// allows.
    pub const BUILD_LIMIT_REACHED: &str = "BuildLimitReached";
    /// The image was built in the cascade that runs, and an input has changed since: the next
    /// cascade builds it.
    pub const NEXT_CASCADE: &str = "NextCascade";
    /// A check of the new digest runs.
    pub const CHECKING: &str = "Checking";
    /// A required check of the new digest failed.
    pub const CHECK_FAILED: &str = "CheckFailed";
    /// A person has cancelled the build.
    pub const CANCELLED: &str = "Cancelled";
    /// An image of another family can't be used: it is not there, or not exported to this
    /// namespace.
    pub const IMPORT_REFUSED: &str = "ImportRefused";
    /// A request of a person was carried out.
    pub const REQUEST_DONE: &str = "RequestDone";
    /// A request of a person could not be carried out, or could not be read.
    pub const REQUEST_REFUSED: &str = "RequestRefused";
}

/// Something that stands in the way, told to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A constant of [`reason`].
    pub reason: &'static str,
    /// What happened to which object, which field, what to do.
    pub message: String,
}

/// Sets one condition, and its transition time only when its status changes.
///
/// The message is cut at [`MAX_MESSAGE`] characters; times are cut to whole seconds, so that what
/// is read back equals what was written. The list stays sorted by type.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = if status { "True" } else { "False" };
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let since = conditions
        .iter()
        .find(|condition| condition.type_ == type_ && condition.status == status)
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: shorten(message, MAX_MESSAGE),
        observed_generation: generation,
        last_transition_time: since,
    });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// Whether the condition stands and is true.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// A text cut to at most `most` characters, with an ellipsis where something was cut.
#[must_use]
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).expect("second");
        let mut conditions = Vec::new();
        set(&mut conditions, READY, false, reason::CASCADING, "a", Some(1), at(10));
        set(&mut conditions, READY, false, reason::SETTLING, "b", Some(2), at(20));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert_eq!(
            (conditions[0].reason.as_str(), conditions[0].message.as_str()),
            (reason::SETTLING, "b")
        );
        set(&mut conditions, READY, true, reason::CURRENT, "c", Some(2), at(30));
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
        assert!(is_true(&conditions, READY));
    }

    #[test]
    fn messages_are_cut_at_characters() {
        assert_eq!(shorten("grün", 4), "grün");
        assert_eq!(shorten("grüner", 4), "grü…");
    }
}
