//! `ManagedImage`: one object per image, created and updated by the controller.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    AdoptedDigest, AdoptionRecord, BuildRecord, Cause, CheckRecord, EdgeUse, FailureRecord,
    ManualHold, RollbackRecord, RolloutRecord, condition::Reason,
};

/// Maximum number of entries of [`ManagedImageStatus::history`], whatever `spec.history.builds`
/// says.
pub const MAX_HISTORY: usize = 50;
/// Maximum number of entries of [`ManagedImageStatus::labels`].
pub const MAX_TAG_LABELS: usize = 16;
/// Maximum length of [`LabelRecord::value`] in bytes.
pub const MAX_LABEL_VALUE: usize = 256;
/// Maximum number of causes that a build is recorded with.
pub const MAX_BUILD_CAUSES: usize = 8;

/// Identifies one image of a family. Created and updated by the controller, with the name
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
    doc = "ManagedImage is the state of one image of a family. Created and updated by the \
           controller, with the name `<family>.<image>`.",
    selectable = ".spec.family",
    printcolumn(name = "Level", type_ = "integer", json_path = ".spec.level"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Build", type_ = "integer", json_path = ".status.build"),
    printcolumn(name = "Base-Age", type_ = "date", json_path = ".status.baseObserved"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest", priority = "1")
)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedImageSpec {
    /// Name of the `ImageFamily`.
    pub family: String,

    /// Name of the image within the family.
    pub image: String,

    /// Repository that the image is pushed to.
    pub repository: String,

    /// Distance from the upstreams: 1 for an image that is built on upstreams only, otherwise one
    /// more than its highest parent.
    pub level: i32,

    /// Digests that the family has adopted of upstreams that the image is built on. They are here
    /// because a status may be lost: after a loss, a newer digest waits for its age and its
    /// approval as before. At most 32 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub upstreams: Vec<RememberedUpstream>,
}

/// What a family has adopted of an upstream.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RememberedUpstream {
    /// Reference that is followed, as `<image>:<tag>`.
    pub reference: String,

    /// Digest that builds use, and those of its images for the platforms that are built.
    pub adopted: AdoptedDigest,

    /// Digests that builds used before, newest first. At most 16 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub superseded: Vec<String>,

    /// Whether the object was found without an owner, so that anybody may have written it. Nothing
    /// is then built from `adopted`: any other digest waits like a candidate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
}

/// State of an image, written by the controller.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedImageStatus {
    /// Generation of this object that the status refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Conditions `Ready`, `Reconciling` and `Stalled`, and `RolledOut` for an image with rollouts.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// State of the image: `Waiting`, `Queued`, `Building`, `Checking`, `Current`, `Held`, `Failed`
    /// or `Blocked`.
    pub state: ImageState,

    /// Reason constant that explains `state`.
    pub reason: String,

    /// Human-readable explanation of `reason`.
    pub message: String,

    /// Time since which the image has been in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,

    /// Time since which the image does not match its inputs although nothing in the spec of its
    /// family and no user wants that. Failures and attempts in between do not move it. Not set if
    /// the image is current, held, or kept back by a gate of the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub overdue_since: Option<Timestamp>,

    /// Digest of the last verified build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// Fingerprint of the last verified build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,

    /// Id of the key that has signed the record of `digest` in the registry. Not set if `digest` is
    /// not recorded yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<String>,

    /// Digest that the pod of a build reports to have pushed, until that build is verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<ReportedPush>,

    /// Platform of the last verified build, as `os/architecture`. Builds whose strategy names no
    /// platform keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,

    /// How `digest`, or else `promoted`, was adopted from the registry. Not set if both are builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<AdoptionRecord>,

    /// Number of the last verified build, counted from 1. For an adopted digest, the highest number
    /// that the registry has, or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,

    /// Highest number given to a build, whatever its result. No other build gets this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_build: Option<i64>,

    /// Fingerprint of the build with the number `lastBuild`. All attempts at it have this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_build_fingerprint: Option<String>,

    /// Size of the image in bytes: its configuration and its compressed layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,

    /// Time at which the oldest of the upstream digests that the image is built on was first
    /// observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub base_observed: Option<Timestamp>,

    /// Time since which the last verified build stands: it was built, or a rebuild gave the same
    /// content. If the record of that is lost, the time at which the build was found again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub stands_since: Option<Timestamp>,

    /// Time from which the image may be refreshed. Not set if it is not refreshed by age, or is to
    /// be built for another reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub refresh_at: Option<Timestamp>,

    /// Inputs of the last verified build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,

    /// Hash of the image's files, configuration and platform without creation times.
    /// `policy.cutoff: Content` compares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,

    /// Hash of the image's configuration and layers, byte for byte. `policy.cutoff: Digest`
    /// compares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blobs: Option<String>,

    /// Images that the Dockerfile names and `from` does not declare, for an image with
    /// `edges: Dockerfile`. They stay in use while the source cannot be read. At most 32 entries.
    /// Not set if the Dockerfile was never read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub edges: Option<Vec<FoundEdge>>,

    /// Changes that caused the last verified build, traced to what changed first. At most 8
    /// entries.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,

    /// Hash of the checks that the last verified build has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked: Option<String>,

    /// Checks of the newest digest.
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub checks: Vec<CheckRecord>,

    /// Digest that floating tags and workloads use, or are being moved to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promoted: Option<String>,

    /// Hold that a `FamilyRequest` has set. It lasts as long as that object is `Active`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<ManualHold>,

    /// Earlier build that a `FamilyRequest` has rolled the image back to. `hold` says who, why and
    /// since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackRecord>,

    /// Time and name of the last request or refresh that rebuilds the image although its inputs are
    /// unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,

    /// Tags of the last verified build. At most 16 entries.
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["tag"])
    )]
    pub tags: Vec<TagRecord>,

    /// Tags that the family claims for the image, and since when. Of several families that claim a
    /// tag which none of them has set, the first one owns it. At most 16 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["tag"])
    )]
    pub claims: Vec<ClaimRecord>,

    /// Labels of the last verified build that the family's templates of tags name. At most 16
    /// entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub labels: Vec<LabelRecord>,

    /// Build that is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningBuild>,

    /// Failed attempts to build the image from its present inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureRecord>,

    /// Times at which builds that no user caused were started, newest first, as far back as
    /// `policy.rateLimit` counts. Their Jobs may have been deleted since. At most 1000 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<String>",
        length(max = 1000),
        extend(
            "items" = {"type": "string", "format": "date-time"},
            "x-kubernetes-list-type" = "atomic"
        )
    )]
    pub starts: Vec<Timestamp>,

    /// Workloads that are updated to the image's digests. At most 64 entries.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub rollouts: Vec<RolloutRecord>,

    /// Last builds, newest first, as many as the family's `spec.history.builds`. At most 50
    /// entries.
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub history: Vec<BuildRecord>,
}

impl ManagedImageStatus {
    /// Returns the reason, or `None` if another version has recorded it.
    #[must_use]
    pub fn known_reason(&self) -> Option<Reason> {
        Reason::parse(&self.reason)
    }
}

/// State of an image.
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
    /// The image is stale and ready to build. A gate decides when the build starts.
    Queued,
    /// A build is running.
    Building,
    /// A build has finished and its result is being checked.
    Checking,
    /// The image is built from its current inputs.
    Current,
    /// An input has changed and a user holds the image at its current digest, or a user has rolled
    /// it back to an earlier build.
    Held,
    /// The image failed and stays so until an input changes, the next cascade starts, or a user
    /// requests a retry.
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

    /// Returns the state as manifests and metrics write it.
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

/// Inputs of a build: the values behind its fingerprint, kept to explain why a later one differs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Inputs {
    /// Parents, in the order of `from`. At most 32 entries.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parents: Vec<ParentDigest>,

    /// Revision of the source: the id of a folder's tree in Git, or the hash of the files.
    pub source: String,

    /// Hash of the build's part of the spec: arguments, target, labels and edges.
    pub spec: String,

    /// Hash of the strategy and its parameters.
    pub strategy: String,

    /// Time and name of the request that asked for a rebuild with otherwise unchanged inputs. Empty
    /// without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nonce: String,
}

/// A parent and its digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ParentDigest {
    /// Name of the parent within the family, or `<namespace>/<family>.<image>` if it belongs to
    /// another family.
    pub name: String,
    /// Digest of the parent.
    pub digest: String,
}

/// An image that a Dockerfile names, and the parent that it is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct FoundEdge {
    /// Full reference of the image, with the build arguments substituted.
    pub reference: String,

    /// How the Dockerfile uses the image.
    #[serde(rename = "use")]
    pub usage: EdgeUse,

    /// Name of the upstream that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,

    /// Name of the image of this family that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What the pod of a build reports to have pushed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ReportedPush {
    /// Fingerprint of the build.
    pub fingerprint: String,
    /// Digest that it reports.
    pub digest: String,
}

/// Tag that a family claims.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ClaimRecord {
    /// Tag, as `spec.tags` names it without the values that only a build knows.
    pub tag: String,

    /// Time since which it has been claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,
}

/// A tag and the digest that it was set to, or that it was found to point to at an adoption.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct TagRecord {
    /// The tag.
    pub tag: String,
    /// Digest that the tag was set to, or was found to point to.
    pub digest: String,
    /// Whether the tag names the build or the fingerprint, so that it never moves.
    pub immutable: bool,
}

/// A label of a built image, which a template of a tag names.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct LabelRecord {
    /// Name of the label.
    pub name: String,

    /// Value of the label. Not set if the image does not have it, or if there is a `problem`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,

    /// Why the value cannot be used, although the image has the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A build that is running.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningBuild {
    /// Name of the build's Job.
    pub job: String,
    /// Fingerprint that the build produces.
    pub fingerprint: String,
    /// Number that the build will have.
    pub build: i64,
    /// Number of the attempt at the fingerprint, from 0.
    pub attempt: i32,
    /// Time at which the Job was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
}
