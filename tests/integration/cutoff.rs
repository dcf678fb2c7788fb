//! A rebuild that changes nothing ends the cascade at its image, and the registry records that.

use groundswell::api::{ImageFamily, ManagedImage};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
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
async fn a_rebuild_that_changed_nothing_is_remembered_and_spares_the_children() {
    let client = client().await;
    let scene = Scene::new(&client, "cutoff").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    scene.builder.same("base");
    let mut spec = scene.spec();
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let digests = place.digests("app").await;

    let commented = "FROM docker.io/library/alpine:3.20\n# A comment.\nRUN echo base\n";
    spec["images"][0]["source"]["inline"] = json!(commented);
    place.apply_family("app", &spec).await.expect("a family");
    wait_for("base to be built again", 60, async || {
        let status = place
            .api::<ManagedImage>()
            .get("app.base")
            .await
            .expect("base")
            .status
            .unwrap_or_default();
        let spared = status.history.first().is_some_and(|build| build.spared);
        if spared { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(place.digests("app").await, digests);
    let mut jobs: Vec<String> =
        place.jobs("app").await.iter().map(|job| label(job, "groundswell.dev/image")).collect();
    jobs.sort();
    assert_eq!(
        jobs,
        ["base", "base", "join", "left", "right"],
        "the images built on base are spared"
    );
    assert_eq!(scene.tag("base", "latest").await, digests["base"]);
    for job in
        place.jobs("app").await.iter().filter(|job| label(job, "groundswell.dev/image") == "base")
    {
        let tag = format!("gs-{}", label(job, "groundswell.dev/fingerprint"));
        assert_eq!(scene.tag("base", &tag).await, digests["base"], "{tag}");
    }

    // With every record and Job gone, only the registry knows that the digest stands for the new
    // fingerprint as well.
    operator.kill();
    for job in place.jobs("app").await {
        let name = job.metadata.name.unwrap_or_default();
        let jobs = place.api::<k8s_openapi::api::batch::v1::Job>();
        jobs.delete(&name, &DeleteParams::background()).await.expect("deleted");
    }
    let records = place.api::<ManagedImage>();
    records
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await
        .expect("deleted");
    let families = place.api::<ImageFamily>();
    let cleared = Patch::Merge(json!({ "status": null }));
    families.patch_status("app", &PatchParams::default(), &cleared).await.expect("cleared");
    let _operator = Operator::ready(&settings).await;
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(place.digests("app").await, digests);
    assert!(place.jobs("app").await.is_empty());
}
