//! Jobs that are not admitted now: a quota is full, a policy forbids them or their pods, or the
//! image that a check runs in cannot be resolved. Each is created again after a pause that grows,
//! for as long as it takes. No client is needed.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::condition::ReasonTrait,
    backoff::{self, jitter_seed},
    engine::{DeferredJob, DeferredWork, Problem},
};

/// The pause after the first rejection. It doubles with each one in a row.
const MIN_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// Upper bound on the pause between two tries.
const MAX_PAUSE: SignedDuration = SignedDuration::from_mins(5);
/// The most rejected Jobs of an image that are kept.
const MAX_JOBS_PER_IMAGE: usize = 32;

/// The rejected Jobs of a family, by image. Losing them costs one more try per Job.
#[derive(Debug, Default)]
pub struct DeferredJobs(HashMap<String, Vec<RejectedJob>>);

/// A rejection of a Job or of its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The image that the Job belongs to.
    pub image: String,
    /// What the Job is for.
    pub work: DeferredWork,
    /// Why it is rejected.
    pub problem: Problem,
    /// The uid of the Job, if it was created and its pod is rejected. Such a rejection is observed
    /// until the Job is deleted, and counts once.
    pub job_uid: Option<String>,
    /// When the Job is to be created again, if that does not depend on the number of its
    /// rejections.
    pub retry_at: Option<Timestamp>,
}

#[derive(Debug)]
struct RejectedJob {
    job: DeferredJob,
    /// What the Job was made of.
    job_version: String,
    /// How many times in a row it was rejected.
    rejections: u32,
    /// The uid of the last Job whose pod was rejected.
    job_uid: Option<String>,
    /// When the Job was last rejected.
    rejected_at: Timestamp,
    /// Whether a quota has changed since.
    is_hastened: bool,
}

impl RejectedJob {
    /// Whether the Job waits for a quota that has not changed since it was rejected.
    fn waits_for_quota(&self) -> bool {
        !self.is_hastened && self.job.problem.reason.has(ReasonTrait::AwaitsQuota)
    }
}

impl DeferredJobs {
    /// Records a rejection. `family` is the uid of the family, and `job_version` says what the Job
    /// was made of.
    pub fn record(
        &mut self,
        rejection: Rejection,
        family: &str,
        job_version: &str,
        now: Timestamp,
    ) {
        let Rejection { image, work, problem, job_uid, retry_at } = rejection;
        let seed = jitter_seed(&[family, &image]);
        let known = self.0.entry(image).or_default();
        let position = known.iter().position(|rejected| rejected.job.work == work);
        let before = position
            .map(|position| known.remove(position))
            .filter(|before| before.job_version == job_version);
        let is_observed_again =
            |before: &RejectedJob| job_uid.is_some() && before.job_uid == job_uid;
        let before = match before {
            Some(mut before) if is_observed_again(&before) => {
                before.job.problem = problem;
                known.push(before);
                return;
            }
            before => before,
        };
        let rejections = before.as_ref().map_or(0, |before| before.rejections).saturating_add(1);
        let since = before.as_ref().map_or(now, |before| before.job.since);
        let seed = seed.wrapping_add(rejections.into());
        let pause = backoff::pause(rejections, MIN_PAUSE, MAX_PAUSE, seed);
        let retry_at =
            retry_at.unwrap_or_else(|| now.saturating_add(pause).unwrap_or(Timestamp::MAX));
        if known.len() >= MAX_JOBS_PER_IMAGE {
            known.remove(0);
        }
        let job = DeferredJob { work, problem, since, retry_at };
        let job_version = job_version.into();
        // A rejection of the Job itself does not change which Job's pod was rejected before.
        let job_uid = job_uid.or_else(|| before.and_then(|before| before.job_uid));
        let (rejected_at, is_hastened) = (now, false);
        known.push(RejectedJob { job, job_version, rejections, job_uid, rejected_at, is_hastened });
    }

    /// Returns since when the Jobs that wait for a quota have done so; `None` if none waits.
    #[must_use]
    pub fn wait_for_quota_since(&self) -> Option<Timestamp> {
        let waiting = self.0.values().flatten().filter(|rejected| rejected.waits_for_quota());
        waiting.map(|rejected| rejected.rejected_at).min()
    }

    /// Lets the Jobs that wait for a quota be created at once, because a quota has changed, but not
    /// before the first pause after their last rejection has passed.
    pub fn hasten(&mut self, changed_at: Timestamp) {
        for rejected in self.0.values_mut().flatten() {
            if rejected.waits_for_quota() && rejected.rejected_at <= changed_at {
                let first = rejected.rejected_at.saturating_add(MIN_PAUSE);
                let retry_at = first.unwrap_or(Timestamp::MAX);
                rejected.job.retry_at = rejected.job.retry_at.min(retry_at);
                rejected.is_hastened = true;
            }
        }
    }

    /// Forgets a Job that was admitted with its pod.
    pub fn forget(&mut self, image: &str, work: &DeferredWork) {
        if let Some(known) = self.0.get_mut(image) {
            known.retain(|rejected| rejected.job.work != *work);
        }
    }

    /// Returns the rejected Jobs of an image that were made of what they would be made of now.
    #[must_use]
    pub fn of(&self, image: &str, job_version: &str) -> Vec<DeferredJob> {
        let known = self.0.get(image).map_or(&[][..], Vec::as_slice);
        let same = known.iter().filter(|rejected| rejected.job_version == job_version);
        same.map(|rejected| rejected.job.clone()).collect()
    }

    /// Forgets the Jobs of all other images.
    pub fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.retain(|image, known| !known.is_empty() && is_wanted(image));
    }

    /// Forgets all Jobs.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::Reason;

    fn rejection(fingerprint: &str, job_uid: Option<&str>) -> Rejection {
        Rejection {
            image: "app".into(),
            work: DeferredWork::Build(fingerprint.into()),
            problem: Problem { reason: Reason::QuotaExceeded, message: "full".into() },
            job_uid: job_uid.map(str::to_owned),
            retry_at: None,
        }
    }

    fn pause(deferred: &DeferredJobs, now: Timestamp) -> i64 {
        deferred.of("app", "1").last().expect("a Job").retry_at.duration_since(now).as_secs()
    }

    #[test]
    fn the_pause_grows_for_as_long_as_a_job_is_rejected() {
        let mut deferred = DeferredJobs::default();
        let (mut now, mut pauses) = (Timestamp::UNIX_EPOCH, Vec::new());
        for _ in 0..20 {
            deferred.record(rejection("f", None), "u", "1", now);
            pauses.push(pause(&deferred, now));
            now = deferred.of("app", "1")[0].retry_at;
        }
        assert!(pauses[0] >= 7 && pauses[0] <= 10, "{pauses:?}");
        assert!(pauses.windows(2).take(5).all(|pair| pair[0] < pair[1]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 300), "{pauses:?}");
        assert!(pauses[19] > 200, "{pauses:?}");
        assert_eq!(deferred.of("app", "1")[0].since, Timestamp::UNIX_EPOCH);
        deferred.record(rejection("g", None), "u", "1", now);
        deferred.forget("app", &DeferredWork::Build("f".into()));
        assert_eq!(deferred.of("app", "1").len(), 1);
        assert!(pause(&deferred, now) <= 10, "another Job starts with the first pause");
        for number in 0..100 {
            deferred.record(rejection(&number.to_string(), None), "u", "1", now);
        }
        assert_eq!(deferred.of("app", "1").len(), MAX_JOBS_PER_IMAGE);
        deferred.retain(|image| image != "app");
        assert!(deferred.of("app", "1").is_empty());
    }

    #[test]
    fn a_changed_quota_shortens_the_pause_once_per_rejection() {
        let (mut deferred, mut now) = (DeferredJobs::default(), Timestamp::UNIX_EPOCH);
        for _ in 0..10 {
            deferred.record(rejection("f", None), "u", "1", now);
            now = deferred.of("app", "1")[0].retry_at;
        }
        let policy = Problem { reason: Reason::JobRefused, message: "no".into() };
        deferred.record(Rejection { problem: policy, ..rejection("g", None) }, "u", "1", now);
        let other = deferred.of("app", "1")[1].retry_at;
        deferred.record(rejection("f", None), "u", "1", now);
        assert_eq!(deferred.wait_for_quota_since(), Some(now));
        assert!(pause(&deferred, now) > 100);

        deferred.hasten(now - SignedDuration::from_secs(1));
        assert!(pause(&deferred, now) > 100, "the change was before the rejection");
        deferred.hasten(now);
        assert_eq!(pause(&deferred, now), MIN_PAUSE.as_secs());
        assert_eq!(deferred.of("app", "1")[0].retry_at, other, "a policy is no quota");
        assert_eq!(deferred.wait_for_quota_since(), None, "it need not be woken again");

        let later = now + MIN_PAUSE;
        deferred.record(rejection("f", None), "u", "1", later);
        assert_eq!(deferred.wait_for_quota_since(), Some(later));
        assert!(pause(&deferred, later) > 100);
        deferred.forget("app", &DeferredWork::Build("f".into()));
        assert_eq!(deferred.wait_for_quota_since(), None);
    }

    #[test]
    fn a_job_made_of_something_else_waits_for_nothing() {
        let (mut deferred, now) = (DeferredJobs::default(), Timestamp::UNIX_EPOCH);
        for _ in 0..5 {
            deferred.record(rejection("f", None), "u", "1", now);
        }
        assert_eq!(deferred.of("app", "1").len(), 1);
        assert_eq!(deferred.of("app", "2"), [], "the strategy was edited");
        deferred.record(rejection("f", None), "u", "2", now);
        assert!(deferred.of("app", "2")[0].retry_at.duration_since(now).as_secs() <= 10);
        assert_eq!(deferred.of("app", "1"), []);
    }

    #[test]
    fn the_rejected_pod_of_a_job_counts_once() {
        let (mut deferred, now) = (DeferredJobs::default(), Timestamp::UNIX_EPOCH);
        let later = now + SignedDuration::from_secs(5);
        for at in [now, later, later] {
            deferred.record(rejection("f", Some("u1")), "u", "1", at);
        }
        let first = deferred.of("app", "1")[0].retry_at;
        assert!(first <= now + MIN_PAUSE, "it was observed three times");
        deferred.record(rejection("f", Some("u2")), "u", "1", later);
        assert!(deferred.of("app", "1")[0].retry_at > later + MIN_PAUSE, "the next Job");
    }

    #[test]
    fn a_refusal_may_say_when_to_try_again() {
        let (mut deferred, now) = (DeferredJobs::default(), Timestamp::UNIX_EPOCH);
        let at = now + SignedDuration::from_hours(1);
        for _ in 0..3 {
            deferred.record(
                Rejection { retry_at: Some(at), ..rejection("f", None) },
                "u",
                "1",
                now,
            );
            assert_eq!(deferred.of("app", "1")[0].retry_at, at);
        }
    }

    #[test]
    fn families_in_other_namespaces_do_not_try_at_the_same_time() {
        let retry_at = |family: &str| {
            let mut deferred = DeferredJobs::default();
            deferred.record(rejection("f", None), family, "1", Timestamp::UNIX_EPOCH);
            deferred.of("app", "1")[0].retry_at
        };
        assert_ne!(retry_at("a"), retry_at("b"));
    }
}
