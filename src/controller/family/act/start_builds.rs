//! Starts builds: one Job per fingerprint and attempt. The name of the Job says which, so that none
//! is started twice. Needs a client.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};

use crate::{
    api::{
        BuildFailure, Edge, EdgeUse, FailureClass, Image, ImageState, RunningBuild, SourceKind,
        condition::reason, labels,
    },
    builds::{
        self,
        outcome::JobRefusal,
        request::{
            BuildParent, BuildRequest, FamilyIdentity, GitSecret, ParentNaming, ResolvedSource,
        },
    },
    controller::{
        deferred_jobs::Refusal,
        error::ReconcileError,
        family::{
            act::jobs::{Acceptance, JobCreation, JobStarts, check_acceptance, create_jobs},
            observe::strategies::strategy_ref,
            reconcile::Reconcile,
        },
        object_cache::Key,
    },
    engine::{Action, DeferredWork, PinnedParent, causes, image::failure, tags},
    identity::BuildIdentity,
    lineage::Import,
    registry::Reference,
};

/// A build whose Job can be created.
struct PreparedBuild {
    request: BuildRequest,
    job: Job,
}

/// Whether the Job of a build can be created.
enum Preparation {
    Ready(Box<PreparedBuild>),
    Refused(JobRefusal),
}

/// The result of a build that the decision asks for.
enum BuildStart {
    Started(RunningBuild),
    Refused(JobRefusal),
}

impl Reconcile<'_> {
    /// Starts the builds that the decision asks for, and adds the results to the decision.
    pub async fn start_builds(&mut self) -> Result<JobStarts, ReconcileError> {
        let is_build = |action: &&Action| matches!(action, Action::Build { .. });
        let actions: Vec<Action> = self.decision.actions.iter().filter(is_build).cloned().collect();
        let (mut prepared, mut requests, mut jobs) = (Vec::new(), Vec::new(), Vec::new());
        let mut refused = Vec::new();
        for action in &actions {
            match self.prepare_build(action).await? {
                Preparation::Ready(build) => {
                    prepared.push(action);
                    requests.push(build.request);
                    jobs.push(build.job);
                }
                Preparation::Refused(refusal) => refused.push((action, refusal)),
            }
        }
        let api = self.api();
        let created = create_jobs(&self.context.stores.jobs, &api, &jobs, self.cache).await?;
        for ((action, request), created) in prepared.into_iter().zip(requests).zip(created) {
            match created {
                JobCreation::Exists(job) => {
                    self.add_build(action, BuildStart::Started(running(request, &job)));
                }
                JobCreation::Refused(refusal) => refused.push((action, refusal)),
            }
        }
        let starts = JobStarts::of(refused.iter().map(|(_, refusal)| refusal));
        for (action, refusal) in refused {
            self.add_build(action, BuildStart::Refused(refusal));
        }
        Ok(starts)
    }

    /// Adds the result of a build to the decision about its image. A refused build counts as an
    /// attempt, on the retry budget of its class, so that it is neither retried for ever nor
    /// forgotten. A build that is not admitted now waits, and counts as no attempt.
    fn add_build(&mut self, action: &Action, start: BuildStart) {
        let Action::Build { image: index, identity, .. } = action else { return };
        let name = self.image_name(*index).to_owned();
        let family = self.snapshot.family.uid().unwrap_or_default();
        let job_version = self.snapshot.job_version(*index);
        let Some(image) = self.decision.images.get_mut(index.position()) else { return };
        match start {
            BuildStart::Started(running) => {
                image.message = format!(
                    "build {} runs as Job {}: {}",
                    running.build,
                    running.job,
                    causes::sentence(&image.causes)
                )
                .into();
                image.running = Some(running.into());
            }
            BuildStart::Refused(JobRefusal::NotNow(problem)) => {
                image.state = ImageState::Queued;
                image.reason = problem.reason;
                image.message = problem.message.clone().into();
                let work = DeferredWork::Build(identity.fingerprint.clone());
                let refusal = Refusal { image: name, work, problem, job_uid: None, retry_at: None };
                self.cache.deferred_jobs.record(refusal, &family, job_version, self.now);
            }
            BuildStart::Refused(JobRefusal::Failed(refused)) => {
                image.state = ImageState::Queued;
                image.reason = reason::RETRYING;
                image.message = refused.message.clone().into();
                let cause = causes::key(&name, &image.causes);
                let BuildIdentity { fingerprint, attempt, cascade, .. } = identity;
                let failed = failure::FailedAttempt { attempt: *attempt, cascade, cause: &cause };
                let known = image.failure.take().map(|known| *known);
                let added = failure::add_failure(known, fingerprint, &failed, refused, self.now);
                image.failure = Some(failure::of_version(added, job_version).into());
            }
        }
    }

    /// Prepares the Job of one build.
    async fn prepare_build(&mut self, action: &Action) -> Result<Preparation, ReconcileError> {
        use FailureClass::{Infrastructure, Input};

        let refused = |class, reason: &str, message: String| {
            let failure = BuildFailure { class, reason: reason.into(), message };
            Ok(Preparation::Refused(JobRefusal::Failed(failure)))
        };
        let (Action::Build { image: index, .. }, Some(request)) =
            (action, self.build_request(action))
        else {
            let message = "an input of the build was deleted while the build was started";
            return refused(Infrastructure, reason::SOURCE_NOT_FOUND, message.into());
        };
        let (Some(image), Some(strategy)) = (
            self.image(*index),
            self.snapshot.strategies.get(index.position()).and_then(Option::as_ref),
        ) else {
            let message = "the build strategy was deleted while the build was started";
            return refused(Infrastructure, reason::STRATEGY_NOT_FOUND, message.into());
        };
        let wanted = strategy_ref(&self.snapshot.family.spec, image);
        let job = match builds::job::job(&request, strategy, wanted, &self.context.environment) {
            Ok(job) => job,
            Err(error) => {
                let message = format!("spec.images[{}].strategy: {error}", image.name);
                return refused(Input, reason::INVALID_STRATEGY, message);
            }
        };
        let revision =
            builds::strategy_revision::strategy_revision(strategy, wanted, &request.platform);
        let kind = format!("{}/{revision:?}", strategy.name_any());
        Ok(match check_acceptance(&self.api(), &job, kind, self.cache).await? {
            Acceptance::Accepted | Acceptance::Unknown => {
                Preparation::Ready(Box::new(PreparedBuild { request, job }))
            }
            Acceptance::Refused(refusal) => Preparation::Refused(refusal),
        })
    }

    /// Returns what the build is to make, or `None` if an input is gone.
    fn build_request(&self, action: &Action) -> Option<BuildRequest> {
        let Action::Build { image: index, identity, parents, source } = action else { return None };
        let family = &self.snapshot.family;
        let image = self.image(*index)?;
        let repository = self.snapshot.repository(*index);
        let parents: Vec<BuildParent> = parents.iter().map(build_parent).collect();
        Some(BuildRequest {
            family: FamilyIdentity {
                namespace: self.snapshot.key.namespace.clone(),
                name: self.snapshot.key.name.clone(),
                uid: family.uid().unwrap_or_default(),
            },
            image: image.name.clone(),
            reference: format!("{repository}:{}", tags::pushed_as(&identity.fingerprint)),
            plain_http: self.is_plain_http(&repository),
            annotations: annotations(image, &parents, source, identity),
            platform: self.snapshot.platform(*index)?.clone(),
            repository,
            identity: identity.clone(),
            parents,
            source: self.resolved_source(image, source)?,
            args: image.args.clone(),
            target: image.target.clone(),
            labels: image.labels.clone(),
            credentials: family.spec.credentials.clone(),
            owner: family.controller_owner_ref(&())?,
        })
    }

    /// Returns the source of a build, pinned to a revision.
    fn resolved_source(&self, image: &Image, revision: &str) -> Option<ResolvedSource> {
        Some(match image.source.kind()? {
            SourceKind::Inline(dockerfile) => {
                ResolvedSource::Inline { dockerfile: dockerfile.to_owned() }
            }
            SourceKind::ConfigMap(source) => ResolvedSource::ConfigMap {
                name: source.name.clone(),
                items: source.items.clone(),
                hash: revision.into(),
            },
            SourceKind::Git(source) => ResolvedSource::Git {
                url: source.url.clone(),
                commit: revision.into(),
                path: source.path.clone(),
                dockerfile: source.dockerfile.clone(),
                secret: source.secret_ref.as_ref().map(|secret| GitSecret {
                    name: secret.name.clone(),
                    hosts: self.credential_hosts(&secret.name),
                }),
            },
        })
    }

    /// Returns whether the registry of a repository is reached without TLS.
    fn is_plain_http(&self, repository: &str) -> bool {
        repository
            .parse::<Reference>()
            .is_ok_and(|reference| self.context.registry.is_plain_http(reference.registry()))
    }

    /// Returns the hosts to which the credential in a Secret may be sent, as its annotation lists
    /// them.
    fn credential_hosts(&self, secret: &str) -> String {
        let key = Key::new(&self.snapshot.key.namespace, secret);
        let secret = self.context.stores.secrets.get(&key);
        secret
            .and_then(|secret| secret.annotations().get(labels::CREDENTIAL_HOSTS).cloned())
            .unwrap_or_default()
    }
}

fn running(request: BuildRequest, job: &Job) -> RunningBuild {
    RunningBuild {
        job: job.name_any(),
        fingerprint: request.identity.fingerprint.into(),
        build: request.identity.number,
        attempt: request.identity.attempt,
        started_at: job.creation_timestamp().map(|time| time.0),
    }
}

fn build_parent(parent: &PinnedParent) -> BuildParent {
    BuildParent {
        name: parent_name(&parent.edge),
        repository: parent.repository.clone(),
        digest: parent.digest.clone(),
        naming: parent
            .edge
            .arg
            .clone()
            .map_or_else(|| ParentNaming::Reference(parent.reference.clone()), ParentNaming::Arg),
        usage: parent.edge.usage,
    }
}

/// Returns the name of a parent as causes and messages write it: see [`Import`].
fn parent_name(edge: &Edge) -> String {
    let import = edge.family.as_ref().map(|family| Import {
        namespace: family.namespace.clone(),
        family: family.name.clone(),
        image: edge.parent().into(),
    });
    import.map_or_else(|| edge.parent().into(), |import| import.to_string())
}

/// Returns the annotations of the image's manifest, named as in the OCI image specification.
/// The date is not known yet: `prepare` finds it.
fn annotations(
    image: &Image,
    parents: &[BuildParent],
    revision: &str,
    identity: &BuildIdentity,
) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([
        (labels::OCI_FINGERPRINT.to_owned(), identity.fingerprint.to_string()),
        (labels::OCI_BUILD.to_owned(), identity.number.to_string()),
        ("org.opencontainers.image.revision".to_owned(), revision.to_owned()),
    ]);
    if let Some(base) = parents.iter().find(|parent| parent.usage == EdgeUse::Base) {
        let name = match &base.naming {
            ParentNaming::Reference(reference) => reference.clone(),
            ParentNaming::Arg(_) => base.repository.clone(),
        };
        annotations.insert("org.opencontainers.image.base.name".into(), name);
        annotations.insert("org.opencontainers.image.base.digest".into(), base.digest.to_string());
    }
    if let Some(git) = &image.source.git {
        annotations.insert("org.opencontainers.image.source".into(), git.url.clone());
    }
    annotations
}
