//! The pass over a `ManagedImage`: its workloads are moved to its promoted digest.
//!
//! Apart from the family's pass, so that a cascade never waits for a rollout, and a rollout never
//! for a cascade. It writes `status.rollouts` and the condition `RolledOut` under a field owner of
//! its own.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    api::PatchParams,
    runtime::{controller::Action, reflector::ObjectRef},
};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    api::{
        ImageFamily, ManagedImage, ManagedImageStatus, Rollout, RolloutRecord, RolloutState,
        condition::{self, ConditionUpdate, reason},
        labels,
    },
    controller::{
        context::Context,
        error::{ReconcileError, call},
        family::record::events::{self, Tone},
        object_cache::Key,
        writes::apply_status,
    },
    rollout::{self, RolloutStep},
};

/// Condition of a `ManagedImage`: its workloads run its digest.
pub const ROLLED_OUT: &str = "RolledOut";
/// The longest that a record is left alone.
const RESYNC: Duration = Duration::from_mins(10);
/// Until a change that could not be made is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// One pass over an image's workloads.
pub async fn reconcile(
    image: Arc<ManagedImage>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let key = Key::of(&*image);
    let live = |image: &Arc<ManagedImage>| image.metadata.deletion_timestamp.is_none();
    let Some(image) = context.stores.images.get(&key).filter(live) else {
        return Ok(Action::await_change());
    };
    let family = context.stores.families.get(&Key::new(&key.namespace, &image.spec.family));
    let Some(family) = family.filter(|family| !family.spec.suspend) else {
        return Ok(Action::requeue(RESYNC));
    };
    let rollouts = rollouts_of(&family, &image);
    context.rollouts.follow(&ObjectRef::from_obj(&*image), &key.namespace, rollouts);
    let Some(digest) = promoted(image.status.as_ref()) else { return Ok(Action::requeue(RESYNC)) };

    let steps =
        rollout::plan(&key.namespace, &image.spec.repository, digest, rollouts, &context.workloads);
    let failed = carry_out(&context, &steps).await;
    record(&context, &family, &image, steps, failed.as_deref()).await?;
    Ok(Action::requeue(if failed.is_some() { TRY_AGAIN } else { RESYNC }))
}

fn rollouts_of<'a>(family: &'a ImageFamily, image: &ManagedImage) -> &'a [Rollout] {
    let image = family.spec.images.iter().find(|candidate| candidate.name == image.spec.image);
    image.map_or(&[], |image| image.rollout.as_slice())
}

/// The digest that workloads are moved to: the promoted one, once the floating tags stand on it,
/// for a restarted pod pulls by tag.
fn promoted(status: Option<&ManagedImageStatus>) -> Option<&str> {
    let status = status?;
    let digest = status.promoted.as_deref()?;
    let floating = status.tags.iter().filter(|tag| !tag.immutable);
    floating.into_iter().all(|tag| tag.digest == digest).then_some(digest)
}

/// Changes what is to be changed. Says what could not be.
async fn carry_out(context: &Context, steps: &[RolloutStep]) -> Option<String> {
    let mut failed = None;
    for patch in steps.iter().filter_map(|step| step.patch.as_ref()) {
        match rollout::apply(&context.client, patch).await {
            Ok(()) => info!(workload = %patch.key, "workload moved to a new digest"),
            // The cache lags behind: the change that made the conflict comes by the watch, and with
            // it the next pass.
            Err(rollout::RolloutError::Conflict(_)) => {}
            Err(error) => {
                warn!(workload = %patch.key, %error, "a workload could not be moved");
                failed = failed.or_else(|| Some(error.to_string()));
            }
        }
    }
    failed
}

async fn record(
    context: &Context,
    family: &ImageFamily,
    image: &ManagedImage,
    steps: Vec<RolloutStep>,
    failed: Option<&str>,
) -> Result<(), ReconcileError> {
    let old = image.status.clone().unwrap_or_default();
    let rollouts: Vec<RolloutRecord> = steps.into_iter().map(|step| step.record).collect();
    let condition = condition(&old.conditions, &rollouts, failed, context.clock.now());
    let known = old.conditions.iter().find(|known| known.type_ == ROLLED_OUT);
    if old.rollouts == rollouts && known == condition.as_ref() {
        return Ok(());
    }
    let status =
        json!({ "conditions": condition.iter().collect::<Vec<_>>(), "rollouts": rollouts });
    let name = image.name_any();
    let api: Api<ManagedImage> =
        Api::namespaced(context.client.clone(), &image.namespace().unwrap_or_default());
    let parameters = PatchParams::apply(labels::ROLLOUT_FIELD_OWNER).force();
    let what = || format!("write the rollouts of ManagedImage {name}");
    match call(
        what,
        api.patch_status(&name, &parameters, &apply_status::<ManagedImage>(&name, &status)),
    )
    .await
    {
        Ok(written) => context.stores.images.wrote(written),
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    }
    tell(context, family, &old.rollouts, &rollouts).await;
    Ok(())
}

/// The condition `RolledOut`; none for an image without rollouts.
fn condition(
    old: &[Condition],
    rollouts: &[RolloutRecord],
    failed: Option<&str>,
    now: Timestamp,
) -> Option<Condition> {
    let worst = [
        (RolloutState::Refused, reason::ROLLOUT_REFUSED),
        (RolloutState::Stalled, reason::ROLLOUT_STALLED),
        (RolloutState::Progressing, reason::ROLLING_OUT),
    ]
    .into_iter()
    .find_map(|(state, reason)| {
        Some((reason, rollouts.iter().find(|record| record.state == state)?))
    });
    let (ready, reason, message) = match (failed, worst) {
        _ if rollouts.is_empty() => return None,
        (Some(failed), _) => (false, reason::ROLLOUT_REFUSED, failed.to_owned()),
        (None, Some((reason, record))) => {
            (false, reason, format!("{}: {}", record.workload, record.message))
        }
        (None, None) => {
            (true, reason::CURRENT, format!("all {} workloads run the digest", rollouts.len()))
        }
    };
    let mut conditions =
        old.iter().filter(|condition| condition.type_ == ROLLED_OUT).cloned().collect();
    let update = ConditionUpdate {
        type_: ROLLED_OUT,
        status: ready,
        reason,
        message: &message,
        observed_generation: None,
    };
    condition::set(&mut conditions, update, now);
    conditions.pop()
}

async fn tell(
    context: &Context,
    family: &ImageFamily,
    old: &[RolloutRecord],
    new: &[RolloutRecord],
) {
    for record in new {
        let before = old
            .iter()
            .find(|before| before.workload == record.workload && before.digest == record.digest);
        if before.is_some_and(|before| before.state == record.state) {
            continue;
        }
        let (tone, reason) = match record.state {
            RolloutState::Complete if before.is_some() => (Tone::Normal, reason::CURRENT),
            RolloutState::Complete => continue,
            RolloutState::Progressing => (Tone::Normal, reason::ROLLING_OUT),
            RolloutState::Stalled => (Tone::Warning, reason::ROLLOUT_STALLED),
            RolloutState::Refused => (Tone::Warning, reason::ROLLOUT_REFUSED),
        };
        let note = format!("{}: {}", record.workload, record.message);
        events::publish(context, family, tone, reason, "Rollout", &note).await;
    }
}
