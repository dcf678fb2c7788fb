//! Everything that the decision needs to know, from caches and pollers. Only content that has
//! changed is read.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};

use crate::{
    api::{
        BuildStrategy, Cascade, CascadePhase, CascadeStatus, ConfigMapSource, Image, ImageFamily,
        ImageFamilySpec, ImageFamilyStatus, ManagedImage, Source, condition::reason,
    },
    builds::source::{ConfigMapError, config_map_hash},
    controller::{
        context::{Context, Lookups, ReconcileCache},
        error::{ReconcileError, call},
        family::{
            observe::{image_keys::ImageKeys, imports, strategies::strategies},
            observe::{jobs::ObservedJobs, requests},
        },
        git_poll::GitKey,
        object_cache::Key,
    },
    engine::{
        Blueprint, Budget, BuildOutcome, DecideInput, EndedCascade, Observed, ObservedBuild,
        ObservedCascade, ObservedCheck, ObservedDigest, ObservedImage, ObservedImport,
        ObservedRequest, ObservedTag, ObservedUpstream, Problem, VerifiedBuild,
        blueprint::repository,
    },
    identity::JobName,
    lineage::ImageIndex,
    registry::Keychain,
    upstream::{ImageKey, Interest, PolledValue, UpstreamDigest},
};

/// Everything that one pass has seen, owned.
pub struct Snapshot {
    /// The family.
    pub family: Arc<ImageFamily>,
    /// Its key.
    pub key: Key,
    /// What follows from its spec.
    pub blueprint: Arc<Blueprint>,
    /// Its credentials.
    pub keychain: Arc<Keychain>,
    /// The records of its images, as `spec.images`.
    pub records: Vec<Option<Arc<ManagedImage>>>,
    /// The cascade that runs.
    pub cascade: Option<Arc<Cascade>>,
    /// The cascades that have ended, the newest last.
    ended: Vec<Arc<Cascade>>,
    /// The strategies of its images, as `spec.images`.
    pub strategies: Vec<Option<Arc<BuildStrategy>>>,
    /// The images of other families, as the lineage lists them.
    pub imports: Vec<ObservedImport>,
    status: ImageFamilyStatus,
    upstreams: Vec<ObservedUpstream>,
    sources: Vec<Observed<String>>,
    revisions: Vec<Observed<String>>,
    /// Builds that the cluster still knows, as `spec.images`.
    builds: Vec<Vec<ObservedBuild>>,
    /// See [`ObservedJobs::seconds`].
    pub seconds: HashMap<String, i64>,
    /// Builds of images that the family no longer has.
    orphans: Vec<ObservedBuild>,
    /// Checks that the cluster still knows, as `spec.images`.
    pub checks: Vec<Vec<ObservedCheck>>,
    /// Jobs of checks that count as failed and have not ended.
    pub failed_checks: Vec<JobName>,
    /// The last good builds of the records.
    verified: Vec<Option<Arc<VerifiedBuild>>>,
    requests: Vec<ObservedRequest>,
    audits: Vec<HashMap<String, (ObservedTag, Timestamp)>>,
    nothing: CascadeStatus,
    /// What the operator's limits leave to the family.
    pub budget: Budget,
    /// See [`ObservedJobs::look_again`].
    pub look_again: Option<Timestamp>,
    /// Immutable tags that were found taken before this are looked at again.
    taken_since: Timestamp,
}

/// Tells the pollers what this family follows: its upstreams, its Git sources, and the tags that it
/// has given.
pub fn register_polls(
    context: &Context,
    family: &Arc<ImageFamily>,
    keychain: &Arc<Keychain>,
    keys: &mut ImageKeys,
) {
    keys.begin(keychain);
    let key = Key::of(&**family);
    let owner = ObjectRef::from_obj(&**family);
    let mut tags: Vec<Interest<ImageKey>> = Vec::new();
    for upstream in &family.spec.upstreams {
        let image =
            keys.key(&context.registry, upstream.reference(), &upstream.platforms, keychain);
        tags.push(Interest { key: image, interval: upstream.interval.into() });
    }
    for record in context.stores.images.group(&key) {
        for tag in record.status.iter().flat_map(|status| &status.tags).filter(|tag| !tag.immutable)
        {
            let reference = format!("{}:{}", record.spec.repository, tag.tag);
            let image = keys.key(&context.registry, reference, &[], keychain);
            tags.push(Interest { key: image, interval: context.audit.into() });
        }
    }
    context.tags.set_interests(&owner, tags);

    let revisions =
        family.spec.images.iter().filter_map(|image| image.source.git.as_ref()).map(|git| {
            Interest {
                key: GitKey::new(
                    &key.namespace,
                    git,
                    secret_version(context, &key.namespace, git.secret_ref.as_ref()),
                ),
                interval: git.interval.into(),
            }
        });
    context.revisions.set_interests(&owner, revisions.collect());
}

impl Snapshot {
    /// Looks at everything.
    pub async fn observe(
        context: &Context,
        family: &Arc<ImageFamily>,
        blueprint: Arc<Blueprint>,
        keychain: Arc<Keychain>,
        cache: &mut ReconcileCache,
        now: Timestamp,
    ) -> Result<Self, ReconcileError> {
        let key = Key::of(&**family);
        let spec = &family.spec;
        let mut records: HashMap<String, Arc<ManagedImage>> = context
            .stores
            .images
            .group(&key)
            .into_iter()
            .map(|record| (record.spec.image.clone(), record))
            .collect();
        let mut sources = Vec::with_capacity(spec.images.len());
        for (image, known) in spec.images.iter().zip(&blueprint.images) {
            sources.push(source(context, &key, image, known.inline.as_ref(), cache).await?);
        }
        let (strategies, revisions) = strategies(&context.stores, spec, &mut cache.strategies);
        let mut jobs = ObservedJobs::of(&context.stores, &key, now);
        let builds: Vec<_> = spec
            .images
            .iter()
            .map(|image| jobs.builds.remove(&image.name).unwrap_or_default())
            .collect();
        let checks = spec
            .images
            .iter()
            .map(|image| jobs.checks.remove(&image.name).unwrap_or_default())
            .collect();
        let running = |cascade: &Arc<Cascade>| {
            cascade.status.as_ref().is_none_or(|status| status.phase == CascadePhase::Running)
        };
        let mut cascades = context.stores.cascades.group(&key);
        cascades.extend(announced(context, family, &cascades, cache).await?);
        let requests = requests::pending(family, &records, now);
        let mut ended: Vec<_> =
            cascades.iter().filter(|cascade| !running(cascade)).cloned().collect();
        ended.sort_by_key(|cascade| cascade.creation_timestamp());
        let keys = &mut cache.image_keys;
        let upstreams = spec.upstreams.iter();
        let upstreams = upstreams
            .map(|upstream| observed_upstream(context, upstream, &keychain, keys))
            .collect();
        let audits = spec.images.iter();
        let audits = audits
            .map(|image| audit(context, image, records.get(&image.name), &keychain, keys))
            .collect();
        let records_of: Vec<_> = spec
            .images
            .iter()
            .map(|image| current_record(spec, image, &mut records, cache))
            .collect();
        for ((image, record), builds) in spec.images.iter().zip(&records_of).zip(&builds) {
            invalidate_lookups(&image.name, record.as_ref(), builds, &mut cache.lookups);
        }
        Ok(Self {
            upstreams,
            audits,
            builds,
            orphans: jobs.builds.into_values().flatten().collect(),
            checks,
            seconds: jobs.seconds,
            failed_checks: jobs.failed_checks,
            verified: records_of.iter().map(|record| verified(record.as_ref())).collect(),
            records: records_of,
            requests,
            cascade: cascades.into_iter().find(running),
            ended,
            status: family.status.clone().unwrap_or_default(),
            nothing: CascadeStatus::default(),
            budget: Budget::default(),
            look_again: jobs.look_again,
            taken_since: now.saturating_sub(context.audit.signed()).unwrap_or(Timestamp::MIN),
            imports: imports::observations(
                context,
                &key,
                &blueprint,
                &imports::survey(context, family, cache),
            ),
            family: Arc::clone(family),
            key,
            blueprint,
            keychain,
            sources,
            strategies,
            revisions,
        })
    }

    /// The observation, with what the registry has answered so far.
    #[must_use]
    pub fn input<'a>(&'a self, cache: &ReconcileCache) -> DecideInput<'a> {
        let images =
            self.family.spec.images.iter().enumerate().map(|(index, image)| ObservedImage {
                record: self
                    .records
                    .get(index)
                    .and_then(Option::as_ref)
                    .and_then(|record| record.status.as_ref()),
                source: self.sources.get(index).cloned().unwrap_or(Observed::Pending),
                strategy: self.revisions.get(index).cloned().unwrap_or(Observed::Pending),
                verified: self.verified.get(index).cloned().flatten(),
                builds: self.builds.get(index).cloned().unwrap_or_default(),
                checks: self.checks.get(index).cloned().unwrap_or_default(),
                lookups: cache.lookups.of(&image.name).to_vec(),
                tags: self.tags(index, &image.name, cache),
            });
        DecideInput {
            family: &self.key.name,
            generation: self.family.metadata.generation,
            spec: &self.family.spec,
            blueprint: &self.blueprint,
            status: &self.status,
            upstreams: self.upstreams.clone(),
            imports: self.imports.clone(),
            images: images.collect(),
            orphans: self.orphans.clone(),
            cascade: self.cascade.as_ref().map(|cascade| ObservedCascade {
                name: cascade.metadata.name.as_deref().unwrap_or_default(),
                supersedes: cascade.spec.supersedes.as_deref(),
                planned: &cascade.spec.levels,
                status: cascade.status.as_ref().unwrap_or(&self.nothing),
            }),
            ended: self.ended.iter().map(|cascade| ended(cascade)).collect(),
            requests: self.requests.clone(),
            budget: self.budget.clone(),
        }
    }

    /// Where the tags of an image stand: as we have set them, or as the registry was seen since.
    fn tags(
        &self,
        index: usize,
        image: &str,
        cache: &ReconcileCache,
    ) -> HashMap<String, ObservedTag> {
        let mut tags: HashMap<String, (ObservedTag, Timestamp)> =
            cache.tags.get(image).cloned().unwrap_or_default();
        // A tag that somebody else's image takes is looked at again: it may have been deleted.
        tags.retain(|_, (observed, at)| {
            !matches!(observed, ObservedTag::Taken(_)) || *at > self.taken_since
        });
        for (tag, (observed, at)) in self.audits.get(index).into_iter().flatten() {
            // One that could not be set is tried again soon, and then it is known where it stands.
            if tags
                .get(tag)
                .is_none_or(|(before, set)| set < at && !matches!(before, ObservedTag::Failed(..)))
            {
                tags.insert(tag.clone(), (observed.clone(), *at));
            }
        }
        tags.into_iter().map(|(tag, (observed, _))| (tag, observed)).collect()
    }

    /// The builds of an image that the cluster still knows.
    #[must_use]
    pub fn builds_of(&self, image: ImageIndex) -> &[ObservedBuild] {
        self.builds.get(image.position()).map_or(&[], Vec::as_slice)
    }

    /// Whether the cascade of this name has ended.
    #[must_use]
    pub fn has_ended(&self, cascade: &str) -> bool {
        self.ended.iter().any(|ended| ended.name_any() == cascade)
    }

    /// The upstreams by name, each with why its last poll failed, if it did.
    #[must_use]
    pub fn upstreams(&self) -> Vec<(&str, Option<&Problem>)> {
        let names = self.family.spec.upstreams.iter().map(|upstream| upstream.name.as_str());
        names.zip(self.upstreams.iter().map(|observed| observed.problem.as_ref())).collect()
    }

    /// The repository that an image is pushed to.
    #[must_use]
    pub fn repository(&self, image: ImageIndex) -> String {
        self.blueprint
            .images
            .get(image.position())
            .map(|image| image.repository.clone())
            .unwrap_or_default()
    }
}

fn ended(cascade: &Cascade) -> EndedCascade<'_> {
    EndedCascade {
        name: cascade.metadata.name.as_deref().unwrap_or_default(),
        superseded: cascade
            .status
            .as_ref()
            .is_some_and(|status| status.phase == CascadePhase::Superseded),
    }
}

fn observed_upstream(
    context: &Context,
    upstream: &crate::api::Upstream,
    keychain: &Arc<Keychain>,
    keys: &mut ImageKeys,
) -> ObservedUpstream {
    let key = keys.key(&context.registry, upstream.reference(), &upstream.platforms, keychain);
    let Some(polled) = context.tags.latest(&key) else { return ObservedUpstream::default() };
    let seen = polled.value.as_ref().map(|value| ObservedDigest {
        digest: value.digest.as_str().into(),
        first_seen: polled.first_seen,
        missing_platforms: value.missing_platforms.clone(),
    });
    ObservedUpstream { newest: seen, problem: polled.problem.clone() }
}

/// Where the registry shows the tags that we have given to an image.
fn audit(
    context: &Context,
    image: &Image,
    record: Option<&Arc<ManagedImage>>,
    keychain: &Arc<Keychain>,
    keys: &mut ImageKeys,
) -> HashMap<String, (ObservedTag, Timestamp)> {
    let Some(record) = record.filter(|record| record.spec.image == image.name) else {
        return HashMap::new();
    };
    let tags = record.status.iter().flat_map(|status| &status.tags).filter(|tag| !tag.immutable);
    tags.filter_map(|tag| {
        let key = keys.key(
            &context.registry,
            format!("{}:{}", record.spec.repository, tag.tag),
            &[],
            keychain,
        );
        Some((tag.tag.clone(), shown(&*context.tags.latest(&key)?)?))
    })
    .collect()
}

/// Where a poll has shown a tag, and when. One that failed shows nothing: what was seen before it
/// may be older than what was set since.
fn shown(polled: &PolledValue<UpstreamDigest>) -> Option<(ObservedTag, Timestamp)> {
    let seen = polled.value.as_ref().filter(|_| polled.problem.is_none())?;
    Some((ObservedTag::At(seen.digest.as_str().into()), polled.polled_at))
}

/// The revision of an image's source.
async fn source(
    context: &Context,
    family: &Key,
    image: &Image,
    inline: Option<&String>,
    cache: &mut ReconcileCache,
) -> Result<Observed<String>, ReconcileError> {
    if let Some(revision) = inline {
        return Ok(Observed::Known(revision.clone()));
    }
    match &image.source {
        Source { config_map: Some(source), .. } => {
            let key = Key::new(&family.namespace, &source.name);
            let Some(known) = context.stores.config_maps.get(&key) else {
                let message = format!(
                    "spec.images[{}].source.configMap: there is no ConfigMap {}/{}; create it or \
                     correct the name",
                    image.name, key.namespace, key.name
                );
                return Ok(Observed::Failed(Problem { reason: reason::SOURCE_NOT_FOUND, message }));
            };
            // The items are part of what is read, so they are part of the version.
            let version =
                format!("{}/{:?}", known.resource_version().unwrap_or_default(), source.items);
            if let Some((_, observed)) =
                cache.config_maps.get(&image.name).filter(|(of, _)| *of == version)
            {
                return Ok(observed.clone());
            }
            let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.namespace);
            let what = || format!("read ConfigMap {}/{}", key.namespace, key.name);
            let content = match call(what, api.get(&key.name)).await {
                Ok(content) => content,
                Err(error) if error.is_not_found() => return Ok(Observed::Pending),
                Err(error) => return Err(error),
            };
            let observed = match config_map_revision(&content, source) {
                Ok(hash) => Observed::Known(hash),
                Err(error) => {
                    let message = format!(
                        "spec.images[{}].source.configMap: {}/{}: {error}",
                        image.name, key.namespace, key.name
                    );
                    Observed::Failed(Problem { reason: reason::SOURCE_NOT_FOUND, message })
                }
            };
            cache.config_maps.insert(image.name.clone(), (version, observed.clone()));
            Ok(observed)
        }
        Source { git: Some(source), .. } => {
            let version = secret_version(context, &family.namespace, source.secret_ref.as_ref());
            let polled = context.revisions.latest(&GitKey::new(&family.namespace, source, version));
            Ok(match polled {
                None => Observed::Pending,
                Some(polled) => match (&polled.value, &polled.problem) {
                    (Some(commit), _) => Observed::Known(commit.clone()),
                    (None, Some(problem)) => {
                        let message =
                            format!("spec.images[{}].source.git: {}", image.name, problem.message);
                        Observed::Failed(Problem { reason: problem.reason, message })
                    }
                    (None, None) => Observed::Pending,
                },
            })
        }
        Source { config_map: None, git: None, .. } => {
            let message = format!(
                "spec.images[{}].source: name one of `inline`, `configMap` and \
                                   `git`",
                image.name
            );
            Ok(Observed::Failed(Problem { reason: reason::INVALID_SPEC, message }))
        }
    }
}

/// The hash of the files that a `ConfigMap` source becomes, as `prepare` computes it again inside
/// of the build.
fn config_map_revision(
    content: &ConfigMap,
    source: &ConfigMapSource,
) -> Result<String, ConfigMapError> {
    let data = content.data.clone().unwrap_or_default();
    let binary = content.binary_data.clone().unwrap_or_default();
    let binary = binary.into_iter().map(|(key, value)| (key, value.0)).collect();
    config_map_hash(&data, &binary, &source.items)
}

fn secret_version(
    context: &Context,
    namespace: &str,
    secret: Option<&crate::api::LocalName>,
) -> Option<String> {
    context.stores.secrets.get(&Key::new(namespace, &secret?.name))?.resource_version()
}

/// The record of an image, unless it speaks of another repository: then nothing of it, nor of what
/// is remembered, holds.
fn current_record(
    spec: &ImageFamilySpec,
    image: &Image,
    records: &mut HashMap<String, Arc<ManagedImage>>,
    cache: &mut ReconcileCache,
) -> Option<Arc<ManagedImage>> {
    let Some(record) = records.remove(&image.name) else {
        // The registry was asked while the record told the number of the last build; now it has to
        // tell that itself.
        cache.lookups.forget(&image.name);
        return None;
    };
    if record.spec.repository == repository(spec, image) {
        return Some(record);
    }
    cache.lookups.forget(&image.name);
    cache.tags.remove(&image.name);
    None
}

/// The registry is asked anew for what a build has pushed since it was asked, or may have: one
/// whose Job is gone.
fn invalidate_lookups(
    image: &str,
    record: Option<&Arc<ManagedImage>>,
    builds: &[ObservedBuild],
    lookups: &mut Lookups,
) {
    for build in builds.iter().filter(|build| build.outcome == BuildOutcome::Succeeded) {
        lookups.built(image, &build.identity.fingerprint, Some(build.identity.attempt));
    }
    let ran = record.and_then(|record| record.status.as_ref()?.running.as_ref());
    if let Some(gone) = ran.filter(|ran| builds.iter().all(|build| build.job != ran.job)) {
        lookups.built(image, &gone.fingerprint.as_str().into(), None);
    }
}

/// The last good build of a record.
fn verified(record: Option<&Arc<ManagedImage>>) -> Option<Arc<VerifiedBuild>> {
    VerifiedBuild::of(record?.status.as_ref()?).map(Arc::new)
}

/// The cascade that was asked for without hearing an answer, or that the family's status announces,
/// where no watch has shown it yet: there must not be another one beside it.
async fn announced(
    context: &Context,
    family: &ImageFamily,
    known: &[Arc<Cascade>],
    cache: &mut ReconcileCache,
) -> Result<Option<Arc<Cascade>>, ReconcileError> {
    let told = family
        .status
        .as_ref()
        .and_then(|status| status.cascade.as_ref())
        .map(|cascade| &cascade.name);
    let unknown = |name: &&String| known.iter().all(|cascade| cascade.name_any() != **name);
    let api: Api<Cascade> =
        Api::namespaced(context.client.clone(), &family.namespace().unwrap_or_default());
    let mut found = None;
    for name in [cache.unanswered_cascade.as_ref(), told].into_iter().flatten().filter(unknown) {
        found = call(|| format!("read Cascade {name}"), api.get_opt(name)).await?;
        if let Some(cascade) = &found {
            context.stores.cascades.wrote(cascade.clone());
            break;
        }
    }
    cache.unanswered_cascade = None;
    Ok(found.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_that_failed_shows_no_tag() {
        let value =
            UpstreamDigest { digest: "sha256:before".into(), missing_platforms: Vec::new() };
        let seen = PolledValue {
            value: Some(value),
            first_seen: Timestamp::UNIX_EPOCH,
            problem: None,
            polled_at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(
            shown(&seen),
            Some((ObservedTag::At("sha256:before".into()), Timestamp::UNIX_EPOCH))
        );
        let problem =
            Problem { reason: reason::REGISTRY_UNAVAILABLE, message: "it is away".into() };
        assert_eq!(shown(&PolledValue { problem: Some(problem), ..seen }), None);
    }
}
