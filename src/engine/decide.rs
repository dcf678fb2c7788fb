//! The decision of one pass, as a table of contents.

use jiff::{SignedDuration, Timestamp};

use super::{
    admission,
    breaker::BreakerState,
    decision::{Action, Decision, WaveStep},
    failure,
    gates::{self, WaveGate},
    images,
    observation::{BuildOutcome, Observation, WaveSight},
    promotion,
    requests::{self, Wishes},
    tags, upstreams,
    walk::{Todo, Walk},
    windows::WindowState,
};
use crate::api::{
    BreakerStatus, Cause, FailureClass, ImageState, Pending, Supersede, UpstreamStatus, WindowStatus,
    cascade::MAX_CAUSES, condition::reason,
};

/// The most images that the record of a breaker names.
const MAX_BREAKER_NAMES: usize = 10;
/// Until a wave may begin of which another one has the name.
const A_SECOND: SignedDuration = SignedDuration::from_secs(1);

/// Decides what is to be done. Pure: the same observation at the same time gives the same decision.
#[must_use]
pub fn decide(seen: &Observation<'_>, now: Timestamp) -> Decision {
    let wishes = requests::read(seen, now);
    let followed = upstreams::follow(seen, &wishes.upstreams, now);
    let mut upstreams = followed.upstreams;
    let mut walk = images::walk(seen, &upstreams, &wishes, now);
    let window = seen.blueprint.windows.state(now);
    let breaker = admission::breaker(seen, &walk.images, now);

    let mut course = match seen.wave {
        Some(wave) => go_on(seen, wave, &upstreams, &mut walk, window, &breaker, now),
        None => begin(seen, &mut upstreams, &mut walk, &wishes, window, now),
    };
    promotion::flip(seen, &course.wave, &mut walk.images);

    let mut actions = course.actions;
    actions.append(&mut walk.todo.actions);
    actions.extend(ended(seen).map(|job| Action::Stop { job }));
    if !seen.spec.suspend {
        tags::promote(seen, &walk.images, now, &mut actions, &mut walk.todo.wake_at);
    }
    let outcome =
        requests::Outcome { wave: &course.wave, gated: course.gated, upstreams: &upstreams, images: &walk.images };
    let handled = wishes.handled(seen, &outcome, now);
    let wake_at = [walk.todo.wake_at, followed.wake_at, course.wake_at.take(), walk.holds_end, changes(window)];
    Decision {
        upstreams,
        pending: course.pending,
        window: window_status(window),
        breaker: breaker_status(breaker, walk.images.iter().any(|image| image.in_progress)),
        wave: course.wave,
        images: walk.images,
        actions,
        handled,
        wake_at: wake_at.into_iter().flatten().filter(|at| *at > now).min(),
    }
}

/// What becomes of the wave, and what follows from that.
struct Course {
    wave: WaveStep,
    pending: Option<Pending>,
    actions: Vec<Action>,
    /// Whether builds would start but for windows, `suspend`, or another wave of this second.
    gated: bool,
    wake_at: Option<Timestamp>,
}

impl Course {
    fn of(wave: WaveStep) -> Self {
        Self { wave, pending: None, actions: Vec::new(), gated: false, wake_at: None }
    }
}

/// A wave runs: ready builds start, and it ends when nothing of it is on its way, or when another is to take its place.
fn go_on(
    seen: &Observation<'_>,
    wave: WaveSight<'_>,
    upstreams: &[UpstreamStatus],
    walk: &mut Walk,
    window: WindowState,
    breaker: &BreakerState,
    now: Timestamp,
) -> Course {
    let name = wave.name.to_owned();
    let pending = gates::after(seen, upstreams, walk, now);
    if !walk.images.iter().any(|image| image.in_progress) {
        return Course { pending, ..Course::of(WaveStep::Close { name, superseded: false }) };
    }
    let mut course = Course { pending, ..Course::of(WaveStep::Running { name: name.clone() }) };
    if seen.spec.policy.supersede == Supersede::Cancel
        && wave.supersedes.is_none()
        && !seen.spec.suspend
        && let Some((pending, until)) = gates::supersede(seen, upstreams, now)
    {
        course.pending = Some(pending);
        if until <= now {
            gates::close(walk, reason::CASCADING, "another wave takes the place of this one");
            return Course { wave: WaveStep::Close { name, superseded: true }, ..course };
        }
        course.wake_at = Some(until);
    }
    course.gated = seen.spec.suspend || matches!(window, WindowState::Closed { .. });
    if seen.spec.suspend {
        gates::close(walk, reason::SUSPENDED, "spec.suspend is set");
        return course;
    }
    course.actions = admission::admit(seen, walk, window, breaker, now);
    course.actions.extend(overtaken(seen, wave, walk));
    course
}

/// The builds of a superseded wave that nobody wants any more.
fn overtaken(seen: &Observation<'_>, wave: WaveSight<'_>, walk: &Walk) -> Vec<Action> {
    let Some(superseded) = wave.supersedes else { return Vec::new() };
    let images = seen.images.iter().zip(&walk.images);
    images
        .flat_map(|(sight, image)| sight.builds.iter().map(move |build| (build, image)))
        .filter(|(build, image)| {
            build.cascade == superseded
                && build.outcome == BuildOutcome::Running
                && match &image.fingerprint {
                    Some(wanted) => *wanted != build.fingerprint,
                    None => image.reason == reason::WAITING_FOR_PARENT,
                }
        })
        .map(|(build, _)| Action::Stop { job: build.job.clone() })
        .collect()
}

/// No wave runs: one begins when its gates open.
fn begin(
    seen: &Observation<'_>,
    upstreams: &mut [UpstreamStatus],
    walk: &mut Walk,
    wishes: &Wishes,
    window: WindowState,
    now: Timestamp,
) -> Course {
    match gates::wave(seen, upstreams, walk, wishes, window, now) {
        WaveGate::Open => {
            let ended = |name: &str| seen.ended.iter().any(|wave| wave.name == name);
            // One that was to begin before, and whose record may be there though nobody has shown it yet, begins under its name.
            let begun = seen.status.cascade.as_ref().map(|wave| wave.name.clone()).filter(|name| !ended(name));
            let name = begun.unwrap_or_else(|| wave_name(seen.family, now));
            if ended(&name) {
                // Names tell seconds apart; a wave has begun in this one already, or the clock was set back to it.
                gates::close(walk, reason::CASCADING, "the wave begins");
                let next = now.saturating_add(A_SECOND).unwrap_or(Timestamp::MAX);
                return Course {
                    wake_at: Some(next),
                    gated: true,
                    pending: seen.status.pending.clone(),
                    ..Course::of(WaveStep::None)
                };
            }
            Course::of(open(seen, upstreams, walk, name, now))
        }
        WaveGate::Settling { pending, until } => {
            gates::close(walk, reason::SETTLING, &format!("changes may still come; starts at {until:.0}"));
            Course { pending: Some(pending), wake_at: Some(until), ..Course::of(WaveStep::None) }
        }
        WaveGate::Closed { pending, opens } => {
            let (reason, message) = gates::told_closed(opens);
            gates::close(walk, reason, &message);
            Course { pending: Some(pending), wake_at: opens, gated: true, ..Course::of(WaveStep::None) }
        }
        WaveGate::Suspended { pending } => {
            gates::close(walk, reason::SUSPENDED, "spec.suspend is set");
            Course { pending: Some(pending), gated: true, ..Course::of(WaveStep::None) }
        }
        WaveGate::Idle => Course::of(WaveStep::None),
    }
}

/// A wave begins: candidates are adopted, and the plan is made. Its builds start once it is recorded, in the next pass.
fn open(
    seen: &Observation<'_>,
    upstreams: &mut [UpstreamStatus],
    walk: &mut Walk,
    name: String,
    now: Timestamp,
) -> WaveStep {
    let moved = upstreams::adopt(upstreams, now);
    let ready = walk.todo.ready.iter().map(|ready| ready.image);
    let stood_on = moved.iter().flat_map(|(upstream, _)| seen.lineage().upstream_children(*upstream).iter().copied());
    // What has failed is tried again by every wave.
    let failed = walk.images.iter().enumerate().filter(|(_, image)| {
        image.state == ImageState::Failed
            && image.failure.as_ref().is_some_and(|failure| failure.last.class != FailureClass::Cancelled)
    });
    let mask = seen.lineage().with_descendants(ready.chain(stood_on).chain(failed.map(|(index, _)| index)));
    let mut causes: Vec<Cause> = moved.iter().map(|(_, cause)| cause.clone()).collect();
    let of_ready = walk.todo.ready.iter().filter_map(|ready| walk.images.get(ready.image));
    causes.extend(of_ready.flat_map(|image| image.causes.clone()));
    causes.sort();
    causes.dedup();
    causes.truncate(MAX_CAUSES);
    gates::close(walk, reason::CASCADING, "the wave begins");
    // What is looked at here are the inputs from before: the next pass, with the wave recorded, asks and starts.
    walk.todo = Todo::default();
    for (image, below) in walk.images.iter_mut().zip(&mask) {
        // Not yet asked for, but part of the wave: it must not look finished before it has begun.
        image.in_progress |= *below && image.state != ImageState::Current;
    }
    let supersedes = seen.superseded().filter(|_| !moved.is_empty()).map(str::to_owned);
    WaveStep::Open { name, causes, supersedes, levels: seen.lineage().by_level(&mask) }
}

/// The name of a wave that begins now. A label holds it, so that it has at most 63 characters.
fn wave_name(family: &str, now: Timestamp) -> String {
    let stamp = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
    format!("{family}-{stamp}")
}

/// Jobs that are to be ended: failed ones that have not ended, and those of images that the family no longer has.
fn ended(seen: &Observation<'_>) -> impl Iterator<Item = String> {
    let failed = seen.images.iter().flat_map(|image| &image.builds).filter(|build| failure::failed_and_live(build));
    let orphans = seen.orphans.iter().filter(|build| build.live && build.outcome != BuildOutcome::Stopped);
    failed.chain(orphans).map(|build| build.job.clone())
}

/// When a window opens or closes, which the family's status shows.
const fn changes(window: WindowState) -> Option<Timestamp> {
    match window {
        WindowState::Unrestricted => None,
        WindowState::Open { closes: at } | WindowState::Closed { opens: at } => at,
    }
}

fn window_status(window: WindowState) -> Option<WindowStatus> {
    match window {
        WindowState::Unrestricted => None,
        WindowState::Open { closes } => Some(WindowStatus { open: true, until: closes }),
        WindowState::Closed { opens } => Some(WindowStatus { open: false, until: opens }),
    }
}

/// What is told of the breaker. Where nothing is left that it keeps from starting, no build is going to be tried either: it stays
/// open until the next wave, or a person, has something tried again.
fn breaker_status(breaker: BreakerState, any_left: bool) -> Option<BreakerStatus> {
    match breaker {
        BreakerState::Closed => None,
        BreakerState::Open { since, cause, mut failures, probe_at, .. } => {
            failures.truncate(MAX_BREAKER_NAMES);
            Some(BreakerStatus { since: Some(since), cause, failures, probe_at: any_left.then_some(probe_at) })
        }
    }
}
