//! The decision of one pass, as a table of contents.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        BreakerStatus, Cause, FailureClass, ImageState, Pending, Supersede, UpstreamStatus,
        WindowStatus, cascade::MAX_CAUSES, condition::reason,
    },
    engine::{
        cascade::{
            admission,
            breaker::BreakerState,
            gates::{self, CascadeReadiness, SettleTime},
            promotion,
            windows::WindowState,
        },
        decision::{Action, CascadeStep, Decision},
        image::evaluation::{Evaluation, Plan},
        image::{evaluate, failure},
        input::{BuildOutcome, DecideInput, ObservedCascade},
        requests::{self, RequestEffects},
        tags, upstreams,
    },
    identity::JobName,
    lineage::ImageIndex,
};

/// The most images that the record of a breaker names.
const MAX_BREAKER_NAMES: usize = 10;
/// Until a cascade may begin of which another one has the name.
const A_SECOND: SignedDuration = SignedDuration::from_secs(1);

/// Decides what is to be done. Pure: the same observation at the same time gives the same decision.
#[must_use]
pub fn decide(input: &DecideInput<'_>, now: Timestamp) -> Decision {
    let effects = requests::read(input, now);
    let followed = upstreams::follow(input, &effects.upstreams, now);
    let mut upstreams = followed.upstreams;
    let mut evaluation = evaluate::evaluate(input, &upstreams, &effects, now);
    let window = input.blueprint.windows.state(now);
    let breaker = admission::breaker_state(input, &evaluation.images, now);

    let mut course = match input.cascade {
        Some(cascade) => go_on(input, cascade, &upstreams, &mut evaluation, window, &breaker, now),
        None => begin(input, &mut upstreams, &mut evaluation, &effects, window, now),
    };
    promotion::set_targets(input, &course.cascade, &mut evaluation.images);

    let mut actions = course.actions;
    actions.append(&mut evaluation.plan.actions);
    actions.extend(ended(input).map(|job| Action::Stop { job }));
    if !input.spec.suspend {
        tags::promote(input, &evaluation.images, now, &mut actions, &mut evaluation.plan.wake_at);
    }
    let outcome = requests::Outcome {
        cascade: &course.cascade,
        gated: course.gated,
        upstreams: &upstreams,
        images: &evaluation.images,
    };
    let handled = effects.handled(input, &outcome, now);
    let wake_at = [
        evaluation.plan.wake_at,
        followed.wake_at,
        course.wake_at.take(),
        evaluation.holds_end,
        changes(window),
    ];
    Decision {
        upstreams,
        pending: course.pending,
        window: window_status(window),
        breaker: breaker_status(breaker, evaluation.images.iter().any(|image| image.in_progress)),
        cascade: course.cascade,
        images: evaluation.images,
        actions,
        handled,
        wake_at: wake_at.into_iter().flatten().filter(|at| *at > now).min(),
    }
}

/// What becomes of the cascade, and what follows from that.
struct Course {
    cascade: CascadeStep,
    pending: Option<Pending>,
    actions: Vec<Action>,
    /// Whether builds would start but for windows, `suspend`, or another cascade of this second.
    gated: bool,
    wake_at: Option<Timestamp>,
}

impl Course {
    fn of(cascade: CascadeStep) -> Self {
        Self { cascade, pending: None, actions: Vec::new(), gated: false, wake_at: None }
    }
}

/// A cascade runs: ready builds start, and it ends when nothing of it is on its way, or when
/// another is to take its place.
fn go_on(
    input: &DecideInput<'_>,
    cascade: ObservedCascade<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &mut Evaluation,
    window: WindowState,
    breaker: &BreakerState,
    now: Timestamp,
) -> Course {
    let name = cascade.name.to_owned();
    let pending = gates::pending_for_next_cascade(input, upstreams, evaluation, now);
    if !evaluation.images.iter().any(|image| image.in_progress) {
        return Course { pending, ..Course::of(CascadeStep::Close { name, superseded: false }) };
    }
    let mut course = Course { pending, ..Course::of(CascadeStep::Running { name: name.clone() }) };
    if input.spec.policy.supersede == Supersede::Cancel
        && cascade.supersedes.is_none()
        && !input.spec.suspend
        && let Some(SettleTime { pending, until }) = gates::supersede_after(input, upstreams, now)
    {
        course.pending = Some(pending);
        if until <= now {
            gates::queue_ready_builds(
                evaluation,
                reason::CASCADING,
                "another cascade takes the place of this \
                one",
            );
            return Course { cascade: CascadeStep::Close { name, superseded: true }, ..course };
        }
        course.wake_at = Some(until);
    }
    course.gated = input.spec.suspend || matches!(window, WindowState::Closed { .. });
    if input.spec.suspend {
        gates::queue_ready_builds(evaluation, reason::SUSPENDED, "spec.suspend is set");
        return course;
    }
    course.actions = admission::admit_builds(input, evaluation, window, breaker, now);
    course.actions.extend(overtaken(input, cascade, evaluation));
    course
}

/// The builds of a superseded cascade that nobody wants any more.
fn overtaken(
    input: &DecideInput<'_>,
    cascade: ObservedCascade<'_>,
    evaluation: &Evaluation,
) -> Vec<Action> {
    let Some(superseded) = cascade.supersedes else { return Vec::new() };
    let images = input.images.iter().zip(&evaluation.images);
    images
        .flat_map(|(observed, image)| observed.builds.iter().map(move |build| (build, image)))
        .filter(|(build, image)| {
            build.identity.cascade == superseded
                && build.outcome == BuildOutcome::Running
                && match &image.fingerprint {
                    Some(wanted) => *wanted != build.identity.fingerprint,
                    None => image.reason == reason::WAITING_FOR_PARENT,
                }
        })
        .map(|(build, _)| Action::Stop { job: build.job.clone() })
        .collect()
}

/// No cascade runs: one begins when its gates open.
fn begin(
    input: &DecideInput<'_>,
    upstreams: &mut [UpstreamStatus],
    evaluation: &mut Evaluation,
    effects: &RequestEffects,
    window: WindowState,
    now: Timestamp,
) -> Course {
    match gates::cascade_readiness(input, upstreams, evaluation, effects, window, now) {
        CascadeReadiness::Ready => {
            let ended = |name: &str| input.ended.iter().any(|cascade| cascade.name == name);
            // One that was to begin before, and whose record may be there though nobody has shown
            // it yet, begins under its name.
            let begun = input
                .status
                .cascade
                .as_ref()
                .map(|cascade| cascade.name.clone())
                .filter(|name| !ended(name));
            let name = begun.unwrap_or_else(|| cascade_name(input.family, now));
            if ended(&name) {
                // Names tell seconds apart; a cascade has begun in this one already, or the clock
                // was set back to it.
                gates::queue_ready_builds(evaluation, reason::CASCADING, "the cascade begins");
                let next = now.saturating_add(A_SECOND).unwrap_or(Timestamp::MAX);
                return Course {
                    wake_at: Some(next),
                    gated: true,
                    pending: input.status.pending.clone(),
                    ..Course::of(CascadeStep::None)
                };
            }
            Course::of(open(input, upstreams, evaluation, name, now))
        }
        CascadeReadiness::Settling(SettleTime { pending, until }) => {
            gates::queue_ready_builds(
                evaluation,
                reason::SETTLING,
                &format!(
                    "changes may still come; starts at \
                {until:.0}"
                ),
            );
            Course { pending: Some(pending), wake_at: Some(until), ..Course::of(CascadeStep::None) }
        }
        CascadeReadiness::WindowClosed { pending, opens } => {
            let message = gates::window_closed_message(opens);
            gates::queue_ready_builds(evaluation, reason::WINDOW_CLOSED, &message);
            Course {
                pending: Some(pending),
                wake_at: opens,
                gated: true,
                ..Course::of(CascadeStep::None)
            }
        }
        CascadeReadiness::Suspended { pending } => {
            gates::queue_ready_builds(evaluation, reason::SUSPENDED, "spec.suspend is set");
            Course { pending: Some(pending), gated: true, ..Course::of(CascadeStep::None) }
        }
        CascadeReadiness::Idle => Course::of(CascadeStep::None),
    }
}

/// A cascade begins: candidates are adopted, and the plan is made. Its builds start once it is
/// recorded, in the next pass.
fn open(
    input: &DecideInput<'_>,
    upstreams: &mut [UpstreamStatus],
    evaluation: &mut Evaluation,
    name: String,
    now: Timestamp,
) -> CascadeStep {
    let moved = upstreams::adopt(upstreams, now);
    let ready = evaluation.plan.ready.iter().map(|ready| ready.image);
    let stood_on = moved
        .iter()
        .flat_map(|(upstream, _)| input.lineage().upstream_children(*upstream).iter().copied());
    // What has failed is tried again by every cascade.
    let failed = ImageIndex::enumerate(&evaluation.images).filter(|(_, image)| {
        image.state == ImageState::Failed
            && image
                .failure
                .as_ref()
                .is_some_and(|failure| failure.last.class != FailureClass::Cancelled)
    });
    let mask = input
        .lineage()
        .with_descendants(ready.chain(stood_on).chain(failed.map(|(index, _)| index)));
    let mut causes: Vec<Cause> = moved.iter().map(|(_, cause)| cause.clone()).collect();
    let of_ready = evaluation
        .plan
        .ready
        .iter()
        .filter_map(|ready| evaluation.images.get(ready.image.position()));
    causes.extend(of_ready.flat_map(|image| image.causes.clone()));
    causes.sort();
    causes.dedup();
    causes.truncate(MAX_CAUSES);
    gates::queue_ready_builds(evaluation, reason::CASCADING, "the cascade begins");
    // What is looked at here are the inputs from before: the next pass, with the cascade recorded,
    // asks and starts.
    evaluation.plan = Plan::default();
    for (image, below) in evaluation.images.iter_mut().zip(&mask) {
        // Not yet asked for, but part of the cascade: it must not look finished before it has
        // begun.
        image.in_progress |= *below && image.state != ImageState::Current;
    }
    let supersedes = input.superseded().filter(|_| !moved.is_empty()).map(str::to_owned);
    CascadeStep::Open { name, causes, supersedes, levels: input.lineage().by_level(&mask) }
}

/// The name of a cascade that begins now. A label holds it, so that it has at most 63 characters.
fn cascade_name(family: &str, now: Timestamp) -> String {
    let stamp = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
    format!("{family}-{stamp}")
}

/// Jobs that are to be ended: failed ones that have not ended, and those of images that the family
/// no longer has.
fn ended(input: &DecideInput<'_>) -> impl Iterator<Item = JobName> {
    let failed = input
        .images
        .iter()
        .flat_map(|image| &image.builds)
        .filter(|build| failure::failed_and_live(build));
    let orphans =
        input.orphans.iter().filter(|build| build.live && build.outcome != BuildOutcome::Stopped);
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

/// What is told of the breaker. Where nothing is left that it keeps from starting, no build is
/// going to be tried either: it stays open until the next cascade, or a person, has something tried
/// again.
fn breaker_status(breaker: BreakerState, any_left: bool) -> Option<BreakerStatus> {
    match breaker {
        BreakerState::Closed => None,
        BreakerState::Open { since, cause, mut failures, probe_at, .. } => {
            failures.truncate(MAX_BREAKER_NAMES);
            Some(BreakerStatus {
                since: Some(since),
                cause,
                failures,
                probe_at: any_left.then_some(probe_at),
            })
        }
    }
}
