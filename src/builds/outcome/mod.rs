//! Derives the outcome of a build from its Job and its pods. Pure.
//!
//! A build whose pod succeeded reports what it has pushed; the controller verifies that in the
//! registry. Our own containers decide, whatever else runs in the pod. Where they do not say how
//! the build ended, the phase of the pod decides, and not the Job's `Complete` condition, which is
//! set about a second later.
//!
//! - `own`: which containers of a pod are ours, and how they ended
//! - `run`: the progress of a Job with one pod; builds and checks share it
//! - `pod`: the environment of a pod: evictions, nodes, image pulls, scheduling
//! - `events`: what the Events of a pod say about its start
//! - `admission`: Jobs and pods that the API server, a policy or a node rejects
//! - `builder`: the class and the reason of a builder's final error
//! - `report`: the digest that a build reports to have pushed
//! - `message`: output of builders and clusters, cut and masked for messages
//!
//! `docs/troubleshooting.md` explains every reason, with its class and what to do.

pub(in crate::builds) mod admission;
mod builder;
mod events;
pub(in crate::builds) mod message;
mod own;
pub(in crate::builds) mod pod;
mod report;
pub(in crate::builds) mod run;

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
        job::PREPARE,
        outcome::{
            message::{Keep, sanitize},
            own::OwnContainers,
            run::{JobRun, log_command},
        },
        prepare::error::PrepareError,
    },
};

pub use admission::{JobRejection, cannot_run_dry, job_rejection};
pub use events::{PodEvent, PodEvents};
pub use own::{ended_at, pod_has_ended};
pub use pod::PodWait;
pub use report::PushReport;
pub use run::{job_needs_events, may_have_started, needs_events};

/// What to do about a source that the builder was not allowed to use.
const SOURCE_DENIED: &str = "; the builder may pull only the pinned parents, and what the strategy \
                             allows; declare the image in `from`, or remove it from the \
                             Dockerfile or from the ONBUILD triggers of its base";

/// What to do about a registry whose certificate the builder does not trust.
const CERTIFICATE_REJECTED: &str = "; if a private authority has signed the certificate, list it \
                                    in `caBundle` of the operator";

/// The outcome of a build's Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildJobOutcome {
    /// The pod does not run: it has not started, or its node does not confirm its termination.
    Waiting(PodWait),
    /// The pod runs.
    Running,
    /// Our own containers have succeeded. Another container of the pod may still run.
    Succeeded,
    /// The build failed. If the Job still exists with a pod that waits or runs, the caller must
    /// delete it.
    Failed(BuildFailure),
    /// The build has not begun, because the Job's pod cannot be created, or a node has rejected it.
    /// This is not a failure: the caller must delete the Job, and create it again after a pause.
    NotAdmitted(Problem),
    /// The build ends or has ended because the Job was deleted. This is not a failure.
    Stopped,
}

/// Returns the outcome of a build's Job. `pods` are the Job's pods in any order, and `events` are
/// the Events that were read. `now` determines how long a pod that cannot start has been
/// waiting.
#[must_use]
pub fn build_job_outcome(
    job: &Job,
    pods: &[Pod],
    events: &PodEvents,
    now: Timestamp,
) -> BuildJobOutcome {
    match run::job_run(job, pods, events, now) {
        JobRun::Waiting(wait) => BuildJobOutcome::Waiting(wait),
        JobRun::Running => BuildJobOutcome::Running,
        JobRun::Succeeded(_) => BuildJobOutcome::Succeeded,
        JobRun::Stopped => BuildJobOutcome::Stopped,
        JobRun::NotAdmitted(problem) => BuildJobOutcome::NotAdmitted(problem),
        JobRun::Broken(failure) => BuildJobOutcome::Failed(failure),
        JobRun::TimedOut(pod) => BuildJobOutcome::Failed(timed_out(job, pod)),
        JobRun::Exited(pod) => BuildJobOutcome::Failed(failed_pod(job, pod)),
    }
}

/// Returns the failure of a build that exceeded its timeout. The same inputs will likely take as
/// long again. The Job controller has deleted the pod, so the end of its output is all that is left
/// of it.
fn timed_out(job: &Job, pod: Option<&Pod>) -> BuildFailure {
    let limit = run::time_limit(job);
    let text = format!("the build exceeded the `timeout` of its strategy, {limit} s");
    let own = OwnContainers::of(job);
    let ended = pod.and_then(|pod| Some(own.failed(pod.status.as_ref()?)?.1));
    let text = match sanitize(
        ended.and_then(|ended| ended.message.as_deref()).unwrap_or_default(),
        Keep::End,
    )
    .as_str()
    {
        "" => text,
        // The last line says what happened, as in every failure.
        output => format!("{text}; the end of its log:\n{output}\ntimed out after {limit} s"),
    };
    failure(FailureClass::Build, Reason::DeadlineExceeded, &text)
}

fn failed_pod(job: &Job, pod: &Pod) -> BuildFailure {
    let own = OwnContainers::of(job);
    match pod.status.as_ref().and_then(|status| own.failed(status)) {
        Some((container, ended)) if container.name == PREPARE => failed_prepare(job, ended),
        Some((container, ended)) => failed_builder(job, &container.name, ended),
        None => failure(
            FailureClass::Infrastructure,
            Reason::PodLost,
            "the pod failed, and its status does not say how any container ended",
        ),
    }
}

fn failed_prepare(job: &Job, ended: &ContainerStateTerminated) -> BuildFailure {
    if is_out_of_memory(ended) {
        let text =
            "the init container `prepare` exceeded its memory limit; make the source smaller";
        return failure(FailureClass::Infrastructure, Reason::OutOfMemory, text);
    }
    let text = ended.message.as_deref().unwrap_or_default();
    if let Some(error) = PrepareError::from_termination_message(text) {
        return failure(
            error.reason.class(),
            error.reason.reason(),
            &sanitize(&error.message, Keep::Start),
        );
    }
    let text = format!(
        "the init container `prepare` failed with exit code {} and without a reason; {}",
        ended.exit_code,
        log_excerpt(job, text)
    );
    failure(FailureClass::Infrastructure, Reason::PodNotStarted, &text)
}

fn failed_builder(job: &Job, name: &str, ended: &ContainerStateTerminated) -> BuildFailure {
    let log = ended.message.as_deref().unwrap_or_default();
    if is_out_of_memory(ended) {
        let text = format!(
            "the container `{name}` exceeded its memory limit; raise the limit in the strategy or \
             with a parameter of it; for its log, run {}",
            log_command(job)
        );
        return failure(FailureClass::Infrastructure, Reason::OutOfMemory, &text);
    }
    if never_ran(ended) {
        let text =
            format!("the container `{name}` could not be started: {}", sanitize(log, Keep::Start));
        return failure(FailureClass::Infrastructure, Reason::PodNotStarted, &text);
    }
    // The error comes first, because most tools cut the end of a long message.
    let error = sanitize(builder::error_line(log), Keep::Start);
    let (class, reason) = builder::classify(log);
    let error = if error.is_empty() { error } else { format!(": {error}") };
    let advice = match reason {
        Reason::DockerfileMismatch => SOURCE_DENIED,
        Reason::RegistryUntrusted => CERTIFICATE_REJECTED,
        _ => "",
    };
    let text = format!(
        "the container `{name}` failed with exit code {}{error}{advice}; {}",
        ended.exit_code,
        log_excerpt(job, log)
    );
    failure(class, reason, &text)
}

/// Returns the command that shows the full log, and the end of the log. The last line of a failure
/// says what happened.
fn log_excerpt(job: &Job, log: &str) -> String {
    let command = log_command(job);
    match sanitize(log, Keep::End).as_str() {
        "" => format!("it ended without output; for its log, run {command}"),
        end => format!("for its full log, run {command}; the end of its log:\n{end}"),
    }
}

/// Whether the kernel killed a container because it exceeded its memory limit.
pub(in crate::builds) fn is_out_of_memory(ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some("OOMKilled")
}

/// Whether a container's command could not be started.
pub(in crate::builds) fn never_ran(ended: &ContainerStateTerminated) -> bool {
    matches!(ended.reason.as_deref(), Some("StartError" | "ContainerCannotRun"))
}

/// Returns the failure of a build that has succeeded and whose pod does not report what it has
/// pushed. `strategy` is the name of its strategy.
#[must_use]
pub fn digest_not_reported(strategy: &str) -> BuildFailure {
    let text = format!(
        "the build succeeded, but its pod does not report the digest that it has pushed; correct \
         the BuildStrategy {strategy}: its container must write the digest to /dev/termination-log"
    );
    failure(FailureClass::Input, Reason::DigestNotReported, &text)
}

pub(in crate::builds) fn failure(class: FailureClass, reason: Reason, text: &str) -> BuildFailure {
    BuildFailure { class, reason: reason.into(), message: text.trim().to_owned() }
}

#[cfg(test)]
mod tests;
