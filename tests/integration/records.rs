//! Somebody who may push to the repository, or may create Jobs in the namespace, does not decide
//! what is built: what has no record of ours, and a Job without our seal, count for nothing.

use std::collections::BTreeMap;

use groundswell::api::{ImageFamily, ManagedImage};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
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

/// Deletes the Jobs and the records of a family, and clears its status.
async fn forget_everything(scene: &Scene) {
    let (place, deleted) = (&scene.place, ListParams::default());
    let background = DeleteParams::background();
    place.api::<Job>().delete_collection(&background, &deleted).await.expect("deleted");
    wait_for("the Jobs to be gone", 30, async || {
        let jobs = place.jobs("app").await.len();
        if jobs == 0 { Ok(()) } else { Err(format!("{jobs} Jobs")) }
    })
    .await;
    let records = place.api::<ManagedImage>();
    records.delete_collection(&DeleteParams::default(), &deleted).await.expect("deleted");
    let cleared = Patch::Merge(json!({ "status": null }));
    let families = place.api::<ImageFamily>();
    families.patch_status("app", &PatchParams::default(), &cleared).await.expect("cleared");
}

#[tokio::test]
async fn what_a_stranger_pushes_is_built_over_and_never_promoted() {
    let client = client().await;
    let scene = Scene::new(&client, "stranger").await;
    let settings = Settings::new(cluster(), &scene.place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["images"] = json!([family::image("base", "alpine")]);
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    let built = scene.tag("base", "latest").await;
    let record = scene.place.api::<ManagedImage>().get("app.base").await.expect("a record");
    let status = record.status.expect("a status");
    assert!(status.recorded.is_some(), "{status:#?}");
    let fingerprint = status.fingerprint.expect("a fingerprint");
    let repository = format!("{}/base", scene.place.namespace);
    let manifest = scene.images.get(&repository, &format!("gs-{fingerprint}-record")).await;
    let manifest = manifest.expect("a record in the registry").manifest;
    assert_eq!(manifest["subject"]["digest"], built.as_str());

    operator.kill();
    forget_everything(&scene).await;
    let annotations: BTreeMap<String, String> = [
        ("dev.groundswell.fingerprint".to_owned(), fingerprint.clone()),
        ("dev.groundswell.build".to_owned(), "1".to_owned()),
    ]
    .into();
    let base = format!("{}@{}", record.spec.repository, built);
    let tag = format!("gs-{fingerprint}");
    let planted = scene.images.push(&repository, &tag, Some(&base), "evil", &annotations).await;
    let _operator = Operator::ready(&settings).await;
    scene.place.wait_family("app", "Ready", 60).await;
    assert_eq!(scene.place.jobs("app").await.len(), 1, "it is built");
    let rebuilt = scene.place.digests("app").await["base"].clone();
    assert_ne!(rebuilt, planted);
    for tag in [tag.as_str(), "latest"] {
        assert_eq!(scene.tag("base", tag).await, rebuilt, "{tag}");
    }
}

#[tokio::test]
async fn a_build_that_reports_no_digest_fails_and_names_its_strategy() {
    let client = client().await;
    let scene = Scene::new(&client, "silent").await;
    scene.builder.silence("base");
    let settings = Settings::new(cluster(), &scene.place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["images"] = json!([family::image("base", "alpine")]);
    scene.place.apply_family("app", &spec).await.expect("a family");
    wait_for("the image to fail", 60, async || {
        let record = scene.place.api::<ManagedImage>().get("app.base").await;
        let status = record.ok().and_then(|record| record.status).unwrap_or_default();
        let is_failed = status.reason == "DigestNotReported";
        if is_failed && status.message.contains(STRATEGY) { Ok(()) } else { Err(status.message) }
    })
    .await;
    assert_eq!(scene.tag("base", "latest").await, "", "it is not used");
}

#[tokio::test]
async fn a_job_without_our_seal_is_neither_believed_nor_deleted() {
    let client = client().await;
    let scene = Scene::new(&client, "unsealed").await;
    scene.builder.hold("base");
    let settings = Settings::new(cluster(), &scene.place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["images"] = json!([family::image("base", "alpine")]);
    scene.place.apply_family("app", &spec).await.expect("a family");
    wait_for("the build to run", 60, async || {
        let jobs = scene.place.jobs("app").await.len();
        if jobs == 1 { Ok(()) } else { Err(format!("{jobs} Jobs")) }
    })
    .await;
    // The same labels, seal and owner under another name.
    let ours = scene.place.jobs("app").await.remove(0);
    let mut labels = ours.labels().clone();
    labels.retain(|name, _| !name.contains("controller-uid") && !name.contains("job-name"));
    let pod = json!({ "restartPolicy": "Never", "containers": [{ "name": "x", "image": "x" }] });
    let forged: Job = serde_json::from_value(json!({
        "metadata": { "name": "forged", "labels": labels, "annotations": ours.annotations(),
            "ownerReferences": ours.owner_references() },
        "spec": { "suspend": true, "template": { "spec": pod } },
    }))
    .expect("a Job");
    let jobs = scene.place.api::<Job>();
    jobs.create(&PostParams::default(), &forged).await.expect("a Job");
    let ended = json!({ "status": { "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{ "type": "Complete", "status": "True" }] } });
    // The API server may refuse this end, which then proves nothing more.
    _ = jobs.patch_status("forged", &PatchParams::default(), &Patch::Merge(ended)).await;
    scene.builder.release("base");
    scene.place.wait_family("app", "Ready", 60).await;
    assert_eq!(scene.place.jobs_per_fingerprint("app").await.len(), 1);
    jobs.get("forged").await.expect("the Job of somebody else is left alone");
}
