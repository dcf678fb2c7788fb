//! The operator's replicas: one is killed during a cascade, and another takes over.

use groundswell::api::ManagedImage;
use serde_json::json;

use super::{
    installation::Session,
    scene::{CASCADE, FAMILY, Scene, assert_complete, diamond, image},
    support::{objects::Place, wait::wait_for},
};

#[tokio::test]
async fn killed_in_a_cascade_nothing_is_built_twice() {
    let session = Session::alone().await;
    let scene = Scene::new(&session, "killed").await;
    let place = &scene.place;
    let digests = scene.build(&scene.spec(diamond())).await;

    scene.move_upstream("2");
    // The first time its container restarts in the same pod; the second time another pod takes
    // over.
    for (level, pod_stays) in [("base", true), ("left", false)] {
        // The Job says so at once. The image's status names a running build once it has lasted.
        wait_for(format!("{level}'s second build to start"), CASCADE, async || {
            let builds = place.builds(FAMILY, None).await;
            if builds.get(level) == Some(&2) { Ok(()) } else { Err(format!("{builds:?}")) }
        })
        .await;
        let leader = session.kill_leader().await;
        if !pod_stays {
            session.delete(&leader).await;
        }
    }
    let rebuilt = place.wait_rebuilt(FAMILY, &digests, CASCADE).await;
    assert_built_once(place, 2).await;
    let family = place.family(FAMILY).await.status.unwrap_or_default();
    let upstream = family
        .upstreams
        .first()
        .and_then(|upstream| upstream.adopted.clone())
        .expect("an adopted digest");
    let cascade = place.wait_cascade(&upstream.digest).await;
    assert_complete(&cascade, &[&["base"], &["left", "right"], &["join"]]);
    for (image, digest) in &rebuilt {
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}:latest");
        assert_eq!(scene.tag(image, "r2").await, *digest, "{image}:r2");
        assert_eq!(scene.tag(image, "r1").await, digests[image], "{image}:r1");
    }

    place.lose_records(FAMILY).await;
    assert_eq!(place.digests(FAMILY).await, rebuilt);
    assert_built_once(place, 2).await;
    let builds: Vec<Option<i64>> = place
        .list::<ManagedImage>()
        .await
        .into_iter()
        .map(|image| image.status.and_then(|status| status.build))
        .collect();
    assert_eq!(builds, vec![Some(2); 4], "the registry keeps the numbers of the builds");
}

/// Asserts that each fingerprint has one Job, and each image of the diamond has `builds` Jobs.
async fn assert_built_once(place: &Place, builds: usize) {
    let counted = place.jobs_per_fingerprint(FAMILY).await;
    assert!(counted.values().all(|jobs| *jobs == 1), "a fingerprint was built twice: {counted:?}");
    let images = ["base", "join", "left", "right"].map(|image| (image.to_owned(), builds));
    assert_eq!(place.builds(FAMILY, None).await, images.into(), "builds of each image");
}

#[tokio::test]
async fn another_replica_takes_over() {
    let session = Session::alone().await;
    let scene = Scene::new(&session, "leader").await;
    let digests = scene.build(&scene.spec(json!([image("app", "alpine")]))).await;
    assert_eq!(session.operators().await.len(), 2);

    let killed = session.lose_leader().await;
    scene.move_upstream("2");
    wait_for("another replica to lead", 20, async || {
        let leader = session.leader().await;
        if leader == killed { Err(leader) } else { Ok(()) }
    })
    .await;
    let rebuilt = scene.place.wait_rebuilt(FAMILY, &digests, CASCADE).await;
    assert_eq!(scene.tag("app", "latest").await, rebuilt["app"]);
    assert_eq!(scene.place.jobs(FAMILY).await.len(), 2);
}
