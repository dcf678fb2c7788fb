//! Starts builds: one Job per fingerprint and attempt. The name of the Job says which, so that none
//! is started twice. Needs a client.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt};
use tracing::info;

use crate::{
    api::{
        BuildFailure, Cause, EdgeUse, FailureClass, Image, ImageState, RunningBuild, SourceKind,
        condition::Reason, labels,
    },
    builds::{
        self,
        outcome::JobRejection,
        request::{BuildRequest, FamilyIdentity, GitSecret, ResolvedSource},
    },
    controller::{
        deferred_jobs::Rejection,
        error::ReconcileError,
        family::{
            act::jobs::{Acceptance, JobCreation, JobStarts, check_acceptance, create_jobs},
            observe::strategies::strategy_ref,
            reconcile::Reconcile,
        },
        job_seals,
        object_cache::Key,
    },
    engine::{DeferredWork, PlannedBuild, causes, tags},
    identity::{BuildIdentity, FolderRevision, ParentNaming},
    registry::Reference,
};

/// A build whose Job can be created.
struct PreparedBuild {
    build: PlannedBuild,
    job: Job,
}

/// A build whose Job cannot be created.
struct RejectedBuild {
    build: PlannedBuild,
    rejection: JobRejection,
}

/// Whether the Job of a build can be created.
enum Preparation {
    Ready(Box<Job>),
    Rejected(JobRejection),
}

/// The result of a build that the decision asks for.
enum BuildStart {
    Started(RunningBuild),
    Rejected(JobRejection),
}

impl Reconcile<'_> {
    /// Starts the builds that the decision asks for, and adds the results to the decision.
    pub async fn start_builds(&mut self) -> Result<JobStarts, ReconcileError> {
        let builds: Vec<PlannedBuild> = self.decision.builds().cloned().collect();
        let (mut prepared, mut rejected) = (Vec::new(), Vec::new());
        for build in builds {
            match self.prepare_build(&build).await? {
                Preparation::Ready(job) => prepared.push(PreparedBuild { build, job: *job }),
                Preparation::Rejected(rejection) => {
                    rejected.push(RejectedBuild { build, rejection });
                }
            }
        }
        let api = self.api();
        let jobs: Vec<&Job> = prepared.iter().map(|prepared| &prepared.job).collect();
        let created = create_jobs(&self.context.stores.jobs, &api, &jobs, self.cache).await?;
        let now = self.context.clock.now();
        for (PreparedBuild { build, .. }, created) in prepared.into_iter().zip(created) {
            match created {
                JobCreation::Exists(job) => {
                    if let Some(delay) = self.start_delay(&build, now) {
                        self.context.metrics.build_started(delay);
                    }
                    self.add_build(&build, BuildStart::Started(running(&build.identity, &job)));
                }
                JobCreation::Rejected(rejection) => {
                    rejected.push(RejectedBuild { build, rejection });
                }
            }
        }
        let starts = JobStarts::of(rejected.iter().map(|rejected| &rejected.rejection));
        for RejectedBuild { build, rejection } in rejected {
            self.add_build(&build, BuildStart::Rejected(rejection));
        }
        Ok(starts)
    }

    /// Adds the result of a build to the decision about its image. A rejected build counts as an
    /// attempt, on the retry budget of its class, so that it is neither retried for ever nor
    /// forgotten. A build that is not admitted now waits, and counts as no attempt.
    fn add_build(&mut self, build: &PlannedBuild, start: BuildStart) {
        let name = self.image_name(build.image).to_owned();
        let family = self.snapshot.family.uid().unwrap_or_default();
        let job_version = self.snapshot.job_version(build.image);
        let Some(image) = self.decision.images.get_mut(build.image.position()) else { return };
        match start {
            // Its last Job was rejected, and says so until this one has a pod.
            BuildStart::Started(running) if image.state == ImageState::Queued => {
                image.running = Some(running.into());
            }
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
            BuildStart::Rejected(JobRejection::NotNow(problem)) => {
                image.state = ImageState::Queued;
                image.reason = problem.reason;
                image.message = problem.message.clone().into();
                info!(image = name, message = %problem.message, "the Job is not admitted now");
                let work = DeferredWork::Build(build.identity.fingerprint.clone());
                let rejection =
                    Rejection { image: name, work, problem, job_uid: None, retry_at: None };
                self.cache.deferred_jobs.record(rejection, &family, job_version, self.now);
            }
            BuildStart::Rejected(JobRejection::Failed(rejected)) => {
                let versions = self.snapshot.versions(build.image);
                image.count_refused_build(&name, &build.identity, rejected, versions, self.now);
            }
        }
    }

    /// Prepares the Job of one build.
    async fn prepare_build(&mut self, build: &PlannedBuild) -> Result<Preparation, ReconcileError> {
        use FailureClass::{Infrastructure, Input};

        let rejected = |class, reason: Reason, message: String| {
            let failure = BuildFailure { class, reason: reason.into(), message };
            Ok(Preparation::Rejected(JobRejection::Failed(failure)))
        };
        let Some(request) = self.build_request(build) else {
            let message = "an input of the build was deleted while the build was started";
            return rejected(Infrastructure, Reason::SourceNotFound, message.into());
        };
        let (Some(image), Some(strategy)) = (
            self.image(build.image),
            self.snapshot.strategies.get(build.image.position()).and_then(Option::as_ref),
        ) else {
            let message = "the build strategy was deleted while the build was started";
            return rejected(Infrastructure, Reason::StrategyNotFound, message.into());
        };
        let wanted = strategy_ref(&self.snapshot.family.spec, image);
        let made = builds::job::job(&request, strategy, wanted, &self.context.environment);
        let mut job = match made {
            Ok(job) => job,
            Err(error) => {
                let message = format!("spec.images[{}].strategy: {error}", image.name);
                return rejected(Input, Reason::InvalidStrategy, message);
            }
        };
        job_seals::seal(&mut job, &self.context.records.keys);
        let revision = builds::strategy_revision::pod_revision(strategy, wanted);
        let kind = format!("{}/{revision:?}", strategy.name_any());
        Ok(match check_acceptance(&self.api(), &job, kind, self.cache).await? {
            Acceptance::Accepted | Acceptance::Unknown => Preparation::Ready(Box::new(job)),
            Acceptance::Rejected(rejection) => Preparation::Rejected(rejection),
        })
    }

    /// Returns what the build is to make, or `None` if an input is gone.
    fn build_request(&self, build: &PlannedBuild) -> Option<BuildRequest> {
        let family = &self.snapshot.family;
        let image = self.image(build.image)?;
        let repository = self.snapshot.repository(build.image);
        Some(BuildRequest {
            family: FamilyIdentity {
                namespace: self.snapshot.key.namespace.clone(),
                name: self.snapshot.key.name.clone(),
                uid: family.uid().unwrap_or_default(),
            },
            image: image.name.clone(),
            reference: format!("{repository}:{}", tags::pushed_as(&build.identity.fingerprint)),
            plain_http: self.is_plain_http(&repository),
            annotations: self.image_annotations(image, build),
            platform: self.snapshot.platform(build.image)?.clone(),
            repository,
            identity: build.identity.clone(),
            parents: build.parents.clone(),
            source: self.resolved_source(image, build)?,
            args: arguments(image, self.snapshot.folder(build.image)),
            target: image.target.clone(),
            labels: image.labels.clone(),
            credentials: family.spec.credentials.clone(),
            no_cache: self.causes_of(build).iter().any(Cause::asks_for_what_is_outside),
            owner: family.controller_owner_ref(&())?,
        })
    }

    /// Returns why an image is built.
    fn causes_of(&self, build: &PlannedBuild) -> &[Cause] {
        let decided = self.decision.images.get(build.image.position());
        decided.map_or(&[], |decided| &decided.causes)
    }

    /// Returns the annotations of the image's manifest, with the id of the request that causes a
    /// build from unchanged inputs.
    fn image_annotations(&self, image: &Image, build: &PlannedBuild) -> BTreeMap<String, String> {
        let mut annotations = annotations(image, build, self.snapshot.folder(build.image));
        let decided = self.decision.images.get(build.image.position());
        let request = decided.and_then(|decided| decided.inputs.as_ref()).map(|of| &of.nonce);
        if let Some(id) = request.filter(|id| labels::is_annotated_request(id)) {
            annotations.insert(labels::OCI_REQUEST.into(), id.clone());
        }
        annotations
    }

    /// Returns the source of a build, pinned to a revision.
    fn resolved_source(&self, image: &Image, build: &PlannedBuild) -> Option<ResolvedSource> {
        Some(match image.source.kind()? {
            SourceKind::Inline(dockerfile) => {
                ResolvedSource::Inline { dockerfile: dockerfile.to_owned() }
            }
            SourceKind::ConfigMap(source) => ResolvedSource::ConfigMap {
                name: source.name.clone(),
                items: source.items.clone(),
                hash: build.source.clone(),
            },
            SourceKind::Git(source) => ResolvedSource::Git {
                url: source.url.clone(),
                commit: self.snapshot.folder(build.image)?.commit.clone(),
                path: Some(source.folder().ok()?).filter(|folder| !folder.is_empty()),
                dockerfile: source.dockerfile_path().ok()?,
                include: source.include.clone(),
                exclude: source.exclude.clone(),
                submodules: source.submodules,
                lfs: source.lfs,
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

fn running(identity: &BuildIdentity, job: &Job) -> RunningBuild {
    RunningBuild {
        job: job.name_any(),
        fingerprint: (&identity.fingerprint).into(),
        build: identity.number,
        attempt: identity.attempt,
        started_at: job.creation_timestamp().map(|time| time.0),
    }
}

/// Returns the build arguments: those of the spec, and that for the commit of a source in Git.
fn arguments(image: &Image, folder: Option<&Arc<FolderRevision>>) -> BTreeMap<String, String> {
    let mut args = image.args.clone();
    let arg = image.source.git.as_ref().and_then(|git| git.commit_arg.clone());
    if let (Some(arg), Some(folder)) = (arg, folder) {
        args.entry(arg).or_insert_with(|| folder.last_change().to_owned());
    }
    args
}

/// Returns the annotations of the image's manifest, named as in the OCI image specification.
/// The date is not known yet: `prepare` finds it.
fn annotations(
    image: &Image,
    build: &PlannedBuild,
    folder: Option<&Arc<FolderRevision>>,
) -> BTreeMap<String, String> {
    let revision = folder.map_or_else(|| build.source.clone(), |folder| folder.commit.clone());
    let mut annotations = BTreeMap::from([
        (labels::OCI_FINGERPRINT.to_owned(), build.identity.fingerprint.to_string()),
        (labels::OCI_BUILD.to_owned(), build.identity.number.to_string()),
        ("org.opencontainers.image.revision".to_owned(), revision),
    ]);
    if let Some(base) = build.parents.iter().find(|parent| parent.usage == EdgeUse::Base) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{GitSource, Source},
        identity::FolderCommit,
    };

    #[test]
    fn the_argument_for_the_commit_is_the_newest_one_that_has_changed_the_folder() {
        let git = GitSource { commit_arg: Some("COMMIT".into()), ..GitSource::default() };
        let mut image = Image {
            args: [("MODE".to_owned(), "fast".to_owned())].into(),
            source: Source { git: Some(git), ..Source::default() },
            ..Image::default()
        };
        let changed_by = |id: &str| FolderCommit { id: id.into(), before: None };
        let commit = |image: &Image, touched_by: Vec<FolderCommit>| {
            let folder = FolderRevision { commit: "head".into(), touched_by, ..Default::default() };
            let args = arguments(image, Some(&folder.into()));
            assert_eq!(args["MODE"], "fast");
            args.get("COMMIT").cloned()
        };
        let newest = vec![changed_by("newest"), changed_by("older")];
        assert_eq!(commit(&image, newest.clone()).as_deref(), Some("newest"));
        assert_eq!(commit(&image, Vec::new()).as_deref(), Some("head"));
        image.args.insert("COMMIT".into(), "own".into());
        assert_eq!(commit(&image, newest.clone()).as_deref(), Some("own"));
        image.args.remove("COMMIT");
        image.source.git = Some(GitSource::default());
        assert_eq!(commit(&image, newest), None);
    }
}
