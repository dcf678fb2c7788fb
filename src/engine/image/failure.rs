//! `ReconcileBackoff`: how they are counted, when a build is tried again, and when it is not.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{BuildFailure, FailureClass, FailureRecord, Retries, condition::reason},
    backoff,
    engine::input::{BuildOutcome, ObservedBuild},
    identity::{BuildIdentity, Fingerprint},
};

/// First pause after a failure of the build itself.
const BUILD_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// First pause after a failure of what is around it.
const INFRASTRUCTURE_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// The longest pause.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(10);

/// What comes after the failures so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing has failed.
    Clean,
    /// To be tried again, not before the time.
    RetryAt(Timestamp),
    /// Not to be tried again until an input changes.
    GivenUp,
}

/// Where and why a build failed, beside what it said.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// Which attempt it was.
    pub attempt: i32,
    /// The cascade that it was started for.
    pub cascade: &'a str,
    /// What it was made for; see [`causes::key`](crate::engine::causes::key).
    pub cause: &'a str,
}

/// Counts the failed attempts that the record does not know yet. `None` if nothing has failed at
/// this fingerprint.
#[must_use]
pub fn count(
    record: Option<&FailureRecord>,
    fingerprint: &Fingerprint,
    builds: &[ObservedBuild],
    cause: &str,
    now: Timestamp,
) -> Option<FailureRecord> {
    let mut known = record.filter(|record| *fingerprint == record.fingerprint).cloned();
    let mut failed: Vec<(Failed<'_>, &BuildFailure)> = builds
        .iter()
        .filter(|build| build.identity.fingerprint == *fingerprint)
        .filter_map(|build| match &build.outcome {
            BuildOutcome::Failed(failure) => {
                let BuildIdentity { attempt, cascade, .. } = &build.identity;
                Some((Failed { attempt: *attempt, cascade, cause }, failure))
            }
            _ => None,
        })
        .collect();
    failed.sort_by_key(|(failed, _)| failed.attempt);
    for (failed, failure) in failed {
        if known.as_ref().is_none_or(|known| failed.attempt > known.attempt) {
            known = Some(add(known, fingerprint, &failed, failure.clone(), now));
        }
    }
    known
}

/// The record with one more failure.
#[must_use]
pub fn add(
    record: Option<FailureRecord>,
    fingerprint: &Fingerprint,
    failed: &Failed<'_>,
    failure: BuildFailure,
    now: Timestamp,
) -> FailureRecord {
    let mut record =
        record.filter(|record| *fingerprint == record.fingerprint).unwrap_or_else(|| {
            FailureRecord { fingerprint: fingerprint.into(), ..FailureRecord::default() }
        });
    match failure.class {
        FailureClass::Infrastructure => record.infrastructure += 1,
        FailureClass::Build | FailureClass::Input => record.build += 1,
        FailureClass::Cancelled => {}
    }
    record.attempt = failed.attempt;
    record.cascade = failed.cascade.into();
    record.cause = failed.cause.into();
    record.last = failure;
    record.at = Some(now);
    record
}

/// The record of a build that a person has cancelled: not tried again at this fingerprint. `made`
/// is the highest attempt at it that was made, so that no later one gets its name.
#[must_use]
pub fn cancelled(
    record: Option<FailureRecord>,
    fingerprint: &Fingerprint,
    made: Option<i32>,
    now: Timestamp,
) -> FailureRecord {
    let record = record.unwrap_or_else(|| FailureRecord {
        fingerprint: fingerprint.into(),
        // Without any, the next one is the first.
        attempt: -1,
        ..FailureRecord::default()
    });
    let record = FailureRecord { attempt: record.attempt.max(made.unwrap_or(-1)), ..record };
    let message =
        "cancelled by a request; built again when an input changes, or by a retry".to_owned();
    let last =
        BuildFailure { class: FailureClass::Cancelled, reason: reason::CANCELLED.into(), message };
    FailureRecord { last, at: record.at.or(Some(now)), ..record }
}

/// The record of an image that a person has cancelled in this cascade while it waited: which
/// fingerprint it is about to want is not known yet. See [`is_cancelled_in`].
#[must_use]
pub fn cancelled_waiting(
    record: Option<&FailureRecord>,
    cascade: &str,
    now: Timestamp,
) -> FailureRecord {
    let known = record.filter(|record| is_cancelled_in(record, cascade)).cloned();
    known.unwrap_or_else(|| FailureRecord {
        cascade: cascade.into(),
        ..cancelled(None, &Fingerprint::default(), None, now)
    })
}

/// Whether this is the record of an image that was cancelled in this cascade while it waited.
#[must_use]
pub fn is_cancelled_in(record: &FailureRecord, cascade: &str) -> bool {
    record.fingerprint.is_empty() && is_cancelled(record) && record.cascade == cascade
}

/// Whether a person has cancelled what failed here.
#[must_use]
pub fn is_cancelled(record: &FailureRecord) -> bool {
    record.last.class == FailureClass::Cancelled
}

/// The record with a clean slate. It still knows which attempts were made, so that none is counted
/// again.
#[must_use]
pub fn forgiven(record: FailureRecord) -> FailureRecord {
    let FailureRecord { fingerprint, attempt, check_attempt, retried, .. } = record;
    FailureRecord { fingerprint, attempt, check_attempt, retried, ..FailureRecord::default() }
}

/// The record after a request to try again. The same request forgives once, however many passes it
/// is seen in: what fails after it is not forgotten.
#[must_use]
pub fn retried(record: FailureRecord, request: &str) -> FailureRecord {
    if record.retried.as_deref() == Some(request) {
        return record;
    }
    FailureRecord { retried: Some(request.into()), ..forgiven(record) }
}

/// The record in a cascade: what was given up in an earlier one is tried again in this.
#[must_use]
pub fn tried_by_cascade(
    record: FailureRecord,
    cascade: Option<&str>,
    retries: &Retries,
) -> FailureRecord {
    let another = cascade.is_some_and(|cascade| cascade != record.cascade);
    let given_up = verdict(Some(&record), retries, Timestamp::MIN) == Verdict::GivenUp;
    if another && given_up && !is_cancelled(&record) { forgiven(record) } else { record }
}

/// A build that said it had pushed, and has not.
#[must_use]
pub fn vanished() -> BuildFailure {
    BuildFailure {
        class: FailureClass::Infrastructure,
        reason: reason::IMAGE_NOT_FOUND.into(),
        message: "the build ended well, and the registry does not have what it says it pushed"
            .into(),
    }
}

/// Whether a build counts as failed, and its Job has not ended.
#[must_use]
pub fn failed_and_live(build: &ObservedBuild) -> bool {
    build.live && matches!(build.outcome, BuildOutcome::Failed(_))
}

/// What a failure comes down to, in a line: the log of a builder ends with the one that says why.
/// The whole message stays in the record. Of a check it names the check.
#[must_use]
pub fn gist(failure: &BuildFailure) -> String {
    let message = &failure.message;
    let last =
        message.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let check = message.strip_prefix("check ").and_then(|rest| Some(rest.split_once(": ")?.0));
    match check.map(|name| format!("check {name}: ")) {
        Some(check) if !last.starts_with(&check) => format!("{check}{last}"),
        _ => last.into(),
    }
}

/// Whether and when a build is tried again.
#[must_use]
pub fn verdict(record: Option<&FailureRecord>, retries: &Retries, now: Timestamp) -> Verdict {
    let Some(record) = record else { return Verdict::Clean };
    if record.build == 0
        && record.infrastructure == 0
        && record.last.class != FailureClass::Cancelled
    {
        return Verdict::Clean;
    }
    let (failures, allowed, first) = match record.last.class {
        FailureClass::Input | FailureClass::Cancelled => return Verdict::GivenUp,
        FailureClass::Build => (record.build, retries.build, BUILD_PAUSE),
        FailureClass::Infrastructure => {
            (record.infrastructure, retries.infrastructure, INFRASTRUCTURE_PAUSE)
        }
    };
    if failures > allowed {
        return Verdict::GivenUp;
    }
    let seed = record
        .fingerprint
        .bytes()
        .fold(0_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let pause = backoff::pause(
        failures.unsigned_abs(),
        first,
        LONGEST_PAUSE,
        seed.wrapping_add(failures.unsigned_abs().into()),
    );
    match record.at {
        // The clock was set back since: how long the pause has lasted is not known any more.
        Some(at) if at > now => Verdict::RetryAt(now),
        at => Verdict::RetryAt(at.unwrap_or(now).saturating_add(pause).unwrap_or(Timestamp::MAX)),
    }
}

/// The reason of an image that is not tried again. A bad input is named; whatever else a build
/// ended with stands in the message.
#[must_use]
pub fn given_up(record: &FailureRecord) -> &'static str {
    let bad_inputs =
        [reason::DOCKERFILE_MISMATCH, reason::SOURCE_NOT_FOUND, reason::SOURCE_UNAVAILABLE];
    if record.last.reason == reason::CHECK_FAILED {
        return reason::CHECK_FAILED;
    }
    match record.last.class {
        FailureClass::Infrastructure => reason::INFRASTRUCTURE_FAILED,
        FailureClass::Build => reason::BUILD_FAILED,
        FailureClass::Cancelled => reason::CANCELLED,
        FailureClass::Input => bad_inputs
            .into_iter()
            .find(|known| *known == record.last.reason)
            .unwrap_or(reason::BUILD_FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixtures;

    #[test]
    fn a_log_comes_down_to_its_last_line() {
        let message = "the container `build` ended with code 1: #4 DONE\n#5 RUN exit 7\nerror: \
                       exit code: 7\n\n"
            .into();
        assert_eq!(
            gist(&BuildFailure { message, ..BuildFailure::default() }),
            "error: exit code: 7"
        );
        for (message, short) in [
            (
                "check scan: exit code 3: 2 findings; the end of its log:\n1\n2 findings\n",
                "check \
                scan: 2 findings",
            ),
            (
                "check scan: exit code 3; it said nothing",
                "check scan: exit code 3; it said nothing",
            ),
        ] {
            assert_eq!(
                gist(&BuildFailure { message: message.into(), ..BuildFailure::default() }),
                short
            );
        }
    }

    fn failed(attempt: i32, class: FailureClass) -> ObservedBuild {
        fixtures::job(
            "f",
            attempt,
            BuildOutcome::Failed(BuildFailure { class, ..BuildFailure::default() }),
        )
    }

    #[test]
    fn each_attempt_is_counted_once_and_on_its_own_budget() {
        let now = Timestamp::UNIX_EPOCH;
        let builds = [failed(1, FailureClass::Infrastructure), failed(0, FailureClass::Build)];
        let record = count(None, &"f".into(), &builds, "", now).expect("failures");
        assert_eq!((record.build, record.infrastructure, record.attempt), (1, 1, 1));
        assert_eq!(count(Some(&record), &"f".into(), &builds, "", now), Some(record.clone()));
        assert_eq!(
            count(Some(&record), &"g".into(), &builds, "", now),
            None,
            "another fingerprint starts \
            anew"
        );
        let retries = Retries { build: 1, infrastructure: 0 };
        assert_eq!(verdict(Some(&record), &retries, now), Verdict::GivenUp);
        let retries = Retries { build: 0, infrastructure: 1 };
        assert!(matches!(verdict(Some(&record), &retries, now), Verdict::RetryAt(at) if at > now));
    }

    #[test]
    fn a_bad_input_is_named() {
        let given_up_after = |class, reason: &str| {
            let last = BuildFailure { class, reason: reason.into(), ..BuildFailure::default() };
            given_up(&FailureRecord { last, ..FailureRecord::default() })
        };
        assert_eq!(
            given_up_after(FailureClass::Input, reason::DOCKERFILE_MISMATCH),
            reason::DOCKERFILE_MISMATCH
        );
        assert_eq!(given_up_after(FailureClass::Input, "Else"), reason::BUILD_FAILED);
        assert_eq!(
            given_up_after(FailureClass::Build, reason::DOCKERFILE_MISMATCH),
            reason::BUILD_FAILED
        );
        assert_eq!(
            given_up_after(FailureClass::Infrastructure, "Evicted"),
            reason::INFRASTRUCTURE_FAILED
        );
    }

    #[test]
    fn a_bad_input_is_not_tried_again() {
        let record =
            count(None, &"f".into(), &[failed(0, FailureClass::Input)], "", Timestamp::UNIX_EPOCH);
        assert_eq!(
            verdict(
                record.as_ref(),
                &Retries { build: 9, infrastructure: 9 },
                Timestamp::UNIX_EPOCH
            ),
            Verdict::GivenUp
        );
    }
}
