//! Interprets the parts of a pod's status that concern its environment: evictions, lost nodes,
//! failed image pulls, failed scheduling. Builds and checks share it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodStatus,
};

use crate::{
    api::{
        BuildFailure, FailureClass,
        condition::{Reason, shorten},
    },
    builds::outcome::{
        events::{self, PodEvent, StartProblem},
        failure,
        message::{Keep, sanitize, shorten_middle},
        own::OwnContainers,
    },
};

/// How long a container may wait for its image or its configuration.
pub(super) const CONTAINER_START_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// How long a pod may wait for its node before its Events are read.
const EXPLANATION_DELAY: SignedDuration = SignedDuration::from_mins(1);
/// How long a pod may wait to be scheduled. A cluster autoscaler needs some minutes for a new node.
pub(super) const SCHEDULING_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
/// How long a node may take to confirm the termination of a pod, after the pod's own grace period.
pub(super) const NODE_CONFIRMATION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// What the kubelet says when it evicts a pod because of disk space
/// (`pkg/kubelet/eviction/helpers.go`).
const DISK_EVICTIONS: [&str; 4] = [
    "ephemeral local storage usage exceeds",
    "exceeded its local ephemeral storage limit",
    "low on resource: ephemeral-storage",
    "had condition: [DiskPressure]",
];
/// Maximum number of characters of the message of a wait.
const MAX_WAIT_MESSAGE: usize = 200;
/// Maximum number of characters that say why a container does not start. A record cuts longer
/// messages at their end, where the cause is.
const MAX_BLOCKED_MESSAGE: usize = 440;

/// Why a pod does not run yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodWait {
    /// What the pod waits for, or `None` while the wait is too short to be reported.
    pub message: Option<String>,
    /// A reason constant for the message.
    pub reason: Option<Reason>,
    /// When the wait must be evaluated again although nothing has changed. At that time it counts
    /// as failed, or is reported.
    pub recheck_at: Option<Timestamp>,
}

/// A wait that has a cause and an upper bound.
pub(super) enum BoundedWait {
    /// The bound is not reached yet.
    Pending(PodWait),
    /// The bound is reached: the wait counts as this failure.
    Expired(BuildFailure),
}

/// What decides what a pod waits for, and for how long.
pub(super) struct WaitContext<'a> {
    /// Our own containers.
    pub(super) own: &'a OwnContainers<'a>,
    /// The pod's Events, if they were read.
    pub(super) events: &'a [PodEvent],
    /// An upper bound for every wait of a pod that has not started.
    pub(super) max_wait: SignedDuration,
    /// The current time.
    pub(super) now: Timestamp,
}

/// Returns what an unfinished pod waits for, if it waits.
pub(super) fn waiting(pod: &Pod, context: &WaitContext<'_>) -> Option<BoundedWait> {
    let status = pod.status.as_ref()?;
    if let wait @ Some(_) = wait_for_termination(pod, status, context.now) {
        return wait;
    }
    // What else cannot start in the pod does not matter then.
    if context.own.is_running(status) {
        return None;
    }
    wait_for_start(pod, status, context)
}

/// Returns since when a pod waits for its node to make its sandbox and its volumes ready, if it
/// does. A sandbox that is ready may wait for images instead.
pub(super) fn waits_for_node_since(pod: &Pod, now: Timestamp) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    condition(status, "PodReadyToStartContainers", "False")?;
    let scheduled = scheduled_at(status)?;
    let is_waiting = |container: &ContainerStatus| {
        container
            .state
            .as_ref()
            .is_none_or(|state| state.running.is_none() && state.terminated.is_none())
    };
    (phase(pod) == "Pending" && containers(status).all(is_waiting))
        .then(|| scheduled.max(created_at(pod, now)))
}

/// Returns how long a pod may wait for its node before its Events are read.
pub(super) fn explanation_delay(max_wait: SignedDuration) -> SignedDuration {
    EXPLANATION_DELAY.min(max_wait)
}

fn created_at(pod: &Pod, now: Timestamp) -> Timestamp {
    pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0)
}

/// Returns what a pod waits for before its containers can start.
fn wait_for_start(pod: &Pod, status: &PodStatus, context: &WaitContext<'_>) -> Option<BoundedWait> {
    let WaitContext { own, max_wait, now, .. } = *context;
    let created = created_at(pod, now);
    if let Some(condition) = unscheduled(status) {
        let what =
            shorten(&condition_message(condition, "no node can run the pod"), MAX_WAIT_MESSAGE);
        // A scheduling gate is set on purpose, so this wait has no upper bound.
        if condition.reason.as_deref() == Some("SchedulingGated") {
            let reason = Some(Reason::Unschedulable);
            let wait = PodWait { message: Some(what), reason, recheck_at: None };
            return Some(BoundedWait::Pending(wait));
        }
        let since = condition.last_transition_time.as_ref().map_or(created, |time| time.0);
        let timeout = SCHEDULING_TIMEOUT.min(max_wait);
        let failed =
            format!("the pod could not be scheduled within {} s: {what}", timeout.as_secs());
        return Some(bounded_wait(since, timeout, now, &what, Reason::Unschedulable, &failed));
    }
    let Some((why, what)) = blocked_container(status, own) else {
        return wait_for_node(pod, context);
    };
    let since = scheduled_at(status)
        .into_iter()
        .chain(init_containers_ended(status))
        .fold(created, Timestamp::max);
    let failed = format!("the pod cannot start: {what}");
    Some(bounded_wait(
        since,
        CONTAINER_START_TIMEOUT.min(max_wait),
        now,
        &shorten_middle(&what, MAX_WAIT_MESSAGE),
        why,
        &failed,
    ))
}

/// Returns why the node of a pod does not start it. While the wait is short, it is not reported.
fn wait_for_node(pod: &Pod, context: &WaitContext<'_>) -> Option<BoundedWait> {
    let WaitContext { events, max_wait, now, .. } = *context;
    let since = waits_for_node_since(pod, now)?;
    let explained_at = since.saturating_add(explanation_delay(max_wait)).unwrap_or(Timestamp::MAX);
    if now < explained_at {
        let wait = PodWait { recheck_at: Some(explained_at), ..PodWait::default() };
        return Some(BoundedWait::Pending(wait));
    }
    let StartProblem { reason, message } = start_problem(pod, events);
    let failed = format!("the pod cannot start: {message}");
    let short = shorten(&message, MAX_WAIT_MESSAGE);
    let timeout = CONTAINER_START_TIMEOUT.min(max_wait);
    Some(bounded_wait(since, timeout, now, &short, reason, &failed))
}

/// Returns why the node of a pod does not start it: from the condition, or else from the Events.
fn start_problem(pod: &Pod, events: &[PodEvent]) -> StartProblem {
    let status = pod.status.as_ref();
    let not_ready =
        status.and_then(|status| condition(status, "PodReadyToStartContainers", "False"));
    let text = not_ready.and_then(|condition| condition.message.as_deref()).unwrap_or_default();
    let said = PodEvent {
        reason: not_ready.and_then(|condition| condition.reason.clone()).unwrap_or_default(),
        message: text.into(),
    };
    events::start_problem(&[said]).or_else(|| events::start_problem(events)).unwrap_or_else(|| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("?");
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let (namespace, pod) = (name(&pod.metadata.namespace), name(&pod.metadata.name));
        StartProblem {
            reason: Reason::PodNotStarted,
            message: format!(
                "the node {node} has not made the pod's sandbox and volumes ready \
                 (PodReadyToStartContainers=False); `kubectl describe -n {namespace} pod/{pod}` \
                 shows its Events"
            ),
        }
    })
}

/// Returns what a pod that is being deleted waits for.
fn wait_for_termination(pod: &Pod, status: &PodStatus, now: Timestamp) -> Option<BoundedWait> {
    let deadline = pod.metadata.deletion_timestamp.as_ref()?.0;
    if now < deadline {
        return Some(BoundedWait::Pending(PodWait {
            recheck_at: Some(deadline),
            ..PodWait::default()
        }));
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("?");
    let why = disruption(status).map_or_else(String::new, |condition| {
        let word = condition.reason.as_deref().unwrap_or_default();
        format!(" ({word}: {})", shorten(&condition_message(condition, ""), MAX_WAIT_MESSAGE))
    });
    let what = format!("the pod is being deleted, but its node {node} does not confirm it{why}");
    let lost = format!(
        "{what}. The next attempt waits until the node answers. If the node is gone permanently, \
         delete its Node object or taint it with node.kubernetes.io/out-of-service"
    );
    Some(bounded_wait(deadline, NODE_CONFIRMATION_TIMEOUT, now, &what, Reason::NodeLost, &lost))
}

/// Returns a wait that began at `since`, or the failure that it becomes after `timeout`.
fn bounded_wait(
    since: Timestamp,
    timeout: SignedDuration,
    now: Timestamp,
    what: &str,
    why: Reason,
    failed: &str,
) -> BoundedWait {
    let until = since.saturating_add(timeout).unwrap_or(Timestamp::MAX);
    if now >= until {
        return BoundedWait::Expired(failure(FailureClass::Infrastructure, why, failed));
    }
    BoundedWait::Pending(PodWait {
        message: Some(what.to_owned()),
        reason: Some(why),
        recheck_at: Some(until),
    })
}

/// Returns why a pod has not started any of our containers, after its Job exceeded its deadline.
/// Returns `None` if one of them has started.
pub(super) fn never_started(pod: &Pod, own: &OwnContainers<'_>) -> Option<BuildFailure> {
    let status = pod.status.as_ref();
    if status.is_some_and(|status| own.has_started(status)) {
        return None;
    }
    let unscheduled = status.and_then(unscheduled).map(|condition| {
        (Reason::Unschedulable, condition_message(condition, "no node can run the pod"))
    });
    let (why, what) = unscheduled
        .or_else(|| blocked_container(status?, own))
        .unwrap_or((Reason::PodNotStarted, "the node did not start any container".into()));
    Some(failure(
        FailureClass::Infrastructure,
        why,
        &format!("the pod did not start before its deadline: {what}"),
    ))
}

/// Returns the failure of a pod that the cluster stopped, or `None` if it ended by itself.
pub(super) fn disrupted(pod: &Pod) -> Option<BuildFailure> {
    let status = pod.status.as_ref()?;
    let infrastructure = |why, text: &str| Some(failure(FailureClass::Infrastructure, why, text));
    if let Some(condition) = disruption(status) {
        let word = condition.reason.as_deref().unwrap_or("no reason given");
        // The kubelet gives one reason for everything that it does; the pod's own reason is
        // precise.
        let why = match (word, status.reason.as_deref()) {
            ("PreemptionByScheduler", _) | (_, Some("Preempting")) => Reason::Preempted,
            ("DeletionByTaintManager" | "DeletionByPodGC", _) => Reason::NodeLost,
            _ => eviction_reason(status),
        };
        return infrastructure(
            why,
            &format!("the pod was disrupted ({word}). {}", condition_message(condition, "")),
        );
    }
    let text = sanitize(status.message.as_deref().unwrap_or_default(), Keep::Start);
    match status.reason.as_deref() {
        None | Some("" | "DeadlineExceeded") => None,
        Some("NodeLost") => infrastructure(
            Reason::NodeLost,
            &format!("the node of the pod does not answer. {text}"),
        ),
        Some("Preempting") => infrastructure(
            Reason::Preempted,
            &format!("the pod was preempted by another one. {text}"),
        ),
        Some(word @ ("Evicted" | "Terminated")) => infrastructure(
            eviction_reason(status),
            &format!("the pod was stopped ({word}). {text}"),
        ),
        // OutOfcpu, NodeAffinity, NodeShutdown, UnexpectedAdmissionError and the like.
        Some(word) => infrastructure(
            Reason::NodeRefused,
            &format!("the node rejected the pod ({word}). {text}"),
        ),
    }
}

/// Returns the reason of an eviction: the disk, if the kubelet says that the pod exceeded a limit
/// of disk space or that its node has too little of it. Only the message says so.
fn eviction_reason(status: &PodStatus) -> Reason {
    let condition = disruption(status).and_then(|condition| condition.message.as_deref());
    let exceeded = |text: &str| {
        DISK_EVICTIONS.iter().any(|part| text.contains(part))
            || text.contains("Usage of EmptyDir volume") && text.contains("exceeds the limit")
    };
    if status.message.as_deref().into_iter().chain(condition).any(exceeded) {
        Reason::DiskFull
    } else {
        Reason::Evicted
    }
}

/// Returns when the deletion of a pod was requested. The `deletionTimestamp` is the end of the
/// grace period.
pub(super) fn deletion_requested(pod: &Pod) -> Option<Timestamp> {
    let grace =
        SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
    pod.metadata.deletion_timestamp.as_ref()?.0.saturating_sub(grace).ok()
}

/// Returns the containers of a pod, init containers first.
pub(in crate::builds) fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
}

/// Returns how a container ended, or `None` if it has not ended.
pub(in crate::builds) fn terminated(
    container: &ContainerStatus,
) -> Option<&ContainerStateTerminated> {
    match container.state.as_ref()? {
        ContainerState { terminated: Some(ended), .. } => Some(ended),
        _ => None,
    }
}

/// Returns the phase of a pod, or an empty string if it has none yet.
pub(in crate::builds) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Returns why a container does not start, as a reason and a message, for causes that waiting
/// rarely resolves. An init container that something else has added prevents ours from starting;
/// any other foreign container does not.
fn blocked_container(status: &PodStatus, own: &OwnContainers<'_>) -> Option<(Reason, String)> {
    let init = status.init_container_statuses.iter().flatten();
    let main = status.container_statuses.iter().flatten();
    init.chain(main.filter(|container| own.contains(container))).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let word = waiting.reason.as_deref()?;
        let why = match word {
            "ImagePullBackOff"
            | "ErrImagePull"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable"
            | "ImageInspectError"
            | "SignatureValidationFailed" => Reason::ImagePullFailed,
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                Reason::PodNotStarted
            }
            _ => return None,
        };
        let text = waiting.message.as_deref().unwrap_or_default();
        let text = sanitize(&without_reference(text, &container.image), Keep::End);
        let text =
            format!("container `{}`, image {}: {word} {text}", container.name, container.image);
        Some((why, shorten_middle(text.trim(), MAX_BLOCKED_MESSAGE)))
    })
}

/// Returns what the kubelet says about an image in one line and without the reference of the image.
/// It repeats the reference in each layer of the error, and the cause comes last.
fn without_reference(text: &str, image: &str) -> String {
    let is_reference = |word: &str| {
        let before = word.strip_suffix(image);
        before.is_some_and(|registry| registry.is_empty() || registry.ends_with('/'))
    };
    let short = |word: &str| {
        let name = word.trim_matches(|c: char| !(c.is_ascii_alphanumeric() || "._-/".contains(c)));
        if is_reference(name) { word.replacen(name, "…", 1) } else { word.to_owned() }
    };
    text.split_whitespace().map(short).collect::<Vec<_>>().join(" ")
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

/// Returns when the pod's init containers ended. The builder waits for its image from then on.
fn init_containers_ended(status: &PodStatus) -> impl Iterator<Item = Timestamp> {
    let containers = status.init_container_statuses.iter().flatten();
    containers.filter_map(|container| Some(terminated(container)?.finished_at.as_ref()?.0))
}

fn condition_message(condition: &PodCondition, default: &str) -> String {
    sanitize(condition.message.as_deref().unwrap_or(default), Keep::Start)
}
