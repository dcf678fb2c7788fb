//! The cascades that a family's status names, each before any build of it starts. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::{
    api::{ImageFamilyStatus, RunningCascade},
    controller::family::reconcile::Reconcile,
    engine::CascadeDecision,
    identity::CascadeName,
};

/// How long a request to the API server may still take effect after its sender is gone: as long as
/// the API server works on a request by default.
const INFLIGHT_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Upper bound on the cascades that a status names. More than the engine lets run, so that those
/// whose records may still appear have a place.
const MAX_CASCADES: usize = 32;

impl Reconcile<'_> {
    /// Returns the cascades that the status is to name: those that run, the one that this reconcile
    /// opens, and those that an earlier one has recorded and that have no record.
    ///
    /// Their records may still appear, created by a controller that has died. If a cascade opens
    /// meanwhile, it must be that one, and not a second one in parallel.
    pub(super) fn cascades_to_record(&self, old: &ImageFamilyStatus) -> Vec<RunningCascade> {
        let decision = &self.decision.cascade;
        let running = self.snapshot.cascades.iter().filter_map(|cascade| {
            let started_at = cascade.creation_timestamp().map(|time| time.0);
            let name = cascade.name_any();
            let ends = decision.ending(&CascadeName::from(&name)).is_some();
            (!ends).then_some(RunningCascade { name, started_at })
        });
        let mut cascades: Vec<RunningCascade> = running.collect();
        match decision {
            CascadeDecision::Start { name, .. } => {
                let name = name.to_string();
                cascades.push(RunningCascade { name, started_at: Some(self.now) });
            }
            _ => cascades.extend(self.intended_cascades(old).cloned()),
        }
        for cascade in &mut cascades {
            let mut recorded = old.cascades.iter();
            if let Some(recorded) = recorded.find(|recorded| recorded.name == cascade.name) {
                cascade.started_at = recorded.started_at;
            }
        }
        cascades.truncate(MAX_CASCADES);
        cascades
    }

    /// Returns when the first of the cascades that may still appear does so no more.
    pub(super) fn intended_until(&self, old: &ImageFamilyStatus) -> Option<Timestamp> {
        let started = self.intended_cascades(old).filter_map(|cascade| cascade.started_at);
        started.filter_map(|at| at.saturating_add(INFLIGHT_GRACE).ok()).min()
    }

    /// Returns the cascades that an earlier reconcile has recorded, and that have no record yet.
    fn intended_cascades<'a>(
        &'a self,
        old: &'a ImageFamilyStatus,
    ) -> impl Iterator<Item = &'a RunningCascade> {
        old.cascades.iter().filter(|cascade| {
            let is_recent = |at| at <= self.now && self.now.duration_since(at) < INFLIGHT_GRACE;
            let mut running = self.snapshot.cascades.iter();
            cascade.started_at.is_some_and(is_recent)
                && !self.snapshot.has_ended(&cascade.name)
                && running.all(|running| running.name_any() != cascade.name)
        })
    }
}
