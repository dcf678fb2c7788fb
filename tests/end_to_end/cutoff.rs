//! A rebuild that changes nothing: the cascade stops there and reports it, and the registry keeps
//! the fingerprint.

use groundswell::{
    api::{CascadePhase, ImageResult, ImageState},
    engine::tags::pushed_as,
};
use serde_json::{Value, json};

use super::{
    installation::Session,
    scene::{CASCADE, FAMILY, Scene, image},
    support::objects::show,
};

#[tokio::test]
async fn a_rebuild_with_the_same_content_ends_the_cascade_there() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "cutoff").await;
    let place = &scene.place;
    let mut spec = scene.spec(json!([image("rebuilt", "alpine"), compiled(), packaged()]));
    spec["policy"]["cutoff"] = json!("Content");
    let digests = scene.build(&spec).await;

    let moved = scene.move_upstream("2");
    let cascade = place.wait_cascade(&moved).await;
    place.wait_family(FAMILY, "Ready", CASCADE).await;
    let after = place.digests(FAMILY).await;
    assert_ne!(after["rebuilt"], digests["rebuilt"], "its base has another label");
    for image in ["compiled", "packaged"] {
        assert_eq!(after[image], digests[image], "{image}");
        assert_eq!(scene.tag(image, "latest").await, digests[image], "{image}:latest");
        assert_eq!(scene.tag(image, "r2").await, "", "{image}:r2");
    }
    let built = [("compiled", 2), ("packaged", 1), ("rebuilt", 2)]
        .map(|(image, builds)| (image.to_owned(), builds));
    assert_eq!(place.builds(FAMILY, None).await, built.into());

    // The record of the cascade, and of each image.
    let status = cascade.status.clone().unwrap_or_default();
    assert_eq!(status.phase, CascadePhase::Complete, "{}", show(&cascade));
    assert!(status.message.starts_with("1 rebuilt, 2 spared"), "{}", status.message);
    let row = |name: &str| -> ImageResult {
        let found = status.images.iter().find(|image| image.name == name);
        found.cloned().unwrap_or_else(|| panic!("{name} is not in the Cascade\n{}", show(&cascade)))
    };
    for (name, builds, spared, why) in [
        ("rebuilt", 1, false, "alpine"),
        ("compiled", 1, true, "the same content as build 1"),
        ("packaged", 0, true, "inputs"),
    ] {
        let row = row(name);
        assert_eq!(
            (row.builds, row.spared, row.state),
            (builds, spared, ImageState::Current),
            "{}",
            show(&cascade)
        );
        assert!(row.message.contains(why), "{name}: {why:?} is not in {:?}", row.message);
    }
    let record = place.image(FAMILY, "compiled").await.status.unwrap_or_default();
    assert!(record.history.first().is_some_and(|build| build.spared), "{:?}", record.history);
    assert_eq!(record.build, Some(1));

    // The registry has a tag for the fingerprint whose content did not change, so that losing every
    // record builds nothing.
    let fingerprint = record.fingerprint.expect("a fingerprint");
    assert_eq!(scene.tag("compiled", &pushed_as(&fingerprint.into())).await, digests["compiled"]);
    let jobs = place.job_uids(FAMILY).await;
    place.lose_records(FAMILY).await;
    assert_eq!(place.digests(FAMILY).await, after);
    assert_eq!(place.job_uids(FAMILY).await, jobs);
    for (image, digest) in &after {
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}:latest");
    }
}

/// Returns an image that is compiled with the upstream and contains nothing of it.
fn compiled() -> Value {
    let mut compiled = image("compiled", "alpine");
    compiled["from"][0]["use"] = json!("BuildStage");
    compiled["source"]["inline"] = json!(
        "FROM alpine:3.24 AS compiler\nRUN seq 1000 | sha256sum > /result\nFROM scratch\nCOPY \
         --from=compiler /result /result\n"
    );
    compiled
}

/// Returns an image that is built on `compiled` and would differ if that did.
fn packaged() -> Value {
    let mut packaged = image("packaged", "compiled");
    packaged["source"]["inline"] = json!("FROM compiled\nLABEL packaged=yes\n");
    packaged
}
