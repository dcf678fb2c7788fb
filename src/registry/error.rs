//! Errors of registry calls, worded for conditions and Events.
//!
//! A message quotes what the registry responded, shortened, without control characters and without
//! any secret that was sent to it.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use crate::api::condition::{Problem, Reason, reason, shorten};

/// Maximum number of characters of a registry's response that a message quotes.
const MAX_QUOTE: usize = 240;
/// What a response with a manifest is called.
pub(super) const MANIFEST: &str = "manifest";

/// A call to a registry that failed. Each variant names the requested image and the host that was
/// called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The registry, or its token service, rejected the credential or requires one.
    #[error(
        "{image}: {host} denied access ({response}); check that one of the family's credentials \
         covers this repository and has the required permissions"
    )]
    Denied {
        /// The requested image.
        image: String,
        /// The host that denied access.
        host: String,
        /// What the host responded.
        response: String,
    },
    /// The registry does not have the image.
    #[error(
        "{image}: {host} does not have this image ({response}); check the repository and the tag"
    )]
    NotFound {
        /// The requested image.
        image: String,
        /// The host that does not have it.
        host: String,
        /// What the host responded.
        response: String,
    },
    /// The response is larger than the limit for its kind.
    #[error(
        "{image}: {host} sent a {what} of more than {limit} bytes, which is the maximum that is \
         read; check that the reference names an image"
    )]
    TooLarge {
        /// The requested image.
        image: String,
        /// The host that responded.
        host: String,
        /// What was too large: a noun without an article, such as `manifest`.
        what: &'static str,
        /// Maximum number of bytes that are read.
        limit: usize,
    },
    /// The response is not what a registry sends.
    #[error(
        "{image}: {host} {problem}; check that it is an OCI registry and that the reference names \
         an image"
    )]
    InvalidResponse {
        /// The requested image.
        image: String,
        /// The host that responded.
        host: String,
        /// What is wrong with the response: a predicate whose subject is the host.
        problem: String,
    },
    /// The registry, or its token service, rejects a request that reads for every client.
    #[error(
        "{image}: {host} rejected the request ({response}); check that it is an OCI registry and \
         that the reference names an image"
    )]
    Rejected {
        /// The requested image.
        image: String,
        /// The host that rejected the request.
        host: String,
        /// What the host responded.
        response: String,
    },
    /// The registry accepts the credential and rejects a push for every client: the tag is
    /// immutable, the manifest is too large, or the registry does not accept it.
    #[error(
        "{image}: {host} rejected the push ({response}); check the repository's settings, such as \
         immutable tags, quotas and size limits"
    )]
    PushRejected {
        /// The requested image.
        image: String,
        /// The host that rejected the request.
        host: String,
        /// What the host responded.
        response: String,
    },
    /// The registry is unreachable, slow or overloaded, or it limits the rate of requests. A later
    /// request can succeed.
    #[error("{image}: {host} is unavailable ({problem}); the request is retried later")]
    Unavailable {
        /// The requested image.
        image: String,
        /// The host that was called.
        host: String,
        /// What happened.
        problem: String,
        /// Whether the host responded at all.
        responded: bool,
        /// The pause that the host asked for, if it did. At most one hour.
        retry_after: Option<Duration>,
    },
    /// The HTTP client could not be created.
    #[error(
        "could not create the registry client ({0}); check that the container image has CA \
         certificates, or set SSL_CERT_FILE"
    )]
    Setup(String),
}

impl RegistryError {
    /// Returns the reason for conditions and Events.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Denied { .. } | Self::Rejected { .. } => reason::REGISTRY_DENIED,
            Self::NotFound { .. } => reason::IMAGE_NOT_FOUND,
            Self::PushRejected { .. } => reason::PUSH_REFUSED,
            Self::TooLarge { what, .. } if *what == MANIFEST => reason::MANIFEST_TOO_LARGE,
            Self::TooLarge { .. } | Self::InvalidResponse { .. } => {
                reason::INVALID_REGISTRY_RESPONSE
            }
            Self::Unavailable { .. } | Self::Setup(_) => reason::REGISTRY_UNAVAILABLE,
        }
    }

    /// Whether the same call can succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Returns the pause that the registry asked for, if it did.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns the error of a response to a push.
    pub(super) fn of_push(self) -> Self {
        match self {
            Self::Rejected { image, host, response } => {
                Self::PushRejected { image, host, response }
            }
            error => error,
        }
    }

    /// Ranks the errors of several endpoints. The highest one is reported: a response says more
    /// than none, and a denial says more than "not found". This is containerd's order.
    pub(super) const fn specificity(&self) -> u8 {
        match self {
            Self::Unavailable { responded: false, .. } | Self::Setup(_) => 0,
            Self::NotFound { .. } => 1,
            _ => 2,
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

/// The requested image and the host that is called: what every [`RegistryError`] names.
#[derive(Clone, Copy)]
pub(super) struct ErrorContext<'a> {
    pub image: &'a str,
    pub host: &'a str,
}

impl ErrorContext<'_> {
    /// The host's response makes no sense. `problem` is a predicate whose subject is the host.
    pub(super) fn invalid_response(self, problem: impl Into<String>) -> RegistryError {
        RegistryError::InvalidResponse {
            image: self.image.into(),
            host: self.host.into(),
            problem: single_line(&problem.into()),
        }
    }

    pub(super) fn too_large(self, what: &'static str, limit: usize) -> RegistryError {
        RegistryError::TooLarge { image: self.image.into(), host: self.host.into(), what, limit }
    }

    pub(super) fn denied(self, response: impl Into<String>) -> RegistryError {
        RegistryError::Denied {
            image: self.image.into(),
            host: self.host.into(),
            response: response.into(),
        }
    }

    /// The host did not respond: the connection failed, broke or timed out.
    pub(super) fn unreachable(self, problem: &str) -> RegistryError {
        RegistryError::Unavailable {
            image: self.image.into(),
            host: self.host.into(),
            problem: single_line(problem),
            responded: false,
            retry_after: None,
        }
    }

    /// The host was not called, because it asked for a pause that has not passed yet.
    pub(super) fn rate_limited(self, remaining: Duration) -> RegistryError {
        RegistryError::Unavailable {
            image: self.image.into(),
            host: self.host.into(),
            problem: format!(
                "it limits the rate of requests and accepts the next one in {} s",
                remaining.as_secs()
            ),
            responded: true,
            retry_after: Some(remaining),
        }
    }

    /// The host responded with a status other than success.
    pub(super) fn error_status(
        self,
        status: StatusCode,
        response: String,
        retry_after: Option<Duration>,
    ) -> RegistryError {
        let (image, host) = (self.image.into(), self.host.into());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied { image, host, response }
            }
            StatusCode::NOT_FOUND => RegistryError::NotFound { image, host, response },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                RegistryError::Unavailable {
                    image,
                    host,
                    problem: response,
                    responded: true,
                    retry_after,
                }
            }
            status if status.is_server_error() => RegistryError::Unavailable {
                image,
                host,
                problem: response,
                responded: true,
                retry_after,
            },
            status if status.is_client_error() => RegistryError::Rejected { image, host, response },
            _ => RegistryError::InvalidResponse {
                image,
                host,
                problem: format!("responded with {response}"),
            },
        }
    }
}

/// The body of an error response, as the distribution specification defines it.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorDetail>,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: Option<String>,
    message: Option<String>,
}

/// Describes an error response: its status, and the first code and message of its body if the body
/// has the form that the distribution specification defines. `secrets` are redacted, because a
/// registry may repeat what it was sent.
pub(super) fn describe_response(status: StatusCode, body: &[u8], secrets: &[&str]) -> String {
    let first = serde_json::from_slice::<ErrorBody>(body)
        .ok()
        .and_then(|body| body.errors.into_iter().next());
    let detail = first.map(|entry| {
        [entry.code, entry.message]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(": ")
    });
    let text = match detail {
        Some(detail) if !detail.is_empty() => format!("{status}, {detail}"),
        _ => status.to_string(),
    };
    let text = secrets
        .iter()
        .filter(|secret| !secret.is_empty())
        .fold(text, |text, secret| text.replace(secret, "[redacted]"));
    single_line(&text)
}

/// Replaces control characters with blanks and shortens the text to [`MAX_QUOTE`] characters.
fn single_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shorten(line.trim(), MAX_QUOTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_quoted_without_secrets() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\nentry for hunter2"}]}"#;
        assert_eq!(
            describe_response(StatusCode::FORBIDDEN, body, &["hunter2", ""]),
            "403 Forbidden, DENIED: no entry for [redacted]"
        );
        assert_eq!(describe_response(StatusCode::BAD_GATEWAY, b"<html>", &[]), "502 Bad Gateway");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        assert_eq!(
            describe_response(StatusCode::FORBIDDEN, long.as_bytes(), &[]).chars().count(),
            MAX_QUOTE
        );
    }

    #[test]
    fn the_status_determines_reason_and_transience() {
        let context = ErrorContext { image: "r.example/x:1", host: "r.example" };
        for (status, expected, transient) in [
            (401, reason::REGISTRY_DENIED, false),
            (403, reason::REGISTRY_DENIED, false),
            (404, reason::IMAGE_NOT_FOUND, false),
            (400, reason::REGISTRY_DENIED, false),
            (429, reason::REGISTRY_UNAVAILABLE, true),
            (500, reason::REGISTRY_UNAVAILABLE, true),
            (204, reason::INVALID_REGISTRY_RESPONSE, false),
        ] {
            let error = context.error_status(
                StatusCode::from_u16(status).expect("status"),
                "response".into(),
                None,
            );
            assert_eq!((error.reason(), error.is_transient()), (expected, transient), "{status}");
            assert!(error.to_string().starts_with("r.example/x:1: r.example "), "{error}");
        }
        for (status, expected, transient) in [
            (412, reason::PUSH_REFUSED, false),
            (413, reason::PUSH_REFUSED, false),
            (403, reason::REGISTRY_DENIED, false),
            (503, reason::REGISTRY_UNAVAILABLE, true),
        ] {
            let status = StatusCode::from_u16(status).expect("status");
            let error = context.error_status(status, "response".into(), None).of_push();
            assert_eq!((error.reason(), error.is_transient()), (expected, transient), "{status}");
        }
    }

    #[test]
    fn only_a_manifest_that_is_too_large_is_called_so() {
        let context = ErrorContext { image: "r.example/x:1", host: "r.example" };
        for (what, expected) in [
            (MANIFEST, reason::MANIFEST_TOO_LARGE),
            ("token response", reason::INVALID_REGISTRY_RESPONSE),
            ("configuration", reason::INVALID_REGISTRY_RESPONSE),
        ] {
            let error = context.too_large(what, 10);
            assert_eq!(error.reason(), expected);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
