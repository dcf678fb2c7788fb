//! Remembers which workloads another client keeps changing back from a digest, and slows their
//! rollout down. It makes no request.
//!
//! The first revert of a digest is answered at once: somebody has applied the workload's own
//! manifest, and that is harmless. From the second one on, the rollout is contested: each change
//! waits for a pause that doubles, whatever triggers the reconcile in the meantime.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{RolloutMode, RolloutState, condition::shorten, labels},
    rollout::{RolloutStep, WorkloadChange, plan::MAX_MESSAGE},
};

/// The pause before a contested workload is changed for the first time.
const MIN_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// Upper bound on the pause, which doubles with every revert.
const MAX_PAUSE: SignedDuration = SignedDuration::from_mins(10);
/// The number of reverts of one digest from which on a rollout is contested.
const CONTESTED_REVERTS: u32 = 2;
/// A workload that keeps a digest for this long starts with a new count. It is longer than the
/// interval at which Flux and Argo CD apply their manifests by default.
const STEADY: SignedDuration = SignedDuration::from_hours(1);

/// The reverts of every image's workloads, by the uid of the `ManagedImage` and the workload as
/// [`RolloutRecord::workload`](crate::api::RolloutRecord::workload) names it. An image has at most
/// [`MAX_WORKLOADS`](crate::rollout::plan::MAX_WORKLOADS) of them.
#[derive(Debug, Default)]
pub struct RevertTracker(Mutex<HashMap<String, HashMap<String, DigestHistory>>>);

/// The state of a workload after it was changed to a digest.
#[derive(Debug)]
struct DigestHistory {
    /// The uid of the workload.
    uid: String,
    digest: String,
    /// How the workload is changed to the digest.
    mode: RolloutMode,
    /// The generation that the last change resulted in. A store that shows an older one is
    /// outdated.
    generation: i64,
    /// When the workload was last changed to the digest.
    changed: Timestamp,
    /// How often it was changed to something else since.
    reverts: u32,
    /// The manager of the last revert, if it is known.
    manager: Option<String>,
    /// When the workload may be changed again; `None` while it has the digest.
    next_change: Option<Timestamp>,
}

impl RevertTracker {
    /// Removes the changes from `steps` that have to wait, and marks the contested ones. Returns
    /// the time until the next step has to be reviewed again, if one has to.
    pub fn review(
        &self,
        image_uid: &str,
        steps: &mut [RolloutStep],
        now: Timestamp,
    ) -> Option<Duration> {
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let histories = images.get_mut(image_uid)?;
        let current: BTreeSet<&str> =
            steps.iter().map(|step| step.record.workload.as_str()).collect();
        histories.retain(|workload, _| current.contains(workload.as_str()));
        let mut next: Option<Timestamp> = None;
        for step in steps {
            let Some(history) = histories.get_mut(&step.record.workload) else { continue };
            if !history.is_about(step) {
                histories.remove(&step.record.workload);
                continue;
            }
            let due = history.review(step, now);
            next = [next, due].into_iter().flatten().min();
        }
        if histories.is_empty() {
            images.remove(image_uid);
        }
        next.map(|at| at.duration_since(now).max(SignedDuration::from_secs(1)))
            .and_then(|pause| pause.try_into().ok())
    }

    /// Records that a change was applied and resulted in this generation.
    pub fn record_change(
        &self,
        image_uid: &str,
        step: &RolloutStep,
        generation: i64,
        now: Timestamp,
    ) {
        let Some(patch) = &step.patch else { return };
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let histories = images.entry(image_uid.to_owned()).or_default();
        let mode = match patch.change {
            WorkloadChange::Image { .. } => RolloutMode::Digest,
            WorkloadChange::Restart { .. } => RolloutMode::Restart,
        };
        let history =
            histories.entry(step.record.workload.clone()).or_insert_with(|| DigestHistory {
                uid: patch.uid.clone(),
                digest: step.record.digest.clone(),
                mode,
                generation,
                changed: now,
                reverts: 0,
                manager: None,
                next_change: None,
            });
        history.mode = mode;
        history.generation = generation;
        history.changed = now;
        history.next_change = None;
    }

    /// Forgets a deleted image.
    pub fn forget(&self, image_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(image_uid);
    }
}

impl DigestHistory {
    /// Whether a step moves the same workload to the same digest.
    fn is_about(&self, step: &RolloutStep) -> bool {
        self.digest == step.record.digest
            && step.patch.as_ref().is_none_or(|patch| patch.uid == self.uid)
    }

    /// Reviews one step. Returns when it has to be reviewed again.
    fn review(&mut self, step: &mut RolloutStep, now: Timestamp) -> Option<Timestamp> {
        match &step.patch {
            None if step.record.state == RolloutState::Refused => return None,
            // Somebody else has set the digest.
            None if self.next_change.is_some() => {
                self.next_change = None;
                self.changed = now;
            }
            None => {}
            Some(patch) if patch.generation < self.generation => step.patch = None,
            Some(patch) => {
                let manager = patch.manager.clone();
                return self.review_revert(manager, step, now);
            }
        }
        let until = at(self.changed, self.pause());
        if !self.is_contested() || now >= until {
            return None;
        }
        self.mark(step, &format!("it was set again at {:.0}", self.changed));
        Some(until)
    }

    /// Reviews the change of a workload that somebody has changed back.
    fn review_revert(
        &mut self,
        manager: Option<String>,
        step: &mut RolloutStep,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let due = self.next_change.unwrap_or_else(|| self.count_revert(manager, now));
        self.next_change = Some(due);
        if !self.is_contested() {
            return None;
        }
        if now < due {
            step.patch = None;
            self.mark(step, &format!("the next attempt is at {due:.0}"));
            return Some(due);
        }
        // The attempt may fail, and must not be repeated earlier for that reason.
        let next = at(now, self.pause());
        self.next_change = Some(next);
        self.mark(step, &format!("it was set again at {now:.0}"));
        Some(next)
    }

    /// Counts a revert. Returns when the workload may be changed again.
    fn count_revert(&mut self, manager: Option<String>, now: Timestamp) -> Timestamp {
        if now.duration_since(self.changed) >= STEADY {
            self.reverts = 0;
        }
        self.reverts = self.reverts.saturating_add(1);
        self.manager = manager;
        if self.is_contested() { at(now, self.pause()) } else { now }
    }

    fn is_contested(&self) -> bool {
        self.reverts >= CONTESTED_REVERTS
    }

    fn pause(&self) -> SignedDuration {
        let doublings = self.reverts.saturating_sub(CONTESTED_REVERTS).min(16);
        MIN_PAUSE.saturating_mul(1 << doublings).min(MAX_PAUSE)
    }

    fn mark(&self, step: &mut RolloutStep, what_next: &str) {
        let owner = match &self.manager {
            Some(manager) => format!("manager `{manager}`"),
            None => "another client".into(),
        };
        let times = self.reverts;
        let message = match self.mode {
            RolloutMode::Digest => format!(
                "{owner} has replaced the digest {times} times; {what_next}; use mode `Restart`, \
                 or let that client ignore the image"
            ),
            RolloutMode::Restart => format!(
                "{owner} has removed the annotation `{}` {times} times; {what_next}; let that \
                 client keep annotations of the pod template",
                labels::ROLLED_OUT
            ),
        };
        step.record.state = RolloutState::Contested;
        step.record.message = shorten(&message, MAX_MESSAGE);
    }
}

fn at(start: Timestamp, pause: SignedDuration) -> Timestamp {
    start.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{RolloutRecord, WorkloadKind},
        rollout::{Container, WorkloadKey, WorkloadPatch},
    };

    const IMAGE: &str = "image-uid";

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a time")
    }

    /// The step for a workload that has the digest.
    fn current(digest: &str) -> RolloutStep {
        RolloutStep {
            record: RolloutRecord {
                workload: "Deployment shop/web".into(),
                digest: digest.into(),
                state: RolloutState::Complete,
                message: "all pods are updated".into(),
            },
            patch: None,
        }
    }

    /// The step for a workload that has another image.
    fn outdated(digest: &str, generation: i64) -> RolloutStep {
        let key = WorkloadKey {
            kind: WorkloadKind::Deployment,
            namespace: "shop".into(),
            name: "web".into(),
        };
        let mut step = current(digest);
        step.record.state = RolloutState::Progressing;
        step.patch = Some(WorkloadPatch {
            key,
            uid: "uid-web".into(),
            generation,
            manager: Some("argocd-controller".into()),
            change: WorkloadChange::Image {
                containers: vec![Container {
                    name: "app".into(),
                    image: "r/app:1".into(),
                    init: false,
                    index: 0,
                    always_pulls: false,
                    manager: None,
                }],
                image: format!("r/app@{digest}"),
            },
        });
        step
    }

    /// A workload whose owner changes it back a second after each change.
    #[derive(Default)]
    struct Fight {
        tracker: RevertTracker,
        generation: i64,
        changes: Vec<i64>,
    }

    impl Fight {
        /// Reviews the step at a time, and applies what is left of it. Returns it.
        fn reconcile(&mut self, digest: &str, now: i64) -> RolloutStep {
            let mut step = outdated(digest, self.generation);
            self.tracker.review(IMAGE, std::slice::from_mut(&mut step), second(now));
            if step.patch.is_some() {
                self.changes.push(now);
                self.tracker.record_change(IMAGE, &step, self.generation + 1, second(now));
                self.generation += 2;
            }
            step
        }
    }

    #[test]
    fn the_changes_of_a_contested_workload_become_rare_however_often_it_is_reconciled() {
        let mut fight = Fight::default();
        for now in 0..3600 {
            fight.reconcile("sha256:aa", now);
        }
        let pauses: Vec<i64> = fight.changes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses, [1, 11, 21, 41, 81, 161, 321, 601, 601, 601, 601]);
    }

    #[test]
    fn the_second_revert_is_reported_with_its_manager() {
        let mut fight = Fight::default();
        for now in 0..2 {
            assert_eq!(fight.reconcile("sha256:aa", now).record.state, RolloutState::Progressing);
        }
        let step = fight.reconcile("sha256:aa", 2);
        assert_eq!((step.record.state, step.patch), (RolloutState::Contested, None));
        assert_eq!(
            step.record.message,
            "manager `argocd-controller` has replaced the digest 2 times; the next attempt is at \
             1970-01-12T13:46:52Z; use mode `Restart`, or let that client ignore the image"
        );
        let later = fight.reconcile("sha256:aa", 3);
        assert_eq!(later.record, step.record, "the status is not written again");
    }

    #[test]
    fn a_contested_restart_names_its_annotation() {
        let tracker = RevertTracker::default();
        let mut step = outdated("sha256:aa", 1);
        for generation in [1, 3, 5] {
            step = outdated("sha256:aa", generation);
            if let Some(patch) = &mut step.patch {
                patch.manager = None;
                patch.change = WorkloadChange::Restart { digest: "sha256:aa".into() };
            }
            tracker.review(IMAGE, std::slice::from_mut(&mut step), second(generation));
            tracker.record_change(IMAGE, &step, generation + 1, second(generation));
        }
        let start = "another client has removed the annotation `groundswell.dev/digest` 2 times; ";
        assert!(step.record.message.starts_with(start), "{}", step.record.message);
    }

    #[test]
    fn a_contested_workload_recovers_after_one_pause() {
        let mut fight = Fight::default();
        for now in [0, 1, 2, 12] {
            fight.reconcile("sha256:aa", now);
        }
        assert_eq!(fight.changes, [0, 1, 12]);
        let review = |now: i64| {
            let mut step = current("sha256:aa");
            let due = fight.tracker.review(IMAGE, std::slice::from_mut(&mut step), second(now));
            (step.record.state, due)
        };
        assert_eq!(review(13), (RolloutState::Contested, Some(Duration::from_secs(9))));
        assert_eq!(review(22), (RolloutState::Complete, None));
        fight.reconcile("sha256:aa", 30);
        assert_eq!(fight.changes, [0, 1, 12], "the count continues");
        fight.reconcile("sha256:aa", 50);
        fight.reconcile("sha256:aa", 50 + 3600);
        assert_eq!(fight.changes, [0, 1, 12, 50, 3650], "an hour later it starts again");
    }

    #[test]
    fn another_digest_starts_again() {
        let mut fight = Fight::default();
        for now in 0..3 {
            fight.reconcile("sha256:aa", now);
        }
        fight.reconcile("sha256:bb", 3);
        assert_eq!(fight.changes, [0, 1, 3]);
        fight.tracker.forget(IMAGE);
        assert!(fight.tracker.0.lock().expect("lock").is_empty());
    }

    #[test]
    fn an_outdated_store_is_no_revert() {
        let tracker = RevertTracker::default();
        tracker.record_change(IMAGE, &outdated("sha256:aa", 1), 2, second(0));
        for now in 0..5 {
            let mut steps = [outdated("sha256:aa", 1)];
            assert_eq!(tracker.review(IMAGE, &mut steps, second(now)), None);
            assert_eq!(steps[0].patch, None);
            assert_eq!(steps[0].record.state, RolloutState::Progressing);
        }
    }

    #[test]
    fn a_failed_attempt_is_not_repeated_early() {
        let mut fight = Fight::default();
        for now in 0..3 {
            fight.reconcile("sha256:aa", now);
        }
        let attempts = (3..60).filter(|now| {
            let mut step = outdated("sha256:aa", fight.generation);
            fight.tracker.review(IMAGE, std::slice::from_mut(&mut step), second(*now));
            step.patch.is_some()
        });
        assert_eq!(attempts.collect::<Vec<_>>(), [12, 22, 32, 42, 52]);
    }
}
