//! When a Job may be created: a build within its family's limits, gates and cascade and from
//! checked parents, and each check once.

use std::{sync::Arc, time::Duration};

use groundswell::{
    api::{ImageFamilySpec, Supersede, Window, labels},
    controller::object_cache::Key,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Violations, attempts, breaker, limits, reconcile_view, requests, rollbacks, short};
use crate::{
    builder,
    cluster::Cluster,
    job_controller::{self, Phase, Work},
    objects::{Kind, key_of, label, owner, uid},
    registry::built_digest,
    scene::repository,
    script::SCANNER,
};

/// Upper bound on the lag of a watch that is not stalled.
const MAX_WATCH_LAG: Duration = Duration::from_mins(1);

/// Checks a new Job, before it is counted among the running ones.
pub fn created(cluster: &mut Cluster, job: &Arc<Value>) {
    cluster.invariants.effects += 1;
    let found =
        if job_controller::is_check(job) { check(cluster, job) } else { build(cluster, job) };
    for (invariant, message) in found {
        cluster.violated(invariant, message);
    }
}

fn check(cluster: &mut Cluster, job: &Value) -> Violations {
    let is_same = |other: &Value| {
        let labels = [labels::IMAGE, labels::CHECK, labels::CHECK_REVISION];
        owner(other) == owner(job)
            && checked_digest(other) == checked_digest(job)
            && labels.iter().all(|name| label(other, name) == label(job, name))
    };
    // A pod that never starts counts as failed after a while.
    let live = |other: &&Work| {
        other.is_check()
            && other.phase == Phase::Live
            && !other.never_starts()
            && is_same(&other.job)
    };
    let concurrent = cluster.work.values().find(live);
    let shown = |other: &Work| format!("{} concurrently with {}", key_of(job).name, other.key.name);
    let concurrent = concurrent.map(|other| ("no two live checks of one digest", shown(other)));
    let mut found: Violations = concurrent.into_iter().chain(check_image(cluster, job)).collect();
    let key = key_of(job);
    let shown = key.name.as_str();
    let family = Key::new(&key.namespace, label(job, labels::FAMILY));
    if let Some((spec, started_at)) = reconcile_view(cluster, &family) {
        if spec.suspend {
            found.push(("suspended families check nothing", shown.to_owned()));
        }
        if is_closed(&spec, started_at) {
            let message = format!("{shown}, decided at {started_at}");
            found.push(("nothing is checked while no window is open", message));
        }
        found.extend(parallelism(cluster, &spec, job, shown));
    }
    found.extend(limits::check(cluster, job, shown));
    found
}

/// Returns whether no window of the policy is open.
fn is_closed(spec: &ImageFamilySpec, at: Timestamp) -> bool {
    let windows = &spec.policy.windows;
    !windows.is_empty() && !windows.iter().any(|window| is_open(window, at))
}

/// Checks that a new build or check has a place in its family: both take one.
fn parallelism(
    cluster: &Cluster,
    spec: &ImageFamilySpec,
    job: &Value,
    shown: &str,
) -> Option<(&'static str, String)> {
    // A pod that never starts counts as failed after a while.
    let takes_place = |other: &&Work| {
        owner(&other.job) == owner(job)
            && other.phase == Phase::Live
            && !(other.never_starts() && other.is_deleted())
            && !other.is_late
    };
    let running = cluster.work.values().filter(takes_place).count();
    let allowed = usize::try_from(spec.policy.parallelism).unwrap_or(1);
    (running >= allowed && !cluster.is_late).then(|| {
        let message = format!("{shown} with {running} others, and {allowed} may run");
        ("build limits are kept", message)
    })
}

/// Checks the image that a check runs in: the checked one, or a digest of the scanner, which the
/// Job names as it is recorded.
fn check_image(cluster: &Cluster, job: &Value) -> Option<(&'static str, String)> {
    let image = job["spec"]["template"]["spec"]["containers"][0]["image"].as_str()?;
    let is_right = match job["metadata"]["annotations"][labels::CHECK_IMAGE].as_str() {
        Some(recorded) => {
            let is_scanner = image.starts_with(SCANNER) && image.contains('@');
            is_scanner && recorded == image && cluster.registry.content(image).is_some()
        }
        None => image.ends_with(checked_digest(job)),
    };
    (!is_right).then(|| ("checks run in digests", format!("{} runs in {image}", key_of(job).name)))
}

fn checked_digest(job: &Value) -> &str {
    job["metadata"]["annotations"][labels::CHECKED_DIGEST].as_str().unwrap_or_default()
}

fn build(cluster: &mut Cluster, job: &Value) -> Violations {
    let key = key_of(job);
    let family = Key::new(&key.namespace, label(job, labels::FAMILY));
    let (image, fingerprint) = (label(job, labels::IMAGE), label(job, labels::FINGERPRINT));
    let shown = format!("{}/{image} at {} as {}", family.name, short(fingerprint), key.name);
    let Some((spec, started_at)) = reconcile_view(cluster, &family) else { return Vec::new() };
    let mut found = Vec::new();
    let builds =
        cluster.work.values().filter(|other| !other.is_check() && owner(&other.job) == owner(job));
    for other in builds {
        let same =
            other.label(labels::IMAGE) == image && other.label(labels::FINGERPRINT) == fingerprint;
        if same && other.phase == Phase::Live {
            found.push((
                "no two live builds of one fingerprint",
                format!("{shown} concurrently with {}", other.key.name),
            ));
        }
        if same
            && other.phase == Phase::Succeeded
            && other.has_pushed()
            && is_known_to_have_pushed(cluster, other)
        {
            found.push((
                "nothing is built twice",
                format!("{shown} although {} has pushed", other.key.name),
            ));
        }
    }
    found.extend(parallelism(cluster, &spec, job, &shown));
    if spec.suspend {
        found.push(("suspended families build nothing", shown.clone()));
    }
    if is_closed(&spec, started_at) {
        found.push((
            "nothing is built while no window is open",
            format!("{shown}, decided at {started_at}"),
        ));
    }
    found.extend(
        held(cluster, &spec, &family, image, started_at)
            .map(|why| ("holds are kept", format!("{shown}: {why}"))),
    );
    found.extend(rollbacks::build(cluster, &spec, &family, job, &shown));
    found.extend(parents(cluster, &spec, &family, job, &shown));
    found.extend(cascade(cluster, job, &shown));
    found.extend(limits::check(cluster, job, &shown));
    found.extend(attempts::starts(cluster, job, &shown));
    found.extend(breaker::check(cluster, job, &shown));
    found.extend(rate_limit(cluster, &spec, job, &shown));
    found
}

/// Returns whether the controller can know what a build has pushed: its Job exists, a record was
/// written, or a status says so. An image in the registry alone proves nothing.
fn is_known_to_have_pushed(cluster: &Cluster, work: &Work) -> bool {
    let fingerprint = work.label(labels::FINGERPRINT);
    let repository = work.job["metadata"]["annotations"][labels::REPOSITORY].as_str();
    let record = format!("gs-{fingerprint}-record");
    let name = format!("{}.{}", work.label(labels::FAMILY), work.label(labels::IMAGE));
    let status = cluster.objects.get(Kind::Image, &Key::new(&work.key.namespace, &name));
    let status = status.map(|image| &image["status"]);
    let job = cluster.objects.get(Kind::Job, &work.key);
    // A build that is started again has the name of the one that is gone.
    job.is_some_and(|job| uid(job) == uid(&work.job))
        || repository.is_some_and(|name| cluster.registry.tag(name, &record).is_some())
        || status.is_some_and(|status| {
            status["reported"]["fingerprint"] == fingerprint || status["fingerprint"] == fingerprint
        })
}

/// Returns whether a window of the scripts, which open once an hour, is open.
pub(super) fn is_open(window: &Window, at: Timestamp) -> bool {
    let minute: i64 = window
        .schedule
        .split(' ')
        .next()
        .and_then(|minute| minute.parse().ok())
        .unwrap_or_default();
    let zone = if window.time_zone == "Asia/Kolkata" { 1800 } else { 0 };
    let into = (at.as_second() + zone - 60 * minute).rem_euclid(3600);
    into < i64::from(window.duration.as_secs())
}

/// Returns the hold of a user because of which an image must not be built.
pub(super) fn held(
    cluster: &Cluster,
    spec: &ImageFamilySpec,
    family: &Key,
    image: &str,
    started_at: Timestamp,
) -> Option<String> {
    let of_spec = spec.images.iter().find(|known| known.name == image)?.hold.as_ref();
    if let Some(hold) = of_spec.filter(|hold| hold.until.is_none_or(|until| started_at < until)) {
        return Some(format!("{hold:?}"));
    }
    let key = Key::new(&family.namespace, &format!("{}.{image}", family.name));
    let record = cluster.objects.get(Kind::Image, &key)?;
    let hold = &record["status"]["hold"];
    let until: Option<Timestamp> = hold["until"].as_str().and_then(|until| until.parse().ok());
    let lasts = !hold.is_null() && until.is_none_or(|until| started_at < until);
    let ends = requests::open(cluster, family, &["Unhold"]).next().is_some();
    (lasts && !ends && requests::is_open(cluster, &hold["request"])).then(|| format!("{hold}"))
}

/// Checks that builds use parents that are adopted, pushed and checked.
fn parents(
    cluster: &Cluster,
    spec: &ImageFamilySpec,
    family: &Key,
    job: &Value,
    shown: &str,
) -> Violations {
    let mut found = Vec::new();
    let status = cluster
        .objects
        .get(Kind::Family, family)
        .map(|family| family["status"].clone())
        .unwrap_or_default();
    for parent in &builder::specification(job).parents {
        let (name, digest) = parent.pinned.split_once('@').unwrap_or_default();
        if let Some(image) = spec.images.iter().find(|image| repository(spec, image) == name) {
            if cluster.registry.origins(&parent.pinned).is_empty() {
                found.push((
                    "children are built from checked parents",
                    format!("{shown} from {}", parent.pinned),
                ));
            } else if !rollbacks::RolledBackTags::of(cluster, family, &image.name)
                .are_asked_for(digest)
                && !cluster.invariants.is_checked(image, &parent.pinned)
            {
                found.push((
                    "children are built from checked parents",
                    format!("{shown} from {} unchecked", parent.pinned),
                ));
            }
        }
        for upstream in spec.upstreams.iter().filter(|upstream| upstream.image == name) {
            let rows = status["upstreams"].as_array().into_iter().flatten();
            let adopted = rows
                .filter(|row| row["name"] == upstream.name.as_str())
                .find_map(|row| built_digest(&row["adopted"]));
            let pinned = upstream.hold.as_ref().and_then(|hold| hold.digest.as_deref());
            let manual = status["upstreams"]
                .as_array()
                .into_iter()
                .flatten()
                .find_map(|row| row["hold"]["digest"].as_str());
            // A status that a user has cleared is written after the builds of the reconcile start.
            if adopted.is_some() && ![adopted, pinned, manual].contains(&Some(digest)) {
                let adopted = adopted.map(short);
                let message = format!(
                    "{shown} from {} at {}, and adopted is {adopted:?}",
                    upstream.name,
                    short(digest)
                );
                found.push(("builds use adopted digests", message));
            }
        }
    }
    found
}

/// Checks that each image is built at most once per cascade. Exceptions are failures, edits by
/// users meanwhile, and builds that the controller can't know about: see [`expires`].
fn cascade(cluster: &Cluster, job: &Value, shown: &str) -> Option<(&'static str, String)> {
    let cascade = label(job, labels::CASCADE);
    let known = !cluster.invariants.history.has_lost_records(label(job, labels::FAMILY));
    (known && cluster.invariants.built.contains_key(&build_key(job)))
        .then(|| ("images are built once per cascade", format!("{shown} again in {cascade}")))
}

fn own_inputs(job: &Value) -> String {
    job["metadata"]["annotations"][labels::OWN_INPUTS].as_str().unwrap_or_default().to_owned()
}

/// The start of a build.
#[derive(Clone, Debug)]
pub struct BuildStart {
    at: Timestamp,
    /// The uid of its Job.
    job: String,
}

impl BuildStart {
    /// Returns when it started.
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

/// Returns whether no pod of a Job is or was admitted: nothing has started.
fn is_not_admitted(cluster: &Cluster, job: &str) -> bool {
    let has_pod = |work: &Work| cluster.objects.get(Kind::Pod, &work.pod()).is_some();
    cluster.invariants.not_admitted.contains(job)
        || cluster.work.get(job).is_some_and(|work| work.refused && !has_pod(work))
}

/// Checks that builds that no user requested start no faster than the policy allows. A Job whose
/// pod is not admitted has not started.
fn rate_limit(
    cluster: &mut Cluster,
    spec: &ImageFamilySpec,
    job: &Value,
    shown: &str,
) -> Option<(&'static str, String)> {
    let now = cluster.time.truth();
    if job["metadata"]["annotations"][labels::USER_CAUSED] == "true" {
        return None;
    }
    let starts = cluster.invariants.starts.entry(owner(job).into()).or_default();
    starts.push(BuildStart { at: now, job: uid(job).into() });
    let starts = starts.clone();
    let rate_limit = spec.policy.rate_limit.as_ref()?;
    // The creation time of a Job is known to the second.
    let since = now
        .saturating_sub(rate_limit.per.signed())
        .ok()?
        .saturating_add(SignedDuration::from_secs(1))
        .ok()?;
    let is_start = |start: &&BuildStart| start.at > since && !is_not_admitted(cluster, &start.job);
    let count = starts.iter().filter(is_start).count();
    let exceeds_limit =
        count > usize::try_from(rate_limit.builds).unwrap_or(1) && !cluster.time.was_skewed();
    exceeds_limit.then(|| {
        ("the rate limit holds", format!("{shown} is start {count} within {}", rate_limit.per))
    })
}

/// Records that a build's pod succeeded.
pub fn succeeded(cluster: &mut Cluster, job: &Value) {
    let now = cluster.elapsed();
    cluster.invariants.built.insert(build_key(job), now);
}

/// Identifies what a build is for. The family is identified by its uid, because a recreated family
/// may have a cascade with the name of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildKey {
    family: String,
    cascade: String,
    image: String,
    own_inputs: String,
}

fn build_key(job: &Value) -> BuildKey {
    BuildKey {
        family: owner(job).to_owned(),
        cascade: label(job, labels::CASCADE).to_owned(),
        image: label(job, labels::IMAGE).to_owned(),
        own_inputs: own_inputs(job),
    }
}

/// Handles the expiry of a finished Job. Its success is not recorded if no completed reconcile of
/// the family started after it could be observed, unless the inputs are still the same. Then the
/// cascade builds the image as if for the first time. A start that was observed by none counts for
/// no rate limit either.
pub fn expires(cluster: &mut Cluster, job: &Value) {
    let stalls = [Kind::Job, Kind::Pod].iter().filter_map(|kind| cluster.faults.stalled.get(kind));
    let stalled = stalls.copied().max().unwrap_or_default();
    let family = Key::new(&key_of(job).namespace, label(job, labels::FAMILY));
    let last = cluster.invariants.reconciles.get(&family).and_then(|last| last.last_completed);
    let is_unseen = |at: Duration, lag: Duration| last < Some(stalled.max(at) + lag);
    let key = build_key(job);
    let succeeded = cluster.invariants.built.get(&key);
    if succeeded.is_some_and(|succeeded| is_unseen(*succeeded, MAX_WATCH_LAG)) {
        cluster.invariants.built.remove(&key);
    }
    let starts = cluster.invariants.starts.get(owner(job)).into_iter().flatten();
    let started = starts.filter(|start| start.job == uid(job)).map(BuildStart::at).next_back();
    let started = started.map(|at| cluster.time.since_start(at));
    if started.is_some_and(|at| is_unseen(at, Duration::ZERO))
        && let Some(starts) = cluster.invariants.starts.get_mut(owner(job))
    {
        starts.retain(|start| start.job != uid(job));
    }
}

/// Checks a Job that the controller deletes.
pub fn deleted(cluster: &mut Cluster, work: &Work) {
    let job = uid(&work.job).to_owned();
    if is_not_admitted(cluster, &job) {
        cluster.invariants.not_admitted.insert(job);
    }
    if work.is_check() || work.phase != Phase::Live || work.starts_too_late() || work.is_deleted() {
        return;
    }
    // What has not started is replaced whenever its inputs change.
    let pod = cluster.objects.get(Kind::Pod, &work.pod());
    if pod.is_none_or(|pod| matches!(pod["status"]["phase"].as_str(), None | Some("Pending"))) {
        return;
    }
    let family = Key::new(&work.key.namespace, work.label(labels::FAMILY));
    let Some((spec, _)) = reconcile_view(cluster, &family) else { return };
    let image = work.label(labels::IMAGE).to_owned();
    let wanted = spec.images.iter().any(|known| known.name == image);
    let cancel_requested = cluster.invariants.history.has_cancelled();
    // With a clock that is wrong by hours, builds appear to run for too long.
    if spec.policy.supersede != Supersede::Cancel
        || !wanted
        || cancel_requested
        || cluster.time.was_skewed()
    {
        return;
    }
    let count = cluster
        .invariants
        .cancelled
        .entry((work.label(labels::CASCADE).into(), image.clone()))
        .or_default();
    *count += 1;
    if *count > 1 {
        let message = format!("{}/{image} in {}", family.name, work.label(labels::CASCADE));
        cluster.violated("an image is cancelled once per cascade", message);
    }
}
