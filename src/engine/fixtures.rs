//! Observed builds for the unit tests of more than one module.

use crate::{
    engine::{BuildOutcome, ObservedBuild},
    identity::BuildIdentity,
};

/// The Job `<fingerprint>-<attempt>` of build 1, which is not live; nothing else is known of it.
pub fn job(fingerprint: &str, attempt: i32, outcome: BuildOutcome) -> ObservedBuild {
    ObservedBuild {
        job: format!("{fingerprint}-{attempt}").into(),
        identity: BuildIdentity {
            fingerprint: fingerprint.into(),
            attempt,
            number: 1,
            ..BuildIdentity::default()
        },
        started_at: None,
        outcome,
        waits_for: None,
        has_started: true,
        repository: None,
        live: false,
    }
}
