//! Requests: what a user asks the controller to do once, as an annotation with an id, so that it is
//! done once and its outcome is recorded.
//!
//! The annotation [`REQUEST`](crate::api::labels::REQUEST) is set on an `ImageFamily`, or on a
//! `ManagedImage`, whose image the request then refers to. This module parses the annotation and
//! checks what its text alone can show. The engine checks whether the image exists, whether a
//! digest is still the candidate, and whether `until` is in the future.
//! [`crate::api::handled_request`] records the outcome.

mod wire;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use wire::RequestFields;

/// Maximum length of the annotation's value in bytes.
pub const MAX_VALUE: usize = 4096;
/// Maximum length of an id in characters.
pub const MAX_ID: usize = 64;
/// Maximum length of a hold's reason in characters.
pub const MAX_REASON: usize = 256;
/// Maximum length of the requesting user's name in characters.
pub const MAX_BY: usize = 128;

/// Prefix of the id under which an annotation that is not a request is recorded. No id of a request
/// starts with it.
pub(super) const UNREADABLE: &str = "unreadable-";

/// A user's request.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(try_from = "RequestFields", into = "RequestFields")]
pub struct Request {
    /// Id chosen by the requesting user: 1 to 64 letters, digits, `.`, `_`, `:` and `-`. A request
    /// is carried out once per id.
    pub id: String,
    /// Name of the requesting user, as given in the request and not verified.
    pub by: Option<String>,
    /// The action and its arguments.
    pub action: RequestedAction,
}

/// A requested action and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedAction {
    /// Starts stale builds now, without the quiet time.
    Trigger(RequestScope),
    /// Clears recorded failures, so that failed images are built again.
    Retry(RequestScope),
    /// Stops builds. They are not retried until an input changes or a retry is requested.
    Cancel(RequestScope),
    /// Builds images even if they are current. The request's id is the nonce that changes their
    /// fingerprint.
    Force(RequestScope),
    /// Holds an image at its current digest.
    HoldImage {
        /// Name of the image.
        image: String,
        /// Time at which the hold ends, if it ends without a request.
        until: Option<Timestamp>,
        /// Reason for the hold.
        reason: Option<String>,
    },
    /// Holds an upstream at its current digest, or at `digest`.
    HoldUpstream {
        /// Name of the upstream.
        upstream: String,
        /// Digest that builds use while the hold lasts. Defaults to the one in use.
        digest: Option<String>,
        /// Time at which the hold ends, if it ends without a request.
        until: Option<Timestamp>,
        /// Reason for the hold.
        reason: Option<String>,
    },
    /// Ends a hold of an image that a request has set.
    UnholdImage {
        /// Name of the image.
        image: String,
    },
    /// Ends a hold of an upstream that a request has set.
    UnholdUpstream {
        /// Name of the upstream.
        upstream: String,
    },
    /// Approves a digest of an upstream whose `approval` is `Manual`.
    Approve {
        /// Name of the upstream.
        upstream: String,
        /// Digest to approve. If another digest is the candidate by then, it is not approved.
        digest: String,
    },
}

/// The images that an action applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestScope {
    /// All images of the family.
    Family,
    /// One image.
    Image(String),
    /// One image and all images that are built on it.
    Subtree(String),
}

/// Name of an action, as written in a request.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub enum ActionName {
    /// Starts stale builds now, without the quiet time.
    Trigger,
    /// Clears recorded failures.
    Retry,
    /// Stops builds.
    Cancel,
    /// Holds an image or an upstream.
    Hold,
    /// Ends a hold.
    Unhold,
    /// Approves a candidate.
    Approve,
    /// Builds images even if they are current.
    Force,
}

/// Reason why an annotation is not a request. Each message says what is wrong and what to write.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The value is too long.
    #[error("the request has {0} bytes, and the maximum is {MAX_VALUE}: shorten it")]
    TooLong(usize),
    /// The value is not the JSON of a request.
    #[error(
        "the annotation is not a request: {0}; write JSON, for example {{\"id\": \"2026-05-01-a\", \
         \"action\": \"Retry\"}}"
    )]
    Unreadable(String),
    /// A field has an invalid value.
    #[error("`{field}` {problem}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with its value, and which values are valid.
        problem: String,
    },
    /// The request has a field that its action does not use.
    #[error("{action} does not take `{field}`: {instead}")]
    NotTaken {
        /// Name of the action.
        action: &'static str,
        /// Name of the field.
        field: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// A field is missing.
    #[error("{action} needs {needed}")]
    Missing {
        /// Name of the action.
        action: &'static str,
        /// What to add.
        needed: &'static str,
    },
    /// A request on a `ManagedImage` names another image.
    #[error(
        "this ManagedImage belongs to image `{own}`, and the request names `{named}`: annotate the \
         ManagedImage of `{named}`, or the ImageFamily"
    )]
    OtherImage {
        /// Name of the image in the request.
        named: String,
        /// Name of the image that the annotated `ManagedImage` belongs to.
        own: String,
    },
}

impl Request {
    /// Parses the annotation of an `ImageFamily`.
    pub fn parse(value: &str) -> Result<Self, RequestError> {
        RequestFields::read(value)?.try_into()
    }

    /// Parses the annotation of a `ManagedImage`. The request refers to this image, so `image` may
    /// be omitted.
    pub fn parse_on_image(value: &str, image: &str) -> Result<Self, RequestError> {
        RequestFields::read(value)?.on_image(image)?.try_into()
    }

    /// Returns the value of the annotation.
    pub fn to_annotation(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Returns the name of the action.
    #[must_use]
    pub const fn action_name(&self) -> ActionName {
        match self.action {
            RequestedAction::Trigger(_) => ActionName::Trigger,
            RequestedAction::Retry(_) => ActionName::Retry,
            RequestedAction::Cancel(_) => ActionName::Cancel,
            RequestedAction::Force(_) => ActionName::Force,
            RequestedAction::HoldImage { .. } | RequestedAction::HoldUpstream { .. } => {
                ActionName::Hold
            }
            RequestedAction::UnholdImage { .. } | RequestedAction::UnholdUpstream { .. } => {
                ActionName::Unhold
            }
            RequestedAction::Approve { .. } => ActionName::Approve,
        }
    }
}

impl ActionName {
    /// Returns the action as requests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trigger => "Trigger",
            Self::Retry => "Retry",
            Self::Cancel => "Cancel",
            Self::Hold => "Hold",
            Self::Unhold => "Unhold",
            Self::Approve => "Approve",
            Self::Force => "Force",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "a".repeat(64))
    }

    fn parse(fields: serde_json::Value) -> Result<Request, RequestError> {
        let mut whole = json!({"id": "r1"});
        whole.as_object_mut().expect("object").extend(fields.as_object().expect("object").clone());
        Request::parse(&whole.to_string())
    }

    fn action(fields: serde_json::Value) -> RequestedAction {
        parse(fields).expect("a request").action
    }

    #[test]
    fn each_action_parses_with_the_fields_that_it_takes() {
        let until: Timestamp = "2026-05-01T12:00:00Z".parse().expect("a time");
        assert_eq!(
            action(json!({"action": "Trigger"})),
            RequestedAction::Trigger(RequestScope::Family)
        );
        assert_eq!(
            action(json!({"action": "Retry", "image": "app"})),
            RequestedAction::Retry(RequestScope::Image("app".into()))
        );
        assert_eq!(
            action(json!({"action": "Cancel", "image": "app", "subtree": true})),
            RequestedAction::Cancel(RequestScope::Subtree("app".into()))
        );
        assert_eq!(
            action(json!({"action": "Force", "subtree": false})),
            RequestedAction::Force(RequestScope::Family)
        );
        assert_eq!(
            action(json!({"action": "Hold", "image": "app", "until": "2026-05-01T14:00:00+02:00",
                       "reason": "freeze"})),
            RequestedAction::HoldImage {
                image: "app".into(),
                until: Some(until),
                reason: Some("freeze".into())
            }
        );
        assert_eq!(
            action(json!({"action": "Hold", "upstream": "alpine", "digest": digest()})),
            RequestedAction::HoldUpstream {
                upstream: "alpine".into(),
                digest: Some(digest()),
                until: None,
                reason: None
            }
        );
        assert_eq!(
            action(json!({"action": "Unhold", "image": "app"})),
            RequestedAction::UnholdImage { image: "app".into() }
        );
        assert_eq!(
            action(json!({"action": "Unhold", "upstream": "alpine"})),
            RequestedAction::UnholdUpstream { upstream: "alpine".into() }
        );
        assert_eq!(
            action(json!({"action": "Approve", "upstream": "alpine", "digest": digest()})),
            RequestedAction::Approve { upstream: "alpine".into(), digest: digest() }
        );
    }

    #[test]
    fn a_serialized_request_parses_to_the_same_request() {
        let requests = [
            json!({"action": "Trigger"}),
            json!({"action": "Force", "image": "app", "subtree": true}),
            json!({"action": "Cancel", "image": "app", "by": "ann"}),
            json!({"action": "Hold", "image": "app", "until": "2026-05-01T12:00:00Z",
                   "reason": "freeze"}),
            json!({"action": "Hold", "upstream": "alpine", "digest": digest(),
                   "reason": "3.20.1 is broken"}),
            json!({"action": "Unhold", "image": "app"}),
            json!({"action": "Unhold", "upstream": "alpine"}),
            json!({"action": "Approve", "upstream": "alpine", "digest": digest()}),
        ];
        for fields in requests {
            let request = parse(fields).expect("a request");
            assert_eq!(Request::parse(&request.to_annotation().expect("json")), Ok(request));
        }
    }

    #[test]
    fn a_field_that_the_action_does_not_take_is_rejected() {
        let values = json!({
            "image": "app", "subtree": true, "upstream": "alpine", "digest": digest(),
            "until": "2026-05-01T12:00:00Z", "reason": "why"
        });
        let taken = [
            ("Trigger", json!({"image": "app"}), vec!["image", "subtree"]),
            ("Retry", json!({"image": "app"}), vec!["image", "subtree"]),
            ("Cancel", json!({"image": "app"}), vec!["image", "subtree"]),
            ("Force", json!({"image": "app"}), vec!["image", "subtree"]),
            ("Hold", json!({"image": "app"}), vec!["image", "until", "reason"]),
            ("Hold", json!({"upstream": "alpine"}), vec!["upstream", "digest", "until", "reason"]),
            ("Unhold", json!({"image": "app"}), vec!["image"]),
            ("Unhold", json!({"upstream": "alpine"}), vec!["upstream"]),
            (
                "Approve",
                json!({"upstream": "alpine", "digest": digest()}),
                vec!["upstream", "digest"],
            ),
        ];
        for (action, least, takes) in taken {
            for (field, value) in values.as_object().expect("object") {
                let mut fields = least.clone();
                fields["action"] = json!(action);
                fields[field] = value.clone();
                let read = parse(fields.clone());
                assert_eq!(read.is_ok(), takes.contains(&field.as_str()), "{fields}: {read:?}");
                if let Err(error) = read {
                    assert!(
                        error.to_string().starts_with(&format!("{action} does not take ")),
                        "{fields}: {error}"
                    );
                }
            }
        }
    }

    #[test]
    fn messages_say_what_is_missing_or_wrong() {
        let message = |fields: serde_json::Value| parse(fields).expect_err("rejected").to_string();
        assert!(
            message(json!({"action": "Approve", "upstream": "alpine"}))
                .starts_with("Approve needs `digest`")
        );
        assert!(
            message(json!({"action": "Approve", "digest": digest()}))
                .starts_with("Approve needs `upstream`")
        );
        assert_eq!(message(json!({"action": "Hold"})), "Hold needs either `image` or `upstream`");
        assert!(
            message(json!({"action": "Retry", "subtree": true}))
                .starts_with("Retry needs `image` with `subtree`")
        );
        assert!(
            message(json!({"action": "Rebuild"})).contains("expected one of `Trigger`, `Retry`")
        );
        assert!(
            message(json!({"action": "Retry", "images": ["app"]}))
                .contains("unknown field `images`")
        );
        assert!(message(json!({"action": "Retry", "image": "App"})).starts_with(
            "`image` must be a \
            name"
        ));
        assert!(
            message(json!({"action": "Approve", "upstream": "up", "digest": "sha256:1"}))
                .starts_with("`digest` must be")
        );
        assert!(
            message(json!({"action": "Hold", "image": "app", "until": "tomorrow"}))
                .starts_with("the annotation is not a request")
        );
        assert!(
            message(json!({"action": "Hold", "image": "app", "reason": "a\nb"}))
                .starts_with("`reason` must have at most")
        );
        assert!(
            message(json!({"action": "Retry", "by": "b".repeat(129)}))
                .starts_with("`by` must have at most 128")
        );
        assert!(message(json!({"action": "Retry", "id": "two words"})).starts_with(
            "`id` must have 1 \
                to 64"
        ));
        assert!(
            message(json!({"action": "Retry", "id": "unreadable-1"}))
                .starts_with("`id` must not start")
        );
        assert!(parse(json!({"action": "Retry", "id": "x".repeat(64)})).is_ok());
        assert!(parse(json!({"action": "Retry", "id": "x".repeat(65)})).is_err());
        assert!(parse(json!({"action": "Retry", "id": ""})).is_err());
        assert!(matches!(Request::parse("retry"), Err(RequestError::Unreadable(_))));
        assert!(matches!(Request::parse(r#"["r1", "Retry"]"#), Err(RequestError::Unreadable(_))));
        assert!(matches!(
            Request::parse(r#"{"id": "a", "id": "b"}"#),
            Err(RequestError::Unreadable(_))
        ));
        assert_eq!(Request::parse(&" ".repeat(4097)), Err(RequestError::TooLong(4097)));
    }

    #[test]
    fn on_a_managed_image_the_image_is_implied() {
        let parse = |fields: serde_json::Value| {
            Request::parse_on_image(&fields.to_string(), "app").map(|r| r.action)
        };
        assert_eq!(
            parse(json!({"id": "1", "action": "Retry"})),
            Ok(RequestedAction::Retry(RequestScope::Image("app".into())))
        );
        assert_eq!(
            parse(json!({"id": "1", "action": "Force", "image": "app", "subtree": true})),
            Ok(RequestedAction::Force(RequestScope::Subtree("app".into())))
        );
        let hold = RequestedAction::HoldImage { image: "app".into(), until: None, reason: None };
        assert_eq!(parse(json!({"id": "1", "action": "Hold"})), Ok(hold));
        let message = |fields| parse(fields).expect_err("rejected").to_string();
        assert!(
            message(json!({"id": "1", "action": "Retry", "image": "lib"}))
                .contains("the request names `lib`")
        );
        assert!(
            message(json!({"id": "1", "action": "Hold", "upstream": "up"}))
                .contains("annotate the ImageFamily")
        );
        assert!(
            message(json!({"id": "1", "action": "Force", "upstream": "up"}))
                .contains("it applies to images")
        );
        assert!(
            message(json!({"id": "1", "action": "Approve"})).contains("annotate the ImageFamily")
        );
    }
}
