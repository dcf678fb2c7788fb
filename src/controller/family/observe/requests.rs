//! The requests of users, from their objects. Needs a client, to read a request whose status was
//! written without an answer.

use std::sync::Arc;

use kube::{Api, ResourceExt};

use crate::{
    api::{FamilyRequest, Request},
    controller::{
        error::{ReconcileError, call},
        family::observe::Observer,
        object_cache::Key,
        stores::Stores,
    },
    engine::ObservedRequest,
};

impl Observer<'_> {
    /// Returns the requests that have not ended, the earliest first.
    pub(super) async fn requests(&mut self) -> Result<Vec<ObservedRequest>, ReconcileError> {
        self.read_unanswered_requests().await?;
        let open = open_requests(&self.context.stores, &self.key);
        Ok(open.iter().map(|request| observed(request)).collect())
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

fn observed(request: &FamilyRequest) -> ObservedRequest {
    let status = request.status.as_ref();
    ObservedRequest {
        name: request.name_any(),
        request: Request::of(request),
        state: request.state(),
        digest: status.and_then(|status| status.digest.clone()),
        reference: status.and_then(|status| status.reference.clone()),
    }
}
