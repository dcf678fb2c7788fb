//! Tags that another client has moved.

use groundswell::api::condition::Reason;
use serde_json::json;

use super::{
    installation::Session,
    scene::{CASCADE, FAMILY, Scene, image},
    support::wait::wait_for,
};

#[tokio::test]
async fn a_floating_tag_is_restored_and_an_immutable_one_never_moved() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "tags").await;
    let mut spec = scene.spec(json!([image("app", "alpine")]));
    let built = scene.build(&spec).await;
    // The tag of the next build.
    scene.take_tag("app:r2");
    let elsewhere = scene.tag("app", "r2").await;
    assert!(!elsewhere.is_empty());

    let dockerfile =
        spec["images"][0]["source"]["inline"].as_str().expect("a Dockerfile").to_owned();
    spec["images"][0]["source"]["inline"] =
        format!("{dockerfile}RUN echo again >> /lineage\n").into();
    scene.place.apply_family(FAMILY, &spec).await.expect("a family");
    let (reason, message) = scene.place.wait_family(FAMILY, "Stalled", CASCADE).await;
    assert_eq!(reason, Reason::TagImmutable, "{message}");
    let digests = scene.place.digests(FAMILY).await;
    assert_eq!(scene.tag("app", "latest").await, digests["app"]);
    assert_eq!(
        (scene.tag("app", "r1").await, scene.tag("app", "r2").await),
        (built["app"].clone(), elsewhere.clone())
    );
    scene.place.wait_event(Reason::TagImmutable, "app:r2").await;

    scene.take_tag("app:latest");
    wait_for("the floating tag to be restored", 60, async || {
        let digest = scene.tag("app", "latest").await;
        if digest == digests["app"] { Ok(()) } else { Err(digest) }
    })
    .await;
    scene.place.wait_event(Reason::TagMoved, "app:latest").await;
    assert_eq!(scene.tag("app", "r2").await, elsewhere);
    assert_eq!(scene.place.jobs(FAMILY).await.len(), 2, "tags build nothing");
}
