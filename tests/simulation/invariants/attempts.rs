//! Attempts at one build: the pauses between them, and how many there are.

use std::time::Duration;

use groundswell::{
    api::{
        FailureClass, ManagedImageStatus,
        condition::{Reason, ReasonTrait},
        labels,
    },
    controller::object_cache::Key,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Violations, calm, order, reached::reach, reconcile_view, short};
use crate::{
    cluster::Cluster,
    objects::{Kind, key_of, label, owner, uid},
};

/// Shortest pause after the first failure of a build: three quarters of the pause without jitter.
const MIN_BUILD_PAUSE: Duration = Duration::from_millis(7500);
/// Shortest pause after the first failure of the infrastructure.
const MIN_INFRASTRUCTURE_PAUSE: Duration = Duration::from_millis(3750);
/// Shortest pause after many failures.
const MIN_LAST_PAUSE: Duration = Duration::from_secs(450);
/// Shortest pause after many failures of the infrastructure: those of an outage that is over.
const MIN_RECOVERY_PAUSE: Duration = Duration::from_secs(45);
/// How long a build may wait for the end of an outage while nothing runs.
const MAX_OUTAGE_WAIT: Duration = Duration::from_mins(10);

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    Succeeded,
    /// The build itself failed.
    Build,
    /// `prepare` rejected the input.
    Input,
    Infrastructure,
}

/// An attempt at a build.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The uid of the Job.
    pub job: String,
    /// The uid of the family.
    pub family: String,
    pub family_name: String,
    pub image: String,
    pub fingerprint: String,
    pub cascade: String,
    /// The upstreams that it counts for, comma separated.
    pub upstreams: String,
    pub user_caused: bool,
    pub started_at: Duration,
    /// How it ended, and when; `None` if it runs, or was stopped.
    pub end: Option<(AttemptEnd, Duration)>,
    /// When its pod was gone, after its Job was deleted.
    pub gone_at: Option<Duration>,
}

impl Attempt {
    /// Returns when and how it failed.
    pub fn failure(&self) -> Option<(AttemptEnd, Duration)> {
        self.end.filter(|(end, _)| *end != AttemptEnd::Succeeded)
    }
}

/// Records that a build starts, and checks that it may, after those before it.
pub fn starts(cluster: &mut Cluster, job: &Value, shown: &str) -> Violations {
    let attempt = Attempt {
        job: uid(job).into(),
        family: owner(job).into(),
        family_name: label(job, labels::FAMILY).into(),
        image: label(job, labels::IMAGE).into(),
        fingerprint: label(job, labels::FINGERPRINT).into(),
        cascade: label(job, labels::CASCADE).into(),
        upstreams: job["metadata"]["annotations"][labels::UPSTREAMS]
            .as_str()
            .unwrap_or_default()
            .into(),
        user_caused: order::says_user_caused(job),
        started_at: cluster.elapsed(),
        end: None,
        gone_at: None,
    };
    let is_same = |other: &&Attempt| {
        (&other.family, &other.image, &other.fingerprint, &other.cascade)
            == (&attempt.family, &attempt.image, &attempt.fingerprint, &attempt.cascade)
    };
    let before: Vec<Attempt> =
        cluster.invariants.attempts.iter().filter(is_same).cloned().collect();
    let found = check(cluster, job, &before, shown);
    cluster.invariants.attempts.push(attempt);
    found
}

/// Records how a build ended.
pub fn ended(cluster: &mut Cluster, job: &Value, end: AttemptEnd) {
    let now = cluster.elapsed();
    let mut attempts = cluster.invariants.attempts.iter_mut().rev();
    if let Some(attempt) = attempts.find(|attempt| attempt.job == uid(job)) {
        attempt.end = Some((end, now));
    }
}

/// Records that the Job of a build that was deleted has no pod any more.
pub fn gone(cluster: &mut Cluster, job: &str) {
    let now = cluster.elapsed();
    let mut attempts = cluster.invariants.attempts.iter_mut().rev();
    if let Some(attempt) = attempts.find(|attempt| attempt.job == job) {
        attempt.gone_at = Some(now);
    }
}

/// Checks an attempt after the attempts `before` at the same fingerprint in the same cascade.
fn check(cluster: &mut Cluster, job: &Value, before: &[Attempt], shown: &str) -> Violations {
    let failures: Vec<(AttemptEnd, Duration)> =
        before.iter().filter_map(Attempt::failure).collect();
    let (Some((end, at)), Some((_, first))) = (failures.last(), failures.first()) else {
        return Vec::new();
    };
    let family = label(job, labels::FAMILY);
    let key = Key::new(&key_of(job).namespace, family);
    let Some((spec, _)) = reconcile_view(cluster, &key) else { return Vec::new() };
    // A user who retries an image, or edits it, clears its failures.
    let is_counted = calm::is_unchanged_since(cluster, *first)
        && !cluster.invariants.history.has_lost_records(family)
        && !cluster.time.was_skewed();
    if !is_counted {
        return Vec::new();
    }
    let mut found = Vec::new();
    let count = failures.iter().filter(|(other, _)| other == end).count();
    let paused = cluster.elapsed().saturating_sub(*at);
    let is_calm = calm::is_calm_since(cluster, *first);
    // The controller may see that a Job has failed before it sees how its pod has.
    let least = if is_calm {
        least_pause(*end, count)
    } else {
        least_pause(*end, 1).min(MIN_INFRASTRUCTURE_PAUSE)
    };
    if paused < least {
        let message = format!(
            "{shown} started {paused:?} after failure {count} ({end:?}), and not after {least:?}"
        );
        found.push(("attempts are paused between", message));
    }
    match end {
        AttemptEnd::Build => reach(cluster, "pause: after a failed build"),
        AttemptEnd::Infrastructure => reach(cluster, "pause: after an infrastructure failure"),
        AttemptEnd::Input | AttemptEnd::Succeeded => {}
    }
    if !is_calm {
        return found;
    }
    if *end == AttemptEnd::Input {
        found.push(("bad input is not retried", shown.to_owned()));
    }
    let of_builds = failures.iter().filter(|(end, _)| *end == AttemptEnd::Build).count();
    let allowed = usize::try_from(spec.policy.retries.build).unwrap_or_default();
    if *end == AttemptEnd::Build && of_builds > allowed {
        let message = format!("{shown} after {of_builds} failures, and {allowed} are retried");
        found.push(("failed builds are retried as often as the policy says", message));
    }
    found
}

/// Returns the shortest pause after this many failures.
fn least_pause(end: AttemptEnd, failures: usize) -> Duration {
    let (first, last) = match end {
        AttemptEnd::Build => (MIN_BUILD_PAUSE, MIN_LAST_PAUSE),
        AttemptEnd::Infrastructure => (MIN_INFRASTRUCTURE_PAUSE, MIN_RECOVERY_PAUSE),
        AttemptEnd::Input | AttemptEnd::Succeeded => return Duration::ZERO,
    };
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or_default().min(16);
    (first * 2_u32.pow(doublings)).min(last)
}

/// Checks that an image that is recorded as failed was tried as often as its policy says.
pub fn recorded(cluster: &mut Cluster, record: &Value) -> Option<(&'static str, String)> {
    if record["status"]["state"] != "Failed" {
        return None;
    }
    let status = ManagedImageStatus::deserialize(&record["status"]).ok()?;
    let failure = status.failure.as_ref()?;
    let family = Key::new(&key_of(record).namespace, record["spec"]["family"].as_str()?);
    let (spec, _) = reconcile_view(cluster, &family)?;
    if failure.last.class == FailureClass::Build && failure.check_attempt > 1 {
        reach(cluster, "check: retried");
    }
    let retries = &spec.policy.retries;
    let exceeds_resources = Reason::parse(&failure.last.reason)
        .is_some_and(|reason| reason.has(ReasonTrait::ExceedsResources));
    let (count, allowed) = match failure.last.class {
        FailureClass::Build => (failure.build, retries.build),
        FailureClass::Infrastructure if !exceeds_resources => {
            let name = key_of(record).name;
            let message = format!("{name} is given up: {}", failure.last.reason);
            return Some(("failures of the infrastructure end", message));
        }
        FailureClass::Infrastructure => (failure.infrastructure, retries.infrastructure),
        FailureClass::Input | FailureClass::Cancelled => return None,
    };
    (count <= allowed && count > 0).then(|| {
        let message = format!(
            "{} at {} failed {count} times, and {allowed} failures are retried",
            key_of(record).name,
            short(failure.fingerprint.as_deref().unwrap_or_default())
        );
        ("images fail when their retries are used up", message)
    })
}

/// Checks that builds are tried again while the infrastructure fails.
pub fn inspect(cluster: &Cluster) -> Violations {
    let since = cluster.elapsed().saturating_sub(MAX_OUTAGE_WAIT);
    if !calm::is_calm_since(cluster, since) || !calm::is_unchanged_since(cluster, since) {
        return Vec::new();
    }
    let waits = cluster.objects.all(Kind::Image).filter(|(_, record)| {
        let status = &record["status"];
        if status["reason"] != "InfrastructureFailed" || status["state"] != "Queued" {
            return false;
        }
        let changed = cluster.invariants.places_changed.get(owner(record));
        let runs = cluster
            .work
            .values()
            .any(|work| owner(&work.job) == owner(record) && work.takes_place());
        !runs && changed.is_some_and(|changed| *changed < since)
    });
    waits.map(|(key, _)| ("builds are tried in outages", key.name.clone())).collect()
}
