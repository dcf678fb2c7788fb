//! The record of each image: its `FamilyImage`.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    super::{
        cache::Key,
        context::{Context, Memory},
        error::{Error, call},
        writes::apply_status,
    },
    counting::Change,
    events::{self, Tone},
    history::{Known, history},
    observe::World,
    requests,
};
use crate::{
    api::{
        FamilyImage, FamilyImageSpec, FamilyImageStatus, ImageState, TagRecord,
        condition::{self, READY, RECONCILING, STALLED, reason, shorten},
        labels,
    },
    engine::{Action, BuildSight, Decision, ImageDecision, TagSight, Target, budget, tags},
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

/// Records the digests that floating tags are about to be moved to. Whoever comes next after a crash amid the moves completes
/// them, and does not take what is moved already for somebody else's work.
pub async fn announce(context: &Context, world: &World, decision: &Decision) -> Result<(), Error> {
    let floats = decision.actions.iter().filter_map(|action| match action {
        Action::Promote { image, tags, .. } => tags.iter().any(|tag| !tag.immutable).then_some(*image),
        _ => None,
    });
    let due = floats.filter_map(|image| {
        let record = world.records.get(image)?.as_ref()?;
        let status = record.status.clone().unwrap_or_default();
        let promoted = decision.images.get(image)?.promoted().map(str::to_owned);
        let conditions = own(&status.conditions);
        let new = status.promoted != promoted;
        new.then(|| (record.name_any(), FamilyImageStatus { conditions, promoted, ..status }))
    });
    stream::iter(due.collect::<Vec<_>>())
        .map(|(name, status)| put_status(context, &world.key.namespace, name, status))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

/// Writes a status, without what another hand writes of it.
async fn put_status(context: &Context, namespace: &str, name: String, status: FamilyImageStatus) -> Result<(), Error> {
    let api: Api<FamilyImage> = Api::namespaced(context.client.clone(), namespace);
    let mut body = serde_json::to_value(&status)
        .map_err(|source| Error::Serialize { what: format!("write the status of FamilyImage {name}"), source })?;
    if let Some(body) = body.as_object_mut() {
        body.remove("rollouts");
    }
    let body = apply_status::<FamilyImage>(&name, &body);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
    let what = || format!("write the status of FamilyImage {name}");
    match call(what, api.patch_status(&name, &parameters, &body)).await {
        Ok(written) => context.caches.images.wrote(written),
        // Deleted in between: the next pass makes it anew, and must not go by what was recorded, which may be out of date by
        // then if the watch is behind.
        Err(error) if error.is_not_found() => context.caches.images.missed(&Key::new(namespace, &name)),
        Err(error) => return Err(error),
    }
    Ok(())
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
    put_status(context, &world.key.namespace, name, new.clone()).await?;
    tell(context, world, &image.name, &old, &new).await;
    count(context, world, index, &old, &new);
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
    let message = shorten(&decided.message.to_string(), MAX_MESSAGE);
    let known = Known {
        builds: world.builds_of(index),
        seconds: &world.seconds,
        pushes: memory.pushes.of(world.family.spec.images.get(index).map_or("", |image| image.name.as_str())),
    };
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
        running: decided.running.as_deref().cloned(),
        failure: decided.failure.as_deref().cloned(),
        content: good.and_then(|good| good.content.clone()),
        blobs: good.and_then(|good| good.blobs.clone()),
        causes: good.map(|good| good.causes.clone()).unwrap_or_default(),
        checked: good.and_then(|good| good.checked.clone()),
        checks: decided.checks.clone(),
        promoted: decided.promoted().map(str::to_owned),
        hold: decided.hold.as_deref().cloned(),
        nonce: decided.nonce.clone(),
        last_handled_request,
        requests,
        rollouts: Vec::new(),
        starts: starts(world, decision, decided, old, index, now),
        history: history(
            old,
            decided,
            known,
            decision.wave.name().unwrap_or_default(),
            world.family.spec.history.builds,
            now,
        ),
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

/// The starts that a storm is slowed down by, with the one of this very pass.
fn starts(
    world: &World,
    decision: &Decision,
    decided: &ImageDecision,
    old: &FamilyImageStatus,
    index: usize,
    now: Timestamp,
) -> Vec<Timestamp> {
    let Some(storm) = &world.family.spec.policy.storm else { return Vec::new() };
    let seen = world.builds_of(index).iter().filter_map(BuildSight::uncaused_start);
    let is_own = |action: &Action| matches!(action, Action::Build { image, user_caused: false, .. } if *image == index);
    let own = decided.running.as_ref().filter(|_| decision.actions.iter().any(is_own));
    let seen = seen.chain(own.and_then(|running| running.started_at));
    budget::remembered(&old.starts, seen, storm.starts, storm.per.signed(), now)
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

/// Counts builds and checks that have ended.
fn count(context: &Context, world: &World, index: usize, old: &FamilyImageStatus, new: &FamilyImageStatus) {
    let Some(image) = world.family.spec.images.get(index) else { return };
    let change = Change {
        image,
        old,
        new,
        builds: world.builds_of(index),
        seconds: &world.seconds,
        checks: world.checks.get(index).map_or(&[], Vec::as_slice),
    };
    for (result, length) in change.builds() {
        context.metrics.build_finished(result, length);
    }
    for result in change.checks() {
        context.metrics.check_finished(result);
    }
}
