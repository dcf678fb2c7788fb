//! Budgets: who may start builds where families share a limit, and how fast a cascade may start
//! them.
//!
//! [`shares`] divides what is left in a namespace, in the cluster and for an upstream between the
//! families that wait: weighted max-min fairness, a build at a time. [`rate_limit`] is the rate of
//! a single cascade. Nothing here is remembered: both follow from what runs, what waits, and since
//! when.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

use jiff::{SignedDuration, Timestamp};

/// How many builds may run at once; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of all families.
    pub cluster: Option<usize>,
    /// Of the families of one namespace.
    pub namespace: Option<usize>,
}

/// What a family runs and wants to run. A family that wants nothing counts with what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand<'a> {
    /// The family's name.
    pub family: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its `policy.weight`, 1 to 100.
    pub weight: i32,
    /// Its builds that run.
    pub running: usize,
    /// Its builds that could start at once, the most urgent first: each the upstreams that it
    /// counts for, without repetition, by their places in the list given to [`shares`].
    pub wants: &'a [Vec<usize>],
    /// Since when it waits: since it had something to start, or since its last start if that was
    /// later.
    pub since: Timestamp,
}

/// Which builds each family may start now, in the order of the demands: places in the family's
/// `wants`.
///
/// `upstreams` is how many more builds may run for each upstream. The next build goes to the family
/// that runs the fewest for its weight; of several, to the one that has waited the longest for its
/// weight; then by name. So a family that runs nothing comes before every one that runs something,
/// and where there are fewer places than families, they take turns, the heavier ones more often.
/// All shares together stay within the limits, and nothing stays free that somebody could use. A
/// build that finds no place lets the family's later ones pass. Costs O(n log n) for n families and
/// builds together.
#[must_use]
pub fn shares(
    limits: Limits,
    upstreams: &[usize],
    demands: &[Demand<'_>],
    now: Timestamp,
) -> Vec<Vec<usize>> {
    let left = |limit: Option<usize>, running: usize| {
        limit.map_or(usize::MAX, |limit| limit.saturating_sub(running))
    };
    let mut running: HashMap<&str, usize> = HashMap::new();
    for demand in demands {
        *running.entry(demand.namespace).or_default() += demand.running;
    }
    let mut free = left(limits.cluster, running.values().sum());
    let mut free_in: HashMap<&str, usize> = running
        .into_iter()
        .map(|(namespace, running)| (namespace, left(limits.namespace, running)))
        .collect();
    let mut free_for = upstreams.to_vec();

    let mut shares = vec![Vec::new(); demands.len()];
    let turns = demands.iter().enumerate().map(|(index, demand)| Turn::new(index, demand, now));
    let mut queue: BinaryHeap<Turn<'_>> = turns.collect();
    while free > 0
        && let Some(mut turn) = queue.pop()
    {
        let (Some(free_here), Some(share)) =
            (free_in.get_mut(turn.demand.namespace), shares.get_mut(turn.index))
        else {
            continue;
        };
        // What finds no place now finds none later: a family without a build that does is out.
        let Some(want) = turn.next(&free_for).filter(|_| *free_here > 0) else { continue };
        for upstream in turn.demand.wants.get(want).into_iter().flatten() {
            if let Some(free) = free_for.get_mut(*upstream) {
                *free = free.saturating_sub(1);
            }
        }
        free -= 1;
        *free_here -= 1;
        share.push(want);
        turn.running += 1;
        queue.push(turn);
    }
    shares
}

/// A family's place in the queue; the greatest comes first.
#[derive(Debug)]
struct Turn<'a> {
    index: usize,
    demand: &'a Demand<'a>,
    /// How many of its builds have been looked at.
    looked_at: usize,
    /// What it runs, with what it was given.
    running: u128,
    weight: u128,
    /// How long it has waited, in nanoseconds, times its weight.
    waited: u128,
}

impl<'a> Turn<'a> {
    fn new(index: usize, demand: &'a Demand<'a>, now: Timestamp) -> Self {
        let weight = u128::from(demand.weight.max(1).unsigned_abs());
        // A clock that was put back makes a wait of none, not a negative one.
        let waited =
            now.duration_since(demand.since).max(SignedDuration::ZERO).as_nanos().unsigned_abs();
        let waited = waited.saturating_mul(weight);
        Self { index, demand, looked_at: 0, running: demand.running as u128, weight, waited }
    }

    /// Its next build for whose upstreams there are places.
    fn next(&mut self, free_for: &[usize]) -> Option<usize> {
        loop {
            let want = self.looked_at;
            let upstreams = self.demand.wants.get(want)?;
            self.looked_at += 1;
            if upstreams.iter().all(|upstream| free_for.get(*upstream).is_none_or(|free| *free > 0))
            {
                return Some(want);
            }
        }
    }
}

impl Ord for Turn<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // running / weight, without a fraction.
        let load = (other.running * self.weight).cmp(&(self.running * other.weight));
        let name = |turn: &Self| (turn.demand.namespace, turn.demand.family, turn.index);
        load.then_with(|| self.waited.cmp(&other.waited)).then_with(|| name(other).cmp(&name(self)))
    }
}

impl PartialOrd for Turn<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn<'_> {}

/// How many builds a cascade may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeStarts {
    /// So many may start now.
    pub free: usize,
    /// When the next may start, if none may now.
    pub next: Option<Timestamp>,
}

/// How many builds may start now, if at most `limit` may start within any span of the length `per`;
/// `starts` are those so far, in any order.
///
/// A clock that is put back leaves starts in the future. Those at most `per` ahead count; what is
/// further ahead is of another time and does not, so that a wait is never longer than twice `per`.
#[must_use]
pub fn rate_limit(
    starts: &[Timestamp],
    limit: i32,
    per: SignedDuration,
    now: Timestamp,
) -> FreeStarts {
    let limit = usize::try_from(limit).unwrap_or(0).max(1);
    let ends = starts.iter().filter_map(|start| start.checked_add(per).ok());
    let latest =
        now.saturating_add(per).and_then(|time| time.saturating_add(per)).unwrap_or(Timestamp::MAX);
    // When each of the starts that count ceases to.
    let mut ends: Vec<Timestamp> = ends.filter(|end| *end > now && *end <= latest).collect();
    let free = limit.saturating_sub(ends.len());
    if free > 0 {
        return FreeStarts { free, next: None };
    }
    let in_excess = ends.len() - limit;
    let (_, next, _) = ends.select_nth_unstable(in_excess);
    FreeStarts { free, next: Some(*next) }
}

/// The starts that are to be remembered, newest first: Jobs that are gone must count as long as
/// those that are not. `known` is what was remembered before; it is left as it is until there is a
/// new one among `input`, so that the passing of time alone writes nothing. Of more than `limit`,
/// the oldest tell nothing.
#[must_use]
pub fn remembered(
    known: &[Timestamp],
    input: impl Iterator<Item = Timestamp>,
    limit: i32,
    per: SignedDuration,
    now: Timestamp,
) -> Vec<Timestamp> {
    let counts = |start: &Timestamp| {
        let age = now.duration_since(*start);
        age < per && age >= -per
    };
    let mut starts: Vec<Timestamp> =
        input.filter(|start| counts(start) && !known.contains(start)).collect();
    if starts.is_empty() {
        return known.to_vec();
    }
    starts.extend(known.iter().filter(|start| counts(start)));
    starts.sort_unstable_by(|a, b| b.cmp(a));
    starts.dedup();
    starts.truncate(usize::try_from(limit).unwrap_or(0).max(1));
    starts
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
