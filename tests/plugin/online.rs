//! Commands on a cluster: `status`, `logs` and requests.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{
    api_server::ApiServer,
    runs::{Files, PluginRun, plugin, run},
};

fn family() -> Value {
    json!({
        "apiVersion": "groundswell.dev/v1alpha1", "kind": "ImageFamily",
        "metadata": {"name": "shop", "namespace": "team", "resourceVersion": "1"},
        "spec": {
            "repository": "registry.example.com/shop",
            "upstreams": [{"name": "debian", "image": "docker.io/library/debian"}],
            "images": [
                {"name": "base", "from": [{"upstream": "debian"}], "source": {"inline": "FROM x"}},
                {"name": "app", "from": [{"image": "base"}], "source": {"inline": "FROM x"}},
            ],
        },
        "status": {"counts": {"total": 2, "current": 1, "building": 1}, "upstreams": [{
            "name": "debian", "reference": "docker.io/library/debian:latest",
            "adopted": {"digest": "sha256:d1"}}]},
    })
}

fn image(name: &str, level: i32, state: &str) -> Value {
    json!({
        "apiVersion": "groundswell.dev/v1alpha1", "kind": "ManagedImage",
        "metadata": {"name": format!("shop.{name}"), "namespace": "team", "resourceVersion": "1"},
        "spec": {"family": "shop", "image": name, "level": level, "repository": "r"},
        "status": {"state": state, "reason": state, "message": "what happens",
                   "failure": {"last": {"class": "Build", "reason": "BuildFailed",
                                        "message": "RUN make\nexit code 2"}}},
    })
}

async fn server() -> ApiServer {
    let objects = |state| vec![family(), image("base", 1, "Current"), image("app", 2, state)];
    ApiServer::start(objects("Building"), objects("Failed")).await
}

/// Runs the plugin in a thread, so that the server responds.
async fn run_on(server: &ApiServer, line: &str) -> PluginRun {
    let line = format!("{line} {}", server.flag());
    tokio::task::spawn_blocking(move || run(&line)).await.expect("the run ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_has_a_bar_for_each_level() {
    let server = server().await;
    let text = run_on(&server, "status shop").await.fine();
    for expected in ["1      ####################  1/1   all current", "0/1   1 Building"] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    let missing = run_on(&server, "status none").await;
    assert_eq!(missing.code, Some(2), "{missing:#?}");
    assert!(missing.stderr.contains("`none` not found"), "{missing:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_rights_that_are_missing_are_named_at_once() {
    let server = server().await;
    server.forbid(&["managedimages", "cascades", "pods"]);
    for (line, expected) in [
        ("graph", &["managedimages", "cascades"][..]),
        ("status shop", &["managedimages", "cascades"]),
        ("contains openssl", &["managedimages", "cascades", "pods"]),
        ("force shop --dry-run", &["managedimages", "cascades"]),
    ] {
        let refused = run_on(&server, line).await;
        assert_eq!(refused.code, Some(2), "{line}: {refused:#?}");
        let head = format!("error: {} rights are missing:\n", expected.len());
        assert!(refused.stderr.starts_with(&head), "{line}: {refused:#?}");
        for plural in expected {
            let right = format!("\n  {plural} is forbidden: User \"u\" cannot list");
            assert!(refused.stderr.contains(&right), "{line}: {refused:#?}");
        }
    }
}

/// The record of the image is as old as the cascade.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_now_is_read_from_the_running_cascade() {
    let written = |second: u32| {
        json!([{"manager": "groundswell", "operation": "Apply", "subresource": "status",
                "apiVersion": "groundswell.dev/v1alpha1", "fieldsType": "FieldsV1", "fieldsV1": {},
                "time": format!("2026-05-01T12:00:{second:02}Z")}])
    };
    let mut app = image("app", 2, "Current");
    app["metadata"]["managedFields"] = written(1);
    let cascade = json!({
        "apiVersion": "groundswell.dev/v1alpha1", "kind": "Cascade",
        "metadata": {"name": "shop-1", "namespace": "team", "resourceVersion": "1",
                     "managedFields": written(2)},
        "spec": {"family": "shop", "levels": [["base"], ["app"]]},
        "status": {"phase": "Running", "images": [
            {"name": "app", "state": "Building", "message": "base was rebuilt"}]},
    });
    let objects = vec![family(), image("base", 1, "Current"), app, cascade];
    let server = ApiServer::start(objects, Vec::new()).await;
    let text = run_on(&server, "status shop").await.fine();
    assert!(text.contains("0/1   1 Building"), "{text}");
    assert!(text.contains("base was rebuilt"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_manifests_needs_no_family_in_the_cluster() {
    let server = ApiServer::start(Vec::new(), Vec::new()).await;
    let nothing = run_on(&server, "plan").await;
    assert_eq!(nothing.code, Some(2), "{nothing:#?}");
    let expected = "error: namespace team has no ImageFamily; read all namespaces with -A";
    assert!(nothing.stderr.starts_with(expected), "{nothing:#?}");
    let files = Files::new(&[("family.json", &family().to_string())]);
    let edit = format!("plan --edit {}", files.path("family.json").display());
    let text = run_on(&server, &edit).await.fine();
    assert!(
        text.starts_with("team/shop: 2 images on 2 levels are built, starting now\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_is_opened_again_and_changes_are_lines() {
    let server = server().await;
    let flag = server.flag();
    let line = tokio::task::spawn_blocking(move || {
        let mut child = plugin()
            .args("status shop --watch".split_whitespace())
            .args(flag.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the plugin runs");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut lines = output.lines().map(|line| line.expect("a line"));
        let line = lines.find(|line| line.contains("image app"));
        child.kill().expect("the plugin ends");
        child.wait().expect("the plugin ends");
        line
    });
    let line = line.await.expect("the run ends").expect("a change");
    assert!(line.ends_with("image app: Building -> Failed: Failed: what happens"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_pod_is_what_is_recorded() {
    let server = server().await;
    let text = run_on(&server, "logs team/shop/app").await.fine();
    assert!(text.starts_with("The pod is gone"), "{text}");
    assert!(text.ends_with("BuildFailed\nRUN make\nexit code 2\n"), "{text}");
    let unknown = run_on(&server, "logs shop/app --check none").await;
    assert_eq!(unknown.code, Some(2), "{unknown:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_a_request_is_not_stored() {
    let server = server().await;
    let text = run_on(&server, "force shop --dry-run").await.fine();
    assert!(text.contains("dry run, nothing is sent: Force the whole family"), "{text}");
    assert!(text.contains("it applies to 2 images"), "{text}");
    let posted = server.posted();
    let requests = posted.iter().filter(|(_, object)| object["kind"] == "FamilyRequest");
    let queries: Vec<&String> = requests.map(|(query, _)| query).collect();
    assert_eq!(queries.len(), 1, "{posted:#?}");
    assert!(queries[0].contains("dryRun=All"), "{queries:?}");
    let both = run_on(&server, "force shop --dry-run --wait").await;
    assert_eq!(both.code, Some(2), "{both:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lint_reads_the_config_maps_that_images_are_built_from() {
    let mut family = family();
    let images = &mut family["spec"]["images"];
    for (image, config_map) in [(0, "known"), (1, "missing")] {
        images[image]["source"] = json!({"configMap": {"name": config_map}});
    }
    let config_map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "known", "namespace": "team"},
        "data": {"Dockerfile": "FROM debian\nRUN apt-get update && apt-get install -y curl\n"},
    });
    let server = ApiServer::start(vec![family, config_map], Vec::new()).await;
    let found = run_on(&server, "lint --disable unused-image").await;
    assert!(found.stdout.contains("package-cache"), "{found:#?}");
    assert!(found.stdout.contains("1 Dockerfile read, 1 not here"), "{found:#?}");
    assert!(found.stderr.contains("team: no ConfigMap `missing`"), "{found:#?}");
}
