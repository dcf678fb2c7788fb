//! Checks: what a new digest must pass before its tags move and its children are built.
//!
//! All checks of a digest that have not finished may start at once, through the same gates as
//! builds. A required check that fails is retried like a failed build, on the same retry budgets,
//! but without a new build: the digest to check is in the registry.

use std::sync::Arc;

use crate::{
    api::{
        Check, CheckRecord, CheckState, FailureClass, FailureRecord, ImageState,
        condition::{Reason, shorten},
        image_records::MAX_CHECK_MESSAGE,
    },
    engine::{
        Problem, causes,
        decision::{Effect, ImageDecision},
        image::{
            attempts::{AttemptKind, FailedAttempt},
            evaluation::{ImageEval, Plan, ReadyCheck},
            failure::{self, RetryDecision},
        },
        input::{CheckOutcome, DeferredJob, DeferredWork, ObservedCheck, VerifiedBuild},
    },
    lineage::CheckIndex,
};

/// A build that has passed its checks.
pub(in crate::engine) struct PassedChecks {
    /// The build, with its checks as passed.
    pub verified: Arc<VerifiedBuild>,
    /// The results of the checks.
    pub checks: Vec<CheckRecord>,
}

/// The results of the checks of a digest.
struct CheckProgress {
    /// The result of each check, in the order of the spec.
    records: Vec<CheckRecord>,
    /// The checks that are to run, or to run again.
    unfinished: Vec<CheckIndex>,
}

impl ImageEval<'_> {
    /// Returns the decision for an image whose newest digest is in the registry and has not passed
    /// its checks. `stale` is what is known about the build of the digest; it is blank if only the
    /// checks have changed.
    pub(in crate::engine) fn decide_unchecked(
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
            plan.effects.extend(running.map(|observed| Effect::Stop { job: observed.job.clone() }));
        }
        let attempt = failure.as_ref().map_or(0, |failure| failure.check_attempt);
        let CheckProgress { records, unfinished } = self.check_progress(&verified);
        // A check that passes although it was cancelled does not make the image current.
        if unfinished.is_empty() && !cancelled {
            return ImageDecision {
                checks: records,
                ..Self::decide_current(self.with_passed_checks(&verified))
            };
        }
        let stale = ImageDecision {
            failure: failure.map(Box::new),
            checks: records,
            state: ImageState::Checking,
            ..stale
        };
        match self.retry_decision(stale.failure.as_deref()) {
            RetryDecision::GiveUp => {
                let reason =
                    stale.failure.as_deref().map_or(Reason::CheckFailed, failure::given_up_reason);
                return Self::decide_failed(stale, reason);
            }
            RetryDecision::RetryAt(at) if at > self.context.now => {
                let Problem { reason, message } = self.pause(plan, stale.failure.as_deref(), at);
                // In this state, that reason says that the registry is asked for the build.
                let reason = match reason {
                    Reason::RegistryUnavailable => Reason::InfrastructureFailed,
                    other => other,
                };
                return ImageDecision {
                    reason,
                    message: message.into(),
                    in_progress: true,
                    ..stale
                };
            }
            RetryDecision::RetryAt(_) | RetryDecision::NoFailure => {}
        }
        self.plan_checks(plan, &verified, &unfinished, attempt);
        if let Some(Problem { reason, message }) = self.deferred_check(&verified, &unfinished) {
            plan.not_admitted.push(self.index);
            return ImageDecision { reason, message: message.into(), in_progress: true, ..stale };
        }
        let names: Vec<String> =
            unfinished.iter().filter_map(|check| self.describe_check(&verified, *check)).collect();
        let plural = if names.len() == 1 { "check" } else { "checks" };
        let message = format!("waits for its {plural} {}", names.join(", "));
        ImageDecision {
            reason: Reason::Checking,
            message: message.into(),
            in_progress: true,
            ..stale
        }
    }

    /// Plans to start those of the unfinished checks of which no attempt runs or is being stopped.
    fn plan_checks(
        &self,
        plan: &mut Plan,
        verified: &VerifiedBuild,
        unfinished: &[CheckIndex],
        attempt: i32,
    ) {
        for &check in unfinished {
            if let Some(deferred) = self.check_deferral(verified, check) {
                plan.wake(deferred.retry_at);
                continue;
            }
            if !self.is_started(verified, check, attempt) && !self.is_stopping(verified, check) {
                plan.ready_checks.push(ReadyCheck {
                    image: self.index,
                    check,
                    digest: verified.digest.clone(),
                    attempt,
                    user_caused: causes::is_user_caused(&verified.causes),
                });
            }
        }
    }

    /// Returns a check that was refused and is not to be created again yet.
    fn check_deferral(&self, verified: &VerifiedBuild, index: CheckIndex) -> Option<&DeferredJob> {
        let revision = self.blueprint.check_revisions.get(index.position())?.clone();
        self.deferred_job(&DeferredWork::Check { digest: verified.digest.clone(), revision })
    }

    /// Returns why the first of the checks that wait to be admitted does so.
    fn deferred_check(
        &self,
        verified: &VerifiedBuild,
        unfinished: &[CheckIndex],
    ) -> Option<Problem> {
        unfinished.iter().find_map(|index| {
            let (check, revision) = self.checks().nth(index.position())?;
            let refused = self.attempts(verified, revision).filter(|observed| observed.live);
            let Problem { reason, message } = self
                .check_deferral(verified, *index)
                .map(|deferred| &deferred.problem)
                .or_else(|| {
                    refused.into_iter().find_map(|observed| match &observed.outcome {
                        CheckOutcome::NotAdmitted(problem) => Some(problem),
                        _ => None,
                    })
                })?;
            Some(Problem { reason: *reason, message: format!("check {}: {message}", check.name) })
        })
    }

    /// Returns why an optional check was not admitted for as long as it may take. It blocks
    /// nothing, so that it is not waited for any longer.
    fn refused_for_too_long(
        &self,
        verified: &VerifiedBuild,
        check: &Check,
        revision: &str,
    ) -> Option<&Problem> {
        let work =
            DeferredWork::Check { digest: verified.digest.clone(), revision: revision.into() };
        let deferred = self.observed.deferred.iter().find(|job| job.work == work)?;
        let until = deferred.since.saturating_add(check.timeout.signed());
        let is_over = until.is_ok_and(|until| until <= self.context.now);
        (!check.required && is_over).then_some(&deferred.problem)
    }

    /// Returns the last digest of an image whose inputs have changed since, if the checks that were
    /// started before have passed: its children may be built on it. No new check is started for it.
    /// `failure` holds the failures of the image so far.
    pub(in crate::engine) fn passed_checks(
        &self,
        verified: &VerifiedBuild,
        failure: Option<&FailureRecord>,
    ) -> Option<PassedChecks> {
        let wanted = &self.blueprint.checks;
        let cancelled = |known: &FailureRecord| {
            failure::is_cancelled(known) && known.is_of(verified.fingerprint.as_str())
        };
        if wanted.is_none()
            || verified.checked == *wanted
            || self.failure_record().into_iter().chain(failure).any(cancelled)
        {
            return None;
        }
        let CheckProgress { records, unfinished } = self.check_progress(verified);
        unfinished
            .is_empty()
            .then(|| PassedChecks { verified: self.with_passed_checks(verified), checks: records })
    }

    /// Returns the build with the current checks as passed.
    fn with_passed_checks(&self, verified: &VerifiedBuild) -> Arc<VerifiedBuild> {
        Arc::new(VerifiedBuild {
            checked: self.blueprint.checks.clone(),
            ..VerifiedBuild::clone(verified)
        })
    }

    /// Returns the results of the checks of this digest.
    fn check_progress(&self, verified: &VerifiedBuild) -> CheckProgress {
        let records: Vec<CheckRecord> = self
            .checks()
            .map(|(check, revision)| self.check_record(verified, check, revision))
            .collect();
        let unfinished = CheckIndex::enumerate(self.checks().zip(&records));
        let unfinished = unfinished.filter(|(_, ((check, _), record))| match record.state {
            CheckState::Running => true,
            CheckState::Failed => check.required,
            CheckState::Passed => false,
        });
        let unfinished = unfinished.map(|(index, _)| index).collect();
        CheckProgress { records, unfinished }
    }

    /// Returns the checks with their revisions.
    fn checks(&self) -> impl Iterator<Item = (&Check, &str)> {
        self.image.checks.iter().zip(self.blueprint.check_revisions.iter().map(String::as_str))
    }

    /// Returns the name of an unfinished check, with what its pod waits for.
    fn describe_check(&self, verified: &VerifiedBuild, index: CheckIndex) -> Option<String> {
        let (check, revision) = self.checks().nth(index.position())?;
        let newest = self.attempts(verified, revision).max_by_key(|observed| observed.attempt);
        let waits_for = newest.and_then(|observed| observed.waits_for.as_ref());
        Some(
            waits_for.map_or_else(|| check.name.clone(), |what| format!("{} ({what})", check.name)),
        )
    }

    /// Returns the observed attempts at a check of this digest.
    fn attempts<'s>(
        &'s self,
        verified: &'s VerifiedBuild,
        revision: &'s str,
    ) -> impl Iterator<Item = &'s ObservedCheck> {
        self.observed.checks.iter().filter(move |observed| {
            observed.digest == verified.digest && observed.revision == revision
        })
    }

    /// Returns the result of a check of this digest: from its Jobs or, if those are gone, from the
    /// recorded status.
    fn check_record(&self, verified: &VerifiedBuild, check: &Check, revision: &str) -> CheckRecord {
        let record = |state, message: &str, attempt: Option<&ObservedCheck>| CheckRecord {
            name: check.name.clone(),
            digest: verified.digest.to_string(),
            revision: revision.into(),
            image: attempt.and_then(|attempt| attempt.image.clone()),
            state,
            message: shorten(message, MAX_CHECK_MESSAGE),
        };
        let passed =
            self.attempts(verified, revision).find_map(|observed| match &observed.outcome {
                CheckOutcome::Passed(output) => {
                    Some(record(CheckState::Passed, output, Some(observed)))
                }
                CheckOutcome::Running
                | CheckOutcome::Failed(_)
                | CheckOutcome::NotAdmitted(_)
                | CheckOutcome::Stopped => None,
            });
        if let Some(passed) = passed {
            return passed;
        }
        let recorded = self.observed.record.into_iter().flat_map(|record| &record.checks);
        let recorded =
            recorded.filter(|known| verified.digest == known.digest && known.revision == revision);
        if let Some(known) = recorded.into_iter().find(|known| known.state != CheckState::Running) {
            return known.clone();
        }
        if let Some(problem) = self.refused_for_too_long(verified, check, revision) {
            return record(CheckState::Failed, &problem.message, None);
        }
        let newest = self.attempts(verified, revision).max_by_key(|observed| observed.attempt);
        match newest.map(|observed| &observed.outcome) {
            Some(CheckOutcome::Failed(failure)) => {
                record(CheckState::Failed, &failure.message, newest)
            }
            _ => record(CheckState::Running, "", newest),
        }
    }

    /// Whether this attempt at a check has started: it runs, or has ended.
    fn is_started(&self, verified: &VerifiedBuild, index: CheckIndex, attempt: i32) -> bool {
        let Some(revision) = self.blueprint.check_revisions.get(index.position()) else {
            return true;
        };
        self.attempts(verified, revision).any(|observed| match observed.outcome {
            CheckOutcome::Running => true,
            CheckOutcome::NotAdmitted(_) | CheckOutcome::Stopped => false,
            CheckOutcome::Passed(_) | CheckOutcome::Failed(_) => observed.attempt >= attempt,
        })
    }

    /// Whether an earlier attempt at a check has failed, was stopped or not admitted, and still
    /// runs. The next attempt waits until it is gone.
    fn is_stopping(&self, verified: &VerifiedBuild, index: CheckIndex) -> bool {
        let Some(revision) = self.blueprint.check_revisions.get(index.position()) else {
            return false;
        };
        let given_up = |observed: &ObservedCheck| {
            !matches!(observed.outcome, CheckOutcome::Running | CheckOutcome::Passed(_))
        };
        self.attempts(verified, revision).any(|observed| observed.live && given_up(observed))
    }

    /// Returns the failures, with those of required checks that are not counted yet. Each attempt
    /// counts once.
    fn check_failures(
        &self,
        verified: &VerifiedBuild,
        known: Option<FailureRecord>,
    ) -> Option<FailureRecord> {
        let known = known.or_else(|| {
            let recorded =
                self.failure_record().filter(|known| known.is_of(verified.fingerprint.as_str()));
            self.effective_failure(recorded.cloned(), &verified.fingerprint)
        });
        let mut failed: Vec<&ObservedCheck> = self
            .checks()
            .filter(|(check, revision)| {
                check.required && !self.has_recorded_pass(verified, revision)
            })
            .flat_map(|(_, revision)| self.attempts(verified, revision))
            .filter(|observed| matches!(observed.outcome, CheckOutcome::Failed(_)))
            .collect();
        failed.sort_by(|a, b| (a.attempt, &a.check).cmp(&(b.attempt, &b.check)));
        let cascade = self.cascade().map_or("", |cascade| cascade.name.as_str());
        let mut record = known.map(|known| {
            if self.has_new_checks(verified, &known) { failure::reset_counts(known) } else { known }
        });
        if let Some(cancelled) = record.take_if(|record| failure::is_cancelled(record)) {
            // The next attempt is later than every attempt that was started, however those end.
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
            let mut outcome = outcome.clone();
            if outcome.class == FailureClass::Build {
                outcome.reason = Reason::CheckFailed.into();
            }
            outcome.message = format!("check {}: {}", observed.check, outcome.message);
            let failed = FailedAttempt {
                kind: AttemptKind::Checks,
                fingerprint: &verified.fingerprint,
                attempt: observed.attempt,
                cascade,
                cause: &causes::key(&self.image.name, &verified.causes),
                failure: outcome,
                versions: self.observed.versions(),
            };
            record = Some(failed.count(record, self.context.now));
        }
        record
    }

    /// Whether a check is recorded as passed on this digest. Its Job may have lost its answer
    /// since, with its pod.
    fn has_recorded_pass(&self, verified: &VerifiedBuild, revision: &str) -> bool {
        self.observed.record.into_iter().flat_map(|record| &record.checks).any(|known| {
            verified.digest == known.digest
                && known.revision == revision
                && known.state == CheckState::Passed
        })
    }

    /// Whether a check that failed on this digest, or was cancelled, has been changed or removed
    /// since. Its failure then says nothing about the current checks.
    fn has_new_checks(&self, verified: &VerifiedBuild, known: &FailureRecord) -> bool {
        let recorded = self.observed.record.into_iter().flat_map(|record| &record.checks);
        let cancelled = failure::is_cancelled(known);
        let mut failed = recorded.filter(|old| verified.digest == old.digest).filter(|old| {
            old.state == CheckState::Failed || cancelled && old.state == CheckState::Running
        });
        known.check_attempt > 0
            && failed.any(|old| self.checks().all(|(_, revision)| revision != old.revision))
    }
}
