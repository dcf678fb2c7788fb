//! A build has a platform: it is named, or fixed once for the family, and nothing changes it by
//! accident.

use std::collections::BTreeMap;

use groundswell::api::{ImageFamily, ManagedImage, condition::Reason};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

fn architecture(job: &Job) -> String {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let selector = pod.and_then(|pod| pod.node_selector.as_ref()).expect("a node selector");
    selector["kubernetes.io/arch"].clone()
}

#[tokio::test]
async fn a_family_keeps_its_platform_whatever_is_lost() {
    let client = client().await;
    let scene = Scene::new(&client, "platforms").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    // The machine of this test is not of this architecture.
    let other = if cfg!(target_arch = "s390x") { "amd64" } else { "s390x" };
    let upstream = format!("library/{}", place.namespace);
    scene.images.push_for(other, &upstream, "3.20", None, "other", &BTreeMap::new()).await;
    let mut spec = scene.spec();
    spec["strategy"]["parameters"] = json!({ "platform": format!("linux/{other}") });
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let digests = place.digests("app").await;
    let jobs = place.jobs("app").await;
    assert_eq!(jobs.len(), 4);
    assert!(jobs.iter().all(|job| architecture(job) == other));

    // Nothing names the platform any more, every record and Job is gone, and the controller runs on
    // another architecture: the tags say for what the family is built.
    operator.kill();
    for job in jobs {
        let name = job.metadata.name.unwrap_or_default();
        place.api::<Job>().delete(&name, &DeleteParams::background()).await.expect("deleted");
    }
    spec["strategy"].as_object_mut().expect("a strategy").remove("parameters");
    place.apply_family("app", &spec).await.expect("a family");
    place
        .api::<ManagedImage>()
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .expect("deleted");
    let families = place.api::<ImageFamily>();
    let cleared = Patch::Merge(json!({ "status": null }));
    families.patch_status("app", &PatchParams::default(), &cleared).await.expect("cleared");
    let _operator = Operator::ready(&settings).await;
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(place.digests("app").await, digests);
    assert!(place.jobs("app").await.is_empty(), "nothing is built again");
    let status = families.get("app").await.expect("a family").status.expect("a status");
    assert_eq!(status.platform, Some(format!("linux/{other}")));

    // A build that makes an image for another platform has failed, and no tag moves to it.
    spec["strategy"]["parameters"] = json!({ "platform": "linux/riscv64" });
    scene.builder.foreign("base");
    scene.images.push_for("riscv64", &upstream, "3.20", None, "third", &BTreeMap::new()).await;
    place.apply_family("app", &spec).await.expect("a family");
    wait_for("base to fail", 60, async || {
        let base = place.api::<ManagedImage>().get("app.base").await.expect("base");
        let status = base.status.unwrap_or_default();
        let is_reported = status.reason == Reason::PlatformMismatch
            && status.message.contains("made an image for linux/s390x, and not for linux/riscv64");
        if is_reported { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(scene.tag("base", "latest").await, digests["base"]);
}

#[tokio::test]
async fn a_parameter_that_is_removed_changes_no_architecture() {
    let client = client().await;
    let scene = Scene::new(&client, "unnamed").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    let other = if cfg!(target_arch = "s390x") { "amd64" } else { "s390x" };
    let upstream = format!("library/{}", place.namespace);
    let (images, none) = (&scene.images, std::collections::BTreeMap::new());
    images.push_for(other, &upstream, "3.20", None, "other", &none).await;
    let mut spec = scene.spec();
    spec["strategy"]["parameters"] = json!({ "platform": format!("linux/{other}") });
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let digests = place.digests("app").await;
    assert_eq!(place.family("app").await.status.expect("a status").platform, None);

    spec["strategy"].as_object_mut().expect("a strategy").remove("parameters");
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(place.digests("app").await, digests);
    let status = place.family("app").await.status.expect("a status");
    assert_eq!(status.platform, Some(format!("linux/{other}")));

    // And the builds that follow are for it.
    images.push_for(other, &upstream, "3.20", None, "newer", &none).await;
    place.wait_rebuilt("app", &digests, 120).await;
    let jobs = place.jobs("app").await;
    assert_eq!(jobs.len(), 8);
    assert!(jobs.iter().all(|job| architecture(job) == other));
}

/// Pushes an index of images for two platforms over the upstream's tag. Returns the digests of the
/// images.
async fn move_index(scene: &Scene, version: &str) -> BTreeMap<&'static str, String> {
    let upstream = format!("library/{}", scene.place.namespace);
    let mut images = BTreeMap::new();
    for architecture in ["amd64", "s390x"] {
        let content = format!("{architecture} {version}");
        let none = BTreeMap::new();
        let pushed =
            scene.images.push_for(architecture, &upstream, architecture, None, &content, &none);
        images.insert(architecture, pushed.await);
    }
    let entries: Vec<Value> = images
        .iter()
        .map(|(architecture, digest)| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
                "size": 100, "platform": { "os": "linux", "architecture": architecture },
            })
        })
        .collect();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    scene.images.tag(&upstream, "3.20", &index).await;
    images
}

#[tokio::test]
async fn another_platform_of_the_same_index_needs_no_approval() {
    let client = client().await;
    let scene = Scene::new(&client, "indexes").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    let images = move_index(&scene, "1").await;
    let mut spec = scene.spec();
    spec["upstreams"][0]["approval"] = json!("Manual");
    let records = place.api::<ManagedImage>();
    for architecture in ["amd64", "s390x", "amd64"] {
        spec["strategy"]["parameters"] = json!({ "platform": format!("linux/{architecture}") });
        place.apply_family("app", &spec).await.expect("a family");
        place.wait_family("app", "Ready", 60).await;
        let base = records.get("app.base").await.expect("base").status.unwrap_or_default();
        let built_on = base.inputs.expect("inputs").parents[0].digest.clone();
        assert_eq!(built_on, images[architecture]);
        let status = place.family("app").await.status.expect("a status");
        let upstream = status.upstreams.first().expect("one").clone();
        assert_eq!((upstream.candidate, upstream.superseded), (None, Vec::new()));
    }
    // Each image was built once for each platform.
    scene.assert_builds("app", 2).await;
}
