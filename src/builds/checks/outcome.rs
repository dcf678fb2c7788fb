//! Derives the verdict of a check from its Job and its pods. The exit code is the verdict, and what
//! the check wrote is the message. Pure.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, Pod},
};

use crate::{
    api::{
        BuildFailure, FailureClass,
        condition::{Problem, Reason},
    },
    builds::{
        checks::{credentials, job::CHECK_CONTAINER},
        outcome::{
            PodEvents, PodWait, failure, is_out_of_memory,
            message::{Keep, sanitize},
            never_ran, pod,
            run::{self, JobRun, log_command},
        },
        prepare::error::PrepareError,
    },
};

/// The outcome of a check's Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckJobOutcome {
    /// The pod does not run: it has not started, or its node does not confirm its termination.
    Waiting(PodWait),
    /// The pod runs.
    Running,
    /// The exit code was 0, as the pod says. Contains what the check wrote to its termination log.
    Passed(String),
    /// The check failed. The class is `Build` if the exit code was not 0, the check took too long,
    /// or its command could not be started, and `Infrastructure` if its environment failed.
    Failed(BuildFailure),
    /// The check has not begun, because the Job's pod cannot be created, or a node has rejected it.
    /// The caller must delete the Job, and create it again after a pause.
    NotAdmitted(Problem),
    /// The check ends or has ended because the Job was deleted. There is no verdict.
    Stopped,
}

/// Returns the outcome of a check's Job. `pods` are the Job's pods in any order, and `events` those
/// of the pods' Events that were read. `now` determines how long a pod that cannot start has been
/// waiting.
#[must_use]
pub fn check_job_outcome(
    job: &Job,
    pods: &[Pod],
    events: &PodEvents,
    now: Timestamp,
) -> CheckJobOutcome {
    match run::job_run(job, pods, events, now) {
        JobRun::Waiting(wait) => CheckJobOutcome::Waiting(wait),
        JobRun::Running => CheckJobOutcome::Running,
        JobRun::Stopped => CheckJobOutcome::Stopped,
        JobRun::NotAdmitted(problem) => CheckJobOutcome::NotAdmitted(problem),
        JobRun::Broken(failure) => CheckJobOutcome::Failed(failure),
        JobRun::Succeeded(Some(pod)) => {
            CheckJobOutcome::Passed(sanitize(output(Some(pod), CHECK_CONTAINER), Keep::End))
        }
        JobRun::Succeeded(None) => CheckJobOutcome::Failed(lost_answer()),
        JobRun::TimedOut(pod) => {
            let text = format!("exceeded its `timeout` of {} s", run::time_limit(job));
            CheckJobOutcome::Failed(verdict(&text, job, output(pod, CHECK_CONTAINER)))
        }
        JobRun::Exited(pod) => CheckJobOutcome::Failed(failed_pod(job, pod)),
    }
}

/// Returns the failure of a check whose Job is complete without a pod that says how the check
/// ended. The Job alone passes no check: whoever may create pods can complete it with another one.
fn lost_answer() -> BuildFailure {
    let text = "the Job is complete, and no pod says how the check ended: the pod was deleted, or \
                the Job was completed by a pod that is not the check's; the check runs again";
    failure(FailureClass::Infrastructure, Reason::PodLost, text)
}

fn failed_pod(job: &Job, pod: &Pod) -> BuildFailure {
    if let Some(ended) = ended(pod, credentials::SUBCOMMAND).filter(|ended| ended.exit_code != 0) {
        return failed_credentials(job, ended);
    }
    let Some(ended) = ended(pod, CHECK_CONTAINER) else {
        let text = "the pod failed, and its status does not say how the check's container ended";
        return failure(FailureClass::Infrastructure, Reason::PodLost, text);
    };
    let output = ended.message.as_deref().unwrap_or_default();
    if is_out_of_memory(ended) {
        let text = format!("exceeded its memory limit; for its log, run {}", log_command(job));
        return failure(FailureClass::Infrastructure, Reason::OutOfMemory, &text);
    }
    if never_ran(ended) {
        let text = format!("its command could not be started: {}", sanitize(output, Keep::Start));
        return failure(FailureClass::Build, Reason::CheckFailed, &text);
    }
    verdict(&format!("failed with exit code {}", ended.exit_code), job, output)
}

/// Returns the failure of the init container that writes the credentials. Its termination message
/// says what is wrong.
fn failed_credentials(job: &Job, ended: &ContainerStateTerminated) -> BuildFailure {
    if let Some(error) = ended.message.as_deref().and_then(PrepareError::from_termination_message) {
        let text = sanitize(&error.message, Keep::Start);
        return failure(FailureClass::Infrastructure, error.reason.reason(), &text);
    }
    let text = format!(
        "the init container `credentials` failed with exit code {}; for its log, run {}",
        ended.exit_code,
        log_command(job)
    );
    failure(FailureClass::Infrastructure, Reason::PodNotStarted, &text)
}

/// Returns the failure of a check that has a verdict. The message has no subject, because callers
/// put the name of the check in front of it. It starts with what happened and the last line of the
/// output, because most tools cut the end of a long message. It also ends with the last line of the
/// output.
fn verdict(what: &str, job: &Job, output: &str) -> BuildFailure {
    let tail = sanitize(output, Keep::End);
    let last = tail.lines().next_back().map(str::trim).unwrap_or_default();
    let command = log_command(job);
    let text = match (last, tail.lines().count()) {
        ("", _) => format!("{what}, without output; for its log, run {command}"),
        (last, 1) => format!("{what}; for its log, run {command}; its output:\n{last}"),
        (last, _) => {
            format!("{what}: {last}; for its full log, run {command}; the end of its log:\n{tail}")
        }
    };
    failure(FailureClass::Build, Reason::CheckFailed, &text)
}

fn output<'a>(pod: Option<&'a Pod>, container: &str) -> &'a str {
    pod.and_then(|pod| ended(pod, container)?.message.as_deref()).unwrap_or_default()
}

fn ended<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStateTerminated> {
    pod::containers(pod.status.as_ref()?)
        .find(|container| container.name == name)
        .and_then(pod::terminated)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::builds::prepare::error::PrepareReason;

    const START: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-01T00:10:00Z";

    fn decide(job: &Value, pods: &[Value]) -> CheckJobOutcome {
        let mut job: Job = serde_json::from_value(job.clone()).expect("job");
        job.metadata.name = Some("pyenv-check-0-0".into());
        job.metadata.namespace = Some("team".into());
        let template = &mut job.spec.get_or_insert_default().template;
        template.spec.get_or_insert_with(|| {
            serde_json::from_value(json!({
                "initContainers": [{"name": "credentials"}],
                "containers": [{"name": "check"}],
            }))
            .expect("a pod")
        });
        let mut pods: Vec<Pod> = serde_json::from_value(json!(pods)).expect("pods");
        for pod in &mut pods {
            pod.spec = job.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        }
        check_job_outcome(&job, &pods, &PodEvents::default(), NOW.parse().expect("now"))
    }

    fn container(name: &str, state: &Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": state})
    }

    fn pod(phase: &str, check: &Value) -> Value {
        json!({"metadata": {"creationTimestamp": START}, "status": {"phase": phase,
            "containerStatuses": [container("check", check)]}})
    }

    fn failed(check: &Value) -> BuildFailure {
        failure_of(decide(&json!({}), &[pod("Failed", check)]))
    }

    fn failure_of(outcome: CheckJobOutcome) -> BuildFailure {
        match outcome {
            CheckJobOutcome::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_exit_code_is_the_verdict() {
        let passed = |message: &Value| {
            decide(
                &json!({}),
                &[pod("Succeeded", &json!({"terminated": {"exitCode": 0, "message": message}}))],
            )
        };
        assert_eq!(
            passed(&json!("0 findings, TOKEN=hunter2")),
            CheckJobOutcome::Passed("0 findings, TOKEN=***".into())
        );
        assert_eq!(passed(&json!(null)), CheckJobOutcome::Passed(String::new()));
        let CheckJobOutcome::Passed(long) = passed(&json!("word \n".repeat(10_000))) else {
            panic!("passed")
        };
        assert!(long.len() < 1200, "{}", long.len());
        assert_eq!(
            decide(&json!({}), &[pod("Running", &json!({"running": {}}))]),
            CheckJobOutcome::Running
        );
        assert!(matches!(decide(&json!({}), &[]), CheckJobOutcome::Waiting(_)));

        let failure =
            failed(&json!({"terminated": {"exitCode": 3, "reason": "Error", "message": "3 \
                findings\npassword=hunter2"}}));
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Build, Reason::CheckFailed.as_str())
        );
        assert_eq!(
            failure.message,
            "failed with exit code 3: password=***; for its full log, run `kubectl logs -n team \
             job/pyenv-check-0-0 --all-containers` while the Job exists; the end of its log:\n3 \
             findings\npassword=***"
        );
        let short = failed(&json!({"terminated": {"exitCode": 1, "message": "no python"}}));
        assert!(
            short.message.starts_with("failed with exit code 1; for its log, run `kubectl logs")
                && short.message.ends_with("\nno python")
        );
        let silent = failed(&json!({"terminated": {"exitCode": 1}}));
        assert!(
            silent.message.starts_with("failed with exit code 1, without output"),
            "{}",
            silent.message
        );
        let long =
            failed(&json!({"terminated": {"exitCode": 1, "message": "word \n".repeat(10_000)}}));
        assert!(long.message.len() < 2500, "{}", long.message.len());
    }

    #[test]
    fn a_job_alone_passes_no_check() {
        let complete = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
        let running = pod("Running", &json!({"running": {}}));
        for pods in [&[][..], &[running]] {
            let failure = failure_of(decide(&complete, pods));
            let found = (failure.class, failure.reason.as_str());
            assert_eq!(found, (FailureClass::Infrastructure, Reason::PodLost.as_str()));
            assert!(failure.message.contains("no pod says"), "{}", failure.message);
        }
    }

    #[test]
    fn a_pod_whose_image_somebody_has_changed_passes_no_check() {
        let template = |image: &str| json!({"containers": [{"name": "check", "image": image}]});
        let job = json!({"spec": {"template": {"spec": template("check:1")}}});
        let job: Job = serde_json::from_value(job).expect("a Job");
        let outcome = |image: &str, phase: &str| {
            let mut pod = pod(phase, &json!({"terminated": {"exitCode": 0}}));
            pod["spec"] = template(image);
            let pods = [serde_json::from_value(pod).expect("a pod")];
            check_job_outcome(&job, &pods, &PodEvents::default(), NOW.parse().expect("now"))
        };
        assert_eq!(outcome("check:1", "Succeeded"), CheckJobOutcome::Passed(String::new()));
        for phase in ["Running", "Succeeded"] {
            let failure = failure_of(outcome("true:1", phase));
            assert_eq!(failure.reason, Reason::PodChanged, "{phase}");
            let expected = "the image true:1 in its container `check`, and not check:1";
            assert!(failure.message.contains(expected), "{}", failure.message);
        }
    }

    #[test]
    fn a_verdict_differs_from_a_failure_of_the_environment() {
        use FailureClass::{Build, Infrastructure};
        let late = json!({"spec": {"template": {}, "activeDeadlineSeconds": 600},
            "status": {"failed": 1,
            "conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}});
        let gone = json!({"status": {"failed": 1, "conditions": [{"type": "Failed",
            "status": "True", "reason": "BackoffLimitExceeded"}]}});
        let mut evicted = pod("Failed", &json!({"terminated": {"exitCode": 137}}));
        evicted["status"]["reason"] = json!("Evicted");
        let mut preempted = pod("Failed", &json!({"terminated": {"exitCode": 143}}));
        preempted["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler"}]);
        let start_error = json!({"terminated": {"exitCode": 128, "reason": "StartError",
            "message": "exec: \
            \"pythn\": not found"}});
        for (job, pods, class, reason, text) in [
            (
                json!({}),
                vec![pod("Failed", &start_error)],
                Build,
                Reason::CheckFailed,
                "\"pythn\": not found",
            ),
            (late, vec![], Build, Reason::CheckFailed, "exceeded its `timeout` of 600 s"),
            (
                json!({}),
                vec![pod(
                    "Failed",
                    &json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                )],
                Infrastructure,
                Reason::OutOfMemory,
                "memory",
            ),
            (json!({}), vec![evicted], Infrastructure, Reason::Evicted, "Evicted"),
            (
                json!({}),
                vec![preempted],
                Infrastructure,
                Reason::Preempted,
                "PreemptionByScheduler",
            ),
            (gone, vec![], Infrastructure, Reason::PodLost, "disappeared"),
            (
                json!({}),
                vec![pod(
                    "Pending",
                    &json!({"waiting": {"reason": "ImagePullBackOff", "message": "denied"}}),
                )],
                Infrastructure,
                Reason::ImagePullFailed,
                "denied",
            ),
        ] {
            let failure = failure_of(decide(&job, &pods));
            assert_eq!(
                (failure.class, failure.reason.as_str()),
                (class, reason.as_str()),
                "{}",
                failure.message
            );
            assert!(failure.message.contains(text), "{}", failure.message);
        }
    }

    #[test]
    fn the_init_container_reports_what_is_wrong() {
        let with = |message: &str| {
            let mut pod = pod("Failed", &json!({"waiting": {"reason": "PodInitializing"}}));
            let ended = json!({"terminated": {"exitCode": 1, "message": message}});
            pod["status"]["initContainerStatuses"] = json!([container("credentials", &ended)]);
            failure_of(decide(&json!({}), &[pod]))
        };
        let failure = with(
            &PrepareError::new(PrepareReason::InvalidSecret, "Secret push is gone")
                .to_termination_message(),
        );
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Infrastructure, Reason::InvalidSecret.as_str())
        );
        assert_eq!(failure.message, "Secret push is gone");
        assert_eq!(with("Killed").reason, Reason::PodNotStarted);
    }

    #[test]
    fn what_else_runs_in_the_pod_decides_nothing() {
        let with = |phase: &str, check: Value, sidecar: Value| {
            let mut pod = pod(phase, &check);
            let statuses = pod["status"]["containerStatuses"].as_array_mut().expect("statuses");
            statuses.insert(0, container("mesh-proxy", &sidecar));
            decide(&json!({}), &[pod])
        };
        let exited =
            |code: i32| json!({"terminated": {"exitCode": code, "message": code.to_string()}});
        let runs = json!({"running": {}});
        assert_eq!(with("Running", exited(0), runs.clone()), CheckJobOutcome::Passed("0".into()));
        assert_eq!(with("Failed", exited(0), exited(9)), CheckJobOutcome::Passed("0".into()));
        assert_eq!(with("Running", runs.clone(), exited(9)), CheckJobOutcome::Running);
        for (phase, sidecar) in [("Running", runs), ("Failed", exited(9))] {
            let failure = failure_of(with(phase, exited(3), sidecar));
            assert_eq!(failure.reason, Reason::CheckFailed);
            assert!(failure.message.starts_with("failed with exit code 3"), "{}", failure.message);
            assert!(failure.message.ends_with("\n3"), "{}", failure.message);
        }
    }

    #[test]
    fn a_check_whose_job_is_deleted_has_no_verdict() {
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:05:00Z"}});
        let killed = json!({"terminated": {"exitCode": 137, "finishedAt": "2026-01-01T00:05:05Z"}});
        assert_eq!(decide(&deleted, &[pod("Failed", &killed)]), CheckJobOutcome::Stopped);
        assert_eq!(
            decide(&deleted, &[pod("Running", &json!({"running": {}}))]),
            CheckJobOutcome::Stopped
        );
    }
}
