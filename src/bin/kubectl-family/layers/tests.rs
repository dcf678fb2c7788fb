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
        ancestors.push((name.to_owned(), Some(image)));
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
    let layers = ImageLayers::new("app", &app, &[("debian".into(), Some(debian))], None);
    assert!(layers.layers.iter().all(|layer| layer.from == "app"));
    assert_eq!(layers.pulls.len(), 1);
}

/// What may be the layers of an unknown ancestor belongs to nobody, and counts for no pull.
#[tokio::test]
async fn layers_below_an_unknown_ancestor_are_not_attributed() {
    let registry = registry().await;
    let reader = registry.reader();
    let read = async |name: &str| reader.image(&registry.reference(name)).await.expect("an image");
    let (debian, base) = (read("debian:12").await, read("team/base:1").await);
    let app = read("team/app:1").await;
    let from = |ancestors: &[(String, Option<ReadImage>)]| {
        let layers = ImageLayers::new("app", &app, ancestors, None);
        let pulls: Vec<_> = layers.pulls.iter().map(|pull| pull.rebuilt.clone()).collect();
        let owners: Vec<_> = layers.layers.iter().map(|layer| layer.from.clone()).collect();
        (owners.join(","), pulls.join(","))
    };
    let known = |name: &str, image: &ReadImage| (name.to_owned(), Some(image.clone()));
    let unknown = |name: &str| (name.to_owned(), None);
    for (ancestors, owners, pulls) in [
        (vec![unknown("")], ",,,", ""),
        (vec![unknown(""), known("base", &base)], ",,app,app", "app"),
        (vec![known("debian", &debian), unknown("base")], "debian,,,", "debian"),
        (
            vec![known("debian", &debian), known("base", &base)],
            "debian,base,app,app",
            "app,base,debian",
        ),
    ] {
        assert_eq!(from(&ancestors), (owners.to_owned(), pulls.to_owned()));
    }
}

/// The edges of inline Dockerfiles are those that a manifest declares, in every family that is
/// read; what is not here is unknown.
#[tokio::test]
async fn the_chain_follows_dockerfiles_and_families() {
    let chain = async |images: &str| {
        let family = |name: &str, images: &str| {
            format!(
                "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\n\
                 metadata: {{name: {name}}}\nspec:\n  repository: r.example/{name}\n  \
                 upstreams: [{{name: alpine, image: r.example/alpine, follow: {{tag: \"3\"}}}}]\n  \
                 exports: [{{image: base}}]\n  images:\n{images}"
            )
        };
        let base = "  - {name: base, edges: Dockerfile, tags: [latest], \
                    source: {inline: \"FROM r.example/alpine:3\"}}\n";
        let folder = tempfile::tempdir().expect("a folder");
        let own = format!("{base}{images}");
        for (name, images) in [("os", base), ("shop", own.as_str())] {
            let path = folder.path().join(format!("{name}.yaml"));
            std::fs::write(path, family(name, images)).expect("a file");
        }
        let filenames = vec![folder.path().to_owned()];
        let input = InputArguments { filenames, ..InputArguments::default() };
        let estate = Box::pin(Estate::read(&input)).await.expect("an estate");
        let name: crate::input::target::TargetName = "shop/web".parse().expect("a name");
        let (family, image) = name.find_image(&estate).expect("an image");
        let chain = base_chain(&estate, family, image).into_iter().map(|ancestor| {
            let reference = ancestor.reference.map(|reference| reference.to_string());
            format!("{} {}", ancestor.name, reference.unwrap_or_default())
        });
        chain.collect::<Vec<_>>().join(", ")
    };
    let inline = "  - {name: web, edges: Dockerfile, tags: [latest], \
                  source: {inline: \"FROM r.example/shop/base:latest\"}}\n";
    let expected = "alpine r.example/alpine:3, base r.example/shop/base:latest";
    assert_eq!(chain(inline).await, expected);
    let git = "  - {name: web, edges: Dockerfile, tags: [latest], \
               source: {git: {url: \"https://r.example/a\", revision: main}}}\n";
    assert_eq!(chain(git).await, " ");
    let import = "  - {name: web, from: [{family: {name: os}, image: base, arg: BASE}], \
                  tags: [latest], source: {inline: \"ARG BASE\\nFROM $BASE\"}}\n";
    let found = chain(import).await;
    assert!(found.starts_with("alpine r.example/alpine:3, "), "{found}");
    assert!(found.ends_with("r.example/os/base:latest"), "{found}");
}
