//! `Cascade`: the record of one cascade of builds.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, ImageCounts, ImageState};

/// The most causes that a `Cascade` lists; each image's own stand in its result.
pub const MAX_CAUSES: usize = 64;

/// The record of one cascade of builds: why, what, and how it ended. Made and kept by the
/// controller.
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
    doc = "The record of one cascade of builds: why, what, and how it ended. Made and kept by the \
           controller.",
    selectable = ".spec.family",
    printcolumn(name = "Family", type_ = "string", json_path = ".spec.family"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.counts.total"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.counts.current"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.outcome")
)]
#[serde(rename_all = "camelCase", default)]
pub struct CascadeSpec {
    /// The family's name.
    pub family: String,

    /// What set the cascade off; at most 64 entries.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,

    /// The cascade that this one has taken the place of, where `policy.supersede` is `Cancel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<String>,

    /// The images that it is about to build, level by level, parents first.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub levels: Vec<Vec<String>>,
}

/// How a cascade goes, or went.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CascadeStatus {
    /// Whether it runs, and how it ended.
    pub phase: CascadePhase,

    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,

    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,

    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,

    /// How many of its images are in which state.
    pub counts: ImageCounts,

    /// The images that it has touched.
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub images: Vec<ImageResult>,

    /// The chain of builds that took longest, from the first to the last image; set when the
    /// cascade has ended.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub critical_path: Vec<String>,

    /// The outcome in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,

    /// What is left out of this record for want of room; empty if nothing is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Whether a cascade runs, and how it ended.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CascadePhase {
    /// It runs.
    #[default]
    Running,
    /// Every image that it was about to build is current, or held.
    Complete,
    /// Some images failed, were cancelled or blocked by failed ones, or are left to the next
    /// cascade.
    Incomplete,
    /// An upstream moved while it ran, and another cascade has taken its place.
    Superseded,
}

/// One image in a cascade.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageResult {
    /// The image's name.
    pub name: String,
    /// Its state, when last seen in this cascade.
    pub state: ImageState,
    /// How many builds were started for it in this cascade, retries included.
    pub builds: i32,
    /// The number of its build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// The digest that it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// A hash of what was its own in the last good build of this cascade: source, spec, strategy,
    /// request. The cascade builds it again only if that changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_inputs: Option<String>,
    /// When its first build was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
    /// When it became current, or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,
    /// Why it was built, or why it was spared, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Why it was built, as data, down to what changed first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,
    /// Whether its causes, or the sentence too, are left out, for the record has room for no more.
    /// Its `ManagedImage` has both.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
    /// Whether it was planned and not built, or built and found to be the same as before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spared: bool,
}

/// Why an image is stale.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase", default)]
pub struct Cause {
    /// What kind of thing changed.
    #[serde(rename = "type")]
    pub type_: CauseType,
    /// Its name: of the upstream, the parent image, the image whose source or spec changed, the
    /// strategy.
    pub name: String,
    /// Its old value: a digest, a revision or a hash; empty if there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// Its new value.
    pub to: String,
    /// The images through which it reached this one, topmost first; empty where it changed an input
    /// of the image itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub via: Vec<String>,
}

/// What kind of thing changed.
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
    /// A person asked for a rebuild.
    Manual,
}
