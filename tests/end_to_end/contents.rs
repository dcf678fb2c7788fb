//! What the plugin reads from the layers of an image is what the package manager in it lists.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    installation::Session,
    scene::{REGISTRY, Scene, image},
};

/// A package of every Debian image, which the built image removes.
const REMOVED: &str = "hostname";

#[tokio::test]
async fn packages_are_those_that_dpkg_lists() {
    let session = Session::shared().await;
    let scene = Scene::new(&session, "packages").await;
    let (cluster, place) = (session.cluster, &scene.place);
    cluster.run("dev/images/build", &["--cluster", &cluster.name, "debian"]).expect("debian");
    let mut tool = image("tool", "alpine");
    tool["from"] = json!([{"upstream": "debian", "as": "debian:trixie-slim"}]);
    tool["source"]["inline"] =
        json!(format!("FROM debian:trixie-slim\nRUN dpkg --purge --force-all {REMOVED}\n"));
    let mut spec = scene.spec(json!([tool]));
    spec["upstreams"] = json!([{"name": "debian", "image": format!("{REGISTRY}/library/debian"),
        "follow": {"tag": "trixie-slim"}}]);
    scene.build(&spec).await;

    let built = format!("{REGISTRY}/{}/tool:latest", place.namespace);
    let debian = format!("{REGISTRY}/library/debian:trixie-slim");
    let (in_base, in_built) = (dpkg(&scene, "base", &debian), dpkg(&scene, "tool", &built));
    assert!(in_base.len() > 20 && in_base.contains_key(REMOVED), "{in_base:?}");
    assert!(!in_built.contains_key(REMOVED), "{in_built:?}");

    let alpine = scene.here("upstream/alpine:3.24");
    let base = format!("{}/library/debian:trixie-slim", cluster.registry);
    assert_eq!(difference(&scene, &alpine, &base, "to"), in_base);
    assert_eq!(difference(&scene, &alpine, &scene.here("tool:latest"), "to"), in_built);
    let removed = difference(&scene, &base, &scene.here("tool:latest"), "from");
    assert_eq!(removed, BTreeMap::from([(REMOVED.to_owned(), in_base[REMOVED].clone())]));

    let tool = scene.here("tool:latest");
    let contains = |package: &str| plugin(&scene, &["contains", package, "--image", &tool]);
    for (package, version) in in_built.iter().take(5) {
        let found = contains(&format!("{package}={version}"));
        assert_eq!(found["images"][0]["packages"][0]["name"], package.as_str(), "{found}");
    }
    let found = contains(REMOVED);
    assert_eq!((&found["images"], &found["read"]), (&json!([]), &json!(1)));
}

/// Returns the packages with their versions that `dpkg` lists in a container of an image.
fn dpkg(scene: &Scene, pod: &str, image: &str) -> BTreeMap<String, String> {
    let namespace = ["--namespace", &scene.place.namespace];
    let kubectl = |arguments: &[&str]| {
        scene.cluster.run("kubectl", &[&namespace[..], arguments].concat()).expect("kubectl")
    };
    let (image, show) = (format!("--image={image}"), "${Package} ${Version} ${db:Status-Abbrev}\n");
    kubectl(&[
        "run",
        pod,
        &image,
        "--restart=Never",
        "--command",
        "--",
        "dpkg-query",
        "--show",
        "--showformat",
        show,
    ]);
    let pod = format!("pod/{pod}");
    kubectl(&["wait", &pod, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s"]);
    let listed = kubectl(&["logs", &pod]);
    let installed = listed.lines().filter_map(|line| {
        let [name, version, "ii"] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        Some((name.to_owned(), version.to_owned()))
    });
    installed.collect()
}

/// Returns the packages of Debian in which two images differ, with the versions of one of them.
fn difference(scene: &Scene, from: &str, to: &str, side: &str) -> BTreeMap<String, String> {
    let found = plugin(scene, &["diff", from, to]);
    // The stand-in for Alpine is made of busybox alone.
    let is_expected = |problem: &Value| {
        problem.as_str().is_some_and(|text| {
            text.contains("/alpine@") && text.ends_with("it has no database of packages")
        })
    };
    let problems = found["problems"].as_array().expect("a list");
    assert!(problems.iter().all(is_expected), "{problems:?}");
    let packages = found["packages"].as_array().into_iter().flatten();
    let of_side = packages.filter_map(|package| {
        let version = package[side].as_str()?;
        Some((package["name"].as_str()?.to_owned(), version.to_owned()))
    });
    of_side.collect()
}

/// Returns what a command of the plugin shows as JSON. Exit code 1 stands for a finding.
fn plugin(scene: &Scene, arguments: &[&str]) -> Value {
    let script = "\"$0\" \"$@\" || [ $? = 1 ]";
    let start = ["-c", script, env!("CARGO_BIN_EXE_kubectl-family")];
    let end = ["-o", "json", "--plain-http", &scene.cluster.registry];
    let shown = scene.cluster.run("sh", &[&start[..], arguments, &end[..]].concat());
    serde_json::from_str(&shown.expect("an answer")).expect("JSON")
}
