//! Determines the progress of a Job with one pod. Builds and checks share it, and interpret the
//! exit of a container themselves.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::Pod,
};

use crate::{
    api::{
        BuildFailure, FailureClass,
        condition::{Problem, Reason},
        labels,
    },
    builds::outcome::{
        admission::{self, no_pod, pod_rejection},
        events::PodEvents,
        failure,
        message::{Keep, sanitize},
        own::{OwnContainers, OwnEnd},
        pod::{self, BoundedWait, PodWait, WaitContext},
    },
    builds::own_containers::OwnTemplate,
};

/// How long a Job may be without a pod after the Job controller has started it.
const POD_CREATION_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// How long a Job waits for its pod before the wait is reported. From then on, the Events of the
/// Job are read.
const QUIET_PERIOD: SignedDuration = SignedDuration::from_secs(30);
/// How often the Events of a Job without a pod are read, until they say why it has none.
const EVENTS_INTERVAL: SignedDuration = SignedDuration::from_mins(1);
/// The reason that the Job controller gives if a Job exceeds its deadline.
const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// The progress of a Job.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::builds) enum JobRun<'a> {
    /// No container runs, or none is known to.
    Waiting(PodWait),
    /// The pod runs.
    Running,
    /// Our own containers have succeeded. Contains the pod if it still exists. Without it, only the
    /// Job says so, and any pod that it was given may have ended in the place of ours.
    Succeeded(Option<&'a Pod>),
    /// A container of our own has failed by itself. Others may still run.
    Exited(&'a Pod),
    /// The Job exceeded its deadline. Contains the pod if it still exists.
    TimedOut(Option<&'a Pod>),
    /// Nothing has run, because the pod cannot be created, or a node has rejected it.
    NotAdmitted(Problem),
    /// The Job ends or has ended because it was deleted.
    Stopped,
    /// The environment of the Job failed.
    Broken(BuildFailure),
}

/// Returns the progress of a Job. `pods` are its pods in any order. `events` are Events of pods
/// that wait for their nodes, and of Jobs without a pod. `now` determines how long a wait has
/// lasted.
///
/// The containers of the Job's template decide. What else runs in the pod does not count: a sidecar
/// that never ends, or that ends with an error. The phase of the pod decides where our own
/// containers do not say how the Job ended: after an eviction, for example. A pod that does not run
/// the containers of the template is not believed.
pub(in crate::builds) fn job_run<'a>(
    job: &Job,
    pods: &'a [Pod],
    events: &PodEvents,
    now: Timestamp,
) -> JobRun<'a> {
    let own = OwnContainers::of(job);
    let succeeded =
        |pod: &&Pod| pod::phase(pod) == "Succeeded" || own.end(pod) == OwnEnd::Succeeded;
    let template = OwnTemplate::of(job);
    let differing = |pod: &Pod| template.difference(pod);
    if let Some(pod) = pods.iter().find(|pod| succeeded(pod) && differing(pod).is_none()) {
        return JobRun::Succeeded(Some(pod));
    }
    if let Some(difference) = pods.iter().find_map(differing)
        && deleted_at(job).is_none()
    {
        return JobRun::Broken(changed(&difference));
    }
    if condition(job, "Complete").is_some() {
        return JobRun::Succeeded(None);
    }
    match pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
    {
        None => without_pod(job, events, now),
        Some(pod) if pod::phase(pod) == "Failed" || own.end(pod) == OwnEnd::Failed => {
            failed_pod(job, pod, &own)
        }
        Some(pod) => {
            let context =
                WaitContext { own: &own, events: events.of(pod), max_wait: max_wait(job), now };
            unfinished_pod(job, pod, &context)
        }
    }
}

/// Whether the Events of a pod are needed to say why it does not start: its node has made neither
/// its sandbox nor its volumes ready for a while.
#[must_use]
pub fn needs_events(job: &Job, pod: &Pod, now: Timestamp) -> bool {
    if deleted_at(job).is_some() || pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    pod::waits_for_node_since(pod, now).is_some_and(|since| {
        since.saturating_add(pod::explanation_delay(max_wait(job))).is_ok_and(|due| due <= now)
    })
}

/// Whether the Events of a Job without a pod are needed to say why it has none.
#[must_use]
pub fn job_needs_events(job: &Job, now: Timestamp) -> bool {
    let has_ended = ["Complete", "Failed"].iter().any(|type_| condition(job, type_).is_some());
    let Some(started) = started_at(job).filter(|_| !has_ended && !had_pod(job)) else {
        return false;
    };
    deleted_at(job).is_none() && reported_at(job, started) <= now
}

/// Whether a container of a Job has started, or may have: the watch has yet to deliver its pod, or
/// the pod is gone.
#[must_use]
pub fn may_have_started(job: &Job, pods: &[Pod]) -> bool {
    let own = OwnContainers::of(job);
    let has_started = |pod: &Pod| pod.status.as_ref().is_some_and(|status| own.has_started(status));
    if pods.is_empty() { had_pod(job) } else { pods.iter().any(has_started) }
}

/// Returns a Job's deadline in seconds, or 0 if it has none.
pub(in crate::builds) fn time_limit(job: &Job) -> i64 {
    job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).unwrap_or_default()
}

/// Returns the command that shows the full log of a Job's pod, for messages: "run ...".
pub(in crate::builds) fn log_command(job: &Job) -> String {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    format!("`kubectl logs -n {namespace} job/{name} --all-containers` while the Job exists")
}

fn failed_pod<'a>(job: &Job, pod: &'a Pod, own: &OwnContainers<'_>) -> JobRun<'a> {
    if deleted_at(job).is_some_and(|at| own.ended_after(pod, at)) {
        return JobRun::Stopped;
    }
    if let Some(problem) = admission::node_rejection(pod, own) {
        return JobRun::NotAdmitted(problem);
    }
    if let Some(failure) = pod::disrupted(pod) {
        return JobRun::Broken(failure);
    }
    let pods_own_limit =
        pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some(DEADLINE_EXCEEDED);
    let requested = pod::deletion_requested(pod);
    if (has_timed_out(job) || pods_own_limit) && requested.is_none_or(|at| own.ended_after(pod, at))
    {
        return timed_out(Some(pod), own);
    }
    if requested.is_some_and(|at| own.ended_after(pod, at)) {
        return JobRun::Broken(lost("the pod was deleted while it ran"));
    }
    if own.end(pod) == OwnEnd::Failed {
        return JobRun::Exited(pod);
    }
    JobRun::Broken(foreign_init_failure(pod, own).unwrap_or_else(|| {
        lost("the pod failed, and its status does not say how any container ended")
    }))
}

/// Returns the failure of an init container that something else has added to the pod. Our own
/// containers do not start then.
fn foreign_init_failure(pod: &Pod, own: &OwnContainers<'_>) -> Option<BuildFailure> {
    let init = pod.status.as_ref()?.init_container_statuses.iter().flatten();
    let mut failed = init.filter(|container| !own.contains(container)).filter_map(|container| {
        let ended = pod::terminated(container).filter(|ended| ended.exit_code != 0)?;
        Some((&container.name, ended))
    });
    let (name, ended) = failed.next()?;
    let text = format!(
        "the init container `{name}`, which something else in the cluster has added to the pod, \
         failed with exit code {}, so that no other container started. {}",
        ended.exit_code,
        sanitize(ended.message.as_deref().unwrap_or_default(), Keep::End)
    );
    Some(failure(FailureClass::Infrastructure, Reason::PodNotStarted, &text))
}

fn unfinished_pod<'a>(job: &Job, pod: &'a Pod, context: &WaitContext<'_>) -> JobRun<'a> {
    if deleted_at(job).is_some() {
        return JobRun::Stopped;
    }
    let own = context.own;
    match pod::waiting(pod, context) {
        Some(BoundedWait::Expired(failure)) => return JobRun::Broken(failure),
        // The Job controller waits for the pod's end before it marks the Job as failed.
        Some(BoundedWait::Pending(wait)) if condition(job, "Failed").is_none() => {
            return JobRun::Waiting(wait);
        }
        Some(BoundedWait::Pending(_)) | None => {}
    }
    let runs = pod::phase(pod) == "Running"
        || pod.status.as_ref().is_some_and(|status| own.is_running(status));
    match condition(job, "Failed") {
        Some(_) if has_timed_out(job) => timed_out(Some(pod), own),
        Some(_) => JobRun::Broken(lost("the Job failed while its pod had not finished")),
        None if runs => JobRun::Running,
        None => JobRun::Waiting(PodWait::default()),
    }
}

fn without_pod<'a>(job: &Job, events: &PodEvents, now: Timestamp) -> JobRun<'a> {
    let failed = condition(job, "Failed");
    let failed_at = failed.and_then(|condition| Some(condition.last_transition_time.as_ref()?.0));
    if deleted_at(job).is_some_and(|at| failed_at.is_none_or(|failed| failed >= at)) {
        return JobRun::Stopped;
    }
    if failed.is_some() {
        return match (has_timed_out(job), had_pod(job)) {
            (true, true) => JobRun::TimedOut(None),
            (true, false) => JobRun::NotAdmitted(no_pod(job)),
            (false, _) => JobRun::Broken(lost(
                "the pod disappeared before it finished: it was deleted, or its node was lost",
            )),
        };
    }
    // A pod exists or has existed, and the watch has yet to deliver how it ended.
    if had_pod(job) || condition(job, "FailureTarget").is_some() {
        return JobRun::Waiting(PodWait::default());
    }
    let created = job.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let is_suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
    let (since, what) = match started_at(job) {
        _ if is_suspended => (
            created,
            "the Job is suspended; a controller in the cluster that queues Jobs must resume it",
        ),
        None => (created, "the cluster's Job controller has not started the Job yet"),
        Some(started) => return without_pod_since(job, started, events, now),
    };
    JobRun::Waiting(match reported_at(job, since) {
        reported if now < reported => PodWait { recheck_at: Some(reported), ..PodWait::default() },
        _ => PodWait {
            message: Some(what.to_owned()),
            reason: Some(Reason::PodNotCreated),
            recheck_at: None,
        },
    })
}

/// Returns the progress of a Job for which the Job controller has created no pod. It goes on to
/// try, but with growing pauses, and the Job's deadline approaches meanwhile.
fn without_pod_since<'a>(
    job: &Job,
    started: Timestamp,
    events: &PodEvents,
    now: Timestamp,
) -> JobRun<'a> {
    let reported = reported_at(job, started);
    if now < reported {
        return JobRun::Waiting(PodWait { recheck_at: Some(reported), ..PodWait::default() });
    }
    if let Some(problem) = pod_rejection(events.of_job(job)) {
        return JobRun::NotAdmitted(problem);
    }
    let problem = no_pod(job);
    let timeout = POD_CREATION_TIMEOUT.min(max_wait(job));
    let until = started.saturating_add(timeout).unwrap_or(Timestamp::MAX);
    if until <= now {
        return JobRun::NotAdmitted(problem);
    }
    let read_again = now.saturating_add(EVENTS_INTERVAL).unwrap_or(until);
    let wait = PodWait {
        message: Some(problem.message),
        reason: Some(problem.reason),
        recheck_at: Some(until.min(read_again)),
    };
    JobRun::Waiting(wait)
}

/// Returns when a wait of a Job without a pod is reported.
fn reported_at(job: &Job, since: Timestamp) -> Timestamp {
    since.saturating_add(QUIET_PERIOD.min(max_wait(job))).unwrap_or(Timestamp::MAX)
}

/// Returns when the Job controller has started a Job.
fn started_at(job: &Job) -> Option<Timestamp> {
    Some(job.status.as_ref()?.start_time.as_ref()?.0)
}

/// Whether a Job has a pod, or has had one, according to the Job controller.
fn had_pod(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| {
        let counts = [status.active, status.failed, status.succeeded, status.terminating];
        counts.into_iter().flatten().any(|count| count > 0)
    })
}

/// Returns the progress of a Job that exceeded its deadline. If its pod never started, the cause is
/// what prevented the start.
fn timed_out<'a>(pod: Option<&'a Pod>, own: &OwnContainers<'_>) -> JobRun<'a> {
    let never_started = pod.and_then(|pod| pod::never_started(pod, own));
    never_started.map_or(JobRun::TimedOut(pod), JobRun::Broken)
}

/// Returns the upper bound of every wait of a Job: half of its deadline, so that the cause of the
/// wait is reported before the deadline is reached.
fn max_wait(job: &Job) -> SignedDuration {
    match time_limit(job) {
        0 => SignedDuration::MAX,
        limit => SignedDuration::from_secs(limit / 2),
    }
}

/// Whether the Job controller ends or has ended the Job because it exceeded its deadline.
fn has_timed_out(job: &Job) -> bool {
    ["Failed", "FailureTarget"].iter().any(|type_| {
        condition(job, type_)
            .is_some_and(|condition| condition.reason.as_deref() == Some(DEADLINE_EXCEEDED))
    })
}

fn deleted_at(job: &Job) -> Option<Timestamp> {
    Some(job.metadata.deletion_timestamp.as_ref()?.0)
}

/// Returns a condition of the Job if its status is `True`.
fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Returns the failure of a Job whose pod does not run the containers of the Job's template.
fn changed(difference: &str) -> BuildFailure {
    let text = format!(
        "the pod {difference}, unlike its Job: somebody has changed it, or a webhook of the \
         cluster, which must leave out the pods with the label {}: {}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_VALUE,
    );
    failure(FailureClass::Infrastructure, Reason::PodChanged, &sanitize(&text, Keep::Start))
}

fn lost(text: &str) -> BuildFailure {
    failure(FailureClass::Infrastructure, Reason::PodLost, text)
}
