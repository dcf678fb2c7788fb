//! The labels of counters and histograms, and the results that they count by.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

use crate::api::FailureClass;

/// Result of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum BuildResult {
    /// The builder ended without an error. The registry is asked for the image afterwards.
    Succeeded,
    /// The build itself failed.
    BuildFailed,
    /// The infrastructure around the build failed, or the build could not be started.
    InfrastructureFailed,
    /// The inputs of the build are invalid.
    InputRefused,
    /// The Job was stopped before it finished: by a request, for a newer cascade, or by another
    /// client.
    Cancelled,
}

/// Result of a check. Several required checks that fail in one attempt count as one, as they do
/// against the retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum CheckResult {
    /// The check passed.
    Passed,
    /// The check rejected the digest.
    Failed,
    /// The infrastructure around the check failed, or the check could not be started.
    InfrastructureFailed,
}

/// Result of a poll of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PollResult {
    /// The digest is the one already known.
    Unchanged,
    /// The tag points to a new digest.
    Moved,
    /// There is no such image or tag.
    NotFound,
    /// The registry rejected the credential.
    Denied,
    /// The registry is unreachable, limits the rate of requests, or sends an invalid response.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) result: BuildResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CheckLabels {
    pub(super) result: CheckResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PhaseLabels {
    pub(super) phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PollLabels {
    pub(super) result: PollResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ErrorLabels {
    pub(super) kind: &'static str,
    pub(super) reason: &'static str,
}

impl From<FailureClass> for BuildResult {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::Build => Self::BuildFailed,
            FailureClass::Infrastructure => Self::InfrastructureFailed,
            FailureClass::Input => Self::InputRefused,
            FailureClass::Cancelled => Self::Cancelled,
        }
    }
}

impl From<FailureClass> for CheckResult {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::Build | FailureClass::Input => Self::Failed,
            FailureClass::Infrastructure | FailureClass::Cancelled => Self::InfrastructureFailed,
        }
    }
}
