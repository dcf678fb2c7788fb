//! A stale image whose inputs are all known: what the registry says about the wanted fingerprint
//! decides its state.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api::{ImageState, condition::Reason},
    engine::{
        Problem,
        causes::{self, InputChange},
        decision::{Effect, ImageDecision},
        fingerprint::fingerprint,
        image::evaluation::{ImageEval, Plan},
        image::{
            attempts,
            awaited_push::AbsentAnswer,
            cutoff,
            evaluate::blank,
            inputs::{ResolvedInputs, ResolvedParents},
        },
        input::{BuildOutcome, LookupResult, VerifiedBuild},
    },
    identity::Fingerprint,
};

impl ImageEval<'_> {
    /// Returns the decision for an image whose inputs are known and differ from those of its
    /// verified build.
    pub(in crate::engine) fn decide_stale(
        &self,
        plan: &mut Plan,
        resolved: ResolvedInputs,
        parents: &ResolvedParents<'_>,
    ) -> ImageDecision {
        let wanted = fingerprint(&resolved.inputs);
        let lookup = self.lookup(&wanted);
        let stale = self.stale(&wanted, &resolved, parents, lookup);
        let succeeded = self.last_success(&wanted);
        match lookup {
            Some(LookupResult::Present { digest, build, size, content, blobs, request }) => {
                let mut inputs = resolved.inputs;
                let rebuilt = request.clone().filter(|_| inputs.nonce.is_empty());
                let fingerprint = rebuilt.map_or(wanted, |request| {
                    inputs.nonce = request;
                    fingerprint(&inputs)
                });
                let pushed = VerifiedBuild {
                    digest: digest.clone(),
                    fingerprint,
                    build: *build,
                    size: *size,
                    inputs,
                    base_observed: parents.base_observed,
                    content: content.clone(),
                    blobs: blobs.clone(),
                    checked: None,
                    causes: stale.causes.clone(),
                    spared: false,
                    adopted: None,
                    labels: Vec::new(),
                };
                self.decide_pushed(plan, pushed, stale)
            }
            Some(LookupResult::Rejected(problem, ask_at)) if *ask_at > self.context.now => {
                decide_rejected(plan, problem, *ask_at, stale)
            }
            Some(LookupResult::Failed(problem, ask_at)) if *ask_at > self.context.now => {
                decide_unanswered(plan, problem, *ask_at, verifying_state(succeeded), stale)
            }
            Some(LookupResult::Existing(existing))
                if succeeded.is_none() && self.is_up_to_date(plan, existing) =>
            {
                self.decide_existing(plan, existing, &stale, &resolved, parents).unwrap_or_else(
                    || {
                        let (last_build, parents) = (existing.last_build, resolved.parents);
                        self.decide_absent(plan, stale, &wanted, last_build, parents)
                    },
                )
            }
            // The registry was asked after the last build that claims to have pushed.
            Some(LookupResult::Absent { last_build, after, asked_at }) if *after >= succeeded => {
                let answer = AbsentAnswer { last_build: *last_build, asked_at: *asked_at };
                self.decide_not_pushed(plan, stale, resolved, succeeded, answer)
            }
            _ => self.decide_lookup(plan, &resolved, succeeded, stale),
        }
    }

    /// Returns the decision for an image whose registry is asked for the wanted build.
    pub(in crate::engine) fn decide_lookup(
        &self,
        plan: &mut Plan,
        resolved: &ResolvedInputs,
        succeeded: Option<i32>,
        stale: ImageDecision,
    ) -> ImageDecision {
        plan.effects.push(Effect::LookUp {
            image: self.index,
            fingerprint: fingerprint(&resolved.inputs),
            scope: self.lookup_scope(&resolved.inputs, succeeded),
            after: succeeded,
        });
        ImageDecision {
            reason: Reason::Verifying,
            message: "the registry is asked for the build".into(),
            in_progress: true,
            state: verifying_state(succeeded),
            ..stale
        }
    }

    /// Returns the registry's last answer about a fingerprint.
    pub(in crate::engine) fn lookup(&self, fingerprint: &Fingerprint) -> Option<&LookupResult> {
        let mut lookups = self.observed.lookups.iter();
        lookups.find(|lookup| lookup.fingerprint == *fingerprint).map(|lookup| &lookup.result)
    }

    /// Returns what is known about a stale image whatever the registry says: the wanted
    /// fingerprint, the causes, and the failures so far.
    fn stale(
        &self,
        wanted: &Fingerprint,
        resolved: &ResolvedInputs,
        parents: &ResolvedParents<'_>,
        lookup: Option<&LookupResult>,
    ) -> ImageDecision {
        let change = InputChange {
            image: &self.image.name,
            lineage: self.context.input.lineage(),
            index: self.index,
            last: self
                .observed
                .verified
                .as_ref()
                // What was adopted with the wanted inputs is not known to be made from them.
                .filter(|verified| verified.adopted.is_none() || verified.inputs != resolved.inputs)
                .map(|verified| &verified.inputs),
            wanted: &resolved.inputs,
            folder: self.observed.folder.as_deref(),
        };
        let causes = change.causes(parents.causes());
        let counted = attempts::count_failed_builds(
            self.failure_record(),
            wanted,
            self.observed,
            &causes::key(&self.image.name, &causes),
            self.context.now,
        );
        let is_rejected =
            matches!(lookup, Some(LookupResult::Rejected(_, ask_at)) if *ask_at > self.context.now);
        let failure = if is_rejected {
            counted
        } else {
            self.effective_failure(counted.or_else(|| self.retry_without_failure(wanted)), wanted)
        };
        ImageDecision {
            fingerprint: Some(wanted.clone()),
            inputs: Some(resolved.inputs.clone().into()),
            causes,
            failure: failure.map(Box::new),
            ..blank()
        }
    }

    /// Returns the decision for a fingerprint that the registry has: its digest is new, or the last
    /// one stays because the content is the same.
    ///
    /// The registry may know already that the content is the same: the tag of the fingerprint then
    /// points to the last digest. A build that is older than the last one is no rebuild: its own
    /// immutable tags point to its digest, so that it becomes current again as it is.
    fn decide_pushed(
        &self,
        plan: &mut Plan,
        pushed: VerifiedBuild,
        stale: ImageDecision,
    ) -> ImageDecision {
        let is_retagged = |last: &VerifiedBuild| {
            last.digest == pushed.digest && last.fingerprint != pushed.fingerprint
        };
        let cutoff = self.context.input.spec.policy.cutoff;
        let is_same = |last: &VerifiedBuild| {
            pushed.build > last.build && cutoff::is_same(cutoff, last, &pushed)
        };
        let Some(last) = self
            .observed
            .verified
            .as_ref()
            .filter(|last| last.adopted.is_none() && (is_retagged(last) || is_same(last)))
        else {
            return self.decide_verified(plan, Arc::new(pushed), stale);
        };
        if last.digest != pushed.digest {
            plan.effects.push(Effect::RetagUnchanged {
                image: self.index,
                fingerprint: pushed.fingerprint.clone(),
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
            labels: last.labels.clone(),
            spared: true,
            ..pushed
        };
        self.decide_verified(plan, Arc::new(spared), stale)
    }

    /// Returns the highest attempt at a fingerprint that has succeeded.
    fn last_success(&self, fingerprint: &Fingerprint) -> Option<i32> {
        let builds =
            self.observed.builds.iter().filter(|build| build.outcome == BuildOutcome::Succeeded);
        let identities = builds.map(|build| &build.identity);
        identities
            .filter(|build| build.fingerprint == *fingerprint)
            .map(|build| build.attempt)
            .max()
    }
}

/// Returns the decision for an image that the registry has under the wanted fingerprint's tag, but
/// that is not what the tag claims.
fn decide_rejected(
    plan: &mut Plan,
    problem: &Problem,
    ask_at: Timestamp,
    stale: ImageDecision,
) -> ImageDecision {
    plan.wake(ask_at);
    ImageDecision {
        state: ImageState::Failed,
        reason: problem.reason,
        message: problem.message.clone().into(),
        ..stale
    }
}

/// Returns the decision for an image about which the registry could not answer.
fn decide_unanswered(
    plan: &mut Plan,
    problem: &Problem,
    ask_at: Timestamp,
    state: ImageState,
    stale: ImageDecision,
) -> ImageDecision {
    plan.wake(ask_at);
    ImageDecision {
        reason: problem.reason,
        // Without the time: it changes at every attempt, and a status is not written for that.
        message: problem.message.clone().into(),
        // A registry that is unreachable recovers. What it rejects, it rejects until a user acts.
        in_progress: problem.reason == Reason::RegistryUnavailable,
        state,
        ..stale
    }
}

/// Returns the state while the registry is asked: `Checking` if a build has succeeded, otherwise
/// `Waiting`.
fn verifying_state(succeeded: Option<i32>) -> ImageState {
    if succeeded.is_some() { ImageState::Checking } else { ImageState::Waiting }
}
