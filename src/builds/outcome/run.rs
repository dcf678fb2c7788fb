//! Determines the progress of a Job with one pod. Builds and checks share it, and interpret the
//! exit of a container themselves.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::Pod,
};

use crate::{
    api::{BuildFailure, FailureClass, condition::reason},
    builds::outcome::{
        events::PodEvents,
        failure,
        message::{Keep, sanitize},
        own::{OwnContainers, OwnEnd},
        pod::{self, BoundedWait, PodWait, WaitContext, bounded_wait},
    },
};

/// How long a Job may be without a pod after the Job controller has started it.
const POD_CREATION_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// How long a Job waits for its pod before the wait is reported.
const QUIET_PERIOD: SignedDuration = SignedDuration::from_secs(30);
/// The reason that the Job controller gives if a Job exceeds its deadline.
const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// The progress of a Job.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::builds) enum JobRun<'a> {
    /// No container runs, or none is known to.
    Waiting(PodWait),
    /// The pod runs.
    Running,
    /// Our own containers have succeeded. Contains the pod if it still exists.
    Succeeded(Option<&'a Pod>),
    /// A container of our own has failed by itself. Others may still run.
    Exited(&'a Pod),
    /// The Job exceeded its deadline. Contains the pod if it still exists.
    TimedOut(Option<&'a Pod>),
    /// The Job ends or has ended because it was deleted.
    Stopped,
    /// The environment of the Job failed.
    Broken(BuildFailure),
}

/// Returns the progress of a Job. `pods` are its pods in any order. `events` are Events of pods
/// that wait for their nodes. `now` determines how long a wait has lasted.
///
/// The containers of the Job's template decide. What else runs in the pod does not count: a sidecar
/// that never ends, or that ends with an error. The phase of the pod decides where our own
/// containers do not say how the Job ended: after an eviction, for example.
pub(in crate::builds) fn job_run<'a>(
    job: &Job,
    pods: &'a [Pod],
    events: &PodEvents,
    now: Timestamp,
) -> JobRun<'a> {
    let own = OwnContainers::of(job);
    let succeeded =
        |pod: &&Pod| pod::phase(pod) == "Succeeded" || own.end(pod) == OwnEnd::Succeeded;
    if let Some(pod) = pods.iter().find(succeeded) {
        return JobRun::Succeeded(Some(pod));
    }
    if condition(job, "Complete").is_some() {
        return JobRun::Succeeded(None);
    }
    match pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
    {
        None => without_pod(job, now),
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
    Some(failure(FailureClass::Infrastructure, reason::POD_NOT_STARTED, &text))
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

fn without_pod<'a>(job: &Job, now: Timestamp) -> JobRun<'a> {
    let failed = condition(job, "Failed");
    let failed_at = failed.and_then(|condition| Some(condition.last_transition_time.as_ref()?.0));
    if deleted_at(job).is_some_and(|at| failed_at.is_none_or(|failed| failed >= at)) {
        return JobRun::Stopped;
    }
    let status = job.status.clone().unwrap_or_default();
    let had_pod = [status.active, status.failed, status.succeeded, status.terminating]
        .into_iter()
        .flatten()
        .any(|n| n > 0);
    if failed.is_some() {
        return match (has_timed_out(job), had_pod) {
            (true, true) => JobRun::TimedOut(None),
            (true, false) => JobRun::Broken(failure(
                FailureClass::Infrastructure,
                reason::POD_NOT_CREATED,
                &no_pod(job),
            )),
            (false, _) => JobRun::Broken(lost(
                "the pod disappeared before it finished: it was deleted, or its node was lost",
            )),
        };
    }
    let since = |time: Option<Timestamp>| time.unwrap_or(now);
    let quiet_until =
        |since: Timestamp| since.saturating_add(QUIET_PERIOD).unwrap_or(Timestamp::MAX);
    let report_after_quiet_period =
        |since: Timestamp, what: &str, recheck_at: Option<Timestamp>| {
            let quiet = quiet_until(since);
            JobRun::Waiting(if now < quiet {
                PodWait { message: None, recheck_at: Some(quiet) }
            } else {
                PodWait { message: Some(what.to_owned()), recheck_at }
            })
        };
    let created = since(job.metadata.creation_timestamp.as_ref().map(|time| time.0));
    // A pod exists or has existed, and the watch has yet to deliver how it ended.
    if had_pod || condition(job, "FailureTarget").is_some() {
        return JobRun::Waiting(PodWait::default());
    }
    if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        return report_after_quiet_period(
            created,
            "the Job is suspended; a controller in the cluster that queues Jobs must resume it",
            None,
        );
    }
    let Some(started) = status.start_time.map(|time| time.0) else {
        return report_after_quiet_period(
            created,
            "the cluster's Job controller has not started the Job yet",
            None,
        );
    };
    match bounded_wait(
        started,
        POD_CREATION_TIMEOUT.min(max_wait(job)),
        now,
        "",
        reason::POD_NOT_CREATED,
        &no_pod(job),
    ) {
        BoundedWait::Expired(failure) => JobRun::Broken(failure),
        BoundedWait::Pending(wait) => {
            report_after_quiet_period(started, &no_pod(job), wait.recheck_at)
        }
    }
}

/// Returns the message for a Job without a pod. Only the Job's Events say why there is none, and
/// the controller is not allowed to read them.
fn no_pod(job: &Job) -> String {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    format!(
        "the cluster creates no pod for the Job, because a quota, a limit range or a policy \
         forbids it; `kubectl describe -n {namespace} job/{name}` shows which one"
    )
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

fn lost(text: &str) -> BuildFailure {
    failure(FailureClass::Infrastructure, reason::POD_LOST, text)
}
