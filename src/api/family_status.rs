//! The status of an `ImageFamily`: a summary of bounded size, never a row per image.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{HandledRequest, ImageState};

/// The most entries of [`ImageFamilyStatus::attention`].
pub const MAX_ATTENTION: usize = 20;

/// What the controller knows of a family, in short. A row per image stands in the family's
/// `ManagedImage`s.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageFamilyStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, `Reconciling` and `Stalled`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The upstreams: what was seen, and what builds use.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub upstreams: Vec<UpstreamStatus>,

    /// How many images are in which state.
    pub counts: ImageCounts,

    /// Changes that wait for a cascade: for the quiet time to pass, and for what else keeps it from
    /// beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,

    /// The cascade that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade: Option<RunningCascade>,

    /// Whether builds may start by `policy.windows`, and until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowStatus>,

    /// Why no build is started: set while the breaker is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStatus>,

    /// The id of the request that was handled last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,

    /// The requests that were handled, newest first; at most 10.
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub requests: Vec<HandledRequest>,

    /// The first images, at most 20, that need a person.
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub attention: Vec<Attention>,
}

/// What was seen of an upstream, and what builds use.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamStatus {
    /// The upstream's name.
    pub name: String,

    /// The reference that is watched.
    pub reference: String,

    /// The digest that builds use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<AdoptedDigest>,

    /// A newer digest that builds do not use yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateDigest>,

    /// The digest that a person agreed to, where `approval` is `Manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRecord>,

    /// A hold that a request has set. It lasts until a request takes it away, or until its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<ManualHold>,

    /// Why the candidate is not used, or why nothing could be seen; a reason constant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The digest of an upstream that builds use.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct AdoptedDigest {
    /// The digest; of the index, where the tag names one.
    pub digest: String,

    /// When it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub first_seen: Option<Timestamp>,

    /// When builds began to use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,
}

/// A digest of an upstream that was seen, and that builds do not use yet.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct CandidateDigest {
    /// The digest; of the index, where the tag names one.
    pub digest: String,

    /// When it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub first_seen: Option<Timestamp>,
}

/// A person's agreement to a digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ApprovalRecord {
    /// The digest.
    pub digest: String,

    /// Who agreed, as the request says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,

    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,
}

/// A hold that a request has set.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ManualHold {
    /// The digest that builds use while the hold lasts; for upstreams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Who set it, as the request says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,

    /// When it was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,
}

/// Whether builds may start by the windows of the policy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct WindowStatus {
    /// Whether a window is open.
    pub open: bool,

    /// When that changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
}

/// An open breaker.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BreakerStatus {
    /// When the failure was seen that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,

    /// What the failed builds have in common.
    pub cause: String,

    /// The images that failed; at most 10.
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub failures: Vec<String>,

    /// When one build is let through; none where no image is left to be tried before the next
    /// cascade.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub probe_at: Option<Timestamp>,
}

/// How many images are in which state.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ImageCounts {
    /// All images of the family.
    pub total: i32,
    /// Built from the inputs as they are now.
    pub current: i32,
    /// Stale and allowed to build, or held back only by a gate.
    pub queued: i32,
    /// Waiting for a parent or an input.
    pub waiting: i32,
    /// With a build that runs.
    pub building: i32,
    /// With a build that has ended and whose result is being checked.
    pub checking: i32,
    /// Kept where they are by a person, though an input has changed.
    pub held: i32,
    /// Below a failed image.
    pub blocked: i32,
    /// Failed, until an input changes.
    pub failed: i32,
}

/// Changes that wait for a cascade: for the quiet time to pass, and for what else keeps it from
/// beginning.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Pending {
    /// What has changed, as a hash: a new value starts the quiet time anew.
    pub change: String,

    /// When the first of the changes was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,

    /// When the last of the changes was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub last_change: Option<Timestamp>,
}

/// The cascade that runs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningCascade {
    /// The name of its `Cascade`.
    pub name: String,

    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
}

/// An image that needs a person.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// The image's name.
    pub image: String,
    /// Its state.
    pub state: ImageState,
    /// Why; a reason constant.
    pub reason: String,
    /// The same in words, shortened.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        condition::{self, ConditionUpdate, MAX_MESSAGE, READY, RECONCILING, STALLED, reason},
        handled_request::{MAX_HANDLED_MESSAGE, MAX_REQUESTS, RequestOutcome},
        request::{MAX_BY, MAX_ID, MAX_REASON, RequestAction},
    };

    /// A text of so many characters, each as long as one can be.
    fn text(characters: usize) -> String {
        "\u{1f9ca}".repeat(characters)
    }

    #[test]
    fn the_longest_status_is_far_from_what_the_api_server_takes() {
        let (at, digest) = (Some(Timestamp::MAX), "d".repeat(71));
        let upstream = |index: usize| UpstreamStatus {
            name: format!("{index:063}"),
            reference: "r".repeat(255 + 1 + 128),
            adopted: Some(AdoptedDigest { digest: digest.clone(), first_seen: at, since: at }),
            candidate: Some(CandidateDigest { digest: digest.clone(), first_seen: at }),
            approval: Some(ApprovalRecord { digest: digest.clone(), by: Some(text(MAX_BY)), at }),
            hold: Some(ManualHold {
                digest: Some(digest.clone()),
                until: at,
                reason: Some(text(MAX_REASON)),
                by: Some(text(MAX_BY)),
                since: at,
            }),
            reason: Some(reason::AWAITING_APPROVAL.into()),
            message: Some(text(MAX_MESSAGE)),
        };
        let request = HandledRequest {
            id: "i".repeat(MAX_ID),
            action: Some(RequestAction::Approve),
            outcome: RequestOutcome::Refused,
            message: text(MAX_HANDLED_MESSAGE),
            by: Some(text(MAX_BY)),
            at,
        };
        let attention = Attention {
            image: "i".repeat(63),
            state: ImageState::Failed,
            reason: reason::INFRASTRUCTURE_FAILED.into(),
            message: text(256),
        };
        let mut status = ImageFamilyStatus {
            upstreams: (0..64).map(upstream).collect(),
            requests: vec![request; MAX_REQUESTS],
            attention: vec![attention; MAX_ATTENTION],
            breaker: Some(BreakerStatus {
                since: at,
                cause: text(MAX_MESSAGE),
                failures: vec!["i".repeat(63); 10],
                probe_at: at,
            }),
            ..ImageFamilyStatus::default()
        };
        for type_ in [READY, RECONCILING, STALLED] {
            let message = text(2 * MAX_MESSAGE);
            let update = ConditionUpdate {
                type_,
                status: true,
                reason: reason::CURRENT,
                message: &message,
                observed_generation: Some(1),
            };
            condition::set(&mut status.conditions, update, Timestamp::MAX);
        }
        let bytes = serde_json::to_string(&status).expect("JSON").len();
        assert!(bytes < 700 * 1024, "{bytes}");
    }
}
