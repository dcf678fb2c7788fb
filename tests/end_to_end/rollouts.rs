//! Rollouts: kinds of workloads, modes, and other namespaces.

use groundswell::api::{ManagedImage, RolloutState, labels};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::CronJob,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    installation::Session,
    scene::{CASCADE, FAMILY, REGISTRY, Scene, image},
    support::{objects::Place, wait::wait_for},
};

#[tokio::test]
async fn workloads_of_every_kind_are_moved() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "rollouts").await;
    let place = &scene.place;
    let mut app = image("app", "alpine");
    app["rollout"] = json!([
        { "deployment": { "name": "pinned" } },
        { "deployment": { "name": "floating" }, "mode": "Restart" },
        { "statefulSet": { "matchLabels": { "tier": "store" } }, "container": "app" },
        { "cronJob": { "name": "nightly" } },
    ]);
    let digests = scene.build(&scene.spec(json!([app]))).await;
    // The workloads are created after the first build, and are found nevertheless.
    let floating = format!("{REGISTRY}/{}/app:latest", place.namespace);
    place.apply::<Deployment>(deployment("pinned", &floating)).await;
    place.apply::<Deployment>(deployment("floating", &floating)).await;
    place.apply::<StatefulSet>(stateful_set("store", &floating)).await;
    place.apply::<CronJob>(cron_job("nightly", &floating)).await;
    assert_eq!(place.wait_rolled_out(FAMILY, "app").await, digests["app"]);
    assert_moved(place, &digests["app"]).await;

    scene.move_upstream("2");
    let rebuilt = place.wait_rebuilt(FAMILY, &digests, CASCADE).await;
    assert_eq!(place.wait_rolled_out(FAMILY, "app").await, rebuilt["app"]);
    assert_moved(place, &rebuilt["app"]).await;
    assert_eq!(
        place.deployed("floating").await,
        floating,
        "a restart does not change the image field"
    );
}

/// Asserts that the workloads name the digest or were restarted for it, and that their pods run it.
async fn assert_moved(place: &Place, digest: &str) {
    let pinned = format!("{REGISTRY}/{}/app@{digest}", place.namespace);
    assert_eq!(place.deployed("pinned").await, pinned);
    let nightly = place.api::<CronJob>().get("nightly").await.expect("the CronJob");
    let pod = nightly.spec.job_template.spec.and_then(|spec| spec.template.spec).expect("a pod");
    assert_eq!(
        pod.containers.first().and_then(|container| container.image.as_ref()),
        Some(&pinned)
    );
    for workload in ["pinned", "floating", "store"] {
        wait_for(format!("pods of {workload} to run {digest}"), 60, async || {
            let pods: Vec<Pod> = place.list().await;
            let of_workload = pods
                .iter()
                .filter(|pod| pod.labels().get("app").is_some_and(|app| app == workload));
            let running: Vec<String> = of_workload
                .flat_map(|pod| {
                    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten())
                })
                .map(|container| container.image_id.clone())
                .collect();
            let moved = running.len() == 1 && running.iter().all(|image| image.ends_with(digest));
            moved.then_some(()).ok_or(format!("{running:?}"))
        })
        .await;
    }
}

#[tokio::test]
async fn another_namespace_must_consent() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "rollouts-from").await;
    let other = Place::new(&session.client, "rollouts-to").await;
    let workload = format!("Deployment {}/web", other.namespace);
    let floating = format!("{REGISTRY}/{}/app:latest", scene.place.namespace);
    other.apply::<Deployment>(deployment("web", &floating)).await;
    let mut app = image("app", "alpine");
    app["rollout"] = json!([{ "deployment": { "name": "web", "namespace": other.namespace } }]);
    let digests = scene.build(&scene.spec(json!([app]))).await;

    let record = |image: &ManagedImage| {
        image.status.as_ref().and_then(|status| status.rollouts.first().cloned())
    };
    scene
        .place
        .wait_image(FAMILY, "app", "its rollout is refused", |image| {
            record(image).is_some_and(|record| record.state == RolloutState::Refused)
        })
        .await;
    let refused = record(&scene.place.image(FAMILY, "app").await).expect("a record");
    assert_eq!(refused.workload, workload);
    assert!(refused.message.contains(labels::ROLLOUT_FROM), "{}", refused.message);
    assert_eq!(other.deployed("web").await, floating);

    let consent =
        json!({ "metadata": { "annotations": { labels::ROLLOUT_FROM: scene.place.namespace } } });
    let namespaces: Api<Namespace> = Api::all(session.client.clone());
    namespaces
        .patch(&other.namespace, &PatchParams::default(), &Patch::Merge(consent))
        .await
        .expect("annotated");
    assert_eq!(scene.place.wait_rolled_out(FAMILY, "app").await, digests["app"]);
    let pinned = format!("{REGISTRY}/{}/app@{}", scene.place.namespace, digests["app"]);
    assert_eq!(other.deployed("web").await, pinned);
}

pub fn deployment(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": pod(name, image,
            "Always") },
    })
}

fn stateful_set(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name,
            "labels": { "tier": "store" } },
        "spec": { "selector": { "matchLabels": { "app": name } }, "serviceName": name,
            "template": pod(name, image, "Always") },
    })
}

/// Returns a `CronJob` that does not start by itself during the tests.
fn cron_job(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": name },
        "spec": { "schedule": "0 0 1 1 *", "jobTemplate": { "spec": { "template": pod(name, image,
            "Never") } } },
    })
}

fn pod(name: &str, image: &str, restart: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": name } },
        "spec": {
            "restartPolicy": restart, "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
            "containers": [{ "name": "app", "image": image, "imagePullPolicy": "Always" }],
        },
    })
}
