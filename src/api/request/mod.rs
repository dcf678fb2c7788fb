//! Requests: what a person asks for by hand, as an annotation with an id, so that it is done once
//! and its outcome recorded.
//!
//! The annotation [`REQUEST`](crate::api::labels::REQUEST) stands on an `ImageFamily`, or on a
//! `ManagedImage`, whose image is then the one that is meant. Here it is read and checked as far as
//! its own text goes; whether the image exists, whether a digest is still the candidate and whether
//! `until` is still to come, is for whoever knows the family and the time. What came of it is
//! recorded as [`crate::api::handled_request`] says.

mod wire;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use wire::Written;

/// The most bytes of the annotation's value.
pub const MAX_VALUE: usize = 4096;
/// The most characters of an id.
pub const MAX_ID: usize = 64;
/// The most characters of a hold's reason.
pub const MAX_REASON: usize = 256;
/// The most characters of the name of whoever asks.
pub const MAX_BY: usize = 128;

/// What stands before the hash in the id under which an annotation is recorded that is no request.
/// No id of a request begins so.
pub(super) const UNREADABLE: &str = "unreadable-";

/// What a person asks for.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(try_from = "Written", into = "Written")]
pub struct Request {
    /// Chosen by whoever asks: 1 to 64 of letters, digits, `.`, `_`, `:` and `-`. A request is done
    /// once per id.
    pub id: String,
    /// Who asks, as they say; not proved.
    pub by: Option<String>,
    /// What is to be done.
    pub act: Act,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Start what is stale now, without the quiet time.
    Trigger(Scope),
    /// Forget failures, so that failed images are tried again.
    Retry(Scope),
    /// Stop builds; they are not tried again until an input changes or a retry is asked for.
    Cancel(Scope),
    /// Build, even what is current. The request's id is the nonce that makes the fingerprint
    /// another.
    Force(Scope),
    /// Keep an image from being built.
    HoldImage {
        /// The image.
        image: String,
        /// When the hold ends by itself.
        until: Option<Timestamp>,
        /// Why.
        reason: Option<String>,
    },
    /// Keep an upstream where it is.
    HoldUpstream {
        /// The upstream.
        upstream: String,
        /// The digest that builds use meanwhile; without it, the one in use.
        digest: Option<String>,
        /// When the hold ends by itself.
        until: Option<Timestamp>,
        /// Why.
        reason: Option<String>,
    },
    /// End a hold of an image that was asked for by a request.
    UnholdImage {
        /// The image.
        image: String,
    },
    /// End a hold of an upstream that was asked for by a request.
    UnholdUpstream {
        /// The upstream.
        upstream: String,
    },
    /// Let builds use this digest of an upstream whose `approval` is `Manual`.
    Approve {
        /// The upstream.
        upstream: String,
        /// The digest. Whatever else is the candidate by then is not approved.
        digest: String,
    },
}

/// Which images an act is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of the family.
    Family,
    /// One.
    Image(String),
    /// One and all that stand on it.
    Subtree(String),
}

/// The name of an act, as it is written in a request.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub enum RequestAction {
    /// Start what is stale now, without the quiet time.
    Trigger,
    /// Forget failures.
    Retry,
    /// Stop builds.
    Cancel,
    /// Keep an image or an upstream where it is.
    Hold,
    /// End a hold.
    Unhold,
    /// Let builds use a candidate.
    Approve,
    /// Build though current.
    Force,
}

/// Why an annotation is no request. Each message says what is wrong and what to write.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The value is too long.
    #[error("a request has at most {MAX_VALUE} bytes, this has {0}")]
    TooLong(usize),
    /// The value is not the JSON of a request.
    #[error(
        "not a request: {0}; write JSON, for example {{\"id\": \"2026-05-01-a\", \"action\": \
         \"Retry\"}}"
    )]
    Unreadable(String),
    /// A field has a value that it can't have.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with its value, and what it may be.
        problem: String,
    },
    /// A field stands in a request that has no use for it.
    #[error("{action} does not take `{field}`: {instead}")]
    NotTaken {
        /// The action.
        action: &'static str,
        /// The field.
        field: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// A field is missing.
    #[error("{action} needs {needed}")]
    Missing {
        /// The action.
        action: &'static str,
        /// What to add.
        needed: &'static str,
    },
    /// A request on a `ManagedImage` names another image.
    #[error(
        "this ManagedImage is of image `{own}`, and the request names `{named}`: annotate that \
         one's, or the ImageFamily"
    )]
    OtherImage {
        /// The image that it names.
        named: String,
        /// The image that it stands on.
        own: String,
    },
}

impl Request {
    /// Reads the annotation of an `ImageFamily`.
    pub fn parse(value: &str) -> Result<Self, RequestError> {
        Written::read(value)?.try_into()
    }

    /// Reads the annotation of a `ManagedImage`: it is about this image, and `image` may be left
    /// out.
    pub fn parse_on_image(value: &str, image: &str) -> Result<Self, RequestError> {
        Written::read(value)?.on_image(image)?.try_into()
    }

    /// The value to annotate with.
    pub fn to_annotation(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// The name of the act.
    #[must_use]
    pub const fn action(&self) -> RequestAction {
        match self.act {
            Act::Trigger(_) => RequestAction::Trigger,
            Act::Retry(_) => RequestAction::Retry,
            Act::Cancel(_) => RequestAction::Cancel,
            Act::Force(_) => RequestAction::Force,
            Act::HoldImage { .. } | Act::HoldUpstream { .. } => RequestAction::Hold,
            Act::UnholdImage { .. } | Act::UnholdUpstream { .. } => RequestAction::Unhold,
            Act::Approve { .. } => RequestAction::Approve,
        }
    }
}

impl RequestAction {
    /// The action as it is written.
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

    fn act(fields: serde_json::Value) -> Act {
        parse(fields).expect("a request").act
    }

    #[test]
    fn each_action_is_read_with_the_fields_it_takes() {
        let until: Timestamp = "2026-05-01T12:00:00Z".parse().expect("a time");
        assert_eq!(act(json!({"action": "Trigger"})), Act::Trigger(Scope::Family));
        assert_eq!(
            act(json!({"action": "Retry", "image": "app"})),
            Act::Retry(Scope::Image("app".into()))
        );
        assert_eq!(
            act(json!({"action": "Cancel", "image": "app", "subtree": true})),
            Act::Cancel(Scope::Subtree("app".into()))
        );
        assert_eq!(act(json!({"action": "Force", "subtree": false})), Act::Force(Scope::Family));
        assert_eq!(
            act(
                json!({"action": "Hold", "image": "app", "until": "2026-05-01T14:00:00+02:00", "reason": "freeze"})
            ),
            Act::HoldImage {
                image: "app".into(),
                until: Some(until),
                reason: Some("freeze".into())
            }
        );
        assert_eq!(
            act(json!({"action": "Hold", "upstream": "alpine", "digest": digest()})),
            Act::HoldUpstream {
                upstream: "alpine".into(),
                digest: Some(digest()),
                until: None,
                reason: None
            }
        );
        assert_eq!(
            act(json!({"action": "Unhold", "image": "app"})),
            Act::UnholdImage { image: "app".into() }
        );
        assert_eq!(
            act(json!({"action": "Unhold", "upstream": "alpine"})),
            Act::UnholdUpstream { upstream: "alpine".into() }
        );
        assert_eq!(
            act(json!({"action": "Approve", "upstream": "alpine", "digest": digest()})),
            Act::Approve { upstream: "alpine".into(), digest: digest() }
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        let acts = [
            json!({"action": "Trigger"}),
            json!({"action": "Force", "image": "app", "subtree": true}),
            json!({"action": "Cancel", "image": "app", "by": "ann"}),
            json!({"action": "Hold", "image": "app", "until": "2026-05-01T12:00:00Z", "reason": "freeze"}),
            json!({"action": "Hold", "upstream": "alpine", "digest": digest(), "reason": "3.20.1 is broken"}),
            json!({"action": "Unhold", "image": "app"}),
            json!({"action": "Unhold", "upstream": "alpine"}),
            json!({"action": "Approve", "upstream": "alpine", "digest": digest()}),
        ];
        for fields in acts {
            let request = parse(fields).expect("a request");
            assert_eq!(Request::parse(&request.to_annotation().expect("json")), Ok(request));
        }
    }

    #[test]
    fn a_field_that_the_action_does_not_take_is_refused() {
        let values = json!({
            "image": "app", "subtree": true, "upstream": "alpine", "digest": digest(), "until": "2026-05-01T12:00:00Z",
            "reason": "why"
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
    fn what_is_missing_or_wrong_is_told_to_a_person() {
        let told = |fields: serde_json::Value| parse(fields).expect_err("refused").to_string();
        assert!(
            told(json!({"action": "Approve", "upstream": "alpine"}))
                .starts_with("Approve needs `digest`")
        );
        assert!(
            told(json!({"action": "Approve", "digest": digest()}))
                .starts_with("Approve needs `upstream`")
        );
        assert_eq!(told(json!({"action": "Hold"})), "Hold needs either `image` or `upstream`");
        assert!(
            told(json!({"action": "Retry", "subtree": true}))
                .starts_with("Retry needs `image` beside `subtree`")
        );
        assert!(told(json!({"action": "Rebuild"})).contains("expected one of `Trigger`, `Retry`"));
        assert!(
            told(json!({"action": "Retry", "images": ["app"]})).contains("unknown field `images`")
        );
        assert!(told(json!({"action": "Retry", "image": "App"})).starts_with("`image` is a name"));
        assert!(
            told(json!({"action": "Approve", "upstream": "up", "digest": "sha256:1"}))
                .starts_with("`digest` is")
        );
        assert!(
            told(json!({"action": "Hold", "image": "app", "until": "tomorrow"}))
                .starts_with("not a request")
        );
        assert!(
            told(json!({"action": "Hold", "image": "app", "reason": "a\nb"}))
                .starts_with("`reason` has at most")
        );
        assert!(
            told(json!({"action": "Retry", "by": "b".repeat(129)}))
                .starts_with("`by` has at most 128")
        );
        assert!(
            told(json!({"action": "Retry", "id": "two words"})).starts_with("`id` has 1 to 64")
        );
        assert!(
            told(json!({"action": "Retry", "id": "unreadable-1"}))
                .starts_with("`id` does not begin")
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
            Request::parse_on_image(&fields.to_string(), "app").map(|r| r.act)
        };
        assert_eq!(
            parse(json!({"id": "1", "action": "Retry"})),
            Ok(Act::Retry(Scope::Image("app".into())))
        );
        assert_eq!(
            parse(json!({"id": "1", "action": "Force", "image": "app", "subtree": true})),
            Ok(Act::Force(Scope::Subtree("app".into())))
        );
        let hold = Act::HoldImage { image: "app".into(), until: None, reason: None };
        assert_eq!(parse(json!({"id": "1", "action": "Hold"})), Ok(hold));
        let told = |fields| parse(fields).expect_err("refused").to_string();
        assert!(
            told(json!({"id": "1", "action": "Retry", "image": "lib"}))
                .contains("the request names `lib`")
        );
        assert!(
            told(json!({"id": "1", "action": "Hold", "upstream": "up"}))
                .contains("annotate the ImageFamily")
        );
        assert!(
            told(json!({"id": "1", "action": "Force", "upstream": "up"}))
                .contains("it is about images")
        );
        assert!(told(json!({"id": "1", "action": "Approve"})).contains("annotate the ImageFamily"));
    }
}
