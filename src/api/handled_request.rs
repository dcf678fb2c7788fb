//! The record of a handled request and its outcome, which ensures that a request is carried out
//! once.
//!
//! Statuses list the last [`MAX_REQUESTS`] records. A request whose id is among them is not handled
//! again.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::api::{ActionName, Request, RequestError, condition::shorten, request::UNREADABLE};

/// Maximum number of handled requests that a status lists, newest first.
pub const MAX_REQUESTS: usize = 10;
/// Maximum length in characters of the message that is recorded with a handled request.
pub const MAX_HANDLED_MESSAGE: usize = 512;

/// A request that was handled, and its outcome.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct HandledRequest {
    /// Id of the request. An annotation that could not be read is recorded as `unreadable-` and a
    /// hash of its value. At most 64 characters.
    #[schemars(length(max = 64))]
    pub id: String,
    /// Action that was requested. Not set if the annotation could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionName>,
    /// Outcome: `Done` if the request was carried out, `Refused` if it was not and will not be.
    pub outcome: RequestOutcome,
    /// Human-readable description of what was done, or of why the request was refused. At most 512
    /// characters.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Name of the user who made the request, as given in the request and not verified. At most 128
    /// characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub by: Option<String>,
    /// Time at which the request was handled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,
}

/// Outcome of a request.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    /// The request was carried out.
    #[default]
    Done,
    /// The request was not carried out and will not be. The message says why.
    Refused,
}

impl Request {
    /// Returns the record of the outcome. The message is cut at [`MAX_HANDLED_MESSAGE`] characters.
    #[must_use]
    pub fn handled(&self, outcome: RequestOutcome, message: &str, at: Timestamp) -> HandledRequest {
        HandledRequest {
            id: self.id.clone(),
            action: Some(self.action_name()),
            outcome,
            message: shorten(message, MAX_HANDLED_MESSAGE),
            by: self.by.clone(),
            at: Some(whole_second(at)),
        }
    }
}

impl HandledRequest {
    /// Returns the record of an annotation that is not a request. Its id is a hash of the value, so
    /// that it is reported once, and so that the intended id can still be used when the value is
    /// corrected.
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

/// Returns the id under which an annotation that is not a request is recorded.
#[must_use]
pub fn unreadable_id(value: &str) -> String {
    let hash = hex::encode(Sha256::digest(value.as_bytes()));
    format!("{UNREADABLE}{}", hash.get(..12).unwrap_or_default())
}

/// Returns whether the list has a request with this id.
#[must_use]
pub fn is_handled(requests: &[HandledRequest], id: &str) -> bool {
    requests.iter().any(|handled| handled.id == id)
}

/// Inserts a record at the front and removes the oldest beyond [`MAX_REQUESTS`].
pub fn record(requests: &mut Vec<HandledRequest>, handled: HandledRequest) {
    requests.insert(0, handled);
    requests.truncate(MAX_REQUESTS);
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_bounded_and_newest_first() {
        let at: Timestamp = "2026-05-01T12:00:00.7Z".parse().expect("a time");
        let mut requests = Vec::new();
        for number in 0..=MAX_REQUESTS {
            let value = format!(r#"{{"id": "r{number}", "action": "Retry", "by": "ann"}}"#);
            let request = Request::parse(&value).expect("a request");
            record(&mut requests, request.handled(RequestOutcome::Done, &"x".repeat(2000), at));
        }
        assert_eq!(requests.len(), MAX_REQUESTS);
        assert_eq!((requests[0].id.as_str(), requests[0].by.as_deref()), ("r10", Some("ann")));
        assert_eq!(requests[0].message.chars().count(), MAX_HANDLED_MESSAGE);
        assert_eq!(
            requests[0].at.map(Timestamp::subsec_nanosecond),
            Some(0),
            "the API server stores whole seconds"
        );
        assert!(is_handled(&requests, "r1") && !is_handled(&requests, "r0"));
    }

    #[test]
    fn an_unreadable_annotation_is_recorded_under_its_hash() {
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
