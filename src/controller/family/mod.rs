//! The pass over an `ImageFamily`: observe, decide, apply, status.
//!
//! - [`check`]: is the spec one that can be built?
//! - [`credentials`]: the registry credentials of the namespace
//! - [`imports`]: what it takes from other families
//! - [`observe`]: everything that the decision needs to know; [`job_sights`]: of builds and checks;
//!   [`strategies`]: how images are built; [`image_keys`]: how registries are asked for tags
//! - [`request_sights`]: what people ask for by hand; [`requests`]: what came of it
//! - [`probe`]: what the registry has been pushed; [`pushed`]: what that is; [`remember`]: what it came out the same as
//! - [`apply`]: builds are started; [`checks`]: checks are; [`jobs`]: how either is made once, and ended
//! - [`promote`]: tags are moved
//! - [`status`]: the record of the family; [`image_record`]: of each image; [`history`]: of its builds; [`cascade`]: of the wave
//! - [`counting`]: what the metrics count
//! - [`events`]: what a person would want to be told

pub mod apply;
pub mod cascade;
pub mod check;
pub mod checks;
pub mod counting;
pub mod credentials;
pub mod events;
pub mod history;
pub mod image_keys;
pub mod image_record;
pub mod imports;
pub mod job_sights;
pub mod jobs;
pub mod observe;
pub mod probe;
pub mod promote;
pub mod pushed;
pub mod remember;
pub mod request_sights;
pub mod requests;
pub mod status;
pub mod strategies;

#[cfg(test)]
mod jobs_tests;
#[cfg(test)]
mod pushed_tests;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};

use super::{budget, cache::Key, context::Context, error::Error};
use crate::{
    api::ImageFamily,
    engine::{WaveStep, decide},
};
use observe::World;

/// The longest that a family is left alone: nothing depends on it, but a missed event costs no more than this.
const RESYNC: Duration = Duration::from_mins(10);
/// Until the pass after one that has opened or closed a wave.
const AT_ONCE: Duration = Duration::from_millis(1);

/// One pass over a family.
pub async fn reconcile(family: Arc<ImageFamily>, context: Arc<Context>) -> Result<Action, Error> {
    let key = Key::of(&*family);
    let live = |family: &Arc<ImageFamily>| family.metadata.deletion_timestamp.is_none();
    let known = || context.caches.families.get(&key).filter(live);
    let Some(uid) = known().map(|family| family.uid().unwrap_or_default()) else { return Ok(Action::await_change()) };
    let memory = context.memory.of(&uid);
    let mut memory = memory.lock().await;
    let now = context.clock.now();
    memory.begins(now);
    status::refresh(&context, &key, &mut memory).await?;
    let Some(family) = known() else { return Ok(Action::await_change()) };
    if family.uid().unwrap_or_default() != uid {
        // Made again since: what is remembered is of another one.
        return Ok(Action::requeue(AT_ONCE));
    }
    jobs::look_for_unanswered(&context.caches.jobs, &context.client, &key.namespace, &mut memory).await?;
    let mut places = context.budget.begin(&key, &context.caches, now);

    let blueprint = match check::check(&context, &family, &mut memory) {
        Ok(blueprint) => blueprint,
        Err(fault) => return status::stalled(&context, &family, &fault, &mut memory, now).await,
    };
    let keychain = match credentials::load(&context, &family, &mut memory).await? {
        Ok(keychain) => keychain,
        Err(fault) => return status::stalled(&context, &family, &fault, &mut memory, now).await,
    };
    observe::follow(&context, &family, &keychain, &mut memory.image_keys);
    let mut world = World::observe(&context, &family, blueprint, keychain, &mut memory, now).await?;

    // Each answer of the registry may let the next level be asked for; there are no more levels than images.
    let mut decision = decide(&world.seen(&memory), now);
    let mut rounds = world.blueprint.images.len() + 2;
    while rounds > 0
        && (probe::answer(&context, &world, &decision, &mut memory, now).await
            || remember::remember(&context, &world, &decision, &mut memory, now).await)
    {
        rounds -= 1;
        decision = decide(&world.seen(&memory), now);
    }

    places.admit(budget::request(&family, &decision), |budget| {
        world.budget = budget;
        decision = decide(&world.seen(&memory), now);
        budget::request(&family, &decision)
    });
    let refused_builds = apply::start_builds(&context, &world, &mut decision, &mut memory, now).await?;
    places.settle(&context.caches);
    let refused_checks = checks::start_checks(&context, &world, &mut decision, &mut memory, now).await?;
    image_record::announce(&context, &world, &decision).await?;
    promote::move_tags(&context, &world, &mut decision, &mut memory, now).await;
    let later = status::record(&context, &world, &decision, &mut memory, now).await?;
    jobs::end(&context, &world, &decision).await?;
    let unfinished = (refused_builds || refused_checks || rounds == 0).then_some(now);
    Ok(next(&decision, [later, promote::retry_at(&memory, now), unfinished, world.look_again], now))
}

/// When to look again though nothing has changed.
fn next(decision: &crate::engine::Decision, others: [Option<Timestamp>; 4], now: Timestamp) -> Action {
    if matches!(decision.wave, WaveStep::Open { .. } | WaveStep::Close { .. }) {
        return Action::requeue(AT_ONCE);
    }
    let wake_at = others.into_iter().chain([decision.wake_at]).flatten().min();
    let wait = wake_at.map_or(RESYNC, |at| at.duration_since(now).try_into().unwrap_or(AT_ONCE));
    Action::requeue(wait.clamp(AT_ONCE, RESYNC))
}
