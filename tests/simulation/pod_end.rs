//! How the pod of a build or a check ends.

use groundswell::builds::prepare::error;

use crate::{builder::PushResult, invariants::attempts::AttemptEnd};

/// How a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodEnd {
    Succeeds,
    /// It succeeds without having pushed.
    SucceedsWithoutPush,
    /// It has pushed, and is evicted before it succeeds.
    EvictedAfterPush,
    Fails,
    OutOfMemory,
    CommandOutOfMemory,
    Evicted,
    Preempted,
    /// The pod disappears: its node is lost.
    Lost,
    /// The node can't pull the builder's image.
    NotStarted,
    /// It never finishes.
    Hangs,
    /// `prepare` could not reach the source.
    SourceUnavailable,
    RegistryUnavailable,
    PushDenied,
}

impl PodEnd {
    pub const OF_CHECKS: [Self; 6] = [
        Self::OutOfMemory,
        Self::Evicted,
        Self::Preempted,
        Self::Lost,
        Self::NotStarted,
        Self::Hangs,
    ];
    pub const INFRASTRUCTURE: [Self; 12] = [
        Self::SucceedsWithoutPush,
        Self::EvictedAfterPush,
        Self::OutOfMemory,
        Self::CommandOutOfMemory,
        Self::Evicted,
        Self::Preempted,
        Self::Lost,
        Self::NotStarted,
        Self::Hangs,
        Self::SourceUnavailable,
        Self::RegistryUnavailable,
        Self::PushDenied,
    ];
}

/// Returns how an attempt ended whose pod ends like this.
pub fn attempt_end(end: PodEnd, pushed: &PushResult) -> AttemptEnd {
    match (end, pushed) {
        (_, PushResult::Rejected(error)) => match error.reason {
            error::PrepareReason::SourceUnavailable => AttemptEnd::Infrastructure,
            _ => AttemptEnd::Input,
        },
        (_, PushResult::Failed(log)) if log.contains("failed to push") => {
            AttemptEnd::Infrastructure
        }
        (PodEnd::Fails, _) | (_, PushResult::Failed(_)) => AttemptEnd::Build,
        (
            PodEnd::Succeeds | PodEnd::SucceedsWithoutPush | PodEnd::NotStarted | PodEnd::Hangs,
            _,
        ) => AttemptEnd::Succeeded,
        _ => AttemptEnd::Infrastructure,
    }
}

/// Returns how a pod ended, for the trace: a pod planned to succeed may have failed because of its
/// inputs.
pub fn traced_end(end: PodEnd, succeeded: bool) -> PodEnd {
    if end == PodEnd::Succeeds && !succeeded { PodEnd::Fails } else { end }
}
