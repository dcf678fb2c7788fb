//! A matrix becomes images of its own, and what cannot be expanded stops nothing else.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::api::condition::Reason;
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        family,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// Two versions of a base, and of an application on each.
fn spec(scene: &Scene) -> Value {
    let mut spec = scene.spec();
    let matrix = json!({ "v": ["1.0", "2.0"] });
    let mut base = family::image("base", "alpine");
    base["path"] = json!("base");
    base["matrix"] = matrix.clone();
    base["tags"] = json!(["{{ matrix.v }}", "{{ matrix.v }}-r{{ build }}"]);
    let mut app = family::image("app-{{ matrix.v }}", "base-{{ matrix.v }}");
    app["matrix"] = matrix;
    let text = app["source"]["inline"].as_str().expect("a Dockerfile");
    app["source"]["inline"] = json!(format!("{text}ARG VERSION\n"));
    spec["images"] = json!([base, app]);
    spec["exports"] = json!([{ "image": "base-1-0" }]);
    spec
}

/// A family with one image, on an expanded image of the family `versions`.
fn importing(scene: &Scene) -> Value {
    let mut spec = scene.spec();
    let mut web = family::image("web", "base-1-0");
    web["from"][0]["family"] = json!({ "name": "versions" });
    spec["images"] = json!([web]);
    spec["upstreams"] = json!([]);
    spec
}

#[tokio::test]
async fn a_matrix_becomes_images_and_a_bad_one_stops_no_other() {
    let client = client().await;
    let scene = Scene::new(&client, "matrix").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let mut written = spec(&scene);
    place.apply_family("versions", &written).await.expect("a family");
    place.apply_family("other", &importing(&scene)).await.expect("a family");
    place.wait_family("versions", "Ready", 60).await;
    place.wait_family("other", "Ready", 60).await;
    let first = place.digests("versions").await;
    let names: BTreeSet<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["app-1-0", "app-2-0", "base-1-0", "base-2-0"].into());
    assert_eq!(scene.tag("base", "1.0").await, first["base-1-0"]);
    assert_eq!(scene.tag("base", "2.0-r1").await, first["base-2-0"]);
    let family = place.family("versions").await;
    assert_eq!(family.spec.images.len(), 2, "the manifest stays as it is written");

    // A name that the matrix does not have, while the upstream moves.
    written["images"][1]["args"] = json!({ "VERSION": "{{ matrix.version }}" });
    place.apply_family("versions", &written).await.expect("a family");
    let (reason, message) = place.wait_family("versions", "Stalled", 60).await;
    assert_eq!(reason, Reason::ImagesLeftOut, "{message}");
    assert!(
        message.starts_with("spec.images[app-1-0].args.VERSION: `{{ matrix.version }}`"),
        "{message}"
    );
    scene.move_upstream("2").await;
    wait_for("the bases to be rebuilt", 60, async || {
        let digests = place.digests("versions").await;
        let moved = |image: &str| digests.get(image).is_some_and(|now| *now != first[image]);
        if moved("base-1-0") && moved("base-2-0") { Ok(()) } else { Err(format!("{digests:?}")) }
    })
    .await;
    let second = place.digests("versions").await;
    for image in ["app-1-0", "app-2-0"] {
        assert_eq!(second.get(image), first.get(image), "its record is kept as it was");
    }
    let status = place.family("versions").await.status.unwrap_or_default();
    let attention: BTreeMap<&str, &str> = status
        .attention
        .iter()
        .map(|attention| (attention.image.as_str(), attention.reason.as_str()))
        .collect();
    assert_eq!(attention["app-2-0"], Reason::InvalidSpec.as_str(), "{attention:?}");

    written["images"][1]["args"] = json!({ "VERSION": "{{ matrix.v }}" });
    place.apply_family("versions", &written).await.expect("a family");
    place.wait_family("versions", "Ready", 60).await;
    let third = place.digests("versions").await;
    assert_eq!(third["base-1-0"], second["base-1-0"], "a correction rebuilds nothing else");
    assert_ne!(third["app-1-0"], second["app-1-0"]);
    assert_eq!(third.len(), 4);
}
