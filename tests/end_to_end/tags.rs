//! Tags that somebody else has moved.

use groundswell::api::condition::reason;
use serde_json::json;

use super::{
    installation::Session,
    scene::{FAMILY, Scene, WAVE, image},
    support::wait::wait_for,
};

#[tokio::test]
async fn a_floating_tag_is_put_back_and_an_immutable_one_never_moved() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "tags").await;
    scene.take_tag("app:r1");
    let elsewhere = scene.tag("app", "r1").await;
    assert!(!elsewhere.is_empty());

    scene.place.apply_family(FAMILY, &scene.spec(json!([image("app", "alpine")]))).await.expect("a family");
    let (told, message) = scene.place.wait_family(FAMILY, "Stalled", WAVE).await;
    assert_eq!(told, reason::TAG_IMMUTABLE, "{message}");
    let digests = scene.place.digests(FAMILY).await;
    assert_eq!(scene.tag("app", "latest").await, digests["app"]);
    assert_eq!(scene.tag("app", "r1").await, elsewhere);
    scene.place.wait_event(reason::TAG_IMMUTABLE, "app:r1").await;

    scene.take_tag("app:latest");
    wait_for("the floating tag to be put back", 60, async || {
        let standing = scene.tag("app", "latest").await;
        if standing == digests["app"] { Ok(()) } else { Err(standing) }
    })
    .await;
    scene.place.wait_event(reason::TAG_MOVED, "app:latest").await;
    assert_eq!(scene.tag("app", "r1").await, elsewhere);
    assert_eq!(scene.place.jobs(FAMILY).await.len(), 1, "tags build nothing");
}
