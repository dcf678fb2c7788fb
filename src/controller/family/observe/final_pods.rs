//! The pods of Jobs that have completed although no watch has shown how their pods ended. Only the
//! pod says what a build has pushed, and whether a check has passed, so that it is read before
//! either counts. Needs a client.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    api::labels,
    builds::outcome::PushReport,
    controller::{
        error::{ReconcileError, call},
        family::observe::{
            Observer,
            jobs::{self, has_completed},
        },
        object_cache::Key,
        stores::Stores,
    },
};

/// The label with which Kubernetes marks the Job of a pod.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The most pods of a Job that are read.
const MAX_PODS: u32 = 16;

/// The Jobs of a family that have completed, by uid.
#[derive(Debug, Default)]
pub struct FinalPods {
    /// Those of which a pod has said how it ended. They are not read again.
    known: HashSet<String>,
    /// Those whose pods were read.
    read: HashSet<String>,
}

impl Observer<'_> {
    /// Reads the pods of the Jobs that have completed without a pod that says how it ended. That is
    /// rare: a watch of pods is behind that of Jobs, or the pod is gone.
    pub(super) async fn read_final_pods(&mut self) -> Result<(), ReconcileError> {
        let stores = &self.context.stores;
        let unknown = self.cache.final_pods.update(stores, &self.key);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        for job in unknown {
            let Some(uid) = job.uid() else { continue };
            if self.cache.final_pods.read.contains(&uid) {
                continue;
            }
            let name = job.name_any();
            let of_job = ListParams::default().labels(&selector(&name)).limit(MAX_PODS);
            let pods = call(|| format!("read the pods of Job {name}"), api.list(&of_job)).await?;
            for pod in pods {
                if is_pod_of(&pod, &uid) {
                    stores.pods.record_write(pod);
                }
            }
            self.cache.final_pods.read.insert(uid);
        }
        Ok(())
    }
}

/// Returns the labels of our own pods of a Job. The watch of pods selects by the first one, too.
fn selector(job: &str) -> String {
    format!("{}={},{JOB_NAME}={job}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE)
}

/// Whether a pod belongs to the Job with this uid, and is one of ours.
fn is_pod_of(pod: &Pod, uid: &str) -> bool {
    let is_ours =
        pod.labels().get(labels::MANAGED_BY).is_some_and(|by| by == labels::MANAGED_BY_VALUE);
    is_ours
        && pod.labels().contains_key(labels::FAMILY)
        && jobs::controlling_job(pod).is_some_and(|owner| owner.uid == uid)
}

impl FinalPods {
    /// Returns the Jobs of a family that have completed and of which no pod has said how it ended.
    fn update(&mut self, stores: &Stores, family: &Key) -> Vec<Arc<Job>> {
        let completed = stores.jobs.group(family).into_iter().filter(|job| has_completed(job));
        let completed: HashMap<String, Arc<Job>> =
            completed.filter_map(|job| Some((job.uid()?, job))).collect();
        self.known.retain(|uid| completed.contains_key(uid));
        self.read.retain(|uid| completed.contains_key(uid));
        let mut unknown: BTreeMap<String, Arc<Job>> =
            completed.into_iter().filter(|(uid, _)| !self.known.contains(uid)).collect();
        if unknown.is_empty() {
            return Vec::new();
        }
        let stored = stores.pods.group(family);
        let mut pods: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &stored {
            if let Some(owner) = jobs::controlling_job(pod) {
                pods.entry(owner.uid.as_str()).or_default().push(pod);
            }
        }
        let is_unknown = |uid: &String, job: &mut Arc<Job>| {
            let report = match pods.get(uid.as_str()).map_or(&[][..], Vec::as_slice) {
                [] => return true,
                // Nearly every Job has one pod, which need not be copied.
                [pod] => PushReport::of(job, std::slice::from_ref(*pod)),
                pods => PushReport::of(job, &pods.iter().copied().cloned().collect::<Vec<Pod>>()),
            };
            report == PushReport::Unknown
        };
        let known = unknown.extract_if(.., |uid, job| !is_unknown(uid, job)).map(|(uid, _)| uid);
        self.known.extend(known);
        unknown.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    fn pod(labels: &Value, uid: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "team", "resourceVersion": "1",
                "labels": labels, "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job",
                "name": "base-check-0-0", "uid": uid, "controller": true}]},
            "spec": {"containers": [{"name": "check", "image": "i"}]},
            "status": {"phase": "Succeeded"},
        }))
        .expect("a pod")
    }

    #[test]
    fn a_pod_without_our_label_ends_no_job() {
        let ours = json!({labels::MANAGED_BY: "groundswell", labels::FAMILY: "python"});
        assert!(is_pod_of(&pod(&ours, "uid"), "uid"));
        assert!(!is_pod_of(&pod(&ours, "another"), "uid"));
        for adopted in [
            json!({labels::FAMILY: "python"}),
            json!({labels::MANAGED_BY: "other", labels::FAMILY: "python"}),
            json!({labels::MANAGED_BY: "groundswell"}),
        ] {
            assert!(!is_pod_of(&pod(&adopted, "uid"), "uid"), "{adopted}");
        }
        let selected = selector("base-check-0-0");
        assert!(selected.contains("app.kubernetes.io/managed-by=groundswell"), "{selected}");
    }

    #[test]
    fn the_ends_of_builds_and_checks_are_read_until_a_pod_says_them() {
        let (stores, family) = (Stores::default(), Key::new("team", "python"));
        for component in [labels::COMPONENT_BUILD, labels::COMPONENT_CHECK] {
            let job = json!({
                "metadata": {"name": component, "namespace": "team", "uid": component,
                    "resourceVersion": "1",
                    "labels": {labels::FAMILY: "python", labels::COMPONENT: component}},
                "spec": {"template": {"spec": {"containers": [{"name": "check", "image": "i"}]}}},
                "status": {"conditions": [{"type": "Complete", "status": "True"}]},
            });
            stores.jobs.record_write(serde_json::from_value::<Job>(job).expect("a Job"));
        }
        let mut final_pods = FinalPods::default();
        assert_eq!(final_pods.update(&stores, &family).len(), 2);
        let ours = json!({labels::MANAGED_BY: "groundswell", labels::FAMILY: "python"});
        let ended = pod(&ours, labels::COMPONENT_CHECK);
        stores.pods.record_write(ended.clone());
        let mut unknown = || {
            let jobs = final_pods.update(&stores, &family);
            jobs.iter().map(|job| job.name_any()).collect::<Vec<String>>()
        };
        assert_eq!(unknown(), [labels::COMPONENT_BUILD]);
        stores.pods.observe("", Event::Delete(ended));
        assert_eq!(unknown(), [labels::COMPONENT_BUILD], "what a pod has said stays known");
    }
}
