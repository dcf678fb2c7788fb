//! Counts failed attempts: every one at a build, or at the checks of what it has pushed, is counted
//! here and nowhere else, and each counts once.
//!
//! A failed attempt shows in the outcome of its Job, in a registry that does not have what a build
//! claims to have pushed, or in the answer of an API server that refuses the Job.

use jiff::Timestamp;

use crate::{
    api::{
        BuildFailure, FailureClass, FailureRecord, ImageState,
        condition::{Reason, ReasonTrait},
    },
    engine::{
        causes,
        decision::ImageDecision,
        input::{BuildOutcome, ObservedImage},
    },
    identity::{BuildIdentity, Fingerprint},
};

/// What an attempt is at. Builds and checks have attempts of their own, and share the retry
/// budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptKind {
    /// The build of a fingerprint.
    Build,
    /// The checks of what the build has pushed: all that run side by side are one attempt.
    Checks,
}

/// Versions of what the Jobs of an image are made of, if the image does not depend on it.
#[derive(Clone, Copy, Debug)]
pub struct JobVersions<'a> {
    /// The version of the spec and the strategy.
    pub job: &'a str,
    /// The version of what the pods of builds are made of.
    pub pod: &'a str,
    /// The version of the Secrets with the family's registry credentials.
    pub credentials: &'a str,
}

/// An attempt that has failed.
#[derive(Clone, Debug)]
pub struct FailedAttempt<'a> {
    /// What it was at.
    pub kind: AttemptKind,
    /// The fingerprint of the build.
    pub fingerprint: &'a Fingerprint,
    /// Which attempt it was, counted from 0.
    pub attempt: i32,
    /// The name of the cascade that the attempt was part of.
    pub cascade: &'a str,
    /// What the attempt was made for; see [`causes::key`](crate::engine::causes::key).
    pub cause: &'a str,
    /// How it has failed.
    pub failure: BuildFailure,
    /// What its Job was made of.
    pub versions: JobVersions<'a>,
}

/// A check whose Job the API server refuses.
#[derive(Clone, Debug)]
pub struct CheckRefusal<'a> {
    /// The name of the check.
    pub check: &'a str,
    /// Which attempt at the checks it was, counted from 0.
    pub attempt: i32,
    /// The name of the cascade that the image belongs to; empty if it belongs to none.
    pub cascade: &'a str,
    /// Why it was refused.
    pub failure: BuildFailure,
}

impl ObservedImage<'_> {
    /// Returns the versions of what the image's Jobs are made of.
    #[must_use]
    pub fn versions(&self) -> JobVersions<'_> {
        JobVersions {
            job: &self.job_version,
            pod: &self.pod_version,
            credentials: &self.credentials_version,
        }
    }
}

impl FailedAttempt<'_> {
    /// Returns the record with this attempt. An attempt that it counts already changes nothing.
    #[must_use]
    pub fn count(self, record: Option<FailureRecord>, now: Timestamp) -> FailureRecord {
        let record = record.filter(|record| record.is_of(self.fingerprint.as_str()));
        let mut record = record.unwrap_or_else(|| FailureRecord {
            fingerprint: Some(self.fingerprint.into()),
            ..FailureRecord::default()
        });
        if self.is_counted(&record) {
            return record;
        }
        let count = match self.failure.class {
            FailureClass::Infrastructure => Some(&mut record.infrastructure),
            FailureClass::Build | FailureClass::Input => Some(&mut record.build),
            FailureClass::Cancelled => None,
        };
        if let Some(count) = count {
            *count = count.saturating_add(1);
        }
        match self.kind {
            AttemptKind::Build => record.attempt = Some(self.attempt),
            AttemptKind::Checks => record.check_attempt = self.attempt.saturating_add(1),
        }
        record.cascade = self.cascade.into();
        record.cause = self.cause.into();
        record.job_version = self.version().map(str::to_owned);
        record.last = self.failure;
        record.at = Some(now);
        record
    }

    /// Whether this attempt, or a later one, is counted in a record of its fingerprint.
    fn is_counted(&self, record: &FailureRecord) -> bool {
        match self.kind {
            AttemptKind::Build => record.attempt >= Some(self.attempt),
            AttemptKind::Checks => record.check_attempt > self.attempt,
        }
    }

    /// Returns the version of what has to change before another attempt at the same fingerprint can
    /// end differently, if that is not only a matter of time: the Job, if the API server found it
    /// invalid, and the pod, if another one may not fail. Other credentials may end a denial of
    /// access earlier than time does.
    fn version(&self) -> Option<&str> {
        let reason = self.failure.known_reason()?;
        match self.kind {
            _ if reason == Reason::InvalidStrategy => Some(self.versions.job),
            _ if reason.has(ReasonTrait::AwaitsCorrection) => Some(self.versions.credentials),
            AttemptKind::Build if reason.has(ReasonTrait::DependsOnPod) => Some(self.versions.pod),
            AttemptKind::Build | AttemptKind::Checks => None,
        }
    }
}

/// Returns the record with the failed builds of a fingerprint that it does not count yet; `None` if
/// nothing has failed at this fingerprint.
#[must_use]
pub fn count_failed_builds(
    record: Option<&FailureRecord>,
    fingerprint: &Fingerprint,
    observed: &ObservedImage<'_>,
    cause: &str,
    now: Timestamp,
) -> Option<FailureRecord> {
    let builds = observed.builds.iter().filter(|build| build.identity.fingerprint == *fingerprint);
    let mut failed: Vec<(&BuildIdentity, &BuildFailure)> = builds
        .filter_map(|build| match &build.outcome {
            BuildOutcome::Failed(failure) => Some((&build.identity, failure)),
            _ => None,
        })
        .collect();
    failed.sort_by_key(|(identity, _)| identity.attempt);
    let known = record.filter(|record| record.is_of(fingerprint.as_str())).cloned();
    failed.into_iter().fold(known, |known, (identity, failure)| {
        let failed = FailedAttempt {
            kind: AttemptKind::Build,
            fingerprint,
            attempt: identity.attempt,
            cascade: identity.cascade.as_str(),
            cause,
            failure: failure.clone(),
            versions: observed.versions(),
        };
        Some(failed.count(known, now))
    })
}

impl ImageDecision {
    /// Counts a build whose Job the API server refuses, so that it is neither retried for ever nor
    /// forgotten.
    pub fn count_refused_build(
        &mut self,
        image: &str,
        build: &BuildIdentity,
        failure: BuildFailure,
        versions: JobVersions<'_>,
        now: Timestamp,
    ) {
        self.state = ImageState::Queued;
        self.reason = Reason::Retrying;
        self.message = failure.message.clone().into();
        let failed = FailedAttempt {
            kind: AttemptKind::Build,
            fingerprint: &build.fingerprint,
            attempt: build.attempt,
            cascade: build.cascade.as_str(),
            cause: &causes::key(image, &self.causes),
            failure,
            versions,
        };
        let known = self.failure.take().map(|known| *known);
        self.failure = Some(failed.count(known, now).into());
    }

    /// Counts a required check whose Job the API server refuses. Several checks of one attempt
    /// count once.
    pub fn count_refused_check(
        &mut self,
        image: &str,
        refused: CheckRefusal<'_>,
        versions: JobVersions<'_>,
        now: Timestamp,
    ) {
        let verified = self.verified.as_ref().map(|verified| verified.fingerprint.clone());
        // Without a wanted build, only the checks of the last one have changed.
        let Some(fingerprint) = self.fingerprint.clone().or(verified) else { return };
        let CheckRefusal { check, attempt, cascade, failure } = refused;
        let message = format!("check {check}: {}", failure.message);
        let failed = FailedAttempt {
            kind: AttemptKind::Checks,
            fingerprint: &fingerprint,
            attempt,
            cascade,
            cause: &causes::key(image, &self.causes),
            failure: BuildFailure { message: message.clone(), ..failure },
            versions,
        };
        let known = self.failure.take().map(|known| *known);
        let record = failed.count(known.clone(), now);
        if known.as_ref() != Some(&record) {
            self.reason = Reason::Retrying;
            self.message = message.into();
        }
        self.failure = Some(record.into());
    }
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
