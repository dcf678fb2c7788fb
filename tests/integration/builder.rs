//! Plays the builders: what a real one would push is pushed for every Job, and its pod ends as
//! asked for.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use groundswell::api::labels;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::task::JoinHandle;

use super::support::{
    family::label,
    images::Images,
    objects::Place,
    played::{self, Task},
};

/// The strategy whose Jobs are played. Its pods are never started: this cluster has no scheduler.
pub const STRATEGY: &str = "played";

/// Between two looks for new Jobs.
const PAUSE: Duration = Duration::from_millis(50);

/// Plays the builds of one namespace until it is dropped.
pub struct Builder {
    work: JoinHandle<()>,
    held: Arc<Mutex<HashSet<String>>>,
    same: Arc<Mutex<HashSet<String>>>,
}

impl Builder {
    /// Makes the strategy.
    pub async fn strategy(client: &Client) {
        Self::strategy_named(client, STRATEGY).await;
    }

    /// Makes the same strategy under another name.
    pub async fn strategy_named(client: &Client, name: &str) {
        played::strategy(client, name, None).await;
    }

    /// Begins.
    pub fn start(place: &Place, images: &Images) -> Self {
        let held = Arc::new(Mutex::new(HashSet::new()));
        let same = Arc::new(Mutex::new(HashSet::new()));
        let (place, images, waiting, unchanged) =
            (place.clone(), images.clone(), Arc::clone(&held), Arc::clone(&same));
        let work = tokio::spawn(async move {
            let mut done = HashSet::new();
            loop {
                let jobs = place.list::<Job>().await;
                for job in jobs
                    .into_iter()
                    .filter(|job| label(job, labels::COMPONENT) == labels::COMPONENT_BUILD)
                {
                    let image = label(&job, labels::IMAGE);
                    let of_held = waiting.lock().unwrap().contains(&image);
                    let comes_out_the_same = unchanged.lock().unwrap().contains(&image);
                    let pod = pod_of(&place, &job).await;
                    if let Some(pod) = pod.filter(|_| !of_held && !done.contains(&job.name_any())) {
                        let task = Task::of(pod.spec.as_ref().expect("a pod"));
                        if comes_out_the_same {
                            task.push_same(&images).await;
                        } else {
                            task.push(&images).await;
                        }
                        end(&place, &pod).await;
                        done.insert(job.name_any());
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { work, held, same }
    }

    /// Lets the builds of an image come out with the same layer, whatever their inputs.
    pub fn same(&self, image: &str) {
        self.same.lock().unwrap().insert(image.into());
    }

    /// Keeps the builds of an image running.
    pub fn hold(&self, image: &str) {
        self.held.lock().unwrap().insert(image.into());
    }

    /// Lets them go on.
    pub fn release(&self, image: &str) {
        self.held.lock().unwrap().remove(image);
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn pod_of(place: &Place, job: &Job) -> Option<Pod> {
    let of_job =
        ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
    place.api::<Pod>().list(&of_job).await.expect("pods").items.pop()
}

async fn end(place: &Place, pod: &Pod) {
    let status = json!({ "status": { "phase": "Succeeded" } });
    place
        .api::<Pod>()
        .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status))
        .await
        .expect("a pod's end");
}
