//! What can go wrong with a registry, in words for the person who reads a condition.
//!
//! What a registry says is quoted, but cut, without control characters, and without anything that
//! was sent to it in secret.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use crate::api::condition::{reason, shorten};

/// The most characters that are quoted of what a registry says.
const MAX_QUOTE: usize = 240;

/// A call to a registry that failed. Each variant names the image and the host that was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The registry, or its token service, refused the credential, or wants one.
    #[error(
        "{image}: {host} refuses access ({said}); check that one of the family's credentials is \
         for this repository and has the rights for this"
    )]
    Denied {
        /// The image that was asked for.
        image: String,
        /// The host that refused.
        host: String,
        /// What it said.
        said: String,
    },
    /// The registry does not have it.
    #[error("{image}: {host} does not have it ({said}); check the repository and the tag")]
    NotFound {
        /// The image that was asked for.
        image: String,
        /// The host that does not have it.
        host: String,
        /// What it said.
        said: String,
    },
    /// The registry answered with more than we read.
    #[error(
        "{image}: {host} has a {what} of more than {limit} bytes, and no more is read; it is \
             hardly an image"
    )]
    TooLarge {
        /// The image that was asked for.
        image: String,
        /// The host that sent it.
        host: String,
        /// What was too large.
        what: &'static str,
        /// The most bytes that are read of it.
        limit: usize,
    },
    /// The registry answered with something that makes no sense.
    #[error(
        "{image}: {host} {problem}; check that it is an OCI registry and that this is an image"
    )]
    InvalidResponse {
        /// The image that was asked for.
        image: String,
        /// The host that answered.
        host: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The registry does not take the request, whoever makes it: an immutable tag, a manifest it
    /// does not accept.
    #[error(
        "{image}: {host} does not accept the request ({said}); check the repository's settings, \
         such as immutable tags"
    )]
    Rejected {
        /// The image that was asked for.
        image: String,
        /// The host that refused.
        host: String,
        /// What it said.
        said: String,
    },
    /// The registry is away, slow, overloaded, or limits us. Trying later helps.
    #[error("{image}: {host} is unavailable ({problem}); it is asked again later")]
    Unavailable {
        /// The image that was asked for.
        image: String,
        /// The host that was asked.
        host: String,
        /// What happened.
        problem: String,
        /// Whether it answered at all.
        answered: bool,
        /// When it wants to be asked again, if it said so. At most an hour.
        retry_after: Option<Duration>,
    },
    /// The HTTP client can't be made.
    #[error(
        "the registry client can't be made ({0}); check that the image has CA certificates, or \
             set SSL_CERT_FILE"
    )]
    Setup(String),
}

impl RegistryError {
    /// The reason for conditions and Events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Denied { .. } | Self::Rejected { .. } => reason::REGISTRY_DENIED,
            Self::NotFound { .. } => reason::IMAGE_NOT_FOUND,
            Self::TooLarge { .. } => reason::MANIFEST_TOO_LARGE,
            Self::InvalidResponse { .. } => reason::INVALID_REGISTRY_RESPONSE,
            Self::Unavailable { .. } | Self::Setup(_) => reason::REGISTRY_UNAVAILABLE,
        }
    }

    /// Whether the same call may succeed later with nobody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// When the registry wants to be asked again, if it said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Which of the errors of several endpoints is told, the highest: a clear answer says more than
    /// a missing one, and a refusal more than "not here". containerd's order.
    pub(super) const fn specificity(&self) -> u8 {
        match self {
            Self::Unavailable { answered: false, .. } | Self::Setup(_) => 0,
            Self::NotFound { .. } => 1,
            _ => 2,
        }
    }
}

/// Who was asked for what: completes an error.
#[derive(Clone, Copy)]
pub(super) struct ErrorContext<'a> {
    pub image: &'a str,
    pub host: &'a str,
}

impl ErrorContext<'_> {
    pub(super) fn invalid_response(self, problem: impl Into<String>) -> RegistryError {
        RegistryError::InvalidResponse {
            image: self.image.into(),
            host: self.host.into(),
            problem: clean(&problem.into()),
        }
    }

    pub(super) fn too_large(self, what: &'static str, limit: usize) -> RegistryError {
        RegistryError::TooLarge { image: self.image.into(), host: self.host.into(), what, limit }
    }

    pub(super) fn denied(self, said: impl Into<String>) -> RegistryError {
        RegistryError::Denied {
            image: self.image.into(),
            host: self.host.into(),
            said: said.into(),
        }
    }

    /// No answer: the connection failed, broke or timed out.
    pub(super) fn unreachable(self, problem: &str) -> RegistryError {
        RegistryError::Unavailable {
            image: self.image.into(),
            host: self.host.into(),
            problem: clean(problem),
            answered: false,
            retry_after: None,
        }
    }

    /// Not asked, because it has asked to be left alone.
    pub(super) fn rate_limited(self, remaining: Duration) -> RegistryError {
        RegistryError::Unavailable {
            image: self.image.into(),
            host: self.host.into(),
            problem: format!("it limits requests, and wants no more for {} s", remaining.as_secs()),
            answered: true,
            retry_after: Some(remaining),
        }
    }

    /// An answer that says no.
    pub(super) fn error_status(
        self,
        status: StatusCode,
        said: String,
        retry_after: Option<Duration>,
    ) -> RegistryError {
        let (image, host) = (self.image.into(), self.host.into());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied { image, host, said }
            }
            StatusCode::NOT_FOUND => RegistryError::NotFound { image, host, said },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                RegistryError::Unavailable {
                    image,
                    host,
                    problem: said,
                    answered: true,
                    retry_after,
                }
            }
            status if status.is_server_error() => RegistryError::Unavailable {
                image,
                host,
                problem: said,
                answered: true,
                retry_after,
            },
            status if status.is_client_error() => RegistryError::Rejected { image, host, said },
            _ => RegistryError::InvalidResponse {
                image,
                host,
                problem: format!("answers with {said}"),
            },
        }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorDetail>,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: Option<String>,
    message: Option<String>,
}

/// What a registry says with an error: the status, and the first code and message of the body if it
/// has the form that the distribution specification gives it. `secrets` are blacked out, should the
/// registry repeat what it was sent.
pub(super) fn said(status: StatusCode, body: &[u8], secrets: &[&str]) -> String {
    let first = serde_json::from_slice::<ErrorBody>(body)
        .ok()
        .and_then(|refusal| refusal.errors.into_iter().next());
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
    clean(&text)
}

/// One line of bounded length.
fn clean(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shorten(line.trim(), MAX_QUOTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_the_registry_without_secrets() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\nentry for hunter2"}]}"#;
        assert_eq!(
            said(StatusCode::FORBIDDEN, body, &["hunter2", ""]),
            "403 Forbidden, DENIED: no entry for [redacted]"
        );
        assert_eq!(said(StatusCode::BAD_GATEWAY, b"<html>", &[]), "502 Bad Gateway");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        assert_eq!(said(StatusCode::FORBIDDEN, long.as_bytes(), &[]).chars().count(), MAX_QUOTE);
    }

    #[test]
    fn statuses() {
        let context = ErrorContext { image: "r.example/x:1", host: "r.example" };
        for (status, expected, transient) in [
            (401, reason::REGISTRY_DENIED, false),
            (403, reason::REGISTRY_DENIED, false),
            (404, reason::IMAGE_NOT_FOUND, false),
            (412, reason::REGISTRY_DENIED, false),
            (429, reason::REGISTRY_UNAVAILABLE, true),
            (500, reason::REGISTRY_UNAVAILABLE, true),
            (204, reason::INVALID_REGISTRY_RESPONSE, false),
        ] {
            let error = context.error_status(
                StatusCode::from_u16(status).expect("status"),
                "said".into(),
                None,
            );
            assert_eq!((error.reason(), error.is_transient()), (expected, transient), "{status}");
            assert!(error.to_string().starts_with("r.example/x:1: r.example "), "{error}");
        }
    }
}
