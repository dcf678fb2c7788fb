//! The environment of the build failed, or the Job was deleted.

use serde_json::{Value, json};

use super::*;

/// Returns a failed pod that the cluster stopped: the exit code of its container means nothing.
fn stopped(status: Value) -> Value {
    let mut status = status;
    status["phase"] = json!("Failed");
    status["containerStatuses"] =
        json!([container("build", json!({"terminated": {"exitCode": 143, "reason": "Error"}}))]);
    json!([pod(START, status)])
}

#[test]
fn containers_and_deadlines_have_reasons_of_their_own() {
    use FailureClass::{Build, Infrastructure};
    let container_ended = |terminated: Value| {
        let state = json!({"terminated": terminated});
        let status = json!({"phase": "Failed", "containerStatuses": [container("build", state)]});
        json!([pod(START, status)])
    };
    let oom = container_ended(json!({"exitCode": 137, "reason": "OOMKilled"}));
    let text = "for its log, run `kubectl logs -n team job/base-0-0";
    assert_failure(json!({}), oom, Infrastructure, Reason::OutOfMemory, text);
    let unstartable = container_ended(json!({"exitCode": 128, "reason": "StartError",
        "message": "exec: \"buildctl\": not found"}));
    let text = "\"buildctl\": not found";
    assert_failure(json!({}), unstartable, Infrastructure, Reason::PodNotStarted, text);
    let late = job_with("Failed", "DeadlineExceeded");
    assert_failure(late, json!([]), Build, Reason::DeadlineExceeded, "3600 s");
    let pods_own_limit = stopped(json!({"reason": "DeadlineExceeded"}));
    assert_failure(json!({}), pods_own_limit, Build, Reason::DeadlineExceeded, "exceeded");
}

#[test]
fn each_disruption_has_a_reason_of_its_own() {
    let mut by_kubelet = disrupted("TerminationByKubelet");
    by_kubelet["reason"] = json!("Evicted");
    by_kubelet["message"] = json!("The node was low on resource: memory.");
    let mut by_kubelet_preempted = disrupted("TerminationByKubelet");
    by_kubelet_preempted["reason"] = json!("Preempting");
    let backoff = || job_with("Failed", "BackoffLimitExceeded");
    for (job, status, reason, text) in [
        (backoff(), by_kubelet, Reason::Evicted, "(TerminationByKubelet). m"),
        (
            backoff(),
            json!({"reason": "Evicted",
                "message": "The node was low on resource: ephemeral-storage."}),
            Reason::DiskFull,
            "low on resource",
        ),
        (backoff(), disrupted("EvictionByEvictionAPI"), Reason::Evicted, "(EvictionByEvictionAPI)"),
        (
            json!({}),
            json!({"reason": "Terminated",
                "message": "Pod was terminated in response to imminent node shutdown."}),
            Reason::Evicted,
            "shutdown",
        ),
        (
            json!({}),
            disrupted("PreemptionByScheduler"),
            Reason::Preempted,
            "the pod was disrupted (PreemptionByScheduler). m",
        ),
        (json!({}), by_kubelet_preempted, Reason::Preempted, "m"),
        (json!({}), disrupted("DeletionByTaintManager"), Reason::NodeLost, "m"),
        (json!({}), disrupted("DeletionByPodGC"), Reason::NodeLost, "m"),
    ] {
        assert_failure(job, stopped(status), FailureClass::Infrastructure, reason, text);
    }
}

#[test]
fn an_eviction_because_of_disk_space_is_a_full_disk() {
    for (message, expected) in [
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            Reason::DiskFull,
        ),
        ("Container build exceeded its local ephemeral storage limit \"1Gi\". ", Reason::DiskFull),
        ("Usage of EmptyDir volume \"layers\" exceeds the limit \"20Gi\". ", Reason::DiskFull),
        ("The node was low on resource: ephemeral-storage. ", Reason::DiskFull),
        ("The node had condition: [DiskPressure]. ", Reason::DiskFull),
        ("The node was low on resource: memory. ", Reason::Evicted),
        ("The node had condition: [MemoryPressure]. ", Reason::Evicted),
        ("", Reason::Evicted),
    ] {
        let mut status = json!({"reason": "Evicted", "message": message});
        assert_eq!(eviction_reason(&status), expected, "{message}");
        let condition = disrupted("TerminationByKubelet");
        status["conditions"] = condition["conditions"].clone();
        assert_eq!(eviction_reason(&status), expected, "with a condition: {message}");
    }
}

fn eviction_reason(status: &Value) -> String {
    let pod = serde_json::from_value(stopped(status.clone())[0].clone()).expect("a pod");
    crate::builds::outcome::pod::disrupted(&pod).expect("a disruption").reason
}

#[test]
fn a_rejected_or_lost_pod_has_a_reason_of_its_own() {
    use FailureClass::Infrastructure;
    // The node had started it before.
    let rejected = json!([pod(
        START,
        json!({"phase": "Failed", "reason": "NodeShutdown", "message": "Node is shutting down",
            "containerStatuses": [container("build", json!({"running": {}}))]})
    )]);
    let text = "(NodeShutdown). Node is shutting down";
    assert_failure(json!({}), rejected, Infrastructure, Reason::NodeRefused, text);
    let no_container = json!([pod(START, json!({"phase": "Failed"}))]);
    let text = "how any container ended";
    assert_failure(json!({}), no_container, Infrastructure, Reason::PodLost, text);
    let gone = job_with("Failed", "BackoffLimitExceeded");
    assert_failure(gone, json!([]), Infrastructure, Reason::PodLost, "disappeared");
}

#[test]
fn a_deleted_job_is_stopped_and_no_failure() {
    let deleted_job =
        |at: &str| json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": 0}});
    let ended = |at: &str| {
        json!({"phase": "Failed", "containerStatuses": [
            container("build", json!({"terminated": {"exitCode": 137, "reason": "Error",
                "finishedAt": at}}))]})
    };
    let at = "2026-01-01T00:05:00Z";
    let after = json!([deleted(START, "2026-01-01T00:05:10Z", ended("2026-01-01T00:05:03Z"))]);
    assert_eq!(decide(deleted_job(at), after.clone()), BuildJobOutcome::Stopped);
    assert_eq!(decide(deleted_job(at), json!([])), BuildJobOutcome::Stopped);
    assert_eq!(
        decide(deleted_job(at), json!([pod(START, json!({"phase": "Running"}))])),
        BuildJobOutcome::Stopped
    );
    assert_eq!(
        decide(deleted_job(at), json!([pod(START, json!({"phase": "Succeeded"}))])),
        BuildJobOutcome::Succeeded
    );
    // A failure before the deletion stays a failure.
    let before = json!([deleted(START, "2026-01-01T00:05:10Z", ended("2026-01-01T00:04:00Z"))]);
    assert_eq!(failure_of(decide(deleted_job(at), before.clone())).reason, Reason::BuildFailed);
    let mut failed_before = job_with("Failed", "BackoffLimitExceeded");
    failed_before["metadata"] = json!({"deletionTimestamp": at});
    failed_before["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:04:00Z");
    assert_eq!(failure_of(decide(failed_before, json!([]))).reason, Reason::PodLost);
    // A pod that was deleted while it ran is lost. A pod that failed before it was deleted has
    // failed.
    assert_eq!(failure_of(decide(json!({}), after)).reason, Reason::PodLost);
    assert_eq!(failure_of(decide(json!({}), before)).reason, Reason::BuildFailed);
}
