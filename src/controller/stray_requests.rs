//! Requests that name a family which does not exist. No reconcile answers them, so this task does.
//! Needs a client.

use std::{sync::Arc, time::Duration};

use futures::future::{Either, select};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PatchParams, Preconditions},
};
use tracing::warn;

use crate::{
    api::{FamilyRequest, FamilyRequestStatus, RequestState, labels},
    controller::{
        context::Context,
        error::{ReconcileError, call},
        family::record::requests::ENDED_TTL,
        object_cache::Key,
        served::StoresState,
        stores::Stores,
        writes::{apply_status_unchanged, delete},
    },
};

/// How often such requests are searched.
const INTERVAL: Duration = Duration::from_secs(5);
/// The most of them that are answered or deleted at a time.
const MAX_WRITES: usize = 64;

/// Answers requests whose family does not exist, and deletes them after a while, until `stop`
/// resolves.
pub async fn answer(context: Arc<Context>, stop: impl Future<Output = ()> + Send + 'static) {
    let mut stop = Box::pin(stop);
    let mut last = None;
    loop {
        let pause = Box::pin(tokio::time::sleep(INTERVAL));
        match select(stop, pause).await {
            Either::Left(_) => return,
            Either::Right(((), waiting)) => stop = waiting,
        }
        let is_served = |request: &Arc<FamilyRequest>| {
            let namespace = request.namespace().unwrap_or_default();
            context.served().state_of(&namespace) == StoresState::Filled
        };
        let mut strays = stray_requests(&context.stores, context.clock.now());
        strays.retain(|(request, _)| is_served(request));
        continue_after(&mut strays, last.as_ref());
        for (request, _) in strays.iter().take(MAX_WRITES) {
            last = Some(Key::of(&**request));
            let Err(error) = treat(&context, &Key::of(&**request)).await else { continue };
            warn!(%error, "a request without a family is not answered, and is tried again");
            if error.status().is_none() {
                // The API server does not answer: the next one would wait as long.
                break;
            }
        }
    }
}

/// What is to be done with a request without a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Answer,
    Delete,
}

/// Returns the requests whose families do not exist and with which something is to be done, sorted
/// by key.
fn stray_requests(stores: &Stores, now: Timestamp) -> Vec<(Arc<FamilyRequest>, Treatment)> {
    let requests = stores.requests.all().into_iter();
    let treated = requests.filter_map(|request| {
        let treatment = treatment(stores, &request, now)?;
        Some((request, treatment))
    });
    treated.collect()
}

/// Returns what is to be done with a request, if its family does not exist. One that was answered
/// here is deleted as long after that as one that has ended: no family owns it.
fn treatment(stores: &Stores, request: &FamilyRequest, now: Timestamp) -> Option<Treatment> {
    let family = Key::new(&request.namespace().unwrap_or_default(), &request.spec.family);
    if request.metadata.deletion_timestamp.is_some() || stores.families.get(&family).is_some() {
        return None;
    }
    let Some(status) = request.status.as_ref().filter(|status| status.state.is_some()) else {
        return Some(Treatment::Answer);
    };
    let since = status.since.filter(|_| *status == waiting(request, status, now))?;
    let is_expired = since.saturating_add(ENDED_TTL).is_ok_and(|at| at <= now);
    is_expired.then_some(Treatment::Delete)
}

/// Rotates the requests so that those after the last one that was tried come first. So requests
/// that always fail do not keep the others from their turn.
fn continue_after(strays: &mut [(Arc<FamilyRequest>, Treatment)], last: Option<&Key>) {
    let Some(last) = last else { return };
    let tried = strays.partition_point(|(request, _)| Key::of(&**request) <= *last);
    strays.rotate_left(tried);
}

/// Answers or deletes a request as the stores know it now. The request stays as it is if it has
/// changed since, or if its family exists by now.
async fn treat(context: &Context, key: &Key) -> Result<(), ReconcileError> {
    let (now, requests) = (context.clock.now(), &context.stores.requests);
    let Some(request) = requests.get(key) else { return Ok(()) };
    let api: Api<FamilyRequest> = Api::namespaced(context.client.clone(), &key.namespace);
    let done = match treatment(&context.stores, &request, now) {
        None => Ok(()),
        Some(Treatment::Answer) => {
            let status = waiting(&request, &FamilyRequestStatus::default(), now);
            let patch = apply_status_unchanged(&*request, &status);
            let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
            let what = || format!("write the status of FamilyRequest {}", key.name);
            let written = call(what, api.patch_status(&key.name, &parameters, &patch)).await;
            written.map(|written| requests.record_write(written))
        }
        Some(Treatment::Delete) => {
            let (uid, resource_version) = (request.uid(), request.resource_version());
            let how =
                DeleteParams::default().preconditions(Preconditions { uid, resource_version });
            delete(&api, &key.name, &how).await.map(|()| requests.record_missing(key))
        }
    };
    match done {
        Err(error) if error.is_not_found() => requests.record_missing(key),
        Err(error) if !error.is_conflict() => return Err(error),
        // After a conflict, somebody else has answered it, or the watch will show what has changed.
        Ok(()) | Err(_) => {}
    }
    Ok(())
}

/// Returns the status of a request that waits for its family.
fn waiting(
    request: &FamilyRequest,
    old: &FamilyRequestStatus,
    now: Timestamp,
) -> FamilyRequestStatus {
    let message = format!(
        "waits for the family: namespace {} has no ImageFamily `{}`; create it, or delete this \
         request and create one that names another family",
        request.namespace().unwrap_or_default(),
        request.spec.family
    );
    old.next(RequestState::Waiting, &message, now)
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{ImageFamily, ImageFamilySpec};

    fn request(name: &str, family: &str, status: Value) -> FamilyRequest {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"family": family, "action": "Trigger"},
            "status": status,
        }))
        .expect("a request")
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_request_is_stray_until_it_is_answered_or_its_family_exists() {
        let stores = Stores::default();
        for known in [
            request("a", "web", Value::Null),
            request("b", "app", Value::Null),
            request("c", "app", json!({"state": "Waiting"})),
        ] {
            stores.requests.observe("", Event::Apply(known));
        }
        let mut family = ImageFamily::new("web", ImageFamilySpec::default());
        family.metadata.namespace = Some("shop".into());
        stores.families.observe("", Event::Apply(family));
        let strays = stray_requests(&stores, Timestamp::UNIX_EPOCH);
        let strays: Vec<_> =
            strays.iter().map(|(request, treatment)| (request.name_any(), *treatment)).collect();
        assert_eq!(strays, [("b".to_owned(), Treatment::Answer)]);
    }

    #[test]
    fn a_request_that_was_answered_here_is_deleted_a_day_later() {
        let stores = Stores::default();
        let (answered, later) = (time("2026-05-01T12:00:00Z"), time("2026-05-02T12:00:00Z"));
        let mut stray = request("a", "web", Value::Null);
        stray.status = Some(waiting(&stray, &FamilyRequestStatus::default(), answered));
        let before = time("2026-05-02T11:59:59Z");
        assert_eq!(treatment(&stores, &stray, before), None);
        assert_eq!(treatment(&stores, &stray, later), Some(Treatment::Delete));
        let gated = json!({"state": "Waiting", "message": "waits for up", "since": answered});
        assert_eq!(treatment(&stores, &request("b", "web", gated), later), None);
        let mut family = ImageFamily::new("web", ImageFamilySpec::default());
        family.metadata.namespace = Some("shop".into());
        stores.families.observe("", Event::Apply(family));
        assert_eq!(treatment(&stores, &stray, later), None);
    }

    #[test]
    fn those_that_were_not_tried_yet_come_first() {
        let stray = |name| (Arc::new(request(name, "web", Value::Null)), Treatment::Answer);
        let mut strays = vec![stray("a"), stray("b"), stray("c")];
        continue_after(&mut strays, Some(&Key::new("shop", "b")));
        let names: Vec<String> = strays.iter().map(|(request, _)| request.name_any()).collect();
        assert_eq!(names, ["c", "a", "b"]);
    }

    #[test]
    fn an_answer_names_the_version_of_the_request_that_it_is_for() {
        let mut stray = request("a", "web", Value::Null);
        stray.metadata.resource_version = Some("7".into());
        let status = FamilyRequestStatus::default();
        let kube::api::Patch::Apply(body) = apply_status_unchanged(&stray, &status) else {
            panic!("not a server-side apply")
        };
        let body = serde_json::to_value(body).expect("JSON");
        assert_eq!(body["metadata"], json!({"name": "a", "resourceVersion": "7"}));
    }
}
