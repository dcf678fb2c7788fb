//! A common view of the four kinds of workloads with only the fields that a rollout needs. The
//! store keeps every workload of the cluster in memory, so the view is a small part of the object.
//! No IO.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::CronJob,
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};

use serde_json::Value;

use crate::{
    api::{WorkloadKind, condition::shorten, labels},
    rollout::RolloutProgress,
};

/// Maximum number of characters of a manager's name, the same as that of the API server.
const MAX_MANAGER: usize = 128;

/// Identifies a workload. It is displayed as `Kind namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// The kind.
    pub kind: WorkloadKind,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// The fields of a workload that a rollout needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadView {
    /// Identifies the workload.
    pub key: WorkloadKey,
    /// The uid, so that a change is never applied to another object with the same name.
    pub uid: String,
    /// The generation of the spec, so that an outdated view is recognized.
    pub generation: i64,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value of its annotation [`labels::ROLLOUT_IMAGES`].
    pub consent: Option<String>,
    /// The containers of its pod template, init containers first.
    pub containers: Vec<Container>,
    /// The digest for which the workload was last restarted.
    pub restarted_for: Option<String>,
    /// How far the pods have been updated to the pod template.
    pub progress: RolloutProgress,
}

/// A container of a pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The name.
    pub name: String,
    /// The image as the template writes it.
    pub image: String,
    /// Whether it is an init container.
    pub init: bool,
    /// The index in the list of containers or init containers.
    pub index: usize,
    /// Whether the kubelet pulls the image on every start of the container
    /// (`imagePullPolicy: Always`).
    pub always_pulls: bool,
    /// The field manager that last set the image, according to the object's `managedFields`. `None`
    /// if it is not recorded, or if it is the rollout itself.
    pub manager: Option<String>,
}

impl WorkloadView {
    fn new(
        kind: WorkloadKind,
        metadata: ObjectMeta,
        template: Option<PodTemplateSpec>,
        progress: RolloutProgress,
    ) -> Self {
        let fields = metadata.managed_fields.unwrap_or_default();
        let (annotations, spec) = template
            .map(|template| {
                (template.metadata.and_then(|metadata| metadata.annotations), template.spec)
            })
            .unwrap_or_default();
        let (init, main) = spec
            .map(|spec| (spec.init_containers.unwrap_or_default(), spec.containers))
            .unwrap_or_default();
        let containers =
            [(true, init), (false, main)].into_iter().flat_map(|(init, containers)| {
                let fields = &fields;
                let list = if init { "f:initContainers" } else { "f:containers" };
                containers.into_iter().enumerate().map(move |(index, container)| Container {
                    manager: image_manager(kind, list, &container.name, fields),
                    name: container.name,
                    image: container.image.unwrap_or_default(),
                    init,
                    index,
                    always_pulls: container.image_pull_policy.as_deref() == Some("Always"),
                })
            });
        Self {
            key: WorkloadKey {
                kind,
                namespace: metadata.namespace.unwrap_or_default(),
                name: metadata.name.unwrap_or_default(),
            },
            uid: metadata.uid.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            consent: metadata
                .annotations
                .and_then(|mut annotations| annotations.remove(labels::ROLLOUT_IMAGES)),
            containers: containers.collect(),
            restarted_for: annotations
                .and_then(|mut annotations| annotations.remove(labels::ROLLED_OUT)),
            progress,
        }
    }

    /// Whether the workload has all of these labels with these values.
    #[must_use]
    pub fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

/// Returns the manager, other than the rollout, that last set the image of a container.
fn image_manager(
    kind: WorkloadKind,
    list: &str,
    container: &str,
    fields: &[ManagedFieldsEntry],
) -> Option<String> {
    let template: &[&str] = match kind {
        WorkloadKind::CronJob => &["f:spec", "f:jobTemplate", "f:spec", "f:template", "f:spec"],
        _ => &["f:spec", "f:template", "f:spec"],
    };
    // The key is JSON as the API server writes it.
    let element = format!("k:{{\"name\":{}}}", Value::from(container));
    let owns_image = |entry: &&ManagedFieldsEntry| {
        let path = template.iter().copied().chain([list, &element, "f:image"]);
        let root = entry.fields_v1.as_ref().map(|fields| &fields.0);
        path.fold(root, |fields, name| fields?.get(name)).is_some()
    };
    let last =
        fields.iter().filter(owns_image).max_by_key(|entry| entry.time.as_ref().map(|t| t.0))?;
    let manager = last.manager.as_deref()?;
    (manager != labels::ROLLOUT_FIELD_OWNER).then(|| shorten(manager, MAX_MANAGER))
}

impl From<Deployment> for WorkloadView {
    fn from(object: Deployment) -> Self {
        let progress = RolloutProgress::of_deployment(&object);
        Self::new(
            WorkloadKind::Deployment,
            object.metadata,
            object.spec.map(|spec| spec.template),
            progress,
        )
    }
}

impl From<StatefulSet> for WorkloadView {
    fn from(object: StatefulSet) -> Self {
        let progress = RolloutProgress::of_stateful_set(&object);
        Self::new(
            WorkloadKind::StatefulSet,
            object.metadata,
            object.spec.map(|spec| spec.template),
            progress,
        )
    }
}

impl From<DaemonSet> for WorkloadView {
    fn from(object: DaemonSet) -> Self {
        let progress = RolloutProgress::of_daemon_set(&object);
        Self::new(
            WorkloadKind::DaemonSet,
            object.metadata,
            object.spec.map(|spec| spec.template),
            progress,
        )
    }
}

impl From<CronJob> for WorkloadView {
    fn from(object: CronJob) -> Self {
        let template = object.spec.job_template.spec.map(|spec| spec.template);
        Self::new(WorkloadKind::CronJob, object.metadata, template, RolloutProgress::of_cron_job())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cron_job_has_the_containers_of_its_pod_template() {
        let object: CronJob = serde_json::from_value(json!({
            "metadata": {
                "name": "nightly", "namespace": "shop", "uid": "u1", "labels": {"app": "report"},
                "annotations": {"groundswell.dev/rollout-images": "r.example.com/report"}
            },
            "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": {
                "metadata": {"annotations": {"groundswell.dev/digest": "sha256:aa"}},
                "spec": {
                    "initContainers": [{"name": "wait", "image": "busybox"}],
                    "containers": [{
                        "name": "report", "image": "r.example.com/report:1",
                        "imagePullPolicy": "Always"
                    }]
                }
            }}}}
        }))
        .expect("a CronJob");
        let workload = WorkloadView::from(object);
        assert_eq!(workload.key.to_string(), "CronJob shop/nightly");
        assert_eq!(workload.restarted_for.as_deref(), Some("sha256:aa"));
        assert_eq!(workload.consent.as_deref(), Some("r.example.com/report"));
        let containers: Vec<_> = workload
            .containers
            .iter()
            .map(|c| (c.name.as_str(), c.init, c.index, c.always_pulls))
            .collect();
        assert_eq!(containers, [("wait", true, 0, false), ("report", false, 0, true)]);
        assert_eq!(workload.containers[1].manager, None);
        assert!(workload.has_labels(&BTreeMap::from([("app".into(), "report".into())])));
        assert!(!workload.has_labels(&BTreeMap::from([("app".into(), "other".into())])));
    }

    /// The entry of a manager that owns the image of the container `app`.
    fn owner(manager: &str, time: &str, list: &str) -> serde_json::Value {
        json!({
            "manager": manager, "operation": "Update", "apiVersion": "apps/v1", "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:template": {"f:spec": {list: {
                "k:{\"name\":\"app\"}": {"f:image": {}}
            }}}}}
        })
    }

    #[test]
    fn a_container_knows_the_client_that_last_set_its_image() {
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let long = "x".repeat(500);
        for (managers, expected) in [
            (json!([]), None),
            (json!([owner("helm", old, "f:containers")]), Some("helm")),
            (json!([owner("helm", old, "f:initContainers")]), None),
            (
                json!([owner("helm", old, "f:containers"), owner("kubectl", new, "f:containers")]),
                Some("kubectl"),
            ),
            (
                json!([
                    owner("groundswell/rollout", new, "f:containers"),
                    owner("helm", old, "f:containers")
                ]),
                None,
            ),
            (json!([owner(&long, old, "f:containers")]), Some(&*shorten(&long, MAX_MANAGER))),
        ] {
            let object: Deployment = serde_json::from_value(json!({
                "metadata": {"name": "web", "generation": 3, "managedFields": managers},
                "spec": {"selector": {}, "template": {"spec": {
                    "containers": [{"name": "app", "image": "r/app:1"}]
                }}}
            }))
            .expect("a Deployment");
            let workload = WorkloadView::from(object);
            assert_eq!(workload.containers[0].manager.as_deref(), expected, "{managers}");
            assert_eq!(workload.generation, 3);
        }
    }
}
