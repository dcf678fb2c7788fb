//! The gates of a cascade: whether one may begin, and until when not.

use jiff::Timestamp;

use crate::{
    api::{Pending, UpstreamStatus, condition::reason},
    engine::{
        cascade::windows::WindowState, fingerprint::Hasher, image::evaluation::Evaluation,
        input::DecideInput, requests::RequestEffects, upstreams::eligible,
    },
};

/// Whether a cascade may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CascadeGate {
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
    /// Not before the next window opens.
    Closed {
        /// What is recorded of the wait.
        pending: Pending,
        /// When that is; `None` if none does within years.
        opens: Option<Timestamp>,
    },
    /// Not until the family is resumed.
    Suspended {
        /// What is recorded of the wait.
        pending: Pending,
    },
}

/// Whether a cascade may begin, for what is ready and for the candidates that may be adopted.
///
/// Changes that come together build once: each new change starts the quiet time `settle` anew, but
/// `maxSettle` after the first of them it is over, whatever keeps the cascade from beginning
/// meanwhile. There is nothing to wait for where a person asked for a start, where nothing was ever
/// built, where all that changed comes from other families (whose quiet time has passed), and where
/// this cascade takes the place of another, for the candidates that this one was ended for.
#[must_use]
pub fn cascade(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &Evaluation,
    effects: &RequestEffects,
    window: WindowState,
    now: Timestamp,
) -> CascadeGate {
    let candidates = candidates(upstreams);
    let ready = &evaluation.plan.ready;
    if candidates.is_empty() && ready.is_empty() {
        return CascadeGate::Idle;
    }
    let wanted =
        ready.iter().filter_map(|ready| evaluation.images.get(ready.image)?.fingerprint.as_deref());
    let (pending, until) = settle(input, change(&candidates, wanted), now);
    if input.spec.suspend {
        return CascadeGate::Suspended { pending };
    }
    if let WindowState::Closed { opens } = window {
        return CascadeGate::Closed { pending, opens };
    }
    let at_once = succeeds(input, &candidates)
        || evaluation.images.iter().all(|image| image.verified.is_none())
        || candidates.is_empty() && ready.iter().all(|ready| ready.imported)
        || asked_for(input, upstreams, evaluation, effects);
    if at_once || until <= now {
        CascadeGate::Open
    } else {
        CascadeGate::Settling { pending, until }
    }
}

/// What is recorded of candidates that may be adopted while a cascade runs, if there are any, and
/// when their quiet time is over: the cascade ends then, where `policy.supersede` says so. A pass
/// over the images is not needed for it.
#[must_use]
pub fn supersede(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    now: Timestamp,
) -> Option<(Pending, Timestamp)> {
    let candidates = candidates(upstreams);
    (!candidates.is_empty()).then(|| settle(input, change(&candidates, []), now))
}

/// What waits for the cascade that runs to end: candidates, and images that it has built already.
/// Their quiet time passes meanwhile.
#[must_use]
pub fn after(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &Evaluation,
    now: Timestamp,
) -> Option<Pending> {
    let candidates = candidates(upstreams);
    let left = evaluation.images.iter().filter(|image| image.reason == reason::NEXT_CASCADE);
    let wanted: Vec<&str> = left.filter_map(|image| image.fingerprint.as_deref()).collect();
    (!candidates.is_empty() || !wanted.is_empty())
        .then(|| settle(input, change(&candidates, wanted), now).0)
}

fn candidates(upstreams: &[UpstreamStatus]) -> Vec<&str> {
    let eligible = upstreams.iter().filter(|upstream| eligible(upstream));
    eligible.filter_map(|upstream| Some(upstream.candidate.as_ref()?.digest.as_str())).collect()
}

/// Whether the last cascade was ended early for just these candidates.
fn succeeds(input: &DecideInput<'_>, candidates: &[&str]) -> bool {
    let settled = input.status.pending.as_ref().map(|pending| pending.change.as_str());
    input.superseded().is_some()
        && !candidates.is_empty()
        && settled == Some(change(candidates, []).as_str())
}

/// What has changed, as a hash.
fn change<'a>(candidates: &[&str], wanted: impl IntoIterator<Item = &'a str>) -> String {
    Hasher::new("change")
        .texts(candidates.to_vec())
        .texts(wanted.into_iter().collect::<Vec<_>>())
        .hex()
}

/// What is recorded of the quiet time after the change with this hash, and when it is over.
fn settle(input: &DecideInput<'_>, change: String, now: Timestamp) -> (Pending, Timestamp) {
    // What was recorded by a clock that has been set back since is of no use: the wait begins anew.
    let of_now =
        |pending: &&Pending| pending.since.max(pending.last_change).is_none_or(|at| at <= now);
    let pending = match input.status.pending.as_ref().filter(of_now) {
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
    (pending, until)
}

/// Whether a person has asked for a start of something that there is to do.
fn asked_for(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &Evaluation,
    effects: &RequestEffects,
) -> bool {
    if effects.start.is_empty() {
        return false;
    }
    let moved = upstreams.iter().enumerate().filter(|(_, upstream)| eligible(upstream));
    let below =
        moved.flat_map(|(index, _)| input.lineage().upstream_children(index).iter().copied());
    let stale = input
        .lineage()
        .with_descendants(below.chain(evaluation.plan.ready.iter().map(|ready| ready.image)));
    effects.start.iter().any(|image| stale.get(*image) == Some(&true))
}

/// Tells every ready image why it does not start.
pub fn close(evaluation: &mut Evaluation, reason: &'static str, message: &str) {
    for ready in std::mem::take(&mut evaluation.plan.ready) {
        if let Some(image) = evaluation.images.get_mut(ready.image) {
            image.reason = reason;
            image.message = message.into();
        }
    }
}

/// What an image is told while no window is open.
#[must_use]
pub fn told_closed(opens: Option<Timestamp>) -> (&'static str, String) {
    let next = opens.map_or_else(
        || "and none will open".into(),
        |opens| {
            format!(
                "the next one \
        opens at {opens:.0}"
            )
        },
    );
    (reason::WINDOW_CLOSED, format!("no window of spec.policy.windows is open; {next}"))
}
