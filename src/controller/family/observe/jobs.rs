//! A family's Jobs and their Pods, from the stores: builds and checks. No client is needed.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    Resource,
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;

use crate::{
    api::labels,
    build_records::RecordPolicy,
    builds::outcome::{self, PodEvents},
    controller::{
        deferred_jobs::Rejection,
        family::observe::{
            job::{EndedJobs, ObservedJob, ObservedWork, ReadVersions},
            pod_messages::{prints_credential, without_credentials},
        },
        object_cache::Key,
        stores::Stores,
    },
    engine::{BuildOutcome, CheckOutcome, DeferredWork, ObservedBuild, ObservedCheck},
    identity::JobName,
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
    pub fn of(
        stores: &Stores,
        family: &Key,
        keychain: &Arc<Keychain>,
        events: &PodEvents,
        ended: &mut EndedJobs,
        now: Timestamp,
    ) -> Self {
        let known = stores.pods.group(family);
        let mut pods: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &known {
            if let Some(job) = controlling_job(pod) {
                pods.entry(job.uid.as_str()).or_default().push(pod);
            }
        }
        let jobs = stores.jobs.group(family);
        let mut observed = Self::default();
        ended.begin(keychain);
        for job in &jobs {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            let pods = pods.get(uid).map_or(&[][..], Vec::as_slice);
            let versions = ReadVersions::of(job, pods);
            if let Some(known) = ended.get(uid, &versions) {
                observed.add(&job.name_any(), known.clone());
            } else if let Some(read) = read(job, pods, keychain, events, now) {
                ended.keep(uid, versions, &read);
                observed.add(&job.name_any(), read);
            }
        }
        let uids = jobs.iter().filter_map(|job| job.metadata.uid.as_deref());
        ended.retain(&uids.collect());
        observed
    }

    fn add(&mut self, job: &str, observed: ObservedJob) {
        let ObservedJob { image, uid, has_pod, recheck_at, work } = observed;
        self.recheck_pods_at = self.recheck_pods_at.into_iter().chain(recheck_at).min();
        let (problem, work) = match work {
            ObservedWork::Check(check) => {
                let has_result =
                    matches!(check.outcome, CheckOutcome::Failed(_) | CheckOutcome::Passed(_));
                if has_result && check.live {
                    self.ended_live_checks.push(check.job.clone());
                }
                let problem = match &check.outcome {
                    CheckOutcome::NotAdmitted(problem) => Some(problem.clone()),
                    _ => None,
                };
                let (digest, revision) = (check.digest.clone(), check.revision.clone());
                self.checks.entry(image.clone()).or_default().push(*check);
                (problem, DeferredWork::Check { digest, revision })
            }
            ObservedWork::Build { build, seconds, unreported } => {
                self.durations.extend(seconds.map(|seconds| (build.job.to_string(), seconds)));
                self.unreported.extend(unreported.map(|name| (build.job.to_string(), name)));
                let problem = match &build.outcome {
                    BuildOutcome::NotAdmitted(problem) => Some(problem.clone()),
                    _ => None,
                };
                let fingerprint = build.identity.fingerprint.clone();
                self.builds.entry(image.clone()).or_default().push(*build);
                (problem, DeferredWork::Build(fingerprint))
            }
        };
        if let Some(problem) = problem {
            let rejection = Rejection { image, work, problem, job_uid: uid, retry_at: None };
            self.rejected.push(RejectedPods { job: job.into(), rejection });
        } else if has_pod {
            self.admitted.push(AdmittedJob { image, work });
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
}

/// Reads a Job and its pods, without credentials in what their containers have printed.
fn read(
    job: &Job,
    pods: &[&Pod],
    keychain: &Keychain,
    events: &PodEvents,
    now: Timestamp,
) -> Option<ObservedJob> {
    // Nearly every Job has one pod, which need not be copied.
    match pods {
        [] => ObservedJob::of(job, &[], events, now),
        [pod] if !prints_credential(pod, keychain) => {
            ObservedJob::of(job, std::slice::from_ref(*pod), events, now)
        }
        pods => {
            let pods: Vec<Pod> =
                pods.iter().map(|pod| without_credentials(pod, keychain)).collect();
            ObservedJob::of(job, &pods, events, now)
        }
    }
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
        let read = ObservedJob::of(job, &pods, &PodEvents::default(), now).expect("a Job of ours");
        observed.add(&job.name_any(), read);
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
        let (keychain, mut ended) = (Arc::default(), EndedJobs::default());
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
                &keychain,
                &PodEvents::default(),
                &mut ended,
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
