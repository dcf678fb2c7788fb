//! The reconciler of an `ImageFamily`.
//!
//! - [`observe`]: reads what the decision needs
//! - [`registry`]: looks up in registries what was already built
//! - [`act`]: creates Jobs and moves tags
//! - [`record`]: writes statuses, Events and metrics
//! - [`reconcile`](mod@reconcile): what the steps share
//!
//! The steps of [`reconcile()`] are marked (API) if they need a client of the API server,
//! (registry) if they call registries, and (pure) if they need neither.

pub mod act;
pub mod observe;
pub mod reconcile;
pub mod record;
pub mod registry;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};

use self::{
    act::jobs,
    observe::{ObserveError, Observer, snapshot::Snapshot, strategies::UnnamedPlatforms},
    reconcile::Reconcile,
    record::status,
    registry::DecisionValidity,
};
use crate::{
    api::ImageFamily,
    controller::{
        context::Context,
        error::{ReconcileError, again_after_conflict},
        installations::{Claim, RECHECK_INTERVAL, claim},
        object_cache::Key,
        quota,
    },
    engine::{CascadeDecision, Decision},
};

/// Upper bound on the time between two reconciles of a family. Nothing depends on it, but a missed
/// event delays a family by no more than this.
const RESYNC: Duration = Duration::from_mins(10);
/// The delay of a reconcile that follows immediately.
const REQUEUE_NOW: Duration = Duration::from_millis(1);

/// Reconciles a family once. If somebody changes one of its objects meanwhile, it is reconciled
/// again right away.
///
/// # Errors
///
/// Returns an error if a call to the API server fails. Failures of registries and builds are part
/// of what is recorded.
pub async fn reconcile(
    family: Arc<ImageFamily>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    again_after_conflict(Box::pin(reconcile_once(family, context)).await)
}

async fn reconcile_once(
    family: Arc<ImageFamily>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let key = Key::of(&*family);
    let Some(family) = live_family(&context, &key) else { return Ok(Action::await_change()) };
    let uid = family.uid().unwrap_or_default();
    let cache = context.reconcile_caches.of(&uid);
    let mut cache = cache.lock().await;
    let now = context.clock.now();
    cache.begin_reconcile(now);
    context.deferred_triggers.begin_reconcile(&key);

    // 1. (API) Find out the results of earlier writes that got no answer, and claim the family for
    // this installation.
    status::refresh_family(&context, &key, &mut cache).await?;
    let Some(family) = live_family(&context, &key) else { return Ok(Action::await_change()) };
    if family.uid().unwrap_or_default() != uid {
        // The family was recreated, and the cache belongs to the deleted one.
        return Ok(Action::requeue(REQUEUE_NOW));
    }
    // A family that another installation serves is left alone.
    let Claim::Ours(family) = claim(&context, family).await? else {
        return Ok(Action::requeue(RECHECK_INTERVAL));
    };
    let (jobs, keys) = (&context.stores.jobs, &context.records.keys);
    jobs::find_unanswered(jobs, &context.client, &key.namespace, keys, &mut cache).await?;

    // 2. (pure) Count the family's running builds on the operator's limits.
    let mut reservation = context.quota.open_reservation(&key, &context.stores, now);

    // 3. (API) Observe. A rejected spec is recorded, and nothing else is done.
    let mut observer = Observer::new(&context, family, &mut cache, now);
    let snapshot = match observe(&mut observer).await {
        Ok(snapshot) => snapshot,
        Err(ObserveError::Rejected(problem)) => return observer.record_rejection(&problem).await,
        Err(ObserveError::Failed(error)) => return Err(error),
    };

    // 4. (pure) Decide.
    let mut reconcile = Reconcile::new(&context, snapshot, &mut cache, now);

    // 5. (registry) Look up what was already built, and decide again with the answers.
    let lookups = look_up(&mut reconcile).await;

    // and record current builds that have no record of the newest key.
    let unrecorded_until = reconcile.record_current_builds().await;

    // 6. (pure) Reserve places for builds and checks within the operator's limits.
    reservation.reserve_builds(
        quota::request(&reconcile.snapshot.family, &reconcile.decision),
        |allowance| {
            reconcile.snapshot.allowance = allowance;
            reconcile.decide();
            quota::request(&reconcile.snapshot.family, &reconcile.decision)
        },
    );

    // 7. (API) Start builds.
    let builds = reconcile.start_builds().await?;

    // 8. (registry) Resolve the images that checks run in, and (API) start checks.
    reconcile.resolve_check_images().await;
    let checks = reconcile.start_checks().await?;
    let unused = reservation.commit(&context.stores);

    // 9. (API) Record the images whose floating tags are about to be moved, of a few at a time.
    let intents = reconcile.record_promotion_intent().await;

    // 10. (registry) Move tags.
    reconcile.move_tags().await;

    // 11. (API) Record the images, the family, the cascade and the requests. What does not get its
    // turn now is left to the next reconcile, which follows at once: builds that are ready by then
    // start before it.
    let deferred = reconcile.record().await?;

    // 12. (API) Delete Jobs that have a result or were cancelled, and still run, and those whose
    // pods were rejected.
    reconcile.delete_ended_jobs().await?;
    if let Some(error) = reconcile.record_error.take() {
        return Err(error);
    }

    // 13. (pure) Choose the time of the next reconcile. A changed quota ends the wait for it.
    let is_out_of_time = !reconcile.registry_time.is_left();
    let since = reconcile.cache.deferred_jobs.wait_for_quota_since();
    let is_over = context.resource_quotas.note_waiting(&key, since);
    Ok(next_reconcile(
        &reconcile.decision,
        &[
            intents,
            deferred,
            reconcile.tag_retry_at(),
            (lookups == LookupRounds::Unfinished || is_out_of_time).then_some(now),
            unrecorded_until,
            builds.decide_again_at(now),
            checks.decide_again_at(now),
            unused,
            reconcile.snapshot.recheck_pods_at,
            reconcile.snapshot.default_platform.retry_at,
            is_over.then_some(now),
        ],
        now,
    ))
}

/// Step 3 of [`reconcile()`]: reads what the decision needs.
async fn observe(observer: &mut Observer<'_>) -> Result<Snapshot, ObserveError> {
    // 3.1 (API) Read the sources that have changed, and add to the spec what Dockerfiles name.
    observer.read_sources().await?;
    // 3.2 (pure) Validate the spec.
    let blueprint = observer.validate_spec()?;
    // 3.3 (API) Adopt records that belong to nobody. A record that belongs to another object is
    // left alone.
    observer.adopt_records().await?;
    // 3.4 (API) Load the registry credentials, if their Secrets have changed.
    let keychain = observer.load_keychain().await?;
    observer.cache.note_accepted_spec();
    // 3.5 (registry) Find the platform of builds whose strategies name none, unless it is recorded.
    let built = observer.built_platforms(&blueprint);
    let platform = observer.default_platform(&blueprint, &built, &keychain).await;
    // 3.6 (pure) Render the strategies.
    let unnamed = UnnamedPlatforms { built: &built, default: &platform };
    let strategies = observer.strategies(&blueprint, &unnamed);
    // 3.7 (pure) Register what the pollers are to poll for this family.
    observer.register_polls(&keychain);
    // 3.8 (API) Take the snapshot. Only content that has changed is read from the API server, and
    // the Events of pods that their nodes do not start and of Jobs without a pod.
    Ok(observer.take_snapshot(blueprint, keychain, platform, strategies).await?)
}

/// Whether all lookups of a reconcile were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookupRounds {
    /// The decision asks for no more.
    Finished,
    /// The decision still asks for some after the last round, or after the time for registries.
    Unfinished,
}

/// Step 5 of [`reconcile()`]: looks up what the decision asks for, and decides again, until it asks
/// for nothing more.
async fn look_up(reconcile: &mut Reconcile<'_>) -> LookupRounds {
    // Each round may allow the next level of images to be looked up, and there are no more levels
    // than images. Five more rounds allow for retags,
    // marks, labels and rollbacks.
    for _ in 0..reconcile.snapshot.blueprint.images.len() + 5 {
        let is_current = reconcile.look_up_fingerprints().await == DecisionValidity::Current
            && reconcile.retag_unchanged().await == DecisionValidity::Current
            && reconcile.mark_rebuilds().await == DecisionValidity::Current
            && reconcile.read_labels().await == DecisionValidity::Current
            && reconcile.find_digests().await == DecisionValidity::Current;
        let is_time_left = reconcile.registry_time.is_left();
        if is_current && is_time_left {
            return LookupRounds::Finished;
        }
        reconcile.decide();
        if !is_time_left {
            return LookupRounds::Unfinished;
        }
    }
    LookupRounds::Unfinished
}

/// Returns the family from the store, unless it is deleted or about to be.
fn live_family(context: &Context, key: &Key) -> Option<Arc<ImageFamily>> {
    let family = context.stores.families.get(key)?;
    family.metadata.deletion_timestamp.is_none().then_some(family)
}

/// Returns when to reconcile again if nothing changes before.
fn next_reconcile(decision: &Decision, others: &[Option<Timestamp>], now: Timestamp) -> Action {
    if matches!(decision.cascade, CascadeDecision::Start { .. } | CascadeDecision::Finish { .. }) {
        return Action::requeue(REQUEUE_NOW);
    }
    let wake_at = others.iter().copied().chain([decision.wake_at]).flatten().min();
    let wait =
        wake_at.map_or(RESYNC, |at| at.duration_since(now).try_into().unwrap_or(REQUEUE_NOW));
    Action::requeue(wait.clamp(REQUEUE_NOW, RESYNC))
}
