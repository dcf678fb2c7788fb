//! Makes the decision of one reconcile.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        BreakerStatus, Cause, FailureClass, ImageState, Pending, Supersede, UpstreamStatus,
        WindowStatus, cascade::MAX_CAUSES, condition::reason,
    },
    engine::{
        cascade::{
            CascadeContext, admission,
            breaker::OpenBreaker,
            breaker_gates,
            gates::{self, CascadeReadiness, QuietTime},
            promotion,
            windows::WindowState,
        },
        decision::{CascadeDecision, Decision, Effect, ImageDecision},
        image::evaluation::{Evaluation, Plan},
        image::{evaluate, failure},
        input::{
            BuildOutcome, DecideInput, LookupResult, ObservedBuild, ObservedCascade, ObservedImage,
        },
        requests, tags, upstreams,
    },
    identity::{BuildIdentity, CascadeName, JobName},
    lineage::{ImageIndex, UpstreamIndex},
};

/// Upper bound on the images that the status of the breaker names.
const MAX_BREAKER_NAMES: usize = 10;
/// How long a cascade waits if another one has its name. Names have a resolution of one second.
const NAME_RETRY_DELAY: SignedDuration = SignedDuration::from_secs(1);
/// When a Job is checked again whose build has succeeded and is not recorded yet, while a container
/// that something else has added runs on in its pod.
const OUTLIVED_RETRY_DELAY: SignedDuration = SignedDuration::from_secs(2);

/// Decides what to do. Pure: the same input at the same time gives the same decision.
#[must_use]
pub fn decide(input: &DecideInput<'_>, now: Timestamp) -> Decision {
    let request_effects = requests::read(input, now);
    let followed = upstreams::follow_upstreams(input, &request_effects.upstreams, now);
    let mut evaluation = evaluate::evaluate(input, &followed, &request_effects, now);
    let mut upstreams = followed.upstreams;
    let window = input.blueprint.windows.state(now);
    let breakers = breaker_gates::open_breakers(input, &evaluation.images, now);

    let context = CascadeContext {
        input,
        request_effects: &request_effects,
        window,
        breakers: &breakers,
        now,
    };
    let mut step = match input.cascade {
        Some(cascade) => continue_cascade(&context, cascade, &upstreams, &mut evaluation),
        None => start_cascade(&context, &mut upstreams, &mut evaluation),
    };
    promotion::set_targets(input, &step.cascade, &mut evaluation);

    let mut effects = step.effects;
    effects.append(&mut evaluation.plan.effects);
    effects.extend(jobs_to_stop(input).map(|job| Effect::Stop { job }));
    let outlived = outlived_jobs(input, &evaluation.images);
    if outlived.iter().any(|job| !job.is_recorded) {
        evaluation.plan.wake(now.saturating_add(OUTLIVED_RETRY_DELAY).unwrap_or(Timestamp::MAX));
    }
    let recorded = outlived.into_iter().filter(|job| job.is_recorded);
    effects.extend(recorded.map(|job| Effect::Stop { job: job.name }));
    if !input.spec.suspend {
        let plan = &mut evaluation.plan;
        tags::promote(input, &evaluation.images, now, &mut effects, &mut plan.wake_at);
    }
    let view = requests::DecisionView {
        cascade: &step.cascade,
        gated: step.gated,
        upstreams: &upstreams,
        images: &evaluation.images,
    };
    let handled = request_effects.handled(input, &view, now);
    let wake_at = [
        evaluation.plan.wake_at,
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
        images: evaluation.images,
        effects,
        handled,
        wake_at: wake_at.into_iter().flatten().filter(|at| *at > now).min(),
    }
}

/// What happens to the cascade, and what follows from it.
struct CascadeStep {
    cascade: CascadeDecision,
    /// The changes that wait for the next cascade.
    pending: Option<Pending>,
    /// The builds to start, and those to stop.
    effects: Vec<Effect>,
    /// Whether builds would start except for windows, `suspend`, or another cascade of this second.
    gated: bool,
    wake_at: Option<Timestamp>,
}

impl CascadeStep {
    /// Returns a step without pending changes and effects.
    fn new(cascade: CascadeDecision) -> Self {
        Self { cascade, pending: None, effects: Vec::new(), gated: false, wake_at: None }
    }

    /// Returns a step without a cascade, in which pending changes wait.
    fn waiting(pending: Option<Pending>) -> Self {
        Self { pending, ..Self::new(CascadeDecision::None) }
    }
}

/// Continues the running cascade: starts ready builds. The cascade ends when none of its images is
/// in progress, when only Jobs that are not admitted keep it open and the next one has something to
/// do, or when another cascade is to replace it.
fn continue_cascade(
    context: &CascadeContext<'_>,
    cascade: ObservedCascade<'_>,
    upstreams: &[UpstreamStatus],
    evaluation: &mut Evaluation,
) -> CascadeStep {
    let CascadeContext { input, window, now, .. } = *context;
    let name = cascade.name.clone();
    let pending = gates::pending_for_next_cascade(input, upstreams, evaluation, now);
    if !evaluation.images.iter().any(|image| image.in_progress)
        || pending.is_some() && admission::waits_only_for_admission(evaluation)
    {
        let finish = CascadeDecision::Finish { name, superseded: false };
        return CascadeStep { pending, ..CascadeStep::new(finish) };
    }
    let mut step = CascadeStep {
        pending,
        ..CascadeStep::new(CascadeDecision::Continue { name: name.clone() })
    };
    if input.spec.policy.supersede == Supersede::Cancel
        && cascade.supersedes.is_none()
        && !input.spec.suspend
        && let Some(QuietTime { pending, until }) = gates::supersede_after(input, upstreams, now)
    {
        step.pending = Some(pending);
        if until <= now {
            let message = "another cascade replaces this one";
            gates::queue_ready_builds(evaluation, reason::CASCADING, message);
            let cascade = CascadeDecision::Finish { name, superseded: true };
            return CascadeStep { cascade, ..step };
        }
        step.wake_at = Some(until);
    }
    step.gated = input.spec.suspend || matches!(window, WindowState::Closed { .. });
    if input.spec.suspend {
        gates::queue_ready_builds(evaluation, reason::SUSPENDED, "spec.suspend is set");
        return step;
    }
    step.effects =
        admission::admit_builds(context, evaluation).into_iter().map(Effect::Build).collect();
    // What is pending may be the cure. The next cascade takes the paused builds as well.
    if step.effects.is_empty()
        && step.pending.is_some()
        && breaker_gates::waits_only_for_breakers(input, evaluation)
    {
        let finish = CascadeDecision::Finish { name, superseded: false };
        return CascadeStep { cascade: finish, ..step };
    }
    step.effects.extend(stop_superseded_builds(input, cascade, evaluation));
    step
}

/// Stops the builds of a superseded cascade whose results are not wanted any more.
fn stop_superseded_builds(
    input: &DecideInput<'_>,
    cascade: ObservedCascade<'_>,
    evaluation: &Evaluation,
) -> Vec<Effect> {
    let Some(superseded) = cascade.supersedes else { return Vec::new() };
    let images = input.images.iter().zip(&evaluation.images);
    images
        .flat_map(|(observed, image)| observed.builds.iter().map(move |build| (build, image)))
        .filter(|(build, image)| {
            build.identity.cascade == *superseded
                && build.outcome == BuildOutcome::Running
                && match &image.fingerprint {
                    Some(wanted) => *wanted != build.identity.fingerprint,
                    None => image.reason == reason::WAITING_FOR_PARENT,
                }
        })
        .map(|(build, _)| Effect::Stop { job: build.job.clone() })
        .collect()
}

/// Starts a cascade if its gates are open.
fn start_cascade(
    context: &CascadeContext<'_>,
    upstreams: &mut [UpstreamStatus],
    evaluation: &mut Evaluation,
) -> CascadeStep {
    match gates::cascade_readiness(context, upstreams, evaluation) {
        CascadeReadiness::Ready { settling } => {
            start_ready_cascade(context, upstreams, evaluation, settling)
        }
        CascadeReadiness::Settling(QuietTime { pending, until }) => {
            let message = format!("waits for further changes; the cascade starts at {until:.0}");
            gates::queue_ready_builds(evaluation, reason::SETTLING, &message);
            CascadeStep { wake_at: Some(until), ..CascadeStep::waiting(Some(pending)) }
        }
        CascadeReadiness::WindowClosed { pending, opens } => {
            let message = gates::window_closed_message(opens);
            gates::queue_ready_builds(evaluation, reason::WINDOW_CLOSED, &message);
            CascadeStep { wake_at: opens, gated: true, ..CascadeStep::waiting(Some(pending)) }
        }
        CascadeReadiness::Suspended { pending } => {
            gates::queue_ready_builds(evaluation, reason::SUSPENDED, "spec.suspend is set");
            CascadeStep { gated: true, ..CascadeStep::waiting(Some(pending)) }
        }
        CascadeReadiness::Idle => CascadeStep::new(CascadeDecision::None),
    }
}

/// Starts a cascade whose gates are open. If its name is taken, it starts a second later.
/// Candidates that settle are not adopted.
fn start_ready_cascade(
    context: &CascadeContext<'_>,
    upstreams: &mut [UpstreamStatus],
    evaluation: &mut Evaluation,
    settling: Option<Pending>,
) -> CascadeStep {
    let CascadeContext { input, now, .. } = *context;
    let has_ended = |name: &CascadeName| input.ended.iter().any(|cascade| cascade.name == *name);
    // A cascade that the status names keeps its name: its object may exist although no watch
    // has shown it yet.
    let intended = input.status.cascade.as_ref().map(|cascade| CascadeName::from(&cascade.name));
    let name =
        intended.filter(|name| !has_ended(name)).unwrap_or_else(|| cascade_name(input.family, now));
    if has_ended(&name) {
        // Another cascade has started in this second, or the clock was set back to it.
        gates::queue_ready_builds(evaluation, reason::CASCADING, "the cascade starts");
        return CascadeStep {
            wake_at: Some(now.saturating_add(NAME_RETRY_DELAY).unwrap_or(Timestamp::MAX)),
            gated: true,
            ..CascadeStep::waiting(input.status.pending.clone())
        };
    }
    let moved = match settling {
        None => upstreams::adopt_candidates(upstreams, now),
        Some(_) => Vec::new(),
    };
    let cascade = plan_cascade(input, &moved, evaluation, name);
    CascadeStep { pending: settling, ..CascadeStep::new(cascade) }
}

/// Plans the cascade for the upstreams that moved and for the ready builds. Its builds start in the
/// next reconcile, once the cascade is recorded.
fn plan_cascade(
    input: &DecideInput<'_>,
    moved: &[(UpstreamIndex, Cause)],
    evaluation: &mut Evaluation,
    name: CascadeName,
) -> CascadeDecision {
    let mask = planned_images(input, moved, evaluation);
    let causes = cascade_causes(moved, evaluation);
    gates::queue_ready_builds(evaluation, reason::CASCADING, "the cascade starts");
    // The images were evaluated with the digests from before the adoption. The next reconcile, with
    // the cascade recorded, evaluates them again and starts builds.
    evaluation.plan = Plan::default();
    for (image, is_planned) in evaluation.images.iter_mut().zip(&mask) {
        // An image that is part of the cascade must not look finished before the cascade starts.
        image.in_progress |= *is_planned && image.state != ImageState::Current;
    }
    let supersedes = input.superseded().filter(|_| !moved.is_empty()).cloned();
    CascadeDecision::Start { name, causes, supersedes, levels: input.lineage().by_level(&mask) }
}

/// Returns the images of a cascade as a mask: what is ready, what has failed, what is built on an
/// upstream that moved, and all of their descendants.
fn planned_images(
    input: &DecideInput<'_>,
    moved: &[(UpstreamIndex, Cause)],
    evaluation: &Evaluation,
) -> Vec<bool> {
    let ready = evaluation.plan.ready_builds.iter().map(|ready| ready.build.image);
    let children = moved
        .iter()
        .flat_map(|(upstream, _)| input.lineage().upstream_children(*upstream).iter().copied());
    // Every cascade retries what has failed, unless a user has cancelled it.
    let failed = ImageIndex::enumerate(&evaluation.images).filter(|(_, image)| {
        image.state == ImageState::Failed
            && image
                .failure
                .as_ref()
                .is_some_and(|failure| failure.last.class != FailureClass::Cancelled)
    });
    let failed = failed.map(|(index, _)| index);
    input.lineage().with_descendants(ready.chain(children).chain(failed))
}

/// Returns the causes of a cascade: the upstreams that moved, and the causes of the ready builds.
fn cascade_causes(moved: &[(UpstreamIndex, Cause)], evaluation: &Evaluation) -> Vec<Cause> {
    let mut causes: Vec<Cause> = moved.iter().map(|(_, cause)| cause.clone()).collect();
    let ready = evaluation.plan.ready_builds.iter();
    let images = ready.filter_map(|ready| evaluation.images.get(ready.build.image.position()));
    causes.extend(images.flat_map(|image| image.causes.clone()));
    causes.sort();
    causes.dedup();
    causes.truncate(MAX_CAUSES);
    causes
}

/// Returns the name of a cascade that starts now. It is used as a label value, so that it must have
/// at most 63 characters.
fn cascade_name(family: &str, now: Timestamp) -> CascadeName {
    let stamp = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
    format!("{family}-{stamp}").into()
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
    failed.chain(orphans).map(|build| build.job.clone())
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
                LookupResult::Absent { after, .. } => *after >= Some(*attempt),
                LookupResult::Existing(_) | LookupResult::Failed(..) => false,
            }
    });
    answered || decided.fingerprint.as_ref() != Some(fingerprint)
}

/// Whether the record of the running cascade says that it has built the image.
fn is_in_cascade_record(input: &DecideInput<'_>, image: &str, build: &ObservedBuild) -> bool {
    let Some(cascade) = input.cascade.filter(|cascade| *cascade.name == build.identity.cascade)
    else {
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
