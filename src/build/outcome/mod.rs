//! What became of a build: from a Job and its pods to a result, or to a failure in words. Pure.
//!
//! A build that succeeded has pushed, or says so; the controller believes the registry. A pod's own phase is read and not
//! the Job's `Complete` condition, which comes about a second later.

mod message;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
};

use super::{job::PREPARE, prepare::refusal};
use crate::api::{BuildFailure, FailureClass, condition::reason};

/// The build took longer than its strategy allows.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// The build, or a command in it, ran out of memory.
pub const OUT_OF_MEMORY: &str = "OutOfMemory";
/// The pod was evicted, preempted, or refused by its node.
pub const EVICTED: &str = "Evicted";
/// The pod is gone: somebody deleted it, or its node is lost.
pub const POD_LOST: &str = "PodLost";
/// The builder's own image, or the operator's, can't be pulled, or the pod can't be started as it is.
pub const POD_NOT_STARTED: &str = "PodNotStarted";

/// How long a container may wait for its image before the build counts as failed.
const START_PATIENCE: SignedDuration = SignedDuration::from_secs(120);

/// What became of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its pod has not started.
    Pending,
    /// Its pod runs.
    Running,
    /// Its pod has succeeded.
    Succeeded,
    /// It failed. The Job may still be there with a pod that waits, and is to be deleted.
    Failed(BuildFailure),
}

/// What became of the build of a Job. `pods` are the Job's pods in any order; `now` decides how long a pod that can't start
/// has been waited for.
#[must_use]
pub fn outcome(job: &Job, pods: &[Pod], now: Timestamp) -> Outcome {
    if pods.iter().any(|pod| phase(pod) == "Succeeded") || condition(job, "Complete").is_some() {
        return Outcome::Succeeded;
    }
    let newest = pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let failed = condition(job, "Failed");
    if failed == Some(DEADLINE_EXCEEDED) {
        let limit = job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).unwrap_or_default();
        let waited = newest.and_then(|pod| waiting(pod.status.as_ref()?)).map(|why| format!(" Its pod waited: {why}."));
        return infrastructure(
            DEADLINE_EXCEEDED,
            &format!(
                "the build took longer than the {limit} s that the strategy's `timeout` allows.{}",
                waited.unwrap_or_default()
            ),
        );
    }
    match newest {
        Some(pod) => match (phase(pod), pod.status.as_ref()) {
            ("Failed", Some(status)) => Outcome::Failed(of_failed_pod(status)),
            (_, Some(status)) => not_starting(pod, status, now)
                .or_else(|| failed.map(|_| lost()))
                .unwrap_or(if phase(pod) == "Running" { Outcome::Running } else { Outcome::Pending }),
            (_, None) => failed.map_or(Outcome::Pending, |_| lost()),
        },
        None => failed.map_or(Outcome::Pending, |_| lost()),
    }
}

fn of_failed_pod(status: &PodStatus) -> BuildFailure {
    let disruption = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True");
    if let Some(disruption) = disruption {
        let why = disruption.reason.as_deref().unwrap_or("no reason given");
        let text = disruption.message.as_deref().unwrap_or_default();
        return failure(FailureClass::Infrastructure, EVICTED, &format!("the pod was disrupted ({why}). {text}"));
    }
    if let Some(ended) = ended(status.init_container_statuses.as_ref(), PREPARE) {
        return of_prepare(ended);
    }
    let init = status.init_container_statuses.iter().flatten();
    let broken = init
        .chain(status.container_statuses.iter().flatten())
        .find_map(|container| Some((container, terminated(container).filter(|ended| ended.exit_code != 0)?)));
    match (broken, status.reason.as_deref()) {
        (Some((container, ended)), None) => of_builder(&container.name, ended),
        (_, Some(why)) => {
            let text = status.message.as_deref().unwrap_or_default();
            failure(FailureClass::Infrastructure, EVICTED, &format!("the pod was stopped ({why}). {text}"))
        }
        (None, None) => lost_failure(),
    }
}

fn of_prepare(ended: &ContainerStateTerminated) -> BuildFailure {
    if ended.reason.as_deref() == Some("OOMKilled") {
        let text = "the step `prepare` ran out of memory: is the source very large?";
        return failure(FailureClass::Infrastructure, OUT_OF_MEMORY, text);
    }
    let text = ended.message.as_deref().unwrap_or_default();
    match refusal::Refusal::read(text) {
        Some(refusal) => {
            let reason = refusal.reason.as_str();
            failure(refusal.reason.class(), reason, &message::readable(&refusal.message, message::End::Start))
        }
        None => failure(
            FailureClass::Infrastructure,
            POD_NOT_STARTED,
            &format!(
                "the step `prepare` ended with code {} and no reason. {}",
                ended.exit_code,
                message::readable(text, message::End::Tail)
            ),
        ),
    }
}

fn of_builder(name: &str, ended: &ContainerStateTerminated) -> BuildFailure {
    if ended.reason.as_deref() == Some("OOMKilled") {
        return failure(
            FailureClass::Infrastructure,
            OUT_OF_MEMORY,
            &format!("the container `{name}` ran out of memory: raise its limit in the strategy or by its parameter"),
        );
    }
    let log = ended.message.as_deref().unwrap_or_default();
    let said = message::readable(log, message::End::Tail);
    // First, for whoever shows a message cuts its end off.
    let error = message::readable(message::error_line(log), message::End::Start);
    let (class, reason) = message::classify(log);
    let code = ended.exit_code;
    let text = match (error.as_str(), said.as_str()) {
        ("", "") => format!("the container `{name}` ended with code {code} and said nothing"),
        ("", said) => format!("the container `{name}` ended with code {code}: {said}"),
        (error, said) => format!("the container `{name}` ended with code {code}: {error}; the end of its log:\n{said}"),
    };
    failure(class, reason, &text)
}

/// A failure, if a container of this pod waits for something that will not come.
fn not_starting(pod: &Pod, status: &PodStatus, now: Timestamp) -> Option<Outcome> {
    let since = pod.metadata.creation_timestamp.as_ref()?.0;
    let why = stuck(status)?;
    (now.duration_since(since) >= START_PATIENCE)
        .then(|| infrastructure(POD_NOT_STARTED, &format!("the pod can't start: {why}")))
}

/// Why a container does not start, where waiting rarely helps.
fn stuck(status: &PodStatus) -> Option<String> {
    const REASONS: [&str; 7] = [
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ];
    containers(status).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| REASONS.contains(reason))?;
        let text = message::readable(waiting.message.as_deref().unwrap_or_default(), message::End::Start);
        Some(format!("container `{}`, image {}: {reason} {text}", container.name, container.image))
    })
}

/// Why a pod waits, in words: no node has room for it, an image can't be pulled.
fn waiting(status: &PodStatus) -> Option<String> {
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    match unscheduled {
        Some(condition) => {
            Some(message::readable(condition.message.as_deref().unwrap_or("no node has room"), message::End::Start))
        }
        None => stuck(status),
    }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    match container.state.as_ref()? {
        ContainerState { terminated: Some(ended), .. } => Some(ended),
        _ => None,
    }
}

fn ended<'a>(list: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStateTerminated> {
    list?.iter().find(|container| container.name == name).and_then(terminated).filter(|ended| ended.exit_code != 0)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The reason of a condition of the Job that is true.
fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a str> {
    job.status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_ && condition.status == "True")
        .map(|condition| condition.reason.as_deref().unwrap_or_default())
}

fn lost() -> Outcome {
    Outcome::Failed(lost_failure())
}

fn lost_failure() -> BuildFailure {
    let text = "the build's pod is gone before its end: it was deleted, or its node is lost";
    failure(FailureClass::Infrastructure, POD_LOST, text)
}

fn infrastructure(reason: &str, text: &str) -> Outcome {
    Outcome::Failed(failure(FailureClass::Infrastructure, reason, text))
}

fn failure(class: FailureClass, reason: &str, text: &str) -> BuildFailure {
    BuildFailure { class, reason: reason.into(), message: text.trim().to_owned() }
}

#[cfg(test)]
mod tests;
