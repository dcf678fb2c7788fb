//! The cascade that a family's status names before any build of it starts. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::{
    api::{ImageFamilyStatus, RunningCascade},
    controller::family::reconcile::Reconcile,
    engine::CascadeDecision,
};

/// How long a request to the API server may still take effect after its sender is gone: as long as
/// the API server works on a request by default.
pub(super) const INFLIGHT_GRACE: SignedDuration = SignedDuration::from_secs(60);

impl Reconcile<'_> {
    /// Returns the cascade that an earlier reconcile has recorded, that this one does not open,
    /// and that has no record.
    ///
    /// Its record may still appear, created by a controller that has died. If a cascade opens
    /// meanwhile, it must be that one, and not a second one in parallel.
    pub(super) fn intended_cascade(&self, old: &ImageFamilyStatus) -> Option<RunningCascade> {
        let may_appear = |cascade: &RunningCascade| {
            let is_recent = |at| at <= self.now && self.now.duration_since(at) < INFLIGHT_GRACE;
            cascade.started_at.is_some_and(is_recent) && !self.snapshot.has_ended(&cascade.name)
        };
        let intended = old.cascade.clone().filter(may_appear);
        intended.filter(|_| self.decision.cascade == CascadeDecision::None)
    }

    /// Returns the cascade that the status is to name.
    pub(super) fn cascade_to_record(
        &self,
        old: &ImageFamilyStatus,
        intended: Option<RunningCascade>,
    ) -> Option<RunningCascade> {
        let cascade = match &self.decision.cascade {
            CascadeDecision::Start { name, .. } => {
                RunningCascade { name: name.to_string(), started_at: Some(self.now) }
            }
            CascadeDecision::Continue { name } => {
                RunningCascade { name: name.to_string(), started_at: self.cascade_created_at() }
            }
            CascadeDecision::None => intended?,
            CascadeDecision::Finish { .. } => return None,
        };
        let recorded = old.cascade.clone().filter(|recorded| recorded.name == cascade.name);
        Some(recorded.unwrap_or(cascade))
    }

    fn cascade_created_at(&self) -> Option<Timestamp> {
        Some(self.snapshot.cascade.as_ref()?.creation_timestamp()?.0)
    }
}
