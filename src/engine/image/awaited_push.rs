//! A build that has succeeded, and whose push its registry does not show: a registry may show it
//! late, so that it is looked for again for a while. Then the build counts as failed.
//!
//! What is waited for follows from the end of the build and the time of the last lookup alone, so
//! that neither a crash nor a lost answer changes when the wait ends.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{FailureRecord, ImageState, condition::Reason},
    engine::{
        causes,
        decision::ImageDecision,
        image::{
            attempts::{AttemptKind, FailedAttempt},
            evaluation::{ImageEval, Plan},
            failure::{self, RetryDecision},
            inputs::ResolvedInputs,
        },
        input::ObservedBuild,
        tags,
    },
    identity::Fingerprint,
};

/// How long after the end of a build its registry may take to show what it has pushed.
const MAX_PUSH_DELAY: SignedDuration = SignedDuration::from_mins(1);
/// Shortest pause between two lookups of a push.
const MIN_LOOKUP_PAUSE: SignedDuration = SignedDuration::from_secs(2);
/// Longest pause between two lookups of a push.
const MAX_LOOKUP_PAUSE: SignedDuration = SignedDuration::from_secs(15);

/// The registry's answer that it does not have a fingerprint. It was asked after every success of a
/// build of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct AbsentAnswer {
    /// The highest build number that the registry has for the image.
    pub(in crate::engine) last_build: Option<i64>,
    /// When the registry was asked.
    pub(in crate::engine) asked_at: Timestamp,
}

/// Returns when the registry is asked again for the push of a build that ended at `ended_at`;
/// `None` if it was asked late enough to know that the push is missing. The pauses double.
fn next_lookup(ended_at: Timestamp, asked_at: Timestamp) -> Option<Timestamp> {
    let since_end = asked_at.duration_since(ended_at);
    // The clock of the node may be ahead of ours, but not by so much that it says nothing.
    if since_end.abs() >= MAX_PUSH_DELAY {
        return None;
    }
    let last = ended_at.saturating_add(MAX_PUSH_DELAY).ok()?;
    let next = asked_at.saturating_add(since_end.clamp(MIN_LOOKUP_PAUSE, MAX_LOOKUP_PAUSE)).ok()?;
    Some(next.min(last))
}

impl ImageEval<'_> {
    /// Returns the decision for an image whose wanted fingerprint the registry does not have.
    /// `succeeded` is the highest attempt at it that has succeeded.
    pub(in crate::engine) fn decide_not_pushed(
        &self,
        plan: &mut Plan,
        stale: ImageDecision,
        resolved: ResolvedInputs,
        succeeded: Option<i32>,
        answer: AbsentAnswer,
    ) -> ImageDecision {
        let Some(wanted) = stale.fingerprint.clone() else { return stale };
        let Some(build) = succeeded.and_then(|attempt| self.attempt(&wanted, attempt)) else {
            return self.decide_absent(plan, stale, &wanted, answer.last_build, resolved.parents);
        };
        match awaited_lookup(build, &stale, answer) {
            Some(at) if at > self.context.now => {
                plan.wake(at);
                return decide_awaited(build, stale);
            }
            Some(_) => return self.decide_lookup(plan, &resolved, succeeded, stale),
            None => {}
        }
        let failure = self.count_missing_push(build, &stale);
        let stale = ImageDecision { failure: Some(failure.into()), ..stale };
        if self.is_retry_due_since(answer.asked_at, &stale) {
            return self.decide_lookup(plan, &resolved, succeeded, stale);
        }
        self.decide_absent(plan, stale, &wanted, answer.last_build, resolved.parents)
    }

    /// Returns an attempt at a fingerprint.
    fn attempt(&self, fingerprint: &Fingerprint, attempt: i32) -> Option<&ObservedBuild> {
        let mut builds = self.observed.builds.iter();
        builds.find(|build| {
            build.identity.fingerprint == *fingerprint && build.identity.attempt == attempt
        })
    }

    /// Whether another attempt is due, and was not yet when the registry was asked: it may have
    /// shown the push of the last one since.
    fn is_retry_due_since(&self, asked_at: Timestamp, stale: &ImageDecision) -> bool {
        match self.retry_decision(stale.failure.as_deref()) {
            RetryDecision::RetryAt(at) => asked_at < at && at <= self.context.now,
            RetryDecision::NoFailure | RetryDecision::GiveUp => false,
        }
    }

    /// Returns the failures at the wanted fingerprint, with a build that succeeded although the
    /// registry does not have what it claims to have pushed.
    fn count_missing_push(&self, build: &ObservedBuild, stale: &ImageDecision) -> FailureRecord {
        let failed = FailedAttempt {
            kind: AttemptKind::Build,
            fingerprint: &build.identity.fingerprint,
            attempt: build.identity.attempt,
            cascade: build.identity.cascade.as_str(),
            cause: &causes::key(&self.image.name, &stale.causes),
            failure: failure::missing_push(),
            versions: self.observed.versions(),
        };
        failed.count(stale.failure.as_deref().cloned(), self.context.now)
    }
}

/// Returns when the registry is asked again for what a build has pushed; `None` if the build counts
/// as failed, or its end is unknown.
fn awaited_lookup(
    build: &ObservedBuild,
    stale: &ImageDecision,
    answer: AbsentAnswer,
) -> Option<Timestamp> {
    let counted = stale.failure.as_deref().and_then(|record| record.attempt);
    if counted >= Some(build.identity.attempt) {
        return None;
    }
    next_lookup(build.ended_at?, answer.asked_at)
}

/// Returns the decision for an image whose build has pushed, as far as the registry does not show
/// the opposite yet. It names no time, because it is the same for every lookup.
fn decide_awaited(build: &ObservedBuild, stale: ImageDecision) -> ImageDecision {
    let message = format!(
        "build {} has succeeded, and its registry does not show the pushed tag {} yet; it is asked \
         again for {} s after the end of the build, which then counts as failed",
        build.identity.number,
        tags::pushed_as(&build.identity.fingerprint),
        MAX_PUSH_DELAY.as_secs()
    );
    ImageDecision {
        state: ImageState::Checking,
        reason: Reason::Verifying,
        message: message.into(),
        in_progress: true,
        ..stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// The lookups of a push that never shows, in seconds after the end of the build.
    fn lookups(first: i64) -> Vec<i64> {
        let next = |asked: &i64| next_lookup(second(1000), second(1000 + asked));
        std::iter::successors(Some(first), |asked| Some(next(asked)?.as_second() - 1000)).collect()
    }

    #[test]
    fn a_push_is_looked_for_with_growing_pauses_for_a_minute() {
        assert_eq!(lookups(0), [0, 2, 4, 8, 16, 31, 46, 60]);
        assert_eq!(lookups(1), [1, 3, 6, 12, 24, 39, 54, 60]);
        assert_eq!(lookups(59), [59, 60]);
    }

    #[test]
    fn a_wait_that_was_lost_is_not_begun_again() {
        assert_eq!(lookups(60), [60]);
        assert_eq!(lookups(3600), [3600]);
    }

    #[test]
    fn a_clock_that_is_ahead_or_behind_bounds_the_wait() {
        assert_eq!(lookups(-60), [-60], "the time says nothing");
        let ahead = lookups(-30);
        assert_eq!((ahead.len(), ahead.last()), (23, Some(&60)));
    }
}
