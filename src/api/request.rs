//! Requests: what a person asks for by hand, as an annotation with an id, so that it is done once and its outcome recorded.
//!
//! The annotation [`REQUEST`](super::labels::REQUEST) stands on an `ImageFamily`, or on a `FamilyImage`, whose image is then the
//! one that is meant. Here it is read and checked as far as its own text goes; whether the image exists, whether a digest is
//! still the candidate and whether `until` is still to come, is for whoever knows the family and the time.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::condition::shorten;

/// The most bytes of the annotation's value.
pub const MAX_VALUE: usize = 4096;
/// The most handled requests that a status lists, newest first.
pub const MAX_REQUESTS: usize = 10;
/// The most characters of an id.
pub const MAX_ID: usize = 64;
/// The most characters of a hold's reason.
pub const MAX_REASON: usize = 256;
/// The most characters of the name of whoever asks.
pub const MAX_BY: usize = 128;
/// The most characters of the message that is recorded with a handled request.
pub const MAX_HANDLED_MESSAGE: usize = 512;

/// What stands before the hash in the id under which an annotation is recorded that is no request.
const UNREADABLE: &str = "unreadable-";

/// What a person asks for.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(try_from = "Written", into = "Written")]
pub struct Request {
    /// Chosen by whoever asks: 1 to 64 of letters, digits, `.`, `_`, `:` and `-`. A request is done once per id.
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
    /// Build, even what is current. The request's id is the nonce that makes the fingerprint another.
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
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// A request that was looked at, and what came of it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct HandledRequest {
    /// Its id; for an annotation that is no request, `unreadable-` and a hash of it.
    #[schemars(length(max = 64))]
    pub id: String,
    /// What was asked for; missing, if that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<RequestAction>,
    /// Whether it was done.
    pub outcome: RequestOutcome,
    /// What was done, or why it was not, in words.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Who asked, as they said; not proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub by: Option<String>,
    /// When it was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,
}

/// Whether a request was done.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    /// It was done.
    #[default]
    Done,
    /// It was not, and will not be: the message says why.
    Refused,
}

/// Why an annotation is no request. Each message says what is wrong and what to write.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The value is too long.
    #[error("a request has at most {MAX_VALUE} bytes, this has {0}")]
    TooLong(usize),
    /// The value is not the JSON of a request.
    #[error("not a request: {0}; write JSON, for example {{\"id\": \"2026-05-01-a\", \"action\": \"Retry\"}}")]
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
    /// A request on a `FamilyImage` names another image.
    #[error(
        "this FamilyImage is of image `{own}`, and the request names `{named}`: annotate that one's, or the ImageFamily"
    )]
    OtherImage {
        /// The image that it names.
        named: String,
        /// The image that it stands on.
        own: String,
    },
}

/// The request as it is written. Flat, for people; [`Request`] is what it may say.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    id: String,
    action: RequestAction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    subtree: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

impl Request {
    /// Reads the annotation of an `ImageFamily`.
    pub fn parse(value: &str) -> Result<Self, RequestError> {
        read(value)?.try_into()
    }

    /// Reads the annotation of a `FamilyImage`: it is about this image, and `image` may be left out.
    pub fn parse_on_image(value: &str, image: &str) -> Result<Self, RequestError> {
        let mut written = read(value)?;
        if let Some(named) = written.image.as_ref().filter(|named| *named != image) {
            return Err(RequestError::OtherImage { named: shorten(named, 64), own: image.into() });
        }
        let may_be_of_upstream = matches!(written.action, RequestAction::Hold | RequestAction::Unhold);
        if written.action == RequestAction::Approve || (may_be_of_upstream && written.upstream.is_some()) {
            let instead = "upstreams belong to the family; annotate the ImageFamily";
            return Err(RequestError::NotTaken { action: written.action.on_image(), field: "upstream", instead });
        }
        written.image = Some(image.into());
        written.try_into()
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

    /// The record of what came of it. The message is cut at [`MAX_HANDLED_MESSAGE`] characters.
    #[must_use]
    pub fn handled(&self, outcome: RequestOutcome, message: &str, at: Timestamp) -> HandledRequest {
        HandledRequest {
            id: self.id.clone(),
            action: Some(self.action()),
            outcome,
            message: shorten(message, MAX_HANDLED_MESSAGE),
            by: self.by.clone(),
            at: Some(whole_second(at)),
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

    const fn on_image(self) -> &'static str {
        match self {
            Self::Hold => "Hold on a FamilyImage",
            Self::Unhold => "Unhold on a FamilyImage",
            Self::Approve => "Approve on a FamilyImage",
            other => other.as_str(),
        }
    }
}

impl HandledRequest {
    /// The record of an annotation that is no request. Its id is a hash of the value, so that it is told once, and so that
    /// the id that was meant is still free when the value is corrected.
    #[must_use]
    pub fn unreadable(value: &str, error: &RequestError, at: Timestamp) -> Self {
        Self {
            id: unreadable_id(value),
            action: None,
            outcome: RequestOutcome::Refused,
            message: shorten(&error.to_string(), MAX_HANDLED_MESSAGE),
            by: None,
            at: Some(whole_second(at)),
        }
    }
}

/// The id under which an annotation that is no request is recorded.
#[must_use]
pub fn unreadable_id(value: &str) -> String {
    let hash = hex::encode(Sha256::digest(value.as_bytes()));
    format!("{UNREADABLE}{}", hash.get(..12).unwrap_or_default())
}

/// Whether a request of this id was handled: the list has it.
#[must_use]
pub fn is_handled(requests: &[HandledRequest], id: &str) -> bool {
    requests.iter().any(|handled| handled.id == id)
}

/// Puts a record in front of the others, and lets go of the oldest beyond [`MAX_REQUESTS`].
pub fn record(requests: &mut Vec<HandledRequest>, handled: HandledRequest) {
    requests.insert(0, handled);
    requests.truncate(MAX_REQUESTS);
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn read(value: &str) -> Result<Written, RequestError> {
    if value.len() > MAX_VALUE {
        return Err(RequestError::TooLong(value.len()));
    }
    // A list of values in the order of the fields would do for the reader of JSON as well.
    if !value.trim_start().starts_with('{') {
        return Err(RequestError::Unreadable("it is not a JSON object".into()));
    }
    serde_json::from_str(value).map_err(|error| RequestError::Unreadable(shorten(&error.to_string(), 200)))
}

impl TryFrom<Written> for Request {
    type Error = RequestError;

    fn try_from(written: Written) -> Result<Self, RequestError> {
        written.check_values()?;
        written.check_fields()?;
        let missing = |needed| RequestError::Missing { action: written.action.as_str(), needed };
        let Written { id, action, image, subtree, upstream, digest, until, reason, by } = written;
        let scope = |image: Option<String>| match (image, subtree) {
            (None, false) => Ok(Scope::Family),
            (Some(image), false) => Ok(Scope::Image(image)),
            (Some(image), true) => Ok(Scope::Subtree(image)),
            (None, true) => Err(missing("`image` beside `subtree`; without both it is about the whole family")),
        };
        let act = match action {
            RequestAction::Trigger => Act::Trigger(scope(image)?),
            RequestAction::Retry => Act::Retry(scope(image)?),
            RequestAction::Cancel => Act::Cancel(scope(image)?),
            RequestAction::Force => Act::Force(scope(image)?),
            RequestAction::Hold => match (image, upstream) {
                (Some(image), None) => Act::HoldImage { image, until, reason },
                (None, Some(upstream)) => Act::HoldUpstream { upstream, digest, until, reason },
                _ => return Err(missing("either `image` or `upstream`")),
            },
            RequestAction::Unhold => match (image, upstream) {
                (Some(image), None) => Act::UnholdImage { image },
                (None, Some(upstream)) => Act::UnholdUpstream { upstream },
                _ => return Err(missing("either `image` or `upstream`")),
            },
            RequestAction::Approve => Act::Approve {
                upstream: upstream.ok_or_else(|| missing("`upstream`"))?,
                digest: digest.ok_or_else(|| {
                    missing("`digest`, that of the candidate in the family's status: only what was seen is approved")
                })?,
            },
        };
        Ok(Self { id, by, act })
    }
}

impl Written {
    fn check_values(&self) -> Result<(), RequestError> {
        let invalid = |field, problem: &str| Err(RequestError::Invalid { field, problem: problem.into() });
        let id_is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if self.id.is_empty() || self.id.len() > MAX_ID || !self.id.chars().all(id_is_good) {
            return invalid("id", "has 1 to 64 letters, digits, `.`, `_`, `:` or `-`, and is new with every request");
        }
        if self.id.starts_with(UNREADABLE) {
            return invalid("id", "does not begin with `unreadable-`: choose another");
        }
        for (field, name) in [("image", &self.image), ("upstream", &self.upstream)] {
            if name.as_ref().is_some_and(|name| !is_name(name)) {
                return invalid(field, "is a name of the family's spec: 1 to 63 lower case letters, digits and dashes");
            }
        }
        if self.digest.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return invalid("digest", "is `sha256:` and 64 hexadecimal digits in lower case");
        }
        for (field, text, most) in [("reason", &self.reason, MAX_REASON), ("by", &self.by, MAX_BY)] {
            let Some(text) = text else { continue };
            if text.chars().count() > most || text.chars().any(char::is_control) {
                let problem = format!("has at most {most} characters and no line breaks");
                return Err(RequestError::Invalid { field, problem });
            }
        }
        Ok(())
    }

    /// Refuses fields that the action has no use for: what is not looked at must not look as if it were.
    fn check_fields(&self) -> Result<(), RequestError> {
        use RequestAction::{Approve, Hold, Unhold};
        let of_upstream = self.upstream.is_some();
        let holds = self.action == Hold;
        let rules = [
            (
                "image",
                self.image.is_some()
                    && (self.action == Approve || (matches!(self.action, Hold | Unhold) && of_upstream)),
                "it is about the upstream",
            ),
            (
                "subtree",
                self.subtree && matches!(self.action, Hold | Unhold | Approve),
                "it is about one image or upstream",
            ),
            ("upstream", of_upstream && !matches!(self.action, Hold | Unhold | Approve), "it is about images"),
            (
                "digest",
                self.digest.is_some() && !(self.action == Approve || (holds && of_upstream)),
                "only Approve and a Hold of an upstream do",
            ),
            ("until", self.until.is_some() && !holds, "only Hold does"),
            ("reason", self.reason.is_some() && !holds, "only Hold does"),
        ];
        let wrong = rules.into_iter().find(|(_, given_in_vain, _)| *given_in_vain);
        wrong.map_or(Ok(()), |(field, _, instead)| {
            Err(RequestError::NotTaken { action: self.action.as_str(), field, instead })
        })
    }
}

impl From<Request> for Written {
    fn from(request: Request) -> Self {
        let action = request.action();
        let Request { id, by, act } = request;
        let mut written = Self {
            id,
            action,
            image: None,
            subtree: false,
            upstream: None,
            digest: None,
            until: None,
            reason: None,
            by,
        };
        match act {
            Act::Trigger(scope) | Act::Retry(scope) | Act::Cancel(scope) | Act::Force(scope) => {
                written.subtree = matches!(scope, Scope::Subtree(_));
                written.image = match scope {
                    Scope::Family => None,
                    Scope::Image(image) | Scope::Subtree(image) => Some(image),
                };
            }
            Act::HoldImage { image, until, reason } => {
                (written.image, written.until, written.reason) = (Some(image), until, reason);
            }
            Act::HoldUpstream { upstream, digest, until, reason } => {
                (written.upstream, written.digest) = (Some(upstream), digest);
                (written.until, written.reason) = (until, reason);
            }
            Act::UnholdImage { image } => written.image = Some(image),
            Act::UnholdUpstream { upstream } => written.upstream = Some(upstream),
            Act::Approve { upstream, digest } => {
                (written.upstream, written.digest) = (Some(upstream), Some(digest));
            }
        }
        written
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
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
        assert_eq!(act(json!({"action": "Retry", "image": "app"})), Act::Retry(Scope::Image("app".into())));
        assert_eq!(
            act(json!({"action": "Cancel", "image": "app", "subtree": true})),
            Act::Cancel(Scope::Subtree("app".into()))
        );
        assert_eq!(act(json!({"action": "Force", "subtree": false})), Act::Force(Scope::Family));
        assert_eq!(
            act(json!({"action": "Hold", "image": "app", "until": "2026-05-01T14:00:00+02:00", "reason": "freeze"})),
            Act::HoldImage { image: "app".into(), until: Some(until), reason: Some("freeze".into()) }
        );
        assert_eq!(
            act(json!({"action": "Hold", "upstream": "alpine", "digest": digest()})),
            Act::HoldUpstream { upstream: "alpine".into(), digest: Some(digest()), until: None, reason: None }
        );
        assert_eq!(act(json!({"action": "Unhold", "image": "app"})), Act::UnholdImage { image: "app".into() });
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
            ("Approve", json!({"upstream": "alpine", "digest": digest()}), vec!["upstream", "digest"]),
        ];
        for (action, least, takes) in taken {
            for (field, value) in values.as_object().expect("object") {
                let mut fields = least.clone();
                fields["action"] = json!(action);
                fields[field] = value.clone();
                let read = parse(fields.clone());
                assert_eq!(read.is_ok(), takes.contains(&field.as_str()), "{fields}: {read:?}");
                if let Err(error) = read {
                    assert!(error.to_string().starts_with(&format!("{action} does not take ")), "{fields}: {error}");
                }
            }
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_to_a_person() {
        let told = |fields: serde_json::Value| parse(fields).expect_err("refused").to_string();
        assert!(told(json!({"action": "Approve", "upstream": "alpine"})).starts_with("Approve needs `digest`"));
        assert!(told(json!({"action": "Approve", "digest": digest()})).starts_with("Approve needs `upstream`"));
        assert_eq!(told(json!({"action": "Hold"})), "Hold needs either `image` or `upstream`");
        assert!(told(json!({"action": "Retry", "subtree": true})).starts_with("Retry needs `image` beside `subtree`"));
        assert!(told(json!({"action": "Rebuild"})).contains("expected one of `Trigger`, `Retry`"));
        assert!(told(json!({"action": "Retry", "images": ["app"]})).contains("unknown field `images`"));
        assert!(told(json!({"action": "Retry", "image": "App"})).starts_with("`image` is a name"));
        assert!(told(json!({"action": "Approve", "upstream": "up", "digest": "sha256:1"})).starts_with("`digest` is"));
        assert!(told(json!({"action": "Hold", "image": "app", "until": "tomorrow"})).starts_with("not a request"));
        assert!(told(json!({"action": "Hold", "image": "app", "reason": "a\nb"})).starts_with("`reason` has at most"));
        assert!(told(json!({"action": "Retry", "by": "b".repeat(129)})).starts_with("`by` has at most 128"));
        assert!(told(json!({"action": "Retry", "id": "two words"})).starts_with("`id` has 1 to 64"));
        assert!(told(json!({"action": "Retry", "id": "unreadable-1"})).starts_with("`id` does not begin"));
        assert!(parse(json!({"action": "Retry", "id": "x".repeat(64)})).is_ok());
        assert!(parse(json!({"action": "Retry", "id": "x".repeat(65)})).is_err());
        assert!(parse(json!({"action": "Retry", "id": ""})).is_err());
        assert!(matches!(Request::parse("retry"), Err(RequestError::Unreadable(_))));
        assert!(matches!(Request::parse(r#"["r1", "Retry"]"#), Err(RequestError::Unreadable(_))));
        assert!(matches!(Request::parse(r#"{"id": "a", "id": "b"}"#), Err(RequestError::Unreadable(_))));
        assert_eq!(Request::parse(&" ".repeat(4097)), Err(RequestError::TooLong(4097)));
    }

    #[test]
    fn on_a_family_image_the_image_is_implied() {
        let parse = |fields: serde_json::Value| Request::parse_on_image(&fields.to_string(), "app").map(|r| r.act);
        assert_eq!(parse(json!({"id": "1", "action": "Retry"})), Ok(Act::Retry(Scope::Image("app".into()))));
        assert_eq!(
            parse(json!({"id": "1", "action": "Force", "image": "app", "subtree": true})),
            Ok(Act::Force(Scope::Subtree("app".into())))
        );
        let hold = Act::HoldImage { image: "app".into(), until: None, reason: None };
        assert_eq!(parse(json!({"id": "1", "action": "Hold"})), Ok(hold));
        let told = |fields| parse(fields).expect_err("refused").to_string();
        assert!(told(json!({"id": "1", "action": "Retry", "image": "lib"})).contains("the request names `lib`"));
        assert!(told(json!({"id": "1", "action": "Hold", "upstream": "up"})).contains("annotate the ImageFamily"));
        assert!(told(json!({"id": "1", "action": "Force", "upstream": "up"})).contains("it is about images"));
        assert!(told(json!({"id": "1", "action": "Approve"})).contains("annotate the ImageFamily"));
    }

    #[test]
    fn records_are_bounded_and_newest_first() {
        let at: Timestamp = "2026-05-01T12:00:00.7Z".parse().expect("a time");
        let mut requests = Vec::new();
        for number in 0..=MAX_REQUESTS {
            let request =
                parse(json!({"action": "Retry", "id": format!("r{number}"), "by": "ann"})).expect("a request");
            record(&mut requests, request.handled(RequestOutcome::Done, &"x".repeat(2000), at));
        }
        assert_eq!(requests.len(), MAX_REQUESTS);
        assert_eq!((requests[0].id.as_str(), requests[0].by.as_deref()), ("r10", Some("ann")));
        assert_eq!(requests[0].message.chars().count(), MAX_HANDLED_MESSAGE);
        assert_eq!(
            requests[0].at.map(Timestamp::subsec_nanosecond),
            Some(0),
            "what is read back equals what was written"
        );
        assert!(is_handled(&requests, "r1") && !is_handled(&requests, "r0"));
    }

    #[test]
    fn an_unreadable_annotation_is_recorded_under_a_hash_and_uses_up_no_id() {
        let at = Timestamp::UNIX_EPOCH;
        let value = r#"{"id": "r1", "action": "Rebuild"}"#;
        let error = Request::parse(value).expect_err("no request");
        let refused = HandledRequest::unreadable(value, &error, at);
        assert_eq!(refused.id, unreadable_id(value));
        assert_ne!(refused.id, unreadable_id("{}"));
        assert_eq!((refused.outcome, refused.action), (RequestOutcome::Refused, None));
        assert!(!is_handled(&[refused], "r1"));
    }
}
