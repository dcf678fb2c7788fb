//! `ManagedImage`: the row per image, made and kept by the controller.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Cause, HandledRequest, ManualHold};

/// The most entries of [`ManagedImageStatus::history`], whatever `spec.history.builds` says.
pub const MAX_HISTORY: usize = 50;
/// The most causes that a build is recorded with.
pub const MAX_BUILD_CAUSES: usize = 8;

/// The most characters of [`CheckRecord::message`].
pub const MAX_CHECK_MESSAGE: usize = 512;

/// What the controller knows of one image of a family. Made and kept by the controller; named
/// `<family>.<image>`.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "groundswell.dev",
    version = "v1alpha1",
    kind = "ManagedImage",
    plural = "managedimages",
    shortname = "mimg",
    category = "groundswell",
    namespaced,
    status = "ManagedImageStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the controller knows of one image of a family. Made and kept by the controller; \
           named `<family>.<image>`.",
    selectable = ".spec.family",
    printcolumn(name = "Level", type_ = "integer", json_path = ".spec.level"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Build", type_ = "integer", json_path = ".status.build"),
    printcolumn(name = "Base-Age", type_ = "date", json_path = ".status.baseSeen"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = "1")
)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedImageSpec {
    /// The family's name.
    pub family: String,

    /// The image's name in the family.
    pub image: String,

    /// The repository that it is pushed to.
    pub repository: String,

    /// Its distance from the upstreams: 1 for an image that stands on upstreams only, else one more
    /// than its highest parent.
    pub level: i32,
}

/// What the controller knows of an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedImageStatus {
    /// The family's generation that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `Reconciling` and `Stalled`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// What it is doing.
    pub state: ImageState,

    /// Why; a reason constant.
    pub reason: String,

    /// The same in words.
    pub message: String,

    /// Since when it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,

    /// The digest of the last good build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// The fingerprint of the last good build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,

    /// The number of the last good build; counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,

    /// The highest number that was given to a build, whatever became of it: no other build gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_build: Option<i64>,

    /// Size of the image: its config and its compressed layers, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,

    /// When the oldest of the upstream digests that it stands on was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub base_seen: Option<Timestamp>,

    /// What the last good build was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,

    /// Hash of what a user would notice of the image: its files, its configuration, its platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,

    /// Hash of its configuration and layers as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<String>,

    /// Why the last good build was made, down to what changed first.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,

    /// Hash of the checks that the last good build has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked: Option<String>,

    /// The checks of the newest digest.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub checks: Vec<CheckRecord>,

    /// The digest that floating tags and workloads are on, or are moved to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promoted: Option<String>,

    /// A hold that a request has set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<ManualHold>,

    /// The request by which the image is rebuilt though its inputs are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,

    /// The id of the request that was handled last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,

    /// The requests that were handled, newest first; at most 10.
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub requests: Vec<HandledRequest>,

    /// The tags that were given to the last good build.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["tag"]))]
    pub tags: Vec<TagRecord>,

    /// The build that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningBuild>,

    /// Failures at the fingerprint that is wanted now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureRecord>,

    /// When builds of it were started that no person caused, newest first: as far back as
    /// `policy.rate_limit` counts. Jobs may be gone before that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 1000), extend("items" = {"type": "string", "format": "date-time"}, "x-kubernetes-list-type" = "atomic"))]
    pub starts: Vec<Timestamp>,

    /// Workloads that are moved to its digests.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub rollouts: Vec<RolloutRecord>,

    /// The last builds, newest first; as many as `spec.history.builds` of the family says.
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub history: Vec<BuildRecord>,
}

/// What an image is doing.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
)]
pub enum ImageState {
    /// An input is missing, or a parent is not current.
    #[default]
    Waiting,
    /// Stale and ready to build; a gate says when.
    Queued,
    /// A build runs.
    Building,
    /// A build has ended and its result is being checked.
    Checking,
    /// Built from the inputs as they are now.
    Current,
    /// An input has changed, and a person keeps the image where it is.
    Held,
    /// Failed, until an input changes, the next cascade, or a person has it tried again.
    Failed,
    /// An ancestor has failed.
    Blocked,
}

impl ImageState {
    /// All states, in the order in which an image goes through them.
    pub const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Queued,
        Self::Building,
        Self::Checking,
        Self::Current,
        Self::Held,
        Self::Failed,
        Self::Blocked,
    ];

    /// The state as it stands in manifests and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Queued => "Queued",
            Self::Building => "Building",
            Self::Checking => "Checking",
            Self::Current => "Current",
            Self::Held => "Held",
            Self::Failed => "Failed",
            Self::Blocked => "Blocked",
        }
    }
}

/// What a build is made from: the values behind its fingerprint, kept to tell why a later one
/// differs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Inputs {
    /// The parents, in the order of `from`.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parents: Vec<ParentDigest>,

    /// The source's revision: a commit id, or the hash of the files.
    pub source: String,

    /// Hash of what the spec says of this build: arguments, target, labels, edges.
    pub spec: String,

    /// Hash of what the strategy says, with its parameters.
    pub strategy: String,

    /// The request that asked for a rebuild though everything else is the same; empty without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nonce: String,
}

/// A parent and its digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ParentDigest {
    /// The parent's name in the family; `<namespace>/<family>.<image>` for one of another family.
    pub name: String,
    /// Its digest.
    pub digest: String,
}

/// A tag and the digest that it was given.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct TagRecord {
    /// The tag.
    pub tag: String,
    /// The digest that it was set to.
    pub digest: String,
    /// Whether it names the build, and so never moves.
    pub immutable: bool,
}

/// A build that runs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningBuild {
    /// The name of its Job.
    pub job: String,
    /// The fingerprint that it makes.
    pub fingerprint: String,
    /// The number that the build will have.
    pub build: i64,
    /// Which attempt at the fingerprint it is, from 0.
    pub attempt: i32,
    /// When the Job was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
}

/// Failures at one fingerprint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRecord {
    /// The fingerprint; empty where the image was cancelled before it was known.
    pub fingerprint: String,
    /// How often the build itself failed.
    pub build: i32,
    /// How often what is around it failed.
    pub infrastructure: i32,
    /// The cascade in which it failed last; the next one tries again.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cascade: String,
    /// What the failed build was made for: the key by which the breaker tells causes apart.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// The highest attempt that is counted here.
    pub attempt: i32,
    /// The attempt at the checks that comes next, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub check_attempt: i32,
    /// The request by which the failures before were forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried: Option<String>,
    /// The last failure.
    pub last: BuildFailure,
    /// When the last failure was seen; the pause before the next attempt counts from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// One failure.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct BuildFailure {
    /// Whose fault it is, and so whose budget it counts against.
    pub class: FailureClass,
    /// A reason constant.
    pub reason: String,
    /// What happened, in words; bounded.
    pub message: String,
}

/// Whose fault a failed build is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The build's own: the same inputs will likely fail again.
    #[default]
    Build,
    /// Of what is around it: likely to pass when tried again.
    Infrastructure,
    /// Of the inputs: certain to fail again, so it is not tried again.
    Input,
    /// Nobody's: a person has cancelled it.
    Cancelled,
}

/// How a check of a digest went.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckRecord {
    /// The check's name.
    pub name: String,
    /// The digest that was checked.
    pub digest: String,
    /// Hash of what the spec said of the check.
    pub revision: String,
    /// How far it is.
    pub state: CheckState,
    /// What it said last; bounded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl CheckRecord {
    /// Whether it is of this check of a digest, as the spec said it in this revision.
    #[must_use]
    pub fn tells_of(&self, check: &str, digest: &str, revision: &str) -> bool {
        self.name == check && self.digest == digest && self.revision == revision
    }
}

/// How far a check is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CheckState {
    /// It has not ended.
    #[default]
    Running,
    /// Its exit code was 0.
    Passed,
    /// It was not.
    Failed,
}

/// Where a workload is on its way to a digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutRecord {
    /// The workload, as `Kind namespace/name`.
    pub workload: String,
    /// The digest it moves to.
    pub digest: String,
    /// How far it is.
    pub state: RolloutState,
    /// The same in words.
    pub message: String,
}

/// How far a rollout is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RolloutState {
    /// The workload is moving.
    #[default]
    Progressing,
    /// Every pod runs the digest.
    Complete,
    /// The workload says that it does not get on.
    Stalled,
    /// It can't be moved; the message says why.
    Refused,
}

/// A build that has ended.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildRecord {
    /// Its number. Missing for one that failed before it got any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Its digest; empty for a failed one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,
    /// How long it took, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
    /// Why it was made, or how it failed, in words.
    pub why: String,
    /// The same as data, down to what changed first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,
    /// The cascade that it was made in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cascade: String,
    /// Whether it came out the same as the one before, so that the image kept its digest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spared: bool,
}
