//! Jobs are made, each at most once, so that it is known afterwards whether one was, and ended:
//! builds and checks alike.

use futures::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use tracing::{info, warn};

use crate::{
    api::{BuildFailure, FailureClass, condition::reason},
    builds::{job::drops_user_namespace, outcome},
    controller::{
        context::{Context, ReconcileCache},
        error::{ReconcileError, call},
        family::observe::snapshot::Snapshot,
        object_cache::{Key, ObjectCache},
        writes::delete,
    },
    engine::{Action, Decision},
    identity::JobName,
};

/// How many Jobs are made at once.
const AT_ONCE: usize = 8;
/// The most kinds of Jobs that are remembered to be accepted: strategies with their settings, and
/// checks.
const MAX_ACCEPTED: usize = 64;

/// Looks for the Jobs that an earlier pass has asked for without hearing an answer. They may run,
/// and no watch has shown them yet: a pass that did not know of them would start more than the
/// budgets allow.
pub async fn look_for_unanswered(
    jobs: &ObjectCache<Job>,
    client: &Client,
    namespace: &str,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    while let Some(name) = cache.unanswered.first().cloned() {
        if jobs.get(&Key::new(namespace, &name)).is_none()
            && let Some(job) = existing(&api, &name).await?
        {
            jobs.wrote(job);
        }
        cache.unanswered.remove(&name);
    }
    Ok(())
}

/// Ends the Jobs that count as failed or are cancelled, and have not ended: a pod that waits for an
/// image, for example. That is recorded by then.
pub async fn end(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
) -> Result<(), ReconcileError> {
    let api: Api<Job> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    let decided = decision.actions.iter().filter_map(|action| match action {
        Action::Stop { job } => Some(job),
        _ => None,
    });
    for job in decided.chain(&snapshot.failed_checks).map(JobName::as_str) {
        let known = context.stores.jobs.get(&Key::new(&snapshot.key.namespace, job));
        if known.is_some_and(|job| job.metadata.deletion_timestamp.is_none()) {
            delete(&api, job, &DeleteParams::foreground()).await?;
            info!(job, "Job ended");
        }
    }
    Ok(())
}

/// Whether the API server takes Jobs of this kind as they are: asked once for each kind, which
/// `kind` names.
pub async fn accepted(
    api: &Api<Job>,
    job: &Job,
    kind: String,
    cache: &mut ReconcileCache,
) -> Result<Result<(), BuildFailure>, ReconcileError> {
    if cache.accepted_jobs.contains(&kind) {
        return Ok(Ok(()));
    }
    match accepts(api, job).await? {
        Acceptance::Kept => {
            if cache.accepted_jobs.len() >= MAX_ACCEPTED {
                cache.accepted_jobs.clear();
            }
            cache.accepted_jobs.insert(kind);
        }
        Acceptance::Unknown => {}
        Acceptance::Refused(failure) => return Ok(Err(failure)),
    }
    Ok(Ok(()))
}

/// What the API server makes of a Job's pods.
enum Acceptance {
    /// It keeps what they need.
    Kept,
    /// It could not be told.
    Unknown,
    /// It drops something, or refuses them.
    Refused(BuildFailure),
}

/// Whether the API server keeps what the Job needs: asked once, without making anything.
async fn accepts(api: &Api<Job>, job: &Job) -> Result<Acceptance, ReconcileError> {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let what = || format!("try Job {}", job.name_any());
    match call(what, api.create(&dry, job)).await {
        Ok(returned) if drops_user_namespace(job, &returned) => {
            Ok(Acceptance::Refused(without_user_namespace()))
        }
        Ok(_) => Ok(Acceptance::Kept),
        // Made by an earlier pass; `create` looks at it.
        Err(error) if error.is_already_exists() => Ok(Acceptance::Unknown),
        Err(error) if error.is_refusal() => Ok(match existing(api, &job.name_any()).await? {
            Some(_) => Acceptance::Unknown,
            None => Acceptance::Refused(rejected(&error)),
        }),
        Err(error) => Err(error),
    }
}

/// The Job of this name. Quotas and policies are asked before the API server looks for the name, so
/// that a refusal does not say that no earlier pass has made it.
async fn existing(api: &Api<Job>, name: &str) -> Result<Option<Job>, ReconcileError> {
    call(|| format!("read Job {name}"), api.get_opt(name)).await
}

/// Makes Jobs, some at once, and shows them to the cache. One that is there already was made by an
/// earlier pass whose record was lost: it is taken, even if the API server would refuse another.
/// What came of each is told in their order.
pub async fn create(
    jobs: &ObjectCache<Job>,
    api: &Api<Job>,
    wanted: &[Job],
    cache: &mut ReconcileCache,
) -> Result<Vec<Result<Job, BuildFailure>>, ReconcileError> {
    let mut created = Vec::with_capacity(wanted.len());
    for wanted in wanted.chunks(AT_ONCE) {
        // Until an answer says what came of it, even if this pass goes no further.
        cache.unanswered.extend(wanted.iter().map(ResourceExt::name_any));
        let answers = join_all(wanted.iter().map(|job| create_or_take(jobs, api, job))).await;
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

async fn create_or_take(
    jobs: &ObjectCache<Job>,
    api: &Api<Job>,
    job: &Job,
) -> Result<Result<Job, BuildFailure>, ReconcileError> {
    let name = job.name_any();
    match call(|| format!("create Job {name}"), api.create(&PostParams::default(), job)).await {
        Ok(created) => {
            info!(job = %name, "Job started");
            jobs.wrote(created.clone());
            Ok(Ok(created))
        }
        Err(error) if error.is_already_exists() || error.is_refusal() => {
            if let Some(existing) = existing(api, &name).await? {
                jobs.wrote(existing.clone());
                return Ok(if drops_user_namespace(job, &existing) {
                    Err(without_user_namespace())
                } else {
                    Ok(existing)
                });
            }
            if !error.is_refusal() {
                // Gone since.
                return Err(error);
            }
            warn!(job = %name, %error, "a Job could not be started");
            Ok(Err(rejected(&error)))
        }
        Err(error) => Err(error),
    }
}

/// The failure of a Job that the API server refuses.
fn rejected(error: &ReconcileError) -> BuildFailure {
    if error.is_forbidden() {
        outcome::job_forbidden(&error.to_string())
    } else {
        outcome::job_invalid(&error.to_string())
    }
}

fn without_user_namespace() -> BuildFailure {
    let message = "the cluster drops `hostUsers: false` from pods, so the build would have its \
                   capabilities on the host; use a cluster with user namespaces (Kubernetes 1.33 \
                   or newer), or a strategy that needs none";
    BuildFailure {
        class: FailureClass::Infrastructure,
        reason: reason::USER_NAMESPACE_UNAVAILABLE.into(),
        message: message.into(),
    }
}
