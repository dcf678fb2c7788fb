//! When the builds of a cascade run: each starts when its parents are built and its family has a
//! place, the one with the longest path below it first, as the controller does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use crate::estate_graph::{EstateGraph, NodeId};

/// A build to schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledBuild {
    /// The image.
    pub node: NodeId,
    /// The position of its family, which limits how many builds run at once.
    pub family: usize,
    /// How long it takes.
    pub time: Duration,
}

/// When a set of builds is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The time from the first start to the last end.
    pub total: Duration,
    /// The images on the longest path, the first one first.
    pub critical_path: Vec<NodeId>,
}

/// Schedules builds. `places` is how many builds each family may run at once. O(n log n).
pub fn schedule(
    graph: &EstateGraph,
    builds: &[ScheduledBuild],
    places: impl Fn(usize) -> usize,
) -> Schedule {
    let scheduler = Scheduler::new(graph, builds);
    Schedule { total: scheduler.total(&places), critical_path: scheduler.critical_path() }
}

struct Scheduler<'a> {
    graph: &'a EstateGraph,
    builds: &'a [ScheduledBuild],
    /// The position of each node's build in `builds`.
    positions: BTreeMap<NodeId, usize>,
    /// The time of the longest path from each build down, including the build.
    remaining: Vec<Duration>,
}

impl<'a> Scheduler<'a> {
    fn new(graph: &'a EstateGraph, builds: &'a [ScheduledBuild]) -> Self {
        let positions = builds.iter().enumerate().map(|(at, build)| (build.node, at)).collect();
        let remaining = vec![Duration::ZERO; builds.len()];
        let mut scheduler = Self { graph, builds, positions, remaining };
        let level = |at: &usize| {
            let node = builds.get(*at).and_then(|build| graph.node(build.node));
            Reverse(node.map_or(0, |node| node.level))
        };
        let mut order: Vec<usize> = (0..builds.len()).collect();
        order.sort_by_key(level);
        for at in order {
            let below = scheduler.children(at).filter_map(|child| scheduler.remaining.get(child));
            let below = below.max().copied().unwrap_or_default();
            let time = builds.get(at).map(|build| build.time).unwrap_or_default();
            if let Some(remaining) = scheduler.remaining.get_mut(at) {
                *remaining = time + below;
            }
        }
        scheduler
    }

    fn children(&self, at: usize) -> impl Iterator<Item = usize> {
        let children = self.builds.get(at).map(|build| self.graph.children(build.node));
        children.into_iter().flatten().filter_map(|edge| self.positions.get(&edge.node).copied())
    }

    fn parents(&self, at: usize) -> impl Iterator<Item = usize> {
        let parents = self.builds.get(at).map(|build| self.graph.parents(build.node));
        parents.into_iter().flatten().filter_map(|edge| self.positions.get(&edge.node).copied())
    }

    /// Returns when the last build ends.
    fn total(&self, places: &impl Fn(usize) -> usize) -> Duration {
        let mut missing: Vec<usize> =
            (0..self.builds.len()).map(|at| self.parents(at).count()).collect();
        let mut ready: BTreeMap<usize, BinaryHeap<(Duration, Reverse<usize>)>> = BTreeMap::new();
        let mut running: BTreeMap<usize, usize> = BTreeMap::new();
        let mut ends: BinaryHeap<Reverse<(Duration, usize)>> = BinaryHeap::new();
        let mut now = Duration::ZERO;
        let mut freed: Vec<usize> = missing
            .iter()
            .enumerate()
            .filter(|(_, count)| **count == 0)
            .map(|(at, _)| at)
            .collect();
        loop {
            for at in freed.drain(..) {
                let (Some(build), Some(left)) = (self.builds.get(at), self.remaining.get(at))
                else {
                    continue;
                };
                ready.entry(build.family).or_default().push((*left, Reverse(at)));
            }
            for (family, waiting) in &mut ready {
                let used = running.entry(*family).or_default();
                while *used < places(*family).max(1)
                    && let Some((_, Reverse(at))) = waiting.pop()
                {
                    *used += 1;
                    let time = self.builds.get(at).map(|build| build.time).unwrap_or_default();
                    ends.push(Reverse((now + time, at)));
                }
            }
            let Some(Reverse((end, at))) = ends.pop() else { return now };
            now = end;
            if let Some(used) = self.builds.get(at).and_then(|one| running.get_mut(&one.family)) {
                *used = used.saturating_sub(1);
            }
            for child in self.children(at) {
                if let Some(missing) = missing.get_mut(child) {
                    *missing = missing.saturating_sub(1);
                    if *missing == 0 {
                        freed.push(child);
                    }
                }
            }
        }
    }

    fn critical_path(&self) -> Vec<NodeId> {
        let starts = (0..self.builds.len()).filter(|at| self.parents(*at).next().is_none());
        let mut at = self.longest(starts);
        let mut path = Vec::new();
        while let Some(build) = at.and_then(|at| self.builds.get(at)) {
            path.push(build.node);
            at = at.and_then(|at| self.longest(self.children(at)));
        }
        path
    }

    fn longest(&self, among: impl Iterator<Item = usize>) -> Option<usize> {
        // The first of several that are as long.
        among.max_by_key(|at| (self.remaining.get(*at), Reverse(*at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        estate_graph::GraphNodeKind,
        input::fixtures::{estate, layered_family},
    };

    /// Returns the seconds that builds of 10 seconds each take.
    fn seconds(images: usize, places: usize) -> u64 {
        let estate = estate(&layered_family(images));
        let graph = EstateGraph::of(&estate).expect("a graph");
        let nodes = graph.nodes().filter(|(_, node)| node.kind == GraphNodeKind::Image);
        let time = Duration::from_secs(10);
        let builds: Vec<ScheduledBuild> =
            nodes.map(|(node, _)| ScheduledBuild { node, family: 0, time }).collect();
        let schedule = schedule(&graph, &builds, |_| places);
        assert_eq!(schedule.critical_path.len(), if images > 6 { 3 } else { 2 });
        schedule.total.as_secs()
    }

    #[test]
    fn builds_wait_for_their_parents_and_for_a_place() {
        // One base, five images on it, and four on these.
        assert_eq!(seconds(6, 1), 60);
        assert_eq!(seconds(6, 5), 20);
        assert_eq!(seconds(10, 100), 30);
        assert_eq!(seconds(10, 3), 40);
        assert_eq!(seconds(6, 0), 60, "at least one build runs");
    }
}
