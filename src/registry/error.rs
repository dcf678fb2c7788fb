//! Errors of registry calls, worded for conditions and Events.
//!
//! A message quotes what the registry responded, shortened, without control characters and without
//! any secret that was sent to it.

use std::time::Duration;

use http::StatusCode;

use crate::{
    api::condition::{Problem, Reason},
    registry::{RefusedAddress, error_body::single_line},
};

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
        /// In which way it denied access.
        denial: AccessDenial,
    },
    /// The registry has the image, and a policy of it blocks the download.
    #[error(
        "{image}: a policy of {host} blocks the download ({response}); the credential is not the \
         cause: correct what the policy objects to, or change the policy"
    )]
    Blocked {
        /// The requested image.
        image: String,
        /// The host that blocks the download.
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
        /// Whether it says that it does not know the repository.
        is_name_unknown: bool,
    },
    /// The registry does not have the repository, and a push does not create it.
    #[error(
        "{image}: {host} does not have this repository, and does not create it on a push \
         ({response}); create the repository"
    )]
    NoRepository {
        /// The requested image.
        image: String,
        /// The host that does not have it.
        host: String,
        /// What the host responded.
        response: String,
    },
    /// The registry, or its token service, limits the rate of requests.
    #[error(
        "{image}: {host} limits the rate of requests ({response}); the next one is sent in {} s",
        pause.as_secs()
    )]
    Limited {
        /// The requested image.
        image: String,
        /// The host that limits requests.
        host: String,
        /// What the host responded.
        response: String,
        /// The time until the next request. At most one hour.
        pause: Duration,
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
    /// The registry is unreachable, slow or overloaded. A later request can succeed.
    #[error("{image}: {host} is unavailable ({problem}); a later request can succeed")]
    Unavailable {
        /// The requested image.
        image: String,
        /// The host that was called.
        host: String,
        /// What happened.
        problem: String,
        /// In which way it is unavailable.
        outage: RegistryOutage,
        /// The pause that the host asked for, if it did. At most one hour.
        retry_after: Option<Duration>,
    },
    /// The controller does not connect to the host, because its configuration does not allow the
    /// address.
    #[error("{image}: {host} is not called: {refused}")]
    AddressRefused {
        /// The requested image.
        image: String,
        /// The host that was to be called.
        host: String,
        /// Which address is refused, and what to do.
        refused: RefusedAddress,
    },
    /// The HTTP client could not be created.
    #[error(
        "could not create the registry client ({0}); check that the container image has CA \
         certificates, or set SSL_CERT_FILE"
    )]
    Setup(String),
}

/// In which way a host denied access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDenial {
    /// It does not say how to authenticate.
    WithoutChallenge,
    /// It does not accept the credential, or requires one.
    NotAuthenticated,
    /// It does not allow this.
    NotAllowed,
    /// A host to which it redirects denied access.
    Elsewhere,
}

/// In which way a host is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryOutage {
    /// It did not respond.
    NoResponse,
    /// It has not responded to several requests, and was not called now.
    LeftAlone,
    /// It responded with this status.
    Status(u16),
    /// Something else responded in its place.
    OtherServer,
}

impl RegistryError {
    /// Returns the reason for conditions and Events.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Denied { .. } | Self::Rejected { .. } => Reason::RegistryDenied,
            Self::Blocked { .. } => Reason::DownloadBlocked,
            Self::NotFound { .. } | Self::NoRepository { .. } => Reason::ImageNotFound,
            Self::PushRejected { .. } => Reason::PushRefused,
            Self::AddressRefused { .. } => Reason::AddressNotAllowed,
            Self::TooLarge { what, .. } if *what == MANIFEST => Reason::ManifestTooLarge,
            Self::TooLarge { .. } | Self::InvalidResponse { .. } => Reason::InvalidRegistryResponse,
            Self::Unavailable { .. } | Self::Limited { .. } | Self::Setup(_) => {
                Reason::RegistryUnavailable
            }
        }
    }

    /// Whether the same call can succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Limited { .. })
    }

    /// Returns the pause that the registry asked for, if it did.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Limited { pause, .. } => Some(*pause),
            _ => None,
        }
    }

    /// Whether the host did not respond.
    pub(super) const fn is_unanswered(&self) -> bool {
        matches!(
            self,
            Self::Unavailable {
                outage: RegistryOutage::NoResponse | RegistryOutage::LeftAlone,
                ..
            }
        )
    }

    /// Whether a repetition within the same call makes sense: the connection failed, or the server
    /// has an error of its own.
    pub(super) const fn is_brief(&self) -> bool {
        let Self::Unavailable { outage, .. } = self else { return false };
        match outage {
            RegistryOutage::NoResponse => true,
            RegistryOutage::Status(status) => *status != 501,
            RegistryOutage::LeftAlone | RegistryOutage::OtherServer => false,
        }
    }

    /// Returns the error after a mirror has failed as well, if the host did not respond.
    pub(super) fn after_mirror(mut self, mirror: &str, failure: &Self) -> Self {
        if self.is_unanswered()
            && let Self::Unavailable { problem, .. } = &mut self
        {
            let failure = match failure {
                Self::Denied { response, .. }
                | Self::Blocked { response, .. }
                | Self::NotFound { response, .. }
                | Self::Limited { response, .. }
                | Self::Rejected { response, .. } => response.clone(),
                Self::Unavailable { problem, .. } | Self::InvalidResponse { problem, .. } => {
                    problem.clone()
                }
                other => other.reason().to_string(),
            };
            *problem = single_line(&format!("{problem}; its mirror {mirror}: {failure}"));
        }
        self
    }

    /// Returns the error of a response of another host, to which the registry has redirected.
    pub(super) fn of_other_host(mut self) -> Self {
        if let Self::Denied { denial, .. } = &mut self {
            *denial = AccessDenial::Elsewhere;
        }
        self
    }

    /// Returns the error of a registry that says that it does not know the repository.
    pub(super) fn of_unknown_name(mut self) -> Self {
        if let Self::NotFound { is_name_unknown, .. } = &mut self {
            *is_name_unknown = true;
        }
        self
    }

    /// Returns the error of a response to a push.
    pub(super) fn of_push(self) -> Self {
        match self {
            Self::Rejected { image, host, response } | Self::Blocked { image, host, response } => {
                Self::PushRejected { image, host, response }
            }
            Self::NotFound { image, host, response, is_name_unknown: true } => {
                Self::NoRepository { image, host, response }
            }
            error => error,
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

    pub(super) fn denied(self, denial: AccessDenial, response: impl Into<String>) -> RegistryError {
        RegistryError::Denied {
            image: self.image.into(),
            host: self.host.into(),
            response: response.into(),
            denial,
        }
    }

    /// The host must not be called.
    pub(super) fn refused(self, refused: &RefusedAddress) -> RegistryError {
        RegistryError::AddressRefused {
            image: self.image.into(),
            host: self.host.into(),
            refused: refused.clone(),
        }
    }

    /// The host did not respond: the connection failed or broke.
    pub(super) fn unreachable(self, problem: &str) -> RegistryError {
        self.unavailable(problem, RegistryOutage::NoResponse, None)
    }

    /// The host did not respond in time.
    pub(super) fn too_slow(self, limit: Duration) -> RegistryError {
        let limit = limit.as_secs();
        self.unreachable(&format!("the call did not complete within {limit} s"))
    }

    /// A host was not called, because it did not respond to the last requests.
    pub(super) fn unresponsive(self, host: &str, pause: Duration) -> RegistryError {
        let problem = format!("{host} did not respond to the last requests");
        self.unavailable(&problem, RegistryOutage::LeftAlone, Some(pause))
    }

    /// A 404 that is not one of a registry.
    pub(super) fn not_a_registry(self, response: &str) -> RegistryError {
        let problem = format!(
            "{response}, but not in the form of a registry: a load balancer or proxy responded in \
             its place"
        );
        self.unavailable(&problem, RegistryOutage::OtherServer, None)
    }

    fn unavailable(
        self,
        problem: &str,
        outage: RegistryOutage,
        retry_after: Option<Duration>,
    ) -> RegistryError {
        RegistryError::Unavailable {
            image: self.image.into(),
            host: self.host.into(),
            problem: single_line(problem),
            outage,
            retry_after,
        }
    }

    /// A policy of the host blocks the download.
    pub(super) fn blocked(self, response: String) -> RegistryError {
        RegistryError::Blocked { image: self.image.into(), host: self.host.into(), response }
    }

    /// The host limits the rate of requests.
    pub(super) fn limited(self, response: &str, pause: Duration) -> RegistryError {
        RegistryError::Limited {
            image: self.image.into(),
            host: self.host.into(),
            response: response.to_owned(),
            pause,
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
            StatusCode::UNAUTHORIZED => self.denied(AccessDenial::NotAuthenticated, response),
            StatusCode::FORBIDDEN => self.denied(AccessDenial::NotAllowed, response),
            StatusCode::NOT_FOUND => {
                RegistryError::NotFound { image, host, response, is_name_unknown: false }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                self.limited(&response, retry_after.unwrap_or_default())
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
                self.unavailable(&response, RegistryOutage::Status(status.as_u16()), retry_after)
            }
            status if status.is_server_error() => {
                self.unavailable(&response, RegistryOutage::Status(status.as_u16()), retry_after)
            }
            status if status.is_client_error() => RegistryError::Rejected { image, host, response },
            _ => RegistryError::InvalidResponse {
                image,
                host,
                problem: format!("responded with {response}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_determines_reason_and_transience() {
        let context = ErrorContext { image: "r.example/x:1", host: "r.example" };
        for (status, expected, transient) in [
            (401, Reason::RegistryDenied, false),
            (403, Reason::RegistryDenied, false),
            (404, Reason::ImageNotFound, false),
            (400, Reason::RegistryDenied, false),
            (429, Reason::RegistryUnavailable, true),
            (500, Reason::RegistryUnavailable, true),
            (204, Reason::InvalidRegistryResponse, false),
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
            (412, Reason::PushRefused, false),
            (413, Reason::PushRefused, false),
            (403, Reason::RegistryDenied, false),
            (503, Reason::RegistryUnavailable, true),
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
            (MANIFEST, Reason::ManifestTooLarge),
            ("token response", Reason::InvalidRegistryResponse),
            ("configuration", Reason::InvalidRegistryResponse),
        ] {
            let error = context.too_large(what, 10);
            assert_eq!(error.reason(), expected);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
