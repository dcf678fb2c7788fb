//! Why `prepare` refuses a build, as it crosses from the pod to the controller: one line of JSON in
//! the termination message.

use serde::{Deserialize, Serialize};

use crate::{
    api::{FailureClass, condition::reason},
    builds::git::GitError,
};

/// The most bytes of a refusal's message; the kubelet keeps 4096 of a termination message.
const MAX_MESSAGE: usize = 3000;

/// Why a build does not go on.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PrepareError {
    /// What kind of thing is wrong.
    pub reason: PrepareReason,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// What kind of thing is wrong; the names are reasons of conditions.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum PrepareReason {
    /// The Dockerfile does not parse, or disagrees with the declared edges.
    DockerfileMismatch,
    /// The source does not exist.
    SourceNotFound,
    /// The source exists, and can't be reached now, or has just changed.
    SourceUnavailable,
    /// The source exists, and can't be used: it is too large, or has a link that leaves it.
    SourceUnusable,
    /// The pod runs in the host's user namespace.
    UserNamespaceUnavailable,
    /// A Secret is gone or can't be used.
    InvalidSecret,
    /// `prepare` itself can't work: its specification, its disk.
    InfrastructureFailed,
}

impl PrepareReason {
    /// The reason constant.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DockerfileMismatch => reason::DOCKERFILE_MISMATCH,
            Self::SourceNotFound => reason::SOURCE_NOT_FOUND,
            Self::SourceUnavailable | Self::SourceUnusable => reason::SOURCE_UNAVAILABLE,
            Self::UserNamespaceUnavailable => reason::USER_NAMESPACE_UNAVAILABLE,
            Self::InvalidSecret => reason::INVALID_SECRET,
            Self::InfrastructureFailed => reason::INFRASTRUCTURE_FAILED,
        }
    }

    /// Whether the same inputs will be refused again. A Secret and a node are no inputs: they may
    /// be mended meanwhile.
    #[must_use]
    pub const fn class(self) -> FailureClass {
        match self {
            Self::DockerfileMismatch | Self::SourceNotFound | Self::SourceUnusable => {
                FailureClass::Input
            }
            Self::SourceUnavailable
            | Self::UserNamespaceUnavailable
            | Self::InvalidSecret
            | Self::InfrastructureFailed => FailureClass::Infrastructure,
        }
    }
}

impl PrepareError {
    /// A refusal with its message cut to what a termination message holds.
    #[must_use]
    pub fn new(reason: PrepareReason, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { reason, message }
    }

    /// Reads a termination message; `None` if `prepare` did not write it.
    #[must_use]
    pub fn read(termination_message: &str) -> Option<Self> {
        serde_json::from_str(termination_message.trim()).ok()
    }

    /// The termination message.
    #[must_use]
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<GitError> for PrepareError {
    fn from(error: GitError) -> Self {
        let reason = match error {
            GitError::NotFound { .. } => PrepareReason::SourceNotFound,
            GitError::TooLarge { .. } | GitError::Unsafe { .. } => PrepareReason::SourceUnusable,
            GitError::Unavailable { .. } => PrepareReason::SourceUnavailable,
            GitError::Credential { .. } => PrepareReason::InvalidSecret,
            GitError::Disk { .. } => PrepareReason::InfrastructureFailed,
        };
        Self::new(reason, error.to_string())
    }
}
