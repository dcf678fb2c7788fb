//! The pods of Jobs that have completed although no watch has shown how their pods ended. Only the
//! pod says what a build has pushed, so that it is read before the build counts. Needs a client.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    api::labels,
    builds::outcome::PushReport,
    controller::{
        error::{ReconcileError, call},
        family::observe::{Observer, jobs},
        object_cache::Key,
        stores::Stores,
    },
};

/// The label with which Kubernetes marks the Job of a pod.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The most pods of a Job that are read.
const MAX_PODS: u32 = 16;

/// The Jobs of a family that have completed and whose pods were read, by uid.
#[derive(Debug, Default)]
pub struct FinalPods(HashSet<String>);

impl Observer<'_> {
    /// Reads the pods of the builds that have completed without a pod that says how it ended. That
    /// is rare: a watch of pods is behind that of Jobs, or the pod is gone.
    pub(super) async fn read_final_pods(&mut self) -> Result<(), ReconcileError> {
        let stores = &self.context.stores;
        let unknown = unknown_ends(stores, &self.key);
        let is_unknown = |uid: &String| unknown.iter().any(|job| job.uid().as_ref() == Some(uid));
        self.cache.final_pods.0.retain(is_unknown);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        for job in unknown {
            let Some(uid) = job.uid() else { continue };
            if self.cache.final_pods.0.contains(&uid) {
                continue;
            }
            let name = job.name_any();
            let of_job =
                ListParams::default().labels(&format!("{JOB_NAME}={name}")).limit(MAX_PODS);
            let pods = call(|| format!("read the pods of Job {name}"), api.list(&of_job)).await?;
            for pod in pods {
                let is_ours = jobs::controlling_job(&pod).is_some_and(|owner| owner.uid == uid);
                if is_ours && pod.labels().contains_key(labels::FAMILY) {
                    stores.pods.record_write(pod);
                }
            }
            self.cache.final_pods.0.insert(uid);
        }
        Ok(())
    }
}

/// Returns the builds of a family that have completed and of which no pod says how it ended.
fn unknown_ends(stores: &Stores, family: &Key) -> Vec<Arc<Job>> {
    let mut jobs = stores.jobs.group(family);
    jobs.retain(|job| jobs::is_build(job) && jobs::has_completed(job));
    if jobs.is_empty() {
        return jobs;
    }
    let mut pods: HashMap<String, Vec<Pod>> = HashMap::new();
    for pod in stores.pods.group(family) {
        if let Some(owner) = jobs::controlling_job(&pod) {
            pods.entry(owner.uid.clone()).or_default().push(Pod::clone(&pod));
        }
    }
    jobs.retain(|job| {
        let pods = job.uid().and_then(|uid| pods.get(&uid)).map_or(&[][..], Vec::as_slice);
        PushReport::of(job, pods) == PushReport::Unknown
    });
    jobs
}
