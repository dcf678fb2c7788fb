//! Jobs and pods as clusters show them, and what they are taken for. The statuses are those of
//! Kubernetes 1.36, shortened.

#![allow(clippy::needless_pass_by_value, reason = "`json!` is easier to read where it is used")]

use serde_json::{Value, json};

use crate::builds::outcome::*;

const NOW: &str = "2026-01-01T00:10:00Z";
const START: &str = "2026-01-01T00:00:00Z";

fn decide(job: Value, pods: Value) -> BuildJobOutcome {
    decide_at(job, pods, NOW)
}

fn decide_at(job: Value, pods: Value, now: &str) -> BuildJobOutcome {
    let mut job: Job = serde_json::from_value(job).expect("job");
    job.metadata.name = Some("base-0-0".into());
    job.metadata.namespace = Some("team".into());
    let pods: Vec<Pod> = serde_json::from_value(pods).expect("pods");
    build_job_outcome(&job, &pods, now.parse().expect("now"))
}

fn pod(created: &str, status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": created}, "spec": {"nodeName": "n1", "containers": []}, "status": status})
}

/// A pod that was asked to end at a time, with a grace period of ten seconds.
fn deleted(created: &str, over: &str, status: Value) -> Value {
    let mut pod = pod(created, status);
    pod["metadata"]["deletionTimestamp"] = json!(over);
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(10);
    pod
}

fn container(name: &str, state: Value) -> Value {
    json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

fn job_with(type_: &str, reason: &str) -> Value {
    json!({"spec": {"template": {}, "activeDeadlineSeconds": 3600},
        "status": {"failed": 1, "conditions": [{"type": type_, "status": "True", "reason": reason}]}})
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

fn wait_of(outcome: BuildJobOutcome) -> (String, Option<String>) {
    match outcome {
        BuildJobOutcome::Waiting(wait) => {
            (wait.what.unwrap_or_default(), wait.recheck_at.map(|time| time.to_string()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_pod_decides_before_the_job_does() {
    let at = |phase: &str| json!([pod("2026-01-01T00:09:00Z", json!({"phase": phase}))]);
    assert_eq!(wait_of(decide(json!({}), json!([]))).0, "");
    assert_eq!(decide(json!({}), at("Pending")), BuildJobOutcome::Waiting(PodWait::default()));
    assert_eq!(decide(json!({}), at("Running")), BuildJobOutcome::Running);
    assert_eq!(decide(json!({}), at("Succeeded")), BuildJobOutcome::Succeeded);
    let complete = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(decide(complete, json!([])), BuildJobOutcome::Succeeded);
}

#[test]
fn a_failed_command_is_the_builds_fault_and_its_log_can_be_found() {
    let log = "#5 RUN make PASSWORD=hunter2\n#5 0.1 no rule\nerror: failed to solve: process \
               \"make\" did not complete successfully: exit code: 2";
    let failure =
        failed_with(json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}}));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Build, reason::BUILD_FAILED)
    );
    let said = "the container `build` ended with code 1: error: failed to solve: process \"make\" \
                did not complete successfully: exit code: 2; the end of its log (the whole: \
                `kubectl logs -n team job/base-0-0 --all-containers`, while the Job exists):\n#5 \
                RUN make PASSWORD=***\n";
    assert!(failure.message.starts_with(said), "{}", failure.message);
    assert!(failure.message.ends_with("exit code: 2"), "{}", failure.message);
    let silent = failed_with(json!({"terminated": {"exitCode": 3}}));
    assert!(
        silent.message.starts_with("the container `build` ended with code 3; it said nothing"),
        "{}",
        silent.message
    );
    let long = "é\n".repeat(50_000);
    let failure = failed_with(json!({"terminated": {"exitCode": 1, "message": long}}));
    assert!(failure.message.len() < 2500, "{}", failure.message.len());
}

#[test]
fn prepare_says_itself_what_is_wrong() {
    use crate::builds::prepare::error::PrepareReason;
    for (reason, class) in [
        (PrepareReason::DockerfileMismatch, FailureClass::Input),
        (PrepareReason::SourceNotFound, FailureClass::Input),
        (PrepareReason::SourceUnavailable, FailureClass::Infrastructure),
        (PrepareReason::UserNamespaceUnavailable, FailureClass::Infrastructure),
        (PrepareReason::InvalidSecret, FailureClass::Infrastructure),
    ] {
        let refusal = PrepareError::new(reason, "this and that");
        let ended = json!({"terminated": {"exitCode": 1, "message": refusal.write()}});
        let status = json!({"phase": "Failed",
            "initContainerStatuses": [container("prepare", ended)],
            "containerStatuses": [container("build", json!({"waiting": {"reason": "PodInitializing"}}))]});
        let failure = failure_of(decide(json!({}), json!([pod(START, status)])));
        assert_eq!(
            failure,
            BuildFailure { class, reason: reason.as_str().into(), message: "this and that".into() }
        );
    }
}

/// A failed pod that was stopped from outside: its container's own exit says nothing.
fn stopped(status: Value) -> Value {
    let mut status = status;
    status["phase"] = json!("Failed");
    status["containerStatuses"] =
        json!([container("build", json!({"terminated": {"exitCode": 143, "reason": "Error"}}))]);
    json!([pod(START, status)])
}

fn disrupted(reason: &str) -> Value {
    json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"}]})
}

#[test]
fn each_thing_around_a_build_has_a_reason_of_its_own() {
    use FailureClass::{Build, Infrastructure};
    let oom = json!([pod(
        START,
        json!({"phase": "Failed", "containerStatuses": [
        container("build", json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))]})
    )]);
    let unstartable = json!([pod(
        START,
        json!({"phase": "Failed", "containerStatuses": [
        container("build", json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \
            \"buildctl\": not found"}}))]})
    )]);
    let mut by_kubelet = disrupted("TerminationByKubelet");
    by_kubelet["reason"] = json!("Evicted");
    by_kubelet["message"] = json!("The node was low on resource: memory.");
    let mut by_kubelet_preempted = disrupted("TerminationByKubelet");
    by_kubelet_preempted["reason"] = json!("Preempting");
    let backoff = || job_with("Failed", "BackoffLimitExceeded");
    for (job, pods, class, reason, said) in [
        (
            json!({}),
            oom,
            Infrastructure,
            reason::OUT_OF_MEMORY,
            "its log: `kubectl logs -n team job/base-0-0",
        ),
        (
            json!({}),
            unstartable,
            Infrastructure,
            reason::POD_NOT_STARTED,
            "\"buildctl\": not found",
        ),
        (
            backoff(),
            stopped(by_kubelet),
            Infrastructure,
            reason::EVICTED,
            "(TerminationByKubelet). m",
        ),
        (
            backoff(),
            stopped(json!({"reason": "Evicted", "message": "The node was low on resource: \
                ephemeral-storage."})),
            Infrastructure,
            reason::EVICTED,
            "low on resource",
        ),
        (
            backoff(),
            stopped(disrupted("EvictionByEvictionAPI")),
            Infrastructure,
            reason::EVICTED,
            "(EvictionByEvictionAPI)",
        ),
        (
            json!({}),
            stopped(json!({"reason": "Terminated", "message": "Pod was terminated in response to \
                imminent node shutdown."})),
            Infrastructure,
            reason::EVICTED,
            "shutdown",
        ),
        (
            json!({}),
            stopped(disrupted("PreemptionByScheduler")),
            Infrastructure,
            reason::PREEMPTED,
            "the pod was disrupted (PreemptionByScheduler). m",
        ),
        (json!({}), stopped(by_kubelet_preempted), Infrastructure, reason::PREEMPTED, "m"),
        (
            json!({}),
            stopped(disrupted("DeletionByTaintManager")),
            Infrastructure,
            reason::NODE_LOST,
            "m",
        ),
        (json!({}), stopped(disrupted("DeletionByPodGC")), Infrastructure, reason::NODE_LOST, "m"),
        (
            json!({}),
            json!([pod(
                START,
                json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: Node \
                    didn't have enough resource: cpu"})
            )]),
            Infrastructure,
            reason::NODE_REFUSED,
            "(OutOfcpu). Pod was rejected",
        ),
        (
            json!({}),
            json!([pod(START, json!({"phase": "Failed"}))]),
            Infrastructure,
            reason::POD_LOST,
            "no container",
        ),
        (backoff(), json!([]), Infrastructure, reason::POD_LOST, "gone"),
        (
            job_with("Failed", "DeadlineExceeded"),
            json!([]),
            Build,
            reason::DEADLINE_EXCEEDED,
            "3600 s",
        ),
        (
            json!({}),
            stopped(json!({"reason": "DeadlineExceeded"})),
            Build,
            reason::DEADLINE_EXCEEDED,
            "took longer",
        ),
    ] {
        let failure = failure_of(decide(job, pods));
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (class, reason),
            "{}",
            failure.message
        );
        assert!(failure.message.contains(said), "{said}: {}", failure.message);
    }
}

#[test]
fn what_the_builder_says_of_the_registry_is_heard() {
    for (log, class, reason) in [
        (
            "error: failed to solve: failed to push reg/a:b: unexpected status from PUT request to \
             http://reg/v2: 401 Unauthorized",
            FailureClass::Infrastructure,
            reason::REGISTRY_DENIED,
        ),
        (
            "error: failed to solve: failed to push reg/a:b: unexpected status from PUT request to \
             http://reg/v2: 413 Request Entity Too Large",
            FailureClass::Infrastructure,
            reason::PUSH_REFUSED,
        ),
        (
            "error: failed to solve: process \"x\" did not complete successfully: exit code: 137",
            FailureClass::Infrastructure,
            reason::OUT_OF_MEMORY,
        ),
    ] {
        let failure =
            failed_with(json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}}));
        assert_eq!((failure.class, failure.reason.as_str()), (class, reason), "{log}");
        assert!(failure.message.ends_with(log), "{}", failure.message);
    }
}

#[test]
fn a_job_that_was_deleted_was_stopped() {
    let deleted_job =
        |at: &str| json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": 0}});
    let ended = |at: &str| {
        json!({"phase": "Failed", "containerStatuses": [
            container("build", json!({"terminated": {"exitCode": 137, "reason": "Error", "finishedAt": at}}))]})
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
    // What had failed before stays a failure.
    let before = json!([deleted(START, "2026-01-01T00:05:10Z", ended("2026-01-01T00:04:00Z"))]);
    assert_eq!(failure_of(decide(deleted_job(at), before.clone())).reason, reason::BUILD_FAILED);
    let mut failed_before = job_with("Failed", "BackoffLimitExceeded");
    failed_before["metadata"] = json!({"deletionTimestamp": at});
    failed_before["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:04:00Z");
    assert_eq!(failure_of(decide(failed_before, json!([]))).reason, reason::POD_LOST);
    // A pod that somebody deleted is lost; one that failed and was cleared away then has failed.
    assert_eq!(failure_of(decide(json!({}), after)).reason, reason::POD_LOST);
    assert_eq!(failure_of(decide(json!({}), before)).reason, reason::BUILD_FAILED);
}

#[test]
fn a_build_that_takes_too_long_is_told_with_its_last_words() {
    let ended = container(
        "build",
        json!({"terminated": {"exitCode": 143, "reason": "Error", "message": "#5 RUN sleep inf", "finishedAt": "2026-01-01T00:09:00Z"}}),
    );
    let pods = json!([deleted(
        START,
        "2026-01-01T00:09:10Z",
        json!({"phase": "Failed", "containerStatuses": [ended]})
    )]);
    // The Job's controller calls the Job failed only when its pods have ended.
    let failure = failure_of(decide(job_with("FailureTarget", "DeadlineExceeded"), pods));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Build, reason::DEADLINE_EXCEEDED)
    );
    assert!(
        failure.message.contains("\n#5 RUN sleep inf\nended after 3600 s"),
        "{}",
        failure.message
    );
    let ending = json!([deleted(START, "2026-01-01T00:10:05Z", json!({"phase": "Running"}))]);
    let wait = wait_of(decide(job_with("FailureTarget", "DeadlineExceeded"), ending));
    assert_eq!(wait, (String::new(), Some("2026-01-01T00:10:05Z".into())));
}

#[test]
fn time_that_was_spent_waiting_is_not_the_builds_fault() {
    let no_room = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 \
            nodes are available"}]});
    let no_image = json!({"phase": "Pending", "containerStatuses": [
        container("build", json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}))]});
    let no_sandbox = json!({"phase": "Pending", "containerStatuses": [
        container("build", json!({"waiting": {"reason": "ContainerCreating"}}))]});
    for (status, reason, said) in [
        (no_room, reason::UNSCHEDULABLE, "0/1 nodes are available"),
        (no_image, reason::IMAGE_PULL_FAILED, "ErrImagePull not found"),
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
        assert!(failure.message.contains(said), "{}", failure.message);
    }
    let mut never = job_with("Failed", "DeadlineExceeded");
    never["status"]["failed"] = json!(null);
    assert_eq!(failure_of(decide(never, json!([]))).reason, reason::POD_NOT_CREATED);
}

#[test]
fn an_image_that_does_not_come_is_waited_for_and_then_told() {
    for (word, reason) in [
        ("ImagePullBackOff", reason::IMAGE_PULL_FAILED),
        ("InvalidImageName", reason::IMAGE_PULL_FAILED),
        ("CreateContainerConfigError", reason::POD_NOT_STARTED),
    ] {
        let state = json!({"waiting": {"reason": word, "message": "because"}});
        let status = json!({"phase": "Pending", "containerStatuses": [container("build", state)]});
        let young = json!([pod("2026-01-01T00:09:30Z", status.clone())]);
        let told = (
            format!("container `build`, image i: {word} because"),
            Some("2026-01-01T00:11:30Z".to_owned()),
        );
        assert_eq!(wait_of(decide(json!({}), young)), told);
        let failure = failure_of(decide(json!({}), json!([pod(START, status)])));
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Infrastructure, reason)
        );
        assert!(failure.message.contains(&told.0), "{}", failure.message);
    }
}

#[test]
fn the_wait_for_an_image_begins_when_it_can_be_pulled() {
    let waiting =
        container("build", json!({"waiting": {"reason": "ErrImagePull", "message": "m"}}));
    let prepared = container(
        "prepare",
        json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:09:00Z"}}),
    );
    let after_prepare = json!({"phase": "Pending", "initContainerStatuses": [prepared], "containerStatuses": [waiting]});
    assert_eq!(
        wait_of(decide(json!({}), json!([pod(START, after_prepare)]))).1,
        Some("2026-01-01T00:11:00Z".into())
    );
    let scheduled = json!({"phase": "Pending", "containerStatuses": [waiting],
        "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:08:30Z"}]});
    assert_eq!(
        wait_of(decide(json!({}), json!([pod(START, scheduled)]))).1,
        Some("2026-01-01T00:10:30Z".into())
    );
}

#[test]
fn room_is_waited_for_and_then_missed() {
    let status = |reason: &str| {
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": reason,
            "message": "0/1 nodes are available", "lastTransitionTime": START}]})
    };
    let pods = json!([pod(START, status("Unschedulable"))]);
    let told = ("0/1 nodes are available".to_owned(), Some("2026-01-01T00:15:00Z".to_owned()));
    assert_eq!(wait_of(decide(json!({}), pods.clone())), told);
    let failure = failure_of(decide_at(json!({}), pods.clone(), "2026-01-01T00:15:00Z"));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Infrastructure, reason::UNSCHEDULABLE)
    );
    assert!(failure.message.contains("900 s: 0/1 nodes"), "{}", failure.message);
    // A short build is told before its own time is up.
    let short = json!({"spec": {"template": {}, "activeDeadlineSeconds": 600}});
    assert_eq!(failure_of(decide(short, pods)).reason, reason::UNSCHEDULABLE);
    let gated = json!([pod(START, status("SchedulingGated"))]);
    assert_eq!(wait_of(decide_at(json!({}), gated, "2026-01-01T05:00:00Z")).1, None);
}

#[test]
fn a_job_without_pods_is_waited_for_and_then_told() {
    let job = |status: Value| json!({"metadata": {"creationTimestamp": START}, "spec": {"template": {}}, "status": status});
    let taken_up = job(json!({"startTime": START, "ready": 0}));
    let at = |job: &Value, now: &str| decide_at(job.clone(), json!([]), now);
    assert_eq!(
        wait_of(at(&taken_up, "2026-01-01T00:00:10Z")),
        (String::new(), Some("2026-01-01T00:00:30Z".into()))
    );
    let (what, until) = wait_of(at(&taken_up, "2026-01-01T00:01:00Z"));
    assert!(
        what.contains("a quota") && what.contains("kubectl describe -n team job/base-0-0"),
        "{what}"
    );
    assert_eq!(until, Some("2026-01-01T00:05:00Z".into()));
    let failure = failure_of(at(&taken_up, "2026-01-01T00:05:00Z"));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Infrastructure, reason::POD_NOT_CREATED)
    );
    // The watch of pods may lag behind that of Jobs.
    let lagging = job(json!({"startTime": START, "active": 1}));
    assert_eq!(at(&lagging, NOW), BuildJobOutcome::Waiting(PodWait::default()));
    // A Job that nobody has taken up, or that is suspended, waits without an end.
    assert!(wait_of(at(&job(json!({})), NOW)).0.contains("has not taken up"));
    let mut suspended = job(json!({}));
    suspended["spec"]["suspend"] = json!(true);
    assert!(wait_of(at(&suspended, NOW)).0.contains("suspended"));
}

#[test]
fn a_node_that_does_not_answer_is_given_up() {
    let mut status = disrupted("DeletionByTaintManager");
    status["phase"] = json!("Running");
    let pods = json!([deleted(START, "2026-01-01T00:09:00Z", status)]);
    let (what, until) = wait_of(decide(json!({}), pods.clone()));
    assert!(what.contains("node n1 does not confirm it (DeletionByTaintManager: m)"), "{what}");
    assert_eq!(until, Some("2026-01-01T00:11:00Z".into()));
    let failure = failure_of(decide_at(json!({}), pods, "2026-01-01T00:11:00Z"));
    assert_eq!(
        (failure.class, failure.reason.as_str()),
        (FailureClass::Infrastructure, reason::NODE_LOST)
    );
    assert!(failure.message.contains("out-of-service"), "{}", failure.message);
}

#[test]
fn a_refused_job_is_the_quotas_the_policys_or_the_strategys_fault() {
    let quota = "could not create Job base-0-0: ApiError: jobs.batch \"base-0-0\" is forbidden: \
                 exceeded quota: jobs, requested: count/jobs.batch=1, used: count/jobs.batch=5, \
                 limited: count/jobs.batch=5";
    let policy = "jobs.batch \"base-0-0\" is forbidden: ValidatingAdmissionPolicy 'images' with \
                  binding 'x' denied request";
    let invalid = "Job.batch \"x\" is invalid: spec.template";
    for (failure, answer, class, reason) in [
        (job_forbidden(quota), quota, FailureClass::Infrastructure, reason::QUOTA_EXCEEDED),
        (job_forbidden(policy), policy, FailureClass::Infrastructure, reason::JOB_REFUSED),
        (job_invalid(invalid), invalid, FailureClass::Input, reason::INVALID_STRATEGY),
    ] {
        assert_eq!((failure.class, failure.reason.as_str()), (class, reason));
        assert!(failure.message.starts_with(answer), "{}", failure.message);
    }
}
