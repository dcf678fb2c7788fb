//! Failed attempts: whether and when a build is retried, and what clears its failures.
//! [`attempts`](crate::engine::image::attempts) counts them.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        BuildFailure, FailureClass, FailureRecord, Retries,
        condition::{Reason, ReasonClass, ReasonTrait},
    },
    backoff,
    engine::input::{BuildOutcome, ObservedBuild, ObservedImage},
    identity::{CascadeName, Fingerprint},
};

/// Pause after the first failure of the build itself.
const BUILD_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// Pause after the first failure of the infrastructure.
const INFRASTRUCTURE_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// Pause after the first failure that no time mends: what has to be corrected takes a user minutes.
const CORRECTION_PAUSE: SignedDuration = SignedDuration::from_mins(1);
/// How often a failure that no time mends is retried before it is reported.
const UNREPORTED_RETRIES: i32 = 1;
/// Upper bound on the pause between two attempts.
const MAX_PAUSE: SignedDuration = SignedDuration::from_mins(10);
/// Upper bound on the pause between two attempts while the infrastructure fails: an outage is not
/// over for longer than this before it is noticed.
const MAX_OUTAGE_PAUSE: SignedDuration = SignedDuration::from_mins(5);
/// Upper bound on the pause of an image that failed of an outage which is over.
const MAX_RECOVERY_PAUSE: SignedDuration = SignedDuration::from_mins(1);

/// Whether another attempt is made after the failures so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Nothing has failed.
    NoFailure,
    /// The build is retried at the given time.
    RetryAt(Timestamp),
    /// The build is not retried until an input changes.
    GiveUp,
}

/// Returns the record of a build that a user has cancelled in this cascade and that is not retried
/// at this fingerprint. `last_attempt` is the highest attempt so far, so that no later attempt gets
/// the name of its Job.
#[must_use]
pub fn record_cancellation(
    record: Option<FailureRecord>,
    fingerprint: Option<&Fingerprint>,
    cascade: Option<&CascadeName>,
    last_attempt: Option<i32>,
    now: Timestamp,
) -> FailureRecord {
    let record = record.unwrap_or_else(|| FailureRecord {
        fingerprint: fingerprint.map(String::from),
        ..FailureRecord::default()
    });
    let record = FailureRecord {
        attempt: record.attempt.max(last_attempt),
        cascade: cascade.map_or(record.cascade, String::from),
        ..record
    };
    let message =
        "cancelled by a request; built again when an input changes or you request a retry"
            .to_owned();
    let last =
        BuildFailure { class: FailureClass::Cancelled, reason: Reason::Cancelled.into(), message };
    FailureRecord { last, at: record.at.or(Some(now)), ..record }
}

/// Returns the record of an image that a user has cancelled in this cascade while it waited, before
/// its wanted fingerprint is known. See [`is_cancelled_in`].
#[must_use]
pub fn record_cancellation_while_waiting(
    record: Option<&FailureRecord>,
    cascade: &CascadeName,
    now: Timestamp,
) -> FailureRecord {
    let known = record.filter(|record| is_cancelled_in(record, cascade)).cloned();
    known.unwrap_or_else(|| record_cancellation(None, None, Some(cascade), None, now))
}

/// Whether this is the record of an image that was cancelled in this cascade while it waited.
#[must_use]
pub fn is_cancelled_in(record: &FailureRecord, cascade: &CascadeName) -> bool {
    record.fingerprint.is_none() && is_cancelled(record) && *cascade == record.cascade
}

/// Whether a user has cancelled the build.
#[must_use]
pub fn is_cancelled(record: &FailureRecord) -> bool {
    record.last.class == FailureClass::Cancelled
}

/// Returns the record without its failures. It keeps the numbers of the attempts, so that none of
/// them is counted again.
#[must_use]
pub fn reset_counts(record: FailureRecord) -> FailureRecord {
    let FailureRecord { fingerprint, attempt, check_attempt, retried, .. } = record;
    FailureRecord { fingerprint, attempt, check_attempt, retried, ..FailureRecord::default() }
}

/// Returns the record after a request to retry. A request resets the failures once, however many
/// reconciles read it: failures after it count.
#[must_use]
pub fn reset_by_retry(record: FailureRecord, request: &str) -> FailureRecord {
    if record.retried.as_deref() == Some(request) {
        return record;
    }
    FailureRecord { retried: Some(request.into()), ..reset_counts(record) }
}

/// Returns the record after a change of what the Job is made of: a Job that the API server found
/// invalid may be valid now, a build that ran out of memory may have enough, and one that a
/// registry denied access may be allowed with another credential. Resources, placement and
/// credentials are not part of the fingerprint, so that nothing else shows such a change.
#[must_use]
pub fn reset_by_version(record: FailureRecord, observed: &ObservedImage<'_>) -> FailureRecord {
    let now = match record.last.known_reason() {
        Some(Reason::InvalidStrategy) => observed.job_version.as_str(),
        Some(reason) if reason.has(ReasonTrait::AwaitsCorrection) => &observed.credentials_version,
        _ => &observed.pod_version,
    };
    let has_changed = record.job_version.as_ref().is_some_and(|known| known != now);
    if has_changed { reset_counts(record) } else { record }
}

/// Returns the record in a cascade: a build that was given up in an earlier cascade is retried in
/// this one. The record names this cascade from then on: if it ends before it has tried the image,
/// the image does not go back to the earlier one, which may still run.
#[must_use]
pub fn reset_by_cascade(
    record: FailureRecord,
    cascade: Option<&CascadeName>,
    retries: &Retries,
    now: Timestamp,
) -> FailureRecord {
    let Some(cascade) = cascade.filter(|cascade| **cascade != record.cascade) else {
        return record;
    };
    let given_up = retry_decision(Some(&record), retries, Timestamp::MIN) == RetryDecision::GiveUp;
    if !given_up || is_cancelled(&record) {
        return record;
    }
    FailureRecord { cascade: cascade.into(), at: Some(now), ..reset_counts(record) }
}

/// Returns the failure of a build that succeeded although the registry does not have its push.
#[must_use]
pub fn missing_push() -> BuildFailure {
    BuildFailure {
        class: FailureClass::Infrastructure,
        reason: Reason::ImageNotFound.into(),
        message:
            "the build succeeded, but the registry does not have the image that it reports to have \
             pushed under its tag"
                .into(),
    }
}

/// Whether a build counts as failed although its Job has not ended.
#[must_use]
pub fn is_failed_and_live(build: &ObservedBuild) -> bool {
    build.live && matches!(build.outcome, BuildOutcome::Failed(_))
}

/// Returns a failure in one line: the last line of its message, because the log of a builder ends
/// with the line that says why. The failure of a check names the check. The record keeps the whole
/// message.
#[must_use]
pub fn summary(failure: &BuildFailure) -> String {
    let message = &failure.message;
    let last =
        message.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let check = message.strip_prefix("check ").and_then(|rest| Some(rest.split_once(": ")?.0));
    match check.map(|name| format!("check {name}: ")) {
        Some(check) if !last.starts_with(&check) => format!("{check}{last}"),
        _ => last.into(),
    }
}

/// Returns whether and when a build is retried.
#[must_use]
pub fn retry_decision(
    record: Option<&FailureRecord>,
    retries: &Retries,
    now: Timestamp,
) -> RetryDecision {
    let Some(record) = record else { return RetryDecision::NoFailure };
    if record.build == 0
        && record.infrastructure == 0
        && record.last.class != FailureClass::Cancelled
    {
        return RetryDecision::NoFailure;
    }
    match record.last.class {
        FailureClass::Input | FailureClass::Cancelled => RetryDecision::GiveUp,
        FailureClass::Build if record.build > retries.build => RetryDecision::GiveUp,
        FailureClass::Build => {
            RetryDecision::RetryAt(retry_at(record, record.build, BUILD_PAUSE, MAX_PAUSE, now))
        }
        FailureClass::Infrastructure => {
            let failures = record.infrastructure;
            let is_final = !is_of_environment(record) && failures > retries.infrastructure;
            let at = retry_at(record, failures, first_pause(record), MAX_OUTAGE_PAUSE, now);
            if is_final { RetryDecision::GiveUp } else { RetryDecision::RetryAt(at) }
        }
    }
}

/// Whether what is around the build has failed. That ends some time, so that the build is retried
/// for as long as it takes. A build that needs more than it may use is not.
#[must_use]
pub fn is_of_environment(record: &FailureRecord) -> bool {
    let reason = record.last.known_reason();
    record.last.class == FailureClass::Infrastructure
        && !reason.is_some_and(|reason| reason.has(ReasonTrait::ExceedsResources))
}

/// Returns when a build is retried that failed of an outage which is over.
#[must_use]
pub fn retry_after_recovery(record: &FailureRecord, now: Timestamp) -> Timestamp {
    let failures = record.infrastructure;
    retry_at(record, failures, first_pause(record), MAX_RECOVERY_PAUSE, now)
}

/// Whether the last failure lasts until a user corrects something outside of the spec, such as a
/// right at a registry.
fn awaits_correction(record: &FailureRecord) -> bool {
    record.last.known_reason().is_some_and(|reason| reason.has(ReasonTrait::AwaitsCorrection))
}

/// Returns the pause after the first failure of the infrastructure.
fn first_pause(record: &FailureRecord) -> SignedDuration {
    if awaits_correction(record) { CORRECTION_PAUSE } else { INFRASTRUCTURE_PAUSE }
}

/// Returns when the pause after the last of these failures ends.
fn retry_at(
    record: &FailureRecord,
    failures: i32,
    first: SignedDuration,
    longest: SignedDuration,
    now: Timestamp,
) -> Timestamp {
    let failures = failures.unsigned_abs();
    let seed = backoff::jitter_seed(&[record.fingerprint.as_deref().unwrap_or_default()])
        .wrapping_add(failures.into());
    let pause = backoff::pause(failures, first, longest, seed);
    match record.at {
        // The clock was set back, so that it is unknown how long the pause has lasted.
        Some(at) if at > now => now,
        at => at.unwrap_or(now).saturating_add(pause).unwrap_or(Timestamp::MAX),
    }
}

/// Returns the pause between two of the builds that stand for all others in an outage, after this
/// number of failures.
#[must_use]
pub fn outage_pause(failures: u32) -> SignedDuration {
    backoff::pause(failures, INFRASTRUCTURE_PAUSE, MAX_OUTAGE_PAUSE, 0)
}

/// Whether the last failures are an outage: the infrastructure has failed more often than
/// `policy.retries.infrastructure` allows for a passing trouble, or needs a correction.
#[must_use]
pub fn is_outage(record: &FailureRecord, retries: &Retries) -> bool {
    let passing = if awaits_correction(record) {
        retries.infrastructure.min(UNREPORTED_RETRIES)
    } else {
        retries.infrastructure
    };
    is_of_environment(record) && record.infrastructure > passing
}

/// Returns the reason of an image whose infrastructure keeps failing: that of the failure, if it
/// says that a user may have to act.
#[must_use]
pub fn infrastructure_reason(record: &FailureRecord) -> Reason {
    let known = record.last.known_reason();
    known
        .filter(|reason| reason.class() == ReasonClass::NeedsUser)
        .unwrap_or(Reason::InfrastructureFailed)
}

/// Returns the reason of an image that is not retried. It names a bad input; every other failure is
/// described by the message only.
#[must_use]
pub fn given_up_reason(record: &FailureRecord) -> Reason {
    let known = record.last.known_reason();
    match record.last.class {
        _ if known == Some(Reason::CheckFailed) => Reason::CheckFailed,
        FailureClass::Infrastructure => Reason::InfrastructureFailed,
        FailureClass::Build => Reason::BuildFailed,
        FailureClass::Cancelled => Reason::Cancelled,
        FailureClass::Input => known.unwrap_or(Reason::BuildFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_summarized_by_its_last_line() {
        let message = "the container `build` ended with code 1: #4 DONE\n#5 RUN exit 7\nerror: \
                       exit code: 7\n\n"
            .into();
        assert_eq!(
            summary(&BuildFailure { message, ..BuildFailure::default() }),
            "error: exit code: 7"
        );
        for (message, short) in [
            (
                "check scan: exit code 3: 2 findings; the end of its log:\n1\n2 findings\n",
                "check scan: 2 findings",
            ),
            (
                "check scan: exit code 3; it said nothing",
                "check scan: exit code 3; it said nothing",
            ),
        ] {
            assert_eq!(
                summary(&BuildFailure { message: message.into(), ..BuildFailure::default() }),
                short
            );
        }
    }

    fn failed_twice() -> FailureRecord {
        let last = BuildFailure { class: FailureClass::Infrastructure, ..BuildFailure::default() };
        FailureRecord { build: 1, infrastructure: 1, last, ..FailureRecord::default() }
    }

    #[test]
    fn only_what_needs_too_much_is_given_up_after_the_retries_of_the_infrastructure() {
        let (now, record) = (Timestamp::UNIX_EPOCH, failed_twice());
        let retries = Retries { build: 0, infrastructure: 0 };
        let decision = retry_decision(Some(&record), &retries, now);
        assert!(matches!(decision, RetryDecision::RetryAt(at) if at > now), "it ends some time");
        let last = BuildFailure { reason: Reason::OutOfMemory.into(), ..record.last.clone() };
        let record = FailureRecord { last, ..record };
        assert_eq!(retry_decision(Some(&record), &retries, now), RetryDecision::GiveUp);
        let retries = Retries { build: 0, infrastructure: 1 };
        let decision = retry_decision(Some(&record), &retries, now);
        assert!(matches!(decision, RetryDecision::RetryAt(at) if at > now));
    }

    #[test]
    fn what_no_time_mends_is_retried_rarely_and_reported_soon() {
        let now = Timestamp::UNIX_EPOCH;
        let retries = Retries { build: 1, infrastructure: 5 };
        let pauses = |reason: Reason| {
            let failed = |infrastructure| {
                let last = BuildFailure {
                    class: FailureClass::Infrastructure,
                    reason: reason.into(),
                    ..BuildFailure::default()
                };
                FailureRecord { infrastructure, last, at: Some(now), ..FailureRecord::default() }
            };
            let pause = |record: &FailureRecord| match retry_decision(Some(record), &retries, now) {
                RetryDecision::RetryAt(at) => at.duration_since(now).as_secs(),
                other => panic!("{reason}: {other:?}"),
            };
            [1, 2, 3, 6, 100].map(|failures| {
                let record = failed(failures);
                (pause(&record), is_outage(&record, &retries))
            })
        };
        for reason in [Reason::RegistryDenied, Reason::PushRefused, Reason::RegistryUntrusted] {
            let [first, second, third, later, last] = pauses(reason);
            assert!((45..=60).contains(&first.0) && !first.1, "{reason}: {first:?}");
            assert!((90..=120).contains(&second.0) && second.1, "{reason}: {second:?}");
            assert!((180..=240).contains(&third.0), "{reason}: {third:?}");
            assert!((225..=300).contains(&later.0) && (225..=300).contains(&last.0), "{reason}");
            assert_eq!(later.1, last.1);
        }
        for reason in [Reason::RegistryUnavailable, Reason::ImageNotFound, Reason::Evicted] {
            let [first, second, ..] = pauses(reason);
            assert!(first.0 <= 5 && second.0 <= 10 && !second.1, "{reason}: {first:?} {second:?}");
        }
    }

    #[test]
    fn a_bad_input_is_named() {
        let given_up_after = |class, reason: Reason| {
            let last = BuildFailure { class, reason: reason.into(), ..BuildFailure::default() };
            given_up_reason(&FailureRecord { last, ..FailureRecord::default() })
        };
        assert_eq!(
            given_up_after(FailureClass::Input, Reason::DockerfileMismatch),
            Reason::DockerfileMismatch
        );
        assert_eq!(
            given_up_after(FailureClass::Input, Reason::InvalidStrategy),
            Reason::InvalidStrategy
        );
        assert_eq!(
            given_up_after(FailureClass::Build, Reason::DockerfileMismatch),
            Reason::BuildFailed
        );
        assert_eq!(
            given_up_after(FailureClass::Infrastructure, Reason::OutOfMemory),
            Reason::InfrastructureFailed
        );
    }

    #[test]
    fn a_reason_of_another_version_says_nothing() {
        let failed = |class| {
            let last = BuildFailure {
                class,
                reason: "OfAnotherVersion".into(),
                ..BuildFailure::default()
            };
            FailureRecord { last, ..FailureRecord::default() }
        };
        let (input, outside) = (failed(FailureClass::Input), failed(FailureClass::Infrastructure));
        assert_eq!(given_up_reason(&input), Reason::BuildFailed);
        assert_eq!(infrastructure_reason(&outside), Reason::InfrastructureFailed);
        assert!(is_of_environment(&outside), "it is retried for as long as it takes");
    }

    #[test]
    fn a_bad_input_is_not_retried() {
        let last = BuildFailure { class: FailureClass::Input, ..BuildFailure::default() };
        let record = FailureRecord { build: 1, last, ..FailureRecord::default() };
        let retries = Retries { build: 9, infrastructure: 9 };
        let decision = retry_decision(Some(&record), &retries, Timestamp::UNIX_EPOCH);
        assert_eq!(decision, RetryDecision::GiveUp);
    }
}
