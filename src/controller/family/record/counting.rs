//! What the metrics count when the record of an image changes: builds and checks that have ended,
//! each once. Pure.
//!
//! A record names the running build. When it no longer does, the build has ended and is counted by
//! the outcome of its Job. So a restart counts nothing twice.

use std::{collections::HashMap, time::Duration};

use crate::{
    api::{CheckRecord, CheckState, FailureClass, FailureRecord, Image, ManagedImageStatus},
    engine::{BuildOutcome, CheckOutcome, ObservedBuild, ObservedCheck},
    server::metrics::{BuildResult, CheckResult},
};

/// The change of an image's record, and what is known of the image's Jobs.
#[derive(Clone, Copy, Debug)]
pub struct RecordChange<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its record before this reconcile.
    pub old: &'a ManagedImageStatus,
    /// Its record after this reconcile.
    pub new: &'a ManagedImageStatus,
    /// Its builds.
    pub builds: &'a [ObservedBuild],
    /// The durations of ended builds in seconds, by the names of their Jobs.
    pub durations: &'a HashMap<String, i64>,
    /// Its checks.
    pub checks: &'a [ObservedCheck],
}

/// A build that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedBuild {
    /// How it ended.
    pub result: BuildResult,
    /// How long it took, if that is known.
    pub duration: Option<Duration>,
}

impl RecordChange<'_> {
    /// Returns the builds that have ended.
    #[must_use]
    pub fn builds(&self) -> Vec<EndedBuild> {
        let refused = self.refused().map(|result| EndedBuild { result, duration: None });
        self.ended().into_iter().chain(refused).collect()
    }

    /// Returns the build that ran before and no longer runs.
    fn ended(&self) -> Option<EndedBuild> {
        let ran = self.old.running.as_ref()?;
        if self.new.running.as_ref().is_some_and(|running| running.job == ran.job) {
            return None;
        }
        let observed = self.builds.iter().find(|build| build.job == ran.job);
        let result = match observed.map(|build| &build.outcome) {
            // What was not admitted is no build that has ended.
            Some(BuildOutcome::Running | BuildOutcome::NotAdmitted(_)) => return None,
            Some(BuildOutcome::Succeeded) => BuildResult::Succeeded,
            Some(BuildOutcome::Failed(failure)) => failure.class.into(),
            // The Job is gone, and the registry has the result.
            None if self.new.fingerprint.as_ref() == Some(&ran.fingerprint) => {
                BuildResult::Succeeded
            }
            Some(BuildOutcome::Stopped) | None => BuildResult::Cancelled,
        };
        let seconds = self.durations.get(&ran.job).and_then(|seconds| u64::try_from(*seconds).ok());
        Some(EndedBuild { result, duration: seconds.map(Duration::from_secs) })
    }

    /// Returns a build that has failed without a Job, because it could not be started.
    fn refused(&self) -> Option<BuildResult> {
        let failure = self.new.failure.as_ref()?;
        let counted = self.known(failure).and_then(|known| known.attempt);
        let has_job = |build: &ObservedBuild| {
            failure.is_of(build.identity.fingerprint.as_str())
                && failure.attempt == Some(build.identity.attempt)
        };
        let is_new = failure.attempt > counted && failure.last.class != FailureClass::Cancelled;
        (is_new && !failure.last.reason.is_empty() && !self.builds.iter().any(has_job))
            .then(|| failure.last.class.into())
    }

    /// Returns the failures of the same fingerprint in the old record.
    fn known(&self, failure: &FailureRecord) -> Option<&FailureRecord> {
        self.old.failure.as_ref().filter(|known| known.fingerprint == failure.fingerprint)
    }

    /// Returns the checks that have ended. Several required checks that fail in one attempt count
    /// once, as they do on the retry budget.
    #[must_use]
    pub fn checks(&self) -> Vec<CheckResult> {
        let mut results: Vec<CheckResult> =
            self.new.checks.iter().filter_map(|record| self.new_result(record)).collect();
        if let Some(failure) = &self.new.failure
            && failure.last.class != FailureClass::Cancelled
            && failure.check_attempt > self.known(failure).map_or(0, |known| known.check_attempt)
        {
            results.push(failure.last.class.into());
        }
        results
    }

    /// Returns the result of a check if it is new. Failures of required checks are counted from the
    /// record of failures.
    fn new_result(&self, record: &CheckRecord) -> Option<CheckResult> {
        let same =
            |known: &&CheckRecord| known.matches(&record.name, &record.digest, &record.revision);
        if self.old.checks.iter().find(same).is_some_and(|known| known.state == record.state) {
            return None;
        }
        let required =
            self.image.checks.iter().any(|check| check.name == record.name && check.required);
        match record.state {
            CheckState::Running => None,
            CheckState::Passed => Some(CheckResult::Passed),
            CheckState::Failed if required => None,
            CheckState::Failed => Some(self.failed_result(record)),
        }
    }

    /// Returns how a failed check has failed. Without a Job, it could not be started.
    fn failed_result(&self, record: &CheckRecord) -> CheckResult {
        let of_record = self.checks.iter().filter(|observed| {
            record.matches(&observed.check, observed.digest.as_str(), &observed.revision)
        });
        let mut class = of_record.filter_map(|observed| match &observed.outcome {
            CheckOutcome::Failed(failure) => Some(failure.class),
            CheckOutcome::Running
            | CheckOutcome::Passed(_)
            | CheckOutcome::NotAdmitted(_)
            | CheckOutcome::Stopped => None,
        });
        class.next_back().unwrap_or(FailureClass::Infrastructure).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{BuildFailure, Check, RunningBuild},
        engine::fixtures,
    };

    fn job(attempt: i32, outcome: BuildOutcome) -> ObservedBuild {
        fixtures::job("f", attempt, outcome)
    }

    fn failure(class: FailureClass) -> BuildFailure {
        BuildFailure { class, reason: "X".into(), message: String::new() }
    }

    fn record(attempt: impl Into<Option<i32>>, class: FailureClass) -> ManagedImageStatus {
        let failure = FailureRecord {
            fingerprint: Some("f".into()),
            attempt: attempt.into(),
            last: failure(class),
            ..FailureRecord::default()
        };
        ManagedImageStatus { failure: Some(failure), ..ManagedImageStatus::default() }
    }

    fn running(job: &str) -> ManagedImageStatus {
        let running =
            RunningBuild { job: job.into(), fingerprint: "f".into(), ..RunningBuild::default() };
        ManagedImageStatus { running: Some(running), ..ManagedImageStatus::default() }
    }

    fn builds(
        old: &ManagedImageStatus,
        new: &ManagedImageStatus,
        builds: &[ObservedBuild],
    ) -> Vec<BuildResult> {
        let durations = HashMap::from([("f-0".to_owned(), 90)]);
        let change = RecordChange {
            image: &Image::default(),
            old,
            new,
            builds,
            durations: &durations,
            checks: &[],
        };
        let counted = change.builds();
        let long = Some(Duration::from_secs(90));
        let is_known = |build: &EndedBuild| build.duration == long || build.duration.is_none();
        assert!(counted.iter().all(is_known), "{counted:?}");
        counted.into_iter().map(|build| build.result).collect()
    }

    #[test]
    fn an_ended_build_is_counted_once_by_the_outcome_of_its_job() {
        use BuildOutcome::{Failed, Running, Stopped, Succeeded};
        let (old, blank) = (running("f-0"), ManagedImageStatus::default());
        for (outcome, result) in [
            (Succeeded, BuildResult::Succeeded),
            (Failed(failure(FailureClass::Build)), BuildResult::BuildFailed),
            (Failed(failure(FailureClass::Infrastructure)), BuildResult::InfrastructureFailed),
            (Failed(failure(FailureClass::Input)), BuildResult::InputRefused),
            (Stopped, BuildResult::Cancelled),
        ] {
            let jobs = [job(0, outcome)];
            assert_eq!(
                builds(&old, &blank, &jobs),
                [result],
                "its checks may still run, or its inputs have changed"
            );
            assert_eq!(builds(&old, &old, &jobs), []);
            assert_eq!(builds(&blank, &blank, &jobs), []);
        }
        assert_eq!(builds(&old, &blank, &[job(0, Running)]), []);
        assert_eq!(builds(&old, &blank, &[]), [BuildResult::Cancelled], "its Job was deleted");
        let verified =
            ManagedImageStatus { fingerprint: Some("f".into()), ..ManagedImageStatus::default() };
        assert_eq!(builds(&old, &verified, &[]), [BuildResult::Succeeded]);
    }

    #[test]
    fn a_failure_is_counted_once_and_not_when_it_is_forgiven_or_cancelled() {
        let blank = ManagedImageStatus::default();
        let class = FailureClass::Infrastructure;
        let jobs = [job(0, BuildOutcome::Failed(failure(class)))];
        let ended = ManagedImageStatus { running: None, ..record(0, class) };
        assert_eq!(builds(&running("f-0"), &ended, &jobs), [BuildResult::InfrastructureFailed]);
        assert_eq!(builds(&ended, &ended, &jobs), []);
        let mut forgiven = blank.clone();
        forgiven.failure = ended.failure.clone().map(crate::engine::image::failure::reset_counts);
        assert_eq!(builds(&ended, &forgiven, &jobs), [], "nothing has happened");
        assert_eq!(builds(&blank, &forgiven, &[]), []);
        assert_eq!(
            builds(&blank, &record(None::<i32>, FailureClass::Cancelled), &[]),
            [],
            "nothing ran"
        );
        assert_eq!(
            builds(&blank, &record(0, class), &[]),
            [BuildResult::InfrastructureFailed],
            "it could not be started"
        );
        assert_eq!(
            builds(&record(0, class), &record(1, FailureClass::Input), &[]),
            [BuildResult::InputRefused]
        );
    }

    #[test]
    fn checks_are_counted_separately_from_builds() {
        let check =
            |name: &str, required| Check { name: name.into(), required, ..Check::default() };
        let image =
            Image { checks: vec![check("starts", true), check("scan", false)], ..Image::default() };
        let records = |starts, scan| {
            let record = |name: &str, state| CheckRecord {
                name: name.into(),
                state,
                ..CheckRecord::default()
            };
            vec![record("starts", starts), record("scan", scan)]
        };
        let status = |checks, check_attempt, class| {
            let mut status = record(0, class);
            status.checks = checks;
            status.failure.as_mut().expect("a failure").check_attempt = check_attempt;
            status
        };
        let durations = HashMap::new();
        let counted =
            |old: &ManagedImageStatus, new: &ManagedImageStatus, observed: &[ObservedCheck]| {
                let change = RecordChange {
                    image: &image,
                    old,
                    new,
                    builds: &[],
                    durations: &durations,
                    checks: observed,
                };
                assert_eq!(change.builds(), []);
                change.checks()
            };
        let (build, infrastructure) = (FailureClass::Build, FailureClass::Infrastructure);
        let begun = status(records(CheckState::Running, CheckState::Running), 0, build);
        let passed = status(records(CheckState::Passed, CheckState::Running), 0, build);
        assert_eq!(counted(&begun, &passed, &[]), [CheckResult::Passed]);
        assert_eq!(counted(&passed, &passed, &[]), []);
        let failed = status(records(CheckState::Failed, CheckState::Running), 1, build);
        assert_eq!(counted(&begun, &failed, &[]), [CheckResult::Failed]);
        let cancelled =
            status(records(CheckState::Failed, CheckState::Running), 1, FailureClass::Cancelled);
        assert_eq!(counted(&begun, &cancelled, &[]), []);
        let again = status(records(CheckState::Failed, CheckState::Running), 2, infrastructure);
        assert_eq!(counted(&failed, &again, &[]), [CheckResult::InfrastructureFailed]);
        assert_eq!(counted(&again, &again, &[]), []);
        let reported = status(records(CheckState::Running, CheckState::Failed), 0, build);
        assert_eq!(
            counted(&begun, &reported, &[]),
            [CheckResult::InfrastructureFailed],
            "it was refused"
        );
        let observed = ObservedCheck {
            job: "".into(),
            check: "scan".into(),
            revision: String::new(),
            digest: "".into(),
            image: None,
            attempt: 0,
            waits_for: None,
            outcome: CheckOutcome::Failed(failure(build)),
            live: false,
        };
        assert_eq!(counted(&begun, &reported, &[observed]), [CheckResult::Failed]);
    }
}
