//! The history of an image's builds in its record: the verified ones, and those whose image has
//! failed. Pure.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::{
    api::{
        BuildRecord, Duration, ImageState, ManagedImageStatus, condition::shorten,
        managed_image::MAX_HISTORY,
    },
    engine::{ImageDecision, Lookup, LookupResult, ObservedBuild, causes},
    identity::Fingerprint,
};

/// The most characters of the recorded message of a failed build.
const MAX_FAILURE_MESSAGE: usize = 300;

/// What is known of an image's builds in addition to its record.
#[derive(Clone, Copy, Debug)]
pub struct KnownBuilds<'a> {
    /// Builds whose Jobs exist.
    pub builds: &'a [ObservedBuild],
    /// The durations of ended builds in seconds, by the names of their Jobs.
    pub durations: &'a HashMap<String, i64>,
    /// What the registry has answered.
    pub lookups: &'a [Lookup],
}

/// A change of an image's history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryUpdate<'a> {
    /// The record before this reconcile.
    pub old: &'a ManagedImageStatus,
    /// The decision of this reconcile.
    pub decided: &'a ImageDecision,
    /// What else is known of the image's builds.
    pub known: KnownBuilds<'a>,
    /// The running cascade, or the empty string.
    pub cascade: &'a str,
    /// The most builds that the spec allows in the history.
    pub limit: i32,
    /// The time of this reconcile.
    pub now: Timestamp,
}

impl HistoryUpdate<'_> {
    /// Returns the last builds, newest first.
    ///
    /// One is added when there is a new verified build, or when the image has failed. A list that
    /// is longer than the limit, because the limit was higher before, is cut.
    #[must_use]
    pub fn history(self) -> Vec<BuildRecord> {
        let mut history = self.old.history.clone();
        let new = self.verified().or_else(|| self.failed());
        if let Some(new) = new {
            history.insert(0, new);
        }
        history.truncate(usize::try_from(self.limit).unwrap_or(1).clamp(1, MAX_HISTORY));
        history
    }

    fn verified(self) -> Option<BuildRecord> {
        let verified = self.decided.verified.as_ref()?;
        let is_adopted = verified.adopted.is_some();
        if self.old.fingerprint.as_deref() == Some(verified.fingerprint.as_str())
            && !(is_adopted && self.old.digest.as_deref() != Some(verified.digest.as_str()))
        {
            return None;
        }
        if is_adopted {
            return Some(BuildRecord {
                fingerprint: verified.fingerprint.to_string(),
                digest: verified.digest.to_string(),
                finished_at: Some(self.now),
                message: "adopted from the registry; nothing was built".into(),
                ..BuildRecord::default()
            });
        }
        Some(BuildRecord {
            build: Some(verified.build),
            fingerprint: verified.fingerprint.to_string(),
            digest: verified.digest.to_string(),
            finished_at: Some(self.now),
            duration: self.known.duration_of(self.old, &verified.fingerprint, self.now),
            message: causes::sentence(&verified.causes),
            causes: verified.causes.clone(),
            cascade: self.cascade.to_owned(),
            spared: verified.spared,
            parents: verified.inputs.parents.clone(),
        })
    }

    fn failed(self) -> Option<BuildRecord> {
        let (old, decided) = (self.old, self.decided);
        if decided.state != ImageState::Failed || old.state == ImageState::Failed {
            return None;
        }
        let failed = || Some(Fingerprint::from(decided.failure.as_ref()?.fingerprint.as_ref()?));
        let fingerprint = decided.fingerprint.clone().or_else(failed).unwrap_or_default();
        Some(BuildRecord {
            build: self.known.number_of(old, &fingerprint),
            fingerprint: fingerprint.into(),
            finished_at: Some(self.now),
            message: shorten(&decided.message.to_string(), MAX_FAILURE_MESSAGE),
            causes: decided.causes.clone(),
            cascade: self.cascade.to_owned(),
            ..BuildRecord::default()
        })
    }
}

impl KnownBuilds<'_> {
    /// Returns how long the build of a fingerprint took: the duration of its Job, or else the time
    /// since it was recorded to run.
    fn duration_of(
        &self,
        old: &ManagedImageStatus,
        fingerprint: &Fingerprint,
        now: Timestamp,
    ) -> Option<Duration> {
        let of_fingerprint =
            self.builds.iter().filter(|build| build.identity.fingerprint == *fingerprint);
        let newest = of_fingerprint.max_by_key(|build| build.identity.attempt);
        let of_job = newest.and_then(|build| self.durations.get(build.job.as_str()).copied());
        let running = old.running.as_ref().filter(|running| *fingerprint == running.fingerprint);
        let since = running.and_then(|running| running.started_at);
        let seconds = of_job.or_else(|| since.map(|started| now.duration_since(started).as_secs()));
        seconds.map(Duration::from_secs_clamped)
    }

    /// Returns the number of the build that has failed at a fingerprint; `None` if none was ever
    /// started.
    fn number_of(&self, old: &ManagedImageStatus, fingerprint: &Fingerprint) -> Option<i64> {
        let of_fingerprint =
            self.builds.iter().filter(|build| build.identity.fingerprint == *fingerprint);
        let started = of_fingerprint
            .max_by_key(|build| build.identity.attempt)
            .map(|build| build.identity.number);
        let running = old.running.as_ref().filter(|running| *fingerprint == running.fingerprint);
        let pushed = self.lookups.iter().find(|lookup| lookup.fingerprint == *fingerprint);
        let pushed = pushed.and_then(|lookup| match &lookup.result {
            LookupResult::Present { build, .. } => Some(*build),
            _ => None,
        });
        // The build was verified, and a check of it has failed.
        let verified =
            || old.build.filter(|_| old.fingerprint.as_deref() == Some(fingerprint.as_str()));
        started.or_else(|| running.map(|running| running.build)).or(pushed).or_else(verified)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::{FailureRecord, RunningBuild, condition::Reason},
        engine::{BuildOutcome, Problem, VerifiedBuild, WaitProgress, fixtures},
    };

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn failed(fingerprint: Option<&str>) -> ImageDecision {
        let problem = Problem { reason: Reason::BuildFailed, message: "exit code 1".into() };
        let fingerprint = fingerprint.map(Fingerprint::from);
        ImageDecision {
            state: ImageState::Failed,
            fingerprint,
            ..ImageDecision::waiting(problem, WaitProgress::AtRest)
        }
    }

    fn update<'a>(
        old: &'a ManagedImageStatus,
        decided: &'a ImageDecision,
        known: KnownBuilds<'a>,
        limit: i32,
        now: Timestamp,
    ) -> HistoryUpdate<'a> {
        HistoryUpdate { old, decided, known, cascade: "cascade", limit, now }
    }

    fn job(fingerprint: &str, attempt: i32, build: i64) -> ObservedBuild {
        let mut observed = fixtures::job(fingerprint, attempt, BuildOutcome::Running);
        observed.identity.number = build;
        observed
    }

    #[test]
    fn a_failed_build_has_its_own_number_or_none() {
        let durations = HashMap::new();
        let number = |old: &ManagedImageStatus,
                      decided: &ImageDecision,
                      builds: &[ObservedBuild],
                      lookups: &[Lookup]| {
            let known = KnownBuilds { builds, durations: &durations, lookups };
            let history = update(old, decided, known, 10, second(0)).history();
            assert_eq!((history.len(), history[0].digest.as_str()), (1, ""));
            history[0].build
        };
        // Build 4 is the last verified one, and builds 5 and 6 had other fingerprints.
        let old = ManagedImageStatus {
            build: Some(4),
            fingerprint: Some("verified".into()),
            ..ManagedImageStatus::default()
        };
        let jobs = [job("verified", 0, 4), job("other", 0, 6), job("f", 0, 7), job("f", 1, 7)];
        assert_eq!(number(&old, &failed(Some("f")), &jobs, &[]), Some(7));
        assert_eq!(number(&old, &failed(Some("refused")), &jobs, &[]), None, "it never got a Job");
        let running = RunningBuild { fingerprint: "f".into(), build: 7, ..RunningBuild::default() };
        let ran = ManagedImageStatus { running: Some(running), ..old.clone() };
        assert_eq!(number(&ran, &failed(Some("f")), &[], &[]), Some(7), "its Job is gone");
        let result = LookupResult::Present {
            digest: "d".into(),
            build: 8,
            size: 1,
            content: None,
            blobs: None,
            request: None,
        };
        let pushed = [Lookup { fingerprint: "checked".into(), result }];
        assert_eq!(
            number(&old, &failed(Some("checked")), &[], &pushed),
            Some(8),
            "a check of it has failed"
        );
        let failure =
            FailureRecord { fingerprint: Some("verified".into()), ..FailureRecord::default() };
        let only_checks = ImageDecision { failure: Some(Box::new(failure)), ..failed(None) };
        assert_eq!(
            number(&old, &only_checks, &[], &[]),
            Some(4),
            "the checks of a verified build have changed"
        );
    }

    #[test]
    fn the_duration_of_a_build_is_that_of_its_job_even_if_its_checks_took_longer() {
        let verified = VerifiedBuild {
            build: 2,
            fingerprint: "f".into(),
            digest: "d".into(),
            ..VerifiedBuild::default()
        };
        let problem = Problem { reason: Reason::Current, message: String::new() };
        let decided = ImageDecision {
            verified: Some(Arc::new(verified)),
            ..ImageDecision::waiting(problem, WaitProgress::AtRest)
        };
        let durations = HashMap::from([("f-0".to_owned(), 30)]);
        let known = KnownBuilds { builds: &[job("f", 0, 2)], durations: &durations, lookups: &[] };
        // The record names no running build, because it has ended before its checks.
        let old = ManagedImageStatus::default();
        let entry = update(&old, &decided, known, 10, second(500)).history().remove(0);
        assert_eq!((entry.build, entry.duration), (Some(2), Some(Duration::from_secs(30))));
        let running = RunningBuild {
            fingerprint: "f".into(),
            started_at: Some(second(440)),
            ..RunningBuild::default()
        };
        let old = ManagedImageStatus { running: Some(running), ..ManagedImageStatus::default() };
        let gone = KnownBuilds { builds: &[], ..known };
        assert_eq!(
            update(&old, &decided, gone, 10, second(500)).history()[0].duration,
            Some(Duration::from_secs(60))
        );
    }

    #[test]
    fn a_history_is_cut_to_the_limit_of_the_spec() {
        let known = KnownBuilds { builds: &[], durations: &HashMap::new(), lookups: &[] };
        let history_of = |length: usize, limit| {
            let old = ManagedImageStatus {
                history: vec![BuildRecord::default(); length],
                ..ManagedImageStatus::default()
            };
            update(&old, &failed(Some("f")), known, limit, second(0)).history().len()
        };
        assert_eq!((history_of(5, 3), history_of(0, 3), history_of(80, 1000)), (3, 1, MAX_HISTORY));
    }
}
