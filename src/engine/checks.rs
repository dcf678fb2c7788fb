//! Checks: what a new digest is put through before its tags move and its children are built.
//!
//! All checks of a digest that are not through start at once. When a required one fails, it is tried again as a failed build
//! is, on the same budgets, without a build: what is checked stands in the registry.

use std::sync::Arc;

use super::{
    decision::{Action, ImageDecision},
    failure::{self, Verdict},
    observation::{CheckOutcome, CheckSight, Good},
    walk::{Step, Todo},
};
use crate::api::{
    Check, CheckRecord, CheckState, FailureClass, FailureRecord, ImageState,
    condition::{reason, shorten},
    family_image::MAX_CHECK_MESSAGE,
};

impl Step<'_> {
    /// The state of an image whose newest digest stands in the registry and is not checked yet. `stale` is what is known of
    /// the build that brought it; blank, if only the checks have changed.
    pub(super) fn check(&self, todo: &mut Todo, good: Arc<Good>, stale: ImageDecision) -> ImageDecision {
        let failure = self.check_failures(&good, stale.failure.as_deref().cloned());
        let cancelled = failure.as_ref().is_some_and(failure::is_cancelled);
        if cancelled {
            let running = self.sight.checks.iter().filter(|sight| sight.outcome == CheckOutcome::Running);
            todo.actions.extend(running.map(|sight| Action::Stop { job: sight.job.clone() }));
        }
        let attempt = failure.as_ref().map_or(0, |failure| failure.check_attempt);
        let (records, open) = self.verdicts(&good);
        // A check that passes although it was cancelled moves nothing by itself.
        if open.is_empty() && !cancelled {
            return ImageDecision { checks: records, ..Self::current(self.vouched(&good)) };
        }
        let stale =
            ImageDecision { failure: failure.map(Box::new), checks: records, state: ImageState::Checking, ..stale };
        match failure::verdict(stale.failure.as_deref(), &self.frame.seen.spec.policy.retries, self.frame.now) {
            Verdict::GivenUp => {
                let reason = stale.failure.as_deref().map_or(reason::CHECK_FAILED, failure::given_up);
                return Self::failed(stale, reason);
            }
            Verdict::RetryAt(at) if at > self.frame.now => {
                todo.wake(at);
                let why = stale.failure.as_ref().map_or_else(String::new, |failure| failure::gist(&failure.last));
                let message = format!("checked again at {at:.0} after: {why}");
                return ImageDecision { reason: reason::RETRYING, message: message.into(), in_progress: true, ..stale };
            }
            Verdict::RetryAt(_) | Verdict::Clean => {}
        }
        for place in &open {
            if !self.runs(&good, *place, attempt) && !self.is_ending(&good, *place) {
                let digest = good.digest.clone();
                todo.actions.push(Action::Check { image: self.index, check: *place, digest, attempt });
            }
        }
        let names: Vec<String> = open.iter().filter_map(|place| self.told(&good, *place)).collect();
        let plural = if names.len() == 1 { "check" } else { "checks" };
        let message = format!("waits for its {plural} {}", names.join(", "));
        ImageDecision { reason: reason::CHECKING, message: message.into(), in_progress: true, ..stale }
    }

    /// The last good digest of an image whose inputs have changed since, when the checks that were started before have passed:
    /// its children may stand on it. None is started for it. `failure` is what has failed of the image by now.
    pub(super) fn passed(&self, good: &Good, failure: Option<&FailureRecord>) -> Option<(Arc<Good>, Vec<CheckRecord>)> {
        let wanted = &self.blueprint.checks;
        let cancelled = |known: &FailureRecord| failure::is_cancelled(known) && known.fingerprint == good.fingerprint;
        if wanted.is_none()
            || good.checked == *wanted
            || self.failure_record().into_iter().chain(failure).any(cancelled)
        {
            return None;
        }
        let (records, open) = self.verdicts(good);
        open.is_empty().then(|| (self.vouched(good), records))
    }

    fn vouched(&self, good: &Good) -> Arc<Good> {
        Arc::new(Good { checked: self.blueprint.checks.clone(), ..Good::clone(good) })
    }

    /// How each check of this digest stands, and the places of those that are not through: to be run, or to be run again.
    fn verdicts(&self, good: &Good) -> (Vec<CheckRecord>, Vec<usize>) {
        let records: Vec<CheckRecord> =
            self.checks().map(|(_, check, revision)| self.state(good, check, revision)).collect();
        let open = self.checks().zip(&records).filter(|((_, check, _), record)| match record.state {
            CheckState::Running => true,
            CheckState::Failed => check.required,
            CheckState::Passed => false,
        });
        let open = open.map(|((place, ..), _)| place).collect();
        (records, open)
    }

    fn checks(&self) -> impl Iterator<Item = (usize, &Check, &str)> {
        let revisions = self.blueprint.check_revisions.iter().map(String::as_str);
        self.image.checks.iter().zip(revisions).enumerate().map(|(place, (check, revision))| (place, check, revision))
    }

    /// A check that is not through, by its name, with what its pod waits for.
    fn told(&self, good: &Good, place: usize) -> Option<String> {
        let (check, revision) = (self.image.checks.get(place)?, self.blueprint.check_revisions.get(place)?);
        let newest = self.sights(good, revision).max_by_key(|sight| sight.attempt);
        let waits_for = newest.and_then(|sight| sight.waits_for.as_ref());
        Some(waits_for.map_or_else(|| check.name.clone(), |what| format!("{} ({what})", check.name)))
    }

    fn sights<'s>(&'s self, good: &'s Good, revision: &'s str) -> impl Iterator<Item = &'s CheckSight> {
        self.sight.checks.iter().filter(move |sight| sight.digest == good.digest && sight.revision == revision)
    }

    /// How a check of this digest stands: by its Jobs or, when those are gone, by what was recorded.
    fn state(&self, good: &Good, check: &Check, revision: &str) -> CheckRecord {
        let record = |state, message: &str| CheckRecord {
            name: check.name.clone(),
            digest: good.digest.clone(),
            revision: revision.into(),
            state,
            message: shorten(message, MAX_CHECK_MESSAGE),
        };
        let passed = self.sights(good, revision).find_map(|sight| match &sight.outcome {
            CheckOutcome::Passed(said) => Some(said.as_str()),
            CheckOutcome::Running | CheckOutcome::Failed(_) | CheckOutcome::Stopped => None,
        });
        if let Some(said) = passed {
            return record(CheckState::Passed, said);
        }
        let recorded = self.sight.record.into_iter().flat_map(|record| &record.checks);
        let recorded = recorded.filter(|known| known.digest == good.digest && known.revision == revision);
        if let Some(known) = recorded.into_iter().find(|known| known.state != CheckState::Running) {
            return known.clone();
        }
        let newest = self.sights(good, revision).max_by_key(|sight| sight.attempt);
        match newest.map(|sight| &sight.outcome) {
            Some(CheckOutcome::Failed(failure)) => record(CheckState::Failed, &failure.message),
            _ => record(CheckState::Running, ""),
        }
    }

    /// Whether this attempt at a check is under way, or has ended.
    fn runs(&self, good: &Good, place: usize, attempt: i32) -> bool {
        let Some(revision) = self.blueprint.check_revisions.get(place) else { return true };
        self.sights(good, revision).any(|sight| match sight.outcome {
            CheckOutcome::Running => true,
            CheckOutcome::Stopped => false,
            CheckOutcome::Passed(_) | CheckOutcome::Failed(_) => sight.attempt >= attempt,
        })
    }

    /// Whether an earlier attempt at a check has been given up and still goes on: the next one waits until it is gone.
    fn is_ending(&self, good: &Good, place: usize) -> bool {
        let Some(revision) = self.blueprint.check_revisions.get(place) else { return false };
        let given_up = |sight: &CheckSight| matches!(sight.outcome, CheckOutcome::Failed(_) | CheckOutcome::Stopped);
        self.sights(good, revision).any(|sight| sight.live && given_up(sight))
    }

    /// The failures with those of required checks that are not counted yet: one for each attempt.
    fn check_failures(&self, good: &Good, known: Option<FailureRecord>) -> Option<FailureRecord> {
        let known = known.or_else(|| {
            let recorded = self.failure_record().filter(|known| known.fingerprint == good.fingerprint);
            self.ruled(recorded.cloned(), &good.fingerprint)
        });
        let mut failed: Vec<&CheckSight> = self
            .checks()
            .filter(|(_, check, _)| check.required)
            .flat_map(|(_, _, revision)| self.sights(good, revision))
            .filter(|sight| matches!(sight.outcome, CheckOutcome::Failed(_)))
            .collect();
        failed.sort_by(|a, b| (a.attempt, &a.check).cmp(&(b.attempt, &b.check)));
        let wave = self.frame.seen.wave.map_or("", |wave| wave.name);
        let mut record = known.map(|known| if self.mended(good, &known) { failure::forgiven(known) } else { known });
        if let Some(cancelled) = record.take_if(|record| failure::is_cancelled(record)) {
            // None of those that were started is the next one, however they end.
            let made = self.sight.checks.iter().filter(|sight| sight.digest == good.digest);
            let next = made.map(|sight| sight.attempt.saturating_add(1)).max().unwrap_or(0);
            return Some(FailureRecord { check_attempt: cancelled.check_attempt.max(next), ..cancelled });
        }
        for sight in failed {
            let CheckOutcome::Failed(outcome) = &sight.outcome else { continue };
            let counted = record.as_ref().map_or(0, |record| record.check_attempt);
            if sight.attempt < counted {
                continue;
            }
            let mut outcome = outcome.clone();
            if outcome.class == FailureClass::Build {
                outcome.reason = reason::CHECK_FAILED.into();
            }
            outcome.message = format!("check {}: {}", sight.check, outcome.message);
            let attempt = record.as_ref().map_or(0, |record| record.attempt);
            let cause = super::causes::key(&self.image.name, &good.causes);
            let failed = failure::Failed { attempt, cascade: wave, cause: &cause };
            let added = failure::add(record, &good.fingerprint, &failed, outcome, self.frame.now);
            record = Some(FailureRecord { check_attempt: sight.attempt.saturating_add(1), ..added });
        }
        record
    }

    /// Whether a check that failed on this digest, or was cancelled, is another one by now, or gone: that says nothing of what is
    /// checked now.
    fn mended(&self, good: &Good, known: &FailureRecord) -> bool {
        let recorded = self.sight.record.into_iter().flat_map(|record| &record.checks);
        let cancelled = failure::is_cancelled(known);
        let mut failed = recorded
            .filter(|old| old.digest == good.digest)
            .filter(|old| old.state == CheckState::Failed || cancelled && old.state == CheckState::Running);
        known.check_attempt > 0 && failed.any(|old| self.checks().all(|(_, _, revision)| revision != old.revision))
    }
}
