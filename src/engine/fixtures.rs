//! Observed builds for the unit tests of more than one module.

use std::{collections::HashMap, sync::Arc};

use crate::{
    engine::{BuildOutcome, Observed, ObservedBuild, ObservedImage},
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
        ended_at: None,
        outcome,
        pushed: None,
        waits_for: None,
        wait_reason: None,
        has_started: true,
        repository: None,
        live: false,
    }
}

/// An image of which nothing but these builds is known.
pub fn observed(builds: Vec<ObservedBuild>) -> ObservedImage<'static> {
    ObservedImage {
        record: None,
        remembered: &[],
        verified: None,
        source: Observed::Pending,
        folder: None,
        strategy: Observed::Pending,
        platform: None,
        builds,
        checks: Vec::new(),
        deferred: Vec::new(),
        job_version: String::new(),
        pod_version: String::new(),
        credentials_version: Arc::default(),
        lookups: Vec::new(),
        rebuild_mark: None,
        labels: None,
        rollback_target: None,
        foreign_tags: Arc::default(),
        tags: HashMap::new(),
    }
}
