//! `layers`, `diff` and `contains` on a registry that the test serves.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    runs::{PluginRun, run},
    test_registry::{TestImages, TestRegistry, deb_layer, layer},
};

async fn registry() -> TestRegistry {
    let mut images = TestImages::default();
    let bottom = layer(&[("etc/motd", "hello")]);
    let old = deb_layer(&[("libssl3", "3.0.14-1"), ("vim", "9")]);
    let new = deb_layer(&[("libssl3", "3.0.15-1"), ("curl", "8")]);
    images.add("team/app:1", &[bottom.clone(), old], json!({"User": "1000"}));
    images.add("team/app:2", &[bottom, new], json!({"User": "0"}));
    images.add("team/static:1", &[layer(&[("app", "x")])], json!({}));
    images.start().await
}

/// Runs the plugin in a thread, so that the registry responds. `HOST` stands for the registry.
async fn runs(lines: &'static [&'static str]) -> Vec<PluginRun> {
    let registry = registry().await;
    let host = Arc::new(registry.host.clone());
    let all = tokio::task::spawn_blocking(move || {
        let flags = format!("--plain-http {host} --platform linux/amd64");
        lines.iter().map(|line| run(&format!("{} {flags}", line.replace("HOST", &host)))).collect()
    });
    all.await.expect("the runs end")
}

#[tokio::test]
async fn layers_of_a_reference_are_listed() {
    let mut runs = runs(&["layers HOST/team/app:1 -o json", "layers HOST/team/app:1"]).await;
    let text = runs.pop().expect("a run").fine();
    assert!(text.contains("RUN step 2") && text.contains("in 2 layers"), "{text}");
    let document = runs.pop().expect("a run").document("layers");
    assert_eq!(document["layers"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn references_are_compared() {
    let mut runs = runs(&[
        "diff HOST/team/app:1 HOST/team/app:1",
        "diff HOST/team/app:1 HOST/team/app:2",
        "diff HOST/team/app:1 HOST/team/app:2 -o json",
    ])
    .await;
    let json = runs.pop().expect("a run");
    assert_eq!(json.code, Some(1), "a difference");
    let document = json.document("diff");
    let names: Vec<&Value> =
        document["packages"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["curl", "libssl3", "vim"]);
    let text = runs.pop().expect("a run");
    assert_eq!(text.code, Some(1), "{text:#?}");
    assert!(text.stdout.contains("User     1000    0"), "{}", text.stdout);
    let same = runs.pop().expect("a run").fine();
    assert!(same.contains("nothing differs"), "{same}");
}

#[tokio::test]
async fn packages_are_searched() {
    let runs = runs(&[
        "contains libssl3<3.0.15-1 --image HOST/team/app:1 --image HOST/team/app:2 -o json",
        "contains libssl3<3.0.14-1 --image HOST/team/app:1",
        "contains libssl3 --image HOST/team/static:1",
    ])
    .await;
    let [found, none, unknown]: [PluginRun; 3] = runs.try_into().expect("three runs");
    assert_eq!(found.code, Some(1));
    let document = found.document("contains");
    assert_eq!(document["images"].as_array().map(Vec::len), Some(1), "{document}");
    assert_eq!(document["images"][0]["packages"][0]["version"], "3.0.14-1");
    assert_eq!(none.fine(), "0 of 1 image contain it\n");
    assert_eq!(unknown.code, Some(2), "an incomplete answer: {unknown:#?}");
    assert!(unknown.stderr.contains("no database of packages"), "{}", unknown.stderr);
}

#[tokio::test]
async fn bad_input_is_explained() {
    let runs = runs(&[
        "layers HOST/team/gone:1",
        "layers HOST/team/app:1 --platform x",
        "diff HOST/team/app:1",
        "diff HOST/team/app:1 UPPER/x:1",
        "contains <1 --image HOST/team/app:1",
        "contains a --image not..a:reference:at:all",
    ])
    .await;
    let said = ["gone", "--platform", "name the reference", "UPPER", "PACKAGE", "not..a"];
    for (run, said) in runs.iter().zip(said) {
        assert_eq!(run.code, Some(2), "{run:#?}");
        assert!(run.stderr.contains(said), "{said} is missing in {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn an_unreachable_registry_is_named() {
    let run = run("layers 127.0.0.1:1/team/app:1 --plain-http 127.0.0.1:1");
    assert_eq!(run.code, Some(2), "{run:#?}");
    assert!(run.stderr.contains("127.0.0.1:1"), "{}", run.stderr);
}
