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
        (unschedulable, Reason::Unschedulable, "0/1 nodes are available"),
        (pull_failed, Reason::ImagePullFailed, "ErrImagePull not found"),
        (no_sandbox, Reason::PodNotStarted, "did not start any container"),
    ] {
        let mut status = status;
        status["phase"] = json!("Failed");
        let failure =
            failure_of(decide(job_with("Failed", "DeadlineExceeded"), json!([pod(START, status)])));
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Infrastructure, reason.as_str())
        );
        assert!(failure.message.contains(text), "{}", failure.message);
    }
    let mut never = job_with("Failed", "DeadlineExceeded");
    never["status"]["failed"] = json!(null);
    assert_eq!(not_admitted(decide(never, json!([]))).reason, Reason::PodNotCreated);
}

#[test]
fn a_failed_image_pull_fails_after_a_wait() {
    for (waiting, reason) in [
        ("ImagePullBackOff", Reason::ImagePullFailed),
        ("InvalidImageName", Reason::ImagePullFailed),
        ("CreateContainerConfigError", Reason::PodNotStarted),
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
            (FailureClass::Infrastructure, reason.as_str())
        );
        assert!(failure.message.contains(&expected.0), "{}", failure.message);
    }
}

/// The texts of a kubelet and of containerd.
#[test]
fn the_cause_of_a_failed_pull_is_not_cut() {
    let digest = "a".repeat(64);
    let image = format!("registry.example.com/platform/builders/buildkit:v0.30@sha256:{digest}");
    let layers = format!(
        "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": "
    );
    for cause in [
        format!("{image}: not found"),
        "unexpected status from HEAD request to https://registry.example.com/v2/platform/builders/\
         buildkit/manifests/v0.30: 401 Unauthorized"
            .into(),
        "failed to do request: Head \"https://registry.example.com/v2/\": tls: failed to verify \
         certificate: x509: certificate signed by unknown authority"
            .into(),
    ] {
        let end = cause.rsplit(": ").next().expect("a cause").to_owned();
        let message = format!(
            "Back-off pulling image \"{image}\": ErrImagePull: rpc error: code = NotFound desc = \
             {layers}{cause}"
        );
        let mut state = container(
            "build",
            json!({"waiting": {"reason": "ImagePullBackOff", "message": message}}),
        );
        state["image"] = json!(image);
        let status = json!({"phase": "Pending", "containerStatuses": [state]});
        let young = json!([pod("2026-01-01T00:09:30Z", status.clone())]);
        let (waits, _) = wait_of(decide(json!({}), young));
        assert!(waits.starts_with("container `build`, image registry"), "{waits}");
        assert!(waits.ends_with(&end) && waits.chars().count() <= 200, "{waits}");
        let failure = failure_of(decide(json!({}), json!([pod(START, status)])));
        let said = &failure.message;
        // The record adds how often the build has failed, and cuts at 512 characters.
        assert!(said.ends_with(&end) && said.chars().count() < 470, "{said}");
        assert!(said.contains(&image), "the image is named once: {said}");
    }
}

#[test]
fn the_reference_of_an_image_is_named_once() {
    let text = "failed to pull and unpack image \"docker.io/team/b:1\": failed to resolve \
                reference \"docker.io/team/b:1\": docker.io/team/b:1: not found\n";
    let mut state =
        container("build", json!({"waiting": {"reason": "ErrImagePull", "message": text}}));
    state["image"] = json!("team/b:1");
    let status = json!({"phase": "Pending", "containerStatuses": [state]});
    let (waits, _) = wait_of(decide(json!({}), json!([pod("2026-01-01T00:09:30Z", status)])));
    assert_eq!(
        waits,
        "container `build`, image team/b:1: ErrImagePull failed to pull and unpack image \"…\": \
         failed to resolve reference \"…\": …: not found"
    );
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
        (FailureClass::Infrastructure, Reason::Unschedulable.as_str())
    );
    assert!(failure.message.contains("within 900 s: 0/1 nodes"), "{}", failure.message);
    // A short build fails before its own deadline.
    let short = json!({"spec": {"template": {}, "activeDeadlineSeconds": 600}});
    assert_eq!(failure_of(decide(short, pods)).reason, Reason::Unschedulable);
    let gated = json!([pod(START, status("SchedulingGated"))]);
    assert_eq!(wait_of(decide_at(json!({}), gated, "2026-01-01T05:00:00Z")).1, None);
}

#[test]
fn a_job_without_pods_is_not_admitted_after_a_wait() {
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
    assert_eq!(recheck_at, Some("2026-01-01T00:02:00Z".into()), "its Events are read again");
    assert_eq!(
        wait_of(at(&started, "2026-01-01T00:04:30Z")).1,
        Some("2026-01-01T00:05:00Z".into())
    );
    let problem = not_admitted(at(&started, "2026-01-01T00:05:00Z"));
    assert_eq!(problem.reason, Reason::PodNotCreated);
    assert!(problem.message.contains("kubectl describe -n team job/base-0-0"));
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
        (FailureClass::Infrastructure, Reason::NodeLost.as_str())
    );
    assert!(failure.message.contains("out-of-service"), "{}", failure.message);
}

/// Returns a pod that its node does not start.
fn without_sandbox() -> Value {
    let mut pod = pod(
        START,
        json!({"phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": START},
                {"type": "PodReadyToStartContainers", "status": "False"}],
            "initContainerStatuses": [
                container("prepare", json!({"waiting": {"reason": "PodInitializing"}}))],
            "containerStatuses": [
                container("build", json!({"waiting": {"reason": "PodInitializing"}}))]}),
    );
    pod["metadata"]["uid"] = json!("u");
    pod
}

fn events(list: &[(&str, &str)]) -> PodEvents {
    let mut events = PodEvents::default();
    let event = |(reason, message): &(&str, &str)| PodEvent {
        reason: (*reason).into(),
        message: (*message).into(),
    };
    events.record("u", list.iter().map(event).collect());
    events
}

#[test]
fn a_pod_without_a_sandbox_is_explained_after_a_wait() {
    let at = |list: &[(&str, &str)], now: &str| {
        decide_with_events(json!({}), json!([without_sandbox()]), &events(list), now)
    };
    assert_eq!(
        wait_of(at(&[], "2026-01-01T00:00:30Z")),
        (String::new(), Some("2026-01-01T00:01:00Z".into()))
    );
    let (message, recheck_at) = wait_of(at(&[], "2026-01-01T00:01:00Z"));
    assert!(message.contains("node n1 has not made the pod's sandbox"), "{message}");
    assert_eq!(recheck_at, Some("2026-01-01T00:02:00Z".into()));
    let no_address =
        ("FailedCreatePodSandBox", "plugin: failed to assign an IP address, TOKEN=abc");
    let mount = ("FailedMount", "MountVolume.SetUp failed for volume \"x\"");
    let userns = (
        "FailedCreatePodSandBox",
        "can't set `spec.hostUsers: false`, runtime does not support user namespaces",
    );
    let (message, _) = wait_of(at(&[no_address], "2026-01-01T00:01:00Z"));
    let quoted = "FailedCreatePodSandBox \"plugin: failed to assign an IP address, TOKEN=***\"";
    assert!(message.contains(quoted), "{message}");
    let not_started = Reason::PodNotStarted;
    for (list, reason, text) in [
        (&[][..], not_started, "kubectl describe"),
        (&[mount, no_address][..], not_started, "failed to assign an IP address"),
        (&[no_address, mount][..], not_started, "FailedMount \"MountVolume"),
        (&[mount, ("Pulling", "image")][..], not_started, "FailedMount"),
        (&[("Odd", "Failed to assign an IP address")][..], not_started, "Odd"),
        (&[userns, mount][..], Reason::UserNamespaceUnavailable, "runtime does not support"),
    ] {
        let failure = failure_of(at(list, "2026-01-01T00:02:00Z"));
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Infrastructure, reason.as_str())
        );
        assert!(failure.message.contains(text), "{}", failure.message);
    }
    let long = "x".repeat(100_000);
    let failure = failure_of(at(&[("FailedMount", long.as_str())], NOW));
    assert!(failure.message.len() < 1500, "{}", failure.message.len());
}

#[test]
fn only_a_pod_that_its_node_does_not_start_needs_its_events() {
    let needs = |pod: Value, now: &str| {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        needs_events(&Job::default(), &pod, now.parse().expect("now"))
    };
    assert!(needs(without_sandbox(), "2026-01-01T00:01:00Z"));
    assert!(!needs(without_sandbox(), "2026-01-01T00:00:59Z"));
    // It waits for an image, or has started before.
    let mut pulling = without_sandbox();
    pulling["status"]["conditions"][1]["status"] = json!("True");
    assert!(!needs(pulling, NOW));
    let mut started = without_sandbox();
    started["status"]["initContainerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0}});
    assert!(!needs(started, NOW));
    let mut unscheduled = without_sandbox();
    unscheduled["status"]["conditions"][0]["status"] = json!("False");
    assert!(!needs(unscheduled, NOW));
    let mut ends = without_sandbox();
    ends["metadata"]["deletionTimestamp"] = json!(NOW);
    assert!(!needs(ends, NOW));
}
