//! The gates of a cascade: whether one may start now, and if not, when.
//!
//! [`changes`](crate::engine::cascade::changes) says for what.

use jiff::Timestamp;

use crate::{
    api::{Pending, condition::Reason},
    engine::{
        cascade::{CascadeContext, changes::Changes, windows::WindowState},
        image::evaluation::{Evaluation, ReadyBuild},
        input::DecideInput,
    },
    lineage::ImageIndex,
};

/// Whether a cascade may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CascadeReadiness {
    /// Nothing that may start now needs a build.
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

/// Returns whether a cascade may start for these changes.
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
    changes: &Changes,
    evaluation: &Evaluation,
) -> CascadeReadiness {
    let CascadeContext { input, window, now, .. } = *context;
    if changes.none_may_start() {
        return CascadeReadiness::Idle;
    }
    let quiet = quiet_time(context, changes);
    if input.spec.suspend {
        return CascadeReadiness::Suspended { pending: quiet.pending };
    }
    if let WindowState::Closed { opens } = window {
        return CascadeReadiness::WindowClosed { pending: quiet.pending, opens };
    }
    let only_imports_changed = changes.upstreams.is_empty()
        && changes.left.is_empty()
        && changes.ready.iter().all(|ready| ready.only_imports_changed);
    let skips_quiet_time = replaces_superseded(context, changes)
        || evaluation.images.iter().all(|image| image.verified.is_none())
        || only_imports_changed
        || pending_start_is_requested(context, changes);
    if skips_quiet_time || quiet.until <= now {
        CascadeReadiness::Ready { settling: None }
    } else if build_start_is_requested(context, changes) {
        let settles = !changes.upstreams.is_empty() || !changes.left.is_empty();
        CascadeReadiness::Ready { settling: settles.then_some(quiet.pending) }
    } else {
        CascadeReadiness::Settling(quiet)
    }
}

/// Returns whether exactly these candidates superseded the last cascade.
fn replaces_superseded(context: &CascadeContext<'_>, changes: &Changes) -> bool {
    let settled = context.input.status.pending.as_ref().map(|pending| pending.change.as_str());
    context.input.superseded().is_some()
        && changes.has_candidate()
        && settled == Some(changes.hash_of_candidates().as_str())
}

/// Returns the quiet time of the changes.
#[must_use]
pub fn quiet_time(context: &CascadeContext<'_>, changes: &Changes) -> QuietTime {
    let CascadeContext { input, now, .. } = *context;
    let change = changes.hash();
    // A record with times in the future was written before the clock was set back. It is ignored,
    // and the wait starts over.
    let is_plausible =
        |pending: &&Pending| pending.since.max(pending.last_change).is_none_or(|at| at <= now);
    let waits = changes.all_wait();
    // What waits for a cascade says nothing about how long other changes have waited, unless all of
    // it may start now.
    let is_same_wait =
        |pending: &Pending| pending.waits_for_cascade == waits || !waits && !changes.any_waits();
    let pending = match input.status.pending.as_ref().filter(is_plausible) {
        Some(pending) if pending.change == change => pending.clone(),
        Some(pending) if is_same_wait(pending) => {
            Pending { change, since: pending.since, ..new_pending(now) }
        }
        _ => Pending { change, ..new_pending(now) },
    };
    let pending = Pending { waits_for_cascade: waits, ..pending };
    let policy = &input.spec.policy;
    let after = |start: Option<Timestamp>, wait: crate::api::Duration| {
        start.unwrap_or(now).saturating_add(wait.signed()).unwrap_or(Timestamp::MAX)
    };
    let until =
        after(pending.last_change, policy.settle).min(after(pending.since, policy.max_settle));
    QuietTime { pending, until }
}

/// Returns the changes that wait for running cascades while another one starts, or `None` if none
/// do. They count from now, unless they are what has waited before.
#[must_use]
pub fn left_waiting(context: &CascadeContext<'_>, changes: &Changes) -> Option<Pending> {
    if changes.awaited.is_empty() {
        return None;
    }
    let change = changes.hash_of_waiting();
    let before = context.input.status.pending.as_ref();
    let before = before.filter(|pending| pending.change == change).cloned();
    let pending = before.unwrap_or_else(|| Pending { change, ..new_pending(context.now) });
    Some(Pending { waits_for_cascade: true, ..pending })
}

fn new_pending(now: Timestamp) -> Pending {
    Pending { since: Some(now), last_change: Some(now), ..Pending::default() }
}

/// Returns whether a user requested the start of pending changes that need a build.
fn pending_start_is_requested(context: &CascadeContext<'_>, changes: &Changes) -> bool {
    let requested = &context.request_effects.start_pending;
    is_any_below(context, requested, changes.roots(context))
}

/// Returns whether a user requested a build of what is ready to build.
fn build_start_is_requested(context: &CascadeContext<'_>, changes: &Changes) -> bool {
    let ready = changes.ready.iter().map(|ready| ready.build.image);
    is_any_below(context, &context.request_effects.start, ready)
}

/// Whether any of these images is one of the roots, or below one.
fn is_any_below(
    context: &CascadeContext<'_>,
    images: &[ImageIndex],
    roots: impl Iterator<Item = ImageIndex>,
) -> bool {
    if images.is_empty() {
        return false;
    }
    let below = context.input.lineage().with_descendants(roots);
    images.iter().any(|image| below.get(image.position()) == Some(&true))
}

/// Starts none of the ready builds of the plan: their images stay queued with this reason and
/// message.
pub fn queue_ready_builds(evaluation: &mut Evaluation, reason: Reason, message: &str) {
    let ready = std::mem::take(&mut evaluation.plan.ready_builds);
    queue_builds(evaluation, &ready, reason, message);
}

/// Starts none of these builds: their images stay queued with this reason and message.
pub fn queue_builds(
    evaluation: &mut Evaluation,
    builds: &[ReadyBuild],
    reason: Reason,
    message: &str,
) {
    for ready in builds {
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

/// Returns the message of requests that start builds while a gate prevents all of them.
#[must_use]
pub fn closed_gate_message(input: &DecideInput<'_>, window: WindowState) -> String {
    match window {
        _ if input.spec.suspend => "waits until spec.suspend is cleared".into(),
        WindowState::Closed { opens } => window_closed_message(opens),
        WindowState::Open { .. } | WindowState::Unrestricted => {
            "the cascade starts in a moment".into()
        }
    }
}
