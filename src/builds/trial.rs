//! The trial of a strategy: a Job that is admitted, scheduled and started like a build, and builds
//! nothing. Its init container is the real `prepare`, which verifies the user namespace. Its
//! builder starts and ends at once. Pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, Pod},
};

use crate::{
    api::{
        BuildFailure, BuildStrategy, FailureClass, RegistryCredential, StrategyRef,
        condition::{Problem, Reason},
        labels,
    },
    builds::{
        job::{self, BuildEnvironment, PREPARE},
        outcome::{
            BuildJobOutcome, PodEvent, PodEvents,
            admission::pod_rejection,
            build_job_outcome, failure,
            message::{Keep, sanitize},
            never_ran, pod,
        },
        platform::named_platform,
        request::{BuildRequest, FamilyIdentity, ResolvedSource},
        strategy::{self, StrategyError, unknown_field},
    },
    registry::Platform,
};

/// Value of the label [`labels::COMPONENT`] on trials.
pub const COMPONENT_TRIAL: &str = "trial";
/// What the trial pretends to build. Nothing is pulled or pushed.
const IMAGE: &str = "groundswell.invalid/check:trial";
/// A Dockerfile without parents.
const DOCKERFILE: &str = "FROM scratch\n";
/// The shell that the builder's container runs in place of its command.
const SHELL: &str = "/bin/sh";
/// How long a trial may run beyond the time that its caller waits for it.
const GRACE_PERIOD: Duration = Duration::from_secs(30);
/// How long the cluster keeps an ended trial that its caller could not delete.
const TTL_SECONDS: i32 = 60;

/// Where a trial runs, under which name, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct TrialPlace<'a> {
    /// The name of its Job. Its caller chooses it, and can therefore delete a Job whose creation
    /// got no answer.
    pub name: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The family's registry credentials. Those for pulling are used for the pod's images.
    pub credentials: &'a [RegistryCredential],
    /// The platform of the build if the strategy names none; `None` if it is not known.
    pub platform: Option<&'a Platform>,
    /// How long its caller waits for it.
    pub deadline: Duration,
}

/// The outcome of a trial so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialOutcome {
    /// It has not ended. Contains what it waits for.
    Waiting(String),
    /// Its containers have started. Contains the name of the node.
    Passed(String),
    /// It cannot start, or `prepare` failed.
    Failed(BuildFailure),
}

/// Returns the Job of a trial. It has no label by which the controller would select it. It ends and
/// is deleted even if nobody waits for it.
///
/// # Errors
/// Returns a [`StrategyError`] if the strategy does not render to a pod that can run.
pub fn trial_job(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
    environment: &BuildEnvironment,
    place: TrialPlace<'_>,
) -> Result<Job, StrategyError> {
    let platform = named_platform(strategy, chosen)?.or_else(|| place.platform.cloned());
    let request = BuildRequest {
        family: FamilyIdentity { namespace: place.namespace.into(), ..FamilyIdentity::default() },
        image: "check".into(),
        repository: IMAGE.trim_end_matches(":trial").into(),
        reference: IMAGE.into(),
        source: ResolvedSource::Inline { dockerfile: DOCKERFILE.into() },
        credentials: place.credentials.to_vec(),
        platform: platform.clone().unwrap_or_else(|| environment.platform.clone()),
        ..BuildRequest::default()
    };
    let mut job = job::job(&request, strategy, chosen, environment)?;
    let own = BTreeMap::from([
        (labels::MANAGED_BY.to_owned(), "kubectl-family".to_owned()),
        (labels::COMPONENT.to_owned(), COMPONENT_TRIAL.to_owned()),
    ]);
    job.metadata.name = Some(place.name.into());
    job.metadata.labels = Some(own.clone());
    job.metadata.annotations = None;
    job.metadata.owner_references = None;
    let spec = job.spec.get_or_insert_default();
    let seconds = place.deadline.saturating_add(GRACE_PERIOD).as_secs();
    spec.active_deadline_seconds = Some(i64::try_from(seconds).unwrap_or(i64::MAX));
    spec.ttl_seconds_after_finished = Some(TTL_SECONDS);
    let pod_labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    let is_ours = |name: &str| name.starts_with(labels::PREFIX) || name == labels::MANAGED_BY;
    pod_labels.retain(|name, _| !is_ours(name));
    pod_labels.extend(own);
    let pod = spec.template.spec.get_or_insert_default();
    if platform.is_none() {
        // The family's default is not known here, and a trial runs on nodes of any platform.
        pod.node_selector = strategy::render_pod(&request, strategy, chosen)?.1.node_selector;
        let nodes = pod.node_selector.get_or_insert_default();
        nodes.entry("kubernetes.io/os".into()).or_insert_with(|| "linux".into());
    }
    let init = pod.init_containers.iter_mut().flatten();
    pod.containers
        .iter_mut()
        .chain(init)
        .filter(|own| runs_to_completion(own))
        .for_each(end_at_once);
    Ok(job)
}

/// Whether a container is to end at once. Native sidecars go on, and `prepare` does its work.
fn runs_to_completion(container: &Container) -> bool {
    container.name != PREPARE && container.restart_policy.as_deref() != Some("Always")
}

fn end_at_once(container: &mut Container) {
    container.command = Some(vec![SHELL.into(), "-c".into(), "exit 0".into()]);
    container.args = None;
    container.lifecycle = None;
    container.liveness_probe = None;
    container.readiness_probe = None;
    container.startup_probe = None;
}

/// Returns the first field of a trial's pod that the API server has dropped, because a feature gate
/// is disabled.
#[must_use]
pub fn dropped_field(sent: &Job, returned: &Job) -> Option<String> {
    let pod = |job: &Job| serde_json::to_value(job.spec.as_ref()?.template.spec.as_ref()?).ok();
    unknown_field("spec", &pod(sent)?, &pod(returned)?)
}

/// Returns the outcome of a trial. `events` are those of pods that wait for their nodes, and
/// `job_events` those of the Job.
#[must_use]
pub fn trial_outcome(
    job: &Job,
    pods: &[Pod],
    events: &PodEvents,
    job_events: &[PodEvent],
    now: Timestamp,
) -> TrialOutcome {
    match build_job_outcome(job, pods, events, now) {
        BuildJobOutcome::Succeeded => TrialOutcome::Passed(node(pods)),
        BuildJobOutcome::Failed(_) if pods.iter().any(has_no_shell) => {
            TrialOutcome::Passed(node(pods))
        }
        BuildJobOutcome::Failed(failure) => TrialOutcome::Failed(failure),
        BuildJobOutcome::Stopped => TrialOutcome::Failed(failure(
            FailureClass::Cancelled,
            Reason::Cancelled,
            "the Job was deleted while it ran",
        )),
        BuildJobOutcome::Running => TrialOutcome::Waiting("its containers run".into()),
        BuildJobOutcome::NotAdmitted(problem) => TrialOutcome::Failed(not_admitted(&problem)),
        BuildJobOutcome::Waiting(wait) => match pod_rejection(job_events) {
            Some(problem) if pods.is_empty() => TrialOutcome::Failed(not_admitted(&problem)),
            _ => TrialOutcome::Waiting(wait.message.unwrap_or_else(|| describe_wait(pods))),
        },
    }
}

fn not_admitted(problem: &Problem) -> BuildFailure {
    failure(FailureClass::Infrastructure, problem.reason, &problem.message)
}

/// Whether the builder's container was created and only lacks a shell. Its image was pulled then.
fn has_no_shell(found: &Pod) -> bool {
    let containers = found.status.as_ref().map(pod::containers);
    containers.into_iter().flatten().filter(|container| container.name != PREPARE).any(
        |container| {
            pod::terminated(container).is_some_and(|ended| {
                let text = ended.message.as_deref().unwrap_or_default().to_lowercase();
                never_ran(ended)
                    && text.contains(SHELL)
                    && (text.contains("no such file") || text.contains("not found"))
            })
        },
    )
}

fn node(pods: &[Pod]) -> String {
    let node = pods.iter().find_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
    sanitize(node.unwrap_or("?"), Keep::Start)
}

/// Returns what a trial waits for if nothing else says so.
fn describe_wait(pods: &[Pod]) -> String {
    let Some(pod) = pods.first() else {
        return "its Job has no pod yet; check that the cluster's Job controller runs".into();
    };
    match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
        None => "no scheduler has assigned its pod to a node".into(),
        Some(node) => {
            let node = sanitize(node, Keep::Start);
            format!("the node {node} has not started its containers yet")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::BuildStrategySpec,
        builds::{outcome::needs_events, prepare::spec::PREPARE_VARIABLE},
    };

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn trial() -> Job {
        let template = json!({
            "metadata": {"labels": {"team": "a"}, "annotations": {"a": "b"}},
            "spec": {"hostUsers": false, "nodeSelector": {"disk": "ssd"},
                "initContainers": [{"name": "mesh", "image": "m", "command": ["mesh"],
                    "restartPolicy": "Always"}],
                "containers": [{"name": "build", "image": "b", "args": ["{{ image.reference }}"],
                    "securityContext": {"procMount": "Unmasked"}}]}});
        let spec: BuildStrategySpec =
            serde_json::from_value(json!({"template": template})).expect("a strategy");
        let strategy = BuildStrategy::new("s", spec);
        let place = TrialPlace {
            name: "groundswell-check-1",
            namespace: "team",
            credentials: &[RegistryCredential::unrestricted("push")],
            platform: None,
            deadline: Duration::from_mins(3),
        };
        trial_job(&strategy, &StrategyRef::default(), &BuildEnvironment::default(), place)
            .expect("a Job")
    }

    fn outcome(pod: Value, job_events: &[PodEvent]) -> TrialOutcome {
        let job = trial();
        let mut pods: Vec<Pod> = serde_json::from_value(pod).expect("pods");
        let own = job.spec.as_ref().and_then(|spec| spec.template.spec.clone()).expect("a pod");
        for spec in pods.iter_mut().filter_map(|pod| pod.spec.as_mut()) {
            (spec.containers, spec.init_containers) =
                (own.containers.clone(), own.init_containers.clone());
        }
        let now = NOW.parse().expect("a time");
        assert!(!pods.iter().any(|pod| needs_events(&job, pod, now)));
        trial_outcome(&job, &pods, &PodEvents::default(), job_events, now)
    }

    fn pod(container: Value) -> Value {
        let status = json!({"phase": "Failed", "containerStatuses": [{"name": "build",
            "image": "b", "imageID": "", "ready": false, "restartCount": 0, "state": container}]});
        json!([{"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": []},
            "status": status}])
    }

    #[test]
    fn a_trial_starts_like_a_build_and_builds_nothing() {
        let job = trial();
        assert_eq!(job.metadata.name.as_deref(), Some("groundswell-check-1"));
        assert_eq!(job.metadata.owner_references, None);
        let spec = job.spec.expect("a spec");
        assert_eq!(spec.active_deadline_seconds, Some(210));
        assert_eq!(spec.ttl_seconds_after_finished, Some(60));
        let metadata = spec.template.metadata.expect("metadata");
        let labels = metadata.labels.expect("labels");
        let expected = BTreeMap::from([
            ("team".to_owned(), "a".to_owned()),
            (labels::MANAGED_BY.to_owned(), "kubectl-family".to_owned()),
            (labels::COMPONENT.to_owned(), "trial".to_owned()),
        ]);
        assert_eq!(labels, expected, "no label by which the controller selects");
        assert!(metadata.annotations.expect("annotations").contains_key("a"));
        let pod = spec.template.spec.expect("a pod");
        assert_eq!(pod.host_users, Some(false));
        assert!(pod.node_selector.expect("a selector").contains_key("disk"));
        assert_eq!(pod.image_pull_secrets.expect("pull secrets")[0].name, "push");
        let init = pod.init_containers.expect("init containers");
        assert_eq!(init[0].args, Some(vec![PREPARE.to_owned()]), "the real prepare");
        assert_eq!(init[1].command, Some(vec!["mesh".to_owned()]), "a native sidecar goes on");
        let builder = &pod.containers[0];
        assert_eq!(builder.command.as_ref().expect("a command")[0], SHELL);
        assert_eq!((builder.args.clone(), builder.image.as_deref()), (None, Some("b")));
        let variable = init[0].env.iter().flatten().find(|env| env.name == PREPARE_VARIABLE);
        let prepare = variable.and_then(|env| env.value.clone()).expect("the input of prepare");
        assert!(prepare.contains("FROM scratch"), "{prepare}");
    }

    #[test]
    fn a_dropped_field_is_named() {
        let sent = trial();
        assert_eq!(dropped_field(&sent, &sent), None);
        let mut returned = sent.clone();
        let pod = |job: &mut Job| job.spec.as_mut()?.template.spec.take();
        let mut kept = pod(&mut returned).expect("a pod");
        kept.containers[0].security_context = None;
        returned.spec.as_mut().expect("a spec").template.spec = Some(kept.clone());
        assert_eq!(
            dropped_field(&sent, &returned).as_deref(),
            Some("spec.containers[0].securityContext")
        );
        kept.host_users = None;
        returned.spec.as_mut().expect("a spec").template.spec = Some(kept);
        let dropped = dropped_field(&sent, &returned).expect("a field");
        assert!(dropped.starts_with("spec."), "{dropped}");
    }

    #[test]
    fn a_builder_without_a_shell_was_started() {
        let ended = |reason: &str, message: &str| {
            let ended = json!({"exitCode": 128, "reason": reason, "message": message});
            outcome(pod(json!({"terminated": ended})), &[])
        };
        for text in [
            "exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown",
            "executable file `/bin/sh` not found: No such file or directory",
        ] {
            assert_eq!(ended("StartError", text), TrialOutcome::Passed("n1".into()), "{text}");
        }
        for (reason, text) in [
            ("StartError", "createContainer hook failed: /bin/sh: permission denied"),
            ("Error", "/bin/sh: no such file or directory"),
        ] {
            assert!(matches!(ended(reason, text), TrialOutcome::Failed(_)), "{reason} {text}");
        }
        let succeeded = ended("Completed", "");
        assert!(matches!(succeeded, TrialOutcome::Failed(_)), "its exit code is not 0");
        let passed = outcome(pod(json!({"terminated": {"exitCode": 0}})), &[]);
        assert_eq!(passed, TrialOutcome::Passed("n1".into()), "a sidecar failed");
    }

    #[test]
    fn a_pod_that_is_not_admitted_and_a_wait_are_explained() {
        let event = |reason: &str| PodEvent {
            reason: reason.into(),
            message: "Error creating: pods \"x\" is forbidden: exceeded quota: few".into(),
        };
        let TrialOutcome::Failed(failed) = outcome(json!([]), &[event("FailedCreate")]) else {
            panic!("it waits");
        };
        assert_eq!(failed.reason, Reason::QuotaExceeded);
        assert!(failed.message.contains("exceeded quota: few"), "{}", failed.message);
        let TrialOutcome::Waiting(what) = outcome(json!([]), &[event("Other")]) else {
            panic!("it has ended");
        };
        assert!(what.contains("has no pod yet"), "{what}");
        for (spec, expected) in [
            (json!({"containers": []}), "no scheduler"),
            (json!({"containers": [], "nodeName": "n1"}), "the node n1 has not started"),
        ] {
            let pods = json!([{"metadata": {"name": "p"}, "spec": spec}]);
            let TrialOutcome::Waiting(what) = outcome(pods, &[]) else { panic!("it has ended") };
            assert!(what.contains(expected), "{what}");
        }
    }
}
