//! The history of an image's builds, as its record tells it: those that were good, and those that
//! failed for good. Pure.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::{
    api::{
        BuildRecord, ImageState, ManagedImageStatus, condition::shorten, managed_image::MAX_HISTORY,
    },
    engine::{ImageDecision, Lookup, LookupResult, ObservedBuild, causes},
    identity::Fingerprint,
};

/// The most characters that are recorded of why a build failed.
const MAX_WHY: usize = 300;

/// What is known of an image's builds beside its record.
#[derive(Clone, Copy, Debug)]
pub struct KnownBuilds<'a> {
    /// Builds that the cluster still knows.
    pub builds: &'a [ObservedBuild],
    /// How long those took that have ended, in seconds, by their Jobs' names.
    pub seconds: &'a HashMap<String, i64>,
    /// What the registry has answered.
    pub lookups: &'a [Lookup],
}

/// The last builds, newest first; one is added when a good build is new, or when an image has
/// failed for good. A list that is longer than the spec allows, for it was written under another,
/// is cut.
#[must_use]
pub fn history(
    old: &ManagedImageStatus,
    decided: &ImageDecision,
    known: KnownBuilds<'_>,
    cascade: &str,
    keep: i32,
    now: Timestamp,
) -> Vec<BuildRecord> {
    let mut history = old.history.clone();
    let verified = decided
        .verified
        .as_ref()
        .filter(|verified| old.fingerprint.as_deref() != Some(verified.fingerprint.as_str()));
    if let Some(verified) = verified {
        let record = BuildRecord {
            build: Some(verified.build),
            fingerprint: verified.fingerprint.to_string(),
            digest: verified.digest.to_string(),
            finished_at: Some(now),
            seconds: known.seconds_of(old, &verified.fingerprint, now),
            why: causes::sentence(&verified.causes),
            causes: verified.causes.clone(),
            cascade: cascade.to_owned(),
            spared: verified.spared,
        };
        history.insert(0, record);
    } else if decided.state == ImageState::Failed && old.state != ImageState::Failed {
        let failed = || Some(Fingerprint::from(&decided.failure.as_ref()?.fingerprint));
        let fingerprint = decided.fingerprint.clone().or_else(failed).unwrap_or_default();
        let record = BuildRecord {
            build: known.number_of(old, &fingerprint),
            fingerprint: fingerprint.into(),
            finished_at: Some(now),
            why: shorten(&decided.message.to_string(), MAX_WHY),
            causes: decided.causes.clone(),
            cascade: cascade.to_owned(),
            ..BuildRecord::default()
        };
        history.insert(0, record);
    }
    history.truncate(usize::try_from(keep).unwrap_or(1).clamp(1, MAX_HISTORY));
    history
}

impl KnownBuilds<'_> {
    /// How long the build of a fingerprint took, in seconds: as its Job tells, or since it was seen
    /// to run.
    fn seconds_of(
        &self,
        old: &ManagedImageStatus,
        fingerprint: &Fingerprint,
        now: Timestamp,
    ) -> Option<i64> {
        let of_fingerprint =
            self.builds.iter().filter(|build| build.identity.fingerprint == *fingerprint);
        let newest = of_fingerprint.max_by_key(|build| build.identity.attempt);
        let told = newest.and_then(|build| self.seconds.get(build.job.as_str()).copied());
        let running = old.running.as_ref().filter(|running| *fingerprint == running.fingerprint);
        let since = running.and_then(|running| running.started_at);
        told.or_else(|| since.map(|started| now.duration_since(started).as_secs().max(0)))
    }

    /// The number of the build that has failed at a fingerprint; `None` if none was ever started.
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
        // Its build was good, and a check of it is not.
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
        api::{FailureRecord, RunningBuild, condition::reason},
        engine::{BuildOutcome, Problem, VerifiedBuild, fixtures},
    };

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn failed(fingerprint: Option<&str>) -> ImageDecision {
        let problem = Problem { reason: reason::BUILD_FAILED, message: "exit code 1".into() };
        let fingerprint = fingerprint.map(Fingerprint::from);
        ImageDecision {
            state: ImageState::Failed,
            fingerprint,
            ..ImageDecision::waiting(problem, false)
        }
    }

    fn job(fingerprint: &str, attempt: i32, build: i64) -> ObservedBuild {
        let mut observed = fixtures::job(fingerprint, attempt, BuildOutcome::Running);
        observed.identity.number = build;
        observed
    }

    #[test]
    fn a_failed_build_has_its_own_number_or_none() {
        let seconds = HashMap::new();
        let number = |old: &ManagedImageStatus,
                      decided: &ImageDecision,
                      builds: &[ObservedBuild],
                      lookups: &[Lookup]| {
            let known = KnownBuilds { builds, seconds: &seconds, lookups };
            let history = history(old, decided, known, "cascade", 10, second(0));
            assert_eq!((history.len(), history[0].digest.as_str()), (1, ""));
            history[0].build
        };
        // Build 4 is the last good one, and 5 and 6 were of other fingerprints.
        let old = ManagedImageStatus {
            build: Some(4),
            fingerprint: Some("good".into()),
            ..ManagedImageStatus::default()
        };
        let jobs = [job("good", 0, 4), job("other", 0, 6), job("f", 0, 7), job("f", 1, 7)];
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
        };
        let pushed = [Lookup { fingerprint: "checked".into(), result }];
        assert_eq!(
            number(&old, &failed(Some("checked")), &[], &pushed),
            Some(8),
            "a check of it \
            has failed"
        );
        let failure = FailureRecord { fingerprint: "good".into(), ..FailureRecord::default() };
        let only_checks = ImageDecision { failure: Some(Box::new(failure)), ..failed(None) };
        assert_eq!(
            number(&old, &only_checks, &[], &[]),
            Some(4),
            "the checks of a good build have \
            changed"
        );
    }

    #[test]
    fn a_good_build_is_as_long_as_its_job_tells_though_its_checks_took_longer() {
        let verified = VerifiedBuild {
            build: 2,
            fingerprint: "f".into(),
            digest: "d".into(),
            ..VerifiedBuild::default()
        };
        let problem = Problem { reason: reason::CURRENT, message: String::new() };
        let decided = ImageDecision {
            verified: Some(Arc::new(verified)),
            ..ImageDecision::waiting(problem, false)
        };
        let seconds = HashMap::from([("f-0".to_owned(), 30)]);
        let known = KnownBuilds { builds: &[job("f", 0, 2)], seconds: &seconds, lookups: &[] };
        // The record tells of no running build: it has ended before the checks have.
        let old = ManagedImageStatus::default();
        let entry = history(&old, &decided, known, "cascade", 10, second(500)).remove(0);
        assert_eq!((entry.build, entry.seconds), (Some(2), Some(30)));
        let running = RunningBuild {
            fingerprint: "f".into(),
            started_at: Some(second(440)),
            ..RunningBuild::default()
        };
        let old = ManagedImageStatus { running: Some(running), ..ManagedImageStatus::default() };
        let gone = KnownBuilds { builds: &[], ..known };
        assert_eq!(history(&old, &decided, gone, "cascade", 10, second(500))[0].seconds, Some(60));
    }

    #[test]
    fn a_list_is_cut_to_what_the_spec_allows() {
        let known = KnownBuilds { builds: &[], seconds: &HashMap::new(), lookups: &[] };
        let history_of = |length: usize, keep| {
            let old = ManagedImageStatus {
                history: vec![BuildRecord::default(); length],
                ..ManagedImageStatus::default()
            };
            history(&old, &failed(Some("f")), known, "cascade", keep, second(0)).len()
        };
        assert_eq!((history_of(5, 3), history_of(0, 3), history_of(80, 1000)), (3, 1, MAX_HISTORY));
    }
}
