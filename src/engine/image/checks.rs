//! Checks: what a new digest is put through before its tags move and its children are built.
//!
//! All checks of a digest that are not through start at once. When a required one fails, it is
//! tried again as a failed build is, on the same budgets, without a build: what is checked stands
//! in the registry.

use std::sync::Arc;

use crate::{
    api::{
        Check, CheckRecord, CheckState, FailureClass, FailureRecord, ImageState,
        condition::{reason, shorten},
        managed_image::MAX_CHECK_MESSAGE,
    },
    engine::{
        decision::{Action, ImageDecision},
        image::evaluation::{ImageEval, Plan},
        image::failure::{self, Verdict},
        input::{CheckOutcome, ObservedCheck, VerifiedBuild},
    },
};

impl ImageEval<'_> {
    /// The state of an image whose newest digest stands in the registry and is not checked yet.
    /// `stale` is what is known of the build that brought it; blank, if only the checks have
    /// changed.
    pub(in crate::engine) fn check(
        &self,
        plan: &mut Plan,
        verified: Arc<VerifiedBuild>,
        stale: ImageDecision,
    ) -> ImageDecision {
        let failure = self.check_failures(&verified, stale.failure.as_deref().cloned());
        let cancelled = failure.as_ref().is_some_and(failure::is_cancelled);
        if cancelled {
            let running = self
                .observed
                .checks
                .iter()
                .filter(|observed| observed.outcome == CheckOutcome::Running);
            plan.actions.extend(running.map(|observed| Action::Stop { job: observed.job.clone() }));
        }
        let attempt = failure.as_ref().map_or(0, |failure| failure.check_attempt);
        let (records, open) = self.verdicts(&verified);
        // A check that passes although it was cancelled moves nothing by itself.
        if open.is_empty() && !cancelled {
            return ImageDecision { checks: records, ..Self::current(self.vouched(&verified)) };
        }
        let stale = ImageDecision {
            failure: failure.map(Box::new),
            checks: records,
            state: ImageState::Checking,
            ..stale
        };
        match failure::verdict(
            stale.failure.as_deref(),
            &self.context.input.spec.policy.retries,
            self.context.now,
        ) {
            Verdict::GivenUp => {
                let reason =
                    stale.failure.as_deref().map_or(reason::CHECK_FAILED, failure::given_up);
                return Self::failed(stale, reason);
            }
            Verdict::RetryAt(at) if at > self.context.now => {
                plan.wake(at);
                let why = stale
                    .failure
                    .as_ref()
                    .map_or_else(String::new, |failure| failure::gist(&failure.last));
                let message = format!("checked again at {at:.0} after: {why}");
                return ImageDecision {
                    reason: reason::RETRYING,
                    message: message.into(),
                    in_progress: true,
                    ..stale
                };
            }
            Verdict::RetryAt(_) | Verdict::Clean => {}
        }
        for place in &open {
            if !self.runs(&verified, *place, attempt) && !self.is_ending(&verified, *place) {
                let digest = verified.digest.clone();
                plan.actions.push(Action::Check {
                    image: self.index,
                    check: *place,
                    digest,
                    attempt,
                });
            }
        }
        let names: Vec<String> =
            open.iter().filter_map(|place| self.told(&verified, *place)).collect();
        let plural = if names.len() == 1 { "check" } else { "checks" };
        let message = format!("waits for its {plural} {}", names.join(", "));
        ImageDecision {
            reason: reason::CHECKING,
            message: message.into(),
            in_progress: true,
            ..stale
        }
    }

    /// The last good digest of an image whose inputs have changed since, when the checks that were
    /// started before have passed: its children may stand on it. None is started for it. `failure`
    /// is what has failed of the image by now.
    pub(in crate::engine) fn passed(
        &self,
        verified: &VerifiedBuild,
        failure: Option<&FailureRecord>,
    ) -> Option<(Arc<VerifiedBuild>, Vec<CheckRecord>)> {
        let wanted = &self.blueprint.checks;
        let cancelled = |known: &FailureRecord| {
            failure::is_cancelled(known) && verified.fingerprint == known.fingerprint
        };
        if wanted.is_none()
            || verified.checked == *wanted
            || self.failure_record().into_iter().chain(failure).any(cancelled)
        {
            return None;
        }
        let (records, open) = self.verdicts(verified);
        open.is_empty().then(|| (self.vouched(verified), records))
    }

    fn vouched(&self, verified: &VerifiedBuild) -> Arc<VerifiedBuild> {
        Arc::new(VerifiedBuild {
            checked: self.blueprint.checks.clone(),
            ..VerifiedBuild::clone(verified)
        })
    }

    /// How each check of this digest stands, and the places of those that are not through: to be
    /// run, or to be run again.
    fn verdicts(&self, verified: &VerifiedBuild) -> (Vec<CheckRecord>, Vec<usize>) {
        let records: Vec<CheckRecord> = self
            .checks()
            .map(|(_, check, revision)| self.state(verified, check, revision))
            .collect();
        let open =
            self.checks().zip(&records).filter(|((_, check, _), record)| match record.state {
                CheckState::Running => true,
                CheckState::Failed => check.required,
                CheckState::Passed => false,
            });
        let open = open.map(|((place, ..), _)| place).collect();
        (records, open)
    }

    fn checks(&self) -> impl Iterator<Item = (usize, &Check, &str)> {
        let revisions = self.blueprint.check_revisions.iter().map(String::as_str);
        self.image
            .checks
            .iter()
            .zip(revisions)
            .enumerate()
            .map(|(place, (check, revision))| (place, check, revision))
    }

    /// A check that is not through, by its name, with what its pod waits for.
    fn told(&self, verified: &VerifiedBuild, place: usize) -> Option<String> {
        let (check, revision) =
            (self.image.checks.get(place)?, self.blueprint.check_revisions.get(place)?);
        let newest = self.observations(verified, revision).max_by_key(|observed| observed.attempt);
        let waits_for = newest.and_then(|observed| observed.waits_for.as_ref());
        Some(
            waits_for.map_or_else(|| check.name.clone(), |what| format!("{} ({what})", check.name)),
        )
    }

    fn observations<'s>(
        &'s self,
        verified: &'s VerifiedBuild,
        revision: &'s str,
    ) -> impl Iterator<Item = &'s ObservedCheck> {
        self.observed.checks.iter().filter(move |observed| {
            observed.digest == verified.digest && observed.revision == revision
        })
    }

    /// How a check of this digest stands: by its Jobs or, when those are gone, by what was
    /// recorded.
    fn state(&self, verified: &VerifiedBuild, check: &Check, revision: &str) -> CheckRecord {
        let record = |state, message: &str| CheckRecord {
            name: check.name.clone(),
            digest: verified.digest.to_string(),
            revision: revision.into(),
            state,
            message: shorten(message, MAX_CHECK_MESSAGE),
        };
        let passed =
            self.observations(verified, revision).find_map(|observed| match &observed.outcome {
                CheckOutcome::Passed(said) => Some(said.as_str()),
                CheckOutcome::Running | CheckOutcome::Failed(_) | CheckOutcome::Stopped => None,
            });
        if let Some(said) = passed {
            return record(CheckState::Passed, said);
        }
        let recorded = self.observed.record.into_iter().flat_map(|record| &record.checks);
        let recorded =
            recorded.filter(|known| verified.digest == known.digest && known.revision == revision);
        if let Some(known) = recorded.into_iter().find(|known| known.state != CheckState::Running) {
            return known.clone();
        }
        let newest = self.observations(verified, revision).max_by_key(|observed| observed.attempt);
        match newest.map(|observed| &observed.outcome) {
            Some(CheckOutcome::Failed(failure)) => record(CheckState::Failed, &failure.message),
            _ => record(CheckState::Running, ""),
        }
    }

    /// Whether this attempt at a check is under way, or has ended.
    fn runs(&self, verified: &VerifiedBuild, place: usize, attempt: i32) -> bool {
        let Some(revision) = self.blueprint.check_revisions.get(place) else { return true };
        self.observations(verified, revision).any(|observed| match observed.outcome {
            CheckOutcome::Running => true,
            CheckOutcome::Stopped => false,
            CheckOutcome::Passed(_) | CheckOutcome::Failed(_) => observed.attempt >= attempt,
        })
    }

    /// Whether an earlier attempt at a check has been given up and still goes on: the next one
    /// waits until it is gone.
    fn is_ending(&self, verified: &VerifiedBuild, place: usize) -> bool {
        let Some(revision) = self.blueprint.check_revisions.get(place) else { return false };
        let given_up = |observed: &ObservedCheck| {
            matches!(observed.outcome, CheckOutcome::Failed(_) | CheckOutcome::Stopped)
        };
        self.observations(verified, revision).any(|observed| observed.live && given_up(observed))
    }

    /// The failures with those of required checks that are not counted yet: one for each attempt.
    fn check_failures(
        &self,
        verified: &VerifiedBuild,
        known: Option<FailureRecord>,
    ) -> Option<FailureRecord> {
        let known = known.or_else(|| {
            let recorded =
                self.failure_record().filter(|known| verified.fingerprint == known.fingerprint);
            self.ruled(recorded.cloned(), &verified.fingerprint)
        });
        let mut failed: Vec<&ObservedCheck> = self
            .checks()
            .filter(|(_, check, _)| check.required)
            .flat_map(|(_, _, revision)| self.observations(verified, revision))
            .filter(|observed| matches!(observed.outcome, CheckOutcome::Failed(_)))
            .collect();
        failed.sort_by(|a, b| (a.attempt, &a.check).cmp(&(b.attempt, &b.check)));
        let cascade = self.context.input.cascade.map_or("", |cascade| cascade.name);
        let mut record =
            known.map(
                |known| {
                    if self.mended(verified, &known) { failure::forgiven(known) } else { known }
                },
            );
        if let Some(cancelled) = record.take_if(|record| failure::is_cancelled(record)) {
            // None of those that were started is the next one, however they end.
            let made =
                self.observed.checks.iter().filter(|observed| observed.digest == verified.digest);
            let next = made.map(|observed| observed.attempt.saturating_add(1)).max().unwrap_or(0);
            return Some(FailureRecord {
                check_attempt: cancelled.check_attempt.max(next),
                ..cancelled
            });
        }
        for observed in failed {
            let CheckOutcome::Failed(outcome) = &observed.outcome else { continue };
            let counted = record.as_ref().map_or(0, |record| record.check_attempt);
            if observed.attempt < counted {
                continue;
            }
            let mut outcome = outcome.clone();
            if outcome.class == FailureClass::Build {
                outcome.reason = reason::CHECK_FAILED.into();
            }
            outcome.message = format!("check {}: {}", observed.check, outcome.message);
            let attempt = record.as_ref().map_or(0, |record| record.attempt);
            let cause = crate::engine::causes::key(&self.image.name, &verified.causes);
            let failed = failure::Failed { attempt, cascade, cause: &cause };
            let added =
                failure::add(record, &verified.fingerprint, &failed, outcome, self.context.now);
            record =
                Some(FailureRecord { check_attempt: observed.attempt.saturating_add(1), ..added });
        }
        record
    }

    /// Whether a check that failed on this digest, or was cancelled, is another one by now, or
    /// gone: that says nothing of what is checked now.
    fn mended(&self, verified: &VerifiedBuild, known: &FailureRecord) -> bool {
        let recorded = self.observed.record.into_iter().flat_map(|record| &record.checks);
        let cancelled = failure::is_cancelled(known);
        let mut failed = recorded.filter(|old| verified.digest == old.digest).filter(|old| {
            old.state == CheckState::Failed || cancelled && old.state == CheckState::Running
        });
        known.check_attempt > 0
            && failed.any(|old| self.checks().all(|(_, _, revision)| revision != old.revision))
    }
}
