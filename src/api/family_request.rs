//! `FamilyRequest`: what a user asks the controller to do, once or while the object exists.
//!
//! This file has the type and what its schema can check. [`crate::api::request`] reads the action
//! from it.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{ActionName, condition::shorten, patterns};

/// Maximum length of a reason in characters.
pub const MAX_REASON: usize = 256;
/// Maximum length of the requesting user's name in characters.
pub const MAX_BY: usize = 128;
/// Maximum length of the name of a request in characters.
pub const MAX_REQUEST_NAME: usize = 128;
/// Maximum length in characters of the message that is recorded of a request.
pub const MAX_REQUEST_MESSAGE: usize = 512;

/// Pattern of a text in one line.
const ONE_LINE: &str = r"^[^\x00-\x1f\x7f]*$";

/// Asks the controller to act on a family, one of its images or one of its upstreams. It cannot be
/// changed: to ask for something else, create another one.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "groundswell.dev",
    version = "v1alpha1",
    kind = "FamilyRequest",
    plural = "familyrequests",
    shortname = "famreq",
    category = "groundswell",
    namespaced,
    status = "FamilyRequestStatus",
    derive = "PartialEq",
    doc = "FamilyRequest asks the controller to act on a family, one of its images or one of its \
           upstreams. Its status says what happens to it.",
    selectable = ".spec.family",
    selectable = ".spec.action",
    printcolumn(name = "Family", type_ = "string", json_path = ".spec.family"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Upstream", type_ = "string", json_path = ".spec.upstream"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    validation = Rule::new("self.metadata.name.size() <= 128")
        .message("metadata.name must have at most 128 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf")
        .message("a request cannot be changed: create another one"),
    validation = Rule::new("!(self.action in ['Hold', 'Unhold']) || \
                            has(self.image) != has(self.upstream)")
        .message("Hold and Unhold need either `image` or `upstream`"),
    validation = Rule::new("self.action != 'Approve' || \
                            has(self.upstream) && has(self.digest) && !has(self.image)")
        .message("Approve needs `upstream` and `digest`, and takes no `image`"),
    validation = Rule::new("!(self.action in ['Trigger', 'Retry', 'Cancel', 'Force']) || \
                            !has(self.upstream)")
        .message("this action applies to images: remove `upstream`"),
    validation = Rule::new("self.action != 'Rollback' || has(self.image) && has(self.digest) && \
                            has(self.reason) && !has(self.upstream)")
        .message("Rollback needs `image`, `digest` and `reason`, and takes no `upstream`"),
    validation = Rule::new("!has(self.subtree) || !self.subtree || has(self.image) && \
                            self.action in ['Trigger', 'Retry', 'Cancel', 'Force', 'Rollback']")
        .message("`subtree` needs `image`, and Hold, Unhold and Approve do not take it"),
    validation = Rule::new("!has(self.digest) || self.action == 'Rollback' || \
                            has(self.upstream) && self.action in ['Hold', 'Approve']")
        .message("only Approve, Rollback and a Hold of an upstream take `digest`"),
    validation = Rule::new("!has(self.rollout) || !self.rollout || self.action == 'Rollback'")
        .message("only Rollback takes `rollout`"),
    validation = Rule::new("!has(self.until) || self.action == 'Hold'")
        .message("only Hold takes `until`")
)]
pub struct FamilyRequestSpec {
    /// Name of the `ImageFamily` in the same namespace.
    #[schemars(length(min = 1, max = 47), regex(pattern = patterns::NAME))]
    pub family: String,

    /// What to do. `Trigger` starts stale builds now, `Retry` clears failures, `Cancel` stops
    /// builds, `Force` builds images even if they are current, `Hold` keeps an image or an upstream
    /// at its digest for as long as this object exists, `Unhold` ends such holds, `Approve`
    /// approves the candidate of an upstream, and `Rollback` moves the floating tags of an image
    /// to an earlier build and holds it there for as long as this object exists.
    pub action: ActionName,

    /// Image that the action applies to. `Trigger`, `Retry`, `Cancel` and `Force` apply to the
    /// whole family without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::NAME))]
    pub image: Option<String>,

    /// Whether the action also applies to all images that are built on `image`. Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub subtree: bool,

    /// Whether workloads go back as well. They otherwise stay as they are while a `Rollback` lasts.
    /// Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollout: bool,

    /// Upstream that `Hold`, `Unhold` or `Approve` applies to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::NAME))]
    pub upstream: Option<String>,

    /// Digest that `Approve` approves, that `Hold` holds an upstream at, or of the recorded build
    /// that `Rollback` goes back to, as `sha256:` and 64 hexadecimal digits. A hold defaults to the
    /// digest in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,

    /// Time at which a `Hold` ends. Without it, the hold lasts until `Unhold`, or until this object
    /// is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Why the action is requested, for users. At most 256 characters in one line. `Rollback`
    /// needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = ONE_LINE))]
    pub reason: Option<String>,

    /// Who requests the action, as they say. Kubernetes does not verify it, unless an admission
    /// policy of the cluster does. At most 128 characters in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = ONE_LINE))]
    pub by: Option<String>,
}

/// What happens to a request, written by the controller.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct FamilyRequestStatus {
    /// State of the request. Not set until the controller has read the request. `Waiting`: it was
    /// read, and is carried out later; the message says what it waits for. `Active`: a hold, a
    /// rollback or an approval that has effect. `Done`: it was carried out, or its effect has
    /// ended. `Refused`: it was not carried out and will not be. `Superseded`: a later request has
    /// replaced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<RequestState>,

    /// Human-readable explanation of `state`: what was done, what the request waits for and what
    /// would free it, or why it was refused. At most 512 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,

    /// Time since which the request is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,

    /// Number of images that the request applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<i32>,

    /// Digest that the upstream is held at, so that the hold survives the loss of the family's
    /// status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// Image and tag of the upstream that is held, so that the hold follows the upstream if the
    /// family gives it another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,

    /// Images that are rolled back, and the builds that they are held at, so that the rollback
    /// survives the loss of every other status. At most 1000 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub rollbacks: Vec<RolledBackImage>,
}

/// An image that a `Rollback` holds at an earlier build.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct RolledBackImage {
    /// Name of the image.
    pub image: String,

    /// Digest that its floating tags point to.
    pub digest: String,

    /// Number of the build that has produced the digest. Not set for a digest that was adopted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
}

/// State of a request.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// The request was read, and is carried out later.
    Waiting,
    /// A hold, a rollback or an approval that has effect.
    Active,
    /// The request was carried out, or its effect has ended.
    Done,
    /// The request was not carried out and will not be.
    Refused,
    /// A later request has replaced this one.
    Superseded,
}

impl RequestState {
    /// Returns the state as statuses write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Active => "Active",
            Self::Done => "Done",
            Self::Refused => "Refused",
            Self::Superseded => "Superseded",
        }
    }

    /// Whether a request in this state is not carried out any more and has no effect that lasts.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Refused | Self::Superseded)
    }
}

impl FamilyRequest {
    /// Returns the state, or `None` if the controller has not read the request yet.
    #[must_use]
    pub fn state(&self) -> Option<RequestState> {
        self.status.as_ref()?.state
    }

    /// Whether the request is not carried out any more and has no effect that lasts.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state().is_some_and(RequestState::has_ended)
    }
}

impl FamilyRequestStatus {
    /// Returns the status after this one. The time changes with the state only, and the message is
    /// cut at [`MAX_REQUEST_MESSAGE`] characters.
    #[must_use]
    pub fn next(&self, state: RequestState, message: &str, now: Timestamp) -> Self {
        let is_same = self.state == Some(state);
        // The API server stores whole seconds.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Self {
            state: Some(state),
            message: shorten(message, MAX_REQUEST_MESSAGE),
            since: self.since.filter(|_| is_same).or(Some(now)),
            images: self.images,
            digest: self.digest.clone(),
            reference: self.reference.clone(),
            rollbacks: self.rollbacks.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_status_changes_with_its_state_only() {
        let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
        let first = FamilyRequestStatus::default().next(
            RequestState::Waiting,
            &"x".repeat(2000),
            at("2026-05-01T12:00:00.7Z"),
        );
        assert_eq!(first.since, Some(at("2026-05-01T12:00:00Z")), "whole seconds are stored");
        assert_eq!(first.message.chars().count(), MAX_REQUEST_MESSAGE);
        let second = first.next(RequestState::Waiting, "b", at("2026-05-01T12:01:00Z"));
        assert_eq!((second.since, second.message.as_str()), (first.since, "b"));
        let third = second.next(RequestState::Done, "c", at("2026-05-01T12:02:00Z"));
        assert_eq!(third.since, Some(at("2026-05-01T12:02:00Z")));
    }

    #[test]
    fn requests_that_last_have_not_ended() {
        use RequestState::{Active, Done, Refused, Superseded, Waiting};
        let ended = [Waiting, Active, Done, Refused, Superseded].map(RequestState::has_ended);
        assert_eq!(ended, [false, false, true, true, true]);
    }
}
