//! The error of `prepare`, and of the init container of a check. It gets from the pod to the
//! controller as one line of JSON in the termination message.

use std::{fs, path::Path, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::{
    api::{FailureClass, condition::Reason},
    builds::git::GitError,
};

/// Maximum length of an error's message in bytes. The kubelet keeps 4096 bytes of a termination
/// message.
const MAX_MESSAGE: usize = 3000;

/// Why a build or a check cannot start.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PrepareError {
    /// The kind of the error.
    pub reason: PrepareReason,
    /// What is wrong with which object, and what to do.
    pub message: String,
}

/// The kind of a [`PrepareError`]. The names are the wire format of the termination message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum PrepareReason {
    /// The Dockerfile does not parse, or disagrees with the declared edges.
    DockerfileMismatch,
    /// The source does not exist.
    SourceNotFound,
    /// The source exists, but cannot be reached now or has just changed.
    SourceUnavailable,
    /// The source exists, but cannot be used: it is too large, or has a link that points outside.
    SourceUnusable,
    /// The pod runs in the host's user namespace.
    UserNamespaceUnavailable,
    /// A Secret is missing or cannot be used.
    InvalidSecret,
    /// A registry that a parent comes from is unreachable.
    RegistryUnavailable,
    /// `prepare` itself failed, for example because of its spec or its disk.
    InfrastructureFailed,
}

impl PrepareReason {
    /// Returns the reason, for a condition or a failure record.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::DockerfileMismatch => Reason::DockerfileMismatch,
            Self::SourceNotFound => Reason::SourceNotFound,
            Self::SourceUnavailable | Self::SourceUnusable => Reason::SourceUnavailable,
            Self::UserNamespaceUnavailable => Reason::UserNamespaceUnavailable,
            Self::InvalidSecret => Reason::InvalidSecret,
            Self::RegistryUnavailable => Reason::RegistryUnavailable,
            Self::InfrastructureFailed => Reason::InfrastructureFailed,
        }
    }

    /// Returns `Input` if the same inputs will fail again. A Secret and a node are no inputs: they
    /// may be repaired meanwhile.
    #[must_use]
    pub const fn class(self) -> FailureClass {
        match self {
            Self::DockerfileMismatch | Self::SourceNotFound | Self::SourceUnusable => {
                FailureClass::Input
            }
            Self::SourceUnavailable
            | Self::UserNamespaceUnavailable
            | Self::InvalidSecret
            | Self::RegistryUnavailable
            | Self::InfrastructureFailed => FailureClass::Infrastructure,
        }
    }
}

impl PrepareError {
    /// Returns an error whose message is cut to what fits into a termination message.
    #[must_use]
    pub fn new(reason: PrepareReason, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { reason, message }
    }

    /// Parses a termination message. Returns `None` if another program wrote it.
    #[must_use]
    pub fn from_termination_message(termination_message: &str) -> Option<Self> {
        serde_json::from_str(termination_message.trim()).ok()
    }

    /// Returns the termination message for this error.
    #[must_use]
    pub fn to_termination_message(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Logs the error, writes it to the file of the termination message, and returns the exit code.
    pub(in crate::builds) fn report(&self, termination_log: &Path) -> ExitCode {
        tracing::error!(reason = self.reason.reason().as_str(), "{}", self.message);
        if let Err(error) = fs::write(termination_log, self.to_termination_message()) {
            tracing::error!(%error, "cannot write the termination message");
        }
        ExitCode::FAILURE
    }
}

impl From<GitError> for PrepareError {
    fn from(error: GitError) -> Self {
        let reason = match error {
            GitError::NotFound { .. } => PrepareReason::SourceNotFound,
            GitError::TooLarge { .. } | GitError::Unsafe { .. } => PrepareReason::SourceUnusable,
            GitError::Unavailable { .. } | GitError::Refused { .. } => {
                PrepareReason::SourceUnavailable
            }
            GitError::Credential { .. } => PrepareReason::InvalidSecret,
            GitError::Disk { .. } => PrepareReason::InfrastructureFailed,
        };
        Self::new(reason, error.to_string())
    }
}
