//! The requests of users, from their objects. Needs a client, to read a request whose status was
//! written without an answer.

use std::sync::Arc;

use kube::{Api, ResourceExt};

use crate::{
    api::{FamilyRequest, RequestState},
    controller::{
        error::{ReconcileError, call},
        family::observe::Observer,
        object_cache::Key,
        stores::Stores,
    },
    engine::ObservedRequest,
};

/// Maximum number of open requests of a family that one reconcile evaluates.
const MAX_EVALUATED: usize = 1024;

/// The requests of a family that have not ended, the earliest first.
pub struct OpenRequests {
    /// Those that this reconcile evaluates.
    pub evaluated: Vec<ObservedRequest>,
    /// Those that wait for these.
    pub others: Vec<Arc<FamilyRequest>>,
}

impl Observer<'_> {
    /// Returns the requests that have not ended.
    pub(super) async fn requests(&mut self) -> Result<OpenRequests, ReconcileError> {
        self.read_unanswered_requests().await?;
        let (evaluated, others) = split(open_requests(&self.context.stores, &self.key));
        let evaluated = evaluated.iter().map(|request| ObservedRequest::of(request)).collect();
        Ok(OpenRequests { evaluated, others })
    }

    /// Reads the requests whose statuses were written without an answer. Until then the store may
    /// be outdated, if the watch is behind, and a request that is done would be carried out again.
    async fn read_unanswered_requests(&mut self) -> Result<(), ReconcileError> {
        let api: Api<FamilyRequest> =
            Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let requests = &self.context.stores.requests;
        while let Some(name) = self.cache.unanswered_requests.first().cloned() {
            let read = call(|| format!("read FamilyRequest {name}"), api.get_opt(&name));
            match read.await? {
                Some(request) => requests.record_write(request),
                None => requests.record_missing(&Key::new(&self.key.namespace, &name)),
            }
            self.cache.unanswered_requests.remove(&name);
        }
        Ok(())
    }
}

/// Returns the requests of a family that have not ended, the earliest first.
pub(in crate::controller::family) fn open_requests(
    stores: &Stores,
    family: &Key,
) -> Vec<Arc<FamilyRequest>> {
    let mut requests = stores.requests.group(family);
    requests
        .retain(|request| !request.has_ended() && request.metadata.deletion_timestamp.is_none());
    // The sort is stable, and the store sorts by name.
    requests.sort_by_key(|request| request.creation_timestamp());
    requests
}

/// Splits open requests into those that one reconcile evaluates and the others: those that have
/// effect go first, then the earliest. The order stays.
fn split(open: Vec<Arc<FamilyRequest>>) -> (Vec<Arc<FamilyRequest>>, Vec<Arc<FamilyRequest>>) {
    let is_active = |request: &FamilyRequest| request.state() == Some(RequestState::Active);
    let active = open.iter().filter(|request| is_active(request)).count();
    let mut active_places = active.min(MAX_EVALUATED);
    let mut other_places = MAX_EVALUATED - active_places;
    open.into_iter().partition(|request| {
        let places = if is_active(request) { &mut active_places } else { &mut other_places };
        let is_free = *places > 0;
        *places = places.saturating_sub(1);
        is_free
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_effect_is_evaluated_first_and_then_the_earliest() {
        let request = |place: usize| -> Arc<FamilyRequest> {
            let state = if place >= 2000 { "Active" } else { "Waiting" };
            let request = json!({
                "metadata": {"name": format!("r{place:04}"), "namespace": "shop"},
                "spec": {"family": "web", "action": "Trigger"},
                "status": {"state": state},
            });
            Arc::new(serde_json::from_value(request).expect("a request"))
        };
        let names = |requests: &[Arc<FamilyRequest>]| -> Vec<String> {
            requests.iter().map(|request| request.name_any()).collect()
        };
        let expected = |places: &mut dyn Iterator<Item = usize>| -> Vec<String> {
            places.map(|place| format!("r{place:04}")).collect()
        };
        let (evaluated, others) = split((0..2010).map(request).collect());
        assert_eq!(names(&evaluated), expected(&mut (0..1014).chain(2000..2010)));
        assert_eq!(names(&others), expected(&mut (1014..2000)));
        let (evaluated, others) = split((0..MAX_EVALUATED).map(request).collect());
        assert_eq!((evaluated.len(), others.len()), (MAX_EVALUATED, 0));
    }
}
