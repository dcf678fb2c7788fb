//! Everything that the decision needs to know, from caches and pollers. Only content that has changed is read.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};

use super::super::{
    cache::Key,
    context::{Context, Memory, Pushes},
    error::{Error, call},
    revisions::GitKey,
};
use super::{image_keys::ImageKeys, imports, job_sights::JobSights, request_sights, strategies::strategies};
use crate::{
    api::{
        BuildStrategy, Cascade, CascadePhase, CascadeStatus, ConfigMapSource, FamilyImage, Image, ImageFamily,
        ImageFamilySpec, ImageFamilyStatus, Source, condition::reason,
    },
    build::source::{ConfigMapError, config_map_hash},
    engine::{
        Blueprint, Budget, BuildOutcome, BuildSight, CheckSight, EndedWave, Fault, Good, ImageSight, ImportSight,
        Observation, RequestSight, SeenDigest, Sight, TagSight, UpstreamSight, WaveSight, blueprint::repository,
    },
    registry::Keychain,
    upstream::{ImageKey, Interest, Sighting, UpstreamDigest},
};

/// Everything that one pass has seen, owned.
pub struct World {
    /// The family.
    pub family: Arc<ImageFamily>,
    /// Its key.
    pub key: Key,
    /// What follows from its spec.
    pub blueprint: Arc<Blueprint>,
    /// Its credentials.
    pub keychain: Arc<Keychain>,
    /// The records of its images, as `spec.images`.
    pub records: Vec<Option<Arc<FamilyImage>>>,
    /// The wave that runs.
    pub wave: Option<Arc<Cascade>>,
    /// The waves that have ended, the newest last.
    ended: Vec<Arc<Cascade>>,
    /// The strategies of its images, as `spec.images`.
    pub strategies: Vec<Option<Arc<BuildStrategy>>>,
    /// The images of other families, as the lineage lists them.
    pub imports: Vec<ImportSight>,
    status: ImageFamilyStatus,
    upstreams: Vec<UpstreamSight>,
    sources: Vec<Sight<String>>,
    revisions: Vec<Sight<String>>,
    /// Builds that the cluster still knows, as `spec.images`.
    builds: Vec<Vec<BuildSight>>,
    /// See [`JobSights::seconds`].
    pub seconds: HashMap<String, i64>,
    /// Builds of images that the family no longer has.
    orphans: Vec<BuildSight>,
    /// Checks that the cluster still knows, as `spec.images`.
    pub checks: Vec<Vec<CheckSight>>,
    /// Jobs of checks that count as failed and have not ended.
    pub failed_checks: Vec<String>,
    /// The last good builds of the records.
    goods: Vec<Option<Arc<Good>>>,
    requests: Vec<RequestSight>,
    audits: Vec<HashMap<String, (TagSight, Timestamp)>>,
    nothing: CascadeStatus,
    /// What the operator's limits leave to the family.
    pub budget: Budget,
    /// See [`JobSights::look_again`].
    pub look_again: Option<Timestamp>,
    /// Immutable tags that were found taken before this are looked at again.
    taken_since: Timestamp,
}

/// Tells the pollers what this family follows: its upstreams, its Git sources, and the tags that it has given.
pub fn follow(context: &Context, family: &Arc<ImageFamily>, keychain: &Arc<Keychain>, keys: &mut ImageKeys) {
    keys.begin(keychain);
    let key = Key::of(&**family);
    let owner = ObjectRef::from_obj(&**family);
    let mut tags: Vec<Interest<ImageKey>> = Vec::new();
    for upstream in &family.spec.upstreams {
        let image = keys.key(&context.registry, upstream.reference(), &upstream.platforms, keychain);
        tags.push(Interest { key: image, interval: upstream.interval.into() });
    }
    for record in context.caches.images.group(&key) {
        for tag in record.status.iter().flat_map(|status| &status.tags).filter(|tag| !tag.immutable) {
            let reference = format!("{}:{}", record.spec.repository, tag.tag);
            let image = keys.key(&context.registry, reference, &[], keychain);
            tags.push(Interest { key: image, interval: context.audit.into() });
        }
    }
    context.tags.set_interests(&owner, tags);

    let revisions = family.spec.images.iter().filter_map(|image| image.source.git.as_ref()).map(|git| Interest {
        key: GitKey::new(&key.namespace, git, secret_version(context, &key.namespace, git.secret_ref.as_ref())),
        interval: git.interval.into(),
    });
    context.revisions.set_interests(&owner, revisions.collect());
}

impl World {
    /// Looks at everything.
    pub async fn observe(
        context: &Context,
        family: &Arc<ImageFamily>,
        blueprint: Arc<Blueprint>,
        keychain: Arc<Keychain>,
        memory: &mut Memory,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let key = Key::of(&**family);
        let spec = &family.spec;
        let mut records: HashMap<String, Arc<FamilyImage>> =
            context.caches.images.group(&key).into_iter().map(|record| (record.spec.image.clone(), record)).collect();
        let mut sources = Vec::with_capacity(spec.images.len());
        for (image, known) in spec.images.iter().zip(&blueprint.images) {
            sources.push(source(context, &key, image, known.inline.as_ref(), memory).await?);
        }
        let (strategies, revisions) = strategies(&context.caches, spec, &mut memory.strategies);
        let mut jobs = JobSights::of(&context.caches, &key, now);
        let builds: Vec<_> =
            spec.images.iter().map(|image| jobs.builds.remove(&image.name).unwrap_or_default()).collect();
        let checks = spec.images.iter().map(|image| jobs.checks.remove(&image.name).unwrap_or_default()).collect();
        let running =
            |cascade: &Arc<Cascade>| cascade.status.as_ref().is_none_or(|status| status.phase == CascadePhase::Running);
        let mut cascades = context.caches.cascades.group(&key);
        cascades.extend(announced(context, family, &cascades, memory).await?);
        let requests = request_sights::sights(family, &records, now);
        let mut ended: Vec<_> = cascades.iter().filter(|cascade| !running(cascade)).cloned().collect();
        ended.sort_by_key(|cascade| cascade.creation_timestamp());
        let keys = &mut memory.image_keys;
        let upstreams = spec.upstreams.iter();
        let upstreams = upstreams.map(|upstream| upstream_sight(context, upstream, &keychain, keys)).collect();
        let audits = spec.images.iter();
        let audits = audits.map(|image| audit(context, image, records.get(&image.name), &keychain, keys)).collect();
        let records_of: Vec<_> =
            spec.images.iter().map(|image| current_record(spec, image, &mut records, memory)).collect();
        for ((image, record), builds) in spec.images.iter().zip(&records_of).zip(&builds) {
            doubt(&image.name, record.as_ref(), builds, &mut memory.pushes);
        }
        Ok(Self {
            upstreams,
            audits,
            builds,
            orphans: jobs.builds.into_values().flatten().collect(),
            checks,
            seconds: jobs.seconds,
            failed_checks: jobs.failed_checks,
            goods: records_of.iter().map(|record| good(record.as_ref())).collect(),
            records: records_of,
            requests,
            wave: cascades.into_iter().find(running),
            ended,
            status: family.status.clone().unwrap_or_default(),
            nothing: CascadeStatus::default(),
            budget: Budget::default(),
            look_again: jobs.look_again,
            taken_since: now.saturating_sub(context.audit.signed()).unwrap_or(Timestamp::MIN),
            imports: imports::sights(context, &key, &blueprint, &imports::survey(context, family, memory)),
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
    pub fn seen<'a>(&'a self, memory: &Memory) -> Observation<'a> {
        let images = self.family.spec.images.iter().enumerate().map(|(index, image)| ImageSight {
            record: self.records.get(index).and_then(Option::as_ref).and_then(|record| record.status.as_ref()),
            source: self.sources.get(index).cloned().unwrap_or(Sight::Pending),
            strategy: self.revisions.get(index).cloned().unwrap_or(Sight::Pending),
            good: self.goods.get(index).cloned().flatten(),
            builds: self.builds_of(index).to_vec(),
            checks: self.checks.get(index).cloned().unwrap_or_default(),
            pushes: memory.pushes.of(&image.name).to_vec(),
            tags: self.tags(index, &image.name, memory),
        });
        Observation {
            family: &self.key.name,
            generation: self.family.metadata.generation,
            spec: &self.family.spec,
            blueprint: &self.blueprint,
            status: &self.status,
            upstreams: self.upstreams.clone(),
            imports: self.imports.clone(),
            images: images.collect(),
            orphans: self.orphans.clone(),
            wave: self.wave.as_ref().map(|wave| WaveSight {
                name: wave.metadata.name.as_deref().unwrap_or_default(),
                supersedes: wave.spec.supersedes.as_deref(),
                planned: &wave.spec.levels,
                status: wave.status.as_ref().unwrap_or(&self.nothing),
            }),
            ended: self.ended.iter().map(|wave| ended(wave)).collect(),
            requests: self.requests.clone(),
            budget: self.budget.clone(),
        }
    }

    /// Where the tags of an image stand: as we have set them, or as the registry was seen since.
    fn tags(&self, index: usize, image: &str, memory: &Memory) -> HashMap<String, TagSight> {
        let mut tags: HashMap<String, (TagSight, Timestamp)> = memory.tags.get(image).cloned().unwrap_or_default();
        // A tag that somebody else's image takes is looked at again: it may have been deleted.
        tags.retain(|_, (sight, at)| !matches!(sight, TagSight::Taken(_)) || *at > self.taken_since);
        for (tag, (sight, at)) in self.audits.get(index).into_iter().flatten() {
            // One that could not be set is tried again soon, and then it is known where it stands.
            if tags.get(tag).is_none_or(|(before, set)| set < at && !matches!(before, TagSight::Faulty(..))) {
                tags.insert(tag.clone(), (sight.clone(), *at));
            }
        }
        tags.into_iter().map(|(tag, (sight, _))| (tag, sight)).collect()
    }

    /// The builds of an image that the cluster still knows.
    #[must_use]
    pub fn builds_of(&self, image: usize) -> &[BuildSight] {
        self.builds.get(image).map_or(&[], Vec::as_slice)
    }

    /// Whether the wave of this name has ended.
    #[must_use]
    pub fn has_ended(&self, wave: &str) -> bool {
        self.ended.iter().any(|ended| ended.name_any() == wave)
    }

    /// The upstreams by name, each with why its last poll failed, if it did.
    #[must_use]
    pub fn upstreams(&self) -> Vec<(&str, Option<&Fault>)> {
        let names = self.family.spec.upstreams.iter().map(|upstream| upstream.name.as_str());
        names.zip(self.upstreams.iter().map(|sight| sight.fault.as_ref())).collect()
    }

    /// The repository that an image is pushed to.
    #[must_use]
    pub fn repository(&self, image: usize) -> String {
        self.blueprint.images.get(image).map(|image| image.repository.clone()).unwrap_or_default()
    }
}

fn ended(wave: &Cascade) -> EndedWave<'_> {
    EndedWave {
        name: wave.metadata.name.as_deref().unwrap_or_default(),
        superseded: wave.status.as_ref().is_some_and(|status| status.phase == CascadePhase::Superseded),
    }
}

fn upstream_sight(
    context: &Context,
    upstream: &crate::api::Upstream,
    keychain: &Arc<Keychain>,
    keys: &mut ImageKeys,
) -> UpstreamSight {
    let key = keys.key(&context.registry, upstream.reference(), &upstream.platforms, keychain);
    let Some(sighting) = context.tags.latest(&key) else { return UpstreamSight::default() };
    let seen = sighting.value.as_ref().map(|value| SeenDigest {
        digest: value.digest.clone(),
        first_seen: sighting.first_seen,
        missing_platforms: value.missing_platforms.clone(),
    });
    UpstreamSight { seen, fault: sighting.fault.clone() }
}

/// Where the registry shows the tags that we have given to an image.
fn audit(
    context: &Context,
    image: &Image,
    record: Option<&Arc<FamilyImage>>,
    keychain: &Arc<Keychain>,
    keys: &mut ImageKeys,
) -> HashMap<String, (TagSight, Timestamp)> {
    let Some(record) = record.filter(|record| record.spec.image == image.name) else { return HashMap::new() };
    let tags = record.status.iter().flat_map(|status| &status.tags).filter(|tag| !tag.immutable);
    tags.filter_map(|tag| {
        let key = keys.key(&context.registry, format!("{}:{}", record.spec.repository, tag.tag), &[], keychain);
        Some((tag.tag.clone(), shown(&*context.tags.latest(&key)?)?))
    })
    .collect()
}

/// Where a poll has shown a tag, and when. One that failed shows nothing: what was seen before it may be older than what was
/// set since.
fn shown(sighting: &Sighting<UpstreamDigest>) -> Option<(TagSight, Timestamp)> {
    let seen = sighting.value.as_ref().filter(|_| sighting.fault.is_none())?;
    Some((TagSight::At(seen.digest.clone()), sighting.polled_at))
}

/// The revision of an image's source.
async fn source(
    context: &Context,
    family: &Key,
    image: &Image,
    inline: Option<&String>,
    memory: &mut Memory,
) -> Result<Sight<String>, Error> {
    if let Some(revision) = inline {
        return Ok(Sight::Known(revision.clone()));
    }
    match &image.source {
        Source { config_map: Some(source), .. } => {
            let key = Key::new(&family.namespace, &source.name);
            let Some(known) = context.caches.config_maps.get(&key) else {
                let message = format!(
                    "spec.images[{}].source.configMap: there is no ConfigMap {}/{}; create it or correct the name",
                    image.name, key.namespace, key.name
                );
                return Ok(Sight::Faulty(Fault { reason: reason::SOURCE_NOT_FOUND, message }));
            };
            // The items are part of what is read, so they are part of the version.
            let version = format!("{}/{:?}", known.resource_version().unwrap_or_default(), source.items);
            if let Some((_, sight)) = memory.config_maps.get(&image.name).filter(|(of, _)| *of == version) {
                return Ok(sight.clone());
            }
            let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.namespace);
            let what = || format!("read ConfigMap {}/{}", key.namespace, key.name);
            let content = match call(what, api.get(&key.name)).await {
                Ok(content) => content,
                Err(error) if error.is_not_found() => return Ok(Sight::Pending),
                Err(error) => return Err(error),
            };
            let sight = match config_map_revision(&content, source) {
                Ok(hash) => Sight::Known(hash),
                Err(error) => {
                    let message = format!(
                        "spec.images[{}].source.configMap: {}/{}: {error}",
                        image.name, key.namespace, key.name
                    );
                    Sight::Faulty(Fault { reason: reason::SOURCE_NOT_FOUND, message })
                }
            };
            memory.config_maps.insert(image.name.clone(), (version, sight.clone()));
            Ok(sight)
        }
        Source { git: Some(source), .. } => {
            let version = secret_version(context, &family.namespace, source.secret_ref.as_ref());
            let sighting = context.revisions.latest(&GitKey::new(&family.namespace, source, version));
            Ok(match sighting {
                None => Sight::Pending,
                Some(sighting) => match (&sighting.value, &sighting.fault) {
                    (Some(commit), _) => Sight::Known(commit.clone()),
                    (None, Some(fault)) => {
                        let message = format!("spec.images[{}].source.git: {}", image.name, fault.message);
                        Sight::Faulty(Fault { reason: fault.reason, message })
                    }
                    (None, None) => Sight::Pending,
                },
            })
        }
        Source { config_map: None, git: None, .. } => {
            let message = format!("spec.images[{}].source: name one of `inline`, `configMap` and `git`", image.name);
            Ok(Sight::Faulty(Fault { reason: reason::INVALID_SPEC, message }))
        }
    }
}

/// The hash of the files that a `ConfigMap` source becomes, as `prepare` computes it again inside of the build.
fn config_map_revision(content: &ConfigMap, source: &ConfigMapSource) -> Result<String, ConfigMapError> {
    let data = content.data.clone().unwrap_or_default();
    let binary = content.binary_data.clone().unwrap_or_default();
    let binary = binary.into_iter().map(|(key, value)| (key, value.0)).collect();
    config_map_hash(&data, &binary, &source.items)
}

fn secret_version(context: &Context, namespace: &str, secret: Option<&crate::api::LocalName>) -> Option<String> {
    context.caches.secrets.get(&Key::new(namespace, &secret?.name))?.resource_version()
}

/// The record of an image, unless it speaks of another repository: then nothing of it, nor of what is remembered, holds.
fn current_record(
    spec: &ImageFamilySpec,
    image: &Image,
    records: &mut HashMap<String, Arc<FamilyImage>>,
    memory: &mut Memory,
) -> Option<Arc<FamilyImage>> {
    let Some(record) = records.remove(&image.name) else {
        // The registry was asked while the record told the number of the last build; now it has to tell that itself.
        memory.pushes.forget(&image.name);
        return None;
    };
    if record.spec.repository == repository(spec, image) {
        return Some(record);
    }
    memory.pushes.forget(&image.name);
    memory.tags.remove(&image.name);
    None
}

/// The registry is asked anew for what a build has pushed since it was asked, or may have: one whose Job is gone.
fn doubt(image: &str, record: Option<&Arc<FamilyImage>>, builds: &[BuildSight], pushes: &mut Pushes) {
    for build in builds.iter().filter(|build| build.outcome == BuildOutcome::Succeeded) {
        pushes.built(image, &build.fingerprint, Some(build.attempt));
    }
    let ran = record.and_then(|record| record.status.as_ref()?.running.as_ref());
    if let Some(gone) = ran.filter(|ran| builds.iter().all(|build| build.job != ran.job)) {
        pushes.built(image, &gone.fingerprint, None);
    }
}

/// The last good build of a record.
fn good(record: Option<&Arc<FamilyImage>>) -> Option<Arc<Good>> {
    Good::of(record?.status.as_ref()?).map(Arc::new)
}

/// The wave that was asked for without hearing an answer, or that the family's status announces, where no watch has shown it
/// yet: there must not be another one beside it.
async fn announced(
    context: &Context,
    family: &ImageFamily,
    known: &[Arc<Cascade>],
    memory: &mut Memory,
) -> Result<Option<Arc<Cascade>>, Error> {
    let told = family.status.as_ref().and_then(|status| status.cascade.as_ref()).map(|cascade| &cascade.name);
    let unknown = |name: &&String| known.iter().all(|cascade| cascade.name_any() != **name);
    let api: Api<Cascade> = Api::namespaced(context.client.clone(), &family.namespace().unwrap_or_default());
    let mut found = None;
    for name in [memory.unanswered_wave.as_ref(), told].into_iter().flatten().filter(unknown) {
        found = call(|| format!("read Cascade {name}"), api.get_opt(name)).await?;
        if let Some(cascade) = &found {
            context.caches.cascades.wrote(cascade.clone());
            break;
        }
    }
    memory.unanswered_wave = None;
    Ok(found.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_that_failed_shows_no_tag() {
        let value = UpstreamDigest { digest: "sha256:before".into(), missing_platforms: Vec::new() };
        let seen = Sighting {
            value: Some(value),
            first_seen: Timestamp::UNIX_EPOCH,
            fault: None,
            polled_at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(shown(&seen), Some((TagSight::At("sha256:before".into()), Timestamp::UNIX_EPOCH)));
        let fault = Fault { reason: reason::REGISTRY_UNAVAILABLE, message: "it is away".into() };
        assert_eq!(shown(&Sighting { fault: Some(fault), ..seen }), None);
    }
}
