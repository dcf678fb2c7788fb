//! How long the start of a build takes after the end of its last parent's build: what the
//! controller and the cluster add to a cascade between two levels. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{ManagedImageStatus, condition::Reason},
    controller::family::reconcile::Reconcile,
    engine::{BuildOutcome, ObservedBuild, PlannedBuild},
    lineage::{ImageIndex, Parent},
};

impl Reconcile<'_> {
    /// Returns the time from the end of the last parent's build of the same cascade until a build
    /// is started at `now`, to the second, as pods say when they end. `None` if it waited for
    /// anything else, too: a check of a parent, a gate, another attempt.
    pub(super) fn start_delay(&self, build: &PlannedBuild, now: Timestamp) -> Option<Duration> {
        let record = self.snapshot.records.get(build.image.position())?.as_ref()?;
        if !waited_for_parent(record.status.as_ref()?) || build.identity.attempt > 0 {
            return None;
        }
        let parents = self.snapshot.blueprint.lineage.parents(build.image);
        let parents = parents.iter().filter_map(|parent| match parent {
            Parent::Image(parent) => Some(*parent),
            Parent::Upstream(_) | Parent::Import(_) => None,
        });
        let parents: Vec<ImageIndex> = parents.collect();
        if parents.iter().any(|parent| self.has_checks(*parent)) {
            return None;
        }
        let builds = parents.into_iter().flat_map(|parent| self.snapshot.builds_of(parent));
        let of_cascade = builds.filter(|parent| parent.identity.cascade == build.identity.cascade);
        delay_since_last_end(of_cascade, now)
    }

    fn has_checks(&self, image: ImageIndex) -> bool {
        self.image(image).is_some_and(|image| !image.checks.is_empty())
    }
}

/// Whether an image that is about to be built was last recorded to wait for a parent.
fn waited_for_parent(status: &ManagedImageStatus) -> bool {
    status.reason == Reason::WaitingForParent
}

/// Returns how long ago the last of these builds has ended, if all have, and one with success.
fn delay_since_last_end<'b>(
    builds: impl Iterator<Item = &'b ObservedBuild>,
    now: Timestamp,
) -> Option<Duration> {
    let mut last = None;
    for build in builds {
        match build.outcome {
            BuildOutcome::Succeeded => last = last.max(Some(build.ended_at?)),
            BuildOutcome::Running => return None,
            BuildOutcome::Failed(_) | BuildOutcome::NotAdmitted(_) | BuildOutcome::Stopped => {}
        }
    }
    // The clock of the node may be ahead of ours.
    Some(Duration::try_from(now.duration_since(last?)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixtures;

    #[test]
    fn the_end_of_the_last_parent_counts() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let build = |ended_at: Option<i64>, outcome| ObservedBuild {
            ended_at: ended_at.map(at),
            ..fixtures::job("f", 0, outcome)
        };
        let delay = |builds: &[ObservedBuild]| {
            delay_since_last_end(builds.iter(), at(100)).map(|delay| delay.as_secs())
        };
        let (early, late) =
            (build(Some(40), BuildOutcome::Succeeded), build(Some(98), BuildOutcome::Succeeded));
        assert_eq!(delay(&[late.clone(), early.clone()]), Some(2));
        assert_eq!(delay(&[early.clone(), build(Some(99), BuildOutcome::Stopped)]), Some(60));
        assert_eq!(delay(&[early.clone(), build(None, BuildOutcome::Running)]), None);
        assert_eq!(delay(&[early, build(None, BuildOutcome::Succeeded)]), None, "not known when");
        assert_eq!(delay(&[build(Some(120), BuildOutcome::Succeeded)]), Some(0));
        assert_eq!(delay(&[]), None);
    }
}
