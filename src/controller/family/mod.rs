//! The pass over an `ImageFamily`: observe, decide, apply, status.
//!
//! - [`check`]: is the spec one that can be built?
//! - [`credentials`]: the registry credentials of the namespace
//! - [`imports`]: what it takes from other families
//! - [`observe`]: everything that the decision needs to know; [`observed_jobs`]: of builds and
//!   checks;
//!   [`strategies`]: how images are built; [`image_keys`]: how registries are asked for tags
//! - [`observed_requests`]: what people ask for by hand; [`requests`]: what came of it
//! - [`probe`]: what the registry has been pushed; [`pushed`]: what that is; [`remember`]: what it
//!   came out the same as
//! - [`apply`]: builds are started; [`checks`]: checks are; [`jobs`]: how either is made once, and
//!   ended
//! - [`promote`]: tags are moved
//! - [`status`]: the record of the family; [`image_record`]: of each image; [`history`]: of its
//!   builds; [`cascade`]: of the cascade
//! - [`counting`]: what the metrics count
//! - [`events`]: what a person would want to be told

pub mod act;
pub mod observe;
pub mod record;
pub mod registry;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};

use self::{
    act::{jobs, promote, start_builds, start_checks},
    observe::{
        credentials,
        snapshot::{self, Snapshot},
        validate,
    },
    record::{image, status},
    registry::{lookup, retag_unchanged},
};
use crate::{
    api::ImageFamily,
    controller::{context::Context, error::ReconcileError, object_cache::Key, quota},
    engine::{CascadeStep, decide},
};

/// The longest that a family is left alone: nothing depends on it, but a missed event costs no more
/// than this.
const RESYNC: Duration = Duration::from_mins(10);
/// Until the pass after one that has opened or closed a cascade.
const AT_ONCE: Duration = Duration::from_millis(1);

/// One pass over a family.
pub async fn reconcile(
    family: Arc<ImageFamily>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let key = Key::of(&*family);
    let live = |family: &Arc<ImageFamily>| family.metadata.deletion_timestamp.is_none();
    let known = || context.stores.families.get(&key).filter(live);
    let Some(uid) = known().map(|family| family.uid().unwrap_or_default()) else {
        return Ok(Action::await_change());
    };
    let cache = context.reconcile_caches.of(&uid);
    let mut cache = cache.lock().await;
    let now = context.clock.now();
    cache.begins(now);
    status::refresh(&context, &key, &mut cache).await?;
    let Some(family) = known() else { return Ok(Action::await_change()) };
    if family.uid().unwrap_or_default() != uid {
        // Made again since: what is remembered is of another one.
        return Ok(Action::requeue(AT_ONCE));
    }
    jobs::look_for_unanswered(&context.stores.jobs, &context.client, &key.namespace, &mut cache)
        .await?;
    let mut reservation = context.quota.reserve(&key, &context.stores, now);

    let blueprint = match validate::validated(&context, &family, &mut cache) {
        Ok(blueprint) => blueprint,
        Err(problem) => return status::stalled(&context, &family, &problem, &mut cache, now).await,
    };
    let keychain = match credentials::load(&context, &family, &mut cache).await? {
        Ok(keychain) => keychain,
        Err(problem) => return status::stalled(&context, &family, &problem, &mut cache, now).await,
    };
    snapshot::register_polls(&context, &family, &keychain, &mut cache.image_keys);
    let mut snapshot =
        Snapshot::observe(&context, &family, blueprint, keychain, &mut cache, now).await?;

    // Each answer of the registry may let the next level be asked for; there are no more levels
    // than images.
    let mut decision = decide(&snapshot.input(&cache), now);
    let mut rounds = snapshot.blueprint.images.len() + 2;
    while rounds > 0
        && (lookup::look_up(&context, &snapshot, &decision, &mut cache, now).await
            || retag_unchanged::retag_unchanged(&context, &snapshot, &decision, &mut cache, now)
                .await)
    {
        rounds -= 1;
        decision = decide(&snapshot.input(&cache), now);
    }

    reservation.reserve(quota::request(&family, &decision), |budget| {
        snapshot.budget = budget;
        decision = decide(&snapshot.input(&cache), now);
        quota::request(&family, &decision)
    });
    let refused_builds =
        start_builds::start_builds(&context, &snapshot, &mut decision, &mut cache, now).await?;
    reservation.commit(&context.stores);
    let refused_checks =
        start_checks::start_checks(&context, &snapshot, &mut decision, &mut cache, now).await?;
    image::record_promotion_intent(&context, &snapshot, &decision).await?;
    promote::move_tags(&context, &snapshot, &mut decision, &mut cache, now).await;
    let later = status::record(&context, &snapshot, &decision, &mut cache, now).await?;
    jobs::end(&context, &snapshot, &decision).await?;
    let unfinished = (refused_builds || refused_checks || rounds == 0).then_some(now);
    Ok(next(
        &decision,
        [later, promote::retry_at(&cache, now), unfinished, snapshot.look_again],
        now,
    ))
}

/// When to look again though nothing has changed.
fn next(
    decision: &crate::engine::Decision,
    others: [Option<Timestamp>; 4],
    now: Timestamp,
) -> Action {
    if matches!(decision.cascade, CascadeStep::Open { .. } | CascadeStep::Close { .. }) {
        return Action::requeue(AT_ONCE);
    }
    let wake_at = others.into_iter().chain([decision.wake_at]).flatten().min();
    let wait = wake_at.map_or(RESYNC, |at| at.duration_since(now).try_into().unwrap_or(AT_ONCE));
    Action::requeue(wait.clamp(AT_ONCE, RESYNC))
}
