//! `outdated` on a registry and on repositories of packages that the test serves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::Request, http::StatusCode, response::IntoResponse as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    runs::{Files, PluginRun, run},
    test_registry::{TestImages, TestRegistry, layer},
};

const SOURCES: &str = "deb [trusted=yes] http://deb.example/debian stable main\n\
    deb [trusted=yes] http://deb.example/debian stable-security main\n\
    deb [trusted=yes] https://user:s3cret@deb.example/own a main\n";

const FAMILY: &str = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: web, namespace: shop}
spec:
  repository: HOST/team
  upstreams:
  - {name: debian, image: HOST/library/debian, follow: {tag: '12'}}
  images:
  - {name: runtime, tags: [latest], from: [{upstream: debian, as: debian}],
     source: {inline: \"FROM debian\\n\"}}
  - {name: app, tags: [latest], from: [{image: runtime, as: runtime}],
     source: {inline: \"FROM runtime\\n\"}}
  - {name: static, tags: [latest], from: [{image: runtime, as: runtime}],
     source: {inline: \"FROM runtime\\n\"}}
";

/// A database of dpkg with these packages, as `name version want`.
fn status(packages: &[&str]) -> String {
    let paragraph = |package: &&str| {
        let words: Vec<&str> = package.split(' ').collect();
        let [name, version, want] = words[..] else { panic!("{package}") };
        format!(
            "Package: {name}\nStatus: {want} ok installed\nArchitecture: amd64\n\
             Version: {version}\n\n"
        )
    };
    packages.iter().map(paragraph).collect()
}

async fn registry() -> TestRegistry {
    let debian = ["libc6 2.36-9 install"];
    let runtime = [&debian[..], &["openssl 3.0.15-1~deb12u1 install"]].concat();
    let app = [&runtime[..], &["vim 9-1 hold", "curl 7-1 install"]].concat();
    let below =
        layer(&[("var/lib/dpkg/status", &status(&debian)), ("etc/apt/sources.list", SOURCES)]);
    let middle = layer(&[("var/lib/dpkg/status", &status(&runtime))]);
    let top = layer(&[("var/lib/dpkg/status", &status(&app))]);
    let mut images = TestImages::default();
    images.add("library/debian:12", std::slice::from_ref(&below), json!({}));
    images.add("team/runtime:latest", &[below.clone(), middle.clone()], json!({}));
    images.add("team/app:latest", &[below, middle, top], json!({}));
    images.add("team/static:latest", &[layer(&[("app", "x")])], json!({}));
    images.start().await
}

/// A repository of packages, and how often each of its files was requested.
struct Packages {
    host: String,
    requests: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// Serves suites with these packages, as `name version`.
async fn packages(suites: &[(&str, &[&str])]) -> Packages {
    let mut files = BTreeMap::new();
    for (suite, packages) in suites {
        let paragraph = |package: &&str| {
            let (name, version) = package.split_once(' ').expect("name version");
            format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n\n")
        };
        let index: String = packages.iter().map(paragraph).collect();
        let hash = hex::encode(Sha256::digest(&index));
        let size = index.len();
        let release = format!(
            "Suite: {suite}\nDate: Sat, 17 May 2025 09:21:53 UTC\nSHA256:\n {hash} {size} \
             main/binary-amd64/Packages\n"
        );
        files.insert(format!("/debian/dists/{suite}/InRelease"), release);
        files.insert(format!("/debian/dists/{suite}/main/binary-amd64/Packages"), index);
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    let requests = Arc::new(Mutex::new(BTreeMap::new()));
    let counted = Arc::clone(&requests);
    let handler = move |request: Request| {
        let path = request.uri().path().to_owned();
        let response = match files.get(&path) {
            Some(text) => text.clone().into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        };
        *counted.lock().expect("not poisoned").entry(path).or_default() += 1;
        async move { response }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    Packages { host, requests }
}

const STABLE: &[&str] =
    &["libc6 2.36-9+deb12u10", "openssl 3.0.15-1~deb12u1", "vim 9-2", "curl 7-1"];
const SECURITY: &[&str] = &["openssl 3.0.15-1~deb12u2"];

/// Runs the plugin on the family, or on what the line names. `HOST` stands for the registry.
async fn outdated(line: &str, registry: &TestRegistry, packages: &Packages) -> PluginRun {
    let host = registry.host.clone();
    let files = Files::new(&[("family.yaml", &FAMILY.replace("HOST", &host))]);
    let line = format!(
        "outdated {} --plain-http {host} --platform linux/amd64 --mirror \
         http://deb.example=http://{}",
        line.replace("HOST", &host).replace("FILES", &files.folder()),
        packages.host
    );
    tokio::task::spawn_blocking(move || run(&line)).await.expect("the run ends")
}

fn image<'d>(document: &'d Value, name: &str) -> &'d Value {
    let images = document["images"].as_array().expect("a list");
    images.iter().find(|image| image["name"] == name).expect("the image")
}

/// The packages of an image, each as `name available security from rebuild`.
fn lines(image: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let packages = image["packages"].as_array().expect("a list");
    let fields = ["name", "available", "security", "from", "rebuild"];
    packages.iter().map(|one| fields.map(|field| text(&one[field])).join(" ")).collect()
}

#[tokio::test]
async fn each_package_has_the_image_that_brings_it() {
    let (registry, served) =
        (registry().await, packages(&[("stable", STABLE), ("stable-security", SECURITY)]).await);
    let run = outdated("-f FILES -o json", &registry, &served).await;
    assert_eq!(run.code, Some(1), "{run:#?}");
    let notes = run.stderr.clone();
    let document = run.document("outdated");
    assert_eq!(
        lines(image(&document, "shop/web/app")),
        [
            "openssl 3.0.15-1~deb12u2 Security runtime runtime",
            "libc6 2.36-9+deb12u10 Other debian -",
            "vim 9-2 Other app app",
        ]
    );
    assert_eq!(
        lines(image(&document, "shop/web/runtime")),
        [
            "openssl 3.0.15-1~deb12u2 Security runtime runtime",
            "libc6 2.36-9+deb12u10 Other debian -",
        ]
    );
    assert_eq!(image(&document, "shop/web/app")["packages"][2]["held"], true);
    let family = &document["families"][0];
    assert_eq!((&family["outdated"], &family["lackSecurity"]), (&json!(2), &json!(2)));
    assert_eq!(
        (&family["rebuild"], &family["upstreams"]),
        (&json!(["runtime"]), &json!(["debian"]))
    );
    assert!(notes.contains("shop/web/static: it has no database of packages"), "{notes}");
    assert!(notes.contains("names a repository at deb.example with a credential"), "{notes}");
    assert!(!format!("{notes}{document}").contains("s3cret"), "{notes}");
    let requests = served.requests.lock().expect("not poisoned").clone();
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert!(requests.values().all(|count| *count == 1), "{requests:?}");
}

#[tokio::test]
async fn security_updates_are_selected_and_references_need_no_family() {
    let (registry, served) =
        (registry().await, packages(&[("stable", STABLE), ("stable-security", SECURITY)]).await);
    let run = outdated("HOST/team/app:latest --security", &registry, &served).await;
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stdout.contains("openssl") && !run.stdout.contains("libc6"), "{}", run.stdout);
    assert!(run.stdout.contains("1 of 1 image has outdated packages"), "{}", run.stdout);
    let run = outdated("app -f FILES -o wide --exclude openssl --exclude lib*", &registry, &served);
    let run = run.await;
    assert!(run.stdout.contains("9-2 (held)"), "{}", run.stdout);
    assert!(!run.stdout.contains("openssl"), "{}", run.stdout);
    // What the image holds is nothing to act on; its unread repository makes it incomplete.
    assert_eq!(run.code, Some(2), "{run:#?}");
}

#[tokio::test]
async fn an_index_that_cannot_be_read_is_no_answer() {
    let (registry, served) = (registry().await, packages(&[("stable", &["curl 7-1"])]).await);
    let run = outdated("-f FILES", &registry, &served).await;
    assert_eq!(run.code, Some(2), "{run:#?}");
    let said = "http://deb.example/debian/dists/stable-security/Release cannot be read: the server \
                responds with 404 (2 images, such as shop/web/app)";
    assert!(run.stderr.contains(said), "{}", run.stderr);
    assert!(run.stderr.contains("the answer is incomplete"), "{}", run.stderr);
}

#[test]
fn bad_arguments_are_named() {
    for (line, said) in [
        (
            "outdated --mirror http://debian.example.org",
            "write http://debian.example.org=https://mirror",
        ),
        ("outdated --mirror file:/a=http://b", "write http://debian.example.org=https://mirror"),
        ("outdated r.example/a:1 --exclude [", "error"),
        ("outdated no/such/family/image", "error"),
    ] {
        let run = run(line);
        assert_eq!(run.code, Some(2), "{line}: {run:#?}");
        assert!(run.stderr.contains(said), "{line}: {}", run.stderr);
    }
}
