//! What a cascade does: joins wait for both sides, the next cascade builds a move that comes during
//! this one, and a tag that somebody else moved is restored.

use std::collections::BTreeMap;

use groundswell::api::{Cascade, CascadePhase, ManagedImage, condition::Reason};
use k8s_openapi::api::{apps::v1::Deployment, events::v1::Event};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use super::{
    client, cluster,
    restart::Scene,
    support::{
        family::label,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

#[tokio::test]
async fn a_join_waits_for_both_sides_and_a_later_move_is_built_next() {
    let client = client().await;
    let scene = Scene::new(&client, "cascades").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    scene.builder.hold("right");
    place.apply_family("app", &scene.spec()).await.expect("a family");
    wait_for("both sides to start", 60, async || {
        let jobs = place.jobs("app").await;
        let mut names: Vec<String> =
            jobs.iter().map(|job| label(job, "groundswell.dev/image")).collect();
        names.sort();
        if names == ["base", "left", "right"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    scene.move_upstream("2").await;
    wait_for("the second version to be observed", 30, async || {
        let status = place.family("app").await.status.unwrap_or_default();
        let candidate = status.upstreams.first().and_then(|upstream| upstream.candidate.clone());
        candidate.map(|_| ()).ok_or_else(|| format!("{:?}", status.upstreams))
    })
    .await;
    assert_eq!(place.jobs("app").await.len(), 3, "nothing else starts while one side is building");

    scene.builder.release("right");
    wait_for("two cascades", 60, async || {
        let cascades = place.list::<Cascade>().await;
        let ended = cascades.iter().filter_map(|cascade| cascade.status.as_ref());
        let ended = ended.filter(|status| status.phase == CascadePhase::Complete).count();
        if ended == 2 { Ok(()) } else { Err(format!("{cascades:#?}")) }
    })
    .await;
    scene.assert_builds("app", 2).await;
    let digests = place.digests("app").await;
    assert_eq!(scene.tag("join", "latest").await, digests["join"]);
    assert_eq!(scene.tag("join", "r2").await, digests["join"]);
}

#[tokio::test]
async fn a_tag_that_somebody_else_moved_is_restored() {
    let client = client().await;
    let scene = Scene::new(&client, "tags").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    place.apply_family("app", &scene.spec()).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let ours = scene.tag("base", "latest").await;
    let repository = format!("{}/base", place.namespace);
    let theirs = scene.images.push(&repository, "latest", None, "theirs", &[].into()).await;
    assert_ne!(ours, theirs);
    wait_for("the tag to be restored", 30, async || {
        let now = scene.tag("base", "latest").await;
        if now == ours { Ok(()) } else { Err(now) }
    })
    .await;
    wait_for("an Event about it on the family and on the image", 10, async || {
        let events = place.list::<Event>().await;
        let is_on = |kind: &str, event: &Event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.kind.as_deref());
            event.reason.as_deref() == Some(Reason::TagMoved.as_str()) && regarding == Some(kind)
        };
        let found = ["ImageFamily", "ManagedImage"]
            .iter()
            .all(|kind| events.iter().any(|event| is_on(kind, event)));
        found.then_some(()).ok_or_else(|| format!("{events:#?}"))
    })
    .await;
    scene.assert_builds("app", 1).await;
}

/// Returns the versions of the records of all images.
async fn versions(scene: &Scene) -> BTreeMap<String, Option<String>> {
    let records = scene.place.api::<ManagedImage>().list(&ListParams::default()).await;
    let records = records.expect("records").items.into_iter();
    records.map(|record| (record.name_any(), record.metadata.resource_version)).collect()
}

#[tokio::test]
async fn a_suspended_family_builds_nothing_until_it_is_resumed() {
    let client = client().await;
    let scene = Scene::new(&client, "suspended").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let mut spec = scene.spec();
    spec["suspend"] = json!(true);
    place.apply_family("app", &spec).await.expect("a family");
    wait_for("the family to report that it is suspended", 30, async || {
        let family = place.family("app").await;
        let conditions = family.status.unwrap_or_default().conditions;
        let found = conditions.iter().any(|condition| condition.reason == Reason::Suspended);
        found.then_some(()).ok_or_else(|| format!("{conditions:?}"))
    })
    .await;
    assert!(place.jobs("app").await.is_empty());
    spec["suspend"] = json!(false);
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    scene.assert_builds("app", 1).await;

    let before = versions(&scene).await;
    spec["suspend"] = json!(true);
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(versions(&scene).await, before, "no image has changed");
}

#[tokio::test]
async fn a_rollout_that_is_added_later_is_carried_out() {
    let client = client().await;
    let scene = Scene::new(&client, "rollout").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let mut spec = scene.spec();
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let repository = format!("{}/{}/join", cluster().registry, place.namespace);
    place.deployment("web", &format!("{repository}:latest")).await;
    spec["images"][3]["rollout"] = json!([{ "deployment": { "name": "web" } }]);
    place.apply_family("app", &spec).await.expect("a family");
    let mut digests = place.digests("app").await;
    runs(&scene, &format!("{repository}@{}", digests["join"])).await;

    scene.move_upstream("2").await;
    digests = place.wait_rebuilt("app", &digests, 60).await;
    runs(&scene, &format!("{repository}@{}", digests["join"])).await;
}

/// Waits until the Deployment `web` has this image.
async fn runs(scene: &Scene, image: &str) {
    wait_for(format!("the Deployment to run {image}"), 30, async || {
        let deployment = scene.place.api::<Deployment>().get("web").await.expect("the Deployment");
        let pod = deployment.spec.and_then(|spec| spec.template.spec).expect("a pod");
        let found = pod
            .containers
            .first()
            .and_then(|container| container.image.clone())
            .unwrap_or_default();
        if found == image { Ok(()) } else { Err(found) }
    })
    .await;
}
