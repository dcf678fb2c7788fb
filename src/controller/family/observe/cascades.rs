//! The cascades of a family. Needs a client, to read a cascade whose creation got no answer.

use std::sync::Arc;

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
    /// The running one.
    pub(super) running: Option<Arc<Cascade>>,
    /// Those whose names are taken: those that the family does not control, and its ended ones, the
    /// newest last.
    pub(super) ended: Vec<Arc<Cascade>>,
}

impl Observer<'_> {
    /// Returns the family's cascades.
    pub(super) async fn cascades(&mut self) -> Result<ObservedCascades, ReconcileError> {
        let mut cascades = self.context.stores.cascades.group(&self.key);
        cascades.extend(self.read_intended_cascade(&cascades).await?);
        let (ours, others): (Vec<_>, Vec<_>) =
            cascades.into_iter().partition(|cascade| is_controlled_by(&**cascade, &self.family));
        let (running, mut of_ours): (Vec<_>, Vec<_>) = ours.into_iter().partition(is_running);
        of_ours.sort_by_key(|cascade| cascade.creation_timestamp());
        // The names of others are taken, too.
        let ended = [others, of_ours].concat();
        Ok(ObservedCascades { running: running.into_iter().next(), ended })
    }

    /// Reads the cascade whose creation got no answer, or that the family's status names, if no
    /// watch has shown it yet. Without it, a second cascade could be created.
    async fn read_intended_cascade(
        &mut self,
        known: &[Arc<Cascade>],
    ) -> Result<Option<Arc<Cascade>>, ReconcileError> {
        let status = self.family.status.as_ref();
        let intended =
            status.and_then(|status| status.cascade.as_ref()).map(|cascade| &cascade.name);
        let unknown = |name: &&String| known.iter().all(|cascade| cascade.name_any() != **name);
        let api: Api<Cascade> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let mut found = None;
        let names = [self.cache.unanswered_cascade.as_ref(), intended];
        for name in names.into_iter().flatten().filter(unknown) {
            found = call(|| format!("read Cascade {name}"), api.get_opt(name)).await?;
            if let Some(cascade) = &found {
                self.context.stores.cascades.record_write(cascade.clone());
                break;
            }
        }
        self.cache.unanswered_cascade = None;
        Ok(found.map(Arc::new))
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
    }
}
