//! What the metrics count when the record of an image changes: builds and checks that have ended,
//! each once. Pure.
//!
//! The record says that a build runs; when it does not any more, the build has ended, and is
//! counted by what its Job says. So a restart counts nothing twice.

use std::{collections::HashMap, time::Duration};

use crate::{
    api::{CheckRecord, CheckState, FailureClass, FailureRecord, Image, ManagedImageStatus},
    engine::{BuildOutcome, CheckOutcome, ObservedBuild, ObservedCheck},
    server::metrics::{BuildResult, CheckResult},
};

/// The change of an image's record, and what the cluster knows of its Jobs.
#[derive(Clone, Copy, Debug)]
pub struct RecordChange<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its record before.
    pub old: &'a ManagedImageStatus,
    /// Its record after.
    pub new: &'a ManagedImageStatus,
    /// Its builds.
    pub builds: &'a [ObservedBuild],
    /// How long those took that have ended, in seconds, by their Jobs' names.
    pub seconds: &'a HashMap<String, i64>,
    /// Its checks.
    pub checks: &'a [ObservedCheck],
}

impl RecordChange<'_> {
    /// The builds that have ended, and how long they took where that is known.
    #[must_use]
    pub fn builds(&self) -> Vec<(BuildResult, Option<Duration>)> {
        let ended = self.ended().map(|(job, result)| {
            let seconds = self.seconds.get(job).and_then(|seconds| u64::try_from(*seconds).ok());
            (result, seconds.map(Duration::from_secs))
        });
        ended.into_iter().chain(self.refused().map(|result| (result, None))).collect()
    }

    /// The build that ran and does not any more.
    fn ended(&self) -> Option<(&str, BuildResult)> {
        let ran = self.old.running.as_ref()?;
        if self.new.running.as_ref().is_some_and(|running| running.job == ran.job) {
            return None;
        }
        let observed = self.builds.iter().find(|build| build.job == ran.job);
        let result = match observed.map(|build| &build.outcome) {
            Some(BuildOutcome::Running) => return None,
            Some(BuildOutcome::Succeeded) => BuildResult::Succeeded,
            Some(BuildOutcome::Failed(failure)) => failure.class.into(),
            // The Job is gone, and the registry has its result.
            None if self.new.fingerprint.as_ref() == Some(&ran.fingerprint) => {
                BuildResult::Succeeded
            }
            Some(BuildOutcome::Stopped) | None => BuildResult::Cancelled,
        };
        Some((&ran.job, result))
    }

    /// A build that has failed without a Job: it could not be started.
    fn refused(&self) -> Option<BuildResult> {
        let failure = self.new.failure.as_ref()?;
        let counted = self.known(failure).map_or(-1, |known| known.attempt);
        let made = |build: &ObservedBuild| {
            build.identity.fingerprint == failure.fingerprint
                && build.identity.attempt == failure.attempt
        };
        let is_new = failure.attempt > counted && failure.last.class != FailureClass::Cancelled;
        (is_new && !failure.last.reason.is_empty() && !self.builds.iter().any(made))
            .then(|| failure.last.class.into())
    }

    /// The failures that the old record knows of the same fingerprint.
    fn known(&self, failure: &FailureRecord) -> Option<&FailureRecord> {
        self.old.failure.as_ref().filter(|known| known.fingerprint == failure.fingerprint)
    }

    /// The checks that have ended. Several required ones that fail in one attempt count once, as
    /// they do on its budget.
    #[must_use]
    pub fn checks(&self) -> Vec<CheckResult> {
        let mut results: Vec<CheckResult> =
            self.new.checks.iter().filter_map(|record| self.verdict(record)).collect();
        if let Some(failure) = &self.new.failure
            && failure.last.class != FailureClass::Cancelled
            && failure.check_attempt > self.known(failure).map_or(0, |known| known.check_attempt)
        {
            results.push(failure.last.class.into());
        }
        results
    }

    /// What a check's record has newly come to. Required ones that fail are told by the record of
    /// failures.
    fn verdict(&self, record: &CheckRecord) -> Option<CheckResult> {
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
            CheckState::Failed => Some(self.of_job(record)),
        }
    }

    /// How the Job of a failed check has failed; without one it could not be started.
    fn of_job(&self, record: &CheckRecord) -> CheckResult {
        let of_record = self.checks.iter().filter(|observed| {
            record.matches(&observed.check, observed.digest.as_str(), &observed.revision)
        });
        let mut class = of_record.filter_map(|observed| match &observed.outcome {
            CheckOutcome::Failed(failure) => Some(failure.class),
            CheckOutcome::Running | CheckOutcome::Passed(_) | CheckOutcome::Stopped => None,
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

    fn record(attempt: i32, class: FailureClass) -> ManagedImageStatus {
        let failure = FailureRecord {
            fingerprint: "f".into(),
            attempt,
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
        let seconds = HashMap::from([("f-0".to_owned(), 90)]);
        let change = RecordChange {
            image: &Image::default(),
            old,
            new,
            builds,
            seconds: &seconds,
            checks: &[],
        };
        let counted = change.builds();
        let long = Some(Duration::from_secs(90));
        assert!(
            counted.iter().all(|(_, length)| *length == long || length.is_none()),
            "{counted:?}"
        );
        counted.into_iter().map(|(result, _)| result).collect()
    }

    #[test]
    fn a_build_that_ran_is_counted_once_by_what_its_job_says() {
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
                "its checks may still run, or its \
                inputs have changed"
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
        forgiven.failure = ended.failure.clone().map(crate::engine::image::failure::forgiven);
        assert_eq!(builds(&ended, &forgiven, &jobs), [], "nothing has happened");
        assert_eq!(builds(&blank, &forgiven, &[]), []);
        assert_eq!(builds(&blank, &record(-1, FailureClass::Cancelled), &[]), [], "nothing ran");
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
    fn checks_are_counted_apart_from_builds() {
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
        let seconds = HashMap::new();
        let counted =
            |old: &ManagedImageStatus, new: &ManagedImageStatus, observations: &[ObservedCheck]| {
                let change = RecordChange {
                    image: &image,
                    old,
                    new,
                    builds: &[],
                    seconds: &seconds,
                    checks: observations,
                };
                assert_eq!(change.builds(), []);
                change.checks()
            };
        let (build, around) = (FailureClass::Build, FailureClass::Infrastructure);
        let begun = status(records(CheckState::Running, CheckState::Running), 0, build);
        let passed = status(records(CheckState::Passed, CheckState::Running), 0, build);
        assert_eq!(counted(&begun, &passed, &[]), [CheckResult::Passed]);
        assert_eq!(counted(&passed, &passed, &[]), []);
        let failed = status(records(CheckState::Failed, CheckState::Running), 1, build);
        assert_eq!(counted(&begun, &failed, &[]), [CheckResult::Failed]);
        let cancelled =
            status(records(CheckState::Failed, CheckState::Running), 1, FailureClass::Cancelled);
        assert_eq!(counted(&begun, &cancelled, &[]), []);
        let again = status(records(CheckState::Failed, CheckState::Running), 2, around);
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
            attempt: 0,
            waits_for: None,
            outcome: CheckOutcome::Failed(failure(build)),
            live: false,
        };
        assert_eq!(counted(&begun, &reported, &[observed]), [CheckResult::Failed]);
    }
}
