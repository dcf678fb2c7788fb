//! Each failed attempt counts once, whoever has found it.

use super::*;
use crate::{
    api::{Check, condition::Reason},
    engine::{Problem, WaitProgress, fixtures, input::ObservedBuild},
};

const VERSIONS: JobVersions<'_> =
    JobVersions { job: "job-1", pod: "pod-1", credentials: "secret-1" };

fn failure(class: FailureClass, reason: Reason) -> BuildFailure {
    BuildFailure { class, reason: reason.into(), message: "it broke".into() }
}

fn failed(attempt: i32, class: FailureClass) -> ObservedBuild {
    fixtures::job("f", attempt, BuildOutcome::Failed(failure(class, Reason::BuildFailed)))
}

fn count(kind: AttemptKind, attempt: i32, record: Option<FailureRecord>) -> FailureRecord {
    count_failure(kind, attempt, record, failure(FailureClass::Build, Reason::BuildFailed))
}

fn count_failure(
    kind: AttemptKind,
    attempt: i32,
    record: Option<FailureRecord>,
    failure: BuildFailure,
) -> FailureRecord {
    let fingerprint = "f".into();
    let failed = FailedAttempt {
        kind,
        fingerprint: &fingerprint,
        attempt,
        cascade: "c",
        cause: "base",
        failure,
        versions: VERSIONS,
    };
    failed.count(record, Timestamp::UNIX_EPOCH)
}

#[test]
fn each_attempt_counts_once_and_on_its_own_retry_budget() {
    let now = Timestamp::UNIX_EPOCH;
    let builds = [failed(1, FailureClass::Infrastructure), failed(0, FailureClass::Build)];
    let builds = fixtures::observed(builds.into());
    let record = count_failed_builds(None, &"f".into(), &builds, "", now).expect("failures");
    assert_eq!((record.build, record.infrastructure, record.attempt), (1, 1, Some(1)));
    let again = count_failed_builds(Some(&record), &"f".into(), &builds, "", now);
    assert_eq!(again, Some(record.clone()));
    let other = count_failed_builds(Some(&record), &"g".into(), &builds, "", now);
    assert_eq!(other, None, "another fingerprint starts without failures");
    let cancelled = failure(FailureClass::Cancelled, Reason::Cancelled);
    let stopped = count_failure(AttemptKind::Build, 2, Some(record), cancelled);
    assert_eq!((stopped.build, stopped.infrastructure, stopped.attempt), (1, 1, Some(2)));
}

#[test]
fn builds_and_checks_are_counted_alike_and_apart() {
    let record = count(AttemptKind::Checks, 0, None);
    assert_eq!((record.build, record.attempt, record.check_attempt), (1, None, 1));
    assert_eq!(count(AttemptKind::Checks, 0, Some(record.clone())), record);
    let record = count(AttemptKind::Build, 0, Some(record));
    assert_eq!((record.build, record.attempt, record.check_attempt), (2, Some(0), 1));
    assert_eq!(count(AttemptKind::Build, 0, Some(record.clone())), record);
    let record = count(AttemptKind::Checks, 3, Some(record));
    assert_eq!((record.build, record.attempt, record.check_attempt), (3, Some(0), 4));
    assert_eq!((record.cascade.as_str(), record.cause.as_str()), ("c", "base"));
}

#[test]
fn the_version_of_what_has_to_change_is_kept() {
    use AttemptKind::{Build, Checks};
    let version = |kind, reason| {
        let failure = failure(FailureClass::Infrastructure, reason);
        count_failure(kind, 0, None, failure).job_version
    };
    assert_eq!(version(Build, Reason::InvalidStrategy).as_deref(), Some("job-1"));
    assert_eq!(version(Checks, Reason::InvalidStrategy).as_deref(), Some("job-1"));
    assert_eq!(version(Build, Reason::OutOfMemory).as_deref(), Some("pod-1"));
    assert_eq!(version(Checks, Reason::OutOfMemory), None, "it is no pod of a build");
    assert_eq!(version(Build, Reason::BuildFailed), None);
    let unknown = BuildFailure { reason: "OfAnotherVersion".into(), ..BuildFailure::default() };
    assert_eq!(count_failure(Build, 0, None, unknown).job_version, None);
}

/// An image whose build, or whose checks, are about to start.
fn waiting() -> ImageDecision {
    let problem = Problem { reason: Reason::Checking, message: "waits".into() };
    ImageDecision {
        fingerprint: Some("f".into()),
        ..ImageDecision::waiting(problem, WaitProgress::InProgress)
    }
}

#[test]
fn a_refused_build_is_a_failed_attempt() {
    let build = fixtures::job("f", 2, BuildOutcome::Running).identity;
    let mut image = waiting();
    let refused = failure(FailureClass::Input, Reason::InvalidStrategy);
    image.count_refused_build("app", &build, refused, VERSIONS, Timestamp::UNIX_EPOCH);
    assert_eq!((image.state, image.reason), (ImageState::Queued, Reason::Retrying));
    assert_eq!(image.message.to_string(), "it broke");
    let record = image.failure.expect("a failure");
    assert_eq!((record.build, record.attempt), (1, Some(2)));
    assert_eq!(record.job_version.as_deref(), Some("job-1"));
}

#[test]
fn refused_checks_of_one_attempt_count_once() {
    let mut image = waiting();
    let checks = ["first", "second"].map(|name| Check { name: name.into(), ..Check::default() });
    for attempt in [0, 1] {
        for check in &checks {
            let refusal = CheckRefusal {
                check: &check.name,
                attempt,
                cascade: "c",
                failure: failure(FailureClass::Infrastructure, Reason::BuildFailed),
            };
            image.count_refused_check("app", refusal, VERSIONS, Timestamp::UNIX_EPOCH);
        }
    }
    let record = image.failure.expect("a failure");
    assert_eq!((record.infrastructure, record.attempt, record.check_attempt), (2, None, 2));
    assert_eq!(record.last.message, "check first: it broke", "the first of the attempt is named");
    assert_eq!((image.reason, image.message.to_string()), (Reason::Retrying, record.last.message));
}
