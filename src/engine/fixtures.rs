//! Sights for the unit tests of more than one module.

use crate::engine::{BuildOutcome, ObservedBuild};

/// The Job `<fingerprint>-<attempt>` of build 1, which is not live; nothing else is known of it.
pub fn job(fingerprint: &str, attempt: i32, outcome: BuildOutcome) -> ObservedBuild {
    ObservedBuild {
        job: format!("{fingerprint}-{attempt}"),
        fingerprint: fingerprint.into(),
        attempt,
        build: 1,
        cascade: String::new(),
        own: String::new(),
        user_caused: false,
        started_at: None,
        outcome,
        waits_for: None,
        live: false,
    }
}
