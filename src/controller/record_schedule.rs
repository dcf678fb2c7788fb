//! When the records of current builds are written. What a registry refuses is tried again later,
//! and keeps the records of other images from nothing. No client is needed.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::{backoff, identity::Fingerprint};

/// The most records of current builds that one reconcile writes.
const MAX_RECORD_WRITES: usize = 64;
/// Upper bound on the pause after which a record is written again in whose place the registry keeps
/// that of an earlier key. Whoever may push changes that, and tells nobody.
const MAX_KEPT_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// A current build whose record is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnrecordedBuild {
    /// The image.
    pub image: String,
    /// The fingerprint of the build.
    pub fingerprint: Fingerprint,
}

/// The result of an attempt to write a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordAttempt {
    /// It was written with the newest key, or was there.
    Written,
    /// The registry keeps the record of an earlier key, and lets nobody write another one.
    Kept,
    /// It was not written.
    Failed,
}

/// The records that a reconcile writes.
#[derive(Debug)]
pub struct DueRecords<R> {
    /// The records.
    pub records: Vec<R>,
    /// Whether others are to be written right after them.
    pub is_more: bool,
}

/// The last attempt to write a record that was not written.
#[derive(Debug)]
struct UnwrittenAttempt {
    fingerprint: Fingerprint,
    tried_at: Timestamp,
    next_at: Timestamp,
}

/// What was tried of one family. It is lost with the process, whose next one may have other keys.
#[derive(Debug, Default)]
pub struct RecordSchedule {
    unwritten: HashMap<String, UnwrittenAttempt>,
    failures: u32,
    retry_at: Option<Timestamp>,
}

impl RecordSchedule {
    /// Returns until when nothing is written, because something could not be.
    #[must_use]
    pub fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.retry_at.filter(|at| *at > now)
    }

    /// Returns which of these records are written now: those first that were not tried yet, then
    /// those that were tried longest ago, so that none keeps another from its turn.
    pub fn due<R>(
        &self,
        records: Vec<R>,
        build: impl Fn(&R) -> &UnrecordedBuild,
        now: Timestamp,
    ) -> DueRecords<R> {
        let last = |record: &R| self.last_attempt(build(record));
        let is_due = |record: &R| last(record).is_none_or(|last| last.next_at <= now);
        let mut records: Vec<R> = records.into_iter().filter(is_due).collect();
        records.sort_by_key(|record| last(record).map(|last| last.tried_at));
        let is_more = records.len() > MAX_RECORD_WRITES;
        records.truncate(MAX_RECORD_WRITES);
        DueRecords { records, is_more }
    }

    /// Notes an attempt. `seed` chooses the jitter of a pause.
    pub fn note(
        &mut self,
        build: UnrecordedBuild,
        attempt: RecordAttempt,
        now: Timestamp,
        seed: u64,
    ) {
        let UnrecordedBuild { image, fingerprint } = build;
        let pause = match attempt {
            RecordAttempt::Written => {
                self.unwritten.remove(&image);
                return;
            }
            RecordAttempt::Kept => backoff::pause(1, MAX_KEPT_PAUSE, MAX_KEPT_PAUSE, seed),
            RecordAttempt::Failed => SignedDuration::ZERO,
        };
        let next_at = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        self.unwritten.insert(image, UnwrittenAttempt { fingerprint, tried_at: now, next_at });
    }

    /// Returns how many reconciles in a row have failed to write a record.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Ends the attempts of a reconcile. `retry_at` is when those that have failed are made again,
    /// if there are any.
    pub fn end_attempts(&mut self, retry_at: Option<Timestamp>) {
        self.failures = if retry_at.is_some() { self.failures.saturating_add(1) } else { 0 };
        self.retry_at = retry_at;
    }

    /// Returns when the next record is due that waits.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.unwritten.values().map(|last| last.next_at).filter(|at| *at > now).min()
    }

    /// Forgets images that the family no longer has.
    pub fn retain_images(&mut self, wanted: &HashSet<&str>) {
        self.unwritten.retain(|image, _| wanted.contains(image.as_str()));
    }

    fn last_attempt(&self, build: &UnrecordedBuild) -> Option<&UnwrittenAttempt> {
        self.unwritten.get(&build.image).filter(|last| last.fingerprint == build.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn builds(count: usize) -> Vec<UnrecordedBuild> {
        let build = |number| UnrecordedBuild {
            image: format!("i{number}"),
            fingerprint: format!("f{number}").into(),
        };
        (0..count).map(build).collect()
    }

    /// Attempts what is due of these builds, with this result, and returns the names of the images
    /// and whether more is due.
    fn attempt(
        schedule: &mut RecordSchedule,
        builds: &[UnrecordedBuild],
        result: RecordAttempt,
        now: Timestamp,
    ) -> (Vec<String>, bool) {
        let due = schedule.due(builds.to_vec(), |build| build, now);
        let names = due.records.iter().map(|build| build.image.clone()).collect();
        for build in due.records {
            schedule.note(build, result, now, 0);
        }
        (names, due.is_more)
    }

    #[test]
    fn records_that_a_registry_keeps_end_and_wait() {
        let mut schedule = RecordSchedule::default();
        let builds = builds(2 * MAX_RECORD_WRITES + 1);
        let mut attempted = HashSet::new();
        for (count, more) in [(MAX_RECORD_WRITES, true), (MAX_RECORD_WRITES, true), (1, false)] {
            let (names, is_more) = attempt(&mut schedule, &builds, RecordAttempt::Kept, second(10));
            assert_eq!((names.len(), is_more), (count, more));
            attempted.extend(names);
        }
        assert_eq!(attempted.len(), builds.len(), "each had its turn");
        let (names, is_more) = attempt(&mut schedule, &builds, RecordAttempt::Kept, second(11));
        assert_eq!((names.len(), is_more), (0, false));
        assert_eq!(schedule.paused_until(second(11)), None, "nothing else waits");
        let next = schedule.next_at(second(11)).expect("a time");
        assert_eq!(next, second(10 + 3600));
        let (names, _) = attempt(&mut schedule, &builds, RecordAttempt::Written, next);
        assert_eq!(names.len(), MAX_RECORD_WRITES);
        // Another build of the image has another record.
        let other = UnrecordedBuild { fingerprint: "other".into(), ..builds[100].clone() };
        let (names, _) = attempt(&mut schedule, &[other], RecordAttempt::Kept, second(12));
        assert_eq!(names, ["i100"]);
    }

    #[test]
    fn records_that_fail_leave_the_next_turn_to_others() {
        let mut schedule = RecordSchedule::default();
        let builds = builds(MAX_RECORD_WRITES + 2);
        let (first, is_more) = attempt(&mut schedule, &builds, RecordAttempt::Failed, second(10));
        assert_eq!((first[0].as_str(), is_more), ("i0", true));
        schedule.end_attempts(Some(second(15)));
        assert_eq!(schedule.paused_until(second(14)), Some(second(15)));
        assert_eq!(schedule.paused_until(second(15)), None);
        assert_eq!(schedule.failures(), 1);
        let (then, _) = attempt(&mut schedule, &builds, RecordAttempt::Failed, second(15));
        assert_eq!(then[..3], ["i64", "i65", "i0"]);
        schedule.end_attempts(None);
        assert_eq!(schedule.failures(), 0);
        schedule.retain_images(&HashSet::from(["i1"]));
        let (last, _) = attempt(&mut schedule, &builds[..3], RecordAttempt::Failed, second(16));
        assert_eq!(last, ["i0", "i2", "i1"], "those that were forgotten are new");
    }
}
