//! A family's Jobs and their Pods, from the stores: builds and checks. A check is never taken for a
//! build. No client is needed.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::{
    Resource,
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;

use crate::{
    api::{condition::Problem, labels},
    build_records::RecordPolicy,
    builds::{
        checks::outcome::{CheckJobOutcome, check_job_outcome},
        outcome::{self, BuildJobOutcome, PodEvents, PushReport, build_job_outcome, pod_has_ended},
    },
    controller::{
        deferred_jobs::Rejection,
        family::observe::pod_messages::{prints_credential, without_credentials},
        object_cache::Key,
        stores::Stores,
    },
    engine::{BuildOutcome, CheckOutcome, DeferredWork, ObservedBuild, ObservedCheck},
    identity::{BuildIdentity, JobName},
    registry::Keychain,
};

/// Returns the reference from a Pod to the Job that controls it. The labels that name a Job are not
/// trusted: whoever may label a pod could answer for any Job with them.
pub(in crate::controller) fn controlling_job(pod: &Pod) -> Option<&OwnerReference> {
    let mut owners = pod.owner_references().iter();
    owners
        .find(|owner| owner.controller == Some(true))
        .filter(|owner| owner.kind == Job::KIND && owner.api_version == Job::API_VERSION)
}

/// The Jobs of a family.
#[derive(Debug, Default)]
pub struct ObservedJobs {
    /// Builds, per image.
    pub builds: HashMap<String, Vec<ObservedBuild>>,
    /// The durations of ended builds in seconds, by the names of their Jobs.
    pub durations: HashMap<String, i64>,
    /// Checks, per image.
    pub checks: HashMap<String, Vec<ObservedCheck>>,
    /// The strategies of the builds whose pods have ended without a report of what they have
    /// pushed, by the names of their Jobs.
    unreported: HashMap<String, String>,
    /// Jobs of checks that have a result and still run: the pod of a failed one waits, or another
    /// container runs next to the check.
    pub ended_live_checks: Vec<JobName>,
    /// Jobs whose pods were rejected.
    pub rejected: Vec<RejectedPods>,
    /// What the Jobs with admitted pods are for, by image.
    pub admitted: Vec<AdmittedJob>,
    /// When the earliest wait of a pod must be judged again, even if nothing changes: no event
    /// marks the moment at which a wait has become too long.
    pub recheck_pods_at: Option<Timestamp>,
}

/// A Job whose pod cannot be created, or was rejected by its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedPods {
    /// The name of the Job.
    pub job: JobName,
    /// The rejection.
    pub rejection: Rejection,
}

/// A Job that was admitted with its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedJob {
    /// The image that the Job belongs to.
    pub image: String,
    /// What the Job is for.
    pub work: DeferredWork,
}

impl ObservedJobs {
    /// Reads all Jobs of a family from the stores. `events` are those of pods that do not start,
    /// and of Jobs without a pod. What their containers have printed must not contain a credential
    /// of the keychain: a check in another image may know one.
    #[must_use]
    pub fn of(
        stores: &Stores,
        family: &Key,
        keychain: &Keychain,
        events: &PodEvents,
        now: Timestamp,
    ) -> Self {
        let known = stores.pods.group(family);
        let mut pods: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &known {
            if let Some(job) = controlling_job(pod) {
                pods.entry(job.uid.as_str()).or_default().push(pod);
            }
        }
        let mut observed = Self::default();
        for job in stores.jobs.group(family) {
            let uid = job.metadata.uid.as_deref();
            let pods = uid.and_then(|uid| pods.get(uid)).map_or(&[][..], Vec::as_slice);
            // Nearly every Job has one pod, which need not be copied.
            let copies: Vec<Pod>;
            let pods = match pods {
                [] => &[][..],
                [pod] if !prints_credential(pod, keychain) => std::slice::from_ref(*pod),
                pods => {
                    copies = pods.iter().map(|pod| without_credentials(pod, keychain)).collect();
                    &copies
                }
            };
            observed.add(&job, pods, events, now);
        }
        observed
    }

    fn add(&mut self, job: &Job, pods: &[Pod], events: &PodEvents, now: Timestamp) {
        let Some(image) = job.labels().get(labels::IMAGE) else { return };
        if !is_build(job) {
            let outcome = check_job_outcome(job, pods, events, now);
            if let CheckJobOutcome::Waiting(wait) = &outcome {
                self.recheck_at(wait.recheck_at);
            }
            let Some(observed) = observed_check(job, pods, outcome) else { return };
            let has_result =
                matches!(observed.outcome, CheckOutcome::Failed(_) | CheckOutcome::Passed(_));
            if has_result && observed.live {
                self.ended_live_checks.push(observed.job.clone());
            }
            let digest = observed.digest.clone();
            let work = DeferredWork::Check { digest, revision: observed.revision.clone() };
            let problem = match &observed.outcome {
                CheckOutcome::NotAdmitted(problem) => Some(problem),
                _ => None,
            };
            self.add_admission(job, pods, image, work, problem);
            self.checks.entry(image.clone()).or_default().push(observed);
            return;
        }
        let outcome = build_job_outcome(job, pods, events, now);
        if let BuildJobOutcome::Waiting(wait) = &outcome {
            self.recheck_at(wait.recheck_at);
        }
        if let Some(observed) = observed_build(job, pods, outcome) {
            if let Some(seconds) = duration_seconds(job, pods) {
                self.durations.insert(observed.job.to_string(), seconds);
            }
            if PushReport::of(job, pods) == PushReport::Nothing {
                let strategy = job.annotations().get(labels::STRATEGY).cloned();
                self.unreported.insert(observed.job.to_string(), strategy.unwrap_or_default());
            }
            let work = DeferredWork::Build(observed.identity.fingerprint.clone());
            let problem = match &observed.outcome {
                BuildOutcome::NotAdmitted(problem) => Some(problem),
                _ => None,
            };
            self.add_admission(job, pods, image, work, problem);
            self.builds.entry(image.clone()).or_default().push(observed);
        }
    }

    /// Lets the builds that have succeeded and do not report what they have pushed fail, if builds
    /// need records.
    pub fn require_reports(&mut self, policy: RecordPolicy) {
        if policy == RecordPolicy::Warn {
            return;
        }
        for build in self.builds.values_mut().flatten() {
            if let Some(strategy) = self.unreported.get(build.job.as_str())
                && build.outcome == BuildOutcome::Succeeded
            {
                build.outcome = BuildOutcome::Failed(outcome::digest_not_reported(strategy));
            }
        }
    }

    /// Notes whether the pod of a Job was admitted or rejected, if either is known.
    fn add_admission(
        &mut self,
        job: &Job,
        pods: &[Pod],
        image: &str,
        work: DeferredWork,
        problem: Option<&Problem>,
    ) {
        if let Some(problem) = problem {
            let (image, problem) = (image.to_owned(), problem.clone());
            let rejection = Rejection { image, work, problem, job_uid: job.uid(), retry_at: None };
            self.rejected.push(RejectedPods { job: job.name_any().into(), rejection });
        } else if !pods.is_empty() {
            self.admitted.push(AdmittedJob { image: image.to_owned(), work });
        }
    }

    fn recheck_at(&mut self, time: Option<Timestamp>) {
        self.recheck_pods_at = self.recheck_pods_at.into_iter().chain(time).min();
    }
}

fn observed_build(job: &Job, pods: &[Pod], outcome: BuildJobOutcome) -> Option<ObservedBuild> {
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
        pushed: PushReport::of(job, pods).digest(),
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
fn duration_seconds(job: &Job, pods: &[Pod]) -> Option<i64> {
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

/// Returns whether a Job is a build and no check.
pub(super) fn is_build(job: &Job) -> bool {
    job.labels().get(labels::COMPONENT).is_none_or(|component| component != labels::COMPONENT_CHECK)
}

/// Returns whether a Job has completed or failed.
pub(in crate::controller) fn job_has_ended(job: &Job) -> bool {
    has_completed(job) || has_condition(job, "Failed")
}

/// Returns whether a Job has completed.
pub(super) fn has_completed(job: &Job) -> bool {
    has_condition(job, "Complete")
}

fn has_condition(job: &Job, type_: &str) -> bool {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.status == "True" && condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;
    use serde_json::json;

    use super::*;
    use crate::{
        api::Check,
        builds::{
            checks::{CheckRequest, job as check_job},
            job::BuildEnvironment,
        },
    };

    fn check_of_pyenv() -> Job {
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

    /// Adds a Job with pods that run what its template says.
    fn add(observed: &mut ObservedJobs, job: &Job, pods: &[Pod], now: Timestamp) {
        let mut pods = pods.to_vec();
        for pod in &mut pods {
            run_template(pod, job);
        }
        observed.add(job, &pods, &PodEvents::default(), now);
    }

    /// Adds the containers of a Job's template to those of a pod.
    fn run_template(pod: &mut Pod, job: &Job) {
        let own = job.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        pod.spec.get_or_insert_default().containers.extend(own.unwrap_or_default().containers);
    }

    fn pods(text: &str) -> Vec<Pod> {
        vec![serde_json::from_str(text).expect("a pod")]
    }

    #[test]
    fn a_check_is_not_a_build() {
        let mut observed = ObservedJobs::default();
        // Even if somebody copies a build's labels onto it.
        let mut job = check_of_pyenv();
        job.labels_mut().insert(labels::FINGERPRINT.into(), "f".into());
        job.annotations_mut().insert(labels::BUILD.into(), "1".into());
        add(
            &mut observed,
            &job,
            &pods(r#"{"status": {"phase": "Succeeded"}}"#),
            Timestamp::UNIX_EPOCH,
        );
        assert!(observed.builds.is_empty());
        let check = &observed.checks["pyenv"][0];
        assert_eq!(
            (check.check.as_str(), check.revision.as_str(), check.digest.as_str()),
            ("starts", "r", "sha256:00")
        );
        assert_eq!((check.attempt, &check.outcome), (3, &CheckOutcome::Passed(String::new())));
        assert!(observed.ended_live_checks.is_empty());
        // A sidecar runs on.
        let running = pods(
            r#"{"spec": {"containers": [{"name": "mesh"}]},
                "status": {"phase": "Running", "containerStatuses": [
                {"name": "check", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0}}}]}}"#,
        );
        add(&mut observed, &job, &running, Timestamp::UNIX_EPOCH);
        assert_eq!(observed.checks["pyenv"][1].outcome, CheckOutcome::Passed(String::new()));
        assert_eq!(observed.ended_live_checks, [job.name_any()]);
    }

    #[test]
    fn a_pod_answers_only_for_the_job_that_controls_it() {
        let (stores, family) = (Stores::default(), Key::new("team", "python"));
        let mut job = check_of_pyenv();
        let metadata = ObjectMeta {
            namespace: Some("team".into()),
            uid: Some("uid".into()),
            resource_version: Some("1".into()),
            ..job.metadata.clone()
        };
        job.metadata = metadata;
        job.labels_mut().insert(labels::FAMILY.into(), "python".into());
        let name = job.name_any();
        let template = job.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        let owner = |uid: &str| {
            json!({"apiVersion": "batch/v1", "kind": "Job", "name": name,
            "uid": uid, "controller": true})
        };
        let mut another_kind = owner("uid");
        another_kind["kind"] = json!("JobSet");
        stores.jobs.record_write(job);
        for (version, owners, expected) in [
            ("2", json!([]), CheckOutcome::Running),
            ("3", json!([owner("another")]), CheckOutcome::Running),
            ("4", json!([another_kind]), CheckOutcome::Running),
            ("5", json!([owner("uid")]), CheckOutcome::Passed(String::new())),
        ] {
            let pod = json!({
                "metadata": {"name": "p", "namespace": "team", "resourceVersion": version,
                    "labels": {labels::FAMILY: "python", "batch.kubernetes.io/job-name": name},
                    "ownerReferences": owners},
                "spec": template, "status": {"phase": "Succeeded"}});
            stores.pods.record_write(serde_json::from_value::<Pod>(pod).expect("a pod"));
            let now = Timestamp::UNIX_EPOCH;
            let observed = ObservedJobs::of(
                &stores,
                &family,
                &Keychain::default(),
                &PodEvents::default(),
                now,
            );
            assert_eq!(observed.checks["pyenv"][0].outcome, expected, "version {version}");
        }
    }

    #[test]
    fn the_job_says_where_its_build_pushes_and_its_pod_whether_it_has_started() {
        let metadata = json!({"name": "j",
            "labels": {labels::IMAGE: "a", labels::FINGERPRINT: "f", labels::ATTEMPT: "0"},
            "annotations": {labels::BUILD: "1", labels::REPOSITORY: "registry/old"}});
        let template = json!({"spec": {"containers": [{"name": "build"}]}});
        let job = |status: serde_json::Value| -> Job {
            let job = json!({"metadata": metadata, "spec": {"template": template},
                "status": status});
            serde_json::from_value(job).expect("a Job")
        };
        let pod = |phase: &str, state: serde_json::Value| {
            let container = json!({"name": "build", "image": "i", "imageID": "", "ready": false,
                "restartCount": 0, "state": state});
            pods(&json!({"status": {"phase": phase, "containerStatuses": [container]}}).to_string())
        };
        let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
        let ended = json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:01:30Z"}});
        let active = json!({"active": 1});
        let end = "2026-01-01T00:01:30Z".parse().ok();
        for (job, pods, has_started, ended_at) in [
            (job(json!({})), Vec::new(), false, None),
            (job(active.clone()), Vec::new(), true, None),
            (job(active.clone()), pod("Pending", waiting), false, None),
            (job(active.clone()), pod("Running", json!({"running": {}})), true, None),
            (job(active), pod("Succeeded", ended), true, end),
        ] {
            let mut observed = ObservedJobs::default();
            add(&mut observed, &job, &pods, Timestamp::UNIX_EPOCH);
            let mut build = observed.builds["a"][0].clone();
            assert_eq!(build.has_started, has_started, "{job:?}, {pods:?}");
            assert_eq!(build.ended_at, ended_at, "{job:?}, {pods:?}");
            let before = build.outcome.clone();
            build.ignore_other_repository("registry/old");
            assert_eq!(build.outcome, before);
            build.ignore_other_repository("registry/new");
            let is_running = before == BuildOutcome::Running;
            let ignored = if is_running { before } else { BuildOutcome::Stopped };
            assert_eq!((build.outcome.clone(), build.pushes_to("registry/new")), (ignored, false));
        }
    }

    #[test]
    fn the_job_says_which_image_a_check_runs_in() {
        let mut observed = ObservedJobs::default();
        let mut job = check_of_pyenv();
        add(&mut observed, &job, &[], Timestamp::UNIX_EPOCH);
        job.annotations_mut().insert(labels::CHECK_IMAGE.into(), "scanner@sha256:01".into());
        add(&mut observed, &job, &[], Timestamp::UNIX_EPOCH);
        let images = observed.checks["pyenv"].iter().map(|check| check.image.as_deref());
        assert_eq!(images.collect::<Vec<_>>(), [None, Some("scanner@sha256:01")]);
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

    #[test]
    fn a_deleted_check_has_no_outcome_and_a_check_that_hangs_has_failed() {
        let mut observed = ObservedJobs::default();
        let mut deleted = check_of_pyenv();
        deleted.metadata.deletion_timestamp =
            serde_json::from_str("\"2026-01-01T00:00:00Z\"").expect("a time");
        add(
            &mut observed,
            &deleted,
            &pods(r#"{"status": {"phase": "Running"}}"#),
            Timestamp::UNIX_EPOCH,
        );
        let stopped = observed.checks.remove("pyenv").unwrap_or_default().remove(0);
        assert_eq!((stopped.outcome, stopped.live), (CheckOutcome::Stopped, true));

        let stuck = pods(
            r#"{"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"phase": "Pending", "containerStatuses": [
                {"name": "check", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}"#,
        );
        let at = |time: &str| time.parse::<Timestamp>().expect("a time");
        add(&mut observed, &check_of_pyenv(), &stuck, at("2026-01-01T00:01:00Z"));
        assert_eq!(observed.recheck_pods_at, Some(at("2026-01-01T00:02:00Z")));
        let waits_for = observed.checks["pyenv"][0].waits_for.as_deref().unwrap_or_default();
        assert!(waits_for.contains("ImagePullBackOff"), "{waits_for}");
        assert!(observed.ended_live_checks.is_empty());
        add(&mut observed, &check_of_pyenv(), &stuck, at("2026-01-01T00:02:00Z"));
        assert_eq!(observed.ended_live_checks, [check_of_pyenv().name_any()]);
    }
}
