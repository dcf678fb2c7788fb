//! The latest result of polling a key. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{api::condition::Problem, registry::RegistryError};

/// How many intervals may pass between two successful polls without a break.
const MAX_MISSED_INTERVALS: u32 = 3;
/// What may come on top, for the time that polls take.
const BREAK_GRACE: Duration = Duration::from_mins(1);

/// The latest result of polling a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolledValue<V> {
    /// The value of the last successful poll, if there was one.
    pub value: Option<V>,
    /// When this process first received this value.
    pub first_observed: Timestamp,
    /// The problem of the last poll, if it failed.
    pub problem: Option<Problem>,
    /// When the last poll started.
    pub polled_at: Timestamp,
    /// When the last successful poll started; without one, when the first poll did.
    pub confirmed_at: Timestamp,
    /// When polls have found this value again after the last time for which nothing is known, if
    /// there was one since `first_observed`.
    pub resumed_at: Option<Timestamp>,
}

/// Why a poll has failed, and when it may succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollFailure {
    /// The problem.
    pub problem: Problem,
    /// The pause that was asked for, if one was.
    pub retry_after: Option<Duration>,
}

impl From<Problem> for PollFailure {
    fn from(problem: Problem) -> Self {
        Self { problem, retry_after: None }
    }
}

impl From<RegistryError> for PollFailure {
    fn from(error: RegistryError) -> Self {
        Self { retry_after: error.retry_after(), problem: error.into() }
    }
}

impl<V: Clone + PartialEq> PolledValue<V> {
    /// Returns the result of a poll that has found a value. `allowed` is for how long nothing may
    /// be known before it without a break.
    pub(super) fn found(
        before: Option<&Self>,
        value: V,
        polled_at: Timestamp,
        allowed: Duration,
    ) -> Self {
        let same = before.filter(|before| before.value.as_ref() == Some(&value));
        Self {
            value: Some(value),
            first_observed: same.map_or(polled_at, |before| before.first_observed),
            problem: None,
            polled_at,
            confirmed_at: polled_at,
            resumed_at: same.and_then(|same| resumed_at(same, polled_at, allowed)),
        }
    }

    /// Returns the result of a poll that has failed: what was known before, and the problem.
    pub(super) fn failed(before: Option<&Self>, problem: Problem, polled_at: Timestamp) -> Self {
        Self {
            value: before.and_then(|before| before.value.clone()),
            first_observed: before.map_or(polled_at, |before| before.first_observed),
            problem: Some(problem),
            polled_at,
            confirmed_at: before.map_or(polled_at, |before| before.confirmed_at),
            resumed_at: before.and_then(|before| before.resumed_at),
        }
    }
}

/// Returns how long nothing may be known between two successful polls without a break. A registry
/// may fail once or twice, and polls may wait for their turn, which says nothing about the key.
pub(super) fn allowed_break(interval: Duration, waited: Duration) -> Duration {
    let missed = interval.saturating_mul(MAX_MISSED_INTERVALS);
    missed.saturating_add(BREAK_GRACE).saturating_add(waited)
}

/// Returns when polls have found a value again after a break, if there was one.
fn resumed_at<V>(
    before: &PolledValue<V>,
    polled_at: Timestamp,
    allowed: Duration,
) -> Option<Timestamp> {
    let is_break = SignedDuration::try_from(allowed)
        .is_ok_and(|allowed| polled_at.duration_since(before.confirmed_at) > allowed);
    if is_break { Some(polled_at) } else { before.resumed_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_between_two_successful_polls_is_noted() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let polled = |confirmed_at, resumed_at| PolledValue {
            value: Some(1),
            first_observed: at(0),
            problem: None,
            polled_at: at(confirmed_at),
            confirmed_at: at(confirmed_at),
            resumed_at,
        };
        let interval = Duration::from_mins(5);
        for (last, earlier, now, expected) in [
            (1000, None, 1300, None),
            (1000, None, 1960, None),
            (1000, None, 1961, Some(at(1961))),
            (1000, Some(at(500)), 1300, Some(at(500))),
            (1000, Some(at(500)), 90_000, Some(at(90_000))),
        ] {
            let allowed = allowed_break(interval, Duration::ZERO);
            let resumed = resumed_at(&polled(last, earlier), at(now), allowed);
            assert_eq!(resumed, expected, "{last} {now}");
        }
        let waited = allowed_break(interval, Duration::from_hours(1));
        assert_eq!(
            resumed_at(&polled(1000, None), at(5560), waited),
            None,
            "it waited for its turn"
        );
        assert_eq!(resumed_at(&polled(1000, None), at(5561), waited), Some(at(5561)));
    }
}
