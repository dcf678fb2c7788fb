//! Why a reconcile fails, and the timeout of calls to the API server.

use std::time::Duration;

use kube::{core::Status, runtime::controller::Action};
use tracing::debug;

/// Upper bound on one call to the API server.
const API_TIMEOUT: Duration = Duration::from_secs(20);
/// The delay of a reconcile after one whose write met a changed object.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// Why the reconcile of an object failed. It is retried after a growing pause.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server answered a call with an error, or could not be reached.
    #[error("could not {what}: {source}")]
    Api {
        /// The call, as a verb with the object's kind and name.
        what: String,
        /// The error of the API server or of the connection.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("could not {what}: no answer within {} s", API_TIMEOUT.as_secs())]
    Timeout {
        /// The call, as a verb with the object's kind and name.
        what: String,
    },
    /// The task of the reconcile panicked or was cancelled. A panic is a defect.
    #[error("the reconcile was aborted: {source}")]
    Aborted {
        /// How it ended.
        #[source]
        source: tokio::task::JoinError,
    },
    /// An object could not be serialized as JSON.
    #[error("could not {what}: {source}")]
    Serialize {
        /// What the object was needed for.
        what: String,
        /// Why it could not be serialized.
        #[source]
        source: serde_json::Error,
    },
}

impl ReconcileError {
    /// Returns a stable label for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Timeout { .. } => "timeout",
            Self::Aborted { .. } => "aborted",
            Self::Serialize { .. } => "serialize",
        }
    }

    /// Returns whether the API server answered that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(Status::is_not_found)
    }

    /// Returns whether the API server answered that the object already exists.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(Status::is_already_exists)
    }

    /// Returns whether the API server answered that the object has changed since it was read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(Status::is_conflict)
    }

    /// Returns whether the API server forbids the call, for lack of a permission.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(Status::is_forbidden)
    }

    /// Returns the error status that the API server answered with.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout { .. } | Self::Aborted { .. } | Self::Serialize { .. } => None,
        }
    }
}

/// Returns the result of a reconcile. If an object has changed since it was read, another reconcile
/// follows after a moment, and nothing has failed.
pub fn again_after_conflict(
    result: Result<Action, ReconcileError>,
) -> Result<Action, ReconcileError> {
    match result {
        Err(error) if error.is_conflict() => {
            debug!(%error, "an object has changed during the reconcile");
            Ok(Action::requeue(CONFLICT_PAUSE))
        }
        result => result,
    }
}

/// Waits at most [`API_TIMEOUT`] for an answer of the API server. `what` describes the call in
/// error messages, as a verb with the object's kind and name.
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
