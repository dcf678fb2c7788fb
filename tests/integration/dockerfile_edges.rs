//! Edges and upstreams that come from Dockerfiles: found, followed, bumped once, and kept while the
//! source cannot be read.

use std::collections::BTreeMap;

use groundswell::api::{FoundEdge, ManagedImage, ManagedImageStatus, condition::Reason};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// A family whose Dockerfiles say all edges: `base` on the upstream, `app` on `base` and a tool.
fn spec(scene: &Scene, upstream: &str) -> Value {
    let mut spec = scene.spec();
    spec.as_object_mut().expect("a spec").remove("upstreams");
    spec["upstreamDefaults"] = json!({ "interval": "5s" });
    let repository = spec["repository"].as_str().expect("a repository").to_owned();
    let app = format!(
        "FROM {repository}/base:latest\nARG MODE\nCOPY --from=docker.io/{upstream}:tool /a /b\n"
    );
    spec["images"] = json!([
        { "name": "base", "edges": "Dockerfile", "tags": ["latest"],
            "source": { "configMap": { "name": "base" } } },
        { "name": "app", "edges": "Dockerfile", "tags": ["latest"],
            "args": { "MODE": "fast" }, "source": { "inline": app } },
    ]);
    spec
}

async fn status(scene: &Scene, image: &str) -> ManagedImageStatus {
    let record = scene.place.api::<ManagedImage>().get(&format!("app.{image}")).await;
    record.expect(image).status.unwrap_or_default()
}

/// The number of Jobs of each image.
async fn builds(scene: &Scene) -> BTreeMap<String, usize> {
    let mut builds = BTreeMap::new();
    for ((image, _), jobs) in scene.place.jobs_per_fingerprint("app").await {
        *builds.entry(image).or_default() += jobs;
    }
    builds
}

async fn assert_builds(scene: &Scene, base: usize, app: usize) {
    let wanted = [("app".to_owned(), app), ("base".to_owned(), base)].into();
    assert_eq!(builds(scene).await, wanted);
}

async fn wait_reason(scene: &Scene, image: &str, reason: Reason) -> ManagedImageStatus {
    wait_for(format!("{image} to report {reason}"), 60, async || {
        let status = status(scene, image).await;
        if status.reason == reason { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
}

#[tokio::test]
async fn edges_come_from_dockerfiles() {
    let client = client().await;
    let scene = Scene::new(&client, "edges").await;
    let place = &scene.place;
    let upstream = format!("library/{}", place.namespace);
    scene.images.push(&upstream, "tool", None, "tool", &BTreeMap::new()).await;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    let dockerfile = |tag: &str| format!("FROM docker.io/{upstream}:{tag}\n");
    place.config_map("base", &[("Dockerfile", &dockerfile("3.20"))]).await;
    let mut spec = spec(&scene, &upstream);
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    assert_builds(&scene, 1, 1).await;
    let base_edge = |tag: &str| FoundEdge {
        reference: format!("docker.io/{upstream}:{tag}"),
        upstream: Some(format!("{}-{}", place.namespace, tag.replace('.', "-"))),
        ..FoundEdge::default()
    };
    assert_eq!(status(&scene, "base").await.edges, Some(vec![base_edge("3.20")]));
    let edges = status(&scene, "app").await.edges.expect("edges");
    assert_eq!(edges[0].image.as_deref(), Some("base"));
    assert_eq!(edges.len(), 2);

    // The found upstream is followed.
    let before = place.digests("app").await;
    scene.move_upstream("2").await;
    place.wait_rebuilt("app", &before, 60).await;
    assert_builds(&scene, 2, 2).await;

    // A change of FROM is one rebuild of the image, and of what is built on it.
    scene.images.push(&upstream, "3.21", None, "3.21", &BTreeMap::new()).await;
    let before = place.digests("app").await;
    let maps = place.api::<ConfigMap>();
    let bumped = Patch::Merge(json!({ "data": { "Dockerfile": dockerfile("3.21") } }));
    maps.patch("base", &PatchParams::default(), &bumped).await.expect("a bump");
    let digests = place.wait_rebuilt("app", &before, 60).await;
    assert_builds(&scene, 3, 3).await;
    assert_eq!(status(&scene, "base").await.edges, Some(vec![base_edge("3.21")]));
    let family = place.family("app").await.status.expect("a status");
    let followed: Vec<&str> =
        family.upstreams.iter().map(|upstream| upstream.reference.as_str()).collect();
    assert_eq!(
        followed,
        [format!("docker.io/{upstream}:3.21"), format!("docker.io/{upstream}:tool")]
    );

    // While the source is gone, the edges stay, also for a controller that has just started.
    maps.delete("base", &DeleteParams::default()).await.expect("deleted");
    let lost = wait_reason(&scene, "base", Reason::SourceNotFound).await;
    assert_eq!(lost.edges, Some(vec![base_edge("3.21")]));
    operator.kill();
    operator = Operator::ready(&settings).await;
    place.config_map("base", &[("Dockerfile", &dockerfile("3.21"))]).await;
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(place.digests("app").await, digests);
    assert_builds(&scene, 3, 3).await;

    // Errors concern one image, before a pod starts.
    spec["images"][1]["args"] = json!({ "MODUS": "fast" });
    place.apply_family("app", &spec).await.expect("a family");
    let unused = wait_reason(&scene, "app", Reason::DockerfileMismatch).await;
    assert!(unused.message.contains("no ARG of the Dockerfile declares `MODUS`"), "{unused:?}");
    let broken = Patch::Merge(json!({ "data": { "Dockerfile": "FORM alpine\n" } }));
    spec["images"][1]["args"] = json!({ "MODE": "fast" });
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;

    // Two images with one tag wait for a user, and keep what they have.
    let mut colliding = spec.clone();
    let twin = json!({ "name": "twin", "path": "app", "edges": "Dockerfile", "tags": ["latest"],
        "source": { "inline": "FROM scratch\n" } });
    colliding["images"].as_array_mut().expect("images").push(twin);
    place.apply_family("app", &colliding).await.expect("a family");
    wait_reason(&scene, "app", Reason::TagCollision).await;
    let (family_reason, message) = place.wait_family("app", "Stalled", 60).await;
    assert_eq!(family_reason, Reason::ImagesFailed);
    assert!(message.contains("a tag of `twin`; give each image its own tag"), "{message}");
    assert_eq!(status(&scene, "base").await.reason, Reason::Current);
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;

    maps.patch("base", &PatchParams::default(), &broken).await.expect("broken");
    let broken = wait_reason(&scene, "base", Reason::DockerfileMismatch).await;
    assert_eq!(broken.edges, Some(vec![base_edge("3.21")]));
    assert!(broken.message.starts_with("spec.images[base]: "), "{broken:?}");
    assert_eq!(place.digests("app").await, digests);
    assert_builds(&scene, 3, 3).await;
    drop(operator);
}
