//! What can end a pass before its end.

use std::time::Duration;

/// The longest that one call to the API server may take.
const API_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a pass over an object ended before its end. It is tried again with a growing pause.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused a call.
    #[error("could not {what}: {source}")]
    Api {
        /// What was to be done, with the object's kind and name.
        what: String,
        /// What the API server, or the way to it, said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("could not {what}: no answer within {} s", API_TIMEOUT.as_secs())]
    Timeout {
        /// What was to be done, with the object's kind and name.
        what: String,
    },
    /// The pass itself broke off: a defect.
    #[error("the pass broke off: {source}")]
    Aborted {
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
    /// An object could not be written as JSON.
    #[error("could not {what}: {source}")]
    Serialize {
        /// What was to be done.
        what: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl ReconcileError {
    /// A stable word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Timeout { .. } => "timeout",
            Self::Aborted { .. } => "aborted",
            Self::Serialize { .. } => "serialize",
        }
    }

    /// Whether the API server says that the object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_not_found()))
    }

    /// Whether the API server says that the object exists already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_already_exists()))
    }

    /// Whether the API server says that this is not allowed: by rights, a quota or a policy.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_forbidden()))
    }

    /// Whether the API server refuses the object itself: it is not valid, or not allowed, and would
    /// be refused again.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Api { source, .. }
            if matches!(&**source, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422)))
    }
}

/// Waits for an answer of the API server, at most [`API_TIMEOUT`]; `what` says for people what was
/// to be done.
pub async fn call<T>(
    what: impl Fn() -> String,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ReconcileError> {
    match tokio::time::timeout(API_TIMEOUT, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ReconcileError::Api { what: what(), source: Box::new(source) }),
        Err(_) => Err(ReconcileError::Timeout { what: what() }),
    }
}
