//! Jobs and pods as clusters show them, and the outcome of each. The statuses are shortened ones of
//! Kubernetes 1.36.
//!
//! - `admission`: the API server, a quota, a policy or a node rejects the Job or its pod
//! - `failures`: the build itself failed
//! - `environment`: the environment of the build failed, or the Job was deleted
//! - `sidecars`: something else runs in the pod
//! - `waits`: the pod does not run yet

#![allow(clippy::needless_pass_by_value, reason = "`json!` is easier to read where it is used")]

mod admission;
mod environment;
mod failures;
mod sidecars;
mod waits;

use serde_json::{Value, json};

use crate::builds::outcome::*;

const NOW: &str = "2026-01-01T00:10:00Z";
const START: &str = "2026-01-01T00:00:00Z";

fn decide(job: Value, pods: Value) -> BuildJobOutcome {
    decide_at(job, pods, NOW)
}

fn decide_at(job: Value, pods: Value, now: &str) -> BuildJobOutcome {
    decide_with_events(job, pods, &PodEvents::default(), now)
}

fn decide_with_events(job: Value, pods: Value, events: &PodEvents, now: &str) -> BuildJobOutcome {
    let mut job: Job = serde_json::from_value(job).expect("job");
    job.metadata.name = Some("base-0-0".into());
    job.metadata.namespace = Some("team".into());
    let template = &mut job.spec.get_or_insert_default().template;
    template.spec.get_or_insert_with(|| {
        serde_json::from_value(json!({
            "initContainers": [{"name": "prepare"}],
            "containers": [{"name": "build"}],
        }))
        .expect("a pod")
    });
    let mut pods: Vec<Pod> = serde_json::from_value(pods).expect("pods");
    for spec in pods.iter_mut().map(|pod| pod.spec.get_or_insert_default()) {
        if spec.containers.is_empty() {
            let own = job.spec.as_ref().and_then(|spec| spec.template.spec.clone());
            let own = own.unwrap_or_default();
            (spec.containers, spec.init_containers) = (own.containers, own.init_containers);
        }
    }
    build_job_outcome(&job, &pods, events, now.parse().expect("now"))
}

fn pod(created: &str, status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": created}, "spec": {"nodeName": "n1",
        "containers": []}, "status": status})
}

/// Returns a pod that is deleted. `over` is the end of its grace period of ten seconds.
fn deleted(created: &str, over: &str, status: Value) -> Value {
    let mut pod = pod(created, status);
    pod["metadata"]["deletionTimestamp"] = json!(over);
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(10);
    pod
}

fn container(name: &str, state: Value) -> Value {
    json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": state})
}

fn job_with(type_: &str, reason: &str) -> Value {
    json!({"spec": {"template": {}, "activeDeadlineSeconds": 3600},
        "status": {"failed": 1, "conditions": [{"type": type_, "status": "True",
            "reason": reason}]}})
}

fn failed_with(container_state: Value) -> BuildFailure {
    let status =
        json!({"phase": "Failed", "containerStatuses": [container("build", container_state)]});
    failure_of(decide(json!({}), json!([pod(START, status)])))
}

fn failure_of(outcome: BuildJobOutcome) -> BuildFailure {
    match outcome {
        BuildJobOutcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn not_admitted(outcome: BuildJobOutcome) -> Problem {
    match outcome {
        BuildJobOutcome::NotAdmitted(problem) => problem,
        other => panic!("{other:?}"),
    }
}

fn wait_of(outcome: BuildJobOutcome) -> (String, Option<String>) {
    match outcome {
        BuildJobOutcome::Waiting(wait) => {
            (wait.message.unwrap_or_default(), wait.recheck_at.map(|time| time.to_string()))
        }
        other => panic!("{other:?}"),
    }
}

/// Returns a pod status with a `DisruptionTarget` condition.
fn disrupted(reason: &str) -> Value {
    json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason,
        "message": "m"}]})
}

/// Asserts that a build has failed with a class, a reason and a message that contains `text`.
fn assert_failure(job: Value, pods: Value, class: FailureClass, reason: Reason, text: &str) {
    let failure = failure_of(decide(job, pods));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (class, reason.as_str()),
        "{}",
        failure.message
    );
    assert!(failure.message.contains(text), "{text}: {}", failure.message);
}

#[test]
fn the_pods_phase_decides_before_the_jobs_condition() {
    let at = |phase: &str| json!([pod("2026-01-01T00:09:00Z", json!({"phase": phase}))]);
    assert_eq!(wait_of(decide(json!({}), json!([]))).0, "");
    assert_eq!(decide(json!({}), at("Pending")), BuildJobOutcome::Waiting(PodWait::default()));
    assert_eq!(decide(json!({}), at("Running")), BuildJobOutcome::Running);
    assert_eq!(decide(json!({}), at("Succeeded")), BuildJobOutcome::Succeeded);
    let complete = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(decide(complete, json!([])), BuildJobOutcome::Succeeded);
}
