//! Limits: which builds families may start where they share a limit, and how fast one family may
//! start them.
//!
//! [`fair_shares`] divides the free capacity of a namespace, of the cluster and of an upstream
//! between the families that wait: weighted max-min fairness, one build at a time.
//! [`rate_allowance`] is the rate limit of a family: it counts the builds that no user caused,
//! whatever cascade they belong to. Nothing is stored here: both follow from what runs, what waits,
//! and since when.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

use jiff::{SignedDuration, Timestamp};

use crate::lineage::position;

position! {
    /// Position of an upstream in the list of those that a limit counts.
    pub struct QuotaUpstream;
}
position! {
    /// Position of a build in [`Demand::wants`].
    pub struct WantIndex;
}

/// How many builds may run at the same time; `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencyLimits {
    /// The limit for all families together.
    pub cluster: Option<usize>,
    /// The limit for the families of each namespace.
    pub namespace: Option<usize>,
}

/// What a family runs and wants to run. A family that wants nothing still counts with what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand<'a> {
    /// The family's name.
    pub family: &'a str,
    /// The family's namespace.
    pub namespace: &'a str,
    /// The family's `policy.weight`, from 1 to 100.
    pub weight: i32,
    /// How many builds of the family run.
    pub running: usize,
    /// The builds that could start now, the most urgent first. Each lists, without repetition, the
    /// upstreams that it counts for.
    pub wants: &'a [Vec<QuotaUpstream>],
    /// How many of them may start at most: some are alternatives to others whose upstreams have
    /// reached their limits.
    pub most: usize,
    /// Since when the family waits: since it had something to start, or since its last start if
    /// that was later.
    pub since: Timestamp,
}

/// Returns which builds each family may start now: a list for each demand, in their order.
///
/// `free_by_upstream` says how many more builds may run for each [`QuotaUpstream`]. The next build
/// goes to the family that runs the fewest builds for its weight. Ties go to the family that has
/// waited longest for its weight, then to the first by name. So a family that runs nothing precedes
/// every family that runs something. Where there are fewer free places than families, the families
/// take turns, and those with more weight get more turns.
///
/// All shares together stay within the limits, and no capacity stays free that a build could use. A
/// build whose upstream has reached its limit does not delay the family's later builds. No family
/// gets more than [`Demand::most`]. Costs O(n log n) for n families and builds together.
#[must_use]
pub fn fair_shares(
    limits: ConcurrencyLimits,
    free_by_upstream: &[usize],
    demands: &[Demand<'_>],
    now: Timestamp,
) -> Vec<Vec<WantIndex>> {
    let left = |limit: Option<usize>, running: usize| {
        limit.map_or(usize::MAX, |limit| limit.saturating_sub(running))
    };
    let mut running: HashMap<&str, usize> = HashMap::new();
    for demand in demands {
        *running.entry(demand.namespace).or_default() += demand.running;
    }
    let mut free_in_cluster = left(limits.cluster, running.values().sum());
    let mut free_by_namespace: HashMap<&str, usize> = running
        .into_iter()
        .map(|(namespace, running)| (namespace, left(limits.namespace, running)))
        .collect();
    let mut free_by_upstream = free_by_upstream.to_vec();

    let mut shares = vec![Vec::new(); demands.len()];
    let mut queue: BinaryHeap<QueuedFamily<'_>> = demands
        .iter()
        .enumerate()
        .filter(|(_, demand)| demand.most > 0)
        .map(|(index, demand)| QueuedFamily::new(index, demand, now))
        .collect();
    while free_in_cluster > 0
        && let Some(mut family) = queue.pop()
    {
        let (Some(free_in_namespace), Some(share)) =
            (free_by_namespace.get_mut(family.demand.namespace), shares.get_mut(family.index))
        else {
            continue;
        };
        // Capacity only shrinks, so that a family without a build that fits now leaves the queue.
        let Some(want) =
            family.next_startable(&free_by_upstream).filter(|_| *free_in_namespace > 0)
        else {
            continue;
        };
        for upstream in family.demand.wants.get(want.position()).into_iter().flatten() {
            if let Some(free) = free_by_upstream.get_mut(upstream.position()) {
                *free = free.saturating_sub(1);
            }
        }
        free_in_cluster -= 1;
        *free_in_namespace -= 1;
        share.push(want);
        if share.len() < family.demand.most {
            family.running += 1;
            queue.push(family);
        }
    }
    shares
}

/// A family in the queue for the next build; the greatest is served first.
#[derive(Debug)]
struct QueuedFamily<'a> {
    index: usize,
    demand: &'a Demand<'a>,
    /// How many of its wanted builds have been considered.
    considered: usize,
    /// How many builds it runs, including those that it has been given.
    running: u128,
    weight: u128,
    /// How long it has waited, in nanoseconds, times its weight.
    waited: u128,
}

impl<'a> QueuedFamily<'a> {
    fn new(index: usize, demand: &'a Demand<'a>, now: Timestamp) -> Self {
        let weight = u128::from(demand.weight.max(1).unsigned_abs());
        // After the clock was set back, the wait counts as zero rather than as negative.
        let waited =
            now.duration_since(demand.since).max(SignedDuration::ZERO).as_nanos().unsigned_abs();
        let waited = waited.saturating_mul(weight);
        Self { index, demand, considered: 0, running: demand.running as u128, weight, waited }
    }

    /// Returns its next wanted build whose upstreams all have free capacity.
    fn next_startable(&mut self, free_by_upstream: &[usize]) -> Option<WantIndex> {
        loop {
            let want = WantIndex::new(self.considered);
            let upstreams = self.demand.wants.get(want.position())?;
            self.considered += 1;
            let has_capacity = |upstream: &QuotaUpstream| {
                free_by_upstream.get(upstream.position()).is_none_or(|free| *free > 0)
            };
            if upstreams.iter().all(has_capacity) {
                return Some(want);
            }
        }
    }
}

impl Ord for QueuedFamily<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Compares running / weight without fractions.
        let load = (other.running * self.weight).cmp(&(self.running * other.weight));
        let name = |family: &Self| (family.demand.namespace, family.demand.family, family.index);
        load.then_with(|| self.waited.cmp(&other.waited)).then_with(|| name(other).cmp(&name(self)))
    }
}

impl PartialOrd for QueuedFamily<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for QueuedFamily<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for QueuedFamily<'_> {}

/// How many builds the rate limit allows to start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateAllowance {
    /// How many builds may start now.
    pub free: usize,
    /// When the next build may start, if none may start now.
    pub frees_at: Option<Timestamp>,
}

/// Returns how many builds may start now if at most `limit` may start within any span of length
/// `per`. `starts` are the starts so far, in any order.
///
/// A clock that is set back leaves starts in the future. Those at most `per` ahead count. Those
/// further ahead do not, so that a wait never exceeds twice `per`.
#[must_use]
pub fn rate_allowance(
    starts: &[Timestamp],
    limit: i32,
    per: SignedDuration,
    now: Timestamp,
) -> RateAllowance {
    let limit = usize::try_from(limit).unwrap_or(0).max(1);
    let ends = starts.iter().filter_map(|start| start.checked_add(per).ok());
    let latest =
        now.saturating_add(per).and_then(|time| time.saturating_add(per)).unwrap_or(Timestamp::MAX);
    // When each of the starts that count stops counting.
    let mut ends: Vec<Timestamp> = ends.filter(|end| *end > now && *end <= latest).collect();
    let free = limit.saturating_sub(ends.len());
    if free > 0 {
        return RateAllowance { free, frees_at: None };
    }
    let in_excess = ends.len() - limit;
    let (_, frees_at, _) = ends.select_nth_unstable(in_excess);
    RateAllowance { free, frees_at: Some(*frees_at) }
}

/// Returns the starts to record, the newest first, so that starts count as long as they should even
/// when their Jobs are gone.
///
/// `recorded` is what was recorded before, `observed` are the starts of the Jobs that exist.
/// Without a new start among `observed` the record stays as it is, so that the passing of time
/// alone causes no write. At most `limit` starts are kept: older ones make no difference.
#[must_use]
pub fn starts_to_record(
    recorded: &[Timestamp],
    observed: impl Iterator<Item = Timestamp>,
    limit: i32,
    per: SignedDuration,
    now: Timestamp,
) -> Vec<Timestamp> {
    let counts = |start: &Timestamp| {
        let age = now.duration_since(*start);
        age < per && age >= -per
    };
    let mut starts: Vec<Timestamp> =
        observed.filter(|start| counts(start) && !recorded.contains(start)).collect();
    if starts.is_empty() {
        return recorded.to_vec();
    }
    starts.extend(recorded.iter().filter(|start| counts(start)));
    starts.sort_unstable_by(|a, b| b.cmp(a));
    starts.dedup();
    starts.truncate(usize::try_from(limit).unwrap_or(0).max(1));
    starts
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "rate_limit_tests.rs"]
mod rate_limit_tests;
