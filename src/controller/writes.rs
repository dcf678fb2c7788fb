//! Writes that several steps share: a status by server-side apply, and a deletion. Needs a client.

use std::borrow::Cow;

use kube::{
    Api, Resource,
    api::{DeleteParams, Patch},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::controller::error::{ReconcileError, call};

/// The body of a server-side apply of a status. It is written as it stands: statuses are the most
/// of what the controller writes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedStatus<'a, S> {
    api_version: Cow<'static, str>,
    kind: Cow<'static, str>,
    metadata: AppliedMetadata<'a>,
    status: &'a S,
}

#[derive(Debug, Serialize)]
struct AppliedMetadata<'a> {
    name: &'a str,
}

/// Returns the body of a server-side apply of a status.
pub fn apply_status<'a, K: Resource<DynamicType = ()>, S: Serialize>(
    name: &'a str,
    status: &'a S,
) -> Patch<AppliedStatus<'a, S>> {
    Patch::Apply(AppliedStatus {
        api_version: K::api_version(&()),
        kind: K::kind(&()),
        metadata: AppliedMetadata { name },
        status,
    })
}

/// Returns the body of a server-side apply of a status that the API server refuses with a conflict
/// if the object has changed since it was read.
pub fn apply_status_unchanged<K: Resource<DynamicType = ()>>(
    object: &K,
    status: &impl Serialize,
) -> Patch<serde_json::Value> {
    Patch::Apply(json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": object.meta().name,
            "resourceVersion": object.meta().resource_version,
        },
        "status": status,
    }))
}

/// Deletes an object. Succeeds if it is already gone.
pub async fn delete<K>(api: &Api<K>, name: &str, how: &DeleteParams) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    match call(|| format!("delete {} {name}", K::kind(&())), api.delete(name, how)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
