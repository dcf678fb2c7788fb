//! What happens to the cascades of a family: one starts, some end, or all continue.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{Cause, ImageState, Pending, UpstreamStatus, cascade::MAX_CAUSES, condition::Reason},
    engine::{
        cascade::{
            CascadeContext, admission, breaker_gates,
            changes::Changes,
            gates::{self, CascadeReadiness, QuietTime},
            windows::WindowState,
        },
        causes::short,
        decision::{CascadeDecision, Effect},
        image::evaluation::{Evaluation, Plan},
        input::{BuildOutcome, EndedCascade, ObservedCascade},
        upstreams,
    },
    identity::CascadeName,
    lineage::{ImageIndex, UpstreamIndex},
};

/// How long a cascade waits if another one has its name. Names have a resolution of one second.
const NAME_RETRY_DELAY: SignedDuration = SignedDuration::from_secs(1);
/// How long it takes at most until the results of images are recorded.
const RECORD_DELAY: SignedDuration = SignedDuration::from_secs(1);
/// Why nothing starts in a suspended family.
const SUSPENDED_MESSAGE: &str = "spec.suspend is set";

/// What happens to the cascades, and what follows from it.
#[derive(Debug)]
pub struct CascadeStep {
    /// What happens to them.
    pub cascade: CascadeDecision,
    /// The changes that wait for the next cascade.
    pub pending: Option<Pending>,
    /// The builds to start, and those to stop.
    pub effects: Vec<Effect>,
    /// Whether builds would start except for windows, `suspend`, or another cascade of this second.
    pub gated: bool,
    /// When something else happens, if nothing changes before.
    pub wake_at: Option<Timestamp>,
}

impl CascadeStep {
    /// Returns a step without effects.
    const fn new(cascade: CascadeDecision, pending: Option<Pending>) -> Self {
        Self { cascade, pending, effects: Vec::new(), gated: false, wake_at: None }
    }

    /// Returns a step in which the cascades that run continue, and changes wait for them.
    fn running(context: &CascadeContext<'_>, changes: &Changes) -> Self {
        if context.input.cascades.is_empty() {
            return Self::new(CascadeDecision::None, None);
        }
        let waits = !changes.is_empty();
        let pending = waits.then(|| gates::quiet_time(context, changes).pending);
        Self::new(CascadeDecision::Continue, pending)
    }

    fn wake(&mut self, at: Option<Timestamp>) {
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }
}

/// Ends the cascades that are over, or starts one for the changes that wait for none of the running
/// ones, or starts builds of those that run.
pub fn advance_cascades(
    context: &CascadeContext<'_>,
    upstreams: &mut [UpstreamStatus],
    evaluation: &mut Evaluation,
) -> CascadeStep {
    let changes = Changes::find(context, upstreams, evaluation);
    explain_waiting(context, upstreams, &changes);
    let mut step = CascadeStep::running(context, &changes);
    if changes.awaits_records && !changes.awaited.is_empty() {
        step.wake(context.now.saturating_add(RECORD_DELAY).ok());
    }
    let ending = ending_cascades(context, &changes, evaluation);
    if !ending.is_empty() {
        return CascadeStep { cascade: CascadeDecision::Finish { ending }, ..step };
    }
    let superseded = superseded_cascades(context, &changes, &mut step);
    if !superseded.is_empty() {
        let message = "another cascade replaces this one";
        gates::queue_ready_builds(evaluation, Reason::Cascading, message);
        return CascadeStep { cascade: CascadeDecision::Finish { ending: superseded }, ..step };
    }
    let readiness = gates::cascade_readiness(context, &changes, evaluation);
    if let CascadeReadiness::Ready { settling } = &readiness
        && let Some(name) = free_name(context)
    {
        return start_cascade(
            context,
            upstreams,
            evaluation,
            Start { changes, settling: settling.clone(), name },
        );
    }
    wait_for_gates(context, readiness, &changes, evaluation, &mut step);
    if !context.input.cascades.is_empty() {
        continue_cascades(context, &changes, evaluation, &mut step);
    }
    step
}

/// Keeps the builds queued that may not start a cascade yet, and says what they wait for.
fn wait_for_gates(
    context: &CascadeContext<'_>,
    readiness: CascadeReadiness,
    changes: &Changes,
    evaluation: &mut Evaluation,
    step: &mut CascadeStep,
) {
    match readiness {
        // Another cascade has started in this second, or the clock was set back to it.
        CascadeReadiness::Ready { .. } => {
            queue(evaluation, changes, Reason::Cascading, "the cascade starts");
            step.pending.clone_from(&context.input.status.pending);
            step.gated = true;
            step.wake(context.now.saturating_add(NAME_RETRY_DELAY).ok());
        }
        CascadeReadiness::Settling(QuietTime { pending, until }) => {
            let message = format!("waits for further changes; the cascade starts at {until:.0}");
            queue(evaluation, changes, Reason::Settling, &message);
            step.pending = Some(pending);
            step.wake(Some(until));
        }
        CascadeReadiness::WindowClosed { pending, opens } => {
            let message = gates::window_closed_message(opens);
            queue(evaluation, changes, Reason::WindowClosed, &message);
            step.pending = Some(pending);
            step.gated = true;
            step.wake(opens);
        }
        CascadeReadiness::Suspended { pending } => {
            queue(evaluation, changes, Reason::Suspended, SUSPENDED_MESSAGE);
            step.pending = Some(pending);
            step.gated = true;
        }
        CascadeReadiness::Idle => {}
    }
}

/// Says of the candidates that wait for running cascades what they wait for.
fn explain_waiting(
    context: &CascadeContext<'_>,
    upstreams: &mut [UpstreamStatus],
    changes: &Changes,
) {
    for (upstream, touched) in &changes.waiting {
        let newest = touched.last().and_then(|newest| context.input.cascades.get(*newest));
        let Some(status) = upstreams.get_mut(upstream.position()) else { continue };
        let Some(candidate) = &status.candidate else { continue };
        let digest = short(&candidate.digest);
        status.message = Some(newest.map_or_else(
            || format!("{digest} waits until one of the running cascades has ended"),
            |cascade| {
                format!(
                    "{digest} waits for the cascade {}, which still builds images that are built \
                     on it",
                    cascade.name.as_str()
                )
            },
        ));
    }
}

/// Returns the running cascades that are over: none of their images is in progress, or only Jobs
/// that are not admitted and outages keep them open and other changes wait for them.
fn ending_cascades(
    context: &CascadeContext<'_>,
    changes: &Changes,
    evaluation: &Evaluation,
) -> Vec<EndedCascade> {
    let is_over = |position: usize| {
        let mut images = context.members.of_cascade(position, &evaluation.images);
        !images.any(|(_, image)| image.in_progress)
            || changes.awaited.contains(&position)
                && admission::waits_only_for_outside(evaluation, context.members, position)
    };
    let running = context.input.cascades.iter().enumerate();
    let over = running.filter(|(position, _)| is_over(*position));
    over.map(|(_, cascade)| ended(cascade)).collect()
}

/// Returns the running cascades that end early with `policy.supersede: Cancel`, so that another one
/// replaces them: those that a candidate ends whose quiet time has passed.
fn superseded_cascades(
    context: &CascadeContext<'_>,
    changes: &Changes,
    step: &mut CascadeStep,
) -> Vec<EndedCascade> {
    let CascadeContext { input, window, now, .. } = *context;
    // No other one could start now.
    let is_gated = input.spec.suspend || matches!(window, WindowState::Closed { .. });
    if changes.superseded.is_empty() || is_gated {
        return Vec::new();
    }
    let until = gates::quiet_time(context, changes).until;
    if until > now {
        step.wake(Some(until));
        return Vec::new();
    }
    let cascades = changes.superseded.iter().filter_map(|position| input.cascades.get(*position));
    cascades.map(|cascade| EndedCascade { superseded: true, ..ended(cascade) }).collect()
}

/// Starts builds of the running cascades, and stops those that superseded ones have left. A cascade
/// that only waits for trial builds ends if other changes wait for it.
fn continue_cascades(
    context: &CascadeContext<'_>,
    changes: &Changes,
    evaluation: &mut Evaluation,
    step: &mut CascadeStep,
) {
    let input = context.input;
    step.gated |= input.spec.suspend || matches!(context.window, WindowState::Closed { .. });
    step.effects = admission::admit_starts(context, evaluation);
    if input.spec.suspend {
        return;
    }
    let builds_for = |cascade: &CascadeName| {
        step.effects.iter().any(|effect| match effect {
            Effect::Build(build) => build.identity.cascade == *cascade,
            _ => false,
        })
    };
    // What waits may be the cure. The next cascade takes the paused builds as well.
    let ending: Vec<EndedCascade> = changes
        .awaited
        .iter()
        .filter_map(|position| Some((*position, input.cascades.get(*position)?)))
        .filter(|(position, cascade)| {
            !builds_for(cascade.name)
                && breaker_gates::waits_only_for_trials(context, evaluation, *position)
        })
        .map(|(_, cascade)| ended(cascade))
        .collect();
    if ending.is_empty() {
        step.effects.extend(stop_superseded_builds(context, evaluation));
    } else {
        step.cascade = CascadeDecision::Finish { ending };
    }
}

/// Stops the builds of superseded cascades whose results are not wanted any more.
fn stop_superseded_builds(context: &CascadeContext<'_>, evaluation: &Evaluation) -> Vec<Effect> {
    let input = context.input;
    let images = input.images.iter().zip(&evaluation.images);
    ImageIndex::enumerate(images)
        .filter_map(|(index, (observed, image))| {
            let superseded = context.members.cascade_of(input, index)?.supersedes?;
            Some((observed, image, superseded))
        })
        .flat_map(|(observed, image, superseded)| {
            observed.builds.iter().filter(move |build| {
                let cascade = &build.identity.cascade;
                (cascade == superseded || input.is_superseded(cascade))
                    && build.outcome == BuildOutcome::Running
                    && match &image.fingerprint {
                        Some(wanted) => *wanted != build.identity.fingerprint,
                        None => image.reason == Reason::WaitingForParent,
                    }
            })
        })
        .map(|build| Effect::Stop { job: build.job.clone() })
        .collect()
}

fn ended(cascade: &ObservedCascade<'_>) -> EndedCascade {
    let supersedes = cascade.supersedes.cloned();
    EndedCascade { name: cascade.name.clone(), superseded: false, supersedes }
}

/// A cascade that starts.
struct Start {
    /// What it is for.
    changes: Changes,
    /// The candidates that settle, and are not adopted.
    settling: Option<Pending>,
    /// Its name.
    name: CascadeName,
}

/// Starts a cascade: adopts the candidates, unless they settle, and plans the builds. They start in
/// the next reconcile, once the cascade is recorded.
fn start_cascade(
    context: &CascadeContext<'_>,
    upstreams: &mut [UpstreamStatus],
    evaluation: &mut Evaluation,
    start: Start,
) -> CascadeStep {
    let Start { mut changes, settling, name } = start;
    let pending = settling.clone().or_else(|| gates::left_waiting(context, &changes));
    if settling.is_some() {
        changes.upstreams.clear();
        changes.left.clear();
    }
    let moved = upstreams::adopt_candidates(upstreams, &changes.upstreams, context.now);
    let roots = changes.roots(context).chain(changes.failed.iter().copied());
    let planned = context.input.lineage().with_descendants(roots);
    let causes = cascade_causes(&moved, &changes, evaluation);
    queue(evaluation, &changes, Reason::Cascading, "the cascade starts");
    gates::queue_ready_builds(evaluation, Reason::Cascading, "another cascade starts first");
    // The images were evaluated with the digests from before the adoption. The next reconcile, with
    // the cascade recorded, evaluates them again and starts builds.
    evaluation.plan = Plan::default();
    for (image, is_planned) in evaluation.images.iter_mut().zip(&planned) {
        // An image that is part of the cascade must not look finished before the cascade starts.
        image.in_progress |= *is_planned && image.state != ImageState::Current;
    }
    let supersedes = context.input.superseded().filter(|_| !moved.is_empty()).cloned();
    let levels = context.input.lineage().by_level(&planned);
    let cascade = CascadeDecision::Start { name, causes, supersedes, levels };
    CascadeStep::new(cascade, pending)
}

/// Returns the causes of a cascade: the upstreams that moved, and the causes of the images that are
/// ready or were left to it.
fn cascade_causes(
    moved: &[(UpstreamIndex, Cause)],
    changes: &Changes,
    evaluation: &Evaluation,
) -> Vec<Cause> {
    let mut causes: Vec<Cause> = moved.iter().map(|(_, cause)| cause.clone()).collect();
    let ready = changes.ready.iter().map(|ready| ready.build.image);
    let images = ready.chain(changes.left.iter().copied());
    let images = images.filter_map(|image| evaluation.images.get(image.position()));
    causes.extend(images.flat_map(|image| image.causes.clone()));
    causes.sort();
    causes.dedup();
    causes.truncate(MAX_CAUSES);
    causes
}

/// Returns the name of a cascade that starts now, or `None` if it is taken.
///
/// A cascade that the status names keeps its name: its object may exist although no watch has shown
/// it yet.
fn free_name(context: &CascadeContext<'_>) -> Option<CascadeName> {
    let CascadeContext { input, now, .. } = *context;
    let is_taken = |name: &CascadeName| {
        input.ended.iter().any(|cascade| cascade.name == *name)
            || input.cascades.iter().any(|cascade| *cascade.name == *name)
    };
    let mut recorded = input.status.cascades.iter().map(|cascade| CascadeName::from(&cascade.name));
    let intended = recorded.find(|name| !is_taken(name));
    let name = intended.unwrap_or_else(|| cascade_name(input.family, now));
    (!is_taken(&name)).then_some(name)
}

/// Returns the name of a cascade that starts now. It is used as a label value, so that it must have
/// at most 63 characters.
fn cascade_name(family: &str, now: Timestamp) -> CascadeName {
    let stamp = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
    format!("{family}-{stamp}").into()
}

/// Starts none of the builds that may start a cascade.
fn queue(evaluation: &mut Evaluation, changes: &Changes, reason: Reason, message: &str) {
    gates::queue_builds(evaluation, &changes.ready, reason, message);
}
