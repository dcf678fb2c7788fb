//! What a pod's status says of everything around its containers: evictions, lost nodes, images that
//! don't come, no room. Builds and checks read it alike.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodStatus,
};

use crate::{
    api::{
        BuildFailure, FailureClass,
        condition::{reason, shorten},
    },
    builds::outcome::{
        failure,
        message::{Keep, sanitize},
    },
};

/// How long a container may wait for its image, or for its configuration.
pub(super) const CONTAINER_START_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// How long a pod may wait for room on a node: a cluster that grows needs some minutes for one.
pub(super) const SCHEDULING_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
/// How long a node may take to confirm the end of a pod, after the pod's own grace period.
pub(super) const NODE_CONFIRMATION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// The most characters of what a pod waits for that are passed on.
const MAX_WAIT_MESSAGE: usize = 200;

/// Why a pod does not run, where it may still come to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodWait {
    /// What it waits for, in words; `None` while the wait is too short to be told of.
    pub what: Option<String>,
    /// When the wait is to be looked at again though nothing has changed: then it counts as failed,
    /// or is told of.
    pub recheck_at: Option<Timestamp>,
}

/// A wait that has a cause and an upper bound.
pub(super) enum BoundedWait {
    /// The bound is not reached yet.
    Pending(PodWait),
    /// The bound is reached: the wait counts as this failure.
    Expired(BuildFailure),
}

/// What an unfinished pod waits for, if it waits. `most` bounds every patience with a pod that has
/// not started.
pub(super) fn waiting(pod: &Pod, most: SignedDuration, now: Timestamp) -> Option<BoundedWait> {
    let status = pod.status.as_ref()?;
    let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    end_of(pod, status, now).or_else(|| start_of(status, created, most, now))
}

/// What a pod waits for before its containers can start.
fn start_of(
    status: &PodStatus,
    created: Timestamp,
    most: SignedDuration,
    now: Timestamp,
) -> Option<BoundedWait> {
    if let Some(condition) = unscheduled(status) {
        let what = shorten(&words(condition, "no node has room"), MAX_WAIT_MESSAGE);
        // Who holds a pod back by a gate does so on purpose.
        if condition.reason.as_deref() == Some("SchedulingGated") {
            return Some(BoundedWait::Pending(PodWait { what: Some(what), recheck_at: None }));
        }
        let since = condition.last_transition_time.as_ref().map_or(created, |time| time.0);
        let patience = SCHEDULING_TIMEOUT.min(most);
        let failed =
            format!("no node has had room for the pod for {} s: {what}", patience.as_secs());
        return Some(bounded_wait(since, patience, now, &what, reason::UNSCHEDULABLE, &failed));
    }
    let (why, what) = stuck(status)?;
    let since =
        scheduled_at(status).into_iter().chain(steps_ended(status)).fold(created, Timestamp::max);
    let failed = format!("the pod can't start: {what}");
    Some(bounded_wait(
        since,
        CONTAINER_START_TIMEOUT.min(most),
        now,
        &shorten(&what, MAX_WAIT_MESSAGE),
        why,
        &failed,
    ))
}

/// What a pod that was told to end waits for.
fn end_of(pod: &Pod, status: &PodStatus, now: Timestamp) -> Option<BoundedWait> {
    let over = pod.metadata.deletion_timestamp.as_ref()?.0;
    if now < over {
        return Some(BoundedWait::Pending(PodWait { what: None, recheck_at: Some(over) }));
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("?");
    let why = disruption(status).map_or_else(String::new, |condition| {
        let word = condition.reason.as_deref().unwrap_or_default();
        format!(" ({word}: {})", shorten(&words(condition, ""), MAX_WAIT_MESSAGE))
    });
    let what = format!("the pod was told to end, and its node {node} does not confirm it{why}");
    let lost = format!(
        "{what}. If the node is gone for good, delete its Node, or taint it \
         node.kubernetes.io/out-of-service: until then the next attempt waits"
    );
    Some(bounded_wait(over, NODE_CONFIRMATION_TIMEOUT, now, &what, reason::NODE_LOST, &lost))
}

/// A wait since a time, or the failure that it becomes.
pub(super) fn bounded_wait(
    since: Timestamp,
    patience: SignedDuration,
    now: Timestamp,
    what: &str,
    why: &str,
    failed: &str,
) -> BoundedWait {
    let until = since.saturating_add(patience).unwrap_or(Timestamp::MAX);
    if now >= until {
        return BoundedWait::Expired(failure(FailureClass::Infrastructure, why, failed));
    }
    BoundedWait::Pending(PodWait { what: Some(what.to_owned()), recheck_at: Some(until) })
}

/// Why a pod that has not started any container did not, for one whose time is up.
pub(super) fn never_started(pod: &Pod) -> Option<BuildFailure> {
    let status = pod.status.as_ref();
    if status.is_some_and(|status| containers(status).any(has_started)) {
        return None;
    }
    let unscheduled = status
        .and_then(unscheduled)
        .map(|condition| (reason::UNSCHEDULABLE, words(condition, "no node has room")));
    let (why, what) = unscheduled
        .or_else(|| stuck(status?))
        .unwrap_or((reason::POD_NOT_STARTED, "its node did not start any container".into()));
    Some(failure(
        FailureClass::Infrastructure,
        why,
        &format!(
            "the pod did not start within its \
        time: {what}"
        ),
    ))
}

/// Why a failed pod was stopped from outside, if it was.
pub(super) fn stopped(pod: &Pod) -> Option<BuildFailure> {
    let status = pod.status.as_ref()?;
    let infrastructure = |why, text: &str| Some(failure(FailureClass::Infrastructure, why, text));
    if let Some(condition) = disruption(status) {
        let word = condition.reason.as_deref().unwrap_or("no reason given");
        // The kubelet has one word for what it does, and says more beside it.
        let why = match (word, status.reason.as_deref()) {
            ("PreemptionByScheduler", _) | (_, Some("Preempting")) => reason::PREEMPTED,
            ("DeletionByTaintManager" | "DeletionByPodGC", _) => reason::NODE_LOST,
            _ => reason::EVICTED,
        };
        return infrastructure(
            why,
            &format!("the pod was disrupted ({word}). {}", words(condition, "")),
        );
    }
    let text = sanitize(status.message.as_deref().unwrap_or_default(), Keep::Start);
    match status.reason.as_deref() {
        None | Some("" | "DeadlineExceeded") => None,
        Some("NodeLost") => infrastructure(
            reason::NODE_LOST,
            &format!(
                "the pod's node does not \
            answer. {text}"
            ),
        ),
        Some("Preempting") => infrastructure(
            reason::PREEMPTED,
            &format!(
                "the pod made room for \
            another. {text}"
            ),
        ),
        Some(word @ ("Evicted" | "Terminated")) => {
            infrastructure(reason::EVICTED, &format!("the pod was stopped ({word}). {text}"))
        }
        // OutOfcpu, NodeAffinity, NodeShutdown, UnexpectedAdmissionError and the like.
        Some(word) => infrastructure(
            reason::NODE_REFUSED,
            &format!(
                "the node did not take the pod \
            ({word}). {text}"
            ),
        ),
    }
}

/// Whether a pod failed after it, or what it belongs to, was asked to end, so that its end says
/// nothing of its work. `requested` is when that was.
pub(super) fn ended_after(pod: &Pod, requested: Timestamp) -> bool {
    let ended = pod.status.as_ref().and_then(|status| {
        containers(status)
            .filter_map(|container| Some(terminated(container)?.finished_at.as_ref()?.0))
            .max()
    });
    ended.is_none_or(|ended| ended >= requested)
}

/// When a pod was asked to end; its deletion time is when its grace period is over.
pub(super) fn deletion_requested(pod: &Pod) -> Option<Timestamp> {
    let grace =
        SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
    pod.metadata.deletion_timestamp.as_ref()?.0.saturating_sub(grace).ok()
}

/// The containers of a pod, those of its first steps before the others.
pub(in crate::builds) fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
}

/// How a container ended, if it has.
pub(in crate::builds) fn terminated(
    container: &ContainerStatus,
) -> Option<&ContainerStateTerminated> {
    match container.state.as_ref()? {
        ContainerState { terminated: Some(ended), .. } => Some(ended),
        _ => None,
    }
}

/// A pod's phase; empty if it has none yet.
pub(in crate::builds) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn has_started(container: &ContainerStatus) -> bool {
    container
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

/// Why a container does not start, where waiting rarely helps: a reason, and words.
fn stuck(status: &PodStatus) -> Option<(&'static str, String)> {
    containers(status).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let word = waiting.reason.as_deref()?;
        let why = match word {
            "ImagePullBackOff"
            | "ErrImagePull"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable"
            | "ImageInspectError"
            | "SignatureValidationFailed" => reason::IMAGE_PULL_FAILED,
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                reason::POD_NOT_STARTED
            }
            _ => return None,
        };
        let text = sanitize(waiting.message.as_deref().unwrap_or_default(), Keep::Start);
        Some((
            why,
            format!("container `{}`, image {}: {word} {text}", container.name, container.image)
                .trim()
                .to_owned(),
        ))
    })
}

fn condition<'a>(status: &'a PodStatus, type_: &str, is: &str) -> Option<&'a PodCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_ && condition.status == is)
}

fn disruption(status: &PodStatus) -> Option<&PodCondition> {
    condition(status, "DisruptionTarget", "True")
}

fn unscheduled(status: &PodStatus) -> Option<&PodCondition> {
    condition(status, "PodScheduled", "False")
}

fn scheduled_at(status: &PodStatus) -> Option<Timestamp> {
    Some(condition(status, "PodScheduled", "True")?.last_transition_time.as_ref()?.0)
}

/// When the pod's first steps ended: its builder waits for its image from then on.
fn steps_ended(status: &PodStatus) -> impl Iterator<Item = Timestamp> {
    let steps = status.init_container_statuses.iter().flatten();
    steps.filter_map(|step| Some(terminated(step)?.finished_at.as_ref()?.0))
}

fn words(condition: &PodCondition, without: &str) -> String {
    sanitize(condition.message.as_deref().unwrap_or(without), Keep::Start)
}
