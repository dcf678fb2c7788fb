//! Plays the builders of simulated pods: pushes what a real one would push, and then lets the pod
//! succeed.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt, future};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::task::JoinHandle;

use super::{
    layered::Layered,
    support::{images::Images, objects::Place, played::Task},
};

/// With this annotation a running pod of the simulated node succeeds after the time that it names;
/// see `dev/cluster.d/simulated-node.yaml`.
const ENDS_AFTER: &str = "simulated.groundswell.dev/ends-after";
/// How many pushes go on at once.
const AT_ONCE: usize = 8;

/// Plays the builds of one namespace until it is dropped.
pub struct Writer(JoinHandle<()>);

impl Writer {
    /// Begins. A build takes as long as `family` says of its image.
    pub fn start(place: &Place, images: &Images, family: &Layered) -> Self {
        let (place, images, family) = (place.clone(), images.clone(), Arc::new(family.clone()));
        Self(tokio::spawn(async move {
            let mut begun = HashSet::new();
            watcher(place.api::<Pod>(), watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .filter_map(|pod| future::ready(pod.ok().filter(runs)))
                .filter(|pod| future::ready(begun.insert(pod.uid())))
                .for_each_concurrent(AT_ONCE, |pod| {
                    let (place, images, family) = (place.clone(), images.clone(), Arc::clone(&family));
                    // A task of its own, because one that only waits for its turn in the stream
                    // would wait for the watch.
                    async move { tokio::spawn(play(place, images, family, pod)).await.expect("a push") }
                })
                .await;
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

async fn play(place: Place, images: Images, family: Arc<Layered>, pod: Pod) {
    let image = pod
        .labels()
        .get("groundswell.dev/image")
        .and_then(|image| family.image(image))
        .expect("an image");
    Task::of(pod.spec.as_ref().expect("a pod")).push(&images).await;
    let pushed =
        json!({ "metadata": { "annotations": { ENDS_AFTER: format!("{}ms", image.takes) } } });
    let api: Api<Pod> = place.api();
    api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(pushed))
        .await
        .expect("the pod");
}
