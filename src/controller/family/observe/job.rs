//! What one Job has come to, with its Pods: a build or a check. A check is never taken for a build.
//! No client is needed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;

use crate::{
    api::labels,
    builds::{
        checks::outcome::{CheckJobOutcome, check_job_outcome},
        outcome::{self, BuildJobOutcome, PodEvents, PushReport, build_job_outcome, pod_has_ended},
    },
    controller::family::observe::jobs::{is_build, job_has_ended},
    engine::{BuildOutcome, CheckOutcome, ObservedBuild, ObservedCheck},
    identity::BuildIdentity,
    registry::Keychain,
};

/// What a Job has come to.
#[derive(Clone, Debug)]
pub(super) struct ObservedJob {
    /// The image that it belongs to.
    pub(super) image: String,
    /// The uid of the Job.
    pub(super) uid: Option<String>,
    /// Whether it has a pod.
    pub(super) has_pod: bool,
    /// When its wait must be judged again, even if nothing changes.
    pub(super) recheck_at: Option<Timestamp>,
    /// What it is for.
    pub(super) work: ObservedWork,
}

/// The build or the check of a Job.
#[derive(Clone, Debug)]
pub(super) enum ObservedWork {
    Build {
        build: Box<ObservedBuild>,
        /// How long it took in seconds, if it has ended.
        seconds: Option<i64>,
        /// Its strategy, if its pods have ended without a report of what they have pushed.
        unreported: Option<String>,
    },
    Check(Box<ObservedCheck>),
}

impl ObservedJob {
    /// Observes a Job. Returns nothing if it is none of ours.
    pub(super) fn of(job: &Job, pods: &[Pod], events: &PodEvents, now: Timestamp) -> Option<Self> {
        let image = job.labels().get(labels::IMAGE)?.clone();
        let (work, recheck_at) = if is_build(job) {
            build(job, pods, events, now)?
        } else {
            check(job, pods, events, now)?
        };
        Some(Self { image, uid: job.uid(), has_pod: !pods.is_empty(), recheck_at, work })
    }

    /// Whether neither time nor events change what the Job has come to.
    fn is_final(&self) -> bool {
        match &self.work {
            ObservedWork::Build { build, .. } => {
                !build.live
                    && matches!(build.outcome, BuildOutcome::Succeeded | BuildOutcome::Failed(_))
            }
            ObservedWork::Check(check) => {
                !check.live
                    && matches!(check.outcome, CheckOutcome::Passed(_) | CheckOutcome::Failed(_))
            }
        }
    }
}

fn build(
    job: &Job,
    pods: &[Pod],
    events: &PodEvents,
    now: Timestamp,
) -> Option<(ObservedWork, Option<Timestamp>)> {
    let outcome = build_job_outcome(job, pods, events, now);
    let recheck_at = match &outcome {
        BuildJobOutcome::Waiting(wait) => wait.recheck_at,
        _ => None,
    };
    let report = PushReport::of(job, pods);
    let strategy = || job.annotations().get(labels::STRATEGY).cloned().unwrap_or_default();
    let unreported = (report == PushReport::Nothing).then(strategy);
    let build = Box::new(observed_build(job, pods, outcome, report)?);
    let seconds = duration_seconds(job, pods);
    Some((ObservedWork::Build { build, seconds, unreported }, recheck_at))
}

fn check(
    job: &Job,
    pods: &[Pod],
    events: &PodEvents,
    now: Timestamp,
) -> Option<(ObservedWork, Option<Timestamp>)> {
    let outcome = check_job_outcome(job, pods, events, now);
    let recheck_at = match &outcome {
        CheckJobOutcome::Waiting(wait) => wait.recheck_at,
        _ => None,
    };
    Some((ObservedWork::Check(Box::new(observed_check(job, pods, outcome)?)), recheck_at))
}

/// What the ended Jobs of a family have come to. Most Jobs have ended: they are kept for an hour or
/// so. They are read again only if they, their pods or the credentials change.
#[derive(Debug, Default)]
pub struct EndedJobs {
    by_uid: HashMap<String, EndedJob>,
    keychain: Arc<Keychain>,
}

#[derive(Debug)]
struct EndedJob {
    /// The version of the Job, and of each of its pods.
    versions: ReadVersions,
    observed: ObservedJob,
}

/// The version of a Job, and the uids and versions of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadVersions {
    job: String,
    pods: Vec<(String, String)>,
}

impl ReadVersions {
    /// Returns the versions of a Job and its pods.
    pub(super) fn of(job: &Job, pods: &[&Pod]) -> Self {
        let pod = |pod: &&Pod| {
            (pod.uid().unwrap_or_default(), pod.resource_version().unwrap_or_default())
        };
        Self {
            job: job.resource_version().unwrap_or_default(),
            pods: pods.iter().map(pod).collect(),
        }
    }
}

impl EndedJobs {
    /// Begins to observe Jobs. What was read with other credentials is forgotten: these are not
    /// shown in messages.
    pub(super) fn begin(&mut self, keychain: &Arc<Keychain>) {
        if !Arc::ptr_eq(&self.keychain, keychain) {
            *self = Self { by_uid: HashMap::new(), keychain: Arc::clone(keychain) };
        }
    }

    /// Returns what a Job has come to, if it and its pods are in the versions that were read.
    pub(super) fn get(&self, uid: &str, versions: &ReadVersions) -> Option<&ObservedJob> {
        let known = self.by_uid.get(uid).filter(|known| known.versions == *versions)?;
        Some(&known.observed)
    }

    /// Keeps what a Job has come to, if that is final.
    pub(super) fn keep(&mut self, uid: &str, versions: ReadVersions, observed: &ObservedJob) {
        if observed.is_final() {
            let observed = observed.clone();
            self.by_uid.insert(uid.into(), EndedJob { versions, observed });
        }
    }

    /// Forgets all other Jobs.
    pub(super) fn retain(&mut self, uids: &HashSet<&str>) {
        self.by_uid.retain(|uid, _| uids.contains(uid.as_str()));
    }
}

fn observed_build(
    job: &Job,
    pods: &[Pod],
    outcome: BuildJobOutcome,
    report: PushReport,
) -> Option<ObservedBuild> {
    let label = |name: &str| job.labels().get(name).cloned();
    let annotation = |name: &str| job.annotations().get(name).cloned();
    let is_waiting = matches!(outcome, BuildJobOutcome::Waiting(_));
    let wait_reason = match &outcome {
        BuildJobOutcome::Waiting(wait) => wait.reason,
        _ => None,
    };
    let (outcome, waits_for) = match outcome {
        BuildJobOutcome::Waiting(wait) => (BuildOutcome::Running, wait.message),
        BuildJobOutcome::Running => (BuildOutcome::Running, None),
        BuildJobOutcome::Succeeded => (BuildOutcome::Succeeded, None),
        BuildJobOutcome::Failed(failure) => (BuildOutcome::Failed(failure), None),
        BuildJobOutcome::NotAdmitted(problem) => (BuildOutcome::NotAdmitted(problem), None),
        BuildJobOutcome::Stopped => (BuildOutcome::Stopped, None),
    };
    let has_started =
        outcome != BuildOutcome::Running || !is_waiting || outcome::may_have_started(job, pods);
    Some(ObservedBuild {
        job: job.name_any().into(),
        identity: BuildIdentity {
            fingerprint: label(labels::FINGERPRINT)?.into(),
            attempt: label(labels::ATTEMPT)?.parse().ok()?,
            number: annotation(labels::BUILD)?.parse().ok()?,
            cascade: label(labels::CASCADE).unwrap_or_default().into(),
            own_inputs: annotation(labels::OWN_INPUTS).unwrap_or_default().into(),
            user_caused: annotation(labels::USER_CAUSED).is_some_and(|value| value == "true"),
            upstreams: upstreams(job),
        },
        started_at: job.creation_timestamp().map(|time| time.0),
        ended_at: ended_at(job, pods),
        outcome,
        pushed: report.digest(),
        waits_for,
        wait_reason,
        has_started,
        repository: annotation(labels::REPOSITORY),
        live: is_live(job, pods),
    })
}

/// Returns the references of the upstreams that caused the build of a Job.
pub(in crate::controller) fn upstreams(job: &Job) -> Vec<String> {
    let references = job.annotations().get(labels::UPSTREAMS).map_or("", String::as_str);
    references.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn observed_check(job: &Job, pods: &[Pod], outcome: CheckJobOutcome) -> Option<ObservedCheck> {
    let label = |name: &str| job.labels().get(name).cloned();
    let (outcome, waits_for) = match outcome {
        CheckJobOutcome::Waiting(wait) => (CheckOutcome::Running, wait.message),
        CheckJobOutcome::Running => (CheckOutcome::Running, None),
        CheckJobOutcome::Passed(said) => (CheckOutcome::Passed(said), None),
        CheckJobOutcome::Failed(failure) => (CheckOutcome::Failed(failure), None),
        CheckJobOutcome::NotAdmitted(problem) => (CheckOutcome::NotAdmitted(problem), None),
        CheckJobOutcome::Stopped => (CheckOutcome::Stopped, None),
    };
    Some(ObservedCheck {
        job: job.name_any().into(),
        check: label(labels::CHECK)?,
        revision: label(labels::CHECK_REVISION)?,
        digest: job.annotations().get(labels::CHECKED_DIGEST)?.into(),
        image: job.annotations().get(labels::CHECK_IMAGE).cloned(),
        attempt: label(labels::ATTEMPT)?.parse().ok()?,
        outcome,
        waits_for,
        live: is_live(job, pods),
    })
}

/// Returns how long the Job took until our own containers ended, in seconds; `None` while they run,
/// or if neither the pod nor the Job shows an end.
pub(super) fn duration_seconds(job: &Job, pods: &[Pod]) -> Option<i64> {
    let start = job.creation_timestamp()?.0;
    Some(ended_at(job, pods)?.duration_since(start).as_secs().max(0))
}

/// Returns when our own containers ended; `None` while they run, or if neither the pod nor the Job
/// shows an end.
fn ended_at(job: &Job, pods: &[Pod]) -> Option<Timestamp> {
    let own = pods.iter().filter_map(|pod| outcome::ended_at(job, pod)).max();
    let statuses =
        pods.iter().filter(|pod| pod_has_ended(pod)).filter_map(|pod| pod.status.as_ref());
    let containers = statuses.flat_map(|status| status.container_statuses.iter().flatten());
    let stopped = containers.filter_map(|container| {
        Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
    });
    let complete = || Some(job.status.as_ref()?.completion_time.as_ref()?.0);
    own.or_else(|| stopped.max()).or_else(complete)
}

/// Returns whether a Job still runs. Its pod ends a second or two before the Job does, and the Job
/// keeps its log. A Job whose build or check has ended is live as long as a container that
/// something else has added runs in its pod.
fn is_live(job: &Job, pods: &[Pod]) -> bool {
    !job_has_ended(job) && !pods.iter().any(pod_has_ended)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(text: &str) -> Vec<Pod> {
        vec![serde_json::from_str(text).expect("a pod")]
    }

    #[test]
    fn the_duration_of_a_build_is_that_of_its_pod() {
        let job = |status: &str| -> Job {
            let metadata = r#"{"creationTimestamp": "2026-01-01T00:00:00Z"}"#;
            let text = format!(r#"{{"metadata": {metadata}, "status": {status}}}"#);
            serde_json::from_str(&text).expect("a Job")
        };
        let pod = |phase: &str| {
            let terminated = r#"{"exitCode": 0, "finishedAt": "2026-01-01T00:01:30Z"}"#;
            pods(&format!(
                r#"{{"status": {{"phase": "{phase}", "containerStatuses": [
                    {{"name": "build", "image": "i", "imageID": "",
                      "ready": false, "restartCount": 0,
                      "state": {{"terminated": {terminated}}}}}]}}}}"#
            ))
        };
        let complete = job(r#"{"completionTime": "2026-01-01T00:01:32Z"}"#);
        assert_eq!(duration_seconds(&complete, &pod("Failed")), Some(90));
        assert_eq!(duration_seconds(&complete, &[]), Some(92), "the pod is gone");
        assert_eq!(duration_seconds(&job("{}"), &pod("Running")), None);
        let mut own = job("{}");
        own.spec =
            serde_json::from_str(r#"{"template": {"spec": {"containers": [{"name": "build"}]}}}"#)
                .expect("a spec");
        assert_eq!(duration_seconds(&own, &pod("Running")), Some(90), "a sidecar runs on");
        assert_eq!(duration_seconds(&job("{}"), &[]), None);
    }

    fn job(version: &str) -> Job {
        let job = json!({
            "metadata": {"name": "j", "uid": "u", "resourceVersion": version,
                "labels": {labels::IMAGE: "a", labels::FINGERPRINT: "f", labels::ATTEMPT: "0"},
                "annotations": {labels::BUILD: "1"}},
            "spec": {"template": {"spec": {"containers": [{"name": "build"}]}}}});
        serde_json::from_value(job).expect("a Job")
    }

    fn pod(version: &str, phase: &str) -> Pod {
        let pod = json!({
            "metadata": {"name": "p", "uid": "p", "resourceVersion": version},
            "spec": {"containers": [{"name": "build"}]}, "status": {"phase": phase}});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn an_ended_job_is_read_again_only_if_something_of_it_changes() {
        let mut ended = EndedJobs::default();
        let first = Arc::<Keychain>::default();
        ended.begin(&first);
        let now = Timestamp::UNIX_EPOCH;
        let keep = |ended: &mut EndedJobs, job: &Job, pod: &Pod| {
            let read = ObservedJob::of(job, std::slice::from_ref(pod), &PodEvents::default(), now);
            let versions = ReadVersions::of(job, &[pod]);
            ended.keep("u", versions.clone(), &read.expect("a Job of ours"));
            versions
        };
        let running = keep(&mut ended, &job("1"), &pod("1", "Running"));
        assert!(ended.get("u", &running).is_none(), "it goes on");
        let over = keep(&mut ended, &job("1"), &pod("2", "Succeeded"));
        assert!(ended.get("u", &over).is_some());
        assert!(ended.get("another", &over).is_none());
        for (job, pods) in [
            (job("2"), vec![pod("2", "Succeeded")]),
            (job("1"), vec![pod("3", "Succeeded")]),
            (job("1"), Vec::new()),
        ] {
            let pods: Vec<&Pod> = pods.iter().collect();
            assert!(ended.get("u", &ReadVersions::of(&job, &pods)).is_none());
        }
        ended.begin(&first);
        assert!(ended.get("u", &over).is_some());
        ended.begin(&Arc::default());
        assert!(ended.get("u", &over).is_none(), "with other credentials");
        keep(&mut ended, &job("1"), &pod("2", "Succeeded"));
        ended.retain(&HashSet::new());
        assert!(ended.get("u", &over).is_none(), "the Job is gone");
    }
}
