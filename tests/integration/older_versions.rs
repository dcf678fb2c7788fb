//! The controller on the oldest version of Kubernetes that the chart allows. The other tests run on
//! the version of the development cluster; dev/README.md says how to run them all on an older one.

use serde_json::json;

use super::{
    builder::Builder,
    restart::Scene,
    support::{
        Cluster,
        objects::define,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// The oldest version that the chart allows (`kubeVersion`).
const OLDEST: &str = "1.33";
/// A watch that begins with a streamed list.
const STREAMED: &str = "/apis/apps/v1/deployments?watch=true&timeoutSeconds=1\
                        &sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                        &allowWatchBookmarks=true";

#[tokio::test]
async fn a_family_is_built_and_rolled_out_on_the_oldest_version() {
    let cluster = Cluster::start_emulating("oldest", OLDEST);
    let version = cluster.run("kubectl", &["get", "--raw", "/version"]).expect("a version");
    assert!(version.contains("\"emulationMinor\": \"33\""), "{version}");
    let refused = cluster.run("kubectl", &["get", "--raw", STREAMED]).expect_err("no such lists");
    assert!(refused.contains("sendInitialEvents"), "{refused}");

    let client = cluster.client().await;
    define(&client).await;
    Builder::strategy(&client).await;
    let scene = Scene::on(&cluster, &client, "oldest").await;
    let repository = format!("{}/{}", cluster.registry, scene.place.namespace);
    scene.place.deployment("web", &format!("{repository}/join:latest")).await;
    let mut spec = scene.spec();
    spec["images"][3]["rollout"] = json!([{ "deployment": { "name": "web" } }]);
    scene.place.apply_family("app", &spec).await.expect("a family");
    let settings = Settings::new(&cluster, &scene.place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    scene.place.wait_family("app", "Ready", 60).await;
    scene.assert_builds("app", 1).await;

    let before = scene.place.digests("app").await;
    scene.move_upstream("2").await;
    let digest = scene.place.wait_rebuilt("app", &before, 60).await["join"].clone();
    wait_for("the Deployment to run the new digest", 60, async || {
        let arguments =
            ["-n", &scene.place.namespace, "get", "deployment", "web", "-o", "jsonpath={..image}"];
        let image = cluster.run("kubectl", &arguments)?;
        image.ends_with(&digest).then_some(()).ok_or(image)
    })
    .await;
}
