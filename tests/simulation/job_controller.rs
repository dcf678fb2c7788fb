//! Jobs and what becomes of them: pods that are scheduled, run, succeed, fail in every way that
//! there is, and outlive their Jobs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use groundswell::{api::labels, builds::prepare::error, controller::object_cache::Key};
use serde_json::{Value, json};

use crate::{
    builder::{self, Pushed},
    checker,
    cluster::{Cluster, Event},
    invariants::builds,
    objects::{Kind, key_of, label, owner, uid},
    random::Random,
};

/// The label by which Kubernetes tells of which Job a Pod is.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Where a Job or its pod goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    PodMade,
    PodRuns,
    PodEnds,
    JobEnds,
    Deadline,
    PodGone,
    Expires,
}

/// How a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Succeeds,
    /// It says that it has pushed, and has not.
    SucceedsWithoutPush,
    /// It has pushed, and is evicted before it can say so.
    EvictedAfterPush,
    Fails,
    OutOfMemory,
    CommandOutOfMemory,
    Evicted,
    Preempted,
    /// The pod is gone without a trace: its node is lost.
    Lost,
    /// The builder's image can't be pulled.
    NotStarted,
    /// It never ends by itself.
    Hangs,
    /// `prepare` could not reach the source.
    SourceUnavailable,
    RegistryUnavailable,
    PushDenied,
}

impl End {
    const OF_CHECKS: [Self; 6] = [
        Self::OutOfMemory,
        Self::Evicted,
        Self::Preempted,
        Self::Lost,
        Self::NotStarted,
        Self::Hangs,
    ];
    const INFRASTRUCTURE: [Self; 12] = [
        Self::SucceedsWithoutPush,
        Self::EvictedAfterPush,
        Self::OutOfMemory,
        Self::CommandOutOfMemory,
        Self::Evicted,
        Self::Preempted,
        Self::Lost,
        Self::NotStarted,
        Self::Hangs,
        Self::SourceUnavailable,
        Self::RegistryUnavailable,
        Self::PushDenied,
    ];
}

/// How far a build is, as nobody but the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its pod runs, or may yet.
    Live,
    Succeeded,
    Failed,
    /// Ended from outside before its end.
    Stopped,
}

/// A Job on its way.
#[derive(Clone, Debug)]
pub struct Work {
    pub job: Arc<Value>,
    pub key: Key,
    pub phase: Phase,
    /// How many Jobs there were before it.
    pub number: usize,
    /// Whether it was asked for by a controller that had died by then: the next one can't know of
    /// it until it sees it.
    pub is_late: bool,
    end: End,
    start: Duration,
    run: Duration,
    job_ended: bool,
    deleted: bool,
}

impl Work {
    pub fn label(&self, name: &str) -> &str {
        label(&self.job, name)
    }

    /// Whether it is a check of a digest, rather than a build.
    pub fn is_check(&self) -> bool {
        is_check(&self.job)
    }

    /// Whether it is being deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Whether its pod never starts.
    pub fn never_starts(&self) -> bool {
        self.end == End::NotStarted
    }

    /// Whether its pod does not start in time, so that it counts as failed before it ends.
    pub fn starts_too_late(&self) -> bool {
        self.never_starts() || self.start >= half(deadline(&self.job))
    }

    /// Whether a build that succeeded has pushed.
    pub fn has_pushed(&self) -> bool {
        self.end != End::SucceedsWithoutPush
    }

    fn pod(&self) -> Key {
        Key::new(&self.key.namespace, &format!("{}-pod", self.key.name))
    }
}

/// Whether a Job is a check of a digest, rather than a build.
pub fn is_check(job: &Value) -> bool {
    label(job, labels::COMPONENT) == labels::COMPONENT_CHECK
}

fn deadline(job: &Value) -> Duration {
    Duration::from_secs(job["spec"]["activeDeadlineSeconds"].as_u64().unwrap_or(3600))
}

/// What a pod may take to start, of the time that its Job has.
fn half(deadline: Duration) -> Duration {
    deadline / 2
}

/// A Job was made.
pub fn created(cluster: &mut Cluster, job: &Arc<Value>) {
    let (family, image) = (label(job, labels::FAMILY), label(job, labels::IMAGE));
    let check = label(job, labels::CHECK);
    let number = cluster.invariants.jobs_of(owner(job), &format!("{image} {check}"));
    let mut random = Random::of(cluster.seed, &format!("job {family} {image} {check} {number}"));
    let rates = cluster.faults.rates;
    let end = if random.chance(rates.infrastructure) {
        let ends: &[End] = if is_check(job) { &End::OF_CHECKS } else { &End::INFRASTRUCTURE };
        *random.pick(ends).expect("some")
    } else if random.chance(rates.flaky) {
        End::Fails
    } else {
        End::Succeeds
    };
    let run = if random.chance(50) {
        random.pause(60_000..1_200_000)
    } else {
        random.pause(2000..60_000)
    };
    let start =
        if random.chance(30) { random.pause(1000..200_000) } else { random.pause(100..3000) };
    let deadline = deadline(job);
    // Being too slow is a failure like others: it ends with them.
    let longest = if cluster.faults.ended { half(deadline) / 2 } else { Duration::MAX };
    let (start, run) = (start.min(longest), run.min(longest));
    let work = Work {
        job: Arc::clone(job),
        key: key_of(job),
        phase: Phase::Live,
        number: cluster.invariants.builds(),
        is_late: cluster.is_late,
        end,
        start,
        run,
        job_ended: false,
        deleted: false,
    };
    let uid = uid(job).to_owned();
    cluster.work.insert(uid.clone(), work);
    cluster.schedule(random.pause(20..2000), Event::Work(uid.clone(), Stage::PodMade));
    cluster.schedule(deadline, Event::Work(uid, Stage::Deadline));
}

/// A Job was deleted: its pod is told to stop, and stops within its grace period.
pub fn deleted(cluster: &mut Cluster, job: &Value, pause: Duration) {
    let Some(work) = cluster.work.get_mut(uid(job)) else {
        cluster.remove(Kind::Job, &key_of(job));
        return;
    };
    if work.deleted {
        return;
    }
    work.deleted = true;
    let pod = work.pod();
    let now = cluster.time.truth();
    if cluster.objects.mark_deleted(Kind::Pod, &pod, now).is_ok() {
        cluster.changed(Kind::Pod);
    }
    let grace = pause + cluster.faults.machinery.pause(50..30_000);
    cluster.schedule(grace, Event::Work(uid(job).into(), Stage::PodGone));
}

/// Takes away what belongs to objects that are gone.
pub fn collect(cluster: &mut Cluster) {
    for kind in [Kind::Image, Kind::Cascade, Kind::Job] {
        let families: Vec<String> =
            cluster.objects.all(Kind::Family).map(|(_, family)| uid(family).into()).collect();
        let orphans = cluster
            .objects
            .all(kind)
            .filter(|(_, object)| !families.iter().any(|uid| uid == owner(object)));
        let orphans: Vec<Key> = orphans.map(|(key, _)| key.clone()).collect();
        for key in orphans {
            cluster.note(format_args!("collected {kind:?} {}", key.name));
            cluster.remove(kind, &key);
        }
    }
    let jobs: Vec<String> =
        cluster.objects.all(Kind::Job).map(|(_, job)| uid(job).into()).collect();
    let orphans =
        cluster.objects.all(Kind::Pod).filter(|(_, pod)| !jobs.iter().any(|uid| uid == owner(pod)));
    let orphans: Vec<(Key, String)> =
        orphans.map(|(key, pod)| (key.clone(), owner(pod).into())).collect();
    for (key, job) in orphans {
        cluster.remove(Kind::Pod, &key);
        cluster.work.remove(&job);
    }
    // A pod that was not made yet, now never is.
    cluster.work.retain(|job, _| jobs.contains(job));
}

/// A Job or its pod goes on.
pub fn proceed(cluster: &mut Cluster, job: &str, stage: Stage) {
    let Some(work) = cluster.work.get(job).cloned() else { return };
    match stage {
        Stage::PodMade if !work.deleted && !work.job_ended => make_pod(cluster, job, &work),
        Stage::PodRuns if !work.deleted && work.phase == Phase::Live => {
            set_pod(cluster, &work, json!({"phase": "Running"}));
            if work.end != End::Hangs {
                cluster.schedule(work.run, Event::Work(job.into(), Stage::PodEnds));
            }
        }
        Stage::PodEnds if work.phase == Phase::Live => end_pod(cluster, job, &work),
        Stage::JobEnds if !work.job_ended => end_job(cluster, job, &work, None),
        Stage::Deadline if !work.job_ended && work.phase == Phase::Live && !work.deleted => {
            end_job(cluster, job, &work, Some("DeadlineExceeded"));
            set_phase(cluster, job, Phase::Stopped);
            cluster.remove(Kind::Pod, &work.pod());
        }
        Stage::PodGone => {
            set_phase(cluster, job, Phase::Stopped);
            cluster.remove(Kind::Pod, &work.pod());
            cluster.remove(Kind::Job, &work.key);
            cluster.work.remove(job);
        }
        Stage::Expires if !work.deleted => {
            cluster.note(format_args!("expires {}", work.key.name));
            if !work.is_check() {
                builds::expires(cluster, &work.job);
            }
            cluster.remove(Kind::Job, &work.key);
        }
        _ => {}
    }
}

fn set_phase(cluster: &mut Cluster, job: &str, phase: Phase) {
    if let Some(work) = cluster.work.get_mut(job)
        && work.phase == Phase::Live
    {
        work.phase = phase;
    }
}

fn make_pod(cluster: &mut Cluster, job: &str, work: &Work) {
    let mut labels: BTreeMap<String, Value> =
        serde_json::from_value(work.job["spec"]["template"]["metadata"]["labels"].clone())
            .unwrap_or_default();
    labels.insert(JOB_NAME.into(), json!(work.key.name));
    let pod = work.pod();
    let made = cluster.create(
        Kind::Pod,
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod.name,
                "namespace": pod.namespace,
                "labels": labels,
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": work.key.name, "uid": job, "controller": true},
                ],
            },
        }),
    );
    if made.is_err() {
        return;
    }
    let mut status = json!({"phase": "Pending"});
    if work.start > Duration::from_secs(3) {
        let words = "0/3 nodes are available: 3 Insufficient memory.";
        status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]);
    }
    if work.end == End::NotStarted {
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off \
            pulling image"}});
        let name = if work.is_check() { "check" } else { "build" };
        status["containerStatuses"] = json!([container(name, waiting)]);
    } else {
        cluster.schedule(work.start, Event::Work(job.into(), Stage::PodRuns));
    }
    set_pod(cluster, work, status);
}

fn set_pod(cluster: &mut Cluster, work: &Work, status: Value) {
    // A pod that is gone has no status.
    _ = cluster.update(Kind::Pod, &work.pod(), |pod| pod["status"] = status);
}

fn container(name: &str, state: Value) -> Value {
    json!({
        "name": name,
        "image": "builder",
        "imageID": "",
        "ready": false,
        "restartCount": 0,
        "state": state,
    })
}

fn ended(code: i32, reason: &str, message: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "message": message}})
}

fn end_pod(cluster: &mut Cluster, job: &str, work: &Work) {
    let lookups = !matches!(
        work.end,
        End::Fails
            | End::SucceedsWithoutPush
            | End::OutOfMemory
            | End::CommandOutOfMemory
            | End::Evicted
            | End::Preempted
            | End::Lost
            | End::SourceUnavailable
            | End::RegistryUnavailable
            | End::PushDenied
    );
    let pushed = match (lookups, work.is_check()) {
        (true, true) => checker::run(cluster, work),
        (true, false) => builder::run(cluster, job, work),
        (false, _) => Pushed::Not,
    };
    let container_name = if work.is_check() { "check" } else { "build" };
    let failed = |state: Value| json!({"phase": "Failed", "containerStatuses": [container(container_name, state)]});
    let prepare = |refusal: error::PrepareError| {
        let state = ended(1, "Error", &refusal.write());
        json!({"phase": "Failed", "initContainerStatuses": [container("prepare", state)]})
    };
    let push_failed = |why: &str| {
        let log = format!("#9 pushing layers\nerror: failed to solve: failed to push x: {why}\n");
        failed(ended(1, "Error", &log))
    };
    let status = match (work.end, pushed) {
        (_, Pushed::Refused(refusal)) => prepare(refusal),
        (_, Pushed::Failed(log)) => failed(ended(1, "Error", &log)),
        (End::Fails, _) => {
            let log = "error: failed to solve: process \"/bin/sh -c make\" did not complete \
                       successfully: exit code: 2\n";
            failed(ended(1, "Error", log))
        }
        (End::OutOfMemory, _) => failed(ended(137, "OOMKilled", "")),
        (End::CommandOutOfMemory, _) => {
            let log = "error: failed to solve: process \"x\" did not complete successfully: exit \
                       code: 137\n";
            failed(ended(1, "Error", log))
        }
        (End::Evicted | End::EvictedAfterPush, _) => {
            json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on \
                resource: memory."})
        }
        (End::Preempted, _) => json!({
            "phase": "Failed",
            "conditions": [
                {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted"},
            ],
        }),
        (End::SourceUnavailable, _) => prepare(error::PrepareError::new(
            error::PrepareReason::SourceUnavailable,
            "the source can't be reached",
        )),
        (End::RegistryUnavailable, _) => {
            push_failed("unexpected status from POST request: 503 Service Unavailable")
        }
        (End::PushDenied, _) => push_failed("unexpected status from PUT request: 401 Unauthorized"),
        (End::Lost, _) => {
            set_phase(cluster, job, Phase::Failed);
            cluster.note(format_args!("pod lost {}", work.key.name));
            cluster.remove(Kind::Pod, &work.pod());
            let pause = cluster.faults.machinery.pause(500..10_000);
            cluster.schedule(pause, Event::Work(job.into(), Stage::JobEnds));
            return;
        }
        (End::Succeeds | End::SucceedsWithoutPush | End::NotStarted | End::Hangs, _) => {
            json!({"phase": "Succeeded", "containerStatuses": [container(container_name, ended(0, "Completed", ""))]})
        }
    };
    let succeeded = status["phase"] == "Succeeded";
    if succeeded && work.has_pushed() && !work.is_check() {
        builds::succeeded(cluster, &work.job);
    }
    set_phase(cluster, job, if succeeded { Phase::Succeeded } else { Phase::Failed });
    cluster.note(format_args!("pod ends {} {:?}", work.key.name, cluster_end(work.end, succeeded)));
    set_pod(cluster, work, status);
    let pause = cluster.faults.machinery.pause(200..2000);
    cluster.schedule(pause, Event::Work(job.into(), Stage::JobEnds));
}

/// How a pod ended, for the trace: one that was to succeed may have failed by its inputs.
fn cluster_end(end: End, succeeded: bool) -> End {
    if end == End::Succeeds && !succeeded { End::Fails } else { end }
}

fn end_job(cluster: &mut Cluster, job: &str, work: &Work, failed: Option<&str>) {
    let (type_, reason) = match (failed, work.phase) {
        (Some(reason), _) => ("Failed", reason),
        (None, Phase::Succeeded) => ("Complete", "CompletionsReached"),
        (None, _) => ("Failed", "BackoffLimitExceeded"),
    };
    if let Some(work) = cluster.work.get_mut(job) {
        work.job_ended = true;
    }
    let at = format!("{:.0}", cluster.time.truth());
    let updated = cluster.update(Kind::Job, &work.key, |job| {
        job["status"] = json!({
            "conditions": [{"type": type_, "status": "True", "reason": reason, "lastTransitionTime": at}],
        });
    });
    if updated.is_ok() {
        let keep = work.job["spec"]["ttlSecondsAfterFinished"].as_u64().unwrap_or(3600);
        cluster.schedule(Duration::from_secs(keep), Event::Work(job.into(), Stage::Expires));
    }
}
