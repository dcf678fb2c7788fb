//! Tags from labels of the built image: the controller reads them from the registry.

use groundswell::api::{ImageState, ManagedImage, condition::Reason};
use serde_json::json;

use super::{
    client, cluster,
    restart::Scene,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

const VERSION: &str = "org.opencontainers.image.version";

#[tokio::test]
async fn a_label_of_the_pushed_image_becomes_a_tag() {
    let client = client().await;
    let scene = Scene::new(&client, "label-tags").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    let by_version = format!("{{{{ label[\"{VERSION}\"] }}}}");
    spec["images"][0]["tags"] = json!(["latest", by_version]);
    scene.builder.label("base", &[(VERSION, "1.2.0"), ("vendor", "acme")]);
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let first = place.digests("app").await;
    assert_eq!(scene.tag("base", "1.2.0").await, first["base"]);
    assert_eq!(labels(&scene).await, [(VERSION.into(), Some("1.2.0".into()))]);

    // A template that names a further label has it read from the image that exists.
    spec["images"][0]["tags"] = json!(["latest", by_version, "{{ label.vendor }}"]);
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(scene.tag("base", "acme").await, first["base"]);
    scene.assert_builds("app", 1).await;

    // Another version gets a tag of its own, and the earlier tag stays.
    scene.builder.label("base", &[(VERSION, "1.3.0"), ("vendor", "acme")]);
    scene.move_upstream("2").await;
    let second = place.wait_rebuilt("app", &first, 60).await;
    assert_eq!(scene.tag("base", "1.3.0").await, second["base"]);
    assert_eq!(scene.tag("base", "acme").await, second["base"]);
    assert_eq!(scene.tag("base", "1.2.0").await, first["base"]);

    // An image without the label: its other tags move, the other images are built, and it is
    // reported, by a controller that starts meanwhile, too.
    operator.kill();
    scene.builder.label("base", &[("vendor", "acme")]);
    scene.move_upstream("3").await;
    let _operator = Operator::ready(&settings).await;
    wait_for("every image to be rebuilt, and the label to be missed", 60, async || {
        let digests = place.digests("app").await;
        let status = base(&scene).await.status.unwrap_or_default();
        let is_rebuilt = digests.iter().all(|(image, digest)| *digest != second[image]);
        let is_reported = status.reason == Reason::InvalidTagLabel
            && status.state == ImageState::Current
            && status.message.contains(VERSION);
        if is_rebuilt && is_reported { Ok(()) } else { Err(format!("{digests:?}\n{status:#?}")) }
    })
    .await;
    let third = place.digests("app").await;
    for tag in ["latest", "acme"] {
        assert_eq!(scene.tag("base", tag).await, third["base"], "{tag}");
    }
    assert_eq!(scene.tag("base", "1.3.0").await, second["base"]);
    assert_eq!(scene.tag("join", "latest").await, third["join"]);
}

async fn base(scene: &Scene) -> ManagedImage {
    scene.place.api::<ManagedImage>().get("app.base").await.expect("base")
}

/// The labels that are recorded of `base`, with their values.
async fn labels(scene: &Scene) -> Vec<(String, Option<String>)> {
    let labels = base(scene).await.status.unwrap_or_default().labels;
    labels.into_iter().map(|label| (label.name, label.value)).collect()
}
