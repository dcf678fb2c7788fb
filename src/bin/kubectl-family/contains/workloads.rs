//! The images that run in a cluster.

use std::collections::BTreeSet;

use groundswell::registry::Reference;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{cluster::ClusterConnection, input::InputArguments};

/// The label whose value a `ReplicaSet` appends to the name of its `Deployment`.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// How the runtimes of some nodes begin the id of an image.
const ID_PREFIXES: [&str; 2] = ["docker-pullable://", "docker://"];

/// An image and a workload that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningImage {
    pub reference: Reference,
    /// As `namespace/kind/name`.
    pub workload: String,
}

/// Reads the images that the pods run which the flags select.
pub async fn running_images(input: &InputArguments) -> anyhow::Result<Vec<RunningImage>> {
    let cluster = ClusterConnection::connect(&input.kubectl_flags).await?;
    let api =
        if input.all_namespaces { Api::all(cluster.client.clone()) } else { cluster.api::<Pod>() };
    let pods = cluster.list(api, ListParams::default()).await?;
    Ok(pods.iter().flat_map(of_pod).collect())
}

fn of_pod(pod: &Pod) -> Vec<RunningImage> {
    let status = pod.status.iter();
    let containers = status.flat_map(|status| {
        let containers = status.container_statuses.iter().flatten();
        containers.chain(status.init_container_statuses.iter().flatten())
    });
    let references: BTreeSet<String> = containers
        .filter(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
        .filter_map(|container| {
            let id = container.image_id.as_str();
            let mut prefixes = ID_PREFIXES.iter();
            let id = prefixes.find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id);
            // Without a repository, it is the id of an image that no registry knows.
            id.contains('@').then(|| id.to_owned())
        })
        .collect();
    let workload = workload(pod);
    let running = |reference: String| {
        Some(RunningImage { reference: reference.parse().ok()?, workload: workload.clone() })
    };
    references.into_iter().filter_map(running).collect()
}

/// Returns what a user knows as the owner of a pod: the `Deployment` and not its `ReplicaSet`.
fn workload(pod: &Pod) -> String {
    let namespace = pod.namespace().unwrap_or_default();
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else { return format!("{namespace}/Pod/{}", pod.name_any()) };
    let hash = pod.labels().get(TEMPLATE_HASH);
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    match deployment.filter(|_| owner.kind == "ReplicaSet") {
        Some(deployment) => format!("{namespace}/Deployment/{deployment}"),
        None => format!("{namespace}/{}/{}", owner.kind, owner.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn running(pod: serde_json::Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let of_pod = of_pod(&pod).into_iter();
        of_pod.map(|running| format!("{} {}", running.workload, running.reference)).collect()
    }

    #[test]
    fn running_containers_are_found_with_their_workload() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let id = format!("r.example/a@{digest}");
        let container = |id: &str, state: &str| {
            json!({"name": "c", "image": "a", "imageID": id, "ready": true, "restartCount": 0,
                   "state": {state: {"startedAt": null, "exitCode": 0}}})
        };
        let pod = json!({
            "metadata": {"name": "web-5d8-x", "namespace": "shop",
                "labels": {"pod-template-hash": "5d8"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": "web-5d8", "uid": "1", "controller": true}]},
            "status": {"containerStatuses": [
                container(&format!("docker-pullable://{id}"), "running"),
                container(&format!("r.example/old@{digest}"), "terminated"),
                container("sha256:abc", "running"),
                container("", "running"),
            ]},
        });
        assert_eq!(running(pod), [format!("shop/Deployment/web {id}")]);
        let pod = json!({
            "metadata": {"name": "alone", "namespace": "shop"},
            "status": {"initContainerStatuses": [container(&id, "running")]},
        });
        assert_eq!(running(pod), [format!("shop/Pod/alone {id}")]);
        let pod = json!({"metadata": {"name": "pending"}});
        assert!(running(pod).is_empty());
    }
}
