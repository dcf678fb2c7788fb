//! Makes the decision of one reconcile.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{BreakerStatus, WindowStatus, condition::Reason},
    engine::{
        cascade::{
            CascadeContext, admission, advance, breaker::OpenBreaker, breaker_gates, gates,
            promotion, windows::WindowState,
        },
        decision::{Decision, Effect, ImageDecision},
        image::{evaluate, failure},
        input::{
            BuildOutcome, CheckOutcome, DecideInput, LookupResult, ObservedBuild, ObservedImage,
        },
        label_tags::LabelTagProblems,
        members::CascadeMembers,
        requests, tag_moves, upstreams,
    },
    identity::{BuildIdentity, JobName},
};

/// Upper bound on the images that the status of the breaker names.
const MAX_BREAKER_NAMES: usize = 10;
/// When a Job is checked again whose build has succeeded and is not recorded yet, while a container
/// that something else has added runs on in its pod.
const OUTLIVED_RETRY_DELAY: SignedDuration = SignedDuration::from_secs(2);

/// Decides what to do. Pure: the same input at the same time gives the same decision.
#[must_use]
pub fn decide(input: &DecideInput<'_>, now: Timestamp) -> Decision {
    let request_effects = requests::read(input, now);
    let followed = upstreams::follow_upstreams(input, &request_effects.upstreams, now);
    let members = CascadeMembers::find(input);
    let mut evaluation = evaluate::evaluate(input, &followed, &request_effects, &members, now);
    let mut upstreams = followed.upstreams;
    let window = input.blueprint.windows.state(now);
    let breakers = breaker_gates::open_breakers(input, &evaluation.images, now);

    let context = CascadeContext {
        input,
        request_effects: &request_effects,
        members: &members,
        window,
        breakers: &breakers,
        now,
    };
    let mut step = advance::advance_cascades(&context, &mut upstreams, &mut evaluation);
    promotion::set_targets(&context, &step.cascade, &mut evaluation);

    let mut effects = step.effects;
    // Checks also start without a cascade.
    effects.extend(admission::admit_starts(&context, &mut evaluation));
    effects.append(&mut evaluation.plan.effects);
    effects.extend(request_effects.lookups.iter().cloned());
    effects.extend(jobs_to_stop(input).map(|job| Effect::Stop { job }));
    let outlived = outlived_jobs(input, &evaluation.images);
    if outlived.iter().any(|job| !job.is_recorded) {
        evaluation.plan.wake(now.saturating_add(OUTLIVED_RETRY_DELAY).unwrap_or(Timestamp::MAX));
    }
    let recorded = outlived.into_iter().filter(|job| job.is_recorded);
    effects.extend(recorded.map(|job| Effect::Stop { job: job.name }));
    let unset_tags = LabelTagProblems::of(input, &evaluation.images);
    if !input.spec.suspend {
        let plan = &mut evaluation.plan;
        let promotion = tag_moves::TagPromotion {
            input,
            images: &evaluation.images,
            unmarked: &plan.unmarked,
            unset: &unset_tags,
        };
        promotion.add_moves(now, &mut effects, &mut plan.wake_at);
    }
    unset_tags.report(&mut evaluation.images);
    let gate = step.gated.then(|| gates::closed_gate_message(input, window));
    let view = requests::DecisionView {
        cascade: &step.cascade,
        members: &members,
        gate: gate.as_deref(),
        upstreams: &upstreams,
        images: &evaluation.images,
    };
    let requests = request_effects.decisions(input, &view);
    let wake_at = [
        evaluation.plan.wake_at,
        request_effects.ask_at,
        followed.wake_at,
        step.wake_at.take(),
        evaluation.next_hold_end,
        window_change(window),
    ];
    Decision {
        upstreams,
        pending: step.pending,
        window: window_status(window),
        breaker: breaker_status(breakers, &evaluation.images),
        cascade: step.cascade,
        members,
        images: evaluation.images,
        effects,
        requests,
        wake_at: wake_at.into_iter().flatten().filter(|at| *at > now).min(),
    }
}

/// Returns the Jobs to stop: those that count as failed and still run, and those of images that the
/// family no longer has.
fn jobs_to_stop(input: &DecideInput<'_>) -> impl Iterator<Item = JobName> {
    let failed = input
        .images
        .iter()
        .flat_map(|image| &image.builds)
        .filter(|build| failure::is_failed_and_live(build));
    let orphans =
        input.orphans.iter().filter(|build| build.live && build.outcome != BuildOutcome::Stopped);
    let orphan_checks = input
        .orphan_checks
        .iter()
        .filter(|check| check.live && check.outcome == CheckOutcome::Running);
    failed
        .chain(orphans)
        .map(|build| &build.job)
        .chain(orphan_checks.map(|check| &check.job))
        .cloned()
}

/// A Job whose build has succeeded, while a container that something else has added runs on in its
/// pod.
struct OutlivedJob {
    name: JobName,
    /// Whether nothing needs the Job any more: the registry was asked for the build, and the
    /// cascade has recorded it.
    is_recorded: bool,
}

/// Returns the Jobs whose builds have succeeded, and whose pods would run until their time-out.
fn outlived_jobs(input: &DecideInput<'_>, images: &[ImageDecision]) -> Vec<OutlivedJob> {
    let images = input.spec.images.iter().zip(&input.images).zip(images);
    images
        .flat_map(|((image, observed), decided)| {
            let builds = observed.builds.iter();
            let outlived =
                builds.filter(|build| build.live && build.outcome == BuildOutcome::Succeeded);
            outlived.map(move |build| OutlivedJob {
                name: build.job.clone(),
                is_recorded: is_answered(observed, decided, build)
                    && is_in_cascade_record(input, &image.name, build),
            })
        })
        .collect()
}

/// Whether the registry has answered a lookup of a build, or is not going to be asked.
fn is_answered(
    observed: &ObservedImage<'_>,
    decided: &ImageDecision,
    build: &ObservedBuild,
) -> bool {
    let BuildIdentity { fingerprint, attempt, .. } = &build.identity;
    let answered = observed.lookups.iter().any(|lookup| {
        lookup.fingerprint == *fingerprint
            && match &lookup.result {
                LookupResult::Present { .. } | LookupResult::Rejected(..) => true,
                // A push that is looked for again needs the time at which the Job has ended.
                LookupResult::Absent { after, .. } => {
                    *after >= Some(*attempt) && decided.reason != Reason::Verifying
                }
                LookupResult::Existing(_) | LookupResult::Failed(..) => false,
            }
    });
    answered || decided.fingerprint.as_ref() != Some(fingerprint)
}

/// Whether the record of the build's cascade says that it has built the image, unless that cascade
/// has ended.
fn is_in_cascade_record(input: &DecideInput<'_>, image: &str, build: &ObservedBuild) -> bool {
    let mut cascades = input.cascades.iter();
    let Some(cascade) = cascades.find(|cascade| *cascade.name == build.identity.cascade) else {
        return true;
    };
    let mut results = cascade.status.images.iter();
    results.any(|result| result.name == image && result.own_inputs.is_some())
}

/// Returns when a window opens or closes next, which changes the family's status.
const fn window_change(window: WindowState) -> Option<Timestamp> {
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

/// Returns the status of the breaker whose trial build comes first. Without an image in progress
/// there is no build to try: the breaker stays open until the next cascade or a user retries
/// something.
fn breaker_status(open: Vec<OpenBreaker>, images: &[ImageDecision]) -> Option<BreakerStatus> {
    let OpenBreaker { since, cause, mut failures, probe_at, .. } = open.into_iter().next()?;
    failures.truncate(MAX_BREAKER_NAMES);
    let is_any_in_progress = images.iter().any(|image| image.in_progress);
    Some(BreakerStatus {
        since: Some(since),
        cause,
        failures,
        probe_at: is_any_in_progress.then_some(probe_at),
    })
}
