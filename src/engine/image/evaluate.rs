//! The state of each image: a walk over the lineage, parents before children.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api::{
        FailureRecord, ImageState, ManualHold, Promotion, RunningBuild, UpstreamStatus,
        condition::reason,
    },
    engine::{
        Problem,
        causes::{self, Change},
        decision::{Action, ImageDecision, Message, Promoted},
        fingerprint::fingerprint,
        image::evaluation::{EvalContext, Evaluation, ImageEval, Plan},
        image::{
            cutoff,
            failure::{self, Verdict},
            inputs::{NotReady, Parents},
        },
        input::{BuildOutcome, DecideInput, LookupResult, ObservedBuild, VerifiedBuild},
        requests::RequestEffects,
    },
    identity::Fingerprint,
};

/// Walks the lineage. O(images + edges).
#[must_use]
pub fn evaluate(
    input: &DecideInput<'_>,
    upstreams: &[UpstreamStatus],
    effects: &RequestEffects,
    now: Timestamp,
) -> Evaluation {
    let context = EvalContext { input, upstreams, effects, now };
    let images = input.images.iter().map(|_| blank()).collect();
    let mut evaluation = Evaluation { images, plan: Plan::default(), holds_end: None };
    for &index in input.lineage().order() {
        let (Some(image), Some(observed), Some(blueprint)) = (
            input.spec.images.get(index.position()),
            input.images.get(index.position()),
            input.blueprint.images.get(index.position()),
        ) else {
            continue;
        };
        let eval = ImageEval { context: &context, index, image, blueprint, observed };
        let decision = eval.decide(&evaluation.images, &mut evaluation.plan);
        evaluation.images[index.position()] = decision;
        evaluation.holds_end = [evaluation.holds_end, eval.hold_ends()].into_iter().flatten().min();
    }
    evaluation
}

impl ImageEval<'_> {
    fn decide(&self, images: &[ImageDecision], plan: &mut Plan) -> ImageDecision {
        let decision = match self.parents(images) {
            Ok(parents) => {
                self.with_parents(plan, &parents).unwrap_or_else(|obstacle| self.behind(obstacle))
            }
            Err(obstacle) => self.behind(obstacle),
        };
        let decision = self.with_record(decision);
        let wished = self.context.effects.of(self.index).is_some_and(|effects| effects.cancel);
        if wished || decision.failure.as_deref().is_some_and(failure::is_cancelled) {
            // Of any fingerprint: what runs may be for inputs that have changed since.
            let running =
                self.observed.builds.iter().filter(|build| build.outcome == BuildOutcome::Running);
            plan.actions.extend(running.map(|build| Action::Stop { job: build.job.clone() }));
        }
        decision
    }

    fn behind(&self, obstacle: NotReady) -> ImageDecision {
        match obstacle {
            // A held image is not on its way anywhere: its children stand on what it is.
            _ if self.observed.verified.is_some() && self.is_held() => self.held(),
            NotReady::Blocked(by) => {
                let message = format!("blocked by {by}, which failed");
                let problem = Problem { reason: reason::ANCESTOR_FAILED, message };
                ImageDecision {
                    state: ImageState::Blocked,
                    blocked_by: Some(by),
                    ..ImageDecision::waiting(problem, false)
                }
            }
            NotReady::Waiting(problem, true) => match self.cancelled_in_cascade() {
                failure @ Some(_) => {
                    Self::failed(ImageDecision { failure, ..blank() }, reason::CANCELLED)
                }
                None => ImageDecision::waiting(problem, true),
            },
            NotReady::Waiting(problem, false) => ImageDecision::waiting(problem, false),
        }
    }

    /// The record of an image that a person has taken out of the cascade that runs, while it is not
    /// known which fingerprint it is about to want.
    fn cancelled_in_cascade(&self) -> Option<Box<FailureRecord>> {
        let cascade = self.context.input.cascade.filter(|_| self.is_cancelled_in_cascade())?;
        Some(
            failure::cancelled_waiting(self.failure_record(), cascade.name, self.context.now)
                .into(),
        )
    }

    /// Whether a person takes it out of the cascade that runs, or has done so while it waited.
    fn is_cancelled_in_cascade(&self) -> bool {
        let Some(cascade) = self.context.input.cascade else { return false };
        let effects = self.context.effects.of(self.index);
        let before = self
            .failure_record()
            .is_some_and(|record| failure::is_cancelled_in(record, cascade.name));
        effects.is_some_and(|effects| effects.cancel)
            || before && effects.is_none_or(|effects| effects.retry.is_none())
    }

    /// What an image keeps whatever state it is in: its last good build, a build that still runs,
    /// what it was promoted to, and the failures so far while it is not known whether they are at
    /// the fingerprint that is wanted.
    fn with_record(&self, mut decision: ImageDecision) -> ImageDecision {
        let record = self.observed.record;
        if decision.verified.is_none() {
            decision.verified.clone_from(&self.observed.verified);
            let failure = decision.failure.as_deref();
            if let Some((verified, checks)) =
                self.observed.verified.as_ref().and_then(|verified| self.passed(verified, failure))
            {
                decision.verified = Some(verified);
                if decision.checks.is_empty() {
                    decision.checks = checks;
                }
            }
        }
        let checks = &self.blueprint.checks;
        decision.is_checked = decision
            .verified
            .as_ref()
            .is_some_and(|verified| checks.is_none() || verified.checked == *checks);
        if decision.running.is_none() {
            decision.running = self.running().map(|build| running_of(build).into());
        }
        let unknown =
            matches!(decision.state, ImageState::Waiting | ImageState::Blocked | ImageState::Held);
        if unknown && decision.fingerprint.is_none() && decision.failure.is_none() {
            decision.failure = self
                .failure_record()
                .cloned()
                .and_then(|record| self.forgotten(record))
                .map(Box::new);
        }
        decision.promoted =
            match (self.context.input.spec.policy.promotion, decision.state, &decision.verified) {
                (Promotion::Image, ImageState::Current, Some(_)) => Promoted::Verified,
                (_, _, verified) => match record.and_then(|record| record.promoted.as_ref()) {
                    Some(digest)
                        if verified.as_ref().is_some_and(|verified| verified.digest == *digest) =>
                    {
                        Promoted::Verified
                    }
                    Some(digest) => Promoted::Earlier(digest.into()),
                    None => Promoted::Nowhere,
                },
            };
        if decision.checks.is_empty() && !self.image.checks.is_empty() {
            decision.checks = record.map(|record| record.checks.clone()).unwrap_or_default();
        }
        decision.hold = self.manual_hold().cloned().map(Box::new);
        decision.nonce = self.nonce().map(str::to_owned);
        decision.in_progress |= decision.running.is_some();
        decision
    }

    fn with_parents(
        &self,
        plan: &mut Plan,
        parents: &Parents<'_>,
    ) -> Result<ImageDecision, NotReady> {
        if let Some(verified) =
            self.observed.verified.as_ref().filter(|verified| self.unchanged(verified, parents))
        {
            let base_seen = parents.base_seen.or(verified.base_seen);
            let verified = if base_seen == verified.base_seen {
                Arc::clone(verified)
            } else {
                Arc::new(VerifiedBuild { base_seen, ..VerifiedBuild::clone(verified) })
            };
            return Ok(self.verified(plan, verified, blank()));
        }
        if self.is_held() {
            return Ok(self.held());
        }
        let known = self.known(parents)?;
        if known.remembered {
            let message = "the source is being looked up".to_owned();
            return Err(NotReady::Waiting(Problem { reason: reason::RESOLVING, message }, true));
        }
        let wanted = fingerprint(&known.inputs);
        let change = Change {
            image: &self.image.name,
            lineage: self.context.input.lineage(),
            index: self.index,
            last: self.observed.verified.as_ref().map(|verified| &verified.inputs),
            wanted: &known.inputs,
        };
        let causes = change.causes(Self::roots(parents));
        let lookup = self
            .observed
            .lookups
            .iter()
            .find(|lookup| lookup.fingerprint == wanted)
            .map(|lookup| &lookup.result);
        let rejected =
            matches!(lookup, Some(LookupResult::Rejected(_, ask_at)) if *ask_at > self.context.now);
        let cause = causes::key(&self.image.name, &causes);
        let counted = failure::count(
            self.failure_record(),
            &wanted,
            &self.observed.builds,
            &cause,
            self.context.now,
        );
        let failure = if rejected { counted } else { self.ruled(counted, &wanted) };
        let stale = ImageDecision {
            fingerprint: Some(wanted.clone()),
            inputs: Some(known.inputs.clone().into()),
            causes,
            failure: failure.map(Box::new),
            ..blank()
        };
        let succeeded = self.last_success(&wanted);
        Ok(match lookup {
            Some(LookupResult::Present { digest, build, size, content, blobs }) => {
                let fresh = VerifiedBuild {
                    digest: digest.clone(),
                    fingerprint: wanted,
                    build: *build,
                    size: *size,
                    inputs: known.inputs,
                    base_seen: parents.base_seen,
                    content: content.clone(),
                    blobs: blobs.clone(),
                    checked: None,
                    causes: stale.causes.clone(),
                    spared: false,
                };
                self.present(plan, fresh, stale)
            }
            Some(LookupResult::Rejected(problem, ask_at)) if *ask_at > self.context.now => {
                plan.wake(*ask_at);
                let message = problem.message.clone().into();
                ImageDecision {
                    state: ImageState::Failed,
                    reason: problem.reason,
                    message,
                    ..stale
                }
            }
            Some(LookupResult::Failed(problem, ask_at)) if *ask_at > self.context.now => {
                plan.wake(*ask_at);
                ImageDecision {
                    reason: problem.reason,
                    // Without the time: it changes at every try, and a record is not written for
                    // that.
                    message: problem.message.clone().into(),
                    // A registry that is away comes back; what it refuses, it refuses until
                    // somebody does something.
                    in_progress: problem.reason == reason::REGISTRY_UNAVAILABLE,
                    state: asking(succeeded),
                    ..stale
                }
            }
            Some(LookupResult::Absent { last_build, after }) if *after >= succeeded => {
                // The registry was asked after the last build that says it has pushed.
                let failure = self.vanished(&wanted, succeeded, &stale);
                self.absent(
                    plan,
                    ImageDecision { failure: failure.map(Box::new), ..stale },
                    &wanted,
                    *last_build,
                    known.parents,
                )
            }
            _ => {
                plan.actions.push(Action::Probe {
                    image: self.index,
                    fingerprint: wanted,
                    after: succeeded,
                });
                ImageDecision {
                    reason: reason::VERIFYING,
                    message: "the registry is asked for the build".into(),
                    in_progress: true,
                    state: asking(succeeded),
                    ..stale
                }
            }
        })
    }

    /// A push stands in the registry: it is a new digest, or comes to the same as the last one. The
    /// registry may remember the latter already: then the digest is the last one's. A build that
    /// was made before the last one is no rebuild: its own immutable tags stand on it, so that it
    /// is taken up again as it is.
    fn present(
        &self,
        plan: &mut Plan,
        fresh: VerifiedBuild,
        stale: ImageDecision,
    ) -> ImageDecision {
        let remembered = |last: &VerifiedBuild| {
            last.digest == fresh.digest && last.fingerprint != fresh.fingerprint
        };
        let cutoff = self.context.input.spec.policy.cutoff;
        let same =
            |last: &VerifiedBuild| fresh.build > last.build && cutoff::same(cutoff, last, &fresh);
        let Some(last) =
            self.observed.verified.as_ref().filter(|last| remembered(last) || same(last))
        else {
            return self.verified(plan, Arc::new(fresh), stale);
        };
        if last.digest != fresh.digest {
            plan.actions.push(Action::Remember {
                image: self.index,
                fingerprint: fresh.fingerprint.clone(),
                digest: last.digest.clone(),
            });
        }
        let spared = VerifiedBuild {
            digest: last.digest.clone(),
            build: last.build,
            size: last.size,
            content: last.content.clone(),
            blobs: last.blobs.clone(),
            checked: last.checked.clone(),
            spared: true,
            ..fresh
        };
        self.verified(plan, Arc::new(spared), stale)
    }

    /// A build that the registry vouches for: current, once its checks have passed.
    fn verified(
        &self,
        plan: &mut Plan,
        verified: Arc<VerifiedBuild>,
        stale: ImageDecision,
    ) -> ImageDecision {
        match &self.blueprint.checks {
            Some(wanted) if verified.checked.as_ref() != Some(wanted) => {
                self.check(plan, verified, stale)
            }
            None if verified.checked.is_some() => Self::current(Arc::new(VerifiedBuild {
                checked: None,
                ..VerifiedBuild::clone(&verified)
            })),
            Some(_) | None => Self::current(verified),
        }
    }

    pub(in crate::engine) fn current(verified: Arc<VerifiedBuild>) -> ImageDecision {
        let message = if verified.spared {
            Message::Spared { build: verified.build }
        } else {
            Message::Current { build: verified.build }
        };
        ImageDecision {
            state: ImageState::Current,
            reason: reason::CURRENT,
            message,
            stands: true,
            verified: Some(verified),
            ..blank()
        }
    }

    /// A person keeps it where it is. The hold of the manifest comes first.
    fn held(&self) -> ImageDecision {
        let manual = self.manual_hold();
        let of_spec = self.image.hold.as_ref();
        let (until, why) = of_spec.map_or_else(
            || manual.map_or((None, None), |hold| (hold.until, hold.reason.clone())),
            |hold| (hold.until, hold.reason.clone()),
        );
        let until = until.map_or_else(String::new, |until| format!(" until {until:.0}"));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let stands = self.observed.verified.is_some();
        let message = if stands {
            format!("held{until}{why}; its inputs have changed")
        } else {
            format!("held{until}{why} before it was ever built: end the hold to have it built")
        };
        ImageDecision {
            state: ImageState::Held,
            reason: reason::HELD,
            message: message.into(),
            failure: self.cancelled_in_cascade(),
            stands,
            ..blank()
        }
    }

    fn is_held(&self) -> bool {
        let now = self.context.now;
        self.image.hold.as_ref().is_some_and(|hold| hold.until.is_none_or(|until| now < until))
            || self.manual_hold().is_some()
    }

    /// When a hold of this image ends by itself.
    fn hold_ends(&self) -> Option<Timestamp> {
        let of_spec = self.image.hold.as_ref().and_then(|hold| hold.until);
        let manual = self.observed.record.and_then(|record| record.hold.as_ref()?.until);
        of_spec.into_iter().chain(manual).filter(|until| *until > self.context.now).min()
    }

    /// The hold that a request has set and that has not ended.
    fn manual_hold(&self) -> Option<&ManualHold> {
        let wished = self.context.effects.of(self.index).and_then(|effects| effects.hold.as_ref());
        let recorded = self.observed.record.and_then(|record| record.hold.as_ref());
        wished
            .map_or(recorded, Option::as_ref)
            .filter(|hold| hold.until.is_none_or(|until| self.context.now < until))
    }

    /// The request by which it is rebuilt though its inputs are the same.
    pub(in crate::engine) fn nonce(&self) -> Option<&str> {
        let wished =
            self.context.effects.of(self.index).and_then(|effects| effects.nonce.as_deref());
        wished.or_else(|| self.observed.record.and_then(|record| record.nonce.as_deref()))
    }

    pub(in crate::engine) fn running(&self) -> Option<&ObservedBuild> {
        self.observed.builds.iter().find(|build| build.outcome == BuildOutcome::Running)
    }

    pub(in crate::engine) fn failure_record(&self) -> Option<&FailureRecord> {
        self.observed.record.and_then(|record| record.failure.as_ref())
    }

    fn last_success(&self, fingerprint: &Fingerprint) -> Option<i32> {
        let successes =
            self.observed.builds.iter().filter(|build| build.outcome == BuildOutcome::Succeeded);
        successes
            .filter(|build| build.identity.fingerprint == *fingerprint)
            .map(|build| build.identity.attempt)
            .max()
    }

    /// The failures at a fingerprint, with what requests and the cascade make of them. What is
    /// given up is left alone by a request to cancel: there is nothing to stop.
    pub(in crate::engine) fn ruled(
        &self,
        counted: Option<FailureRecord>,
        fingerprint: &Fingerprint,
    ) -> Option<FailureRecord> {
        let record = counted.and_then(|record| self.forgotten(record));
        let retries = &self.context.input.spec.policy.retries;
        let cancelled = self.context.effects.of(self.index).is_some_and(|effects| effects.cancel);
        if !(cancelled || self.is_cancelled_in_cascade())
            || failure::verdict(record.as_ref(), retries, self.context.now) == Verdict::GivenUp
        {
            return record;
        }
        let of_fingerprint = self
            .observed
            .builds
            .iter()
            .map(|build| &build.identity)
            .filter(|build| build.fingerprint == *fingerprint);
        let made = of_fingerprint.map(|build| build.attempt).max();
        Some(failure::cancelled(record, fingerprint, made, self.context.now))
    }

    /// The failures as far as requests to try again, and the cascade, do not have them forgotten.
    fn forgotten(&self, record: FailureRecord) -> Option<FailureRecord> {
        let cascade = self.context.input.cascade.map(|cascade| cascade.name);
        let retry =
            self.context.effects.of(self.index).and_then(|effects| effects.retry.as_deref());
        // Taken out of a cascade that has ended since, or wanted back.
        if record.fingerprint.is_empty()
            && (retry.is_some() || cascade.is_none_or(|cascade| cascade != record.cascade))
        {
            return None;
        }
        let record = match retry {
            Some(request) => failure::retried(record, request),
            None => record,
        };
        Some(failure::tried_by_cascade(record, cascade, &self.context.input.spec.policy.retries))
    }

    fn vanished(
        &self,
        wanted: &Fingerprint,
        succeeded: Option<i32>,
        stale: &ImageDecision,
    ) -> Option<FailureRecord> {
        let known = stale.failure.as_deref().cloned();
        match succeeded {
            Some(attempt) if known.as_ref().is_none_or(|known| known.attempt < attempt) => {
                let mut builds = self.observed.builds.iter().map(|build| &build.identity);
                let build =
                    builds.find(|build| build.attempt == attempt && build.fingerprint == *wanted);
                let cascade = build.map_or("", |build| build.cascade.as_str());
                let cause = causes::key(&self.image.name, &stale.causes);
                let failed = failure::Failed { attempt, cascade, cause: &cause };
                Some(failure::add(known, wanted, &failed, failure::vanished(), self.context.now))
            }
            _ => known,
        }
    }
}

/// The state while the registry is asked: a build that has ended is being checked, otherwise the
/// image waits.
fn asking(succeeded: Option<i32>) -> ImageState {
    if succeeded.is_some() { ImageState::Checking } else { ImageState::Waiting }
}

pub(in crate::engine) fn running_of(build: &ObservedBuild) -> RunningBuild {
    RunningBuild {
        job: build.job.to_string(),
        fingerprint: build.identity.fingerprint.to_string(),
        build: build.identity.number,
        attempt: build.identity.attempt,
        started_at: build.started_at,
    }
}

pub(in crate::engine) fn blank() -> ImageDecision {
    ImageDecision::waiting(Problem { reason: reason::RESOLVING, message: String::new() }, false)
}
