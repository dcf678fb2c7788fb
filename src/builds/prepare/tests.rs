#![allow(clippy::needless_pass_by_value, reason = "`json!` is easier to read where it is used")]

use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::builds::prepare::*;

/// A pod's file system in a temporary folder, in a user namespace of its own.
struct Pod(TempDir);

impl Pod {
    fn new() -> Self {
        let pod = Self(tempfile::tempdir().expect("folder"));
        for folder in ["workspace", "docker-config"] {
            fs::create_dir(pod.path(folder)).expect("folder");
        }
        pod.file("proc/self/uid_map", "0 131072 65536\n");
        pod
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, content).expect("file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect(path)
    }

    fn run(&self, specification: &Value) -> Result<(), PrepareError> {
        run(Some(specification.to_string().into()), &PodPaths::under(self.0.path()))
    }
}

fn specification(source: Value) -> Value {
    json!({
        "userNamespace": "Required",
        "image": "registry.example.com/team/web:gs-1",
        "source": source,
        "parents": [{"name": "alpine", "pinned": format!("docker.io/library/alpine@sha256:{}", "a".repeat(64)), "reference": "alpine:3.20", "use": "Base"}],
        "args": {},
        "target": null,
        "credentials": [],
        "registries": {"plainHttp": ["registry.example.com"]},
    })
}

fn inline(dockerfile: &str) -> Value {
    specification(json!({"type": "inline", "dockerfile": dockerfile}))
}

#[test]
fn prepares_an_inline_source() {
    let pod = Pod::new();
    pod.run(&inline("FROM alpine:3.20\n")).expect("prepared");
    assert_eq!(pod.read("workspace/context/Dockerfile"), "FROM alpine:3.20\n");
    assert_eq!(
        pod.read("workspace/buildkitd.toml"),
        "[registry.\"registry.example.com\"]\n  http = true\n"
    );
    assert_eq!(pod.read("docker-config/config.json"), r#"{"auths":{}}"#);
    let mode =
        fs::metadata(pod.path("docker-config/config.json")).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_host_namespace_is_refused_before_anything_is_written() {
    let pod = Pod::new();
    pod.file("proc/self/uid_map", "0 0 4294967295\n");
    let refusal = pod.run(&inline("FROM alpine:3.20")).expect_err("host");
    assert_eq!(refusal.reason, PrepareReason::UserNamespaceUnavailable);
    assert!(
        !pod.path("workspace/context").exists() && !pod.path("docker-config/config.json").exists()
    );
    let mut allowed = inline("FROM alpine:3.20");
    allowed["userNamespace"] = json!("NotRequired");
    assert_eq!(pod.run(&allowed), Ok(()));
}

#[test]
fn a_dockerfile_that_disagrees_is_refused_and_gets_no_credentials() {
    for (dockerfile, said) in [
        ("FROM debian:12", "`debian:12`, which `from` does not declare"),
        ("FROM alpine:3.20\nRUN <<EOF\n", "line 2: the here-document `EOF` has no end"),
    ] {
        let pod = Pod::new();
        let refusal = pod.run(&inline(dockerfile)).expect_err(said);
        assert_eq!(refusal.reason, PrepareReason::DockerfileMismatch);
        assert!(refusal.message.contains(said), "{refusal}");
        assert!(!pod.path("docker-config/config.json").exists());
        assert_eq!(PrepareError::read(&refusal.write()), Some(refusal));
    }
}

#[test]
fn a_config_map_is_taken_as_it_was_or_not_at_all() {
    let pod = Pod::new();
    pod.file("source/..data/x", "the kubelet's own");
    pod.file("source/Dockerfile", "FROM alpine:3.20\nCOPY bin/run /\n");
    pod.file("source/run", "#!/bin/sh\n");
    let items: Value = json!([{"key": "Dockerfile", "path": "Dockerfile"}, {"key": "run", "path": "bin/run", "executable": true}]);
    let parsed: Vec<crate::api::ConfigMapItem> =
        serde_json::from_value(items.clone()).expect("items");
    let data =
        ["Dockerfile", "run"].map(|key| (key.to_owned(), pod.read(&format!("source/{key}"))));
    let hash = source::config_map_hash(&data.into(), &std::collections::BTreeMap::new(), &parsed)
        .expect("hash");
    let specification =
        specification(json!({"type": "configMap", "name": "files", "items": items, "hash": hash}));
    pod.run(&specification).expect("prepared");
    assert_eq!(pod.read("workspace/context/bin/run"), "#!/bin/sh\n");
    let mode =
        fs::metadata(pod.path("workspace/context/bin/run")).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    let changed = Pod::new();
    changed.file("source/Dockerfile", "FROM alpine:3.20\n");
    changed.file("source/run", "other");
    let refusal = changed.run(&specification).expect_err("changed");
    assert_eq!(refusal.reason, PrepareReason::SourceUnavailable);
    assert!(refusal.message.contains("ConfigMap `files`, the source, changed"), "{refusal}");

    let gone = Pod::new();
    assert_eq!(gone.run(&specification).expect_err("gone").reason, PrepareReason::SourceNotFound);
    gone.file("source/Dockerfile", "FROM alpine:3.20\n");
    let refusal = gone.run(&specification).expect_err("no key");
    assert!(refusal.message.contains("no key `run`"), "{refusal}");
}

#[test]
fn a_dockerfile_is_not_read_through_a_link_that_leaves() {
    let pod = Pod::new();
    pod.file("secret", "hunter2");
    let context = pod.path("workspace/context");
    fs::create_dir(&context).expect("folder");
    symlink(pod.path("secret"), context.join("Dockerfile")).expect("link");
    let refusal = context::read_dockerfile(&context, "Dockerfile").expect_err("link");
    assert!(
        refusal.message.contains("outside") && !refusal.message.contains("hunter2"),
        "{refusal}"
    );
    assert!(
        context::read_dockerfile(&context, "other")
            .expect_err("missing")
            .message
            .contains("does not exist")
    );
}

#[test]
fn the_credentials_that_a_build_needs_are_merged() {
    let pod = Pod::new();
    let auth = |hosts: &[&str]| {
        let auths: serde_json::Map<_, _> =
            hosts.iter().map(|host| ((*host).into(), json!({"auth": "dTpwYXNz"}))).collect();
        json!({"credsStore": "evil", "auths": auths}).to_string()
    };
    pod.file(
        "credentials/0/config.json",
        &auth(&["registry.example.com/team", "other.example.com"]),
    );
    pod.file("credentials/1/config.json", &auth(&["docker.io", "mirror.example.com:5000"]));
    let mut specification = inline("FROM alpine:3.20");
    specification["credentials"] = json!(["push", "pull"]);
    specification["registries"] =
        json!({"mirrors": {"docker.io": ["http://mirror.example.com:5000"]}});
    pod.run(&specification).expect("prepared");
    let config: Value = serde_json::from_str(&pod.read("docker-config/config.json")).expect("json");
    let hosts: Vec<_> = config["auths"].as_object().expect("auths").keys().collect();
    assert_eq!(
        hosts,
        ["https://index.docker.io/v1/", "mirror.example.com:5000", "registry.example.com"]
    );
    assert_eq!(config.as_object().map(serde_json::Map::len), Some(1), "no helper");
}

#[test]
fn a_credential_that_can_not_be_used_is_named_and_not_shown() {
    let pod = Pod::new();
    let mut specification = inline("FROM alpine:3.20");
    specification["credentials"] = json!(["push"]);
    let refusal = pod.run(&specification).expect_err("missing");
    assert_eq!(refusal.reason, PrepareReason::InvalidSecret);
    assert!(refusal.message.contains("Secret push"), "{refusal}");
    pod.file("credentials/0/config.json", "hunter2");
    fs::remove_dir_all(pod.path("workspace/context")).expect("clean");
    let refusal = pod.run(&specification).expect_err("malformed");
    assert_eq!(refusal.reason, PrepareReason::InvalidSecret);
    assert!(
        refusal.message.contains("Secret push") && !refusal.message.contains("hunter2"),
        "{refusal}"
    );
}

#[test]
fn without_a_specification_nothing_is_done() {
    let pod = Pod::new();
    let paths = PodPaths::under(pod.0.path());
    for variable in [None, Some("{}".into()), Some("x".into())] {
        assert_eq!(
            run(variable, &paths).expect_err("refused").reason,
            PrepareReason::InfrastructureFailed
        );
    }
}
