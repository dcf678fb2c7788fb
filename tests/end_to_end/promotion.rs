//! `promotion: Cascade`: floating tags and workloads move together once the cascade is complete. It
//! is incomplete while the build of one image exceeds its memory limit.

use std::collections::BTreeMap;

use groundswell::api::{CascadePhase, FailureClass, ImageState, condition::Reason};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::{
    installation::Session,
    rollouts::deployment,
    scene::{CASCADE, FAMILY, REGISTRY, Scene, diamond},
    support::{objects::show, wait::wait_for},
};

/// The indexes of these images in the diamond.
const BASE: usize = 0;
const LEFT: usize = 1;
const RIGHT: usize = 2;

#[tokio::test]
async fn tags_move_together_once_the_last_image_is_built() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "promotion").await;
    let place = &scene.place;
    let mut spec = scene.spec(diamond());
    spec["policy"]["promotion"] = json!("Cascade");
    spec["policy"]["retries"] = json!({ "build": 0, "infrastructure": 1 });
    // Enough for the first build.
    spec["images"][LEFT]["strategy"] =
        json!({ "parameters": { "memory": "64Mi", "memoryLimit": "192Mi" } });
    spec["images"][RIGHT]["rollout"] = json!([{ "deployment": { "name": "right" } }]);
    place
        .apply::<Deployment>(deployment(
            "right",
            &format!("{REGISTRY}/{}/right:latest", place.namespace),
        ))
        .await;
    let first = scene.build(&spec).await;
    place.wait_rolled_out(FAMILY, "right").await;
    assert_eq!(scene.latest(first.keys()).await, first);

    append(&mut spec, BASE, "RUN echo another > /release");
    append(&mut spec, LEFT, "RUN dd if=/dev/zero of=/dev/null bs=400M count=1");
    place.apply_family(FAMILY, &spec).await.expect("a family");
    assert_out_of_memory(&scene).await;
    assert_nothing_moved(&scene, &first).await;

    spec["images"][LEFT]["strategy"]["parameters"]["memoryLimit"] = json!("2Gi");
    place.apply_family(FAMILY, &spec).await.expect("a family");
    wait_moved_together(&scene, &first).await;
    place.wait_family(FAMILY, "Ready", 60).await;
    let cascade = place.last_cascade().await;
    let message = cascade.status.clone().unwrap_or_default().message;
    assert!(message.contains("its floating tags move together"), "{message}");
    let built = ["left", "join"].map(|image| (image.to_owned(), 1));
    assert_eq!(place.builds(FAMILY, Some(&cascade)).await, built.into());
    let digests = place.digests(FAMILY).await;
    assert_eq!(scene.latest(digests.keys()).await, digests);
    assert_eq!(place.wait_rolled_out(FAMILY, "right").await, digests["right"]);
}

/// Asserts that the build of `left` is retried, and then fails because it exceeds its memory limit,
/// while the other images are built.
async fn assert_out_of_memory(scene: &Scene) {
    let place = &scene.place;
    place
        .wait_image(FAMILY, "left", "to be retried after a delay", |image| {
            let status = image.status.clone().unwrap_or_default();
            (status.state, status.reason.as_str())
                == (ImageState::Queued, Reason::Retrying.as_str())
                && status.message.starts_with("retried at ")
        })
        .await;
    let (reason, message) = place.wait_family(FAMILY, "Stalled", CASCADE).await;
    assert_eq!(reason, Reason::ImagesFailed, "{message}");
    let status = place.image(FAMILY, "left").await.status.unwrap_or_default();
    assert_eq!(
        (status.state, status.reason.as_str()),
        (ImageState::Failed, Reason::InfrastructureFailed.as_str())
    );
    let failure = status.failure.expect("a failure");
    assert_eq!((failure.build, failure.infrastructure), (0, 2), "{failure:?}");
    assert_eq!(failure.last.class, FailureClass::Infrastructure, "{failure:?}");
    assert_eq!(failure.last.reason, Reason::OutOfMemory, "{failure:?}");
    let status = place.image(FAMILY, "join").await.status.unwrap_or_default();
    assert_eq!(status.state, ImageState::Blocked);
    assert!(status.message.contains("left"), "{}", status.message);
}

/// Asserts that the cascade has ended without `left` and `join`, reports them as missing, and has
/// moved no floating tag and no workload.
async fn assert_nothing_moved(scene: &Scene, first: &BTreeMap<String, String>) {
    let place = &scene.place;
    let cascade = place.last_cascade().await;
    let status = cascade.status.clone().unwrap_or_default();
    assert_eq!(status.phase, CascadePhase::Incomplete, "{}", show(&cascade));
    let missing = "no floating tag moves, because required images are missing: left, join";
    assert!(status.message.contains(missing), "{}", status.message);
    let built =
        [("base", 1), ("left", 2), ("right", 1)].map(|(image, builds)| (image.to_owned(), builds));
    assert_eq!(place.builds(FAMILY, Some(&cascade)).await, built.into());

    assert_eq!(scene.latest(first.keys()).await, *first);
    for image in ["base", "right"] {
        let status = place.image(FAMILY, image).await.status.unwrap_or_default();
        assert_eq!(status.state, ImageState::Current, "{image}");
        assert_ne!(status.digest.as_ref(), first.get(image), "{image} was built");
        assert_eq!(status.promoted.as_ref(), first.get(image), "{image}");
        // A tag that names the build moves at once, because no workload follows it.
        assert_eq!(Some(scene.tag(image, "r2").await), status.digest, "{image}:r2");
    }
    assert_eq!(
        place.deployed("right").await,
        format!("{REGISTRY}/{}/right@{}", place.namespace, first["right"])
    );
}

/// Waits until every floating tag has moved. Fails if one does so before the last image is built.
async fn wait_moved_together(scene: &Scene, first: &BTreeMap<String, String>) {
    wait_for("every floating tag to move", CASCADE, async || {
        let now = scene.latest(first.keys()).await;
        let moved = now.iter().filter(|(image, digest)| first.get(*image) != Some(digest)).count();
        let pushed = scene.pushed("join");
        assert!(
            moved == 0 || pushed == 2,
            "{moved} tags have moved, and `join` is built {pushed} times"
        );
        if moved == now.len() {
            Ok(())
        } else {
            Err(show(&scene.place.image(FAMILY, "join").await))
        }
    })
    .await;
}

/// Adds an instruction to the Dockerfile of an image.
fn append(spec: &mut Value, image: usize, instruction: &str) {
    let dockerfile = &mut spec["images"][image]["source"]["inline"];
    *dockerfile = json!(format!("{}{instruction}\n", dockerfile.as_str().expect("a Dockerfile")));
}
