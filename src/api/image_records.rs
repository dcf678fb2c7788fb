//! What a `ManagedImage` records of an image's past: failures, checks, rollouts and builds.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::api::{Cause, Duration, ParentDigest, condition::Reason};

/// Maximum length of [`CheckRecord::message`] in characters.
pub const MAX_CHECK_MESSAGE: usize = 512;

/// Failures of one fingerprint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRecord {
    /// Fingerprint that failed. Not set if the image was cancelled before its fingerprint was
    /// known.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "none_if_empty")]
    pub fingerprint: Option<String>,
    /// Number of failures of the build itself.
    pub build: i32,
    /// Number of failures of the infrastructure around the build.
    pub infrastructure: i32,
    /// Name of the cascade in which the image last failed, or of the next one, which tries again.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cascade: String,
    /// What the failed build was started for. The breaker groups failures by this key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Highest attempt at the build that is counted here, from 0. Not set if none is.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "none_if_negative")]
    pub attempt: Option<i32>,
    /// Number of the next attempt at the checks, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub check_attempt: i32,
    /// Id of the request that cleared the earlier failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried: Option<String>,
    /// Version of what the failed Job was made of, if the image does not depend on it: for an
    /// invalid Job the spec and the strategy, and for a build that lacked resources or time the
    /// pod. The build is tried again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_version: Option<String>,
    /// The last failure.
    pub last: BuildFailure,
    /// Time at which the last failure was observed, or cleared by a cascade. The pause before the
    /// next attempt starts here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,
}

impl FailureRecord {
    /// Returns whether these are failures of this fingerprint.
    #[must_use]
    pub fn is_of(&self, fingerprint: &str) -> bool {
        self.fingerprint.as_deref() == Some(fingerprint)
    }
}

/// Reads an empty text as none: records of before have one where no fingerprint is known.
fn none_if_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// Reads a negative number as none: records of before have one where no attempt is counted.
fn none_if_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    let number = Option::<i32>::deserialize(deserializer)?;
    Ok(number.filter(|number| *number >= 0))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A failure of a build.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct BuildFailure {
    /// Class of the failure. `Build` failures are retried `policy.retries.build` times,
    /// `Infrastructure` failures until the infrastructure works again. `Input` failures are not
    /// retried until an input changes. `Cancelled` is not a failure.
    pub class: FailureClass,
    /// Reason constant of the failure.
    pub reason: String,
    /// Human-readable description of the failure, of bounded length.
    pub message: String,
}

impl BuildFailure {
    /// Returns the reason, or `None` if another version has recorded it.
    #[must_use]
    pub fn known_reason(&self) -> Option<Reason> {
        Reason::parse(&self.reason)
    }
}

/// Class of a failure: what caused it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The build itself: the same inputs will probably fail again.
    #[default]
    Build,
    /// The infrastructure around the build: a retry will probably succeed.
    Infrastructure,
    /// The inputs: the build is certain to fail again, so it is not retried.
    Input,
    /// A user, who cancelled the build.
    Cancelled,
}

/// Result of a check of a digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckRecord {
    /// Name of the check.
    pub name: String,
    /// Digest that was checked.
    pub digest: String,
    /// Hash of the check's spec.
    pub revision: String,
    /// Image that the check runs or ran in, with its digest. Not set if that is the new image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// State of the check: `Running`, `Passed` or `Failed`.
    pub state: CheckState,
    /// Last output of the check, at most 512 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl CheckRecord {
    /// Returns whether this is the record of the check for this digest and this revision of its
    /// spec.
    #[must_use]
    pub fn matches(&self, check: &str, digest: &str, revision: &str) -> bool {
        self.name == check && self.digest == digest && self.revision == revision
    }
}

/// State of a check.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CheckState {
    /// The check has not finished.
    #[default]
    Running,
    /// The check exited with code 0.
    Passed,
    /// The check exited with another code, or could not be completed.
    Failed,
}

/// Progress of a workload towards a digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutRecord {
    /// The workload, as `Kind namespace/name`.
    pub workload: String,
    /// Digest that the workload is updated to.
    pub digest: String,
    /// State of the rollout: `Progressing`, `Complete`, `Stalled`, `Contested`
    /// or `Refused`.
    pub state: RolloutState,
    /// Human-readable explanation of `state`.
    pub message: String,
}

/// State of a rollout.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RolloutState {
    /// The workload is being updated.
    #[default]
    Progressing,
    /// Every pod runs the digest.
    Complete,
    /// The workload reports that it makes no progress.
    Stalled,
    /// Another client keeps replacing the digest. The workload is updated again after a pause.
    Contested,
    /// The workload cannot be updated. The message says why.
    Refused,
}

/// A build that has finished.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildRecord {
    /// Number of the build. Not set for a build that failed before it got one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// Fingerprint of the build.
    pub fingerprint: String,
    /// Digest that the build produced. Empty for a failed build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Time at which the build finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Timestamp>,
    /// Time that the build took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// Human-readable reason why the build was started, or how it failed.
    pub message: String,
    /// Changes that caused the build, traced to what changed first. At most 8 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub causes: Vec<Cause>,
    /// Name of the cascade that the build belongs to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cascade: String,
    /// Whether the build produced the same image as the one before, so that the image kept its
    /// digest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub spared: bool,
    /// Parents that the build was made from, in the order of `from`. A rollback of a subtree finds
    /// by them the build that belongs to an earlier build of a parent. At most 32 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub parents: Vec<ParentDigest>,
}

/// The earlier build that an image is rolled back to.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct RollbackRecord {
    /// Digest of the build. Floating tags point to it, and builds of other images use it.
    pub digest: String,
    /// Number of the build. Not set for a digest that was adopted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// Whether workloads go back as well. They otherwise stay as they are.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rollout: bool,
}
