//! When a poll that waits is expected to start. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::queue::{DuePoll, PollClass, PollPlace, PollQueue};

/// The longest wait that need not be known.
const NEGLIGIBLE_WAIT: Duration = Duration::from_mins(1);

impl PollQueue {
    /// Returns when a poll that waits starts if nothing else is added, no poll ends early and none
    /// holds its place for long: after those whose turn comes before, at the rate of the host.
    pub(in crate::upstream) fn expected_start(
        &self,
        place: &PollPlace,
        poll: DuePoll,
        now: Instant,
    ) -> Instant {
        let Some(host) = self.hosts.get(&place.host) else { return now };
        let start = host.ready_at().max(now);
        // Nearly always few wait, and counting those before is not worth it.
        if host.time_for(host.waiting()) < NEGLIGIBLE_WAIT {
            return start;
        }
        start.checked_add(host.time_for(host.polls_before(place, poll))).unwrap_or(start)
    }
}

impl super::HostQueue {
    /// Returns how many polls wait.
    fn waiting(&self) -> usize {
        let namespaces = self.lanes.values().flat_map(|lane| lane.namespaces.values());
        namespaces.map(|waiting| waiting.polls.len()).sum()
    }

    /// Returns how long it takes to start this number of polls.
    fn time_for(&self, polls: usize) -> Duration {
        self.pause.saturating_mul(u32::try_from(polls).unwrap_or(u32::MAX))
    }

    /// Returns how many polls start before this one: namespaces take turns, and so do classes,
    /// by what their polls cost.
    fn polls_before(&self, place: &PollPlace, poll: DuePoll) -> usize {
        let rank = |class: &PollClass| {
            let waiting = self.lanes.get(class)?.namespaces.get(&place.namespace)?;
            Some(waiting.polls.range(..poll).count() + 1)
        };
        let rank = rank(&place.class).unwrap_or(1);
        let of_class = |class: &PollClass| {
            let namespaces = self.lanes.get(class).map(|lane| lane.namespaces.values());
            namespaces.into_iter().flatten().map(|waiting| waiting.polls.len())
        };
        let turns: usize = of_class(&place.class).map(|waiting| waiting.min(rank)).sum();
        let others = PollClass::ALL.into_iter().filter(|class| *class != place.class);
        let of_others = others.map(|class| {
            let spent = u64::try_from(turns).unwrap_or(u64::MAX).saturating_mul(place.class.cost());
            let meanwhile = usize::try_from(spent / class.cost()).unwrap_or(usize::MAX);
            of_class(&class).sum::<usize>().min(meanwhile)
        });
        (turns + of_others.sum::<usize>()).saturating_sub(1)
    }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
