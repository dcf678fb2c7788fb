//! Builds: the same inputs give the same image, and a failed build reports why.

use groundswell::api::{ImageState, ManagedImageStatus, condition::Reason};
use serde_json::json;

use super::{
    installation::Session,
    scene::{FAMILY, Scene, image},
};

#[tokio::test]
async fn the_same_inputs_give_the_same_digest() {
    let session = Session::shared().await;
    let (here, there) = (Scene::new(&session, "here").await, Scene::new(&session, "there").await);
    // Files with timestamps and owners, in new folders, and removed ones; on two levels.
    let mut base = image("base", "alpine");
    base["source"]["inline"] = json!(
        "FROM alpine:3.24\nRUN mkdir -p /srv/a/b && date > /dev/null && touch /srv/a/b/c && chown \
         1000:1000 /srv/a && rm /etc/os-release\n"
    );
    let images = json!([base, image("top", "base")]);
    let spec = here.spec(images.clone());
    let mut other = there.spec(images);
    other["upstreams"] = spec["upstreams"].clone();

    let (digests, others) = tokio::join!(here.build(&spec), there.build(&other));
    assert_eq!(digests, others);
    assert_eq!(digests.len(), 2);
    // Each family built its images, and none came from the other one.
    for scene in [&here, &there] {
        assert_eq!(scene.place.jobs(FAMILY).await.len(), 2);
        assert_eq!(scene.tag("top", "latest").await, digests["top"]);
    }
}

#[tokio::test]
async fn a_failed_build_reports_its_error_and_blocks_only_its_descendants() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "failures").await;
    let place = &scene.place;
    let verified = [image("base", "alpine"), image("sibling", "base")];
    let bad = |name: &str, dockerfile: &str| {
        let mut image = image(name, "base");
        image["source"]["inline"] = json!(dockerfile);
        image
    };
    let mut images = verified.to_vec();
    images.extend([
        bad("undeclared", "FROM base AS tools\nFROM docker.io/library/debian:trixie-slim\n"),
        bad("unused", "FROM scratch\n"),
        bad("unreadable", "FRM base\n"),
        bad("broken", "FROM base\nRUN echo about to break && exit 7\n"),
        image("below", "broken"),
    ]);
    let mut spec = scene.spec(json!(images));
    spec["policy"]["retries"] = json!({ "build": 0 });
    place.apply_family(FAMILY, &spec).await.expect("a family");

    for (image, reason, texts) in [
        ("undeclared", Reason::DockerfileMismatch, &["debian:trixie-slim", "`base`"][..]),
        ("unused", Reason::DockerfileMismatch, &["`base`"][..]),
        ("unreadable", Reason::DockerfileMismatch, &["Dockerfile"][..]),
        ("broken", Reason::BuildFailed, &["exit code: 7"][..]),
        ("below", Reason::AncestorFailed, &["broken"][..]),
    ] {
        let status = settled_status(&scene, image).await;
        assert_eq!(status.reason, reason, "{image}: {}", status.message);
        for text in texts {
            assert!(
                status.message.contains(text),
                "{image}: {text:?} is not in {:?}",
                status.message
            );
        }
        assert_eq!(scene.tag(image, "latest").await, "", "{image}:latest");
    }
    for image in ["base", "sibling"] {
        assert_eq!(settled_status(&scene, image).await.state, ImageState::Current, "{image}");
    }
    let (reason, message) = place.wait_family(FAMILY, "Stalled", 60).await;
    assert_eq!(reason, Reason::ImagesFailed, "{message}");

    // A corrected Dockerfile builds the failed image and its descendants, and nothing else.
    let mut images = verified.to_vec();
    images.extend([image("undeclared", "base"), image("broken", "base"), image("below", "broken")]);
    let digests = scene.build(&scene.spec(json!(images))).await;
    let builds = place.jobs_per_fingerprint(FAMILY).await;
    assert!(builds.values().all(|jobs| *jobs == 1), "{builds:?}");
    for image in ["base", "sibling", "below"] {
        assert_eq!(
            builds.keys().filter(|(built, _)| built == image).count(),
            1,
            "builds of {image}: {builds:?}"
        );
    }
    for (image, digest) in &digests {
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}:latest");
    }
}

/// Waits until an image is built, failed or blocked, and returns its status.
async fn settled_status(scene: &Scene, image: &str) -> ManagedImageStatus {
    let settled = [ImageState::Current, ImageState::Failed, ImageState::Blocked];
    scene
        .place
        .wait_image(FAMILY, image, "to be built, failed or blocked", |image| {
            image.status.as_ref().is_some_and(|status| settled.contains(&status.state))
        })
        .await;
    scene.place.image(FAMILY, image).await.status.unwrap_or_default()
}
