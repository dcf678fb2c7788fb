//! The verdict of a check: from its Job and its pods. The exit code decides; what it wrote is the
//! message. Pure.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, Pod},
};

use crate::{
    api::{BuildFailure, FailureClass, condition::reason},
    builds::{
        checks::{credentials, job::CHECK},
        outcome::{
            PodWait, failure, is_out_of_memory,
            message::{Keep, sanitize},
            never_ran, pod,
            run::{self, JobRun, whole_log},
        },
        prepare::error::PrepareError,
    },
};

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckJobOutcome {
    /// Its pod does not run: it has not started, or its node does not confirm its end.
    Waiting(PodWait),
    /// Its pod runs.
    Running,
    /// Its exit code was 0. With what it wrote into its termination log.
    Passed(String),
    /// Its exit code was another, it took too long, or its command can't be started: class `Build`.
    /// Or what is around it broke: class `Infrastructure`.
    Failed(BuildFailure),
    /// It is being ended, or was, because somebody deleted the Job: there is no verdict.
    Stopped,
}

/// What became of the check of a Job. `pods` are the Job's pods in any order; `now` decides how
/// long a pod that can't start has been waited for.
#[must_use]
pub fn check_job_outcome(job: &Job, pods: &[Pod], now: Timestamp) -> CheckJobOutcome {
    match run::job_run(job, pods, now) {
        JobRun::Waiting(wait) => CheckJobOutcome::Waiting(wait),
        JobRun::Running => CheckJobOutcome::Running,
        JobRun::Stopped => CheckJobOutcome::Stopped,
        JobRun::Broken(failure) => CheckJobOutcome::Failed(failure),
        JobRun::Succeeded(pod) => CheckJobOutcome::Passed(sanitize(said(pod, CHECK), Keep::End)),
        JobRun::TimedOut(pod) => {
            let text = format!(
                "it took longer than the {} s that its `timeout` allows",
                run::time_limit(job)
            );
            CheckJobOutcome::Failed(verdict(&text, job, said(pod, CHECK)))
        }
        JobRun::Exited(pod) => CheckJobOutcome::Failed(of_failed_pod(job, pod)),
    }
}

fn of_failed_pod(job: &Job, pod: &Pod) -> BuildFailure {
    if let Some(ended) = ended(pod, credentials::SUBCOMMAND).filter(|ended| ended.exit_code != 0) {
        return of_credentials(job, ended);
    }
    let Some(ended) = ended(pod, CHECK) else {
        let text = "the container of the check does not tell how it ended";
        return failure(FailureClass::Infrastructure, reason::POD_LOST, text);
    };
    let said = ended.message.as_deref().unwrap_or_default();
    if is_out_of_memory(ended) {
        let text = format!("it ran out of memory; its log: {}", whole_log(job));
        return failure(FailureClass::Infrastructure, reason::OUT_OF_MEMORY, &text);
    }
    if never_ran(ended) {
        let text = format!("its command can't be started: {}", sanitize(said, Keep::Start));
        return failure(FailureClass::Build, reason::CHECK_FAILED, &text);
    }
    verdict(&format!("exit code {}", ended.exit_code), job, said)
}

/// The step that writes the credentials says itself what is wrong.
fn of_credentials(job: &Job, ended: &ContainerStateTerminated) -> BuildFailure {
    if let Some(refusal) = ended.message.as_deref().and_then(PrepareError::read) {
        let text = sanitize(&refusal.message, Keep::Start);
        return failure(FailureClass::Infrastructure, refusal.reason.as_str(), &text);
    }
    let text = format!(
        "the step `credentials` ended with code {}; its log: {}",
        ended.exit_code,
        whole_log(job)
    );
    failure(FailureClass::Infrastructure, reason::POD_NOT_STARTED, &text)
}

/// A failed check in words. First what happened and the last line, for whoever shows a message cuts
/// its end off; the last line is the check's own, too.
fn verdict(what: &str, job: &Job, said: &str) -> BuildFailure {
    let tail = sanitize(said, Keep::End);
    let last = tail.lines().next_back().map(str::trim).unwrap_or_default();
    let whole = whole_log(job);
    let text = match (last, tail.lines().count()) {
        ("", _) => format!("{what}; it said nothing at its end; its log: {whole}"),
        (last, 1) => format!("{what}; its log: {whole}; its last words:\n{last}"),
        (last, _) => format!("{what}: {last}; the end of its log (the whole: {whole}):\n{tail}"),
    };
    failure(FailureClass::Build, reason::CHECK_FAILED, &text)
}

fn said<'a>(pod: Option<&'a Pod>, container: &str) -> &'a str {
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
        let pods: Vec<Pod> = serde_json::from_value(json!(pods)).expect("pods");
        check_job_outcome(&job, &pods, NOW.parse().expect("now"))
    }

    fn container(name: &str, state: &Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    }

    fn pod(phase: &str, check: &Value) -> Value {
        json!({"metadata": {"creationTimestamp": START}, "status": {"phase": phase, "containerStatuses": [container("check", check)]}})
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
            panic!("it has passed")
        };
        assert!(long.len() < 1200, "{}", long.len());
        let complete = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
        assert_eq!(decide(&complete, &[]), CheckJobOutcome::Passed(String::new()));
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
            (FailureClass::Build, reason::CHECK_FAILED)
        );
        assert_eq!(
            failure.message,
            "exit code 3: password=***; the end of its log (the whole: `kubectl logs -n team \
             job/pyenv-check-0-0 --all-containers`, while the Job exists):\n3 \
             findings\npassword=***"
        );
        let short = failed(&json!({"terminated": {"exitCode": 1, "message": "no python"}}));
        assert!(
            short.message.starts_with("exit code 1; its log: `kubectl logs")
                && short.message.ends_with("\nno python")
        );
        let silent = failed(&json!({"terminated": {"exitCode": 1}}));
        assert!(silent.message.starts_with("exit code 1; it said nothing"), "{}", silent.message);
        let long =
            failed(&json!({"terminated": {"exitCode": 1, "message": "word \n".repeat(10_000)}}));
        assert!(long.message.len() < 2500, "{}", long.message.len());
    }

    #[test]
    fn a_verdict_is_told_from_what_is_around_a_check() {
        use FailureClass::{Build, Infrastructure};
        let late = json!({"spec": {"template": {}, "activeDeadlineSeconds": 600}, "status": {"failed": 1,
            "conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}});
        let gone = json!({"status": {"failed": 1, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}});
        let mut evicted = pod("Failed", &json!({"terminated": {"exitCode": 137}}));
        evicted["status"]["reason"] = json!("Evicted");
        let mut preempted = pod("Failed", &json!({"terminated": {"exitCode": 143}}));
        preempted["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
        let start_error = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \
            \"pythn\": not found"}});
        for (job, pods, class, reason, said) in [
            (
                json!({}),
                vec![pod("Failed", &start_error)],
                Build,
                reason::CHECK_FAILED,
                "\"pythn\": not found",
            ),
            (late, vec![], Build, reason::CHECK_FAILED, "took longer than the 600 s"),
            (
                json!({}),
                vec![pod(
                    "Failed",
                    &json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                )],
                Infrastructure,
                reason::OUT_OF_MEMORY,
                "memory",
            ),
            (json!({}), vec![evicted], Infrastructure, reason::EVICTED, "Evicted"),
            (
                json!({}),
                vec![preempted],
                Infrastructure,
                reason::PREEMPTED,
                "PreemptionByScheduler",
            ),
            (gone, vec![], Infrastructure, reason::POD_LOST, "gone"),
            (
                json!({}),
                vec![pod(
                    "Pending",
                    &json!({"waiting": {"reason": "ImagePullBackOff", "message": "denied"}}),
                )],
                Infrastructure,
                reason::IMAGE_PULL_FAILED,
                "denied",
            ),
        ] {
            let failure = failure_of(decide(&job, &pods));
            assert_eq!(
                (failure.class, failure.reason.as_str()),
                (class, reason),
                "{}",
                failure.message
            );
            assert!(failure.message.contains(said), "{}", failure.message);
        }
    }

    #[test]
    fn the_step_that_writes_credentials_says_itself_what_is_wrong() {
        let with = |message: &str| {
            let mut pod = pod("Failed", &json!({"waiting": {"reason": "PodInitializing"}}));
            let ended = json!({"terminated": {"exitCode": 1, "message": message}});
            pod["status"]["initContainerStatuses"] = json!([container("credentials", &ended)]);
            failure_of(decide(&json!({}), &[pod]))
        };
        let failure =
            with(&PrepareError::new(PrepareReason::InvalidSecret, "Secret push is gone").write());
        assert_eq!(
            (failure.class, failure.reason.as_str()),
            (FailureClass::Infrastructure, reason::INVALID_SECRET)
        );
        assert_eq!(failure.message, "Secret push is gone");
        assert_eq!(with("Killed").reason, reason::POD_NOT_STARTED);
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
