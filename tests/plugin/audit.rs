//! `kubectl family audit`.

use crate::{
    runs::{Files, run},
    test_registry::{TestImages, layer},
};

const RECORDED: &str = "-f tests/plugin/recorded.yaml";

#[test]
fn images_with_their_bases_and_upstreams() {
    insta::assert_snapshot!("recorded", run(&format!("audit {RECORDED}")).fine());
    let document = run(&format!("audit -o json {RECORDED}")).document("audit");
    let images = document["images"].as_array().expect("a list");
    let of = |name: &str| {
        let mut images = images.iter();
        images.find(|image| image["name"] == format!("web/shop/{name}")).expect("an image")
    };
    let old = "sha256:1f4e000000000000000000000000000000000000000000000000000000000000";
    assert_eq!(of("python")["upstreams"][0]["digest"], old, "it is built on build 1 of base");
    assert_eq!(of("python")["base"]["isOutdated"], true);
    assert_eq!(of("base")["upstreams"][0].get("behind"), None, "{document:#}");
    assert_eq!(of("app").get("digest"), None);
}

#[test]
fn values_for_spreadsheets_are_no_formulas() {
    let recorded = std::fs::read_to_string(crate::runs::root().join("tests/plugin/recorded.yaml"));
    let text = recorded.expect("a file").replace(
        "metadata: {name: shop, namespace: web}",
        "metadata: {name: shop, namespace: web, annotations: {}, labels: {team: '-1'}}",
    );
    let files = Files::new(&[("f.yaml", &text)]);
    let csv = run(&format!("audit -o csv -f {}", files.folder())).fine();
    assert!(csv.lines().nth(1).expect("a row").contains(",'-1,"), "{csv}");
}

#[test]
fn a_registry_is_not_asked_together_with_a_cluster() {
    for line in [
        "audit localhost:1/team -f tests/plugin/recorded.yaml",
        "audit localhost:1 -n team",
        "audit --older-than soon -f tests/plugin/recorded.yaml",
        "audit team",
        "audit localhost:1/team --plain-http localhost:1",
    ] {
        let failed = run(line);
        assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{line}: {failed:#?}");
    }
}

#[tokio::test]
async fn a_registry_answers_alone() {
    let mut images = TestImages::default();
    let bottom = layer(&[("a", "1")]);
    images.add("team/base:1", std::slice::from_ref(&bottom), serde_json::json!({}));
    images.add("team/app:1", &[bottom, layer(&[("b", "1")])], serde_json::json!({}));
    let registry = images.start().await;
    let host = registry.host.clone();
    let run = tokio::task::spawn_blocking(move || {
        run(&format!("audit {host}/team -o json --plain-http {host} --platform linux/amd64"))
    });
    let run = run.await.expect("the run ends");
    assert_eq!(run.code, Some(0), "{run:#?}");
    let document = run.document("audit");
    assert_eq!(document["origin"], "Registry");
    let base = document["images"][0]["base"]["name"].as_str().expect("a base");
    assert!(base.ends_with("/team/base:1"), "{document:#}");
}
