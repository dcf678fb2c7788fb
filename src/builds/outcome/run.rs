//! How far a Job of one pod is, whatever the pod does: a build or a check. What a container's own
//! exit means is for them.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::Pod,
};

use crate::{
    api::{BuildFailure, FailureClass, condition::reason},
    builds::outcome::{
        failure,
        pod::{self, BoundedWait, PodWait, bounded_wait},
    },
};

/// How long a Job that its controller has taken up may be without a pod.
const POD_CREATION_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// Until a Job's wait for a pod is worth a word.
const QUIET_PERIOD: SignedDuration = SignedDuration::from_secs(30);
/// The reason that the Job controller gives when a Job's time is up.
const DEADLINE: &str = "DeadlineExceeded";

/// How far a Job is.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::builds) enum JobRun<'a> {
    /// No container runs, or none is known to.
    Waiting(PodWait),
    /// Its pod runs.
    Running,
    /// Its pod has succeeded; the pod, if it is still known.
    Succeeded(Option<&'a Pod>),
    /// A container of its pod has ended badly by itself.
    Exited(&'a Pod),
    /// It ran longer than it may; the pod, if it is still known.
    TimedOut(Option<&'a Pod>),
    /// It is being ended, or was, because somebody deleted the Job.
    Stopped,
    /// What is around it broke.
    Broken(BuildFailure),
}

/// How far a Job is. `pods` are its pods in any order; `now` decides how long something has been
/// waited for.
pub(in crate::builds) fn job_run<'a>(job: &Job, pods: &'a [Pod], now: Timestamp) -> JobRun<'a> {
    if let Some(pod) = pods.iter().find(|pod| pod::phase(pod) == "Succeeded") {
        return JobRun::Succeeded(Some(pod));
    }
    if condition(job, "Complete").is_some() {
        return JobRun::Succeeded(None);
    }
    match pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
    {
        None => without_pod(job, now),
        Some(pod) if pod::phase(pod) == "Failed" => of_failed_pod(job, pod),
        Some(pod) => of_open_pod(job, pod, now),
    }
}

/// A Job's time in seconds, for people.
pub(in crate::builds) fn time_limit(job: &Job) -> i64 {
    job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).unwrap_or_default()
}

/// How a person sees all that a Job's pod has printed.
pub(in crate::builds) fn whole_log(job: &Job) -> String {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    format!("`kubectl logs -n {namespace} job/{name} --all-containers`, while the Job exists")
}

fn of_failed_pod<'a>(job: &Job, pod: &'a Pod) -> JobRun<'a> {
    if deleted_at(job).is_some_and(|at| pod::ended_after(pod, at)) {
        return JobRun::Stopped;
    }
    if let Some(failure) = pod::stopped(pod) {
        return JobRun::Broken(failure);
    }
    let pods_own_limit =
        pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some(DEADLINE);
    if is_late(job) || pods_own_limit {
        return late(Some(pod));
    }
    if pod::deletion_requested(pod).is_some_and(|at| pod::ended_after(pod, at)) {
        return JobRun::Broken(lost("the pod was deleted while it ran"));
    }
    let by_itself = pod.status.iter().flat_map(pod::containers).filter_map(pod::terminated);
    if by_itself.into_iter().any(|ended| ended.exit_code != 0) {
        return JobRun::Exited(pod);
    }
    JobRun::Broken(lost("the pod ended, and no container of it tells how"))
}

fn of_open_pod<'a>(job: &Job, pod: &'a Pod, now: Timestamp) -> JobRun<'a> {
    if deleted_at(job).is_some() {
        return JobRun::Stopped;
    }
    match pod::waiting(pod, patience(job), now) {
        Some(BoundedWait::Expired(failure)) => return JobRun::Broken(failure),
        // The Job's controller waits for the pod's end before it calls the Job failed.
        Some(BoundedWait::Pending(wait)) if condition(job, "Failed").is_none() => {
            return JobRun::Waiting(wait);
        }
        Some(BoundedWait::Pending(_)) | None => {}
    }
    match condition(job, "Failed") {
        Some(_) if is_late(job) => late(Some(pod)),
        Some(_) => JobRun::Broken(lost("the Job has failed, and its pod was given up")),
        None if pod::phase(pod) == "Running" => JobRun::Running,
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
        return match (is_late(job), had_pod) {
            (true, true) => JobRun::TimedOut(None),
            (true, false) => JobRun::Broken(failure(
                FailureClass::Infrastructure,
                reason::POD_NOT_CREATED,
                &no_pod(job),
            )),
            (false, _) => JobRun::Broken(lost(
                "the pod is gone before its end: it was deleted, or its \
                node is lost",
            )),
        };
    }
    let since = |time: Option<Timestamp>| time.unwrap_or(now);
    let quiet_until =
        |since: Timestamp| since.saturating_add(QUIET_PERIOD).unwrap_or(Timestamp::MAX);
    let told_from = |since: Timestamp, what: &str, recheck_at: Option<Timestamp>| {
        let quiet = quiet_until(since);
        JobRun::Waiting(if now < quiet {
            PodWait { what: None, recheck_at: Some(quiet) }
        } else {
            PodWait { what: Some(what.to_owned()), recheck_at }
        })
    };
    let created = since(job.metadata.creation_timestamp.as_ref().map(|time| time.0));
    // A pod is there, or was, and the watch has yet to show how it ended.
    if had_pod || condition(job, "FailureTarget").is_some() {
        return JobRun::Waiting(PodWait::default());
    }
    if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        return told_from(
            created,
            "the Job is suspended by something in the cluster that admits \
                                   Jobs",
            None,
        );
    }
    let Some(started) = status.start_time.map(|time| time.0) else {
        return told_from(
            created,
            "the cluster's Job controller has not taken up the Job yet",
            None,
        );
    };
    match bounded_wait(
        started,
        POD_CREATION_TIMEOUT.min(patience(job)),
        now,
        "",
        reason::POD_NOT_CREATED,
        &no_pod(job),
    ) {
        BoundedWait::Expired(failure) => JobRun::Broken(failure),
        BoundedWait::Pending(wait) => told_from(started, &no_pod(job), wait.recheck_at),
    }
}

/// Why there is no pod can be read in the Job's Events only, which the controller has no right to
/// read.
fn no_pod(job: &Job) -> String {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    format!(
        "the cluster makes no pod for the Job: a quota, a limit range or a policy forbids it; \
         `kubectl describe -n {namespace} job/{name}` says which"
    )
}

/// A Job whose time is up. One whose pod never started was kept from it.
fn late(pod: Option<&Pod>) -> JobRun<'_> {
    pod.and_then(pod::never_started).map_or(JobRun::TimedOut(pod), JobRun::Broken)
}

/// No patience is longer than half of the Job's time, so that what it waits for is told before the
/// time is up.
fn patience(job: &Job) -> SignedDuration {
    match time_limit(job) {
        0 => SignedDuration::MAX,
        limit => SignedDuration::from_secs(limit / 2),
    }
}

/// Whether the Job's controller ends, or has ended, the Job because its time is up.
fn is_late(job: &Job) -> bool {
    ["Failed", "FailureTarget"].iter().any(|type_| {
        condition(job, type_).is_some_and(|condition| condition.reason.as_deref() == Some(DEADLINE))
    })
}

fn deleted_at(job: &Job) -> Option<Timestamp> {
    Some(job.metadata.deletion_timestamp.as_ref()?.0)
}

/// A condition of the Job that is true.
fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == type_ && condition.status == "True")
}

fn lost(text: &str) -> BuildFailure {
    failure(FailureClass::Infrastructure, reason::POD_LOST, text)
}
