//! Writes that several steps share: a status by server-side apply, and a deletion. Needs a client.

use std::borrow::Cow;

use kube::{
    Api, Resource,
    api::{DeleteParams, ObjectMeta, Patch},
};
use serde::{Serialize, de::DeserializeOwned};

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
#[serde(rename_all = "camelCase")]
struct AppliedMetadata<'a> {
    name: &'a str,
    resource_version: Option<&'a str>,
}

/// Returns the body of a server-side apply of a status that the API server refuses with a conflict
/// if the object has changed since it was read.
///
/// What was decided over an older state must not replace a newer one: the write of a process that
/// has been stopped for a while, or one that got no answer, may arrive after those of its
/// successor.
pub fn apply_status_unchanged<'a, K: Resource<DynamicType = ()>, S: Serialize>(
    object: &'a K,
    status: &'a S,
) -> Patch<AppliedStatus<'a, S>> {
    let ObjectMeta { name, resource_version, .. } = object.meta();
    let name = name.as_deref().unwrap_or_default();
    let resource_version = resource_version.as_deref();
    Patch::Apply(AppliedStatus {
        api_version: K::api_version(&()),
        kind: K::kind(&()),
        metadata: AppliedMetadata { name, resource_version },
        status,
    })
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
