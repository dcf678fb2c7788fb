//! Conditions: their types, their reasons, and how one is set.
//!
//! Conditions follow `metav1.Condition` and kstatus, so that `kubectl wait`, Argo CD and Flux read
//! them without a plugin.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition type that is true when the object matches its spec.
pub const READY: &str = "Ready";
/// Condition type that is true while the controller works towards the spec.
pub const RECONCILING: &str = "Reconciling";
/// Condition type that is true when the controller makes no progress until a user changes
/// something.
pub const STALLED: &str = "Stalled";

/// Maximum length of a condition's message in characters. The API server allows 32768, which is
/// more than a user reads.
pub const MAX_MESSAGE: usize = 1024;

/// Defines [`Reason`], the [`ReasonClass`] of each variant, and its [`ReasonTrait`]s.
macro_rules! reasons {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident: $class:ident $(+ $trait:ident)*;
    )+) => {
        /// Reason of a condition, a state or an Event. It says what happened. The message next to
        /// it names the object and the field, and says what to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of their definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the reason as statuses and Events have it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                }
            }

            /// Returns what has to happen before an object leaves the state.
            #[must_use]
            pub const fn class(self) -> ReasonClass {
                match self {
                    $(Self::$variant => ReasonClass::$class,)+
                }
            }

            const fn traits(self) -> &'static [ReasonTrait] {
                match self {
                    $(Self::$variant => &[$(ReasonTrait::$trait),*],)+
                }
            }
        }
    };
}

/// What has to happen before an object leaves the state that a reason explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonClass {
    /// Nothing: the object is as the user wants it, or the reason reports an event that is over.
    Settled,
    /// The state is intended and passes without a correction: once a build, a parent, a limit or a
    /// point in time allows it.
    Expected,
    /// The state is intended, and nothing is in progress: it passes when a gate opens at a point in
    /// time, or when a user opens it.
    Gated,
    /// The state may last until a user changes something.
    NeedsUser,
}

/// What else the code must know about a reason. It is in the row of the reason, so that a new
/// one is complete in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonTrait {
    /// A family that is `Stalled` with this reason is not evaluated: the records of its images stay
    /// as they were before.
    StopsEvaluation,
    /// The spec or a user asks for this wait: an Event about it is no warning, and what waits is
    /// not overdue.
    Intended,
    /// The state of an upstream that the next response of its registry may end.
    AwaitsRegistry,
    /// A poll that fails with it is repeated after minutes at most, however short its interval is:
    /// it may have taken long, and held what other polls need.
    PolledRarely,
    /// Nothing of a Job has run.
    PreventsStart,
    /// The build needs more than it may use: a failure of the infrastructure that is likely to
    /// happen again, and that says nothing about the builds of other images.
    ExceedsResources,
    /// Another pod may not fail: one with more resources or time, or on another node. None of this
    /// is part of the fingerprint.
    DependsOnPod,
    /// The Job is created again once a quota has changed.
    AwaitsQuota,
    /// A build that fails so fails until a user corrects something outside of the spec, so that it
    /// is retried rarely.
    AwaitsCorrection,
}

impl Reason {
    /// Returns the reason that a status or an Event has as a text, or `None` if this version does
    /// not know it, because another one has recorded it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text)
    }

    /// Returns whether the reason has this trait.
    #[must_use]
    pub fn has(self, wanted: ReasonTrait) -> bool {
        self.traits().contains(&wanted)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.as_str().into()
    }
}

/// A text that was read from a status equals a reason if it is that of the reason. One that this
/// version does not know equals none.
impl PartialEq<Reason> for str {
    fn eq(&self, reason: &Reason) -> bool {
        self == reason.as_str()
    }
}

impl PartialEq<Reason> for String {
    fn eq(&self, reason: &Reason) -> bool {
        self == reason.as_str()
    }
}

reasons! {
    /// The object matches its spec and its inputs.
    Current: Settled;
    /// A cascade is running or is about to start.
    Cascading: Expected;
    /// Inputs have changed, and the quiet time `policy.settle` has not passed yet.
    Settling: Expected + Intended;
    /// The first digest of an upstream, or another input, has not been looked up yet.
    Resolving: Expected + AwaitsRegistry;
    /// `spec.suspend` is set. The state lasts until the user clears the field.
    Suspended: Gated + Intended;
    /// One or more images have failed, or cannot be built as they are specified.
    ImagesFailed: NeedsUser;
    /// The edges of the graph form a cycle.
    Cycle: NeedsUser + StopsEvaluation;
    /// An entry of `from` names an image or an upstream that does not exist.
    UnknownParent: NeedsUser + StopsEvaluation;
    /// Two images claim the same tag of the same repository. It is the reason of the images that do
    /// not get the tag, and of a family that has no other image.
    TagCollision: NeedsUser + StopsEvaluation;
    /// The operator's configuration does not allow the namespace to name the repository. It is the
    /// reason of the images, and of a family that has no other image.
    RepositoryNotAllowed: NeedsUser + StopsEvaluation;
    /// A tag template does not parse or names an unknown variable.
    InvalidTagTemplate: NeedsUser + StopsEvaluation;
    /// A tag cannot be set because of a label of the built image, which its template names: the
    /// image does not have the label, or its value gives no tag.
    InvalidTagLabel: NeedsUser;
    /// A field has an invalid value.
    InvalidSpec: NeedsUser + StopsEvaluation;
    /// Images of the spec are left out, because a template or a matrix of theirs is invalid.
    ImagesLeftOut: NeedsUser;
    /// A `BuildStrategy` does not exist.
    StrategyNotFound: NeedsUser;
    /// A `BuildStrategy` does not serve the namespace of the family.
    StrategyNotAllowed: NeedsUser;
    /// A `BuildStrategy`, or a parameter that a family gives to it, is invalid.
    InvalidStrategy: NeedsUser;
    /// A Secret does not exist.
    SecretNotFound: NeedsUser + StopsEvaluation;
    /// A Secret exists and cannot be used.
    InvalidSecret: NeedsUser + StopsEvaluation;
    /// A source does not exist: there is no such `ConfigMap`, key, repository or revision.
    SourceNotFound: NeedsUser;
    /// A source exists and cannot be used or reached.
    SourceUnavailable: NeedsUser + PolledRarely;
    /// A Dockerfile does not parse, names an image that `from` does not declare, or does not
    /// declare one of the `args`.
    DockerfileMismatch: NeedsUser;
    /// A registry rejected a credential.
    RegistryDenied: NeedsUser + AwaitsCorrection;
    /// A registry does not serve an image because of a policy, for example because a scanner has
    /// found something in it.
    DownloadBlocked: NeedsUser + AwaitsCorrection;
    /// The builder does not trust the certificate of a registry.
    RegistryUntrusted: NeedsUser + AwaitsCorrection;
    /// A registry is unreachable, slow, or limits the rate of requests.
    RegistryUnavailable: NeedsUser + AwaitsRegistry + PolledRarely;
    /// The controller does not connect to the address of a registry or a Git server, because the
    /// operator's configuration does not allow it.
    AddressNotAllowed: NeedsUser + PolledRarely;
    /// A registry returned a response that is not an image.
    InvalidRegistryResponse: NeedsUser;
    /// One of the operator's own tags points to an image that no build of ours is recorded to have
    /// pushed. The image is not used.
    UnrecordedImage: NeedsUser;
    /// A build succeeded, but its pod does not report the digest that it has pushed.
    DigestNotReported: NeedsUser;
    /// A registry does not have the image or the tag.
    ImageNotFound: NeedsUser;
    /// A manifest is larger than 4 MiB.
    ManifestTooLarge: NeedsUser;
    /// The index of an upstream, or of the image that a check runs in, does not offer a required
    /// platform.
    PlatformMissing: NeedsUser;
    /// A build made an image for another platform than its own, or from a base for another one.
    PlatformMismatch: NeedsUser;
    /// The platform of the builds whose strategies name none is recorded.
    PlatformFixed: Settled;
    /// `spec.adopt` is set, and the image that exists cannot be adopted as current. It stays as it
    /// is.
    NotAdopted: NeedsUser;
    /// An image or an upstream is held at its current digest. An upstream that is held before its
    /// first digest needs a user: its images wait until the hold names a digest or ends.
    Held: NeedsUser + Intended;
    /// The strategy requires a user namespace, and the cluster does not give one to pods.
    UserNamespaceUnavailable: NeedsUser + PreventsStart;
    /// A parent is not current.
    WaitingForParent: Expected;
    /// An ancestor has failed.
    AncestorFailed: NeedsUser;
    /// The family runs as many builds as `policy.parallelism` allows.
    ParallelismReached: Expected;
    /// A build failed and is retried after a pause.
    Retrying: Expected;
    /// A build is running.
    Building: Expected;
    /// A build has pushed its image, and the registry is being queried for it.
    Verifying: Expected;
    /// A build failed as often as `policy.retries` allows.
    BuildFailed: NeedsUser;
    /// The infrastructure around a build keeps failing, for a reason that is in the message.
    InfrastructureFailed: NeedsUser;
    /// A build ran longer than the `timeout` of its strategy.
    DeadlineExceeded: NeedsUser + DependsOnPod;
    /// A build, or a command in it, ran out of memory.
    OutOfMemory: NeedsUser + ExceedsResources + DependsOnPod;
    /// The disk of a build is full.
    DiskFull: NeedsUser + ExceedsResources + DependsOnPod;
    /// A pod was evicted because its node was short of a resource, was drained or shut down.
    Evicted: NeedsUser + DependsOnPod;
    /// A pod was preempted by one of a higher priority.
    Preempted: NeedsUser;
    /// The node of a pod is gone or no longer responds.
    NodeLost: NeedsUser;
    /// A node rejected the pod of a Job that was scheduled to it. The Job is created again once a
    /// pause has passed.
    NodeRefused: Expected + PreventsStart;
    /// A pod was deleted before it finished.
    PodLost: NeedsUser;
    /// A pod does not run the containers of its Job, so that nothing that it says is believed.
    PodChanged: NeedsUser;
    /// A pod cannot be started with its current specification.
    PodNotStarted: NeedsUser + PreventsStart;
    /// A node cannot pull an image of a pod: that of the builder or that of the operator.
    ImagePullFailed: NeedsUser + PreventsStart;
    /// No node has enough free resources for a pod.
    Unschedulable: NeedsUser + PreventsStart + DependsOnPod;
    /// The cluster creates no pod for a Job, and does not say why. The Job is created again once a
    /// pause has passed.
    PodNotCreated: NeedsUser + PreventsStart;
    /// A quota of the namespace leaves no room for a Job or for its pod. The Job is created once
    /// there is room.
    QuotaExceeded: Expected + PreventsStart + AwaitsQuota;
    /// A Job or its pod requests more than a quota of the namespace allows in total, so that it
    /// never fits. The Job is created once the quota or the requests have changed.
    QuotaTooSmall: NeedsUser + PreventsStart + AwaitsQuota;
    /// A policy, a limit range or a missing permission forbids a Job or its pod. The Job is created
    /// once it is admitted.
    JobRefused: NeedsUser + PreventsStart;
    /// A registry accepted the credential and rejected the push.
    PushRefused: NeedsUser + AwaitsCorrection;
    /// The daemon of the builder did not start or disappeared.
    BuilderUnavailable: NeedsUser;
    /// Another client moved a tag that Groundswell manages. The tag was restored.
    TagMoved: NeedsUser;
    /// An immutable tag already points to another digest and was left there.
    TagImmutable: NeedsUser;
    /// A workload cannot be rolled out: the workload or its container does not exist, or its
    /// namespace does not consent.
    RolloutRefused: NeedsUser;
    /// A workload does not become ready with the new digest.
    RolloutStalled: NeedsUser;
    /// Another client keeps replacing the digest of a workload. It is set again after a pause.
    RolloutContested: NeedsUser;
    /// A workload is moving to the new digest.
    RollingOut: Expected;
    /// An upstream moved to a new digest.
    UpstreamMoved: Settled;
    /// The support of the release that an upstream follows has ended.
    UpstreamEndOfLife: NeedsUser;
    /// A cascade started.
    CascadeStarted: Settled;
    /// A cascade finished.
    CascadeFinished: Settled;
    /// A candidate is younger than `minimumAge`.
    MinimumAge: Gated + Intended;
    /// A tag points to a digest again that was adopted and replaced before.
    DigestReturned: Gated + Intended;
    /// A candidate needs the approval of a user.
    AwaitingApproval: NeedsUser + Intended;
    /// No window of `policy.windows` is open.
    WindowClosed: Gated + Intended;
    /// Too many consecutive builds have failed from the same cause.
    BreakerOpen: Gated;
    /// The registry of an upstream limits pulls, so that a build could only fail.
    PullsLimited: Gated;
    /// As many builds of the family have started as `policy.rateLimit` allows.
    RateLimited: Expected;
    /// The namespace, the cluster or an upstream has as many running builds as the operator allows.
    BuildLimitReached: Expected;
    /// The running cascade has built the image, and an input has changed since. The next cascade
    /// builds it again.
    NextCascade: Expected;
    /// A check of the new digest is running.
    Checking: Expected;
    /// A required check of the new digest failed.
    CheckFailed: NeedsUser;
    /// A user has cancelled the build.
    Cancelled: NeedsUser;
    /// An image of another family cannot be used: it does not exist, or it is not exported to this
    /// namespace.
    ImportRefused: NeedsUser;
    /// Records that belonged to nobody were adopted by the family.
    RecordsAdopted: Settled;
    /// The record of an image is controlled by another object.
    RecordConflict: NeedsUser + StopsEvaluation;
    /// Another installation of Groundswell serves the family.
    ServedElsewhere: NeedsUser;
    /// A request of a user was carried out.
    RequestDone: Settled;
    /// A request of a user could not be carried out or could not be read.
    RequestRefused: NeedsUser;
}

/// A problem that a user reads in a status or an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The reason.
    pub reason: Reason,
    /// Sentence that says what happened to which object, which field is concerned and what to do.
    pub message: String,
}

/// Values of one condition, for [`set`].
#[derive(Clone, Copy, Debug)]
pub struct ConditionUpdate<'a> {
    /// Condition type, for example [`READY`].
    pub type_: &'a str,
    /// Status of the condition: `True` or `False`.
    pub status: bool,
    /// The reason.
    pub reason: Reason,
    /// Message, cut at [`MAX_MESSAGE`] characters.
    pub message: &'a str,
    /// Generation of the spec that the condition refers to.
    pub observed_generation: Option<i64>,
}

/// Sets one condition. Its transition time becomes `now` only if its status changes.
///
/// The time is cut to whole seconds, so that a condition read back from the API server equals the
/// one that was written. The list stays sorted by type.
pub fn set(conditions: &mut Vec<Condition>, update: ConditionUpdate<'_>, now: Timestamp) {
    let status = if update.status { "True" } else { "False" };
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let last_transition_time = conditions
        .iter()
        .find(|condition| condition.type_ == update.type_ && condition.status == status)
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != update.type_);
    conditions.push(Condition {
        type_: update.type_.into(),
        status: status.into(),
        reason: update.reason.into(),
        message: shorten(update.message, MAX_MESSAGE),
        observed_generation: update.observed_generation,
        last_transition_time,
    });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// Returns whether the condition is present and its status is `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Cuts a text to at most `max_chars` characters and ends a text that was cut with an ellipsis.
#[must_use]
pub fn shorten(text: &str, max_chars: usize) -> String {
    if text.chars().count() <= max_chars {
        return text.into();
    }
    text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).expect("second");
        let update = |status, reason, message, generation| ConditionUpdate {
            type_: READY,
            status,
            reason,
            message,
            observed_generation: Some(generation),
        };
        let mut conditions = Vec::new();
        set(&mut conditions, update(false, Reason::Cascading, "a", 1), at(10));
        set(&mut conditions, update(false, Reason::Settling, "b", 2), at(20));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert_eq!(
            (conditions[0].reason.as_str(), conditions[0].message.as_str()),
            (Reason::Settling.as_str(), "b")
        );
        set(&mut conditions, update(true, Reason::Current, "c", 2), at(30));
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
        assert!(is_true(&conditions, READY));
    }

    #[test]
    fn messages_are_cut_at_characters() {
        assert_eq!(shorten("grün", 4), "grün");
        assert_eq!(shorten("grüner", 4), "grü…");
    }

    #[test]
    fn a_reason_is_found_by_its_text() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
            assert_eq!(reason.to_string(), reason.as_str());
            assert_eq!(String::from(*reason), reason.as_str());
        }
        for unknown in ["", "OfAnotherVersion", "current", "Current "] {
            assert_eq!(Reason::parse(unknown), None);
            assert!(Reason::ALL.iter().all(|reason| unknown != reason.as_str()));
        }
    }

    #[test]
    fn a_reason_has_the_class_and_the_traits_of_its_row() {
        assert_eq!(Reason::Current.class(), ReasonClass::Settled);
        assert_eq!(Reason::Building.class(), ReasonClass::Expected);
        assert_eq!(Reason::WindowClosed.class(), ReasonClass::Gated);
        assert_eq!(Reason::Cycle.class(), ReasonClass::NeedsUser);
        assert!(Reason::Cycle.has(ReasonTrait::StopsEvaluation));
        assert!(!Reason::ImagesFailed.has(ReasonTrait::StopsEvaluation));
        assert!(Reason::Held.has(ReasonTrait::Intended));
        assert!(!Reason::Resolving.has(ReasonTrait::Intended));
    }
}
