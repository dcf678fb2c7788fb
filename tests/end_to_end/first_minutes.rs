//! From a registry of unknown images to families that keep them up to date, without a build.

use std::{collections::BTreeMap, fs};

use groundswell::api::ImageFamily;
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::{
    installation::Session,
    scene::{CASCADE, REGISTRY, Scene},
};

/// The images of the registry, each with its base.
const TREE: [(&str, &str); 3] = [
    ("upstream/alpine:3.24", "tree/runtime"),
    ("tree/runtime:1", "tree/web"),
    ("tree/runtime:1", "tree/worker"),
];

#[tokio::test]
async fn the_images_of_an_unknown_registry_are_adopted_without_a_build() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "first-minutes").await;
    for (base, image) in TREE {
        scene.append(base, &format!("{image}:1"));
    }
    let host = &session.cluster.registry;
    let prefix = scene.here("");
    let discover = |arguments: &[&str]| {
        let common = ["discover", prefix.trim_end_matches('/'), "--plain-http", host];
        let arguments = [&common[..], arguments].concat();
        session.cluster.run(env!("CARGO_BIN_EXE_kubectl-family"), &arguments).expect("discover")
    };
    let found: Value = serde_json::from_str(&discover(&["-o", "json"])).expect("JSON");
    for (base, image) in TREE {
        let mut images = found["images"].as_array().into_iter().flatten();
        let name = json!([scene.here(&format!("{image}:1"))]);
        let shown = images.find(|found| found["names"] == name);
        assert_eq!(shown.map(|shown| &shown["base"]["images"]), Some(&json!([scene.here(base)])));
    }
    let before = tags(&scene).await;

    let folder = tempfile::tempdir().expect("a folder");
    let manifest = folder.path().join("families.yaml");
    // The cluster reaches the registry by another name than this test.
    fs::write(&manifest, discover(&["-o", "family"]).replace(host, REGISTRY)).expect("a manifest");
    let manifest = manifest.display().to_string();
    let namespace = ["--namespace", &scene.place.namespace];
    let apply = [&namespace[..], &["apply", "--filename", &manifest]].concat();
    session.cluster.run("kubectl", &apply).expect("families that the API server accepts");
    let families: Vec<ImageFamily> = scene.place.list().await;
    let mut adopted = Vec::new();
    for family in families {
        let name = family.metadata.name.unwrap_or_default();
        scene.place.wait_family(&name, "Ready", CASCADE).await;
        adopted.extend(scene.place.digests(&name).await.into_values());
    }
    assert!(before.values().all(|digest| adopted.contains(digest)), "{before:?} {adopted:?}");
    let jobs: Vec<Job> = scene.place.list().await;
    assert_eq!(jobs.len(), 0, "something was built");
    assert_eq!(tags(&scene).await, before, "tags have moved");
}

/// Returns the digest of each image's tag.
async fn tags(scene: &Scene) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    for (_, image) in TREE {
        tags.insert(image.to_owned(), scene.tag(image, "1").await);
    }
    tags
}
