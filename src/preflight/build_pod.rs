//! The pod of a build: whether the API server admits it, and whether a node starts it. One trial
//! runs, with a deadline. It is deleted in every case.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};

use crate::{
    api::{BuildStrategy, StrategyRef, UserNamespace},
    builds::{
        job::{BuildEnvironment, PREPARE},
        outcome::{PodEvent, PodEvents, needs_events},
        platform::named_platform,
        trial::{TrialOutcome, TrialPlace, dropped_field, trial_job, trial_outcome},
    },
    preflight::{
        call::{CallError, DryRunAnswer, call, create, dry_run},
        report::Finding,
    },
};

/// Pause between two reads of the trial's state.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval between two reads of Events.
const EVENT_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of pods and of Events that are read.
const MAX_READ: u32 = 50;
/// Maximum number of calls to delete a trial.
const MAX_DELETIONS: usize = 3;

const ADMISSION: &str = "admission";
const BUILD_POD: &str = "build pod";

/// Returns the line for a pod that cannot be tried, because nobody says which image the operator
/// has.
pub fn unknown_image() -> Finding {
    let message = "the operator's image is not known; name it with --operator-image, and the \
                   Secrets for pulling it with --build-image-pull-secrets";
    Finding::not_checked(BUILD_POD, message)
}

/// A strategy, and where it is tried.
#[derive(Clone, Copy, Debug)]
pub struct TriedStrategy<'a> {
    /// The strategy.
    pub strategy: &'a BuildStrategy,
    /// Its name and the parameters for it.
    pub chosen: &'a StrategyRef,
    /// What the controller passes on to builds.
    pub environment: &'a BuildEnvironment,
    /// The namespace, the pull credentials and the deadline.
    pub place: TrialPlace<'a>,
}

/// Whether a trial follows, which shows what a dry run does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodTrial {
    /// It does.
    Follows,
    /// The user has left it out.
    LeftOut,
}

/// The user has asked the check to stop. Contains whether its Job is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted(pub String);

impl TriedStrategy<'_> {
    /// Returns the Job of a trial, or why the strategy cannot be used.
    pub fn job(&self) -> Result<Job, Finding> {
        trial_job(self.strategy, self.chosen, self.environment, self.place)
            .map_err(|error| Finding::problem(self.title(), error.to_string()))
    }

    /// Returns the line for a strategy that can be rendered, with the nodes on which it is tried.
    pub fn rendered(&self) -> Finding {
        let named = named_platform(self.strategy, self.chosen).ok().flatten();
        let platform = named.or_else(|| self.place.platform.cloned());
        let nodes = platform.map_or_else(
            || "Linux nodes of any architecture, because nothing names the platform".to_owned(),
            |platform| format!("nodes of {platform}"),
        );
        Finding::ok(self.title(), format!("renders to a valid pod; tried on {nodes}"))
    }

    fn title(&self) -> String {
        format!("strategy {}", self.chosen.name)
    }
}

/// Asks the API server whether it would admit a Job and its pod.
pub async fn check_admission(
    client: &Client,
    tried: &TriedStrategy<'_>,
    job: &Job,
    trial: PodTrial,
) -> Finding {
    let namespace = tried.place.namespace;
    let answers = AdmissionAnswers {
        job: dry_run(client, namespace, job).await,
        pod: dry_run(client, namespace, &pod_of(job)).await,
    };
    judge_admission(tried, job, &answers, trial)
}

/// What the API server answers in a dry run.
struct AdmissionAnswers {
    job: Result<DryRunAnswer<Job>, CallError>,
    pod: Result<DryRunAnswer<Pod>, CallError>,
}

/// Returns the pod that the Job controller would create.
fn pod_of(job: &Job) -> Pod {
    let template = job.spec.clone().map(|spec| spec.template).unwrap_or_default();
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.generate_name = job.metadata.name.as_ref().map(|name| format!("{name}-"));
    Pod { metadata, spec: template.spec, status: None }
}

fn judge_admission(
    tried: &TriedStrategy<'_>,
    sent: &Job,
    answers: &AdmissionAnswers,
    trial: PodTrial,
) -> Finding {
    let namespace = tried.place.namespace;
    let admitted = match &answers.job {
        Ok(admitted) => admitted,
        Err(error) => return not_admitted(namespace, error),
    };
    if let Some(field) = dropped_field(sent, &admitted.object) {
        let message = format!(
            "the API server drops {field} of a build's pod, because a feature gate is disabled; \
             enable the gate, or use a strategy that does not need the field"
        );
        return Finding::problem(ADMISSION, message);
    }
    let mut warnings = admitted.warnings.clone();
    let what = match &answers.pod {
        Ok(pod) => {
            warnings.extend(pod.warnings.iter().cloned());
            "Jobs and pods"
        }
        // The Job controller creates the pods of builds. The trial shows whether it may.
        Err(CallError::Forbidden(_) | CallError::NoDryRun(_)) if trial == PodTrial::Follows => {
            "Jobs"
        }
        Err(error) => return not_admitted(namespace, error),
    };
    warnings.dedup();
    let said = warnings.iter().map(|text| format!("; the API server warns: {text}"));
    let said = said.collect::<String>();
    let strategy = &tried.chosen.name;
    Finding::ok(ADMISSION, format!("{namespace} admits {what} of the strategy {strategy}{said}"))
}

fn not_admitted(namespace: &str, error: &CallError) -> Finding {
    match error {
        CallError::Forbidden(_) => {
            Finding::not_checked(ADMISSION, format!("{error}; use the role `edit` to check it"))
        }
        CallError::NotFound(_) => {
            Finding::problem(ADMISSION, format!("{error}; create the namespace {namespace}"))
        }
        CallError::NotAdmitted(text) => Finding::problem(ADMISSION, text.clone()),
        CallError::NoDryRun(_) | CallError::Failed(_) | CallError::NoAnswer(_) => {
            Finding::not_checked(ADMISSION, error.to_string())
        }
    }
}

/// Runs a trial, and deletes it.
///
/// # Errors
/// Returns [`Interrupted`] if `stop` completes first. The trial is deleted then, too.
pub async fn run_trial(
    client: &Client,
    tried: &TriedStrategy<'_>,
    job: &Job,
    stop: &mut Pin<Box<dyn Future<Output = ()> + Send>>,
) -> Result<Vec<Finding>, Interrupted> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), tried.place.namespace);
    let name = tried.place.name;
    // `stop` is awaited after this: what is being created could not be deleted.
    if let Err(error) = create(&jobs, job).await {
        let mut findings = vec![not_created(&error)];
        if matches!(error, CallError::NoAnswer(_)) {
            findings.extend(delete(&jobs, name).await);
        }
        return Ok(findings);
    }
    let finding = tokio::select! {
        finding = observe(client, tried) => Some(finding),
        () = stop.as_mut() => None,
    };
    let deletion = delete(&jobs, name).await;
    match finding {
        Some(finding) => Ok([finding].into_iter().chain(deletion).collect()),
        None => Err(Interrupted(
            deletion.map_or_else(|| format!("the Job {name} is deleted"), |failed| failed.message),
        )),
    }
}

fn not_created(error: &CallError) -> Finding {
    match error {
        CallError::Forbidden(_) => Finding::not_checked(BUILD_POD, error.to_string()),
        _ => Finding::problem(BUILD_POD, format!("its Job cannot be created: {error}")),
    }
}

/// Deletes a trial with its pod. Returns a line if that failed.
async fn delete(jobs: &Api<Job>, name: &str) -> Option<Finding> {
    let mut failed = None;
    for _ in 0..MAX_DELETIONS {
        match call(jobs.delete(name, &DeleteParams::background())).await {
            // It may have ended so long ago that the cluster has deleted it.
            Ok(_) | Err(CallError::NotFound(_)) => return None,
            Err(error) => failed = Some(error),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let error = failed?;
    let message = format!(
        "the Job {name} cannot be deleted: {error}; it ends at its deadline, and the cluster \
         deletes it a minute later"
    );
    Some(Finding::not_checked("cleaning up", message))
}

/// The Events that explain why a trial does not start.
#[derive(Default)]
struct ExplainingEvents {
    of_pods: PodEvents,
    of_job: Vec<PodEvent>,
    read_at: Option<Instant>,
}

async fn observe(client: &Client, tried: &TriedStrategy<'_>) -> Finding {
    let namespace = tried.place.namespace;
    let (jobs, pods): (Api<Job>, Api<Pod>) =
        (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace));
    let name = tried.place.name;
    let selector = format!("batch.kubernetes.io/job-name={name}");
    let of_job = ListParams::default().labels(&selector).limit(MAX_READ);
    let started = Instant::now();
    let mut events = ExplainingEvents::default();
    loop {
        let read = async { Ok((call(jobs.get(name)).await?, call(pods.list(&of_job)).await?)) };
        let waits_for = match read.await {
            Ok((job, pods)) => {
                events.read(client, &job, &pods.items).await;
                let (of_pods, of_job) = (&events.of_pods, &events.of_job);
                match trial_outcome(&job, &pods.items, of_pods, of_job, Timestamp::now()) {
                    TrialOutcome::Waiting(what) => what,
                    ended => return judge_trial(tried, &ended),
                }
            }
            Err(CallError::Forbidden(text)) => return Finding::not_checked(BUILD_POD, text),
            // The next read may succeed.
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= tried.place.deadline {
            return judge_trial(tried, &TrialOutcome::Waiting(waits_for));
        }
        tokio::time::sleep(POLL_INTERVAL.min(tried.place.deadline)).await;
    }
}

impl ExplainingEvents {
    /// Reads the Events of a pod that its node does not start, and those of a Job without a pod. If
    /// they cannot be read, the wait is reported without them.
    async fn read(&mut self, client: &Client, job: &Job, pods: &[Pod]) {
        if self.read_at.is_some_and(|at| at.elapsed() < EVENT_INTERVAL) {
            return;
        }
        let namespace = job.namespace().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let list = async |uid: &str| {
            let selector = format!("involvedObject.uid={uid},type=Warning");
            let parameters = ListParams::default().fields(&selector).limit(MAX_READ);
            call(api.list(&parameters)).await.map(|list| PodEvent::newest_last(list.items))
        };
        let waiting = pods.iter().filter(|pod| needs_events(job, pod, Timestamp::now()));
        for uid in waiting.filter_map(ResourceExt::uid) {
            self.read_at = Some(Instant::now());
            if let Ok(events) = list(&uid).await {
                self.of_pods.record(&uid, events);
            }
        }
        if let (true, Some(uid)) = (pods.is_empty(), job.uid()) {
            self.of_job = list(&uid).await.unwrap_or_default();
        }
    }
}

fn judge_trial(tried: &TriedStrategy<'_>, outcome: &TrialOutcome) -> Finding {
    let namespace = tried.place.namespace;
    match outcome {
        TrialOutcome::Passed(node) => {
            let user_namespace = match tried.strategy.spec.user_namespace {
                UserNamespace::Required => " in a user namespace of its own",
                UserNamespace::NotRequired => "; the strategy requires no user namespace",
            };
            let images = images(tried).join(" and ");
            let message = format!("the node {node} pulled {images}, and ran it{user_namespace}");
            Finding::ok(BUILD_POD, message)
        }
        TrialOutcome::Failed(failure) => {
            Finding::problem(BUILD_POD, format!("{}: {}", failure.reason, failure.message))
        }
        TrialOutcome::Waiting(what) => Finding::problem(
            BUILD_POD,
            format!(
                "it did not start in namespace {namespace} within {} s: {what}; if it only needs \
                 longer, for example for a new node, set --timeout",
                tried.place.deadline.as_secs()
            ),
        ),
    }
}

/// Returns the images of a trial: the operator's, and those of the strategy.
fn images(tried: &TriedStrategy<'_>) -> Vec<String> {
    let job = tried.job().ok();
    let pod = job.and_then(|job| job.spec?.template.spec).unwrap_or_default();
    let init = pod.init_containers.into_iter().flatten();
    let mut containers: Vec<_> = init.chain(pod.containers).collect();
    containers.sort_by_key(|container| container.name != PREPARE);
    let mut images: Vec<String> =
        containers.into_iter().filter_map(|container| container.image).collect();
    images.dedup();
    images
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::{BuildFailure, FailureClass, condition::Reason},
        preflight::report::Verdict,
    };

    fn strategy() -> BuildStrategy {
        let template = json!({"spec": {"hostUsers": false, "containers": [{"name": "build",
            "image": "builder:1"}]}});
        let spec = serde_json::from_value(json!({"template": template})).expect("a strategy");
        BuildStrategy::new("buildkit", spec)
    }

    /// Calls `judge` with a strategy in the namespace `team`, for at most 10 seconds.
    fn with_tried<T>(judge: impl FnOnce(&TriedStrategy<'_>) -> T) -> T {
        let (strategy, chosen) = (strategy(), StrategyRef::default());
        let environment =
            BuildEnvironment { operator_image: "operator:1".into(), ..BuildEnvironment::default() };
        let place = TrialPlace {
            name: "groundswell-check-1",
            namespace: "team",
            credentials: &[],
            platform: None,
            deadline: Duration::from_secs(10),
        };
        judge(&TriedStrategy {
            strategy: &strategy,
            chosen: &chosen,
            environment: &environment,
            place,
        })
    }

    fn admitted<K>(object: K, warnings: &[&str]) -> DryRunAnswer<K> {
        DryRunAnswer { object, warnings: warnings.iter().map(ToString::to_string).collect() }
    }

    /// The answers about a Job and about its pod.
    type Answers = (Result<(), CallError>, Result<(), CallError>);

    #[test]
    fn the_api_servers_words_are_passed_on() {
        let security = "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\"";
        let quota = "jobs.batch \"x\" is forbidden: exceeded quota: few";
        let no_namespace = "namespaces \"team\" not found";
        let cases: [(Answers, Verdict, &str); 7] = [
            ((Ok(()), Ok(())), Verdict::Ok, "team admits Jobs and pods of the strategy buildkit"),
            ((Ok(()), Err(CallError::Forbidden("no".into()))), Verdict::Ok, "admits Jobs of"),
            ((Ok(()), Err(CallError::NoDryRun("w".into()))), Verdict::Ok, "admits Jobs of"),
            ((Ok(()), Err(CallError::NotAdmitted(security.into()))), Verdict::Problem, security),
            ((Err(CallError::NotAdmitted(quota.into())), Ok(())), Verdict::Problem, quota),
            (
                (Err(CallError::NotFound(no_namespace.into())), Ok(())),
                Verdict::Problem,
                "create the namespace team",
            ),
            ((Err(CallError::Forbidden("no".into())), Ok(())), Verdict::NotChecked, "no; use"),
        ];
        with_tried(|tried| {
            let job = tried.job().expect("a Job");
            for ((as_job, as_pod), verdict, expected) in cases {
                let answers = AdmissionAnswers {
                    job: as_job.map(|()| admitted(job.clone(), &[])),
                    pod: as_pod.map(|()| admitted(pod_of(&job), &[])),
                };
                let finding = judge_admission(tried, &job, &answers, PodTrial::Follows);
                assert_eq!(finding.verdict, verdict, "{finding:?}");
                assert!(finding.message.contains(expected), "{finding:?}");
            }
            let answers = AdmissionAnswers {
                job: Ok(admitted(job.clone(), &[])),
                pod: Err(CallError::Forbidden("no".into())),
            };
            let finding = judge_admission(tried, &job, &answers, PodTrial::LeftOut);
            assert_eq!(finding.verdict, Verdict::NotChecked, "nothing shows it then");
        });
    }

    #[test]
    fn a_dropped_field_is_a_problem_and_a_warning_is_not() {
        with_tried(|tried| {
            let job = tried.job().expect("a Job");
            let judged = |returned: Job, warnings: &[&str]| {
                let pod = admitted(pod_of(&job), &["would violate PodSecurity"]);
                let answers =
                    AdmissionAnswers { job: Ok(admitted(returned, warnings)), pod: Ok(pod) };
                judge_admission(tried, &job, &answers, PodTrial::Follows)
            };
            let finding = judged(job.clone(), &["would violate PodSecurity"]);
            assert_eq!(finding.verdict, Verdict::Ok);
            assert_eq!(finding.message.matches("warns").count(), 1, "{finding:?}");

            let mut dropped = job.clone();
            let spec = dropped.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
            spec.expect("a pod").host_users = None;
            let finding = judged(dropped, &[]);
            assert_eq!(finding.verdict, Verdict::Problem);
            assert!(finding.message.contains("drops spec.hostUsers"), "{finding:?}");
        });
    }

    #[test]
    fn the_end_of_a_trial_says_what_to_do() {
        with_tried(|tried| {
            let judged = |outcome| judge_trial(tried, &outcome);
            let passed = judged(TrialOutcome::Passed("n1".into()));
            assert_eq!(
                passed.message,
                "the node n1 pulled operator:1 and builder:1, and ran it in a user namespace of \
                 its own"
            );
            let failed = judged(TrialOutcome::Failed(BuildFailure {
                class: FailureClass::Infrastructure,
                reason: Reason::JobRefused.into(),
                message: "violates PodSecurity".into(),
            }));
            assert_eq!(failed.verdict, Verdict::Problem);
            assert_eq!(failed.message, "JobRefused: violates PodSecurity");
            let late = judged(TrialOutcome::Waiting("ImagePullBackOff".into()));
            assert_eq!(late.verdict, Verdict::Problem);
            assert!(late.message.contains("within 10 s: ImagePullBackOff"), "{late:?}");
        });
    }
}
