//! What became of a build: from a Job and its pods to a result, or to a failure in words. Pure.
//!
//! A build that succeeded has pushed, or says so; the controller believes the registry. A pod's own
//! phase is read and not the Job's `Complete` condition, which comes about a second later.
//!
//! - `run`: how far a Job is, whatever its pod does; checks share it
//! - `pod`: what is around a pod: evictions, nodes, images, room
//! - `builder`: whose fault a builder's last words tell of
//! - `message`: words as they may be shown
//!
//! Every reason is explained in `docs/troubleshooting.md`, with its class and what to do.

mod builder;
pub(in crate::builds) mod message;
pub(in crate::builds) mod pod;
pub(in crate::builds) mod run;

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, Pod, PodStatus},
};

use crate::{
    api::{BuildFailure, FailureClass, condition::reason},
    builds::{
        job::PREPARE,
        outcome::{
            message::{Keep, sanitize},
            run::{JobRun, whole_log},
        },
        prepare::error::PrepareError,
    },
};

pub use pod::PodWait;

/// What became of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildJobOutcome {
    /// Its pod does not run: it has not started, or its node does not confirm its end.
    Waiting(PodWait),
    /// Its pod runs.
    Running,
    /// Its pod has succeeded.
    Succeeded,
    /// It failed. The Job may still be there with a pod that waits, and is to be deleted.
    Failed(BuildFailure),
    /// It is being ended, or was, because somebody deleted the Job. Not a failure.
    Stopped,
}

/// What became of the build of a Job. `pods` are the Job's pods in any order; `now` decides how
/// long a pod that can't start has been waited for.
#[must_use]
pub fn build_job_outcome(job: &Job, pods: &[Pod], now: Timestamp) -> BuildJobOutcome {
    match run::job_run(job, pods, now) {
        JobRun::Waiting(wait) => BuildJobOutcome::Waiting(wait),
        JobRun::Running => BuildJobOutcome::Running,
        JobRun::Succeeded(_) => BuildJobOutcome::Succeeded,
        JobRun::Stopped => BuildJobOutcome::Stopped,
        JobRun::Broken(failure) => BuildJobOutcome::Failed(failure),
        JobRun::TimedOut(pod) => BuildJobOutcome::Failed(of_slow_pod(job, pod)),
        JobRun::Exited(pod) => BuildJobOutcome::Failed(pod.status.as_ref().map_or_else(
            || failure(FailureClass::Infrastructure, reason::POD_LOST, "the pod has no status"),
            |status| of_failed_pod(job, status),
        )),
    }
}

/// Returns the failure of a build whose Job the API server forbids: a quota, a policy or the
/// controller's own rights are in the way, and each of them may change without the controller.
/// `answer` is the API server's answer.
#[must_use]
pub fn job_forbidden(answer: &str) -> BuildFailure {
    let is_quota = ["exceeded quota", "failed quota"].iter().any(|words| answer.contains(words));
    let (reason, to_do) = if is_quota {
        (reason::QUOTA_EXCEEDED, "raise the quota, or wait until other objects are gone")
    } else {
        (reason::JOB_REFUSED, "change the policy or the build strategy")
    };
    rejected_job(FailureClass::Infrastructure, reason, answer, to_do)
}

/// Returns the failure of a build whose Job the API server calls invalid. It stays invalid until the
/// strategy changes. `answer` is the API server's answer.
#[must_use]
pub fn job_invalid(answer: &str) -> BuildFailure {
    let to_do = "correct the build strategy";
    rejected_job(FailureClass::Input, reason::INVALID_STRATEGY, answer, to_do)
}

fn rejected_job(
    class: FailureClass,
    reason: &'static str,
    answer: &str,
    to_do: &str,
) -> BuildFailure {
    failure(class, reason, &format!("{}; {to_do}", sanitize(answer, Keep::Start)))
}

/// A build that was ended because its time was up. The same inputs will likely take as long again.
/// The Job's controller has deleted the pod, so that its last words are the only trace of it.
fn of_slow_pod(job: &Job, pod: Option<&Pod>) -> BuildFailure {
    let limit = run::time_limit(job);
    let text = format!(
        "the build took longer than the {limit} s that the strategy's `timeout` \
                        allows"
    );
    let ended = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| {
        pod::containers(status)
            .find_map(|container| pod::terminated(container).filter(|ended| ended.exit_code != 0))
    });
    let text = match sanitize(
        ended.and_then(|ended| ended.message.as_deref()).unwrap_or_default(),
        Keep::End,
    )
    .as_str()
    {
        "" => text,
        // The last line says what happened, as in every failure.
        said => format!(
            "{text}; the end of its log:\n{said}\nended after {limit} s: its time was \
                         up"
        ),
    };
    failure(FailureClass::Build, reason::DEADLINE_EXCEEDED, &text)
}

fn of_failed_pod(job: &Job, status: &PodStatus) -> BuildFailure {
    let broken = pod::containers(status).find_map(|container| {
        Some((container, pod::terminated(container).filter(|ended| ended.exit_code != 0)?))
    });
    match broken {
        Some((container, ended)) if container.name == PREPARE => of_prepare(job, ended),
        Some((container, ended)) => of_builder(job, &container.name, ended),
        None => failure(
            FailureClass::Infrastructure,
            reason::POD_LOST,
            "no container of the pod \
            tells how it ended",
        ),
    }
}

fn of_prepare(job: &Job, ended: &ContainerStateTerminated) -> BuildFailure {
    if is_out_of_memory(ended) {
        let text = "the step `prepare` ran out of memory: is the source very large?";
        return failure(FailureClass::Infrastructure, reason::OUT_OF_MEMORY, text);
    }
    let text = ended.message.as_deref().unwrap_or_default();
    if let Some(refusal) = PrepareError::read(text) {
        return failure(
            refusal.reason.class(),
            refusal.reason.as_str(),
            &sanitize(&refusal.message, Keep::Start),
        );
    }
    let text = format!(
        "the step `prepare` ended with code {} and no reason; {}",
        ended.exit_code,
        quote(job, text)
    );
    failure(FailureClass::Infrastructure, reason::POD_NOT_STARTED, &text)
}

fn of_builder(job: &Job, name: &str, ended: &ContainerStateTerminated) -> BuildFailure {
    let log = ended.message.as_deref().unwrap_or_default();
    if is_out_of_memory(ended) {
        let text = format!(
            "the container `{name}` ran out of memory: raise its limit in the strategy or by its \
             parameter; its log: {}",
            whole_log(job)
        );
        return failure(FailureClass::Infrastructure, reason::OUT_OF_MEMORY, &text);
    }
    if never_ran(ended) {
        let text =
            format!("the container `{name}` can't be started: {}", sanitize(log, Keep::Start));
        return failure(FailureClass::Infrastructure, reason::POD_NOT_STARTED, &text);
    }
    // First, for whoever shows a message cuts its end off.
    let error = sanitize(builder::error_line(log), Keep::Start);
    let (class, reason) = builder::classify(log);
    let error = if error.is_empty() { error } else { format!(": {error}") };
    let text = format!(
        "the container `{name}` ended with code {}{error}; {}",
        ended.exit_code,
        quote(job, log)
    );
    failure(class, reason, &text)
}

/// The end of a log, after how to see the whole: the last line of a failure says what happened.
fn quote(job: &Job, log: &str) -> String {
    let whole = whole_log(job);
    match sanitize(log, Keep::End).as_str() {
        "" => format!("it said nothing at its end; its log: {whole}"),
        said => format!("the end of its log (the whole: {whole}):\n{said}"),
    }
}

/// Whether the kernel ended a container for want of memory.
pub(in crate::builds) fn is_out_of_memory(ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some("OOMKilled")
}

/// Whether a container's command could not even be started.
pub(in crate::builds) fn never_ran(ended: &ContainerStateTerminated) -> bool {
    matches!(ended.reason.as_deref(), Some("StartError" | "ContainerCannotRun"))
}

pub(in crate::builds) fn failure(class: FailureClass, reason: &str, text: &str) -> BuildFailure {
    BuildFailure { class, reason: reason.into(), message: text.trim().to_owned() }
}

#[cfg(test)]
mod tests;
