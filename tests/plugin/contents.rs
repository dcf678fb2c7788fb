//! `layers`, `diff` and `contains` on a registry and an API server that the test serves.

use std::sync::Arc;

use axum::{Json, Router, extract::Request};
use serde_json::{Value, json};

use crate::{
    runs::{Files, PluginRun, run},
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

/// Serves a cluster without families and with these pods. Returns its kubeconfig.
async fn cluster(pods: Value) -> Files {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let handler = move |request: Request| {
        let is_pods = request.uri().path().ends_with("/pods");
        let items = if is_pods { pods.clone() } else { json!([]) };
        let list = json!({"kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": "1"}, "items": items});
        async move { Json(list) }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context":
            {"cluster": "c", "user": "u", "namespace": "shop"}}]});
    Files::new(&[("config", &config.to_string())])
}

fn pod(name: &str, id: &str, state: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": []},
        "status": {"containerStatuses": [{"name": "c", "image": "web:1", "imageID": id,
            "ready": true, "restartCount": 3, "state": {state: {"reason": "CrashLoopBackOff"}}}]}})
}

/// Pods are searched whether a family has their images or not, also those that crash.
#[tokio::test]
async fn workloads_without_a_family_are_searched() {
    let registry = registry().await;
    let id = format!("{}/team/app:1", registry.host);
    let image = registry.reader().image(&registry.reference("team/app:1")).await.expect("an image");
    let id = format!("{}@{}", id.trim_end_matches(":1"), image.digest);
    for (state, id, code, said) in [
        ("waiting", id.as_str(), 1, "Pod shop/web"),
        ("running", id.as_str(), 1, "Pod shop/web"),
        ("running", "sha256:abc", 2, "Pod shop/web runs web:1, of which its node records no"),
    ] {
        let cluster = cluster(json!([pod("web", id, state)])).await;
        let config = cluster.path("config").display().to_string();
        let line = format!("contains libssl3 --kubeconfig {config} --plain-http {}", registry.host);
        let run = tokio::task::spawn_blocking(move || run(&line)).await.expect("the run ends");
        assert_eq!(run.code, Some(code), "{state} {id}: {run:#?}");
        assert!(run.stdout.contains(said) || run.stderr.contains(said), "{run:#?}");
    }
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
        "contains libssl3* --image HOST/team/app:1",
        "contains openssl~3.1 --image HOST/team/app:1",
        "contains a --image shop/web",
    ])
    .await;
    let said = [
        "gone",
        "--platform",
        "name the reference",
        "UPPER",
        "PACKAGE",
        "not..a",
        "`libssl3*` is no name of a package",
        "`openssl~3.1` is no name of a package",
        "`shop/web` names no registry or tag",
    ];
    assert_eq!(runs.len(), said.len());
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
