//! Requests that name a family which does not exist. No reconcile answers them, so this task does.
//! Needs a client.

use std::{sync::Arc, time::Duration};

use futures::future::{Either, select};
use kube::{Api, ResourceExt, api::PatchParams};
use tracing::warn;

use crate::{
    api::{FamilyRequest, FamilyRequestStatus, RequestState, labels},
    controller::{
        context::Context,
        error::{ReconcileError, call},
        object_cache::Key,
        served::StoresState,
        stores::Stores,
        writes::apply_status,
    },
};

/// How often such requests are searched.
const INTERVAL: Duration = Duration::from_secs(5);
/// The most of them that are answered at a time.
const MAX_ANSWERS: usize = 64;

/// Answers requests whose family does not exist, until `stop` resolves.
pub async fn answer(context: Arc<Context>, stop: impl Future<Output = ()> + Send + 'static) {
    let mut stop = Box::pin(stop);
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
        let strays = stray_requests(&context.stores);
        for request in strays.iter().filter(|request| is_served(request)).take(MAX_ANSWERS) {
            if let Err(error) = write_waiting(&context, request).await {
                warn!(%error, "a request without a family is not answered, and is tried again");
                break;
            }
        }
    }
}

/// Returns the requests that have not been answered and whose families do not exist.
fn stray_requests(stores: &Stores) -> Vec<Arc<FamilyRequest>> {
    let mut requests = stores.requests.all();
    requests.retain(|request| {
        let family = Key::new(&request.namespace().unwrap_or_default(), &request.spec.family);
        request.state().is_none()
            && request.metadata.deletion_timestamp.is_none()
            && stores.families.get(&family).is_none()
    });
    requests
}

async fn write_waiting(context: &Context, request: &FamilyRequest) -> Result<(), ReconcileError> {
    let key = Key::of(request);
    let message = format!(
        "waits for the family: namespace {} has no ImageFamily `{}`; create it, or delete this \
         request and create one that names another family",
        key.namespace, request.spec.family
    );
    let status = FamilyRequestStatus::default();
    let status = status.next(RequestState::Waiting, &message, context.clock.now());
    let api: Api<FamilyRequest> = Api::namespaced(context.client.clone(), &key.namespace);
    let (name, requests) = (&key.name, &context.stores.requests);
    let patch = apply_status::<FamilyRequest>(name, &status);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
    let what = || format!("write the status of FamilyRequest {name}");
    match call(what, api.patch_status(name, &parameters, &patch)).await {
        Ok(written) => requests.record_write(written),
        Err(error) if error.is_not_found() => requests.record_missing(&key),
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{ImageFamily, ImageFamilySpec};

    #[test]
    fn a_request_is_stray_until_it_is_answered_or_its_family_exists() {
        let stores = Stores::default();
        let request = |name: &str, family: &str, status: Value| -> FamilyRequest {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"family": family, "action": "Trigger"},
                "status": status,
            }))
            .expect("a request")
        };
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
        let strays = stray_requests(&stores);
        let names: Vec<String> = strays.iter().map(|request| request.name_any()).collect();
        assert_eq!(names, ["b"]);
    }
}
