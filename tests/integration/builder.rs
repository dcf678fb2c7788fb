//! Plays the builders: pushes for every Job what a real builder would push, and ends its pod.

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

/// The strategy whose Jobs are played. Its pods never start: this cluster has no scheduler.
pub const STRATEGY: &str = "played";

/// Pause between two lists of the Jobs.
const PAUSE: Duration = Duration::from_millis(50);

/// Plays the builds of one namespace until it is dropped.
pub struct Builder {
    work: JoinHandle<()>,
    held: Arc<Mutex<HashSet<String>>>,
    same: Arc<Mutex<HashSet<String>>>,
    foreign: Arc<Mutex<HashSet<String>>>,
}

impl Builder {
    /// Creates the strategy.
    pub async fn strategy(client: &Client) {
        Self::strategy_named(client, STRATEGY).await;
    }

    /// Creates the same strategy under another name.
    pub async fn strategy_named(client: &Client, name: &str) {
        played::strategy(client, name, None).await;
    }

    /// Starts to play the builds of a namespace.
    pub fn start(place: &Place, images: &Images) -> Self {
        let held = Arc::new(Mutex::new(HashSet::new()));
        let same = Arc::new(Mutex::new(HashSet::new()));
        let foreign = Arc::new(Mutex::new(HashSet::new()));
        let (place, images, waiting, unchanged) =
            (place.clone(), images.clone(), Arc::clone(&held), Arc::clone(&same));
        let mislabelled = Arc::clone(&foreign);
        let work = tokio::spawn(async move {
            let mut done = HashSet::new();
            loop {
                let jobs = place.list::<Job>().await;
                for job in jobs
                    .into_iter()
                    .filter(|job| label(job, labels::COMPONENT) == labels::COMPONENT_BUILD)
                {
                    let image = label(&job, labels::IMAGE);
                    let is_held = waiting.lock().unwrap().contains(&image);
                    let is_unchanged = unchanged.lock().unwrap().contains(&image);
                    let pod = pod_of(&place, &job).await;
                    if let Some(pod) = pod.filter(|_| !is_held && !done.contains(&job.name_any())) {
                        let task = Task::of(pod.spec.as_ref().expect("a pod"));
                        if mislabelled.lock().unwrap().contains(&image) {
                            task.push_for("s390x", &images).await;
                        } else if is_unchanged {
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
        Self { work, held, same, foreign }
    }

    /// Makes every build of an image push the same layer, whatever its inputs.
    pub fn same(&self, image: &str) {
        self.same.lock().unwrap().insert(image.into());
    }

    /// Makes the builds of an image push images for an architecture that no build is for.
    pub fn foreign(&self, image: &str) {
        self.foreign.lock().unwrap().insert(image.into());
    }

    /// Keeps the builds of an image running.
    pub fn hold(&self, image: &str) {
        self.held.lock().unwrap().insert(image.into());
    }

    /// Lets the builds of an image end again.
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
    let api = place.api::<Pod>();
    let patch = Patch::Merge(status);
    match api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await {
        Ok(_) => {}
        // Its build was cancelled meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => panic!("a pod's end: {error}"),
    }
}
