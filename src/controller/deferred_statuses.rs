//! Statuses of images that are not written yet. What passes within seconds is not worth a write:
//! in a cascade, most states of an image do. No client is needed.
//!
//! A deferred status counts as written for everything that this process decides. Losing it is the
//! same as losing the process right before the write: Jobs and registries say what has happened.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::{
    CheckRecord, CheckState, ImageState, ManagedImage, ManagedImageStatus,
    condition::{READY, RECONCILING, STALLED},
};

/// How long an image is in a passing state before that state is written.
const MIN_AGE: SignedDuration = SignedDuration::from_secs(5);
/// How long the rest of a status, its message for example, may be outdated while the image stays in
/// its state, or changes it all the time.
const MAX_AGE: SignedDuration = SignedDuration::from_mins(1);
/// The most passing states of one family that are written per second, the oldest first. The record
/// of the cascade has them all.
const MAX_WRITES_PER_SECOND: usize = 4;

/// The statuses of a family's images that are not written yet, by image.
#[derive(Debug, Default)]
pub struct DeferredStatuses {
    by_image: HashMap<String, DeferredStatus>,
    /// When passing states were written within the last second.
    written: Vec<Timestamp>,
}

#[derive(Debug)]
struct DeferredStatus {
    /// The record, as the API server has it.
    stored: Arc<ManagedImage>,
    /// The record with the deferred status.
    deferred: Arc<ManagedImage>,
    /// When the status first differed from the stored one.
    since: Timestamp,
    /// When the image came into the deferred state.
    in_state_since: Timestamp,
}

impl DeferredStatus {
    fn due_at(&self) -> Timestamp {
        let (stored, deferred) = (status_of(&self.stored), status_of(&self.deferred));
        let after = |since: Timestamp, pause| since.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let latest = after(self.since, MAX_AGE);
        if is_in_same_state(stored, deferred) {
            return latest;
        }
        latest.min(after(self.in_state_since, MIN_AGE))
    }
}

impl DeferredStatuses {
    /// Returns a record with its deferred status, if it has one. One that somebody else has changed
    /// since it was deferred is forgotten.
    pub fn apply_to(&mut self, image: &str, stored: Arc<ManagedImage>) -> Arc<ManagedImage> {
        let Some(known) = self.by_image.get_mut(image) else { return stored };
        if known.stored.resource_version() == stored.resource_version() {
            return Arc::clone(&known.deferred);
        }
        let is_changed = known.stored.uid() != stored.uid()
            || comparable(status_of(&known.stored)) != comparable(status_of(&stored));
        if is_changed {
            self.by_image.remove(image);
            return stored;
        }
        known.deferred = Arc::new(with_status(&stored, status_of(&known.deferred)));
        known.stored = stored;
        Arc::clone(&known.deferred)
    }

    /// Returns whether the write of a status can be deferred: the image is in a passing state, and
    /// everything else in it can be found out again.
    #[must_use]
    pub fn can_defer(stored: &ManagedImageStatus, new: &ManagedImageStatus) -> bool {
        use ImageState::{Building, Checking, Queued, Waiting};
        matches!(new.state, Waiting | Queued | Building | Checking)
            && lasting(stored) == lasting(new)
    }

    /// Defers the write of a status, in place of an earlier one.
    pub fn defer(
        &mut self,
        image: &str,
        stored: &Arc<ManagedImage>,
        status: &ManagedImageStatus,
        now: Timestamp,
    ) {
        let before = self.by_image.remove(image);
        let in_state_since = before
            .as_ref()
            .filter(|before| is_in_same_state(status_of(&before.deferred), status))
            .map_or(now, |before| before.in_state_since);
        let deferred = DeferredStatus {
            stored: Arc::clone(stored),
            deferred: Arc::new(with_status(stored, status)),
            since: before.map_or(now, |before| before.since),
            in_state_since,
        };
        self.by_image.insert(image.into(), deferred);
    }

    /// Returns the statuses, with their images.
    pub fn statuses(&self) -> impl Iterator<Item = (&str, &ManagedImageStatus)> {
        let known = self.by_image.iter();
        known.map(|(image, known)| (image.as_str(), status_of(&known.deferred)))
    }

    /// Returns the record of an image as the API server has it, if a status is deferred.
    #[must_use]
    pub fn stored(&self, image: &str) -> Option<&Arc<ManagedImage>> {
        self.by_image.get(image).map(|known| &known.stored)
    }

    /// Forgets the deferred status of an image, because it was written, or is the stored one.
    pub fn forget(&mut self, image: &str) {
        self.by_image.remove(image);
    }

    /// Returns the deferred statuses that are to be written now, by image, and counts them as
    /// written.
    pub fn take_due(&mut self, now: Timestamp) -> HashMap<String, ManagedImageStatus> {
        self.written.retain(|at| is_within_a_second(*at, now));
        let free = MAX_WRITES_PER_SECOND.saturating_sub(self.written.len());
        let mut due: Vec<(Timestamp, &String)> = self.due_times().collect();
        due.retain(|(at, _)| *at <= now);
        due.sort_unstable();
        due.truncate(free);
        let due: Vec<String> = due.into_iter().map(|(_, image)| image.clone()).collect();
        self.written.extend(due.iter().map(|_| now));
        let statuses = due.into_iter().filter_map(|image| {
            let status = status_of(&self.by_image.get(&image)?.deferred).clone();
            Some((image, status))
        });
        statuses.collect()
    }

    /// Returns when the next deferred status is to be written.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        let due = self.due_times().map(|(at, _)| at).min()?;
        let in_last_second = self.written.iter().filter(|at| is_within_a_second(**at, now));
        let full = in_last_second.clone().count() >= MAX_WRITES_PER_SECOND;
        let free_at = in_last_second.min().filter(|_| full).and_then(|at| second_after(*at));
        Some(due.max(free_at.unwrap_or(due)))
    }

    /// Forgets all statuses.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets images that the family no longer has.
    pub fn retain_images(&mut self, wanted: &HashSet<&str>) {
        self.by_image.retain(|image, _| wanted.contains(image.as_str()));
    }

    fn due_times(&self) -> impl Iterator<Item = (Timestamp, &String)> {
        self.by_image.iter().map(|(image, deferred)| (deferred.due_at(), image))
    }
}

fn second_after(at: Timestamp) -> Option<Timestamp> {
    at.saturating_add(SignedDuration::from_secs(1)).ok()
}

fn is_within_a_second(at: Timestamp, now: Timestamp) -> bool {
    at <= now && second_after(at).is_some_and(|end| now < end)
}

fn status_of(record: &ManagedImage) -> &ManagedImageStatus {
    static NONE: std::sync::LazyLock<ManagedImageStatus> =
        std::sync::LazyLock::new(ManagedImageStatus::default);
    record.status.as_ref().unwrap_or(&NONE)
}

/// Returns a record with another status. The fields of the image reconciler stay.
fn with_status(record: &ManagedImage, status: &ManagedImageStatus) -> ManagedImage {
    let stored = status_of(record);
    let mut status = ManagedImageStatus { rollouts: stored.rollouts.clone(), ..status.clone() };
    let own = own_conditions(&stored.conditions);
    let foreign = stored.conditions.iter().filter(|condition| !own.contains(condition));
    status.conditions.extend(foreign.cloned());
    ManagedImage { status: Some(status), ..record.clone() }
}

/// Returns the conditions that the family reconciler owns.
#[must_use]
pub fn own_conditions(conditions: &[Condition]) -> Vec<Condition> {
    conditions
        .iter()
        .filter(|condition| [READY, RECONCILING, STALLED].contains(&condition.type_.as_str()))
        .cloned()
        .collect()
}

/// Returns the part of a status that the family reconciler writes.
fn comparable(status: &ManagedImageStatus) -> ManagedImageStatus {
    ManagedImageStatus {
        rollouts: Vec::new(),
        conditions: own_conditions(&status.conditions),
        ..status.clone()
    }
}

/// Whether an image has not left its state: it waits for the same, or the same build runs.
fn is_in_same_state(one: &ManagedImageStatus, other: &ManagedImageStatus) -> bool {
    let running =
        |status: &ManagedImageStatus| status.running.as_ref().map(|running| running.job.clone());
    one.state == other.state && one.reason == other.reason && running(one) == running(other)
}

/// Returns a status without what can be found out again: the state, and what runs.
fn lasting(status: &ManagedImageStatus) -> ManagedImageStatus {
    let has_ended = |check: &&CheckRecord| check.state != CheckState::Running;
    ManagedImageStatus {
        conditions: Vec::new(),
        state: ImageState::default(),
        reason: String::new(),
        message: String::new(),
        since: None,
        overdue_since: None,
        running: None,
        last_build: None,
        last_build_fingerprint: None,
        checks: status.checks.iter().filter(has_ended).cloned().collect(),
        rollouts: Vec::new(),
        ..status.clone()
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectMeta;

    use super::*;
    use crate::api::{RunningBuild, condition::Reason};

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).expect("a time")
    }

    fn status(state: ImageState, message: &str) -> ManagedImageStatus {
        let reason = if state == ImageState::Building { Reason::Building } else { Reason::Current };
        ManagedImageStatus {
            state,
            reason: reason.into(),
            message: message.into(),
            digest: Some("sha256:1".into()),
            ..ManagedImageStatus::default()
        }
    }

    fn record(version: u64, status: ManagedImageStatus) -> Arc<ManagedImage> {
        let metadata = ObjectMeta {
            uid: Some("1".into()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        let status = Some(status);
        Arc::new(ManagedImage { metadata, status, ..ManagedImage::default() })
    }

    fn due(statuses: &mut DeferredStatuses, now: Timestamp) -> Vec<String> {
        let mut due: Vec<String> = statuses.take_due(now).into_keys().collect();
        due.sort();
        due
    }

    #[test]
    fn a_state_is_written_once_it_has_lasted() {
        let mut statuses = DeferredStatuses::default();
        let stored = record(1, status(ImageState::Current, ""));
        assert_eq!(statuses.next_at(at(0)), None);
        statuses.defer("app", &stored, &status(ImageState::Waiting, "for a, b"), at(0));
        assert_eq!(statuses.next_at(at(0)), Some(at(5_000)));
        // A new message does not make the state newer; a new state does.
        statuses.defer("app", &stored, &status(ImageState::Waiting, "for b"), at(3_000));
        assert_eq!(statuses.next_at(at(3_000)), Some(at(5_000)));
        statuses.defer("app", &stored, &status(ImageState::Building, ""), at(4_000));
        assert!(due(&mut statuses, at(8_999)).is_empty());
        assert_eq!(due(&mut statuses, at(9_000)), ["app"]);
        assert_eq!(statuses.take_due(at(9_000))["app"].state, ImageState::Building);
        statuses.forget("app");
        assert_eq!(statuses.next_at(at(9_000)), None);
    }

    #[test]
    fn states_that_change_all_the_time_are_written_once_a_minute() {
        let mut statuses = DeferredStatuses::default();
        let stored = record(1, status(ImageState::Current, ""));
        for second in 0..59 {
            let state = [ImageState::Waiting, ImageState::Queued][second % 2];
            let now = at(1_000 * i64::try_from(second).expect("a second"));
            statuses.defer("app", &stored, &status(state, ""), now);
            assert!(due(&mut statuses, now).is_empty(), "{second}");
        }
        assert_eq!(statuses.next_at(at(58_000)), Some(at(60_000)));
    }

    #[test]
    fn a_message_alone_waits_for_a_minute() {
        let mut statuses = DeferredStatuses::default();
        let stored = record(1, status(ImageState::Waiting, "for a, b"));
        statuses.defer("app", &stored, &status(ImageState::Waiting, "for b"), at(0));
        assert_eq!(statuses.next_at(at(0)), Some(at(60_000)));
        let running = |job: &str| ManagedImageStatus {
            running: Some(RunningBuild { job: job.into(), ..RunningBuild::default() }),
            ..status(ImageState::Building, "")
        };
        let stored = record(1, running("app-0"));
        statuses.defer("app", &stored, &running("app-1"), at(10_000));
        assert_eq!(statuses.next_at(at(0)), Some(at(15_000)), "another build is no message");
    }

    #[test]
    fn the_oldest_states_are_written_first_and_a_few_per_second() {
        let mut statuses = DeferredStatuses::default();
        let stored = record(1, status(ImageState::Current, ""));
        for image in 0..10 {
            let since = at(i64::from(9 - image));
            let name = format!("i{image}");
            statuses.defer(&name, &stored, &status(ImageState::Waiting, ""), since);
        }
        let write = |statuses: &mut DeferredStatuses, now: i64| {
            let due = due(statuses, at(now));
            for image in &due {
                statuses.forget(image);
            }
            due
        };
        assert_eq!(write(&mut statuses, 6_000), ["i6", "i7", "i8", "i9"]);
        assert_eq!(statuses.next_at(at(6_001)), Some(at(7_000)));
        assert!(write(&mut statuses, 6_999).is_empty());
        assert_eq!(write(&mut statuses, 7_000), ["i2", "i3", "i4", "i5"]);
        assert_eq!(write(&mut statuses, 8_000), ["i0", "i1"]);
    }

    #[test]
    fn only_what_can_be_found_out_again_is_deferred() {
        let stored = status(ImageState::Current, "");
        let waiting = status(ImageState::Waiting, "for a");
        assert!(DeferredStatuses::can_defer(&stored, &waiting));
        assert!(!DeferredStatuses::can_defer(&waiting, &stored), "a result");
        let other = ManagedImageStatus { digest: Some("sha256:2".into()), ..waiting.clone() };
        assert!(!DeferredStatuses::can_defer(&stored, &other), "another build");
        let check = |state| CheckRecord { state, ..CheckRecord::default() };
        let checking = |state| ManagedImageStatus { checks: vec![check(state)], ..waiting.clone() };
        assert!(DeferredStatuses::can_defer(&stored, &checking(CheckState::Running)));
        assert!(!DeferredStatuses::can_defer(&stored, &checking(CheckState::Failed)));
        let starts = ManagedImageStatus { starts: vec![at(0)], ..waiting };
        assert!(!DeferredStatuses::can_defer(&stored, &starts), "the rate limit counts them");
    }

    #[test]
    fn what_somebody_else_writes_is_kept_and_what_somebody_undoes_is_forgotten() {
        let mut statuses = DeferredStatuses::default();
        let stored = record(1, status(ImageState::Current, ""));
        statuses.defer("app", &stored, &status(ImageState::Waiting, ""), at(0));
        let rolled_out = ManagedImageStatus {
            rollouts: vec![crate::api::RolloutRecord::default()],
            ..status(ImageState::Current, "")
        };
        let read = statuses.apply_to("app", record(2, rolled_out));
        let read = read.status.as_ref().expect("a status");
        assert_eq!((read.state, read.rollouts.len()), (ImageState::Waiting, 1));
        let lost = statuses.apply_to("app", record(3, ManagedImageStatus::default()));
        assert_eq!(lost.status.as_ref().map(|status| status.digest.clone()), Some(None));
        assert!(statuses.stored("app").is_none());
        let other = statuses.apply_to("other", Arc::clone(&stored));
        assert_eq!(other, stored);
    }
}
