//! What happens to requests: recorded in their statuses, and published as Events. Ended requests
//! are deleted after a while. Needs a client.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::events::EventType,
};
use serde_json::json;

use crate::{
    api::{
        FamilyRequest, FamilyRequestStatus, ImageFamily, RequestState, condition::Reason, labels,
    },
    controller::{
        context::Context,
        error::{ReconcileError, call},
        family::{
            observe::{Observer, requests::open_requests},
            reconcile::Reconcile,
            record::events::Notice,
        },
        object_cache::Key,
        reconcile_cache::ReconcileCache,
        writes::{apply_status_unchanged, delete},
    },
    engine::{Problem, RequestDecision, requests::WAITS_FOR_EARLIER},
};

/// How long ended requests are kept.
pub(in crate::controller) const ENDED_TTL: SignedDuration = SignedDuration::from_hours(24);
/// Maximum number of ended requests that are kept per family.
const MAX_ENDED: usize = 50;
/// Maximum number of requests that one reconcile records, and that it deletes.
const MAX_WRITES: usize = 64;
/// When the next requests are deleted if one reconcile may not delete all that are due.
pub(super) const REST_PAUSE: Duration = Duration::from_secs(1);

impl Reconcile<'_> {
    /// Records what happens to the requests, and deletes those that have ended a while ago. Returns
    /// when the rest is to be recorded.
    ///
    /// They are recorded one after the other, the earliest first: a request that replaces another
    /// one is never done before the other one has ended.
    pub(super) async fn record_requests(&mut self) -> Result<Option<Timestamp>, ReconcileError> {
        let mut left = MAX_WRITES;
        let decided = self.record_decided_requests(&mut left).await?;
        let others = self.record_other_requests(left).await?;
        let ended = self.delete_ended_requests().await?;
        Ok([decided, others, ended].into_iter().flatten().min())
    }

    /// Records what is decided about requests, with at most `left` writes.
    async fn record_decided_requests(
        &mut self,
        left: &mut usize,
    ) -> Result<Option<Timestamp>, ReconcileError> {
        let mut due = None;
        let deferred = self.cache.write_deferred_until("requests", self.now);
        for decided in &self.decision.requests {
            let key = Key::new(&self.snapshot.key.namespace, &decided.name);
            let Some(request) = self.context.stores.requests.get(&key) else { continue };
            if request.has_ended() {
                continue;
            }
            let old = request.status.clone().unwrap_or_default();
            let new = status_of(decided, &old, self.now);
            if new == old {
                continue;
            }
            // What is not rolled back any more is recorded before the request that ends it is done.
            let is_detail = new.state == old.state && new.rollbacks == old.rollbacks;
            if let Some(at) = deferred.filter(|_| is_detail) {
                due = Some(at);
                continue;
            }
            let Some(rest) = left.checked_sub(1) else { return Ok(Some(self.now)) };
            *left = rest;
            if new.state == old.state {
                self.cache.note_write("requests", self.now);
            }
            let family = Arc::clone(&self.snapshot.family);
            let writer = RequestWriter { context: self.context, family: &family };
            writer.write(&request, &new, self.cache).await?;
            if new.state != old.state {
                self.publish_request_event(&request, &new);
            }
            if decided.state.has_ended() && !self.snapshot.requests.others.is_empty() {
                // One of the others takes its place.
                due = Some(self.now);
            }
        }
        Ok(due)
    }

    /// Records that the requests that are not evaluated wait, with at most `left` writes.
    async fn record_other_requests(
        &mut self,
        left: usize,
    ) -> Result<Option<Timestamp>, ReconcileError> {
        let others = &self.snapshot.requests.others;
        let (writes, is_rest) = waiting_writes(others, WAITS_FOR_EARLIER, self.now, left);
        let family = Arc::clone(&self.snapshot.family);
        let writer = RequestWriter { context: self.context, family: &family };
        for (request, new) in writes {
            writer.write(&request, &new, self.cache).await?;
        }
        Ok(is_rest.then_some(self.now))
    }

    /// Publishes that a request was carried out, or that it is refused.
    fn publish_request_event(&self, request: &FamilyRequest, status: &FamilyRequestStatus) {
        let (type_, reason) = match status.state {
            Some(RequestState::Done | RequestState::Active) => {
                (EventType::Normal, Reason::RequestDone)
            }
            Some(RequestState::Refused) => (EventType::Warning, Reason::RequestRefused),
            Some(RequestState::Waiting | RequestState::Superseded) | None => return,
        };
        let note = format!("request {}: {}", request.name_any(), status.message);
        let notice = Notice { type_, reason, action: "Request", note };
        let images = &self.snapshot.family.spec.images;
        let image = request.spec.image.as_ref();
        match image.filter(|image| images.iter().any(|known| known.name == **image)) {
            Some(image) => {
                let note = format!("{image}: {}", notice.note);
                self.publish_about_image(image, &Notice { note, ..notice });
            }
            None => self.publish_about_family(&notice),
        }
    }

    /// Deletes the requests that have ended a while ago, and the oldest of those that are too many.
    /// Returns when the rest is to be deleted.
    async fn delete_ended_requests(&self) -> Result<Option<Timestamp>, ReconcileError> {
        let mut ended = self.context.stores.requests.group(&self.snapshot.key);
        ended
            .retain(|request| request.has_ended() && request.metadata.deletion_timestamp.is_none());
        ended.sort_by_key(|request| ended_at(request));
        let surplus = ended.len().saturating_sub(MAX_ENDED);
        let is_expired = |request: &FamilyRequest| {
            ended_at(request)
                .is_none_or(|at| at.saturating_add(ENDED_TTL).is_ok_and(|at| at <= self.now))
        };
        let expired = ended.into_iter().enumerate();
        let mut expired =
            expired.filter(|(place, request)| *place < surplus || is_expired(request));
        let api: Api<FamilyRequest> = self.api();
        for (_, request) in expired.by_ref().take(MAX_WRITES) {
            let how = DeleteParams::default()
                .preconditions(Preconditions { uid: request.uid(), resource_version: None });
            delete(&api, &request.name_any(), &how).await?;
            self.context.stores.requests.record_missing(&Key::of(&*request));
        }
        let is_rest = expired.next().is_some();
        Ok(self.now.checked_add(REST_PAUSE).ok().filter(|_| is_rest))
    }
}

impl Observer<'_> {
    /// Records that the requests of a family whose spec is rejected wait. Holds and approvals that
    /// have effect stay as they are. Returns whether there are more to record.
    pub(super) async fn record_waiting_requests(
        &mut self,
        problem: &Problem,
    ) -> Result<bool, ReconcileError> {
        let message = format!("waits until the spec of the family is valid: {}", problem.message);
        let open = open_requests(&self.context.stores, &self.key);
        let (writes, is_rest) = waiting_writes(&open, &message, self.now, MAX_WRITES);
        let family = Arc::clone(&self.family);
        let writer = RequestWriter { context: self.context, family: &family };
        for (request, new) in writes {
            writer.write(&request, &new, self.cache).await?;
        }
        Ok(is_rest)
    }
}

/// Returns at most `limit` requests whose statuses do not say yet that they wait, each with its
/// new status, and whether there are more. Those that have effect are left out.
fn waiting_writes(
    requests: &[Arc<FamilyRequest>],
    message: &str,
    now: Timestamp,
    limit: usize,
) -> (Vec<(Arc<FamilyRequest>, FamilyRequestStatus)>, bool) {
    let waiting = requests.iter().filter(|request| request.state() != Some(RequestState::Active));
    let mut writes = waiting.filter_map(|request| {
        let old = request.status.clone().unwrap_or_default();
        let new = old.next(RequestState::Waiting, message, now);
        (new != old).then(|| (Arc::clone(request), new))
    });
    let first = writes.by_ref().take(limit).collect();
    (first, writes.next().is_some())
}

fn ended_at(request: &FamilyRequest) -> Option<Timestamp> {
    request.status.as_ref()?.since
}

/// Returns the status of a request after a decision.
fn status_of(
    decided: &RequestDecision,
    old: &FamilyRequestStatus,
    now: Timestamp,
) -> FamilyRequestStatus {
    let images = decided.images.map(|images| i32::try_from(images).unwrap_or(i32::MAX));
    let (digest, reference) = (decided.digest.clone(), decided.reference.clone());
    FamilyRequestStatus {
        images,
        digest,
        reference,
        rollbacks: decided.rollbacks.clone(),
        ..old.next(decided.state, &decided.message, now)
    }
}

/// Writes the statuses of the requests of a family.
struct RequestWriter<'a> {
    context: &'a Context,
    family: &'a ImageFamily,
}

impl RequestWriter<'_> {
    /// Writes a status, and makes the family an owner of the request, so that the request is
    /// deleted with it. A request that was deleted since is forgotten.
    async fn write(
        &self,
        request: &FamilyRequest,
        status: &FamilyRequestStatus,
        cache: &mut ReconcileCache,
    ) -> Result<(), ReconcileError> {
        let (key, requests) = (Key::of(request), &self.context.stores.requests);
        let api: Api<FamilyRequest> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let name = &key.name;
        let owned = self.own(&api, request).await?;
        let patch = apply_status_unchanged(owned.as_ref().unwrap_or(request), status);
        let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
        // Noted before the call, and until it is answered: this reconcile may end in between.
        cache.unanswered_requests.insert(name.clone());
        let what = || format!("write the status of FamilyRequest {name}");
        match call(what, api.patch_status(name, &parameters, &patch)).await {
            Ok(written) => requests.record_write(written),
            Err(error) if error.is_not_found() => requests.record_missing(&key),
            Err(error) => return Err(error),
        }
        cache.unanswered_requests.remove(name);
        Ok(())
    }

    /// Makes the family an owner of a request, if it is none. Returns the changed request.
    async fn own(
        &self,
        api: &Api<FamilyRequest>,
        request: &FamilyRequest,
    ) -> Result<Option<FamilyRequest>, ReconcileError> {
        let Some(owner) = self.family.owner_ref(&()) else { return Ok(None) };
        let known = request.owner_references();
        if known.iter().any(|known| known.uid == owner.uid) {
            return Ok(None);
        }
        // A reference to a deleted family of this name would have the request deleted.
        let is_other =
            |known: &&OwnerReference| known.kind != owner.kind || known.name != owner.name;
        let owners: Vec<&OwnerReference> =
            [&owner].into_iter().chain(known.iter().filter(is_other)).collect();
        let patch = json!({"metadata": {
            "resourceVersion": request.resource_version(),
            "ownerReferences": owners,
        }});
        let parameters = PatchParams {
            field_manager: Some(labels::FIELD_OWNER.into()),
            ..PatchParams::default()
        };
        let name = request.name_any();
        let what = || format!("make the family an owner of FamilyRequest {name}");
        match call(what, api.patch(&name, &parameters, &Patch::Merge(patch))).await {
            Ok(written) => {
                self.context.stores.requests.record_write(written.clone());
                Ok(Some(written))
            }
            // The write of the status finds out.
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_say_already_that_they_wait_take_no_place_of_the_others() {
        let now = Timestamp::UNIX_EPOCH;
        let request = |place: usize, state: &str, message: &str| -> Arc<FamilyRequest> {
            let request = json!({
                "metadata": {"name": format!("r{place:03}"), "namespace": "shop"},
                "spec": {"family": "web", "action": "Trigger"},
                "status": {"state": state, "message": message, "since": now.to_string()},
            });
            Arc::new(serde_json::from_value(request).expect("a request"))
        };
        let mut requests: Vec<_> =
            (0..64).map(|place| request(place, "Waiting", "waits")).collect();
        requests.push(request(64, "Active", "is held"));
        requests.extend((65..130).map(|place| request(place, "Waiting", "another")));
        let (writes, is_rest) = waiting_writes(&requests, "waits", now, MAX_WRITES);
        let names: Vec<String> = writes.iter().map(|(request, _)| request.name_any()).collect();
        let expected: Vec<String> = (65..129).map(|place| format!("r{place:03}")).collect();
        assert_eq!((names, is_rest), (expected, true));
        let (writes, is_rest) = waiting_writes(&requests[..66], "waits", now, 1);
        assert_eq!((writes.len(), is_rest), (1, false));
        assert_eq!(writes[0].1.message, "waits");
    }
}
