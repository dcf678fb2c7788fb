//! What requests come to: each ends once, after what it has changed is recorded.

use groundswell::{
    api::{RequestState, request::name_of_nonce},
    controller::object_cache::Key,
};
use serde_json::Value;

use crate::{
    cluster::Cluster,
    objects::{Kind, key_of},
    script::NAMESPACE,
};

/// Returns the requests of a family with one of these actions that have not ended.
pub fn open<'a>(
    cluster: &'a Cluster,
    family: &'a Key,
    actions: &'a [&'a str],
) -> impl Iterator<Item = &'a Value> {
    let requests = cluster.objects.all(Kind::Request).map(|(_, request)| &**request);
    requests.filter(move |request| {
        request["spec"]["family"] == family.name.as_str()
            && actions.iter().any(|action| request["spec"]["action"] == *action)
            && !state(request).is_some_and(RequestState::has_ended)
    })
}

/// Whether the request of this name exists and has not ended.
pub fn is_open(cluster: &Cluster, name: &Value) -> bool {
    let key = Key::new(NAMESPACE, name.as_str().unwrap_or_default());
    let request = cluster.objects.get(Kind::Request, &key);
    request.is_some_and(|request| !state(request).is_some_and(RequestState::has_ended))
}

/// Returns the state of a request.
pub fn state(request: &Value) -> Option<RequestState> {
    serde_json::from_value(request["status"]["state"].clone()).ok()
}

/// Checks the status of a request that was written.
pub fn answered(
    cluster: &Cluster,
    before: Option<&Value>,
    request: &Value,
) -> Option<(&'static str, String)> {
    let name = key_of(request).name;
    let (old, new) = (before.and_then(state), state(request));
    if old.is_some_and(RequestState::has_ended) && old != new {
        return Some(("requests end once", format!("{name}: {old:?}, then {new:?}")));
    }
    if new == Some(RequestState::Done) && old != new && request["spec"]["action"] == "Force" {
        return unrecorded(cluster, request).map(|image| {
            ("forced rebuilds are recorded", format!("{name}: {image} has no nonce"))
        });
    }
    None
}

/// Returns an image of a forced rebuild whose record does not say so.
fn unrecorded(cluster: &Cluster, request: &Value) -> Option<String> {
    let family = request["spec"]["family"].as_str()?;
    let image = request["spec"]["image"].as_str()?;
    let key = Key::new(NAMESPACE, &format!("{family}.{image}"));
    let record = cluster.objects.get(Kind::Image, &key)?;
    let nonce = record["status"]["nonce"].as_str().unwrap_or_default();
    let created = request["metadata"]["creationTimestamp"].as_str()?;
    let wanted = format!("{created}/{}", key_of(request).name);
    let is_recorded = nonce >= wanted.as_str() && !name_of_nonce(nonce).is_empty();
    (!is_recorded && !cluster.invariants.history.has_lost_records(family)).then(|| image.to_owned())
}
