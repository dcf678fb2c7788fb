//! Simulates the builders of simulated pods: pushes what a real builder would push, and then lets
//! the pod succeed.

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

/// The annotation with the time after which a running pod of the simulated node succeeds; see
/// `dev/cluster.d/simulated-node.yaml`.
const ENDS_AFTER: &str = "simulated.groundswell.dev/ends-after";
/// The annotation with the digest that the pod reports when it succeeds.
const PUSHED: &str = "simulated.groundswell.dev/pushed";
/// Maximum number of concurrent pushes.
const MAX_CONCURRENT_PUSHES: usize = 8;

/// Simulates the builders of one namespace until it is dropped.
pub struct Writer(JoinHandle<()>);

impl Writer {
    /// Starts to simulate builders. `family` determines the duration of each build.
    pub fn start(place: &Place, images: &Images, family: &Layered) -> Self {
        let (place, images, family) = (place.clone(), images.clone(), Arc::new(family.clone()));
        Self(tokio::spawn(async move {
            let mut begun = HashSet::new();
            watcher(place.api::<Pod>(), watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .filter_map(|pod| future::ready(pod.ok().filter(is_running)))
                .filter(|pod| future::ready(begun.insert(pod.uid())))
                .for_each_concurrent(MAX_CONCURRENT_PUSHES, |pod| {
                    let (place, images, family) =
                        (place.clone(), images.clone(), Arc::clone(&family));
                    // A separate task, because a future of the stream is polled only while the
                    // watch is polled.
                    async move {
                        tokio::spawn(play(place, images, family, pod)).await.expect("a push");
                    }
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

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

async fn play(place: Place, images: Images, family: Arc<Layered>, pod: Pod) {
    let image = pod
        .labels()
        .get("groundswell.dev/image")
        .and_then(|image| family.image(image))
        .expect("an image");
    let digest = Task::of(pod.spec.as_ref().expect("a pod")).push(&images).await;
    let ends_after = format!("{}ms", image.build_ms);
    let annotations = json!({ ENDS_AFTER: ends_after, PUSHED: digest });
    let pushed = json!({ "metadata": { "annotations": annotations } });
    let api: Api<Pod> = place.api();
    api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(pushed))
        .await
        .expect("the pod");
}
