//! The gates of a cascade: whether one may start now, and if not, when.

use jiff::Timestamp;

use crate::{
    api::{Pending, UpstreamStatus, condition::reason},
    engine::{
        cascade::{CascadeContext, windows::WindowState},
        fingerprint::Hasher,
        image::evaluation::Evaluation,
        input::DecideInput,
        requests::RequestEffects,
        upstreams::eligible,
    },
    lineage::{ImageIndex, UpstreamIndex},
};

/// Whether a cascade may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CascadeReadiness {
    /// Nothing needs a build.
    Idle,
    /// A cascade may start now.
    Ready {
        /// The candidates that settle. They are left to the next cascade, because users only
        /// requested builds on the parents as they are. `None` if the cascade adopts all that may
        /// be adopted.
        settling: Option<Pending>,
    },
    /// The quiet time has not passed.
    Settling(QuietTime),
    /// No window is open.
    WindowClosed {
        /// The changes to record while they wait.
        pending: Pending,
        /// When the next window opens; `None` if none opens within four years.
        opens: Option<Timestamp>,
    },
    /// `spec.suspend` is set.
    Suspended {
        /// The changes to record while they wait.
        pending: Pending,
    },
}

/// Changes that wait for their quiet time to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietTime {
    /// The changes to record while they wait.
    pub pending: Pending,
    /// When the quiet time ends, unless another change comes first.
    pub until: Timestamp,
}

/// Returns whether a cascade may start for the ready builds and the candidates that may be adopted.
///
/// Changes that arrive together are built once. Each new change restarts the quiet time `settle`,
/// but the wait ends `maxSettle` after the first change, whatever else delays the cascade
/// meanwhile.
///
/// The quiet time is skipped
///
/// - when a user requested a start,
/// - when no image has ever been built,
/// - when all changes come from other families, whose own quiet time has passed,
/// - when this cascade replaces a superseded one, for the candidates that superseded it.
#[must_use]
pub fn cascade_readiness(
    context: &CascadeContext<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &Evaluation,
) -> CascadeReadiness {
    let CascadeContext { input, request_effects, window, now, .. } = *context;
    let candidates = candidates(upstreams);
    let ready = &evaluation.plan.ready_builds;
    if candidates.is_empty() && ready.is_empty() {
        return CascadeReadiness::Idle;
    }
    let wanted = ready.iter().filter_map(|ready| {
        Some(evaluation.images.get(ready.build.image.position())?.fingerprint.as_ref()?.as_str())
    });
    let quiet = quiet_time(input, hash_change(&candidates, wanted), now);
    if input.spec.suspend {
        return CascadeReadiness::Suspended { pending: quiet.pending };
    }
    if let WindowState::Closed { opens } = window {
        return CascadeReadiness::WindowClosed { pending: quiet.pending, opens };
    }
    let skips_quiet_time = replaces_superseded(input, &candidates)
        || evaluation.images.iter().all(|image| image.verified.is_none())
        || candidates.is_empty() && ready.iter().all(|ready| ready.only_imports_changed)
        || pending_start_is_requested(input, upstreams, evaluation, request_effects);
    if skips_quiet_time || quiet.until <= now {
        CascadeReadiness::Ready { settling: None }
    } else if build_start_is_requested(input, evaluation, request_effects) {
        let settling = (!candidates.is_empty()).then_some(quiet.pending);
        CascadeReadiness::Ready { settling }
    } else {
        CascadeReadiness::Settling(quiet)
    }
}

/// Returns the quiet time of candidates that may be adopted while a cascade runs, or `None` if
/// there are none.
///
/// With `policy.supersede: Cancel` the running cascade ends when this time has passed. The images
/// need not be evaluated for this.
#[must_use]
pub fn supersede_after(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    now: Timestamp,
) -> Option<QuietTime> {
    let candidates = candidates(upstreams);
    (!candidates.is_empty()).then(|| quiet_time(input, hash_change(&candidates, []), now))
}

/// Returns the changes that wait for the running cascade to end: candidates, and images that it has
/// built already. Their quiet time passes while the cascade runs.
#[must_use]
pub fn pending_for_next_cascade(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &Evaluation,
    now: Timestamp,
) -> Option<Pending> {
    let candidates = candidates(upstreams);
    let left = evaluation.images.iter().filter(|image| image.reason == reason::NEXT_CASCADE);
    let wanted: Vec<&str> =
        left.filter_map(|image| Some(image.fingerprint.as_ref()?.as_str())).collect();
    (!candidates.is_empty() || !wanted.is_empty())
        .then(|| quiet_time(input, hash_change(&candidates, wanted), now).pending)
}

/// Returns the digests that builds would use of the candidates that may be adopted.
fn candidates(upstreams: &[UpstreamStatus]) -> Vec<&str> {
    let eligible = upstreams.iter().filter(|upstream| eligible(upstream));
    let candidates = eligible.filter_map(|upstream| upstream.candidate.as_ref());
    candidates.flat_map(|candidate| candidate.content().built()).collect()
}

/// Returns whether exactly these candidates superseded the last cascade.
fn replaces_superseded(input: &DecideInput<'_>, candidates: &[&str]) -> bool {
    let settled = input.status.pending.as_ref().map(|pending| pending.change.as_str());
    input.superseded().is_some()
        && !candidates.is_empty()
        && settled == Some(hash_change(candidates, []).as_str())
}

/// Hashes a change: the candidates' digests and the fingerprints that are wanted.
fn hash_change<'a>(candidates: &[&str], wanted: impl IntoIterator<Item = &'a str>) -> String {
    Hasher::new("change")
        .texts(candidates.to_vec())
        .texts(wanted.into_iter().collect::<Vec<_>>())
        .hex()
}

/// Returns the quiet time of the change with this hash.
fn quiet_time(input: &DecideInput<'_>, change: String, now: Timestamp) -> QuietTime {
    // A record with times in the future was written before the clock was set back. It is ignored,
    // and the wait starts over.
    let is_plausible =
        |pending: &&Pending| pending.since.max(pending.last_change).is_none_or(|at| at <= now);
    let pending = match input.status.pending.as_ref().filter(is_plausible) {
        Some(pending) if pending.change == change => pending.clone(),
        Some(pending) => Pending { change, since: pending.since, last_change: Some(now) },
        None => Pending { change, since: Some(now), last_change: Some(now) },
    };
    let policy = &input.spec.policy;
    let after = |start: Option<Timestamp>, wait: crate::api::Duration| {
        start.unwrap_or(now).saturating_add(wait.signed()).unwrap_or(Timestamp::MAX)
    };
    let until =
        after(pending.last_change, policy.settle).min(after(pending.since, policy.max_settle));
    QuietTime { pending, until }
}

/// Returns whether a user requested the start of pending changes that need a build.
fn pending_start_is_requested(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &Evaluation,
    request_effects: &RequestEffects,
) -> bool {
    if request_effects.start_pending.is_empty() {
        return false;
    }
    let moved = UpstreamIndex::enumerate(upstreams).filter(|(_, upstream)| eligible(upstream));
    let children =
        moved.flat_map(|(index, _)| input.lineage().upstream_children(index).iter().copied());
    let stale = input.lineage().with_descendants(children.chain(ready_images(evaluation)));
    request_effects.start_pending.iter().any(|image| stale.get(image.position()) == Some(&true))
}

/// Returns whether a user requested a build of what is ready to build.
fn build_start_is_requested(
    input: &DecideInput<'_>,
    evaluation: &Evaluation,
    request_effects: &RequestEffects,
) -> bool {
    if request_effects.start.is_empty() {
        return false;
    }
    let stale = input.lineage().with_descendants(ready_images(evaluation));
    request_effects.start.iter().any(|image| stale.get(image.position()) == Some(&true))
}

/// Returns the images that are ready to build.
fn ready_images(evaluation: &Evaluation) -> impl Iterator<Item = ImageIndex> {
    evaluation.plan.ready_builds.iter().map(|ready| ready.build.image)
}

/// Starts none of the ready builds: their images stay queued with this reason and message.
pub fn queue_ready_builds(evaluation: &mut Evaluation, reason: &'static str, message: &str) {
    for ready in std::mem::take(&mut evaluation.plan.ready_builds) {
        if let Some(image) = evaluation.images.get_mut(ready.build.image.position()) {
            image.reason = reason;
            image.message = message.into();
        }
    }
}

/// Returns the message of images with the reason `WindowClosed`.
#[must_use]
pub fn window_closed_message(opens: Option<Timestamp>) -> String {
    let next = opens.map_or_else(
        || "none opens within the next four years".into(),
        |opens| format!("the next one opens at {opens:.0}"),
    );
    format!("no window of spec.policy.windows is open; {next}")
}
