//! The record of each image: its `FamilyImage`.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    super::{
        context::{Context, Memory},
        error::{Error, call},
        writes::apply_status,
    },
    events::{self, Tone},
    observe::World,
    requests,
};
use crate::{
    api::{
        BuildRecord, FamilyImage, FamilyImageSpec, FamilyImageStatus, ImageState, TagRecord,
        condition::{self, READY, RECONCILING, STALLED, reason, shorten},
        family_image::MAX_HISTORY,
        labels,
    },
    engine::{Decision, ImageDecision, TagSight, Target, causes, tags},
    server::metrics::BuildResult,
};

/// How many records are written at once.
const AT_ONCE: usize = 8;
/// The most characters of an image's message.
const MAX_MESSAGE: usize = 512;

/// Writes the records that have changed.
pub async fn write_all(
    context: &Context,
    world: &World,
    decision: &Decision,
    memory: &Memory,
    now: Timestamp,
) -> Result<(), Error> {
    stream::iter(0..world.family.spec.images.len())
        .map(|index| write(context, world, decision, memory, index, now))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

async fn write(
    context: &Context,
    world: &World,
    decision: &Decision,
    memory: &Memory,
    index: usize,
    now: Timestamp,
) -> Result<(), Error> {
    let (Some(image), Some(decided)) = (world.family.spec.images.get(index), decision.images.get(index)) else {
        return Ok(());
    };
    let known = world.records.get(index).and_then(Option::as_ref);
    let name = format!("{}.{}", world.key.name, image.name);
    let api: Api<FamilyImage> = Api::namespaced(context.client.clone(), &world.key.namespace);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();

    let spec = FamilyImageSpec {
        family: world.key.name.clone(),
        image: image.name.clone(),
        repository: world.repository(index),
        level: i32::try_from(world.blueprint.lineage.level(index)).unwrap_or(i32::MAX),
    };
    if known.is_none_or(|known| known.spec != spec) {
        let body = Patch::Apply(object(world, &name, &spec));
        let written = call(|| format!("apply FamilyImage {name}"), api.patch(&name, &parameters, &body)).await?;
        context.caches.images.wrote(written);
    }

    let old = known.and_then(|known| known.status.clone()).unwrap_or_default();
    let new = status(world, decision, decided, &old, memory, index, now);
    // Rollouts are recorded by another hand, under another field owner; here they count neither as old nor as new.
    let comparable = FamilyImageStatus { rollouts: Vec::new(), conditions: own(&old.conditions), ..old.clone() };
    if known.is_some() && new == comparable {
        return Ok(());
    }
    let mut body = serde_json::to_value(&new)
        .map_err(|source| Error::Serialize { what: format!("write the status of FamilyImage {name}"), source })?;
    if let Some(body) = body.as_object_mut() {
        body.remove("rollouts");
    }
    let body = apply_status::<FamilyImage>(&name, &body);
    let what = || format!("write the status of FamilyImage {name}");
    match call(what, api.patch_status(&name, &parameters, &body)).await {
        Ok(written) => context.caches.images.wrote(written),
        // Deleted in between: the next pass makes it anew.
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    tell(context, world, &image.name, &old, &new).await;
    count(context, &old, &new);
    Ok(())
}

fn object(world: &World, name: &str, spec: &FamilyImageSpec) -> serde_json::Value {
    json!({
        "apiVersion": FamilyImage::api_version(&()),
        "kind": FamilyImage::kind(&()),
        "metadata": {
            "name": name,
            "labels": BTreeMap::from([
                (labels::FAMILY, spec.family.as_str()),
                (labels::IMAGE, spec.image.as_str()),
                (labels::MANAGED_BY, labels::MANAGED_BY_VALUE),
            ]),
            "ownerReferences": world.family.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "spec": spec,
    })
}

/// The conditions that are recorded here.
fn own(
    conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    conditions
        .iter()
        .filter(|condition| [READY, RECONCILING, STALLED].contains(&condition.type_.as_str()))
        .cloned()
        .collect()
}

fn status(
    world: &World,
    decision: &Decision,
    decided: &ImageDecision,
    old: &FamilyImageStatus,
    memory: &Memory,
    index: usize,
    now: Timestamp,
) -> FamilyImageStatus {
    let generation = world.family.metadata.generation;
    let good = decided.good.as_deref();
    let tags = tags_of(world, decided, old, memory, index);
    let requests = requests::recorded(decision, Target::Image(index), &old.requests);
    let last_handled_request =
        requests.first().map(|request| request.id.clone()).or_else(|| old.last_handled_request.clone());
    let reason = decided.reason;
    let message = shorten(&decided.message, MAX_MESSAGE);
    let since = old.since.filter(|_| old.state == decided.state).or(Some(now));
    let mut status = FamilyImageStatus {
        observed_generation: generation,
        conditions: own(&old.conditions),
        state: decided.state,
        reason: reason.into(),
        message: message.clone(),
        since,
        digest: good.map(|good| good.digest.clone()),
        fingerprint: good.map(|good| good.fingerprint.clone()),
        build: good.map(|good| good.build),
        last_build: old
            .last_build
            .max(good.map(|good| good.build))
            .max(decided.running.as_ref().map(|running| running.build)),
        size: good.map(|good| good.size),
        base_seen: good.and_then(|good| good.base_seen),
        inputs: good.map(|good| good.inputs.clone()),
        tags,
        running: decided.running.clone(),
        failure: decided.failure.clone(),
        content: good.and_then(|good| good.content.clone()),
        blobs: good.and_then(|good| good.blobs.clone()),
        causes: good.map(|good| good.causes.clone()).unwrap_or_default(),
        checked: good.and_then(|good| good.checked.clone()),
        checks: decided.checks.clone(),
        promoted: decided.promoted.clone(),
        hold: decided.hold.clone(),
        nonce: decided.nonce.clone(),
        last_handled_request,
        requests,
        rollouts: Vec::new(),
        history: history(world, decision, decided, old, now),
    };
    let ready = decided.state == ImageState::Current && reason == reason::CURRENT;
    let stalled = needs_person(decided.state, reason) || decided.state == ImageState::Blocked;
    for (type_, value) in [(READY, ready), (RECONCILING, !ready && !stalled), (STALLED, stalled)] {
        condition::set(&mut status.conditions, type_, value, reason, &message, generation, now);
    }
    status
}

/// The tags as they are to be recorded: where they were last set, or were recorded before.
fn tags_of(
    world: &World,
    decided: &ImageDecision,
    old: &FamilyImageStatus,
    memory: &Memory,
    index: usize,
) -> Vec<TagRecord> {
    let (Some(image), Some(good)) = (world.family.spec.images.get(index), &decided.good) else {
        return old.tags.clone();
    };
    let sights = memory.tags.get(&image.name);
    let tags = tags::render(&world.family.spec, image, good.build, &good.fingerprint).unwrap_or_default();
    let record = |tag: tags::Tag| match sights.and_then(|sights| sights.get(&tag.name)) {
        Some((TagSight::At(digest), _)) => {
            Some(TagRecord { tag: tag.name, digest: digest.clone(), immutable: tag.immutable })
        }
        Some((TagSight::Taken(_), _)) => None,
        Some((TagSight::Faulty(..), _)) | None => old.tags.iter().find(|record| record.tag == tag.name).cloned(),
    };
    tags.into_iter().filter_map(record).collect()
}

/// The last builds, newest first; one is added when a good build is new, or when an image has failed for good. A list that is
/// longer than the spec allows, for it was written under another, is cut.
fn history(
    world: &World,
    decision: &Decision,
    decided: &ImageDecision,
    old: &FamilyImageStatus,
    now: Timestamp,
) -> Vec<BuildRecord> {
    let mut history = old.history.clone();
    let cascade = decision.wave.name().unwrap_or_default().to_owned();
    let good = decided.good.as_ref().filter(|good| old.fingerprint.as_ref() != Some(&good.fingerprint));
    if let Some(good) = good {
        let running = old.running.as_ref().filter(|running| running.fingerprint == good.fingerprint);
        let started = running.and_then(|running| running.started_at);
        history.insert(
            0,
            BuildRecord {
                build: good.build,
                fingerprint: good.fingerprint.clone(),
                digest: good.digest.clone(),
                finished_at: Some(now),
                seconds: started.map(|started| now.duration_since(started).as_secs().max(0)),
                why: causes::sentence(&good.causes),
                causes: good.causes.clone(),
                cascade,
                spared: good.spared,
            },
        );
    } else if decided.state == ImageState::Failed && old.state != ImageState::Failed {
        history.insert(
            0,
            BuildRecord {
                build: old.build.unwrap_or(0) + 1,
                fingerprint: decided.fingerprint.clone().unwrap_or_default(),
                finished_at: Some(now),
                why: shorten(&decided.message, 300),
                causes: decided.causes.clone(),
                cascade,
                ..BuildRecord::default()
            },
        );
    }
    history.truncate(usize::try_from(world.family.spec.history.builds).unwrap_or(1).clamp(1, MAX_HISTORY));
    history
}

/// Whether an image in this state stays there until somebody does something.
#[must_use]
pub fn needs_person(state: ImageState, reason: &str) -> bool {
    let passing = [
        reason::RESOLVING,
        reason::WAITING_FOR_PARENT,
        reason::VERIFYING,
        reason::CASCADING,
        reason::SETTLING,
        reason::SUSPENDED,
        reason::PARALLELISM,
        reason::STORM,
        reason::BUDGET,
        reason::WINDOW_CLOSED,
        reason::BREAKER_OPEN,
        reason::NEXT_WAVE,
        reason::CHECKING,
        reason::RETRYING,
        reason::BUILDING,
    ];
    match state {
        ImageState::Failed => true,
        ImageState::Waiting | ImageState::Queued | ImageState::Checking => !passing.contains(&reason),
        // Current, and yet not all as it should be: a tag could not be set.
        ImageState::Current => reason != reason::CURRENT,
        ImageState::Building | ImageState::Held | ImageState::Blocked => false,
    }
}

/// Tells of an image that has come to need a person.
async fn tell(context: &Context, world: &World, image: &str, old: &FamilyImageStatus, new: &FamilyImageStatus) {
    let needs = |status: &FamilyImageStatus| needs_person(status.state, &status.reason);
    if needs(new) && (!needs(old) || old.reason != new.reason) {
        let note = format!("{image}: {}", new.message);
        events::publish(context, &world.family, Tone::Warning, &new.reason, "Build", &note).await;
    }
}

/// Counts ended builds.
fn count(context: &Context, old: &FamilyImageStatus, new: &FamilyImageStatus) {
    if let Some(build) = new.history.first().filter(|build| old.history.first() != Some(*build))
        && !build.digest.is_empty()
        && build.seconds.is_some()
    {
        let length = build.seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        context.metrics.build_finished(BuildResult::Succeeded, length);
    }
    if let Some(failure) = new.failure.as_ref().filter(|failure| old.failure.as_ref() != Some(*failure)) {
        context.metrics.build_finished(failure.last.class.into(), None);
    }
}
