//! The cascades of a family. Needs a client, to read a cascade whose creation got no answer.

use std::{collections::BTreeSet, sync::Arc};

use kube::{Api, ResourceExt};

use crate::{
    api::{Cascade, CascadePhase},
    controller::{
        error::{ReconcileError, call},
        family::observe::{Observer, ownership::is_controlled_by},
    },
    engine::EndedCascade,
};

/// The cascades of a family.
pub(super) struct ObservedCascades {
    /// The running ones, the oldest first.
    pub(super) running: Vec<Arc<Cascade>>,
    /// Those whose names are taken: those that the family does not control, and its ended ones, the
    /// last that ended last.
    pub(super) ended: Vec<Arc<Cascade>>,
}

impl Observer<'_> {
    /// Returns the family's cascades.
    pub(super) async fn cascades(&mut self) -> Result<ObservedCascades, ReconcileError> {
        let mut cascades = self.context.stores.cascades.group(&self.key);
        cascades.extend(self.read_intended_cascades(&cascades).await?);
        let (ours, others): (Vec<_>, Vec<_>) =
            cascades.into_iter().partition(|cascade| is_controlled_by(&**cascade, &self.family));
        let (mut running, mut of_ours): (Vec<_>, Vec<_>) = ours.into_iter().partition(is_running);
        // The sorts are stable, and the store sorts by name: names decide within one second.
        running.sort_by_key(|cascade| cascade.creation_timestamp());
        of_ours.sort_by_key(|cascade| {
            let finished_at = cascade.status.as_ref().and_then(|status| status.finished_at);
            (finished_at, cascade.creation_timestamp())
        });
        // The names of others are taken, too.
        let ended = [others, of_ours].concat();
        Ok(ObservedCascades { running, ended })
    }

    /// Reads the cascades whose creation got no answer, or that the family's status names, if no
    /// watch has shown them yet. Without them, a second cascade could be created.
    async fn read_intended_cascades(
        &mut self,
        known: &[Arc<Cascade>],
    ) -> Result<Vec<Arc<Cascade>>, ReconcileError> {
        let status = self.family.status.as_ref();
        let recorded = status.into_iter().flat_map(|status| &status.cascades);
        let names = self.cache.unanswered_cascade.iter().chain(recorded.map(|named| &named.name));
        let unknown: BTreeSet<&String> =
            names.filter(|name| known.iter().all(|known| known.name_any() != **name)).collect();
        let api: Api<Cascade> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let mut found = Vec::new();
        for name in unknown {
            let cascade = call(|| format!("read Cascade {name}"), api.get_opt(name)).await?;
            if let Some(cascade) = cascade {
                self.context.stores.cascades.record_write(cascade.clone());
                found.push(Arc::new(cascade));
            }
        }
        self.cache.unanswered_cascade = None;
        Ok(found)
    }
}

fn is_running(cascade: &Arc<Cascade>) -> bool {
    cascade.status.as_ref().is_none_or(|status| status.phase == CascadePhase::Running)
}

/// Returns what the decision reads of an ended cascade.
pub(super) fn ended(cascade: &Arc<Cascade>) -> EndedCascade {
    EndedCascade {
        name: cascade.name_any().into(),
        superseded: cascade
            .status
            .as_ref()
            .is_some_and(|status| status.phase == CascadePhase::Superseded),
        supersedes: cascade.spec.supersedes.as_ref().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{CascadeSpec, CascadeStatus};

    #[test]
    fn an_ended_cascade_still_says_what_replaced_what() {
        let cascade = |phase, supersedes: Option<&str>| {
            let spec =
                CascadeSpec { supersedes: supersedes.map(Into::into), ..CascadeSpec::default() };
            let status = CascadeStatus { phase, ..CascadeStatus::default() };
            ended(&Arc::new(Cascade { status: Some(status), ..Cascade::new("later", spec) }))
        };
        let replaced = cascade(CascadePhase::Superseded, None);
        assert_eq!((replaced.name.as_str(), replaced.superseded), ("later", true));
        assert_eq!(replaced.supersedes, None);
        let replacing = cascade(CascadePhase::Complete, Some("earlier"));
        assert!(!replacing.superseded);
        assert_eq!(replacing.supersedes, Some("earlier".into()));
    }
}
