//! How the Jobs of builds and checks are created, each at most once, and deleted. Needs a client.

use std::{borrow::Borrow, collections::HashSet};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    core::Status,
};
use tracing::{info, warn};

use crate::{
    api::{
        BuildFailure, FailureClass,
        condition::{Problem, Reason},
        labels,
    },
    build_records::keys::RecordKeys,
    builds::{
        job::drops_user_namespace,
        outcome::{JobRejection, cannot_run_dry, job_rejection},
    },
    controller::{
        error::{ReconcileError, call},
        family::reconcile::Reconcile,
        job_seals,
        object_cache::{Key, ObjectCache},
        reconcile_cache::ReconcileCache,
        writes::delete,
    },
    engine::Effect,
    identity::JobName,
};

/// How many Jobs are created concurrently.
const MAX_CONCURRENT_CREATES: usize = 8;
/// How soon a decision is made again after a Job was not admitted. A full quota rejects one Job
/// after another, and this limits how fast.
const AFTER_DEFERRAL: SignedDuration = SignedDuration::from_secs(1);
/// The most kinds of accepted Jobs that are cached: strategies with their settings, and checks.
const MAX_ACCEPTED_KINDS: usize = 64;

/// Whether all Jobs that a decision asks for were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStarts {
    /// All were started, or none was asked for.
    AllStarted,
    /// Some cannot be used. The decision records that, and is made again at once.
    SomeRejected,
    /// Some were not admitted now, and wait. The decision is made again soon: others may start in
    /// their places.
    SomeDeferred,
}

impl JobStarts {
    /// Returns when the decision is to be made again.
    #[must_use]
    pub fn decide_again_at(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::AllStarted => None,
            Self::SomeRejected => Some(now),
            Self::SomeDeferred => now.saturating_add(AFTER_DEFERRAL).ok(),
        }
    }

    /// Returns whether Jobs with these rejections were all started.
    pub(super) fn of<'a>(rejections: impl IntoIterator<Item = &'a JobRejection>) -> Self {
        let mut starts = Self::AllStarted;
        for rejection in rejections {
            match rejection {
                JobRejection::Failed(_) => return Self::SomeRejected,
                JobRejection::NotNow(_) => starts = Self::SomeDeferred,
            }
        }
        starts
    }
}

/// The result of the creation of a Job.
#[derive(Debug)]
pub enum JobCreation {
    /// The Job exists: it was created now, or by an earlier reconcile.
    Exists(Box<Job>),
    /// The API server rejected the Job.
    Rejected(JobRejection),
}

/// Whether the API server accepts Jobs of one kind.
#[derive(Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It accepts them, and keeps every field that they need.
    Accepted,
    /// It is not known, because a Job of this name exists already, or a webhook takes no part in
    /// dry runs.
    Unknown,
    /// It drops a field that they need, or rejects them.
    Rejected(JobRejection),
}

/// Reads the Jobs whose creation by an earlier reconcile got no answer. They may run although no
/// watch has shown them yet. A reconcile that did not know of them would start more Jobs than the
/// limits allow.
pub async fn find_unanswered(
    jobs: &ObjectCache<Job>,
    client: &Client,
    namespace: &str,
    keys: &RecordKeys,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    while let Some(name) = cache.unanswered.first().cloned() {
        if jobs.get(&Key::new(namespace, &name)).is_none()
            && let Some(job) = existing(&api, &name).await?
            && job_seals::is_sealed(&job, keys)
        {
            jobs.record_write(job);
        }
        cache.unanswered.remove(&name);
    }
    Ok(())
}

impl Reconcile<'_> {
    /// Deletes the Jobs that have a result or are cancelled, and still run: one whose pod waits for
    /// an image, or in whose pod a sidecar runs, for example. Their end is recorded before this.
    pub async fn delete_ended_jobs(&self) -> Result<(), ReconcileError> {
        let api: Api<Job> = self.api();
        let decided = self.decision.effects.iter().filter_map(|effect| match effect {
            Effect::Stop { job } => Some(job),
            _ => None,
        });
        let unrecorded: HashSet<&str> =
            self.unrecorded.iter().map(|image| self.image_name(*image)).collect();
        for job in decided.chain(&self.snapshot.ended_live_checks).map(JobName::as_str) {
            let key = Key::new(&self.snapshot.key.namespace, job);
            let known = self.context.stores.jobs.get(&key);
            let ends = known.is_some_and(|job| {
                let image = job.labels().get(labels::IMAGE).map_or("", String::as_str);
                job.metadata.deletion_timestamp.is_none() && !unrecorded.contains(image)
            });
            if ends {
                delete(&api, job, &DeleteParams::foreground()).await?;
                info!(job, "deleted the Job");
            }
        }
        for job in &self.snapshot.rejected_jobs {
            self.delete_rejected_job(&api, job.as_str()).await?;
        }
        Ok(())
    }

    /// Deletes a Job whose pod was rejected, unless it has changed since: the pod may have been
    /// admitted meanwhile.
    async fn delete_rejected_job(&self, api: &Api<Job>, job: &str) -> Result<(), ReconcileError> {
        let key = Key::new(&self.snapshot.key.namespace, job);
        let known = self.context.stores.jobs.get(&key);
        let Some(known) = known.filter(|job| job.metadata.deletion_timestamp.is_none()) else {
            return Ok(());
        };
        let unchanged =
            Preconditions { resource_version: known.resource_version(), uid: known.uid() };
        match delete(api, job, &DeleteParams::foreground().preconditions(unchanged)).await {
            Ok(()) => info!(job, "deleted the Job, whose pod was rejected"),
            Err(error) if error.status().is_some_and(Status::is_conflict) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Returns whether the API server accepts Jobs of a kind. It is asked once per `kind`.
pub async fn check_acceptance(
    api: &Api<Job>,
    job: &Job,
    kind: String,
    cache: &mut ReconcileCache,
) -> Result<Acceptance, ReconcileError> {
    if cache.accepted_jobs.contains(&kind) {
        return Ok(Acceptance::Accepted);
    }
    let acceptance = dry_run(api, job).await?;
    if acceptance == Acceptance::Accepted {
        if cache.accepted_jobs.len() >= MAX_ACCEPTED_KINDS {
            cache.accepted_jobs.clear();
        }
        cache.accepted_jobs.insert(kind);
    }
    Ok(acceptance)
}

/// Asks the API server whether it keeps every field that the Job needs, without creating it.
async fn dry_run(api: &Api<Job>, job: &Job) -> Result<Acceptance, ReconcileError> {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let what = || format!("create Job {} in a dry run", job.name_any());
    match call(what, api.create(&dry, job)).await {
        Ok(returned) if drops_user_namespace(job, &returned) => {
            Ok(Acceptance::Rejected(without_user_namespace()))
        }
        Ok(returned) if !job_seals::are_equal(&returned, job) => {
            Ok(Acceptance::Rejected(changed_by_webhook(job)))
        }
        Ok(_) => Ok(Acceptance::Accepted),
        // Created by an earlier reconcile; `create_jobs` inspects it.
        Err(error) if error.is_already_exists() => Ok(Acceptance::Unknown),
        Err(error) if error.status().is_some_and(cannot_run_dry) => Ok(Acceptance::Unknown),
        Err(error) => match error.status().and_then(job_rejection) {
            Some(rejection) => Ok(match existing(api, &job.name_any()).await? {
                Some(_) => Acceptance::Unknown,
                None => Acceptance::Rejected(rejection),
            }),
            None => Err(error),
        },
    }
}

/// Returns the Job of this name. The API server checks quotas and policies before it checks whether
/// the name exists, so a rejection does not show that no earlier reconcile has created the Job.
async fn existing(api: &Api<Job>, name: &str) -> Result<Option<Job>, ReconcileError> {
    call(|| format!("read Job {name}"), api.get_opt(name)).await
}

/// Creates Jobs, some concurrently, and puts them into the store. Returns the result of each, in
/// their order.
///
/// A Job that already exists, with the same seal, was created by an earlier reconcile whose record
/// was lost. It is adopted, even if the API server would reject another one.
pub async fn create_jobs<J: Borrow<Job>>(
    jobs: &ObjectCache<Job>,
    api: &Api<Job>,
    wanted: &[J],
    cache: &mut ReconcileCache,
) -> Result<Vec<JobCreation>, ReconcileError> {
    let wanted: Vec<&Job> = wanted.iter().map(Borrow::borrow).collect();
    let mut created = Vec::with_capacity(wanted.len());
    for wanted in wanted.chunks(MAX_CONCURRENT_CREATES) {
        // Noted before the calls, and until each is answered: this reconcile may end in between.
        cache.unanswered.extend(wanted.iter().map(|job| job.name_any()));
        let answers = join_all(wanted.iter().map(|job| create_or_adopt(jobs, api, job))).await;
        for (job, answer) in wanted.iter().zip(&answers) {
            if answer.is_ok() {
                cache.unanswered.remove(&job.name_any());
            }
        }
        for answer in answers {
            created.push(answer?);
        }
    }
    Ok(created)
}

async fn create_or_adopt(
    jobs: &ObjectCache<Job>,
    api: &Api<Job>,
    job: &Job,
) -> Result<JobCreation, ReconcileError> {
    let name = job.name_any();
    match call(|| format!("create Job {name}"), api.create(&PostParams::default(), job)).await {
        Ok(created) if job_seals::are_equal(&created, job) => {
            info!(job = %name, "created the Job");
            jobs.record_write(created.clone());
            Ok(JobCreation::Exists(created.into()))
        }
        Ok(created) => {
            // Nothing would watch it, and its pod would run.
            let ours = Preconditions { uid: created.uid(), ..Preconditions::default() };
            delete(api, &name, &DeleteParams::foreground().preconditions(ours)).await?;
            warn!(job = %name, "deleted the Job: a webhook has changed what its seal covers");
            Ok(JobCreation::Rejected(changed_by_webhook(job)))
        }
        Err(error) => {
            let rejection = error.status().and_then(job_rejection);
            if rejection.is_none() && !error.is_already_exists() {
                return Err(error);
            }
            if let Some(existing) = existing(api, &name).await? {
                if !job_seals::are_equal(&existing, job) {
                    return Ok(JobCreation::Rejected(name_is_taken(job)));
                }
                jobs.record_write(existing.clone());
                return Ok(if drops_user_namespace(job, &existing) {
                    JobCreation::Rejected(without_user_namespace())
                } else {
                    JobCreation::Exists(existing.into())
                });
            }
            // Without a rejection, the Job was deleted since.
            let Some(rejection) = rejection else { return Err(error) };
            warn!(job = %name, %error, "the API server rejected the Job");
            Ok(JobCreation::Rejected(rejection))
        }
    }
}

/// Returns that the name of a Job is taken by one that the controller has not created.
fn name_is_taken(job: &Job) -> JobRejection {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let message = format!(
        "the Job {name} exists and was not created by this installation, or was changed since; it \
         is not used; delete it: kubectl delete job -n {namespace} {name}"
    );
    JobRejection::NotNow(Problem { reason: Reason::JobRefused, message })
}

/// Returns that the API server stores another Job than it was sent.
fn changed_by_webhook(job: &Job) -> JobRejection {
    let message = format!(
        "a webhook of the cluster changes the labels or the containers of the Job {} while it is \
         created: a name, an image, a command or a variable; let it leave out the Jobs with the \
         label {}: {}",
        job.name_any(),
        labels::MANAGED_BY,
        labels::MANAGED_BY_VALUE,
    );
    JobRejection::NotNow(Problem { reason: Reason::JobRefused, message })
}

fn without_user_namespace() -> JobRejection {
    let message = "the cluster drops `hostUsers: false` from pods, so the build would have its \
                   capabilities on the host; use a cluster with user namespaces (Kubernetes 1.33 \
                   or newer), or a strategy that needs none";
    JobRejection::Failed(BuildFailure {
        class: FailureClass::Infrastructure,
        reason: Reason::UserNamespaceUnavailable.into(),
        message: message.into(),
    })
}
