//! The Job controller and the kubelet: pods that are scheduled, run, succeed, fail in every
//! possible way, and outlive their Jobs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use groundswell::{api::labels, builds::prepare::error, controller::object_cache::Key};
use serde_json::{Value, json};

use crate::{
    builder::{self, PushResult},
    checker,
    cluster::{Cluster, Event},
    invariants::{
        attempts::{self, AttemptEnd},
        builds, calm, reasons,
    },
    objects::{Kind, key_of, label, owner, uid},
    pod_end::{PodEnd, attempt_end, traced_end},
    random::Random,
    registry::layer,
    stranger,
};

/// How long the controller may take to see that a pod was admitted at last.
const START_TIME: Duration = Duration::from_mins(2);

/// The label with which Kubernetes marks the Job of a pod.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// The next stage of a Job or its pod.
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

/// The true phase of a build, which only the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its pod runs, or may yet.
    Live,
    Succeeded,
    Failed,
    /// Stopped before it finished.
    Stopped,
}

/// A Job in progress.
#[derive(Clone, Debug)]
pub struct Work {
    pub job: Arc<Value>,
    pub key: Key,
    pub phase: Phase,
    /// How many Jobs were created before it.
    pub number: usize,
    /// Whether a controller that had died by then created it: the next one can't know of it until
    /// it observes it.
    pub is_late: bool,
    end: PodEnd,
    start: Duration,
    run: Duration,
    job_ended: bool,
    deleted: bool,
    /// Whether its pod is refused for a while.
    pub refused: bool,
}

impl Work {
    pub fn label(&self, name: &str) -> &str {
        label(&self.job, name)
    }

    /// Returns whether this is a check of a digest rather than a build.
    pub fn is_check(&self) -> bool {
        is_check(&self.job)
    }

    /// Returns whether it is being deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Returns whether its Job has not ended, so that it takes a place.
    pub fn takes_place(&self) -> bool {
        !self.job_ended
    }

    /// Returns whether its pod never starts.
    pub fn never_starts(&self) -> bool {
        self.end == PodEnd::NotStarted
    }

    /// Returns whether its pod is created or starts too late, so that the Job may be given up
    /// before it ends.
    pub fn starts_too_late(&self) -> bool {
        self.never_starts() || self.refused || self.start >= half(deadline(&self.job))
    }

    /// Returns whether a build that succeeded has pushed.
    pub fn has_pushed(&self) -> bool {
        self.end != PodEnd::SucceedsWithoutPush
    }

    /// Records that somebody has replaced what it has pushed.
    pub fn lose_push(&mut self) {
        self.end = PodEnd::SucceedsWithoutPush;
    }

    pub fn pod(&self) -> Key {
        Key::new(&self.key.namespace, &format!("{}-pod", self.key.name))
    }
}

/// Returns whether a Job is a check of a digest rather than a build.
pub fn is_check(job: &Value) -> bool {
    label(job, labels::COMPONENT) == labels::COMPONENT_CHECK
}

fn deadline(job: &Value) -> Duration {
    Duration::from_secs(job["spec"]["activeDeadlineSeconds"].as_u64().unwrap_or(3600))
}

/// Returns how much of a Job's deadline its pod may take to start.
fn half(deadline: Duration) -> Duration {
    deadline / 2
}

/// Handles a new Job.
pub fn created(cluster: &mut Cluster, job: &Arc<Value>) {
    let (family, image) = (label(job, labels::FAMILY), label(job, labels::IMAGE));
    let check = label(job, labels::CHECK);
    let number = cluster.invariants.count_job(owner(job), &format!("{image} {check}"));
    let mut random = Random::of(cluster.seed, &format!("job {family} {image} {check} {number}"));
    let rates = cluster.faults.rates;
    let end = if random.chance(rates.infrastructure) {
        let ends: &[PodEnd] =
            if is_check(job) { &PodEnd::OF_CHECKS } else { &PodEnd::INFRASTRUCTURE };
        *random.pick(ends).expect("some")
    } else if random.chance(rates.flaky) {
        PodEnd::Fails
    } else {
        PodEnd::Succeeds
    };
    let run = if random.chance(50) {
        random.pause(60_000..1_200_000)
    } else {
        random.pause(2000..60_000)
    };
    let start =
        if random.chance(30) { random.pause(1000..200_000) } else { random.pause(100..3000) };
    // A quota or a policy refuses the pod for a while.
    let subject = format!("admission {family} {image} {check} {number}");
    let mut admission = Random::of(cluster.seed, &subject);
    let refused = admission.chance(rates.quota).then(|| admission.pause(1000..400_000));
    let deadline = deadline(job);
    // A slow build is a fault like others, and stops with them.
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
        refused: refused.is_some(),
    };
    let uid = uid(job).to_owned();
    stranger::plant(cluster, &work);
    cluster.work.insert(uid.clone(), work);
    reasons::place_changes(cluster, job);
    let made = random.pause(20..2000);
    if let Some(refused) = refused {
        calm::disturb(cluster, refused + START_TIME);
        let at = format!("{:.0}", cluster.time.truth());
        // The Job was created just now.
        _ = cluster.update(Kind::Job, &key_of(job), |job| job["status"] = json!({"startTime": at}));
    }
    cluster.schedule(refused.unwrap_or(made), Event::Work(uid.clone(), Stage::PodMade));
    cluster.schedule(deadline, Event::Work(uid, Stage::Deadline));
}

/// Handles the deletion of a Job: its pod stops within its grace period.
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
        cluster.schedule_delivery(Kind::Pod);
    }
    let grace = pause + cluster.faults.machinery.pause(50..30_000);
    cluster.schedule(grace, Event::Work(uid(job).into(), Stage::PodGone));
}

/// Advances a Job or its pod to a stage.
pub fn proceed(cluster: &mut Cluster, job: &str, stage: Stage) {
    let Some(work) = cluster.work.get(job).cloned() else { return };
    match stage {
        Stage::PodMade if !work.deleted && !work.job_ended => make_pod(cluster, job, &work),
        Stage::PodRuns if !work.deleted && work.phase == Phase::Live => {
            set_pod(cluster, &work, json!({"phase": "Running"}));
            if work.end != PodEnd::Hangs {
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
            attempts::gone(cluster, job);
            reasons::place_changes(cluster, &work.job);
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
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": work.key.name,
                        "uid": job,
                        "controller": true,
                    },
                ],
            },
            "spec": work.job["spec"]["template"]["spec"],
        }),
    );
    if made.is_err() {
        return;
    }
    if work.refused {
        // The pod was admitted at last.
        _ = cluster.update(Kind::Job, &work.key, |job| job["status"]["active"] = json!(1));
    }
    let mut status = json!({"phase": "Pending"});
    if work.start > Duration::from_secs(3) {
        let words = "0/3 nodes are available: 3 Insufficient memory.";
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": words,
        }]);
    }
    if work.end == PodEnd::NotStarted {
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
    // The pod may be gone.
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
    let runs_to_completion = !matches!(
        work.end,
        PodEnd::Fails
            | PodEnd::SucceedsWithoutPush
            | PodEnd::OutOfMemory
            | PodEnd::CommandOutOfMemory
            | PodEnd::Evicted
            | PodEnd::Preempted
            | PodEnd::Lost
            | PodEnd::SourceUnavailable
            | PodEnd::RegistryUnavailable
            | PodEnd::PushDenied
    );
    let pushed = match (runs_to_completion, work.is_check()) {
        (true, true) => checker::run(cluster, work),
        (true, false) => builder::run(cluster, job, work),
        (false, _) => PushResult::NotPushed,
    };
    let end = attempt_end(work.end, &pushed);
    if let (PodEnd::Succeeds, false, PushResult::Pushed(_)) = (work.end, work.is_check(), &pushed) {
        stranger::rob(cluster, job, work);
    }
    let container_name = if work.is_check() { "check" } else { "build" };
    let failed = |state: Value| {
        let status = container(container_name, state);
        json!({"phase": "Failed", "containerStatuses": [status]})
    };
    let prepare = |error: error::PrepareError| {
        let state = ended(1, "Error", &error.to_termination_message());
        json!({"phase": "Failed", "initContainerStatuses": [container("prepare", state)]})
    };
    let push_failed = |why: &str| {
        let log = format!("#9 pushing layers\nerror: failed to solve: failed to push x: {why}\n");
        failed(ended(1, "Error", &log))
    };
    let status = match (work.end, pushed) {
        (_, PushResult::Rejected(error)) => prepare(error),
        (_, PushResult::Failed(log)) => failed(ended(1, "Error", &log)),
        (PodEnd::Fails, _) => {
            let log = "error: failed to solve: process \"/bin/sh -c make\" did not complete \
                       successfully: exit code: 2\n";
            failed(ended(1, "Error", log))
        }
        (PodEnd::OutOfMemory, _) => failed(ended(137, "OOMKilled", "")),
        (PodEnd::CommandOutOfMemory, _) => {
            let log = "error: failed to solve: process \"x\" did not complete successfully: exit \
                       code: 137\n";
            failed(ended(1, "Error", log))
        }
        (PodEnd::Evicted | PodEnd::EvictedAfterPush, _) => {
            json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on \
                resource: memory."})
        }
        (PodEnd::Preempted, _) => json!({
            "phase": "Failed",
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "PreemptionByScheduler",
                    "message": "preempted",
                },
            ],
        }),
        (PodEnd::SourceUnavailable, _) => prepare(error::PrepareError::new(
            error::PrepareReason::SourceUnavailable,
            "the source can't be reached",
        )),
        (PodEnd::RegistryUnavailable, _) => {
            push_failed("unexpected status from POST request: 503 Service Unavailable")
        }
        (PodEnd::PushDenied, _) => {
            push_failed("unexpected status from PUT request: 401 Unauthorized")
        }
        (PodEnd::Lost, _) => {
            set_phase(cluster, job, Phase::Failed);
            attempts::ended(cluster, &work.job, end);
            cluster.note(format_args!("pod lost {}", work.key.name));
            cluster.remove(Kind::Pod, &work.pod());
            let pause = cluster.faults.machinery.pause(500..10_000);
            cluster.schedule(pause, Event::Work(job.into(), Stage::JobEnds));
            return;
        }
        (
            PodEnd::Succeeds | PodEnd::SucceedsWithoutPush | PodEnd::NotStarted | PodEnd::Hangs,
            pushed,
        ) => {
            let report = match pushed {
                PushResult::Pushed(digest) => digest,
                _ => layer(&["nothing was pushed"]),
            };
            let mut state = ended(0, "Completed", &report);
            state["terminated"]["finishedAt"] = json!(format!("{:.0}", cluster.time.truth()));
            json!({"phase": "Succeeded", "containerStatuses": [container(container_name, state)]})
        }
    };
    let succeeded = status["phase"] == "Succeeded";
    // What a stranger has replaced counts as not pushed.
    let has_pushed = cluster.work.get(job).is_some_and(Work::has_pushed);
    if succeeded && has_pushed && !work.is_check() {
        builds::succeeded(cluster, &work.job);
    }
    let is_lost = end == AttemptEnd::Succeeded && !has_pushed && !work.is_check();
    let end = if is_lost { AttemptEnd::Infrastructure } else { end };
    attempts::ended(cluster, &work.job, end);
    set_phase(cluster, job, if succeeded { Phase::Succeeded } else { Phase::Failed });
    cluster.note(format_args!("pod ends {} {:?}", work.key.name, traced_end(work.end, succeeded)));
    set_pod(cluster, work, status);
    let pause = cluster.faults.machinery.pause(200..2000);
    cluster.schedule(pause, Event::Work(job.into(), Stage::JobEnds));
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
    reasons::place_changes(cluster, &work.job);
    let at = format!("{:.0}", cluster.time.truth());
    let updated = cluster.update(Kind::Job, &work.key, |job| {
        job["status"] = json!({
            "conditions": [{
                "type": type_,
                "status": "True",
                "reason": reason,
                "lastTransitionTime": at,
            }],
        });
    });
    if updated.is_ok() {
        let ttl = work.job["spec"]["ttlSecondsAfterFinished"].as_u64().unwrap_or(3600);
        cluster.schedule(Duration::from_secs(ttl), Event::Work(job.into(), Stage::Expires));
    }
}
