//! What the caches show of a family's Jobs and their Pods: builds, and checks. A check is never
//! taken for a build.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;

use crate::{
    api::labels,
    builds::{
        checks::outcome::{CheckJobOutcome, check_job_outcome},
        outcome::{BuildJobOutcome, build_job_outcome},
    },
    controller::{object_cache::Key, stores::Stores},
    engine::{BuildOutcome, CheckOutcome, ObservedBuild, ObservedCheck},
    identity::{BuildIdentity, JobName},
};

/// The label by which Kubernetes tells of which Job a Pod is.
pub(in crate::controller) const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// The Jobs of a family that the cluster still knows.
#[derive(Debug, Default)]
pub struct ObservedJobs {
    /// Builds, per image.
    pub builds: HashMap<String, Vec<ObservedBuild>>,
    /// How long builds took that have ended, in seconds, by their Jobs' names.
    pub seconds: HashMap<String, i64>,
    /// Checks, per image.
    pub checks: HashMap<String, Vec<ObservedCheck>>,
    /// Jobs of checks that count as failed and have not ended.
    pub failed_checks: Vec<JobName>,
    /// When the first wait of a pod is to be looked at again, though nothing has changed: no event
    /// tells that patience is over.
    pub look_again: Option<Timestamp>,
}

impl ObservedJobs {
    /// Looks at all Jobs of a family.
    #[must_use]
    pub fn of(stores: &Stores, family: &Key, now: Timestamp) -> Self {
        let mut pods: HashMap<String, Vec<Pod>> = HashMap::new();
        for pod in stores.pods.group(family) {
            if let Some(job) = pod.labels().get(JOB_NAME) {
                pods.entry(job.clone()).or_default().push(Pod::clone(&pod));
            }
        }
        let mut observations = Self::default();
        for job in stores.jobs.group(family) {
            let pods = pods.get(&job.name_any()).map_or(&[][..], Vec::as_slice);
            observations.add(&job, pods, now);
        }
        observations
    }

    fn add(&mut self, job: &Job, pods: &[Pod], now: Timestamp) {
        let Some(image) = job.labels().get(labels::IMAGE) else { return };
        if job
            .labels()
            .get(labels::COMPONENT)
            .is_some_and(|component| component == labels::COMPONENT_CHECK)
        {
            let outcome = check_job_outcome(job, pods, now);
            if let CheckJobOutcome::Waiting(wait) = &outcome {
                self.look_at(wait.recheck_at);
            }
            let Some(observed) = observed_check(job, pods, outcome) else { return };
            if matches!(observed.outcome, CheckOutcome::Failed(_)) && observed.live {
                self.failed_checks.push(observed.job.clone());
            }
            self.checks.entry(image.clone()).or_default().push(observed);
            return;
        }
        let outcome = build_job_outcome(job, pods, now);
        if let BuildJobOutcome::Waiting(wait) = &outcome {
            self.look_at(wait.recheck_at);
        }
        if let Some(observed) = observed_build(job, pods, outcome) {
            if let Some(seconds) = seconds(job, pods) {
                self.seconds.insert(observed.job.to_string(), seconds);
            }
            self.builds.entry(image.clone()).or_default().push(observed);
        }
    }

    fn look_at(&mut self, time: Option<Timestamp>) {
        self.look_again = self.look_again.into_iter().chain(time).min();
    }
}

fn observed_build(job: &Job, pods: &[Pod], outcome: BuildJobOutcome) -> Option<ObservedBuild> {
    let label = |name: &str| job.labels().get(name).cloned();
    let annotation = |name: &str| job.annotations().get(name).cloned();
    let (outcome, waits_for) = match outcome {
        BuildJobOutcome::Waiting(wait) => (BuildOutcome::Running, wait.message),
        BuildJobOutcome::Running => (BuildOutcome::Running, None),
        BuildJobOutcome::Succeeded => (BuildOutcome::Succeeded, None),
        BuildJobOutcome::Failed(failure) => (BuildOutcome::Failed(failure), None),
        BuildJobOutcome::Stopped => (BuildOutcome::Stopped, None),
    };
    Some(ObservedBuild {
        job: job.name_any().into(),
        identity: BuildIdentity {
            fingerprint: label(labels::FINGERPRINT)?.into(),
            attempt: label(labels::ATTEMPT)?.parse().ok()?,
            number: annotation(labels::BUILD)?.parse().ok()?,
            cascade: label(labels::CASCADE).unwrap_or_default(),
            own_inputs: annotation(labels::OWN_INPUTS).unwrap_or_default(),
            user_caused: annotation(labels::USER_CAUSED).is_some_and(|value| value == "true"),
            upstreams: upstreams(job),
        },
        started_at: job.creation_timestamp().map(|time| time.0),
        outcome,
        waits_for,
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
        CheckJobOutcome::Stopped => (CheckOutcome::Stopped, None),
    };
    Some(ObservedCheck {
        job: job.name_any().into(),
        check: label(labels::CHECK)?,
        revision: label(labels::CHECK_REVISION)?,
        digest: job.annotations().get(labels::CHECKED_DIGEST)?.into(),
        attempt: label(labels::ATTEMPT)?.parse().ok()?,
        outcome,
        waits_for,
        live: is_live(job, pods),
    })
}

/// How long the Job took until its pod had ended, in seconds; `None` while it runs, and when
/// nothing tells.
fn seconds(job: &Job, pods: &[Pod]) -> Option<i64> {
    let start = job.creation_timestamp()?.0;
    let statuses = pods.iter().filter(|pod| has_ended(pod)).filter_map(|pod| pod.status.as_ref());
    let containers = statuses.flat_map(|status| status.container_statuses.iter().flatten());
    let stopped = containers.filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()
    });
    let status = job.status.as_ref();
    let complete = || status?.completion_time.as_ref();
    let end = stopped.max_by_key(|time| time.0).or_else(complete)?.0;
    Some(end.duration_since(start).as_secs().max(0))
}

/// Whether a Job has not ended. Its pod ends a second or two before it does.
fn is_live(job: &Job, pods: &[Pod]) -> bool {
    !ended(job) && !pods.iter().any(has_ended)
}

/// Whether a pod has ended, well or not. Its Job follows within a second or two, and keeps the log.
pub(in crate::controller) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.is_some_and(|phase| ["Succeeded", "Failed"].contains(&phase))
}

/// Whether a Job has ended, well or not.
pub(in crate::controller) fn ended(job: &Job) -> bool {
    let conditions = job.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| {
        condition.status == "True" && ["Complete", "Failed"].contains(&condition.type_.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Check,
        builds::{
            checks::{CheckRequest, job as check_job},
            job::BuildEnvironment,
        },
    };

    fn check() -> Job {
        let request = CheckRequest {
            image: "pyenv".into(),
            digest: "sha256:00".into(),
            revision: "r".into(),
            attempt: 3,
            check: Check { name: "starts".into(), ..Check::default() },
            ..CheckRequest::default()
        };
        check_job::job(&request, &BuildEnvironment::default())
    }

    fn pods(text: &str) -> Vec<Pod> {
        vec![serde_json::from_str(text).expect("a pod")]
    }

    #[test]
    fn a_check_is_no_build() {
        let mut observations = ObservedJobs::default();
        // Even if somebody copies a build's labels onto it.
        let mut job = check();
        job.labels_mut().insert(labels::FINGERPRINT.into(), "f".into());
        job.annotations_mut().insert(labels::BUILD.into(), "1".into());
        observations.add(
            &job,
            &pods(r#"{"status": {"phase": "Succeeded"}}"#),
            Timestamp::UNIX_EPOCH,
        );
        assert!(observations.builds.is_empty());
        let observed = &observations.checks["pyenv"][0];
        assert_eq!(
            (observed.check.as_str(), observed.revision.as_str(), observed.digest.as_str()),
            ("starts", "r", "sha256:00")
        );
        assert_eq!(
            (observed.attempt, &observed.outcome),
            (3, &CheckOutcome::Passed(String::new()))
        );
        assert!(observations.failed_checks.is_empty());
    }

    #[test]
    fn a_build_is_as_long_as_its_pod_tells() {
        let job = |status: &str| -> Job {
            let text = format!(
                r#"{{"metadata": {{"creationTimestamp": "2026-01-01T00:00:00Z"}}, "status": {status}}}"#
            );
            serde_json::from_str(&text).expect("a Job")
        };
        let pod = |phase: &str| {
            pods(&format!(
                r#"{{"status": {{"phase": "{phase}", "containerStatuses": [
                    {{"name": "build", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                      "state": {{"terminated": {{"exitCode": 0, "finishedAt": "2026-01-01T00:01:30Z"}}}}}}]}}}}"#
            ))
        };
        let complete = job(r#"{"completionTime": "2026-01-01T00:01:32Z"}"#);
        assert_eq!(seconds(&complete, &pod("Failed")), Some(90));
        assert_eq!(seconds(&complete, &[]), Some(92), "the pod is gone");
        assert_eq!(seconds(&job("{}"), &pod("Running")), None);
        assert_eq!(seconds(&job("{}"), &[]), None);
    }

    #[test]
    fn a_check_that_was_deleted_has_no_verdict_and_one_that_hangs_is_to_be_ended() {
        let mut observations = ObservedJobs::default();
        let mut deleted = check();
        deleted.metadata.deletion_timestamp =
            serde_json::from_str("\"2026-01-01T00:00:00Z\"").expect("a time");
        observations.add(
            &deleted,
            &pods(r#"{"status": {"phase": "Running"}}"#),
            Timestamp::UNIX_EPOCH,
        );
        let observed = observations.checks.remove("pyenv").unwrap_or_default().remove(0);
        assert_eq!((observed.outcome, observed.live), (CheckOutcome::Stopped, true));

        let stuck = pods(
            r#"{"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Pending", "containerStatuses": [
                {"name": "check", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}"#,
        );
        let at = |time: &str| time.parse::<Timestamp>().expect("a time");
        observations.add(&check(), &stuck, at("2026-01-01T00:01:00Z"));
        assert_eq!(observations.look_again, Some(at("2026-01-01T00:02:00Z")));
        let waits_for = observations.checks["pyenv"][0].waits_for.as_deref().unwrap_or_default();
        assert!(waits_for.contains("ImagePullBackOff"), "{waits_for}");
        assert!(observations.failed_checks.is_empty());
        observations.add(&check(), &stuck, at("2026-01-01T00:02:00Z"));
        assert_eq!(observations.failed_checks, [check().name_any()]);
    }
}
