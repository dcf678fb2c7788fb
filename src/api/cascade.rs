//! `Cascade`: the record of one cascade of builds.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, ImageCounts, ImageState};

/// Maximum number of causes that a `Cascade` lists. The causes of each image are in its result.
pub const MAX_CAUSES: usize = 64;

/// Describes one cascade of builds: what caused it and which images it plans to build. Created and
/// updated by the controller.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "groundswell.dev",
    version = "v1alpha1",
    kind = "Cascade",
    plural = "cascades",
    shortname = "casc",
    category = "groundswell",
    namespaced,
    status = "CascadeStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Cascade is the record of one cascade of builds: its causes, its images and its result. \
           Created and updated by the controller.",
    selectable = ".spec.family",
    printcolumn(name = "Family", type_ = "string", json_path = ".spec.family"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.counts.total"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.counts.current"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message")
)]
#[serde(rename_all = "camelCase", default)]
pub struct CascadeSpec {
    /// Name of the `ImageFamily`.
    pub family: String,

    /// Changes that caused the cascade. At most 64 entries.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,

    /// Name of the cascade that this one replaced, if `policy.supersede` is `Cancel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<String>,

    /// Names of the images that the cascade plans to build, one list per level, parents first.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub levels: Vec<Vec<String>>,
}

/// State of a cascade, written by the controller.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CascadeStatus {
    /// Phase of the cascade: `Running`, `Complete` if every planned image is current or held,
    /// `Incomplete` if some images failed, were cancelled or blocked, or are left to the next
    /// cascade, and `Superseded` if another cascade replaced it.
    pub phase: CascadePhase,

    /// Time at which the cascade started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,

    /// Time at which the cascade finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,

    /// Time that the cascade took, set when it has finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,

    /// Number of its images in each state.
    pub counts: ImageCounts,

    /// Results of the images that the cascade has processed. At most 1000 entries.
    #[schemars(
        length(max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub images: Vec<ImageResult>,

    /// Names of the images on the chain of builds that took longest, from the first to the last.
    /// Set when the cascade has finished.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub critical_path: Vec<String>,

    /// Human-readable summary of the result.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,

    /// What this record omits because its size is bounded. Empty if it omits nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub omitted: String,
}

/// Phase of a cascade.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CascadePhase {
    /// The cascade is running.
    #[default]
    Running,
    /// Every image that the cascade planned to build is current or held.
    Complete,
    /// Some images failed, were cancelled or blocked by failed ones, or are left to the next
    /// cascade.
    Incomplete,
    /// An upstream moved during the cascade, and another cascade replaced it.
    Superseded,
}

/// Result of one image in a cascade.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageResult {
    /// Name of the image.
    pub name: String,
    /// State of the image when it was last observed in this cascade.
    pub state: ImageState,
    /// Number of builds that this cascade started for the image, retries included.
    pub builds: i32,
    /// Number of the image's build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// Digest that the build produced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Hash of the image's own inputs (source, spec, strategy, request) in the last verified build
    /// of this cascade. The cascade builds the image again only if the hash changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_inputs: Option<String>,
    /// Time at which the first build of the image started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
    /// Time at which the image became current or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,
    /// Human-readable reason why the image was built, or why its build was spared.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Changes that caused the build, traced to what changed first. At most 8 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,
    /// Whether `causes`, and possibly `message`, are omitted because the size of the record is
    /// bounded. The `ManagedImage` has both.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
    /// Whether the image was planned and not built, or was built and found unchanged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spared: bool,
}

/// A change that makes an image stale.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase", default)]
pub struct Cause {
    /// Type of the change: `Upstream`, `Parent`, `Source`, `Spec`, `Strategy`, `Manual` or
    /// `Refresh`.
    #[serde(rename = "type")]
    pub type_: CauseType,
    /// Name of what changed: the upstream, the parent image, the strategy, or the image whose
    /// source or spec changed.
    pub name: String,
    /// Old value: a digest, a revision or a hash. Empty if there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// New value.
    pub to: String,
    /// Images through which the change reached this image, topmost first. Empty if it changed an
    /// input of the image itself. At most 16 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub via: Vec<String>,
    /// Commits that have changed the source since the last build, newest first, if the source is a
    /// folder of a Git repository. At most 10 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub commits: Vec<String>,
    /// Whether there may be more commits than those in `commits`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more_commits: bool,
}

impl Cause {
    /// Whether the image itself is rebuilt from unchanged inputs, to get what has changed outside
    /// of them, for example in the repositories of its packages.
    #[must_use]
    pub const fn asks_for_what_is_outside(&self) -> bool {
        matches!(self.type_, CauseType::Manual | CauseType::Refresh) && self.via.is_empty()
    }
}

/// Type of a change.
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
pub enum CauseType {
    /// An upstream moved to a new digest.
    Upstream,
    /// A parent was rebuilt.
    Parent,
    /// The source has a new revision.
    Source,
    /// The image's spec changed, or the image is new.
    #[default]
    Spec,
    /// The strategy changed.
    Strategy,
    /// A user requested a rebuild.
    Manual,
    /// The build was old.
    Refresh,
}
