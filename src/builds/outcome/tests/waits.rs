//! The pod does not run yet: how long each cause is waited for, and the failure after that.

use serde_json::{Value, json};

use super::*;

#[test]
fn a_deadline_spent_waiting_is_an_infrastructure_failure() {
    let unschedulable = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 \
            nodes are available"}]});
    let pull_failed = json!({"phase": "Pending", "containerStatuses": [
        container("build", json!({"waiting": {"reason": "ErrImagePull",
            "message": "not found"}}))]});
    let no_sandbox = json!({"phase": "Pending", "containerStatuses": [
        container("build", json!({"waiting": {"reason": "ContainerCreating"}}))]});
    for (status, reason, text) in [
        (unschedulable, reason::UNSCHEDULABLE, "0/1 nodes are available"),
        (pull_failed, reason::IMAGE_PULL_FAILED, "ErrImagePull not found"),
        (no_sandbox, reason::POD_NOT_STARTED, "did not start any container"),
    ] {
        let mut status = status;
        status["phase"] = json!("Failed");
        let failure =
            failure_of(decide(job_with("Failed", "DeadlineExceeded"), json!([pod(START, status)])));
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Infrastructure, reason)
        );
        assert!(failure.message.contains(text), "{}", failure.message);
    }
    let mut never = job_with("Failed", "DeadlineExceeded");
    never["status"]["failed"] = json!(null);
    assert_eq!(failure_of(decide(never, json!([]))).reason, reason::POD_NOT_CREATED);
}

#[test]
fn a_failed_image_pull_fails_after_a_wait() {
    for (waiting, reason) in [
        ("ImagePullBackOff", reason::IMAGE_PULL_FAILED),
        ("InvalidImageName", reason::IMAGE_PULL_FAILED),
        ("CreateContainerConfigError", reason::POD_NOT_STARTED),
    ] {
        let state = json!({"waiting": {"reason": waiting, "message": "because"}});
        let status = json!({"phase": "Pending", "containerStatuses": [container("build", state)]});
        let young = json!([pod("2026-01-01T00:09:30Z", status.clone())]);
        let expected = (
            format!("container `build`, image i: {waiting} because"),
            Some("2026-01-01T00:11:30Z".to_owned()),
        );
        assert_eq!(wait_of(decide(json!({}), young)), expected);
        let failure = failure_of(decide(json!({}), json!([pod(START, status)])));
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Infrastructure, reason)
        );
        assert!(failure.message.contains(&expected.0), "{}", failure.message);
    }
}

#[test]
fn the_wait_for_an_image_begins_when_its_pull_can_begin() {
    let waiting =
        container("build", json!({"waiting": {"reason": "ErrImagePull", "message": "m"}}));
    let prepared = container(
        "prepare",
        json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:09:00Z"}}),
    );
    let after_prepare = json!({"phase": "Pending", "initContainerStatuses": [prepared],
        "containerStatuses": [waiting]});
    assert_eq!(
        wait_of(decide(json!({}), json!([pod(START, after_prepare)]))).1,
        Some("2026-01-01T00:11:00Z".into())
    );
    let scheduled = json!({"phase": "Pending", "containerStatuses": [waiting],
        "conditions": [{"type": "PodScheduled", "status": "True",
            "lastTransitionTime": "2026-01-01T00:08:30Z"}]});
    assert_eq!(
        wait_of(decide(json!({}), json!([pod(START, scheduled)]))).1,
        Some("2026-01-01T00:10:30Z".into())
    );
}

#[test]
fn an_unschedulable_pod_fails_after_a_wait() {
    let status = |reason: &str| {
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": reason,
            "message": "0/1 nodes are available", "lastTransitionTime": START}]})
    };
    let pods = json!([pod(START, status("Unschedulable"))]);
    let expected = ("0/1 nodes are available".to_owned(), Some("2026-01-01T00:15:00Z".to_owned()));
    assert_eq!(wait_of(decide(json!({}), pods.clone())), expected);
    let failure = failure_of(decide_at(json!({}), pods.clone(), "2026-01-01T00:15:00Z"));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Infrastructure, reason::UNSCHEDULABLE)
    );
    assert!(failure.message.contains("within 900 s: 0/1 nodes"), "{}", failure.message);
    // A short build fails before its own deadline.
    let short = json!({"spec": {"template": {}, "activeDeadlineSeconds": 600}});
    assert_eq!(failure_of(decide(short, pods)).reason, reason::UNSCHEDULABLE);
    let gated = json!([pod(START, status("SchedulingGated"))]);
    assert_eq!(wait_of(decide_at(json!({}), gated, "2026-01-01T05:00:00Z")).1, None);
}

#[test]
fn a_job_without_pods_fails_after_a_wait() {
    let job = |status: Value| {
        json!({"metadata": {"creationTimestamp": START},
        "spec": {"template": {}}, "status": status})
    };
    let started = job(json!({"startTime": START, "ready": 0}));
    let at = |job: &Value, now: &str| decide_at(job.clone(), json!([]), now);
    assert_eq!(
        wait_of(at(&started, "2026-01-01T00:00:10Z")),
        (String::new(), Some("2026-01-01T00:00:30Z".into()))
    );
    let (message, recheck_at) = wait_of(at(&started, "2026-01-01T00:01:00Z"));
    assert!(
        message.contains("a quota") && message.contains("kubectl describe -n team job/base-0-0"),
        "{message}"
    );
    assert_eq!(recheck_at, Some("2026-01-01T00:05:00Z".into()));
    let failure = failure_of(at(&started, "2026-01-01T00:05:00Z"));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Infrastructure, reason::POD_NOT_CREATED)
    );
    // The watch of pods may lag behind the watch of Jobs.
    let lagging = job(json!({"startTime": START, "active": 1}));
    assert_eq!(at(&lagging, NOW), BuildJobOutcome::Waiting(PodWait::default()));
    // The wait of a Job that is not started yet, or is suspended, has no upper bound.
    assert!(wait_of(at(&job(json!({})), NOW)).0.contains("has not started"));
    let mut suspended = job(json!({}));
    suspended["spec"]["suspend"] = json!(true);
    assert!(wait_of(at(&suspended, NOW)).0.contains("suspended"));
}

#[test]
fn an_unresponsive_node_fails_after_a_wait() {
    let mut status = disrupted("DeletionByTaintManager");
    status["phase"] = json!("Running");
    let pods = json!([deleted(START, "2026-01-01T00:09:00Z", status)]);
    let (message, recheck_at) = wait_of(decide(json!({}), pods.clone()));
    assert!(
        message.contains("node n1 does not confirm it (DeletionByTaintManager: m)"),
        "{message}"
    );
    assert_eq!(recheck_at, Some("2026-01-01T00:11:00Z".into()));
    let failure = failure_of(decide_at(json!({}), pods, "2026-01-01T00:11:00Z"));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Infrastructure, reason::NODE_LOST)
    );
    assert!(failure.message.contains("out-of-service"), "{}", failure.message);
}
