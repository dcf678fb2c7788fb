//! The images that run in a cluster.

use std::collections::BTreeSet;

use groundswell::registry::Reference;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
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
    /// As `Kind namespace/name`.
    pub workload: String,
}

/// The images of pods.
#[derive(Debug, Default)]
pub struct RunningImages {
    pub images: Vec<RunningImage>,
    /// What runs and cannot be searched, each as a sentence.
    pub problems: Vec<String>,
}

/// Reads the images that the pods run which the flags select.
pub async fn running_images(input: &InputArguments) -> anyhow::Result<RunningImages> {
    let cluster = ClusterConnection::connect(&input.kubectl_flags).await?;
    let api =
        if input.all_namespaces { Api::all(cluster.client.clone()) } else { cluster.api::<Pod>() };
    let pods = cluster.list(api, ListParams::default()).await?;
    let mut running = RunningImages::default();
    for pod in &pods {
        running.add(pod);
    }
    Ok(running)
}

impl RunningImages {
    /// Adds the containers of a pod that run, or that start again: also those that crash.
    fn add(&mut self, pod: &Pod) {
        let workload = workload(pod);
        let containers = pod.status.iter().flat_map(|status| {
            let containers = status.container_statuses.iter().flatten();
            let begin = status.init_container_statuses.iter().flatten();
            containers.chain(begin).chain(status.ephemeral_container_statuses.iter().flatten())
        });
        let mut named = BTreeSet::new();
        for container in containers.filter(|container| has_image(container)) {
            let id = container.image_id.as_str();
            let mut prefixes = ID_PREFIXES.iter();
            let id = prefixes.find_map(|prefix| id.strip_prefix(prefix)).unwrap_or(id);
            if !named.insert(id.to_owned()) {
                continue;
            }
            // Without a repository, it is the id of an image that no registry knows.
            let reference = Some(id).filter(|id| id.contains('@')).and_then(|id| id.parse().ok());
            match reference {
                Some(reference) => {
                    self.images.push(RunningImage { reference, workload: workload.clone() });
                }
                None => self.problems.push(format!(
                    "{workload} runs {}, of which its node records no repository with a digest",
                    container.image
                )),
            }
        }
    }
}

/// Whether a node has the image of a container, and runs it or is about to: a container that waits
/// for its first image has none.
fn has_image(container: &ContainerStatus) -> bool {
    let state = container.state.as_ref();
    let runs = state.is_some_and(|state| state.running.is_some());
    let ended = state.is_some_and(|state| state.terminated.is_some());
    runs || !ended && !container.image_id.is_empty()
}

/// Returns what a user knows as the owner of a pod: the `Deployment` and not its `ReplicaSet`.
fn workload(pod: &Pod) -> String {
    let namespace = pod.namespace().unwrap_or_default();
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else { return format!("Pod {namespace}/{}", pod.name_any()) };
    let hash = pod.labels().get(TEMPLATE_HASH);
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    match deployment.filter(|_| owner.kind == "ReplicaSet") {
        Some(deployment) => format!("Deployment {namespace}/{deployment}"),
        None => format!("{} {namespace}/{}", owner.kind, owner.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns `workload reference` of what can be searched, and the problems.
    fn running(pod: serde_json::Value) -> (Vec<String>, Vec<String>) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let mut running = RunningImages::default();
        running.add(&pod);
        let shown = |image: &RunningImage| format!("{} {}", image.workload, image.reference);
        (running.images.iter().map(shown).collect(), running.problems)
    }

    fn container(id: &str, state: &str) -> serde_json::Value {
        json!({"name": "c", "image": "r.example/a:1", "imageID": id, "ready": true,
               "restartCount": 0, "state": {state: {"startedAt": null, "exitCode": 0}}})
    }

    fn id(name: &str) -> String {
        format!("r.example/{name}@sha256:{}", "a".repeat(64))
    }

    #[test]
    fn running_containers_are_found_with_their_workload() {
        let pod = json!({
            "metadata": {"name": "web-5d8-x", "namespace": "shop",
                "labels": {"pod-template-hash": "5d8"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": "web-5d8", "uid": "1", "controller": true}]},
            "status": {"containerStatuses": [
                container(&format!("docker-pullable://{}", id("a")), "running"),
                container(&id("old"), "terminated"),
            ]},
        });
        let expected = vec![format!("Deployment shop/web {}", id("a"))];
        assert_eq!(running(pod), (expected, vec![]));
        let pod = json!({"metadata": {"name": "pending"}});
        assert_eq!(running(pod), (vec![], vec![]));
    }

    #[test]
    fn containers_of_every_kind_that_crash_or_wait_are_found() {
        for (list, state) in [
            ("initContainerStatuses", "running"),
            ("ephemeralContainerStatuses", "running"),
            ("containerStatuses", "waiting"),
        ] {
            let pod = json!({
                "metadata": {"name": "alone", "namespace": "shop"},
                "status": {list: [container(&id("a"), state)]},
            });
            let expected = vec![format!("Pod shop/alone {}", id("a"))];
            assert_eq!(running(pod), (expected, vec![]), "{list} {state}");
        }
        let pod = json!({
            "metadata": {"name": "new", "namespace": "shop"},
            "status": {"containerStatuses": [container("", "waiting")]},
        });
        assert_eq!(running(pod), (vec![], vec![]), "its image is not pulled yet");
    }

    #[test]
    fn images_that_no_registry_knows_are_named() {
        for id in [&format!("sha256:{}", "c".repeat(64)), "", "docker://sha256:abc", "a@b@c"] {
            let pod = json!({
                "metadata": {"name": "imported", "namespace": "shop"},
                "status": {"containerStatuses": [container(id, "running")]},
            });
            let (images, problems) = running(pod);
            assert!(images.is_empty(), "{id}: {images:?}");
            assert_eq!(problems.len(), 1, "{id}");
            assert!(problems[0].contains("Pod shop/imported runs r.example/a:1"), "{problems:?}");
        }
    }
}
