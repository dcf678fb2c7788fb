//! An open breaker lets the cure in: a repaired base is adopted although the builds of the broken
//! one are paused.

use groundswell::api::{ManagedImage, condition::Reason};
use serde_json::json;

use super::{
    builder::STRATEGY,
    client, cluster,
    restart::Scene,
    support::{
        family,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// The images, all built on the one upstream.
const IMAGES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[tokio::test]
async fn a_repaired_base_ends_the_pause_of_an_open_breaker() {
    let client = client().await;
    let scene = Scene::new(&client, "breaker").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    let repository = format!("{}/{}", cluster().registry, place.namespace);
    let upstream = format!("docker.io/library/{}", place.namespace);
    let mut spec = family::spec(&repository, &upstream, STRATEGY);
    spec["images"] = json!(IMAGES.map(|name| family::image(name, "alpine")));
    // Only a user or the cure can end the pause while the test runs.
    let breaker = json!({ "consecutiveFailures": 3, "probeAfter": "1h" });
    spec["policy"] = json!({
        "settle": "0s", "parallelism": 2, "retries": { "build": 0 }, "breaker": breaker,
    });
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let digests = place.digests("app").await;

    for image in IMAGES {
        scene.builder.fail(image);
    }
    scene.move_upstream("broken").await;
    wait_for("the breaker to open", 60, async || {
        let reasons = reasons(&scene).await;
        let open = reasons.iter().any(|reason| *reason == Reason::BreakerOpen.as_str());
        if open { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .await;

    for image in IMAGES {
        scene.builder.repair(image);
    }
    scene.move_upstream("repaired").await;
    place.wait_rebuilt("app", &digests, 60).await;
    let upstream = &place.family("app").await.status.expect("a status").upstreams[0];
    let adopted = upstream.adopted.as_ref().map(|adopted| adopted.digest.clone());
    let pushed = format!("library/{}", place.namespace);
    assert_eq!(adopted, Some(scene.images.digest(&pushed, "3.20").await));
}

/// The reason of each image.
async fn reasons(scene: &Scene) -> Vec<String> {
    let images = scene.place.list::<ManagedImage>().await;
    images.into_iter().map(|image| image.status.unwrap_or_default().reason).collect()
}
