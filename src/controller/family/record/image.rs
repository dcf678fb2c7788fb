//! The record of each image: its `ManagedImage`.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    api::{
        ImageState, ManagedImage, ManagedImageSpec, ManagedImageStatus, TagRecord,
        condition::{
            self, ConditionUpdate, READY, RECONCILING, ReasonClass, STALLED, reason, shorten,
        },
        labels,
    },
    controller::{
        context::{Context, ReconcileCache},
        error::{ReconcileError, call},
        family::{
            observe::snapshot::Snapshot,
            record::{
                counting::RecordChange,
                events::{self, Tone},
                history::{KnownBuilds, history},
                requests,
            },
        },
        object_cache::Key,
        writes::apply_status,
    },
    engine::{
        Action, Decision, ImageDecision, ObservedBuild, ObservedTag, Target, cascade::limits, tags,
    },
    lineage::ImageIndex,
};

/// How many records are written at once.
const AT_ONCE: usize = 8;
/// The most characters of an image's message.
const MAX_MESSAGE: usize = 512;

/// Writes the records that have changed.
pub async fn write_all(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    cache: &ReconcileCache,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    stream::iter(ImageIndex::range(snapshot.family.spec.images.len()))
        .map(|index| write(context, snapshot, decision, cache, index, now))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

/// Records the digests that floating tags are about to be moved to. Whoever comes next after a
/// crash amid the moves completes them, and does not take what is moved already for somebody else's
/// work.
pub async fn record_promotion_intent(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
) -> Result<(), ReconcileError> {
    let floats = decision.actions.iter().filter_map(|action| match action {
        Action::Promote { image, tags, .. } => {
            tags.iter().any(|tag| !tag.immutable).then_some(*image)
        }
        _ => None,
    });
    let due = floats.filter_map(|image| {
        let record = snapshot.records.get(image.position())?.as_ref()?;
        let status = record.status.clone().unwrap_or_default();
        let promoted = decision.images.get(image.position())?.promoted().map(String::from);
        let conditions = own(&status.conditions);
        let new = status.promoted != promoted;
        new.then(|| (record.name_any(), ManagedImageStatus { conditions, promoted, ..status }))
    });
    stream::iter(due.collect::<Vec<_>>())
        .map(|(name, status)| put_status(context, &snapshot.key.namespace, name, status))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

/// Writes a status, without what another hand writes of it.
async fn put_status(
    context: &Context,
    namespace: &str,
    name: String,
    status: ManagedImageStatus,
) -> Result<(), ReconcileError> {
    let api: Api<ManagedImage> = Api::namespaced(context.client.clone(), namespace);
    let mut body = serde_json::to_value(&status).map_err(|source| ReconcileError::Serialize {
        what: format!("write the status of ManagedImage {name}"),
        source,
    })?;
    if let Some(body) = body.as_object_mut() {
        body.remove("rollouts");
    }
    let body = apply_status::<ManagedImage>(&name, &body);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
    let what = || format!("write the status of ManagedImage {name}");
    match call(what, api.patch_status(&name, &parameters, &body)).await {
        Ok(written) => context.stores.images.wrote(written),
        // Deleted in between: the next pass makes it anew, and must not go by what was recorded,
        // which may be out of date by then if the watch is behind.
        Err(error) if error.is_not_found() => {
            context.stores.images.missed(&Key::new(namespace, &name));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn write(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    cache: &ReconcileCache,
    index: ImageIndex,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let (Some(image), Some(decided)) =
        (snapshot.family.spec.images.get(index.position()), decision.images.get(index.position()))
    else {
        return Ok(());
    };
    let known = snapshot.records.get(index.position()).and_then(Option::as_ref);
    let name = format!("{}.{}", snapshot.key.name, image.name);
    let api: Api<ManagedImage> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();

    let spec = ManagedImageSpec {
        family: snapshot.key.name.clone(),
        image: image.name.clone(),
        repository: snapshot.repository(index),
        level: i32::try_from(snapshot.blueprint.lineage.level(index)).unwrap_or(i32::MAX),
    };
    if known.is_none_or(|known| known.spec != spec) {
        let body = Patch::Apply(object(snapshot, &name, &spec));
        let written =
            call(|| format!("apply ManagedImage {name}"), api.patch(&name, &parameters, &body))
                .await?;
        context.stores.images.wrote(written);
    }

    let old = known.and_then(|known| known.status.clone()).unwrap_or_default();
    let new = status(snapshot, decision, decided, &old, cache, index, now);
    // Rollouts are recorded by another hand, under another field owner; here they count neither as
    // old nor as new.
    let comparable = ManagedImageStatus {
        rollouts: Vec::new(),
        conditions: own(&old.conditions),
        ..old.clone()
    };
    if known.is_some() && new == comparable {
        return Ok(());
    }
    put_status(context, &snapshot.key.namespace, name, new.clone()).await?;
    tell(context, snapshot, &image.name, &old, &new).await;
    count(context, snapshot, index, &old, &new);
    Ok(())
}

fn object(snapshot: &Snapshot, name: &str, spec: &ManagedImageSpec) -> serde_json::Value {
    json!({
        "apiVersion": ManagedImage::api_version(&()),
        "kind": ManagedImage::kind(&()),
        "metadata": {
            "name": name,
            "labels": BTreeMap::from([
                (labels::FAMILY, spec.family.as_str()),
                (labels::IMAGE, spec.image.as_str()),
                (labels::MANAGED_BY, labels::MANAGED_BY_VALUE),
            ]),
            "ownerReferences": snapshot.family.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
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
    snapshot: &Snapshot,
    decision: &Decision,
    decided: &ImageDecision,
    old: &ManagedImageStatus,
    cache: &ReconcileCache,
    index: ImageIndex,
    now: Timestamp,
) -> ManagedImageStatus {
    let generation = snapshot.family.metadata.generation;
    let verified = decided.verified.as_deref();
    let tags = tags_of(snapshot, decided, old, cache, index);
    let requests = requests::recorded(decision, Target::Image(index), &old.requests);
    let last_handled_request = requests
        .first()
        .map(|request| request.id.clone())
        .or_else(|| old.last_handled_request.clone());
    let reason = decided.reason;
    let message = shorten(&decided.message.to_string(), MAX_MESSAGE);
    let known = KnownBuilds {
        builds: snapshot.builds_of(index),
        seconds: &snapshot.seconds,
        lookups: cache.lookups.of(snapshot
            .family
            .spec
            .images
            .get(index.position())
            .map_or("", |image| image.name.as_str())),
    };
    let since = old.since.filter(|_| old.state == decided.state).or(Some(now));
    let mut status = ManagedImageStatus {
        observed_generation: generation,
        conditions: own(&old.conditions),
        state: decided.state,
        reason: reason.into(),
        message: message.clone(),
        since,
        digest: verified.map(|verified| verified.digest.to_string()),
        fingerprint: verified.map(|verified| verified.fingerprint.to_string()),
        build: verified.map(|verified| verified.build),
        last_build: old
            .last_build
            .max(verified.map(|verified| verified.build))
            .max(decided.running.as_ref().map(|running| running.build)),
        size: verified.map(|verified| verified.size),
        base_seen: verified.and_then(|verified| verified.base_seen),
        inputs: verified.map(|verified| verified.inputs.clone()),
        tags,
        running: decided.running.as_deref().cloned(),
        failure: decided.failure.as_deref().cloned(),
        content: verified.and_then(|verified| verified.content.clone()),
        blobs: verified.and_then(|verified| verified.blobs.clone()),
        causes: verified.map(|verified| verified.causes.clone()).unwrap_or_default(),
        checked: verified.and_then(|verified| verified.checked.clone()),
        checks: decided.checks.clone(),
        promoted: decided.promoted().map(String::from),
        hold: decided.hold.as_deref().cloned(),
        nonce: decided.nonce.clone(),
        last_handled_request,
        requests,
        rollouts: Vec::new(),
        starts: starts(snapshot, decision, decided, old, index, now),
        history: history(
            old,
            decided,
            known,
            decision.cascade.name().unwrap_or_default(),
            snapshot.family.spec.history.builds,
            now,
        ),
    };
    let ready = decided.state == ImageState::Current && reason == reason::CURRENT;
    let stalled = needs_user(decided.state, reason) || decided.state == ImageState::Blocked;
    for (type_, value) in [(READY, ready), (RECONCILING, !ready && !stalled), (STALLED, stalled)] {
        let update = ConditionUpdate {
            type_,
            status: value,
            reason,
            message: &message,
            observed_generation: generation,
        };
        condition::set(&mut status.conditions, update, now);
    }
    status
}

/// The tags as they are to be recorded: where they were last set, or were recorded before.
fn tags_of(
    snapshot: &Snapshot,
    decided: &ImageDecision,
    old: &ManagedImageStatus,
    cache: &ReconcileCache,
    index: ImageIndex,
) -> Vec<TagRecord> {
    let (Some(image), Some(verified)) =
        (snapshot.family.spec.images.get(index.position()), &decided.verified)
    else {
        return old.tags.clone();
    };
    let observations = cache.tags.get(&image.name);
    let tags = tags::render(&snapshot.family.spec, image, verified.build, &verified.fingerprint)
        .unwrap_or_default();
    let record = |tag: tags::Tag| match observations
        .and_then(|observations| observations.get(&tag.name))
    {
        Some((ObservedTag::At(digest), _)) => {
            Some(TagRecord { tag: tag.name, digest: digest.to_string(), immutable: tag.immutable })
        }
        Some((ObservedTag::Taken(_), _)) => None,
        Some((ObservedTag::Failed(..), _)) | None => {
            old.tags.iter().find(|record| record.tag == tag.name).cloned()
        }
    };
    tags.into_iter().filter_map(record).collect()
}

/// The starts that a storm is slowed down by, with the one of this very pass.
fn starts(
    snapshot: &Snapshot,
    decision: &Decision,
    decided: &ImageDecision,
    old: &ManagedImageStatus,
    index: ImageIndex,
    now: Timestamp,
) -> Vec<Timestamp> {
    let Some(rate_limit) = &snapshot.family.spec.policy.rate_limit else { return Vec::new() };
    let seen = snapshot.builds_of(index).iter().filter_map(ObservedBuild::uncaused_start);
    let is_own = |action: &Action| matches!(action, Action::Build { image, identity, .. } if *image == index && !identity.user_caused);
    let own = decided.running.as_ref().filter(|_| decision.actions.iter().any(is_own));
    let seen = seen.chain(own.and_then(|running| running.started_at));
    limits::starts_to_record(&old.starts, seen, rate_limit.builds, rate_limit.per.signed(), now)
}

/// Returns whether an image in this state stays in it until a user changes something.
#[must_use]
pub fn needs_user(state: ImageState, reason: &str) -> bool {
    match state {
        ImageState::Failed => true,
        ImageState::Waiting | ImageState::Queued | ImageState::Checking => {
            ReasonClass::of(reason) != Some(ReasonClass::Expected)
        }
        // Current, and yet not all as it should be: a tag could not be set.
        ImageState::Current => reason != reason::CURRENT,
        ImageState::Building | ImageState::Held | ImageState::Blocked => false,
    }
}

/// Tells of an image that has come to need a person.
async fn tell(
    context: &Context,
    snapshot: &Snapshot,
    image: &str,
    old: &ManagedImageStatus,
    new: &ManagedImageStatus,
) {
    let needs = |status: &ManagedImageStatus| needs_user(status.state, &status.reason);
    if needs(new) && (!needs(old) || old.reason != new.reason) {
        let note = format!("{image}: {}", new.message);
        events::publish(context, &snapshot.family, Tone::Warning, &new.reason, "Build", &note)
            .await;
    }
}

/// Counts builds and checks that have ended.
fn count(
    context: &Context,
    snapshot: &Snapshot,
    index: ImageIndex,
    old: &ManagedImageStatus,
    new: &ManagedImageStatus,
) {
    let Some(image) = snapshot.family.spec.images.get(index.position()) else { return };
    let change = RecordChange {
        image,
        old,
        new,
        builds: snapshot.builds_of(index),
        seconds: &snapshot.seconds,
        checks: snapshot.checks.get(index.position()).map_or(&[], Vec::as_slice),
    };
    for (result, length) in change.builds() {
        context.metrics.build_finished(result, length);
    }
    for result in change.checks() {
        context.metrics.check_finished(result);
    }
}
