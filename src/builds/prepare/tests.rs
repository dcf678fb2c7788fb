#![allow(clippy::needless_pass_by_value, reason = "`json!` is easier to read where it is used")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::StrategyRef,
    builds::{
        job::BuildEnvironment,
        prepare::{
            source_policy::{RemoteSources, policy},
            *,
        },
        trial::{TrialPlace, trial_job},
    },
};

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

    fn run(&self, spec: &Value) -> Result<(), PrepareError> {
        self.run_with_triggers(spec, &[])
    }

    /// Runs with a first parent that has these triggers.
    fn run_with_triggers(&self, spec: &Value, triggers: &[&str]) -> Result<(), PrepareError> {
        let created = Some("2026-01-02T03:04:05Z".parse().expect("a time"));
        let triggers = triggers.iter().map(|trigger| (*trigger).to_owned()).collect();
        let parent = ParentImage { created, ..ParentImage::default() };
        run(Some(spec.to_string().into()), &PodPaths::under(self.0.path()), |spec, _, _| {
            let mut parents = vec![parent.clone(); spec.parents.len()];
            if let Some(first) = parents.first_mut() {
                first.triggers = triggers;
            }
            Ok(parents)
        })
    }
}

fn spec(source: Value) -> Value {
    json!({
        "userNamespace": "Required",
        "image": "registry.example.com/team/web:gs-1",
        "platform": "linux/amd64",
        "source": source,
        "parents": [{"name": "alpine", "pinned": format!("docker.io/library/alpine@sha256:{}",
            "a".repeat(64)), "reference": "alpine:3.20", "use": "Base"}],
        "args": {},
        "target": null,
        "credentials": [],
        "registries": {"plainHttp": ["registry.example.com"]},
    })
}

fn inline(dockerfile: &str) -> Value {
    spec(json!({"type": "inline", "dockerfile": dockerfile}))
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
    assert_eq!(
        pod.read("workspace/dates.env"),
        "SOURCE_DATE_EPOCH=1767323045\nCREATED=2026-01-02T03:04:05Z\n"
    );
    let mode =
        fs::metadata(pod.path("docker-config/config.json")).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_builder_may_pull_the_pinned_parents_only() {
    let pod = Pod::new();
    pod.run(&inline("FROM alpine:3.20\n")).expect("prepared");
    let pinned = format!("docker.io/library/alpine@sha256:{}", "a".repeat(64));
    for (file, remote) in [
        ("workspace/source-policy.json", RemoteSources::Allowed),
        ("workspace/source-policy-images.json", RemoteSources::Denied),
    ] {
        assert_eq!(pod.read(file), policy(&[&pinned], remote).to_string());
    }
}

#[test]
fn a_digest_in_the_dockerfile_becomes_a_context() {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let mut spec = inline(&format!("FROM alpine:3.20@{}\n", digest("b")));
    let pod = Pod::new();
    let error = pod.run(&spec).expect_err("the strategy does not read contexts");
    assert_eq!(error.reason, PrepareReason::DockerfileMismatch);
    let said = format!("declare the edge `as: alpine:3.20@{}`", digest("b"));
    assert!(error.message.contains(&said), "{error}");

    spec["strategyReadsContexts"] = json!(true);
    let pod = Pod::new();
    pod.run(&spec).expect("prepared");
    assert_eq!(
        pod.read("workspace/contexts.env"),
        format!(
            "CONTEXTS='--opt=context:alpine:3.20@{}=docker-image://docker.io/library/alpine@{}'\n",
            digest("b"),
            digest("a")
        )
    );
    let pod = Pod::new();
    pod.run(&inline("FROM alpine:3.20")).expect("prepared");
    assert_eq!(pod.read("workspace/contexts.env"), "CONTEXTS=''\n");
}

#[test]
fn the_triggers_of_the_parents_are_checked() {
    let spec = inline("FROM alpine:3.20");
    let triggers = ["COPY --from=tool:1 /a /b"];
    let error = Pod::new().run_with_triggers(&spec, &triggers).expect_err("undeclared");
    assert_eq!(error.reason, PrepareReason::DockerfileMismatch);
    assert!(
        error.message.contains("an ONBUILD trigger of `alpine:3.20` names `tool:1`"),
        "{error}"
    );
    let mut declared = spec;
    let tool = json!({"name": "tool", "pinned": "tool@x", "reference": "tool:1",
        "use": "BuildStage"});
    declared["parents"].as_array_mut().expect("a list").push(tool);
    let triggers = ["RUN --mount=from=tool:1,target=/t x"];
    assert_eq!(Pod::new().run_with_triggers(&declared, &triggers), Ok(()));
    let error = Pod::new().run(&declared).expect_err("unnamed");
    assert!(error.message.contains("the Dockerfile does not name it"), "{error}");
}

#[test]
fn private_authorities_are_written_for_git_and_for_the_builder() {
    let pod = Pod::new();
    pod.file("etc/ssl/certs/ca-certificates.crt", "system\n");
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mut spec = inline("FROM alpine:3.20\n");
    spec["caBundle"] = json!(certificate);
    spec["registries"] = json!({});
    pod.run(&spec).expect("prepared");
    assert_eq!(pod.read("workspace/ca.crt"), certificate);
    assert_eq!(pod.read("workspace/ca-certificates.crt"), format!("system\n{certificate}"));
    let ca = "  ca = [\"/workspace/ca.crt\"]\n";
    assert_eq!(
        pod.read("workspace/buildkitd.toml"),
        format!("[registry.\"docker.io\"]\n{ca}[registry.\"registry.example.com\"]\n{ca}")
    );

    let broken = Pod::new();
    spec["caBundle"] = json!("hunter2");
    let error = broken.run(&spec).expect_err("no certificate");
    assert_eq!(error.reason, PrepareReason::InfrastructureFailed);
    assert!(!error.message.contains("hunter2"), "{error}");
}

#[test]
fn the_host_namespace_is_rejected_before_anything_is_written() {
    let pod = Pod::new();
    pod.file("proc/self/uid_map", "0 0 4294967295\n");
    let error = pod.run(&inline("FROM alpine:3.20")).expect_err("host");
    assert_eq!(error.reason, PrepareReason::UserNamespaceUnavailable);
    assert!(
        !pod.path("workspace/context").exists() && !pod.path("docker-config/config.json").exists()
    );
    let mut allowed = inline("FROM alpine:3.20");
    allowed["userNamespace"] = json!("NotRequired");
    assert_eq!(pod.run(&allowed), Ok(()));
}

#[test]
fn a_mismatched_dockerfile_is_rejected_and_gets_no_credentials() {
    for (dockerfile, said) in [
        ("FROM debian:12", "`debian:12`, which `from` does not declare"),
        ("FROM alpine:3.20\nRUN <<EOF\n", "line 2: the here-document `EOF` has no end"),
    ] {
        let pod = Pod::new();
        let error = pod.run(&inline(dockerfile)).expect_err(said);
        assert_eq!(error.reason, PrepareReason::DockerfileMismatch);
        assert!(error.message.contains(said), "{error}");
        assert!(!pod.path("docker-config/config.json").exists());
        assert_eq!(
            PrepareError::from_termination_message(&error.to_termination_message()),
            Some(error)
        );
    }
}

#[test]
fn a_config_map_is_used_only_if_it_is_unchanged() {
    let pod = Pod::new();
    pod.file("source/..data/x", "the kubelet's own");
    pod.file("source/Dockerfile", "FROM alpine:3.20\nCOPY bin/run /\n");
    pod.file("source/run", "#!/bin/sh\n");
    let items: Value = json!([{"key": "Dockerfile", "path": "Dockerfile"}, {"key": "run",
        "path": "bin/run", "executable": true}]);
    let parsed: Vec<crate::api::ConfigMapItem> =
        serde_json::from_value(items.clone()).expect("items");
    let data =
        ["Dockerfile", "run"].map(|key| (key.to_owned(), pod.read(&format!("source/{key}"))));
    let hash = crate::builds::config_map::config_map_hash(
        &data.into(),
        &std::collections::BTreeMap::new(),
        &parsed,
    )
    .expect("hash");
    let spec = spec(json!({"type": "configMap", "name": "files", "items": items, "hash": hash}));
    pod.run(&spec).expect("prepared");
    assert_eq!(pod.read("workspace/context/bin/run"), "#!/bin/sh\n");
    let mode =
        fs::metadata(pod.path("workspace/context/bin/run")).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    let changed = Pod::new();
    changed.file("source/Dockerfile", "FROM alpine:3.20\n");
    changed.file("source/run", "other");
    let error = changed.run(&spec).expect_err("changed");
    assert_eq!(error.reason, PrepareReason::SourceUnavailable);
    assert!(error.message.contains("ConfigMap `files`, the source, changed"), "{error}");

    let gone = Pod::new();
    assert_eq!(gone.run(&spec).expect_err("gone").reason, PrepareReason::SourceNotFound);
    gone.file("source/Dockerfile", "FROM alpine:3.20\n");
    let error = gone.run(&spec).expect_err("no key");
    assert!(error.message.contains("no key `run`"), "{error}");
}

/// The controller rejects such globs before a build. An older controller may not.
#[test]
fn a_glob_that_cannot_be_used_is_rejected_before_anything_is_fetched() {
    let pod = Pod::new();
    let error = pod
        .run(&spec(json!({"type": "git", "url": "https://git.example.com/x", "commit": "c",
            "path": null, "dockerfile": "Dockerfile", "include": ["../x"], "secret": null})))
        .expect_err("a glob");
    assert_eq!(error.reason, PrepareReason::SourceUnusable);
    assert!(error.message.contains("`source.git.include`: `../x` must not contain"), "{error}");
    assert!(!pod.path("workspace/context").exists());
}

#[test]
fn a_dockerfile_is_not_read_through_a_link_out_of_the_context() {
    let pod = Pod::new();
    pod.file("secret", "hunter2");
    let context = pod.path("workspace/context");
    fs::create_dir(&context).expect("folder");
    symlink(pod.path("secret"), context.join("Dockerfile")).expect("link");
    let error = context::read_dockerfile(&context, "Dockerfile").expect_err("link");
    assert!(error.message.contains("outside") && !error.message.contains("hunter2"), "{error}");
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
    let mut spec = inline("FROM alpine:3.20");
    spec["credentials"] =
        json!([{"name": "push", "use": ["Push"]}, {"name": "pull", "use": ["Pull"]}]);
    spec["registries"] = json!({"mirrors": {"docker.io": ["http://mirror.example.com:5000"]}});
    pod.run(&spec).expect("prepared");
    let config: Value = serde_json::from_str(&pod.read("docker-config/config.json")).expect("json");
    let hosts: Vec<_> = config["auths"].as_object().expect("auths").keys().collect();
    assert_eq!(
        hosts,
        ["https://index.docker.io/v1/", "mirror.example.com:5000", "registry.example.com"]
    );
    assert_eq!(config.as_object().map(serde_json::Map::len), Some(1), "no helper");
}

#[test]
fn a_secret_of_the_old_form_is_used_and_a_missing_one_next_to_it_is_not_needed() {
    let pod = Pod::new();
    pod.file("credentials/1/dockercfg", &json!({"docker.io": {"auth": "dTpwYXNz"}}).to_string());
    let mut spec = inline("FROM alpine:3.20");
    spec["credentials"] = json!([{"name": "gone"}, {"name": "old"}]);
    pod.run(&spec).expect("prepared");
    let config = pod.read("docker-config/config.json");
    assert_eq!(config, r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwYXNz"}}}"#);
}

#[test]
fn an_unusable_secret_is_named_but_not_quoted() {
    let pod = Pod::new();
    let mut spec = inline("FROM alpine:3.20");
    spec["credentials"] = json!([{"name": "push"}]);
    let error = pod.run(&spec).expect_err("missing");
    assert_eq!(error.reason, PrepareReason::InvalidSecret);
    assert!(error.message.contains("Secret `push`"), "{error}");
    pod.file("credentials/0/config.json", "hunter2");
    fs::remove_dir_all(pod.path("workspace/context")).expect("clean");
    let error = pod.run(&spec).expect_err("malformed");
    assert_eq!(error.reason, PrepareReason::InvalidSecret);
    assert!(error.message.contains("Secret push") && !error.message.contains("hunter2"), "{error}");
}

/// The pre-flight runs `prepare` as it is.
#[test]
fn the_input_of_a_trial_is_prepared() {
    let template = json!({"spec": {"hostUsers": false, "containers": [{"name": "build",
        "image": "b"}]}});
    let strategy = serde_json::from_value(json!({"template": template})).expect("a strategy");
    let strategy = crate::api::BuildStrategy::new("s", strategy);
    let place = TrialPlace {
        name: "check",
        namespace: "team",
        credentials: &[],
        platform: None,
        deadline: Duration::ZERO,
    };
    let job = trial_job(&strategy, &StrategyRef::default(), &BuildEnvironment::default(), place)
        .expect("a Job");
    let pod = job.spec.and_then(|spec| spec.template.spec).expect("a pod");
    let init = pod.init_containers.expect("init containers").remove(0);
    let variable = init.env.into_iter().flatten().find(|env| env.name == spec::PREPARE_VARIABLE);
    let value: Value =
        serde_json::from_str(&variable.and_then(|env| env.value).expect("a value")).expect("JSON");
    let pod = Pod::new();
    pod.run(&value).expect("prepared");
    pod.file("proc/self/uid_map", "0 0 4294967295\n");
    fs::remove_dir_all(pod.path("workspace/context")).expect("clean");
    let error = pod.run(&value).expect_err("the user namespace of the host");
    assert_eq!(error.reason, PrepareReason::UserNamespaceUnavailable);
}

#[test]
fn nothing_is_done_without_a_spec() {
    let pod = Pod::new();
    let paths = PodPaths::under(pod.0.path());
    for variable in [None, Some("{}".into()), Some("x".into())] {
        assert_eq!(
            run(variable, &paths, |_, _, _| Ok(Vec::new())).expect_err("an error").reason,
            PrepareReason::InfrastructureFailed
        );
    }
}
