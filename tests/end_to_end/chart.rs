//! The chart on a cluster in use: it is upgraded, uninstalled and installed again.

use groundswell::api::{BuildStrategy, ManagedImage};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{
    installation::{NAMESPACE, RELEASE, Session},
    rollouts::deployment,
    scene::{FAMILY, REGISTRY, Scene, image},
    support::wait::wait_for,
};

#[tokio::test]
async fn an_upgrade_and_an_uninstallation_disturb_nothing() {
    let session = Session::alone().await;
    let scene = Scene::new(&session, "chart").await;
    let place = &scene.place;
    let mut app = image("app", "alpine");
    app["rollout"] = json!([{ "deployment": { "name": "web" } }]);
    place
        .apply::<Deployment>(deployment(
            "web",
            &format!("{REGISTRY}/{}/app:latest", place.namespace),
        ))
        .await;
    scene.build(&scene.spec(json!([app]))).await;
    place.wait_rolled_out(FAMILY, "app").await;
    let before = undisturbed_state(&scene).await;
    let replicas = names(&session).await;

    session.install(&["log.filter=groundswell=debug\\,info"]);
    let replaced = names(&session).await;
    assert!(
        replaced.iter().all(|name| !replicas.contains(name)),
        "{replaced:?} are not all new, after {replicas:?}"
    );
    assert_served(&scene, &mut app, "upgraded").await;
    assert_eq!(undisturbed_state(&scene).await, before);

    let uninstall = ["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "2m"];
    session.cluster.run("helm", &uninstall).expect("uninstalled");
    wait_for("the operator's pods to be gone", 60, async || {
        let left = names(&session).await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert_kept(&session).await;
    assert_eq!(undisturbed_state(&scene).await, before);

    session.install(&[]);
    assert_served(&scene, &mut app, "again").await;
    assert_eq!(undisturbed_state(&scene).await, before);
}

async fn names(session: &Session) -> Vec<String> {
    let pods = session.operators().await;
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(ResourceExt::name_any)
        .collect()
}

/// Returns what must not change: the Jobs, the records and their digests, the pods of the workload.
async fn undisturbed_state(scene: &Scene) -> [Vec<String>; 3] {
    let images: Vec<ManagedImage> = scene.place.list().await;
    let images = images.iter().map(|image| {
        let digest = image.status.as_ref().and_then(|status| status.digest.clone());
        format!("{} {:?} {digest:?}", image.name_any(), image.uid())
    });
    let pods: Vec<Pod> = scene.place.list().await;
    let pods = pods.iter().filter(|pod| pod.labels().get("app").is_some_and(|app| app == "web"));
    let pods = pods.map(|pod| {
        let ready = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .all(|c| c.ready);
        format!("{} ready {ready}", pod.name_any())
    });
    [scene.place.job_uids(FAMILY).await, images.collect(), pods.collect()]
}

/// Adds a tag to the image and waits until it is set, which shows that the operator has reconciled
/// the family.
async fn assert_served(scene: &Scene, app: &mut Value, tag: &str) {
    app["tags"].as_array_mut().expect("tags").push(json!(tag));
    let digests = scene.build(&scene.spec(json!([app]))).await;
    wait_for(format!("the tag {tag}"), 60, async || {
        let digest = scene.tag("app", tag).await;
        if digest == digests["app"] { Ok(()) } else { Err(digest) }
    })
    .await;
}

/// Asserts that the CRDs and the strategy outlive the release.
async fn assert_kept(session: &Session) {
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    for plural in
        ["imagefamilies", "managedimages", "cascades", "familyrequests", "buildstrategies"]
    {
        let name = format!("{plural}.groundswell.dev");
        let definition =
            definitions.get(&name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(definition.metadata.deletion_timestamp.is_none(), "{name} is being deleted");
    }
    let strategies: Api<BuildStrategy> = Api::all(session.client.clone());
    strategies.get("buildkit").await.expect("the strategy");
}
