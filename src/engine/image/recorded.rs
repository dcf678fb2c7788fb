//! What an image keeps in every state, and which of its recorded failures still count.

use jiff::Timestamp;

use crate::{
    api::{
        CascadeStatus, FailureRecord, ImageState, Promotion, RollbackRecord, RunningBuild,
        condition::Reason,
    },
    engine::{
        Problem,
        decision::{ImageDecision, PromotionTarget},
        image::{
            environment,
            evaluation::{EvalContext, ImageEval, Plan},
            failure::{self, RetryDecision},
        },
        input::{BuildOutcome, ObservedBuild},
        requests::ImageOverrides,
    },
    identity::Fingerprint,
};

impl ImageEval<'_> {
    /// Adds what the image keeps whatever its state is.
    pub(in crate::engine) fn keep_recorded(&self, mut decision: ImageDecision) -> ImageDecision {
        self.keep_verified(&mut decision);
        if decision.running.is_none() {
            decision.running = self.running().map(|build| running_build(build).into());
        }
        self.keep_failures(&mut decision);
        decision.promotion = self.promotion_target(&decision);
        if decision.checks.is_empty() && !self.image.checks.is_empty() {
            decision.checks =
                self.observed.record.map(|record| record.checks.clone()).unwrap_or_default();
        }
        decision.hold = self.manual_hold().cloned().map(Box::new);
        decision.rollback = self.rollback().cloned().map(Box::new);
        // The registry may be the only one to remember a request.
        let remembered = decision.verified.as_ref().map(|verified| verified.inputs.nonce.as_str());
        let nonce = self.nonce().or(remembered.filter(|nonce| !nonce.is_empty()));
        decision.nonce = nonce.map(str::to_owned);
        decision.in_progress |= decision.running.is_some();
        decision
    }

    /// Keeps the verified build, with the checks that it has passed since.
    fn keep_verified(&self, decision: &mut ImageDecision) {
        if decision.verified.is_none() {
            decision.verified.clone_from(&self.observed.verified);
            let passed = decision
                .verified
                .as_deref()
                .and_then(|verified| self.passed_checks(verified, decision.failure.as_deref()));
            if let Some(passed) = passed {
                decision.verified = Some(passed.verified);
                if decision.checks.is_empty() {
                    decision.checks = passed.checks;
                }
            }
        }
        let checks = &self.blueprint.checks;
        decision.is_checked = decision
            .verified
            .as_ref()
            .is_some_and(|verified| checks.is_none() || verified.checked == *checks);
    }

    /// Keeps the failures while the wanted fingerprint is unknown, and with it whether they are
    /// failures at that fingerprint.
    fn keep_failures(&self, decision: &mut ImageDecision) {
        let is_unknown =
            matches!(decision.state, ImageState::Waiting | ImageState::Blocked | ImageState::Held);
        if is_unknown && decision.fingerprint.is_none() && decision.failure.is_none() {
            decision.failure = self
                .failure_record()
                .cloned()
                .and_then(|record| self.reset_failures(record))
                .map(Box::new);
        }
    }

    /// Returns what floating tags should point to.
    fn promotion_target(&self, decision: &ImageDecision) -> PromotionTarget {
        let verified = decision.verified.as_ref();
        if let Some(RollbackRecord { digest, .. }) = self.rollback() {
            return if verified.is_some_and(|verified| verified.digest == *digest) {
                PromotionTarget::Verified
            } else {
                PromotionTarget::Earlier(digest.into())
            };
        }
        // Its tags point to the digest already.
        if verified.is_some_and(|verified| verified.adopted.is_some()) {
            return PromotionTarget::Verified;
        }
        let policy = self.context.input.spec.policy.promotion;
        if let (Promotion::Image, ImageState::Current, Some(_)) = (policy, decision.state, verified)
        {
            return PromotionTarget::Verified;
        }
        match self.observed.record.and_then(|record| record.promoted.as_ref()) {
            Some(digest) if verified.is_some_and(|verified| verified.digest == *digest) => {
                PromotionTarget::Verified
            }
            Some(digest) => PromotionTarget::Earlier(digest.into()),
            None => PromotionTarget::None,
        }
    }

    /// Returns the running build.
    pub(in crate::engine) fn running(&self) -> Option<&ObservedBuild> {
        self.observed.builds.iter().find(|build| build.outcome == BuildOutcome::Running)
    }

    /// Returns the recorded failures.
    pub(in crate::engine) fn failure_record(&self) -> Option<&FailureRecord> {
        self.observed.record.and_then(|record| record.failure.as_ref())
    }

    /// Returns what requests change for the image.
    pub(in crate::engine) fn overrides(&self) -> Option<&ImageOverrides> {
        self.context.request_effects.of(self.index)
    }

    /// Returns the nonce of the request or refresh that rebuilds the image from the same inputs.
    pub(in crate::engine) fn nonce(&self) -> Option<&str> {
        let requested = self.overrides().and_then(|overrides| overrides.nonce.as_deref());
        requested
            .or(self.due_refresh.as_deref())
            .or_else(|| self.observed.record.and_then(|record| record.nonce.as_deref()))
    }

    /// Whether a request cancels the image.
    pub(in crate::engine) fn cancel_is_requested(&self) -> bool {
        self.overrides().is_some_and(|overrides| overrides.cancel)
    }

    /// Returns the failure record of an image that a user has taken out of its cascade
    /// before its wanted fingerprint is known.
    pub(in crate::engine) fn cancellation_while_waiting(&self) -> Option<Box<FailureRecord>> {
        let cascade = self.cascade().filter(|_| self.is_cancelled_in_cascade())?;
        let record = failure::record_cancellation_while_waiting(
            self.failure_record(),
            cascade.name,
            self.context.now,
        );
        Some(record.into())
    }

    /// Whether a user takes the image out of its cascade, or has done so while it waited.
    fn is_cancelled_in_cascade(&self) -> bool {
        let Some(cascade) = self.cascade() else { return false };
        let is_recorded = self
            .failure_record()
            .is_some_and(|record| failure::is_cancelled_in(record, cascade.name));
        let is_lifted =
            |overrides: &ImageOverrides| overrides.retry.is_some() || overrides.nonce.is_some();
        self.cancel_is_requested() || is_recorded && !self.overrides().is_some_and(is_lifted)
    }

    /// Returns the failures at a fingerprint, after requests and the cascade are applied. A request
    /// to cancel does not change failures that are not retried any more: there is nothing to stop.
    pub(in crate::engine) fn effective_failure(
        &self,
        counted: Option<FailureRecord>,
        fingerprint: &Fingerprint,
    ) -> Option<FailureRecord> {
        let record = counted.and_then(|record| self.reset_failures(record));
        let retries = &self.context.input.spec.policy.retries;
        if !(self.cancel_is_requested() || self.is_cancelled_in_cascade())
            || failure::retry_decision(record.as_ref(), retries, self.context.now)
                == RetryDecision::GiveUp
        {
            return record;
        }
        let builds = self.observed.builds.iter().map(|build| &build.identity);
        let last_attempt = builds
            .filter(|build| build.fingerprint == *fingerprint)
            .map(|build| build.attempt)
            .max();
        let cascade = self.cascade().map(|cascade| cascade.name);
        let now = self.context.now;
        Some(failure::record_cancellation(record, Some(fingerprint), cascade, last_attempt, now))
    }

    /// Returns what records that a user retries an image that has not failed itself: it does not
    /// wait for the outage that makes others fail.
    pub(in crate::engine) fn retry_without_failure(
        &self,
        fingerprint: &Fingerprint,
    ) -> Option<FailureRecord> {
        let request = self.overrides()?.retry.clone()?;
        let fingerprint = Some(fingerprint.to_string());
        Some(FailureRecord { fingerprint, retried: Some(request), ..FailureRecord::default() })
    }

    /// Returns whether and when the image is tried again. An image that failed of an outage does
    /// not wait for long once the outage is over.
    pub(in crate::engine) fn retry_decision(
        &self,
        record: Option<&FailureRecord>,
    ) -> RetryDecision {
        let EvalContext { input, recoveries, now, .. } = *self.context;
        let decision = failure::retry_decision(record, &input.spec.policy.retries, now);
        match (decision, record) {
            (RetryDecision::RetryAt(at), Some(record))
                if environment::is_over(record, recoveries, input, self.index) =>
            {
                RetryDecision::RetryAt(at.min(failure::retry_after_recovery(record, now)))
            }
            (decision, _) => decision,
        }
    }

    /// Returns why the image waits until the next attempt, which is planned.
    pub(in crate::engine) fn pause(
        &self,
        plan: &mut Plan,
        record: Option<&FailureRecord>,
        until: Timestamp,
    ) -> Problem {
        plan.wake(until);
        let why = record.map_or_else(String::new, |record| failure::summary(&record.last));
        let retries = &self.context.input.spec.policy.retries;
        match record.filter(|record| failure::is_outage(record, retries)) {
            Some(record) => {
                plan.in_outage.push(self.index);
                let count = record.infrastructure;
                let message = format!("tried again at {until:.0} after {count} failures: {why}");
                Problem { reason: failure::infrastructure_reason(record), message }
            }
            None => Problem {
                reason: Reason::Retrying,
                message: format!("retried at {until:.0} after: {why}"),
            },
        }
    }

    /// Returns the failures that still count after requests to retry, changes of what the Job is
    /// made of, and the image's cascade.
    fn reset_failures(&self, record: FailureRecord) -> Option<FailureRecord> {
        let running = self.cascade();
        let cascade = running.map(|cascade| cascade.name);
        let retry = self.overrides().and_then(|overrides| overrides.retry.as_deref());
        // The image was taken out of a cascade that has ended since, or a user retries or forces
        // it.
        let is_forced = self.overrides().is_some_and(|overrides| overrides.nonce.is_some());
        if record.fingerprint.is_none()
            && (retry.is_some()
                || is_forced
                || cascade.is_none_or(|cascade| *cascade != record.cascade))
        {
            return None;
        }
        let record = match retry {
            Some(request) => failure::reset_by_retry(record, request),
            None => failure::reset_by_version(record, self.observed),
        };
        // A cascade that has a result has tried the image: a later one has failed since.
        let untried = running.filter(|cascade| !has_result(cascade.status, &self.image.name));
        let untried = untried.map(|cascade| cascade.name);
        let EvalContext { input, now, .. } = *self.context;
        Some(failure::reset_by_cascade(record, untried, &input.spec.policy.retries, now))
    }
}

/// Whether the record of a running cascade has a result of an image.
fn has_result(cascade: &CascadeStatus, image: &str) -> bool {
    cascade.images.iter().any(|result| {
        result.name == image && matches!(result.state, ImageState::Current | ImageState::Failed)
    })
}

/// Returns the record of a running build.
pub(in crate::engine) fn running_build(build: &ObservedBuild) -> RunningBuild {
    RunningBuild {
        job: build.job.to_string(),
        fingerprint: build.identity.fingerprint.to_string(),
        build: build.identity.number,
        attempt: build.identity.attempt,
        started_at: build.started_at,
    }
}
