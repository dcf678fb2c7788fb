#![allow(clippy::needless_pass_by_value, reason = "`json!` is easier to read where it is used")]

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-01T00:10:00Z";

fn decide(job: Value, pods: Value) -> Outcome {
    let job: Job = serde_json::from_value(job).expect("job");
    let pods: Vec<Pod> = serde_json::from_value(pods).expect("pods");
    outcome(&job, &pods, NOW.parse().expect("now"))
}

fn pod(created: &str, status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": created}, "status": status})
}

fn container(name: &str, state: Value) -> Value {
    json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn failed_job(reason: &str) -> Value {
    json!({"spec": {"template": {}, "activeDeadlineSeconds": 60},
        "status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason}]}})
}

fn failed_with(container_state: Value) -> BuildFailure {
    let status = json!({"phase": "Failed", "containerStatuses": [container("build", container_state)]});
    failure_of(decide(json!({}), json!([pod("2026-01-01T00:00:00Z", status)])))
}

fn failure_of(outcome: Outcome) -> BuildFailure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_pod_decides_before_the_job_does() {
    let at = |phase: &str| json!([pod("2026-01-01T00:09:00Z", json!({"phase": phase}))]);
    assert_eq!(decide(json!({}), json!([])), Outcome::Pending);
    assert_eq!(decide(json!({}), at("Pending")), Outcome::Pending);
    assert_eq!(decide(json!({}), at("Running")), Outcome::Running);
    assert_eq!(decide(json!({}), at("Succeeded")), Outcome::Succeeded);
    let complete = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(decide(complete, json!([])), Outcome::Succeeded);
}

#[test]
fn a_failed_command_is_the_builds_fault() {
    let log = "#5 RUN make\n#5 0.1 no rule\nerror: failed to solve: process \"make\" did not complete successfully: exit code: 2";
    let failure = failed_with(json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}}));
    assert_eq!((failure.class, failure.reason.as_str()), (FailureClass::Build, reason::BUILD_FAILED));
    let said = "the container `build` ended with code 1: error: failed to solve: process \"make\" did not complete successfully: exit code: 2; the end of its log:\n#5 RUN make";
    assert!(failure.message.starts_with(said), "{}", failure.message);
    let silent = failed_with(json!({"terminated": {"exitCode": 3}}));
    assert_eq!(silent.message, "the container `build` ended with code 3 and said nothing");
}

#[test]
fn prepare_says_itself_what_is_wrong() {
    for (reason, class) in [
        (refusal::Reason::DockerfileMismatch, FailureClass::Input),
        (refusal::Reason::SourceNotFound, FailureClass::Input),
        (refusal::Reason::SourceUnavailable, FailureClass::Infrastructure),
        (refusal::Reason::UserNamespaceUnavailable, FailureClass::Infrastructure),
        (refusal::Reason::InvalidSecret, FailureClass::Infrastructure),
    ] {
        let refusal = refusal::Refusal::new(reason, "this and that");
        let ended = json!({"terminated": {"exitCode": 1, "message": refusal.write()}});
        let status = json!({"phase": "Failed",
            "initContainerStatuses": [container("prepare", ended)],
            "containerStatuses": [container("build", json!({"waiting": {"reason": "PodInitializing"}}))]});
        let failure = failure_of(decide(json!({}), json!([pod("2026-01-01T00:00:00Z", status)])));
        assert_eq!(failure, BuildFailure { class, reason: reason.as_str().into(), message: "this and that".into() });
    }
}

#[test]
fn what_is_around_a_build_is_told_in_words() {
    let out_of_memory = failed_with(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
    assert_eq!((out_of_memory.class, out_of_memory.reason.as_str()), (FailureClass::Infrastructure, OUT_OF_MEMORY));

    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."});
    let evicted = failure_of(decide(failed_job("BackoffLimitExceeded"), json!([pod("2026-01-01T00:00:00Z", evicted)])));
    assert_eq!((evicted.class, evicted.reason.as_str()), (FailureClass::Infrastructure, EVICTED));
    assert_eq!(evicted.message, "the pod was stopped (Evicted). The node was low on resource: memory.");

    let preempted = json!({"phase": "Failed",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m"}],
        "containerStatuses": [container("build", json!({"terminated": {"exitCode": 143}}))]});
    let preempted = failure_of(decide(json!({}), json!([pod("2026-01-01T00:00:00Z", preempted)])));
    assert_eq!(preempted.message, "the pod was disrupted (PreemptionByScheduler). m");

    let late = failure_of(decide(failed_job("DeadlineExceeded"), json!([])));
    assert_eq!((late.class, late.reason.as_str()), (FailureClass::Infrastructure, DEADLINE_EXCEEDED));
    assert!(late.message.contains("60 s"), "{}", late.message);

    let lost = failure_of(decide(failed_job("BackoffLimitExceeded"), json!([])));
    assert_eq!((lost.class, lost.reason.as_str()), (FailureClass::Infrastructure, POD_LOST));
}

#[test]
fn an_image_that_does_not_come_is_waited_for_and_then_told() {
    let status = json!({"phase": "Pending", "containerStatuses": [
        container("build", json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}))]});
    let young = json!([pod("2026-01-01T00:09:30Z", status.clone())]);
    assert_eq!(decide(json!({}), young), Outcome::Pending);
    let failure = failure_of(decide(json!({}), json!([pod("2026-01-01T00:00:00Z", status)])));
    assert_eq!((failure.class, failure.reason.as_str()), (FailureClass::Infrastructure, POD_NOT_STARTED));
    assert!(failure.message.contains("image i: ImagePullBackOff Back-off pulling image"), "{}", failure.message);
}

#[test]
fn no_room_is_waited_for_until_the_deadline_which_tells_of_it() {
    let status = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
    let pods = json!([pod("2026-01-01T00:00:00Z", status)]);
    assert_eq!(decide(json!({}), pods.clone()), Outcome::Pending);
    let late = failure_of(decide(failed_job("DeadlineExceeded"), pods));
    assert!(late.message.ends_with("Its pod waited: 0/1 nodes are available."), "{}", late.message);
}
