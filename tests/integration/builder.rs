//! Plays the builders: pushes for every Job what a real builder would push, and ends its pod.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use groundswell::api::labels;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
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

/// How a build ends.
#[derive(Clone, Copy, Debug, Default)]
enum Ending {
    /// It pushes, and reports the digest.
    #[default]
    Reports,
    /// It pushes, and reports nothing.
    IsSilent,
    /// It fails, and pushes nothing.
    Fails,
}

/// How the builds of one image are played.
#[derive(Clone, Debug, Default)]
struct Play {
    /// They do not end.
    is_held: bool,
    /// How they end.
    ending: Ending,
    /// Their own layer is the same, whatever their inputs.
    is_same: bool,
    /// They push images for an architecture that no build is for.
    is_foreign: bool,
    /// Labels in the configuration of the built images.
    labels: BTreeMap<String, String>,
}

/// Plays the builds of one namespace until it is dropped.
pub struct Builder {
    work: JoinHandle<()>,
    plays: Arc<Mutex<HashMap<String, Play>>>,
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
        let plays: Arc<Mutex<HashMap<String, Play>>> = Arc::default();
        let (place, images, of_images) = (place.clone(), images.clone(), Arc::clone(&plays));
        let work = tokio::spawn(async move {
            let mut done = HashSet::new();
            loop {
                let jobs = place.list::<Job>().await;
                for job in jobs
                    .into_iter()
                    .filter(|job| label(job, labels::COMPONENT) == labels::COMPONENT_BUILD)
                {
                    let image = label(&job, labels::IMAGE);
                    let play = of_images.lock().unwrap().get(&image).cloned().unwrap_or_default();
                    let pod = pod_of(&place, &job).await;
                    if let Some(pod) = pod.filter(|_| !play.is_held && !done.contains(&job.uid())) {
                        let ended = match play.ending {
                            Ending::Fails => failed(),
                            ending => succeeded(ending, &push(&pod, &play, &images).await),
                        };
                        end(&place, &pod, &ended).await;
                        // A Job that was deleted and is needed again has the same name.
                        done.insert(job.uid());
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { work, plays }
    }

    /// Makes every build of an image push the same layer, whatever its inputs.
    pub fn same(&self, image: &str) {
        self.play(image, |play| play.is_same = true);
    }

    /// Makes the builds of an image push images for an architecture that no build is for.
    pub fn foreign(&self, image: &str) {
        self.play(image, |play| play.is_foreign = true);
    }

    /// Makes the builds of an image report nothing of what they push.
    pub fn silence(&self, image: &str) {
        self.play(image, |play| play.ending = Ending::IsSilent);
    }

    /// Keeps the builds of an image running.
    pub fn hold(&self, image: &str) {
        self.play(image, |play| play.is_held = true);
    }

    /// Lets the builds of an image end again.
    pub fn release(&self, image: &str) {
        self.play(image, |play| play.is_held = false);
    }

    /// Makes the builds of an image fail.
    pub fn fail(&self, image: &str) {
        self.play(image, |play| play.ending = Ending::Fails);
    }

    /// Lets the builds of an image succeed again.
    pub fn repair(&self, image: &str) {
        self.play(image, |play| play.ending = Ending::Reports);
    }

    /// Gives these labels, and no others, to what the builds of an image push.
    pub fn label(&self, image: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.play(image, |play| play.labels = labels.collect());
    }

    fn play(&self, image: &str, change: impl FnOnce(&mut Play)) {
        change(self.plays.lock().unwrap().entry(image.into()).or_default());
    }
}

async fn push(pod: &Pod, play: &Play, images: &Images) -> String {
    let mut task = Task::of(pod.spec.as_ref().expect("a pod"));
    task.label(&play.labels);
    if play.is_foreign {
        task.push_for("s390x", images).await
    } else if play.is_same {
        task.push_same(images).await
    } else {
        task.push(images).await
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

/// The status of a pod whose builder has failed.
fn failed() -> Value {
    let ended = json!({ "exitCode": 1, "reason": "Error", "message": "ERROR: failed to solve: \
        process \"/bin/sh -c make\" did not complete successfully: exit code: 2" });
    json!({ "phase": "Failed", "containerStatuses": [{
        "name": "build", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": ended },
    }] })
}

/// The status of a pod whose builder has pushed this digest.
fn succeeded(ending: Ending, digest: &str) -> Value {
    let report = if matches!(ending, Ending::Reports) { digest } else { "" };
    let ended = json!({ "exitCode": 0, "reason": "Completed", "message": report });
    json!({ "phase": "Succeeded", "containerStatuses": [{
        "name": "build", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": ended },
    }] })
}

/// Ends the pod of a build as a kubelet would.
async fn end(place: &Place, pod: &Pod, status: &Value) {
    let api = place.api::<Pod>();
    let patch = Patch::Merge(json!({ "status": status }));
    match api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await {
        Ok(_) => {}
        // Its build was cancelled meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => panic!("a pod's end: {error}"),
    }
}
