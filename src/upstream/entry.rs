//! What is known of a key that is polled, and when its next poll is due. Pure.

use std::{
    collections::HashSet,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::Duration,
};

use indexmap::IndexMap;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    api::condition::ReasonTrait,
    upstream::{
        pause::{longest_pause, next_pause, wanted_pause},
        polled::{PollFailure, PolledValue, allowed_break},
        queue::{PollClass, PollPlace},
    },
};

/// The least upper bound on the pause after polls that may have taken long.
const MIN_SILENT_BACKOFF: Duration = Duration::from_mins(5);
/// By how much a poll must be later than its interval asks for to be late.
const MIN_LATENESS: Duration = Duration::from_mins(1);
/// The interval of a key that nobody is interested in.
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);

/// A key that an owner is interested in, and how often it is polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest<K> {
    /// The key to poll.
    pub key: K,
    /// The interval between polls. The shortest interval of all owners applies.
    pub interval: Duration,
    /// Why it is polled.
    pub purpose: PollPurpose,
}

/// Why a key is polled. If it is for several reasons, the first of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PollPurpose {
    /// To follow what it says.
    Follow,
    /// To confirm what is known. It waits for what others follow.
    Audit,
}

/// How an owner is interested in a key.
#[derive(Clone, Copy)]
pub(super) struct OwnerInterest {
    pub(super) interval: Duration,
    pub(super) purpose: PollPurpose,
}

impl OwnerInterest {
    /// Returns the interest that includes both.
    pub(super) fn and(self, other: Self) -> Self {
        let interval = self.interval.min(other.interval);
        Self { interval, purpose: self.purpose.min(other.purpose) }
    }
}

/// What is known of a key, and who is interested in it.
pub(super) struct PollEntry<V, O> {
    pub(super) number: u64,
    /// Interested owners.
    pub(super) owners: IndexMap<O, OwnerInterest>,
    pub(super) polled: Option<Arc<PolledValue<V>>>,
    /// The value of an earlier process, until a poll succeeds.
    pub(super) seed: Option<V>,
    /// Whether the next poll that succeeds must not rely on an earlier value.
    pub(super) is_outdated: bool,
    /// Whether a hint came while a poll was running.
    pub(super) is_hinted: bool,
    pub(super) failures: u32,
    /// Number of completed polls.
    pub(super) polls: u64,
    /// When the next poll is due; `None` while a poll waits to start or runs.
    pub(super) due_at: Option<Instant>,
    /// Where a poll waits to start, and since when.
    pub(super) queued: Option<QueuedPoll>,
    /// When the last poll started.
    pub(super) last_poll: Option<Instant>,
    /// For how long polls have waited for their turn since the last that has succeeded.
    pub(super) waited: Duration,
    /// When the next poll is expected, or the last one was, if that is late.
    pub(super) late_until: Option<Timestamp>,
}

/// Where a poll waits to start.
pub(super) struct QueuedPoll {
    pub(super) place: PollPlace,
    pub(super) since: Instant,
}

impl<V, O> PollEntry<V, O> {
    pub(super) fn interval(&self) -> Duration {
        self.owners.values().map(|owner| owner.interval).min().unwrap_or(LONGEST_INTERVAL)
    }

    /// Returns by how much a pause after a failure is longer than the interval.
    pub(super) fn lateness_of(&self, pause: Duration) -> Duration {
        pause.saturating_sub(longest_pause(self.interval()))
    }

    /// Notes when the next poll is expected, and how much later that is than the interval asks for.
    /// Returns whether it is late and the last one was not.
    pub(super) fn note_expected(&mut self, expected_at: Timestamp, lateness: Duration) -> bool {
        let was_late = self.late_until.is_some();
        self.late_until = (lateness > MIN_LATENESS).then_some(expected_at);
        self.late_until.is_some() && !was_late
    }

    /// Returns what waits for the next poll.
    pub(super) fn class(&self) -> PollClass {
        match self.owners.values().map(|owner| owner.purpose).min() {
            Some(PollPurpose::Follow) if self.polls == 0 || self.is_outdated => PollClass::First,
            Some(PollPurpose::Follow) => PollClass::Follow,
            Some(PollPurpose::Audit) | None => PollClass::Audit,
        }
    }
}

impl<V, O> PollEntry<V, O> {
    /// Returns the namespaces of the owners.
    pub(super) fn namespaces(&self, namespace_of: fn(&O) -> String) -> HashSet<String> {
        self.owners.keys().map(namespace_of).collect()
    }
}

impl<V: Clone, O> PollEntry<V, O> {
    /// Returns the last value, for the next poll. If no poll has succeeded, it is the one of an
    /// earlier process.
    pub(super) fn last(&self, now: Timestamp) -> Option<Arc<PolledValue<V>>> {
        if self.is_outdated {
            return None;
        }
        let polled = self.polled.clone().filter(|polled| polled.value.is_some());
        polled.or_else(|| {
            let value = Some(self.seed.clone()?);
            let polled = PolledValue {
                value,
                first_observed: now,
                problem: None,
                polled_at: now,
                confirmed_at: now,
                resumed_at: None,
            };
            Some(Arc::new(polled))
        })
    }
}

/// What a poll relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollBasis {
    /// The last value, which it may confirm.
    LastValue,
    /// Nothing: there is no value, or it is outdated.
    Nothing,
}

/// What has to be done after a poll is recorded.
pub(super) struct Recorded {
    /// Whether the value or the problem has changed.
    pub(super) changed: bool,
    /// When the next poll is due, from now.
    pub(super) pause: Duration,
}

impl<V: Clone + PartialEq, O> PollEntry<V, O> {
    /// Records the result of a poll that started at `polled_at`.
    pub(super) fn record(
        &mut self,
        result: Result<V, PollFailure>,
        polled_at: Timestamp,
        basis: PollBasis,
    ) -> Recorded {
        self.polls = self.polls.wrapping_add(1);
        let before = self.polled.take();
        let before = before.as_deref();
        let (polled, pause) = match result {
            Ok(value) => {
                self.failures = 0;
                self.seed = None;
                self.is_outdated &= basis == PollBasis::LastValue;
                let allowed = allowed_break(self.interval(), std::mem::take(&mut self.waited));
                let polled = PolledValue::found(before, value, polled_at, allowed);
                (polled, self.pause_after_success())
            }
            Err(failure) => {
                self.failures = self.failures.saturating_add(1);
                let pause = self.pause_after(&failure);
                (PolledValue::failed(before, failure.problem, polled_at), pause)
            }
        };
        let changed = before
            .is_none_or(|before| before.value != polled.value || before.problem != polled.problem);
        self.polled = Some(Arc::new(polled));
        Recorded { changed, pause }
    }

    fn pause_after_success(&self) -> Duration {
        if self.is_outdated {
            return Duration::ZERO;
        }
        next_pause(self.interval(), 0, Duration::ZERO, self.jitter())
    }

    fn pause_after(&self, failure: &PollFailure) -> Duration {
        let is_rare = failure.problem.reason.has(ReasonTrait::PolledRarely);
        let longest = if is_rare { MIN_SILENT_BACKOFF } else { Duration::ZERO };
        let pause = next_pause(self.interval(), self.failures, longest, self.jitter());
        let wanted = failure.retry_after.map(|wanted| wanted_pause(wanted, self.jitter()));
        wanted.map_or(pause, |wanted| pause.min(wanted))
    }

    fn jitter(&self) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one((self.number, self.polls))
    }
}
