//! The breaker: it opens after failures from one cause, lets one trial build through at a time, and
//! closes after a success.
//!
//! The model knows the cause of a build in a cascade that one moved upstream alone has caused, and
//! that no user has interfered with.

use std::{collections::BTreeSet, time::Duration};

use groundswell::{
    api::{CascadeSpec, CauseType, ImageFamilySpec, labels},
    controller::object_cache::Key,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Violations,
    attempts::{Attempt, AttemptEnd},
    calm,
    reached::reach,
    reconcile_view,
};
use crate::{
    cluster::Cluster,
    job_controller::Phase,
    objects::{Kind, key_of, label, owner, uid},
};

/// How long the controller may take to see that a build has ended.
const MARGIN: Duration = Duration::from_secs(5);

/// Checks a new build against the failures of its cause.
pub fn check(cluster: &mut Cluster, job: &Value, shown: &str) -> Violations {
    let key = Key::new(&key_of(job).namespace, label(job, labels::FAMILY));
    let cascade = label(job, labels::CASCADE);
    let Some((spec, _)) = reconcile_view(cluster, &key) else { return Vec::new() };
    let threshold = usize::try_from(spec.policy.breaker.consecutive_failures).unwrap_or_default();
    let Some(cause) = single_cause(cluster, &key, owner(job), cascade) else { return Vec::new() };
    let is_of_cause = |attempt: &&Attempt| attempt.has_cause(owner(job), cascade, &cause);
    let known_until = reconcile_start(cluster, &key).saturating_sub(MARGIN);
    let attempts: Vec<&Attempt> = cluster.invariants.attempts.iter().filter(is_of_cause).collect();
    let is_own = attempts.iter().any(|attempt| attempt.job == uid(job));
    if threshold == 0 || !is_own {
        return Vec::new();
    }
    // A build with checks succeeds when these have passed, whenever that is.
    let succeeded =
        |attempt: &Attempt| attempt.end.is_some_and(|(end, _)| end == AttemptEnd::Succeeded);
    if attempts.iter().any(|attempt| has_checks(&spec, attempt) && succeeded(attempt)) {
        return Vec::new();
    }
    // The next cascade tries again what has failed: its failures count no longer.
    let retried = images_of_later_cascades(cluster, owner(job), cascade);
    let is_counted =
        |attempt: &&&Attempt| attempt.failure().is_none() || !retried.contains(&attempt.image);
    let counted: Vec<&Attempt> = attempts.iter().filter(is_counted).copied().collect();
    let FailedImages { images: failed, last } = failures(&counted, known_until);
    if failed.len() < threshold {
        return Vec::new();
    }
    let mut found = Vec::new();
    let probe_after = Duration::from_secs(spec.policy.breaker.probe_after.as_secs().into());
    let now = cluster.elapsed();
    if now < last + probe_after {
        let message = format!("{shown} after {failed:?} failed, the last at {last:?}");
        found.push(("an open breaker holds builds back", message));
    }
    let runs = attempts.iter().find(|attempt| {
        let work = cluster.work.get(&attempt.job);
        attempt.job != uid(job)
            && attempt.started_at < known_until
            && work.is_some_and(|work| work.phase == Phase::Live && !work.is_deleted())
    });
    if let Some(other) = runs {
        let message = format!("{shown} while {} is tried, after {failed:?} failed", other.image);
        found.push(("one trial build runs at a time", message));
    }
    if found.is_empty() {
        reach(cluster, "breaker: trial build");
    }
    found
}

/// Checks that a breaker that a family's status shows has not been closed by a success.
pub fn written(cluster: &Cluster, family: &Value) -> Option<(&'static str, String)> {
    let status = &family["status"];
    let shown = status["breaker"]["cause"].as_str()?;
    let key = key_of(family);
    let (spec, _) = reconcile_view(cluster, &key)?;
    let running = status["cascades"].as_array().into_iter().flatten();
    let running: Vec<&str> = running.filter_map(|cascade| cascade["name"].as_str()).collect();
    // What another cascade has become may count as well.
    let [cascade] = running[..] else { return None };
    let cause = single_cause(cluster, &key, uid(family), cascade)?;
    if !shown.starts_with(&format!("upstream {} at", cause.upstream)) {
        return None;
    }
    let is_of_cause = |attempt: &&Attempt| attempt.has_cause(uid(family), cascade, &cause);
    let attempts: Vec<&Attempt> = cluster.invariants.attempts.iter().filter(is_of_cause).collect();
    let known_until = reconcile_start(cluster, &key).saturating_sub(MARGIN);
    // What a build with checks has become is only known when these have ended.
    let (checked, unchecked): (Vec<&Attempt>, Vec<&Attempt>) =
        attempts.into_iter().partition(|attempt| has_checks(&spec, attempt));
    let closed = unchecked.iter().any(|attempt| {
        attempt.end.is_some_and(|(end, at)| end == AttemptEnd::Succeeded && at < known_until)
    });
    // What failed at about the time of the success may count.
    let mut failed = failures_after(&unchecked, known_until);
    failed.extend(checked.into_iter().map(|attempt| attempt.image.clone()));
    // A build that a user has caused may have the same cause as well: its upstream has moved since
    // its last success.
    let by_users = cluster.invariants.attempts.iter().filter(|attempt| {
        let ended_well = attempt.end.is_some_and(|(end, _)| end == AttemptEnd::Succeeded);
        attempt.user_caused
            && (attempt.family == uid(family) && attempt.cascade == cascade)
            && (!ended_well || has_checks(&spec, attempt))
    });
    failed.extend(by_users.map(|attempt| attempt.image.clone()));
    let threshold = usize::try_from(spec.policy.breaker.consecutive_failures).unwrap_or_default();
    (closed && failed.len() < threshold).then(|| {
        ("a success closes the breaker", format!("{}: {shown}; since then {failed:?}", key.name))
    })
}

/// Checks that the images that a breaker counts have failed of themselves, or ran for too long.
pub fn counted(cluster: &Cluster, family: &Value) -> Option<(&'static str, String)> {
    let key = key_of(family);
    let (spec, _) = reconcile_view(cluster, &key)?;
    let failures = family["status"]["breaker"]["failures"].as_array().into_iter().flatten();
    let mut failures = failures.filter_map(Value::as_str);
    let image = failures.find(|image| {
        let known = spec.images.iter().find(|known| known.name == *image);
        let mut attempts = cluster.invariants.attempts.iter();
        known.is_some_and(|known| known.checks.is_empty())
            && !attempts.any(|attempt| {
                attempt.family == uid(family)
                    && attempt.image == *image
                    && attempt.end.is_none_or(|(end, _)| end == AttemptEnd::Build)
                    && cluster.work.get(&attempt.job).is_none_or(|work| work.phase != Phase::Live)
            })
    })?;
    Some(("a breaker counts failures of builds only", format!("{}: {image}", key.name)))
}

/// Checks that an image that a breaker holds back has the cause that failed.
pub fn recorded(cluster: &Cluster, record: &Value) -> Option<(&'static str, String)> {
    let status = &record["status"];
    if status["reason"] != "BreakerOpen" {
        return None;
    }
    let message = status["message"].as_str()?;
    let named = message.split("(upstream ").nth(1)?.split(" at ").next()?;
    let family = Key::new(&key_of(record).namespace, record["spec"]["family"].as_str()?);
    let (spec, _) = reconcile_view(cluster, &family)?;
    let image = record["spec"]["image"].as_str()?;
    (!is_built_on(&spec, image, named)?)
        .then(|| ("a breaker holds back its cause only", format!("{image}: {message}")))
}

/// Returns whether an image is built on an upstream; `None` if it is built on other families.
pub fn is_built_on(spec: &ImageFamilySpec, image: &str, upstream: &str) -> Option<bool> {
    let found = spec.images.iter().find(|known| known.name == image)?;
    let mut is_built = false;
    for edge in &found.from {
        if edge.family.is_some() {
            return None;
        }
        is_built |= edge.upstream.as_deref() == Some(upstream);
        if let Some(parent) = &edge.image {
            is_built |= is_built_on(spec, parent, upstream)?;
        }
    }
    Some(is_built)
}

/// The cause of a cascade.
struct SingleCause {
    /// The name of the upstream.
    upstream: String,
    /// Its reference, as Jobs name it.
    reference: String,
}

impl Attempt {
    /// Returns whether this is a build of a cascade for its cause.
    fn has_cause(&self, family: &str, cascade: &str, cause: &SingleCause) -> bool {
        self.family == family
            && self.cascade == cascade
            && !self.user_caused
            && self.upstreams == cause.reference
    }
}

/// Returns the moved upstream that alone has caused a cascade in which nobody has interfered.
fn single_cause(
    cluster: &Cluster,
    family: &Key,
    owned_by: &str,
    cascade: &str,
) -> Option<SingleCause> {
    let key = Key::new(&family.namespace, cascade);
    let object =
        cluster.objects.get(Kind::Cascade, &key).filter(|object| owner(object) == owned_by)?;
    let opened_at = cluster.invariants.opened.get(uid(object))?.at();
    if !calm::is_calm_since(cluster, opened_at) || !calm::is_unchanged_since(cluster, opened_at) {
        return None;
    }
    let spec = CascadeSpec::deserialize(&object["spec"]).ok()?;
    let [cause] = &spec.causes[..] else { return None };
    if cause.type_ != CauseType::Upstream || cause.from.is_empty() {
        return None;
    }
    let (known, _) = reconcile_view(cluster, family)?;
    let upstream = known.upstreams.iter().find(|upstream| upstream.name == cause.name)?;
    Some(SingleCause { upstream: cause.name.clone(), reference: upstream.reference() })
}

/// Returns the images of a family's cascades that started after this one. Names sort by time.
fn images_of_later_cascades(cluster: &Cluster, owned_by: &str, cascade: &str) -> BTreeSet<String> {
    let cascades = cluster.objects.all(Kind::Cascade);
    let later = cascades
        .filter(|(key, object)| owner(object) == owned_by && key.name.as_str() > cascade)
        .filter_map(|(_, object)| CascadeSpec::deserialize(&object["spec"]).ok());
    later.flat_map(|spec| spec.levels.into_iter().flatten()).collect()
}

/// Returns when the running reconcile of a family started.
fn reconcile_start(cluster: &Cluster, family: &Key) -> Duration {
    let reconcile = cluster.invariants.reconciles.get(family);
    reconcile.map_or(cluster.elapsed(), |reconcile| reconcile.started_at)
}

/// Returns whether an image has checks, or is gone.
fn has_checks(spec: &ImageFamilySpec, attempt: &Attempt) -> bool {
    let image = spec.images.iter().find(|image| image.name == attempt.image);
    image.is_none_or(|image| !image.checks.is_empty())
}

/// The images that have certainly failed after the last success.
struct FailedImages {
    images: BTreeSet<String>,
    /// When the last of them failed.
    last: Duration,
}

/// Returns the images that have failed until this time.
fn failures(attempts: &[&Attempt], until: Duration) -> FailedImages {
    let ends = attempts.iter().filter_map(|attempt| Some((attempt, attempt.end?)));
    let successes = ends.clone().filter(|(_, (end, _))| *end == AttemptEnd::Succeeded);
    let success = successes.map(|(_, (_, at))| at + MARGIN).max();
    let failed = ends.filter(|(_, (end, at))| {
        *end == AttemptEnd::Build && *at < until && success.is_none_or(|success| *at > success)
    });
    let last = failed.clone().map(|(_, (_, at))| at).max().unwrap_or_default();
    FailedImages { images: failed.map(|(attempt, _)| attempt.image.clone()).collect(), last }
}

/// Returns the images that may count as failed after the last success before this time. A pod that
/// never starts or never ends counts as failed after a while.
fn failures_after(attempts: &[&Attempt], known_until: Duration) -> BTreeSet<String> {
    let ends = attempts.iter().filter_map(|attempt| attempt.end);
    let successes = ends.filter(|(end, at)| *end == AttemptEnd::Succeeded && *at < known_until);
    let success = successes.map(|(_, at)| at).max().unwrap_or_default();
    let may_have_failed = |attempt: &&&Attempt| {
        attempt.end.is_none_or(|(end, at)| end == AttemptEnd::Build && at + MARGIN > success)
    };
    attempts.iter().filter(may_have_failed).map(|attempt| attempt.image.clone()).collect()
}
