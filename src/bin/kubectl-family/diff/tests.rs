use serde_json::json;

use super::*;
use crate::{
    diff::compare::{BaseChange, PackageChangeKind, SettingChange},
    registry_images::test_registry::{
        TestImages, TestRegistry, deb_layer, layer, packages_of_this_machine,
    },
};

async fn diff(registry: &TestRegistry, from: &str, to: &str) -> ImageDiff {
    let reader = registry.reader();
    let from = read(&reader, &registry.reference(from)).await.expect("an image");
    let to = read(&reader, &registry.reference(to)).await.expect("an image");
    ImageDiff::new(&from, &to)
}

fn base(digest: &str) -> serde_json::Value {
    json!({"org.opencontainers.image.base.name": "docker.io/library/debian:12",
           "org.opencontainers.image.base.digest": digest})
}

async fn registry() -> TestRegistry {
    let mut images = TestImages::default();
    let bottom = layer(&[("etc/motd", "hello")]);
    let old = deb_layer(&[("bash", "5.2-1"), ("libssl3", "3.0.14-1"), ("vim", "9"), ("zip", "3")]);
    let new = deb_layer(&[("bash", "5.2-1"), ("libssl3", "3.0.15-1"), ("curl", "8"), ("zip", "2")]);
    let settings =
        json!({"User": "1000", "Env": ["A=1", "B=2"], "Labels": {"v": "1"}, "Cmd": null});
    images.annotated("team/app:1", &[bottom.clone(), old], settings, base("sha256:old"));
    let settings = json!({"User": "1000", "Env": ["A=1", "B=3"], "Cmd": ["run"]});
    images.annotated("team/app:2", &[bottom, new], settings, base("sha256:new"));
    images.add("team/static:1", &[layer(&[("app", "x")])], json!({}));
    images.start().await
}

#[tokio::test]
async fn a_rebuild_is_described() {
    let registry = registry().await;
    let diff = diff(&registry, "team/app:1", "team/app:2").await;
    let base = |digest: &str| format!("docker.io/library/debian:12@{digest}");
    assert_eq!(diff.base, Some(BaseChange { from: base("sha256:old"), to: base("sha256:new") }));
    assert_eq!((diff.shared_layers, diff.removed_layers.len(), diff.added_layers.len()), (1, 1, 1));
    assert_eq!(diff.added_layers[0].command, "RUN step 2");
    let setting = |name: &str, from: Option<&str>, to: Option<&str>| SettingChange {
        setting: name.into(),
        from: from.map(Into::into),
        to: to.map(Into::into),
    };
    let expected = [
        setting("Cmd", None, Some("[\"run\"]")),
        setting("Env B", Some("2"), Some("3")),
        setting("Labels v", Some("1"), None),
    ];
    assert_eq!(diff.settings, expected);
    let changes: Vec<_> =
        diff.packages.iter().map(|change| (change.name.as_str(), change.change)).collect();
    let expected = [
        ("curl", PackageChangeKind::Added),
        ("libssl3", PackageChangeKind::Upgraded),
        ("vim", PackageChangeKind::Removed),
        ("zip", PackageChangeKind::Downgraded),
    ];
    assert_eq!(changes, expected);
    assert!(diff.problems.is_empty(), "{:?}", diff.problems);
}

#[tokio::test]
async fn the_text_hides_nothing_and_ends_in_every_format() {
    let registry = registry().await;
    let changed = diff(&registry, "team/app:1", "team/app:2").await;
    let text = changed.rendered(ListFormat::Wide).expect("a text");
    for line in
        ["- docker.io/library/debian:12@sha256:old", "libssl3  3.0.14-1  3.0.15-1  upgraded"]
    {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    assert_eq!(changed.rendered(ListFormat::Name).expect("names"), "curl\nlibssl3\nvim\nzip\n");
    let json = changed.rendered(ListFormat::Json).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["kind"], &json["sharedLayers"]), (&json!("ImageDiff"), &json!(1)));
    assert_eq!(json["packages"][1]["change"], "Upgraded");
}

#[tokio::test]
async fn equal_images_do_not_differ_and_unknown_packages_are_named() {
    let registry = registry().await;
    assert!(diff(&registry, "team/app:1", "team/app:1").await.is_empty());
    let statics = diff(&registry, "team/static:1", "team/static:1").await;
    assert!(statics.is_empty());
    let text = statics.rendered(ListFormat::Wide).expect("a text");
    assert!(text.contains("nothing differs"), "{text}");
    assert!(text.contains("it has no database of packages"), "{text}");
}

#[tokio::test]
async fn a_layer_with_another_content_than_its_digest_is_rejected() {
    let mut images = TestImages::default();
    images.add("team/app:1", &[deb_layer(&[("bash", "1")])], json!({}));
    images.damage_blobs();
    let registry = images.start().await;
    let reader = registry.reader();
    let error = read(&reader, &registry.reference("team/app:1")).await.err().expect("an error");
    let error = format!("{error:#}");
    assert!(error.contains("another content than its digest"), "{error}");
}

#[test]
fn builds_are_chosen_by_number() {
    let builds = |digests: &[(i64, &str)]| Builds {
        image: "team/f/a".into(),
        builds: digests.iter().map(|(number, digest)| (*number, (*digest).to_owned())).collect(),
    };
    let history = builds(&[(5, "e"), (4, "e"), (3, "c"), (1, "a")]);
    assert_eq!(history.choose(&[]).expect("builds"), ("c", "e"));
    assert_eq!(history.choose(&[4]).expect("builds"), ("c", "e"));
    assert_eq!(history.choose(&[3]).expect("builds"), ("a", "c"));
    assert_eq!(history.choose(&[1, 5]).expect("builds"), ("a", "e"));
    let error = |builds: &Builds, numbers: &[i64]| {
        builds.choose(numbers).expect_err("no builds").to_string()
    };
    assert!(error(&history, &[1]).contains("no other build to compare with"));
    assert!(error(&history, &[2]).contains("no recorded build 2; it has 5, 4, 3, 1"));
    assert!(error(&builds(&[]), &[]).contains("was not built yet"));
}

/// What an image with the packages of this machine has more than an empty one is what dpkg lists.
#[tokio::test]
async fn packages_are_those_that_dpkg_lists() {
    let Some((expected, packages)) = packages_of_this_machine() else { return };
    let mut images = TestImages::default();
    images.add("team/app:1", &[deb_layer(&[])], json!({}));
    images.add("team/app:2", &[deb_layer(&[]), packages], json!({}));
    let registry = images.start().await;
    let diff = diff(&registry, "team/app:1", "team/app:2").await;
    let added = diff.packages.iter().map(|change| {
        assert_eq!(change.change, PackageChangeKind::Added);
        let version = change.to.as_deref().expect("a version");
        format!("{} {version} {}", change.name, change.architecture)
    });
    assert_eq!(added.collect::<std::collections::BTreeSet<_>>(), expected);
}
