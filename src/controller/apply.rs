//! Server-side apply of a status.

use kube::{Resource, api::Patch};
use serde::Serialize;
use serde_json::json;

/// The body of a server-side apply of a status.
pub fn apply_status<K: Resource<DynamicType = ()>>(name: &str, status: &impl Serialize) -> Patch<serde_json::Value> {
    Patch::Apply(json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": status,
    }))
}
