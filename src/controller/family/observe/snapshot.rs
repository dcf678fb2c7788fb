//! The snapshot: everything that the decision needs. Taking it needs a client; the rest is pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api::{
        BuildStrategy, Cascade, CascadeStatus, ImageFamily, ImageFamilySpec, ImageFamilyStatus,
        ManagedImage, late_source::LateSource,
    },
    controller::{
        error::ReconcileError,
        family::observe::{
            Observer, cascades,
            dockerfiles::DockerfileEffects,
            imports,
            jobs::{ObservedJobs, RejectedPods},
            platform::DefaultPlatform,
            records,
            requests::OpenRequests,
            sources::ObservedSource,
            strategies::ImageStrategies,
            tags::PolledTags,
        },
        object_cache::Key,
        reconcile_cache::ReconcileCache,
    },
    engine::{
        Blueprint, BuildAllowance, DecideInput, EndedCascade, Observed, ObservedBuild,
        ObservedCascade, ObservedCheck, ObservedImage, ObservedImport, ObservedUpstream,
        VerifiedBuild, blueprint::ImageBlueprint, image::attempts::JobVersions,
    },
    identity::{CascadeName, FolderRevision, JobName},
    lineage::ImageIndex,
    registry::{Keychain, Platform},
};

/// Everything that one reconcile has read, owned.
pub struct Snapshot {
    /// The family.
    pub family: Arc<ImageFamily>,
    /// The family's key.
    pub key: Key,
    /// What follows from its spec.
    pub blueprint: Arc<Blueprint>,
    /// Its registry credentials.
    pub keychain: Arc<Keychain>,
    /// The records of its images, in the order of `spec.images`.
    pub records: Vec<Option<Arc<ManagedImage>>>,
    /// The running cascades, the oldest first.
    pub cascades: Vec<Arc<Cascade>>,
    /// Their names, and those of the ones that they have replaced.
    cascade_names: Vec<CascadeNames>,
    /// The ended cascades, the last that ended last.
    ended: Vec<EndedCascade>,
    /// The strategies of its images, in the order of `spec.images`.
    pub strategies: Vec<Option<Arc<BuildStrategy>>>,
    /// The platforms of the images' builds, in the order of `spec.images`.
    platforms: Vec<Option<Arc<Platform>>>,
    /// The same as texts.
    platform_names: Vec<Option<Arc<str>>>,
    /// The platform of builds whose strategies name none.
    pub default_platform: DefaultPlatform,
    /// Whether the strategy of each image names no platform.
    use_default_platform: Vec<bool>,
    /// The images of other families, in the order in which the lineage lists them.
    pub imports: Vec<ObservedImport>,
    /// The family's status.
    status: ImageFamilyStatus,
    /// The upstreams, in the order of `spec.upstreams`.
    pub(super) upstreams: Vec<ObservedUpstream>,
    /// The sources, in the order of `spec.images`.
    sources: Vec<ObservedSource>,
    /// The Git sources whose next poll is late.
    pub late_sources: Vec<LateSource>,
    /// The revisions of the strategies, in the order of `spec.images`.
    strategy_revisions: Vec<Observed<String>>,
    /// Builds whose Jobs exist, in the order of `spec.images`.
    builds: Vec<Vec<ObservedBuild>>,
    /// See [`ObservedJobs::durations`].
    pub durations: HashMap<String, i64>,
    /// Builds of images that the family no longer has.
    orphans: Vec<ObservedBuild>,
    /// Checks of images that the family no longer has.
    orphan_checks: Vec<ObservedCheck>,
    /// Checks whose Jobs exist, in the order of `spec.images`.
    pub checks: Vec<Vec<ObservedCheck>>,
    /// See [`ObservedJobs::ended_live_checks`].
    pub ended_live_checks: Vec<JobName>,
    /// Jobs whose pods were rejected. They are deleted, and created again after a pause.
    pub rejected_jobs: Vec<JobName>,
    /// Versions of the spec and of the strategy that the Jobs of each image are made of, in the
    /// order of `spec.images`.
    job_versions: Vec<String>,
    /// What the pods of each image's builds are made of, as far as it is no part of fingerprints.
    pod_versions: Vec<String>,
    /// The version of the Secrets with the family's credentials.
    credentials_version: Arc<str>,
    /// The last verified builds of the records, in the order of `spec.images`.
    verified: Vec<Option<Arc<VerifiedBuild>>>,
    /// The tags of other families in the repositories of images whose tags name labels.
    foreign_tags: Vec<Arc<BTreeMap<String, String>>>,
    /// The requests of users that have not ended.
    pub requests: OpenRequests,
    /// What Dockerfiles say of the spec.
    pub dockerfiles: DockerfileEffects,
    /// What polls have found of our own tags, in the order of `spec.images`.
    pub(super) polled_tags: Vec<PolledTags>,
    /// The status of a cascade that has none yet.
    empty_cascade_status: CascadeStatus,
    /// What the operator's limits leave to the family.
    pub allowance: BuildAllowance,
    /// See [`ObservedJobs::recheck_pods_at`].
    pub recheck_pods_at: Option<Timestamp>,
    /// Immutable tags that were found taken before this time are read again.
    pub(super) taken_tags_expire: Timestamp,
}

/// The names of a running cascade.
struct CascadeNames {
    own: CascadeName,
    /// The cascade that it has replaced.
    superseded: Option<CascadeName>,
}

impl CascadeNames {
    fn of(cascade: &Cascade) -> Self {
        let superseded = cascade.spec.supersedes.as_ref().map(CascadeName::from);
        Self { own: cascade.name_any().into(), superseded }
    }
}

impl Observer<'_> {
    /// Takes the snapshot.
    ///
    /// # Errors
    ///
    /// Returns an error if a call to the API server fails.
    pub async fn take_snapshot(
        &mut self,
        blueprint: Arc<Blueprint>,
        keychain: Arc<Keychain>,
        default_platform: DefaultPlatform,
        strategies: ImageStrategies,
    ) -> Result<Snapshot, ReconcileError> {
        let family = Arc::clone(&self.family);
        let spec = &family.spec;
        let mut records = self.records_by_image();
        let sources = self.take_sources(&blueprint);
        let ImageStrategies {
            strategies,
            revisions: strategy_revisions,
            pod_revisions,
            platforms,
            use_default: use_default_platform,
            upstream_platforms,
        } = strategies;
        self.read_pod_events().await;
        self.read_final_pods().await?;
        let (events, ended) = (&self.cache.pod_events.events, &mut self.cache.ended_jobs);
        let stores = &self.context.stores;
        let mut jobs = ObservedJobs::of(stores, &self.key, &keychain, events, ended, self.now);
        jobs.require_reports(self.context.records.policy);
        let pods = self.context.environment.pods.version();
        let job_versions = job_versions(&family, &strategies, &pods);
        let pod_versions =
            pod_revisions.iter().map(|revision| format!("{revision}/{pods}")).collect();
        self.note_admissions(&jobs, &job_versions);
        let mut builds = take_in_order(spec, &mut jobs.builds);
        for (builds, image) in builds.iter_mut().zip(&blueprint.images) {
            for build in builds {
                build.ignore_other_repository(&image.repository);
            }
        }
        let checks = take_in_order(spec, &mut jobs.checks);
        let cascades = self.cascades().await?;
        let requests = self.requests().await?;
        let upstreams = self.upstreams(&keychain, &upstream_platforms);
        let polled_tags = spec
            .images
            .iter()
            .map(|image| self.polled_tags(records.get(&image.name), &keychain))
            .collect();
        let records: Vec<_> = spec
            .images
            .iter()
            .map(|image| {
                let stored = records::current_record(spec, image, &mut records, self.cache)?;
                Some(self.cache.deferred_statuses.apply_to(&image.name, stored))
            })
            .collect();
        for ((image, record), builds) in spec.images.iter().zip(&records).zip(&builds) {
            let record = record.as_ref();
            records::invalidate_lookups(&image.name, record, builds, &mut self.cache.lookups);
        }
        let survey = self.survey_imports();
        Ok(Snapshot {
            upstreams,
            polled_tags,
            builds,
            orphans: jobs.builds.into_values().flatten().collect(),
            orphan_checks: jobs.checks.into_values().flatten().collect(),
            checks,
            durations: jobs.durations,
            ended_live_checks: jobs.ended_live_checks,
            rejected_jobs: jobs.rejected.into_iter().map(|rejected| rejected.job).collect(),
            job_versions,
            foreign_tags: self.foreign_tags(&blueprint),
            verified: records.iter().map(|record| records::verified(record.as_ref())).collect(),
            records,
            requests,
            cascade_names: cascades.running.iter().map(|it| CascadeNames::of(it)).collect(),
            cascades: cascades.running,
            ended: cascades.ended.iter().map(cascades::ended).collect(),
            status: family.status.clone().unwrap_or_default(),
            empty_cascade_status: CascadeStatus::default(),
            allowance: BuildAllowance::default(),
            recheck_pods_at: jobs.recheck_pods_at,
            taken_tags_expire: self
                .now
                .saturating_sub(self.context.audit.signed())
                .unwrap_or(Timestamp::MIN),
            imports: imports::observed_imports(self.context, &self.key, &blueprint, &survey),
            family,
            dockerfiles: self.dockerfiles.clone(),
            key: self.key.clone(),
            blueprint,
            keychain,
            sources,
            late_sources: self.late_sources(),
            strategies,
            platform_names: platforms
                .iter()
                .map(|platform| platform.as_ref().map(|platform| platform.to_string().into()))
                .collect(),
            platforms,
            default_platform,
            use_default_platform,
            strategy_revisions,
            pod_versions,
            credentials_version: self.credentials_version(),
        })
    }
}

impl Observer<'_> {
    /// Returns the sources that were read, in the order of `spec.images`. The blueprint has the
    /// revision of each inline Dockerfile.
    fn take_sources(&mut self, blueprint: &Blueprint) -> Vec<ObservedSource> {
        let read = std::mem::take(&mut self.sources).into_iter().zip(&blueprint.images);
        let sources = read.map(|(read, known)| match &known.inline {
            Some(inline) => {
                ObservedSource { revision: Observed::Known(inline.clone()), folder: None }
            }
            None => read,
        });
        sources.collect()
    }

    /// Returns the tags of other families in the repository of each image whose tags name labels.
    fn foreign_tags(&self, blueprint: &Blueprint) -> Vec<Arc<BTreeMap<String, String>>> {
        let labelled = |image: &&ImageBlueprint| !image.labels.is_empty();
        let images = blueprint.images.iter().filter(labelled);
        let repositories = images.map(|image| image.repository.as_str()).collect();
        let (owners, stores) = (&self.context.tag_owners, &self.context.stores);
        let found = owners.foreign_tags(&self.family, &repositories, stores).into_iter();
        let found: HashMap<String, Arc<_>> =
            found.map(|(repository, tags)| (repository, Arc::new(tags))).collect();
        let of = |image: &ImageBlueprint| {
            let tags = found.get(&image.repository).filter(|_| labelled(&image));
            tags.cloned().unwrap_or_default()
        };
        blueprint.images.iter().map(of).collect()
    }

    /// Defers the Jobs whose pods were rejected, and forgets the rejections of those whose pods
    /// were admitted since.
    fn note_admissions(&mut self, jobs: &ObservedJobs, job_versions: &[String]) {
        let deferred = &mut self.cache.deferred_jobs;
        for admitted in &jobs.admitted {
            deferred.forget(&admitted.image, &admitted.work);
        }
        let uid = self.family.uid().unwrap_or_default();
        let images = self.family.spec.images.iter().zip(job_versions);
        let versions: HashMap<&str, &String> =
            images.map(|(image, version)| (image.name.as_str(), version)).collect();
        for RejectedPods { rejection, .. } in &jobs.rejected {
            if let Some(version) = versions.get(rejection.image.as_str()) {
                deferred.record(rejection.clone(), &uid, version, self.now);
            }
        }
        if let Some(changed) = self.context.resource_quotas.changed_at(&self.key.namespace) {
            deferred.hasten(changed);
        }
    }
}

/// Returns what the Jobs of each image are made of, apart from what is part of fingerprints: the
/// generation of the spec, the strategy, and the operator's configuration of pods.
fn job_versions(
    family: &ImageFamily,
    strategies: &[Option<Arc<BuildStrategy>>],
    pods: &str,
) -> Vec<String> {
    let generation = family.metadata.generation.unwrap_or_default();
    let version = |strategy: &Option<Arc<BuildStrategy>>| {
        let metadata = strategy.as_ref().map(|strategy| &strategy.metadata);
        let uid = metadata.and_then(|metadata| metadata.uid.as_deref()).unwrap_or_default();
        let strategy = metadata.and_then(|metadata| metadata.generation).unwrap_or_default();
        format!("{generation}/{uid}/{strategy}/{pods}")
    };
    strategies.iter().map(version).collect()
}

/// Takes the entries of images out of a map by name, in the order of `spec.images`.
fn take_in_order<T: Default>(spec: &ImageFamilySpec, by_image: &mut HashMap<String, T>) -> Vec<T> {
    let images = spec.images.iter();
    images.map(|image| by_image.remove(&image.name).unwrap_or_default()).collect()
}

impl Snapshot {
    /// Returns the input of the decision: this snapshot, with what the registries have answered and
    /// which tags were set since it was taken.
    #[must_use]
    pub fn input<'a>(&'a self, cache: &ReconcileCache) -> DecideInput<'a> {
        let images = ImageIndex::enumerate(&self.family.spec.images);
        DecideInput {
            family: &self.key.name,
            spec: &self.family.spec,
            blueprint: &self.blueprint,
            status: &self.status,
            upstreams: self.upstreams.clone(),
            imports: self.imports.clone(),
            images: images
                .map(|(index, image)| self.image_input(index, &image.name, cache))
                .collect(),
            orphans: self.orphans.clone(),
            orphan_checks: self.orphan_checks.clone(),
            cascades: self
                .cascades
                .iter()
                .zip(&self.cascade_names)
                .map(|(cascade, names)| ObservedCascade {
                    name: &names.own,
                    supersedes: names.superseded.as_ref(),
                    planned: &cascade.spec.levels,
                    status: cascade.status.as_ref().unwrap_or(&self.empty_cascade_status),
                })
                .collect(),
            ended: self.ended.clone(),
            requests: self.requests.evaluated.clone(),
            allowance: self.allowance.clone(),
        }
    }

    fn image_input<'a>(
        &'a self,
        index: ImageIndex,
        image: &str,
        cache: &ReconcileCache,
    ) -> ObservedImage<'a> {
        let record = self.records.get(index.position()).and_then(Option::as_ref);
        let source = self.sources.get(index.position());
        ObservedImage {
            record: record.and_then(|record| record.status.as_ref()),
            remembered: record.map_or(&[][..], |record| &record.spec.upstreams),
            source: source.map_or(Observed::Pending, |source| source.revision.clone()),
            folder: self.folder(index).cloned(),
            strategy: self
                .strategy_revisions
                .get(index.position())
                .cloned()
                .unwrap_or(Observed::Pending),
            platform: self.platform_names.get(index.position()).cloned().flatten(),
            verified: self.verified.get(index.position()).cloned().flatten(),
            builds: self.builds_of(index).to_vec(),
            checks: self.checks.get(index.position()).cloned().unwrap_or_default(),
            deferred: cache.deferred_jobs.of(image, self.job_version(index)),
            job_version: self.job_version(index).to_owned(),
            pod_version: self.pod_versions.get(index.position()).cloned().unwrap_or_default(),
            credentials_version: Arc::clone(&self.credentials_version),
            lookups: cache.lookups.of(image).to_vec(),
            tags: self.tags(index, image, cache),
            rebuild_mark: cache.rebuild_marks.get(image).cloned(),
            rollback_target: cache.rollback_targets.get(image).cloned(),
            labels: cache.labels.get(image).cloned(),
            foreign_tags: self.foreign_tags.get(index.position()).cloned().unwrap_or_default(),
        }
    }

    /// Returns the folder that an image is built from, if it is known and the source is a Git
    /// repository.
    #[must_use]
    pub fn folder(&self, image: ImageIndex) -> Option<&Arc<FolderRevision>> {
        self.sources.get(image.position())?.folder.as_ref()
    }

    /// Returns versions of the spec and of the strategy that the Jobs of an image are made of.
    #[must_use]
    pub fn job_version(&self, image: ImageIndex) -> &str {
        self.job_versions.get(image.position()).map_or("", String::as_str)
    }

    /// Returns the versions of what the Jobs of an image are made of.
    #[must_use]
    pub fn versions(&self, image: ImageIndex) -> JobVersions<'_> {
        let pod = self.pod_versions.get(image.position()).map_or("", String::as_str);
        JobVersions { job: self.job_version(image), pod, credentials: &self.credentials_version }
    }

    /// Returns the builds of an image whose Jobs exist.
    #[must_use]
    pub fn builds_of(&self, image: ImageIndex) -> &[ObservedBuild] {
        self.builds.get(image.position()).map_or(&[], Vec::as_slice)
    }

    /// Returns the platform of an image's builds, or `None` if it is not known.
    #[must_use]
    pub fn platform(&self, image: ImageIndex) -> Option<&Platform> {
        self.platforms.get(image.position())?.as_deref()
    }

    /// Whether the strategy of an image names no platform.
    #[must_use]
    pub fn uses_default_platform(&self, image: ImageIndex) -> bool {
        self.use_default_platform.get(image.position()).is_some_and(|uses| *uses)
    }

    /// Returns whether the cascade of this name has ended.
    #[must_use]
    pub fn has_ended(&self, cascade: &str) -> bool {
        self.ended.iter().any(|ended| ended.name == *cascade)
    }

    /// Returns the repository that an image is pushed to.
    #[must_use]
    pub fn repository(&self, image: ImageIndex) -> String {
        self.blueprint
            .images
            .get(image.position())
            .map(|image| image.repository.clone())
            .unwrap_or_default()
    }
}
