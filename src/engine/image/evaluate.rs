//! Evaluates every image in dependency order.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api::{ImageState, condition::Reason},
    engine::{
        Observed, Problem,
        decision::{Effect, ImageDecision, Message, WaitProgress},
        image::evaluation::{EvalContext, Evaluation, ImageEval, Plan},
        image::{
            environment, failure,
            inputs::{NotReady, ResolvedParents},
            refresh::RefreshGate,
        },
        input::{BuildOutcome, DecideInput, VerifiedBuild},
        members::CascadeMembers,
        requests::RequestEffects,
        upstreams::FollowedUpstreams,
    },
};

/// Evaluates the images, parents before children. O(images + edges).
#[must_use]
pub fn evaluate(
    input: &DecideInput<'_>,
    followed: &FollowedUpstreams,
    request_effects: &RequestEffects,
    members: &CascadeMembers,
    now: Timestamp,
) -> Evaluation {
    let recoveries = environment::recoveries(input);
    let recoveries = &recoveries;
    let context = EvalContext { input, followed, request_effects, members, recoveries, now };
    let images = input.images.iter().map(|_| blank()).collect();
    let gate = RefreshGate::of(input, followed, now);
    let mut evaluation = Evaluation { images, plan: Plan::default(), next_hold_end: None };
    for &index in input.lineage().order() {
        let (Some(image), Some(observed), Some(blueprint)) = (
            input.spec.images.get(index.position()),
            input.images.get(index.position()),
            input.blueprint.images.get(index.position()),
        ) else {
            continue;
        };
        let due_refresh = None;
        let mut eval =
            ImageEval { context: &context, index, image, blueprint, observed, due_refresh };
        eval.due_refresh = eval.due_refresh(&gate, &evaluation.images);
        let decision = eval.decide(&evaluation.images, &mut evaluation.plan);
        if let Some(place) = evaluation.images.get_mut(index.position()) {
            *place = decision;
        }
        evaluation.next_hold_end =
            [evaluation.next_hold_end, eval.hold_end()].into_iter().flatten().min();
    }
    evaluation
}

impl ImageEval<'_> {
    /// Returns the decision for the image; its parents in `images` are decided already.
    fn decide(&self, images: &[ImageDecision], plan: &mut Plan) -> ImageDecision {
        let decision = self.decide_rolled_back().unwrap_or_else(|| {
            self.reject_own_spec()
                .and_then(|()| self.resolve_parents(images))
                .and_then(|parents| self.decide_with_parents(plan, &parents))
                .unwrap_or_else(|not_ready| self.decide_not_ready(not_ready))
        });
        let mut decision = self.keep_recorded(self.hold_found(decision));
        self.add_labels(&mut decision, plan);
        self.mark_rebuild(&decision, plan);
        self.plan_refresh(&mut decision, images, plan);
        self.stop_forbidden_builds(&decision, plan);
        decision
    }

    /// Returns the problem of the image's own spec or Dockerfile, if there is one.
    pub(super) fn reject_own_spec(&self) -> Result<(), NotReady> {
        let Some(problem) = &self.blueprint.problem else { return Ok(()) };
        let progress = WaitProgress::of_lookup(problem.reason);
        Err(NotReady::Waiting(problem.clone(), progress))
    }

    /// Returns the decision for an image whose parents all have a digest.
    fn decide_with_parents(
        &self,
        plan: &mut Plan,
        parents: &ResolvedParents<'_>,
    ) -> Result<ImageDecision, NotReady> {
        if let Some(verified) = self.unchanged_build(parents) {
            if verified.adopted.is_some() {
                return Ok(self.decide_adopted(plan, verified, parents));
            }
            return Ok(self.decide_verified(plan, verified, blank()));
        }
        if self.is_held() {
            return Ok(self
                .decide_held_unknown(plan, parents)
                .unwrap_or_else(|| self.decide_held()));
        }
        let resolved = self.wanted_inputs(parents)?;
        if resolved.source_is_remembered {
            let message = "the source is being looked up".to_owned();
            let problem = Problem { reason: Reason::Resolving, message };
            return Err(NotReady::Waiting(problem, WaitProgress::InProgress));
        }
        Ok(self.decide_stale(plan, resolved, parents))
    }

    /// Returns the verified build if it was made from the current inputs, with the current time at
    /// which its base was first observed.
    fn unchanged_build(&self, parents: &ResolvedParents<'_>) -> Option<Arc<VerifiedBuild>> {
        let verified = self.observed.verified.as_ref()?;
        let is_unchanged = self.is_unchanged(verified, parents) && self.may_stay(verified);
        if !is_unchanged && !self.would_lose_platforms(verified) {
            return None;
        }
        let base_observed = parents.base_observed.or(verified.base_observed);
        Some(if base_observed == verified.base_observed {
            Arc::clone(verified)
        } else {
            Arc::new(VerifiedBuild { base_observed, ..VerifiedBuild::clone(verified) })
        })
    }

    /// Returns the decision for an image that can't be built now, because of a parent or another
    /// input.
    fn decide_not_ready(&self, not_ready: NotReady) -> ImageDecision {
        match not_ready {
            // A held image waits for nothing: its children are built on its current digest.
            // So does one that is rolled back, even if its newest build is not known.
            _ if self.rollback().is_some()
                || self.observed.verified.is_some() && self.is_held() =>
            {
                self.decide_held()
            }
            NotReady::Blocked(by) => {
                let message = format!("blocked by {by}, which failed");
                let problem = Problem { reason: Reason::AncestorFailed, message };
                ImageDecision {
                    state: ImageState::Blocked,
                    blocked_by: Some(by),
                    ..ImageDecision::waiting(problem, WaitProgress::AtRest)
                }
            }
            NotReady::Waiting(problem, WaitProgress::InProgress) => {
                match self.cancellation_while_waiting() {
                    failure @ Some(_) => {
                        Self::decide_failed(ImageDecision { failure, ..blank() }, Reason::Cancelled)
                    }
                    None => ImageDecision::waiting(problem, WaitProgress::InProgress),
                }
            }
            NotReady::Waiting(problem, WaitProgress::AtRest) => {
                ImageDecision::waiting(problem, WaitProgress::AtRest)
            }
        }
    }

    /// Returns the decision for a build that is in the registry: current once its checks have
    /// passed.
    pub(in crate::engine) fn decide_verified(
        &self,
        plan: &mut Plan,
        verified: Arc<VerifiedBuild>,
        stale: ImageDecision,
    ) -> ImageDecision {
        match &self.blueprint.checks {
            Some(wanted) if verified.checked.as_ref() != Some(wanted) => {
                self.decide_unchecked(plan, verified, stale)
            }
            None if verified.checked.is_some() => Self::decide_current(Arc::new(VerifiedBuild {
                checked: None,
                ..VerifiedBuild::clone(&verified)
            })),
            Some(_) | None => Self::decide_current(verified),
        }
    }

    /// Returns the decision for an image whose build is verified.
    pub(in crate::engine) fn decide_current(verified: Arc<VerifiedBuild>) -> ImageDecision {
        let message = match &*verified {
            VerifiedBuild { adopted: Some(_), .. } => Message::Adopted,
            VerifiedBuild { spared: true, build, .. } => Message::Spared { build: *build },
            VerifiedBuild { build, .. } => Message::Current { build: *build },
        };
        ImageDecision {
            state: ImageState::Current,
            reason: Reason::Current,
            message,
            releases_children: true,
            verified: Some(verified),
            ..blank()
        }
    }

    /// Stops the running builds of an image that is cancelled, or whose strategy does not serve its
    /// namespace any more: of any fingerprint, because a running build may be for inputs that have
    /// changed since.
    fn stop_forbidden_builds(&self, decision: &ImageDecision, plan: &mut Plan) {
        let is_cancelled = self.cancel_is_requested()
            || decision.failure.as_deref().is_some_and(failure::is_cancelled);
        let is_withdrawn = matches!(
            &self.observed.strategy,
            Observed::Failed(problem) if problem.reason == Reason::StrategyNotAllowed
        );
        if !is_cancelled && !is_withdrawn {
            return;
        }
        let running =
            self.observed.builds.iter().filter(|build| build.outcome == BuildOutcome::Running);
        plan.effects.extend(running.map(|build| Effect::Stop { job: build.job.clone() }));
    }
}

/// Returns an image decision to fill in.
pub(in crate::engine) fn blank() -> ImageDecision {
    let problem = Problem { reason: Reason::Resolving, message: String::new() };
    ImageDecision::waiting(problem, WaitProgress::AtRest)
}
