//! Something else in the cluster adds containers to the pod. Only our own decide.

use serde_json::{Value, json};

use super::*;
use crate::api::labels;

/// Returns a pod with a container of ours and one that something else has added.
fn injected(phase: &str, build: Value, sidecar: Value) -> Value {
    json!([pod(
        START,
        json!({"phase": phase,
            "initContainerStatuses": [container("prepare", ended(0))],
            "containerStatuses": [container("mesh-proxy", sidecar), container("build", build)]})
    )])
}

/// Returns a pod with a native sidecar that something else has added.
fn with_native_sidecar(phase: &str, build: Value, sidecar: Value) -> Value {
    json!([pod(
        START,
        json!({"phase": phase,
            "initContainerStatuses": [
                container("mesh-proxy", sidecar),
                container("prepare", ended(0))],
            "containerStatuses": [container("build", build)]})
    )])
}

fn ended(code: i32) -> Value {
    json!({"terminated": {"exitCode": code, "reason": "Error", "message": format!("log {code}"),
        "finishedAt": "2026-01-01T00:05:00Z"}})
}

fn running() -> Value {
    json!({"running": {"startedAt": START}})
}

#[test]
fn a_build_succeeds_while_a_sidecar_runs_on() {
    use BuildJobOutcome::Succeeded;
    assert_eq!(decide(json!({}), injected("Running", ended(0), running())), Succeeded);
    assert_eq!(decide(json!({}), with_native_sidecar("Running", ended(0), running())), Succeeded);
    assert_eq!(
        decide(json!({}), injected("Running", running(), running())),
        BuildJobOutcome::Running
    );
    // Each container of the template must have ended.
    let two = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "build"}, {"name": "sign"}]}}}});
    assert_eq!(decide(two, injected("Running", ended(0), running())), BuildJobOutcome::Running);
    // A webhook has added one to the Job.
    let changed = json!({
        "metadata": {"annotations": {labels::CONTAINERS: "prepare,build"}},
        "spec": {"template": {"spec": {"initContainers": [{"name": "prepare"}, {"name": "setup"}],
            "containers": [{"name": "mesh-proxy"}, {"name": "build"}]}}}});
    assert_eq!(decide(changed, injected("Running", ended(0), running())), Succeeded);
    // A builder of the strategy that runs as a native sidecar never ends by itself.
    let native = json!({"spec": {"template": {"spec": {
        "initContainers": [{"name": "mesh-proxy", "restartPolicy": "Always"}],
        "containers": [{"name": "build"}]}}}});
    assert_eq!(decide(native, with_native_sidecar("Running", ended(0), ended(137))), Succeeded);
}

#[test]
fn a_sidecar_that_fails_changes_nothing() {
    use BuildJobOutcome::{Running, Succeeded};
    let failed_job = || job_with("Failed", "BackoffLimitExceeded");
    assert_eq!(decide(failed_job(), injected("Failed", ended(0), ended(9))), Succeeded);
    assert_eq!(
        decide(failed_job(), with_native_sidecar("Failed", ended(0), ended(137))),
        Succeeded
    );
    assert_eq!(decide(json!({}), with_native_sidecar("Running", ended(0), ended(137))), Succeeded);
    assert_eq!(decide(json!({}), injected("Running", running(), ended(9))), Running);
    // The pod stays pending while the image of the sidecar cannot be pulled.
    let pull = || json!({"waiting": {"reason": "ImagePullBackOff", "message": "denied"}});
    assert_eq!(decide(json!({}), injected("Pending", running(), pull())), Running);
    assert_eq!(decide(json!({}), injected("Pending", ended(0), pull())), Succeeded);
}

#[test]
fn a_deadline_that_a_sidecar_exceeds_changes_nothing() {
    let late = || job_with("Failed", "DeadlineExceeded");
    let mut pods = injected("Failed", ended(0), ended(137));
    pods[0]["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:10Z");
    pods[0]["metadata"]["deletionGracePeriodSeconds"] = json!(10);
    assert_eq!(decide(late(), pods.clone()), BuildJobOutcome::Succeeded);
    pods[0]["status"]["containerStatuses"][1]["state"] = ended(2);
    assert_eq!(failure_of(decide(late(), pods)).reason, Reason::BuildFailed);
}

#[test]
fn a_build_fails_with_its_own_exit_code_and_log() {
    for pods in [
        injected("Running", ended(2), running()),
        injected("Failed", ended(2), ended(9)),
        with_native_sidecar("Running", ended(2), running()),
        with_native_sidecar("Failed", ended(2), ended(137)),
    ] {
        let failure = failure_of(decide(json!({}), pods));
        assert_eq!(failure.reason, Reason::BuildFailed);
        let start = "the container `build` failed with exit code 2; for its full log";
        assert!(failure.message.starts_with(start), "{}", failure.message);
        assert!(failure.message.ends_with("\nlog 2"), "{}", failure.message);
    }
    // A container that the cluster stops first has not failed by itself.
    let mut evicted = injected("Running", ended(143), running());
    evicted[0]["status"]["conditions"] = disrupted("EvictionByEvictionAPI")["conditions"].clone();
    assert_eq!(failure_of(decide(json!({}), evicted)).reason, Reason::Evicted);
}

#[test]
fn a_foreign_init_container_that_fails_is_named() {
    let pods = json!([pod(
        START,
        json!({"phase": "Failed",
            "initContainerStatuses": [container("mesh-init", ended(1)),
                container("prepare", json!({"waiting": {"reason": "PodInitializing"}}))],
            "containerStatuses": [
                container("build", json!({"waiting": {"reason": "PodInitializing"}}))]})
    )]);
    let text = "init container `mesh-init`, which something else in the cluster has added";
    assert_failure(json!({}), pods, FailureClass::Infrastructure, Reason::PodNotStarted, text);
}

#[test]
fn a_pod_has_ended_when_only_native_sidecars_run() {
    let with = |containers: Value, statuses: Value| -> Pod {
        serde_json::from_value(json!({"spec": containers, "status": statuses})).expect("a pod")
    };
    let main = |names: &[&str]| -> Value {
        let named: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"containers": named, "initContainers": [
            {"name": "mesh-proxy", "restartPolicy": "Always"}, {"name": "prepare"}]})
    };
    let native = with_native_sidecar("Running", ended(0), running())[0]["status"].clone();
    assert!(pod_has_ended(&with(main(&["build"]), native.clone())));
    assert!(!pod_has_ended(&with(main(&["build", "agent"]), native)));
    let plain = injected("Running", ended(0), running())[0]["status"].clone();
    assert!(!pod_has_ended(&with(main(&["build", "mesh-proxy"]), plain)));
    let unprepared = json!({"phase": "Pending", "initContainerStatuses": [
        container("mesh-proxy", running()), container("prepare", ended(1))]});
    assert!(pod_has_ended(&with(main(&["build"]), unprepared)));
    let starting = json!({"phase": "Pending", "initContainerStatuses": [
        container("mesh-proxy", ended(1))]});
    assert!(!pod_has_ended(&with(main(&["build"]), starting)), "the kubelet restarts it");
}
