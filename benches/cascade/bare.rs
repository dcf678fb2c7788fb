//! The bare loop: creates each Job of a graph as soon as the pods of its parents have succeeded,
//! and does nothing else.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use futures::{StreamExt, future};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::task::JoinSet;

use super::{
    build_log::{Build, BuildLog},
    layered::Layered,
    support::{Cluster, images::Images, objects::Place, wait::wait_for},
    writer::Writer,
};

/// Labels that the API server sets on a Job's pods by itself.
const SERVER_LABELS: [&str; 4] = [
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
];

/// Runs the graph once in a namespace of its own, with the Jobs that a cascade has created. Returns
/// the builds, and the time at which the last pod had succeeded.
pub async fn run(
    cluster: &Cluster,
    client: &Client,
    layered: &Layered,
    cascade: &[Build],
) -> (Vec<Build>, Instant) {
    let place = Place::new(client, "bare").await;
    let build_log = BuildLog::open(&place);
    let _writer = Writer::start(&place, &Images::new(&cluster.registry), layered);
    let jobs: HashMap<&str, Job> =
        cascade.iter().map(|build| (build.image.as_str(), unsent(&build.job))).collect();
    let index: HashMap<&str, usize> = layered
        .images
        .iter()
        .enumerate()
        .map(|(index, image)| (image.name.as_str(), index))
        .collect();

    let mut missing: Vec<usize> = layered.images.iter().map(|image| image.parents.len()).collect();
    let mut children = vec![Vec::new(); layered.images.len()];
    for (child, image) in layered.images.iter().enumerate() {
        image.parents.iter().for_each(|parent| children[*parent].push(child));
    }
    let mut creating = JoinSet::new();
    let create = |creating: &mut JoinSet<()>, image: usize| {
        let (api, job): (Api<Job>, Job) =
            (place.api(), jobs[layered.images[image].name.as_str()].clone());
        creating.spawn(async move {
            api.create(&PostParams::default(), &job).await.expect("a Job");
        });
    };
    let mut succeeded = watcher(place.api::<Pod>(), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .filter_map(|pod| future::ready(pod.ok().and_then(|pod| image_of_succeeded(&pod))))
        .boxed();
    (0..missing.len())
        .filter(|image| missing[*image] == 0)
        .for_each(|image| create(&mut creating, image));
    let mut done = HashSet::new();
    while done.len() < missing.len() {
        let image = index[succeeded.next().await.expect("a watch").as_str()];
        if !done.insert(image) {
            continue;
        }
        for child in &children[image] {
            missing[*child] -= 1;
            if missing[*child] == 0 {
                create(&mut creating, *child);
            }
        }
    }
    let ended = Instant::now();
    wait_for("every build to be recorded", 30, async || {
        let count = build_log.count();
        if count == (done.len(), done.len()) { Ok(()) } else { Err(format!("{count:?}")) }
    })
    .await;
    (build_log.builds(), ended)
}

fn image_of_succeeded(pod: &Pod) -> Option<String> {
    let succeeded = pod.status.as_ref()?.phase.as_deref() == Some("Succeeded");
    pod.labels().get("groundswell.dev/image").filter(|_| succeeded).cloned()
}

/// A Job as it was before it was sent to the API server.
fn unsent(job: &Job) -> Job {
    let mut spec = job.spec.clone().expect("a spec");
    spec.selector = None;
    if let Some(labels) =
        spec.template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut())
    {
        labels.retain(|name, _| !SERVER_LABELS.contains(&name.as_str()));
    }
    let metadata = ObjectMeta {
        name: job.metadata.name.clone(),
        labels: job.metadata.labels.clone(),
        annotations: job.metadata.annotations.clone(),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: Some(spec), status: None }
}
