//! Gates: what keeps ready builds from starting, and until when.

use jiff::Timestamp;

use super::{
    decision::Action,
    fingerprint::Hasher,
    observation::{BuildOutcome, Observation},
    upstreams::eligible,
    walk::Walk,
};
use crate::api::{ImageState, Pending, UpstreamStatus, condition::reason};

/// Whether a wave may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaveGate {
    /// There is nothing to do.
    Idle,
    /// It may.
    Open,
    /// Not before the time, unless something else changes.
    Settling {
        /// What is recorded of the wait.
        pending: Pending,
        /// When it may.
        until: Timestamp,
    },
    /// Not until the family is resumed.
    Suspended,
}

/// Whether a wave may begin, for what is ready and for the candidates that may be adopted.
///
/// Changes that come together build once: each new change starts the quiet time `settle` anew, but `maxSettle` after the
/// first of them it is over. A family of which nothing was ever built has nothing to wait for.
#[must_use]
pub fn wave(seen: &Observation<'_>, upstreams: &[UpstreamStatus], walk: &Walk, now: Timestamp) -> WaveGate {
    let candidates =
        upstreams.iter().filter(|upstream| eligible(upstream)).filter_map(|upstream| upstream.candidate.as_ref());
    let candidates: Vec<&str> = candidates.map(|candidate| candidate.digest.as_str()).collect();
    if candidates.is_empty() && walk.ready.is_empty() {
        return WaveGate::Idle;
    }
    if seen.spec.suspend {
        return WaveGate::Suspended;
    }
    if walk.images.iter().all(|image| image.good.is_none()) {
        return WaveGate::Open;
    }
    let wanted = walk.ready.iter().filter_map(|(image, _)| walk.images.get(*image)?.fingerprint.as_deref());
    let change = Hasher::new("change").texts(candidates).texts(wanted.collect::<Vec<_>>()).hex();
    let pending = match &seen.status.pending {
        Some(pending) if pending.change == change => pending.clone(),
        Some(pending) => Pending { change, since: pending.since, last_change: Some(now) },
        None => Pending { change, since: Some(now), last_change: Some(now) },
    };
    let policy = &seen.spec.policy;
    let after = |start: Option<Timestamp>, wait: crate::api::Duration| {
        start.unwrap_or(now).saturating_add(wait.signed()).unwrap_or(Timestamp::MAX)
    };
    let until = after(pending.last_change, policy.settle).min(after(pending.since, policy.max_settle));
    if until <= now { WaveGate::Open } else { WaveGate::Settling { pending, until } }
}

/// Picks the builds that start now: those with the longest remaining path first, as many as `parallelism` allows beside
/// those that run. The others are told why they wait.
#[must_use]
pub fn admit(seen: &Observation<'_>, walk: &mut Walk) -> Vec<Action> {
    let running = seen
        .images
        .iter()
        .flat_map(|image| &image.builds)
        .filter(|build| build.outcome == BuildOutcome::Running)
        .count();
    let parallelism = usize::try_from(seen.spec.policy.parallelism).unwrap_or(1).max(1);
    let slots = parallelism.saturating_sub(running);

    let remaining = seen.lineage.remaining(|image| expected_seconds(seen, image));
    let mut ready = std::mem::take(&mut walk.ready);
    ready.sort_by_key(|(image, _)| (std::cmp::Reverse(remaining.get(*image).copied().unwrap_or(0)), *image));
    let later = ready.split_off(slots.min(ready.len()));
    for (image, _) in &later {
        if let Some(image) = walk.images.get_mut(*image) {
            image.reason = reason::PARALLELISM;
            image.message =
                format!("{parallelism} builds of the family run, as many as spec.policy.parallelism allows");
        }
    }
    for (image, _) in &ready {
        if let Some(image) = walk.images.get_mut(*image) {
            image.state = ImageState::Building;
            image.reason = reason::BUILDING;
        }
    }
    ready.into_iter().map(|(_, action)| action).collect()
}

/// Tells every ready image why it does not start.
pub fn close(walk: &mut Walk, reason: &'static str, message: &str) {
    for (image, _) in std::mem::take(&mut walk.ready) {
        if let Some(image) = walk.images.get_mut(image) {
            image.reason = reason;
            image.message = message.into();
        }
    }
}

/// How long a build of this image is likely to take: as long as its last one, or a minute.
fn expected_seconds(seen: &Observation<'_>, image: usize) -> i64 {
    let record = seen.images.get(image).and_then(|image| image.record);
    record.and_then(|record| record.history.iter().find_map(|build| build.seconds)).unwrap_or(60).max(1)
}
