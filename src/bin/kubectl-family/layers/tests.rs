use serde_json::json;

use super::*;
use crate::registry_images::test_registry::{TestImages, TestRegistry, layer};

/// Three levels: a base with one layer, an image with one more, and one with two more.
async fn registry() -> TestRegistry {
    let mut images = TestImages::default();
    let layers: Vec<Vec<u8>> =
        (1..=4).map(|number| layer(&[("file", &"x".repeat(number * 1000))])).collect();
    images.add("debian:12", &layers[..1], json!({}));
    images.add("team/base:1", &layers[..2], json!({}));
    images.add("team/app:1", &layers, json!({}));
    images.start().await
}

async fn layers(registry: &TestRegistry) -> ImageLayers {
    let reader = registry.reader();
    let mut ancestors = Vec::new();
    for (name, reference) in [("debian", "debian:12"), ("base", "team/base:1")] {
        let image = reader.image(&registry.reference(reference)).await.expect("an image");
        ancestors.push((name.to_owned(), image));
    }
    let references = ["team/base:1", "team/app:1", "team/gone:1"];
    let references = references.map(|name| Some(registry.reference(name)));
    let family = FamilyLayers::read(&reader, references.to_vec()).await;
    let app = reader.image(&registry.reference("team/app:1")).await.expect("an image");
    ImageLayers::new("app", &app, &ancestors, Some(family))
}

#[tokio::test]
async fn layers_belong_to_the_lowest_image_that_has_them() {
    let registry = registry().await;
    let layers = layers(&registry).await;
    let rows: Vec<_> =
        layers.layers.iter().map(|layer| (layer.from.as_str(), layer.images)).collect();
    assert_eq!(rows, [("debian", 2), ("base", 2), ("app", 1), ("app", 1)]);
    let sizes: Vec<u64> = layers.layers.iter().map(|layer| layer.size).collect();
    let pulls: Vec<_> = layers.pulls.iter().map(|pull| (&*pull.rebuilt, pull.bytes)).collect();
    let expected = [
        ("app", sizes[2] + sizes[3]),
        ("base", sizes[1] + sizes[2] + sizes[3]),
        ("debian", layers.size),
    ];
    assert_eq!(pulls, expected);
    let stored: u64 = sizes.iter().sum();
    let unshared = stored + sizes[0] + sizes[1];
    let family = FamilySize { images: 2, unread: 1, unshared, stored };
    assert_eq!(layers.family, Some(family));
}

#[tokio::test]
async fn the_table_has_the_command_of_each_layer() {
    let registry = registry().await;
    let layers = layers(&registry).await;
    let text = layers.rendered(ListFormat::Wide).expect("a text");
    for expected in
        ["RUN step 4", "a node pulls", "when base is rebuilt", "1 more could not be read"]
    {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
    let names = layers.rendered(ListFormat::Name).expect("names");
    assert_eq!(names.lines().count(), 4);
    let json: serde_json::Value =
        serde_json::from_str(&layers.rendered(ListFormat::Json).expect("JSON")).expect("JSON");
    assert_eq!(json["layers"][0]["from"], "debian");
}

#[tokio::test]
async fn a_base_that_has_moved_since_brings_no_layer() {
    let mut images = TestImages::default();
    let bytes = |text: &str| layer(&[("file", text)]);
    images.add("debian:12", &[bytes("new")], json!({}));
    images.add("team/app:1", &[bytes("old"), bytes("app")], json!({}));
    let registry = images.start().await;
    let reader = registry.reader();
    let debian = reader.image(&registry.reference("debian:12")).await.expect("an image");
    let app = reader.image(&registry.reference("team/app:1")).await.expect("an image");
    let layers = ImageLayers::new("app", &app, &[("debian".into(), debian)], None);
    assert!(layers.layers.iter().all(|layer| layer.from == "app"));
    assert_eq!(layers.pulls.len(), 1);
}
