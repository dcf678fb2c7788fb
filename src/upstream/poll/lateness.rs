//! When the next poll of a key is expected, while that is later than its interval asks for.

use std::{hash::Hash, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Poller, PollerState};

impl<K: Eq + Hash, V, O> Poller<K, V, O> {
    /// Returns when the next poll of a key is expected, if that is more than a minute later than
    /// its interval asks for: because others come first at the rate of its host, or because polls
    /// have failed. The time stays the same until then.
    #[must_use]
    pub fn late_until(&self, key: &K) -> Option<Timestamp> {
        let (wall, now) = (self.0.clock.now(), Instant::now());
        let mut state = self.0.lock();
        let PollerState { entries, queue, .. } = &mut *state;
        let entry = entries.get_mut(key)?;
        if entry.late_until.is_some_and(|at| at <= wall)
            && let Some(queued) = &entry.queued
        {
            // Others were added meanwhile.
            let poll = (queued.since, entry.number);
            let start = queue.expected_start(&queued.place, poll, now);
            entry.late_until = Some(whole_second(wall, start.duration_since(now)));
        }
        entry.late_until.filter(|at| *at > wall)
    }
}

impl<K: Clone + Eq + Hash, V, O: Clone + Eq + Hash> PollerState<K, V, O> {
    /// Notes when a poll is expected that has just been queued.
    pub(super) fn note_wait(&mut self, number: u64, wall: Timestamp, now: Instant) {
        let key = self.numbers.get(&number);
        let Some(entry) = key.and_then(|key| self.entries.get_mut(key)) else { return };
        let start = match &entry.queued {
            Some(queued) => self.queue.expected_start(&queued.place, (queued.since, number), now),
            None => now,
        };
        let wait = start.duration_since(now);
        if entry.note_expected(whole_second(wall, wait), wait) {
            self.changed.extend(entry.owners.keys().cloned());
        }
    }
}

/// Returns the time after a pause, to the second: it is recorded, and must not change by itself.
pub(super) fn whole_second(now: Timestamp, pause: Duration) -> Timestamp {
    let at = now.checked_add(pause).unwrap_or(Timestamp::MAX);
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
