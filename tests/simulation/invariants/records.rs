//! What may be recorded: bounded statuses, cascades that have nothing in common, and upstreams
//! that are adopted only through their gates.

use std::{collections::BTreeSet, time::Duration};

use groundswell::{
    api::{
        Approval, CascadeSpec, CauseType, Image, ImageFamilySpec, Upstream,
        family_status::MAX_ATTENTION, labels, managed_image::MAX_HISTORY,
    },
    controller::object_cache::Key,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Approved, answers, arrivals, attempts, breaker, cascades, cutoff, losses, quiet_time, reached,
    reasons, reconcile_view, refresh, requests, short,
};
use crate::{
    cluster::Cluster,
    job_controller::Phase,
    objects::{Kind, key_of, owner, uid},
    registry::built_digest,
};

/// Upper bound on the bytes of a status.
const MAX_STATUS_BYTES: usize = 96 * 1024;
/// Upper bound on the bytes of a cascade's status, which lists every image of the family: what the
/// product promises.
const MAX_CASCADE_STATUS_BYTES: usize = 660 * 1024;
/// How long a tag must point to a digest again that was replaced before.
const RETURN_AGE: Duration = Duration::from_hours(24);
/// The precision of times in records.
const TIME_PRECISION: Duration = Duration::from_secs(1);

/// Checks a new cascade.
pub fn opened(cluster: &mut Cluster, cascade: &Value) {
    if let Some(message) = shares_a_build(cluster, cascade) {
        cluster.violated("running cascades share no image", message);
    }
    if let Some(message) = started_too_early(cluster, cascade) {
        cluster.violated("cascades start after the quiet time", message);
    }
    if let Some((invariant, message)) = cascades::opened(cluster, cascade) {
        cluster.violated(invariant, message);
    }
}

/// Describes a build of another running cascade of the family whose image, or one below it, the new
/// cascade plans to build. Builds that are being stopped, and those of images that nobody waits
/// for, do not count.
fn shares_a_build(cluster: &Cluster, cascade: &Value) -> Option<String> {
    let opened: CascadeSpec = CascadeSpec::deserialize(&cascade["spec"]).ok()?;
    let key = Key::new(&key_of(cascade).namespace, &opened.family);
    let (spec, _) = reconcile_view(cluster, &key)?;
    let planned: BTreeSet<&str> = opened.levels.iter().flatten().map(String::as_str).collect();
    let is_running = |name: &str| {
        let other = cluster.objects.get(Kind::Cascade, &Key::new(&key.namespace, name));
        other.is_some_and(|other| {
            owner(other) == owner(cascade)
                && uid(other) != uid(cascade)
                && matches!(other["status"]["phase"].as_str(), None | Some("Running"))
        })
    };
    let is_building = |image: &str| {
        let records = cluster.objects.all(Kind::Image);
        let mut records = records.filter(|(_, record)| owner(record) == owner(cascade));
        records.any(|(_, record)| {
            record["spec"]["image"] == image && record["status"]["state"] == "Building"
        })
    };
    let works = cluster.work.values().filter(|work| {
        !work.is_check()
            && owner(&work.job) == owner(cascade)
            && work.phase == Phase::Live
            && !work.is_deleted()
            && !work.refused
            && is_running(work.label(labels::CASCADE))
    });
    works.filter(|work| is_building(work.label(labels::IMAGE))).find_map(|work| {
        let below = below(&spec, work.label(labels::IMAGE));
        let shared = below.iter().find(|image| planned.contains(image.as_str()))?;
        let (new, other) = (key_of(cascade).name, work.label(labels::CASCADE));
        Some(format!("{new} plans {shared}, and {other} builds {}", work.label(labels::IMAGE)))
    })
}

/// Returns an image and all images that are built on it.
pub(super) fn below(spec: &ImageFamilySpec, image: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([image.to_owned()]);
    loop {
        let is_child = |child: &&Image| {
            // An edge to another family may name an image that this one has, too.
            let own = child.from.iter().filter(|edge| edge.family.is_none());
            let mut parents = own.filter_map(|edge| edge.image.as_ref());
            !found.contains(&child.name) && parents.any(|parent| found.contains(parent))
        };
        let children: Vec<String> =
            spec.images.iter().filter(is_child).map(|child| child.name.clone()).collect();
        if children.is_empty() {
            return found;
        }
        found.extend(children);
    }
}

/// Describes how a cascade started too early. This checks cascades that only upstreams caused and
/// no user requested, in a family that was built before. The model knows when the upstreams moved;
/// the quiet time counts from when the controller observed it, which is later.
fn started_too_early(cluster: &Cluster, cascade: &Value) -> Option<String> {
    let opened: CascadeSpec = CascadeSpec::deserialize(&cascade["spec"]).ok()?;
    let key = Key::new(&key_of(cascade).namespace, &opened.family);
    let (spec, started_at) = reconcile_view(cluster, &key)?;
    let of_images =
        cluster.objects.all(Kind::Image).filter(|(_, record)| owner(record) == owner(cascade));
    let of_images: Vec<&Value> = of_images.map(|(_, record)| &**record).collect();
    let family = cluster.objects.get(Kind::Family, &key)?;
    let requested = requests::open(cluster, &key, &["Trigger", "Retry", "Force"]).next().is_some();
    let built = of_images.iter().any(|record| record["status"]["digest"].is_string());
    let moved = opened
        .causes
        .iter()
        .all(|cause| cause.type_ == CauseType::Upstream && !cause.from.is_empty());
    if requested || !built || !moved || opened.supersedes.is_some() || cluster.time.was_skewed() {
        return None;
    }
    let image = |name: &str| {
        spec.upstreams.iter().find(|upstream| upstream.name == name).map(|found| &found.image)
    };
    let moves = opened.causes.iter().filter_map(|cause| {
        let since = cluster.invariants.history.first_observed(image(&cause.name)?, &cause.to)?;
        Some((since, &cause.name))
    });
    let (newest, name) = moves.max()?;
    let quiet = cluster.elapsed().saturating_sub(newest) + TIME_PRECISION;
    let started = (uid(family).to_owned(), key_of(cascade).name);
    let since = cluster.invariants.waited.get(&started).copied().flatten();
    let waited =
        since.map(|since| started_at.duration_since(since) >= spec.policy.max_settle.signed());
    let early = quiet.as_secs() < u64::from(spec.policy.settle.as_secs()) && waited != Some(true);
    early.then(|| format!("{} started {quiet:?} after {name} moved", key_of(cascade).name))
}

/// Checks a status that was written; `before` is the object before.
pub fn written(cluster: &mut Cluster, kind: Kind, before: Option<&Value>, object: &Value) {
    cluster.invariants.effects += 1;
    cluster.invariants.family_status_writes += u64::from(kind == Kind::Family);
    let status = &object["status"];
    let name = key_of(object).name;
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let bounds = [
        ("history", MAX_HISTORY),
        ("attention", MAX_ATTENTION),
        ("conditions", 8),
        ("tags", 16),
        ("criticalPath", 64),
    ];
    for (field, limit) in bounds {
        let length = status[field].as_array().map_or(0, Vec::len);
        if length > limit {
            found.push((
                "statuses are bounded",
                format!("{kind:?} {name}: status.{field} has {length} entries"),
            ));
        }
    }
    let bytes = status.to_string().len();
    let limit = if kind == Kind::Cascade { MAX_CASCADE_STATUS_BYTES } else { MAX_STATUS_BYTES };
    if bytes > limit {
        found.push((
            "statuses are bounded",
            format!("{kind:?} {name}: its status has {bytes} bytes"),
        ));
    }
    let waits = ["QuotaExceeded", "QuotaTooSmall", "JobRefused", "PodNotCreated", "NodeRefused"];
    if let Some(reason) = status["failure"]["last"]["reason"].as_str()
        && waits.contains(&reason)
    {
        found.push(("what is not admitted spends no attempt", format!("{name}: {reason}")));
    }
    let message = status["failure"]["last"]["message"].as_str().unwrap_or_default();
    if message.contains("cannot be resolved to a digest") {
        found.push(("a check without its image spends no attempt", format!("{name}: {message}")));
    }
    let checks = if kind == Kind::Image { status["checks"].as_array() } else { None };
    let images = checks.into_iter().flatten().filter_map(|check| check["image"].as_str());
    for image in images.filter(|image| cluster.registry.content(image).is_none()) {
        found.push(("checks run in digests", format!("{name}: {image}")));
    }
    if kind == Kind::Request {
        found.extend(requests::answered(cluster, before, object));
        answers::written(cluster, object);
        quiet_time::answered(cluster, object);
    }
    if kind == Kind::Cascade
        && status["phase"] == "Superseded"
        && !object["spec"]["supersedes"].is_null()
    {
        found.push(("superseding cascades are not superseded", name));
    }
    reached::written(cluster, kind, before, object);
    if kind == Kind::Image {
        super::tags::promotion_recorded(cluster, before, object);
        found.extend(super::rollbacks::recorded(object));
        found.extend(attempts::recorded(cluster, object));
        found.extend(cutoff::written(cluster, before, object));
        found.extend(refresh::written(before, object));
        found.extend(breaker::recorded(cluster, object));
        reasons::written(cluster, object);
        arrivals::image_written(cluster, object);
        let now = cluster.elapsed();
        cluster.invariants.record_written.insert(key_of(object), now);
    }
    if kind == Kind::Cascade {
        found.extend(cascades::written(cluster, before, object));
    }
    if kind == Kind::Family {
        quiet_time::written(cluster, object);
        arrivals::family_written(cluster, object);
        record_waiting(cluster, object);
        super::record_truth(cluster);
        found.extend(adopted(cluster, before, object));
        found.extend(losses::first_adopted(cluster, before, object));
        found.extend(breaker::written(cluster, object));
        found.extend(breaker::counted(cluster, object));
    }
    for (invariant, message) in found {
        cluster.violated(invariant, message);
    }
}

/// Records since when changes of a family wait. A status with a running cascade no longer says it,
/// or says it of the changes that wait for that cascade.
fn record_waiting(cluster: &mut Cluster, family: &Value) {
    let invariants = &mut cluster.invariants;
    let before = invariants.waiting.get(uid(family)).copied();
    for running in family["status"]["cascades"].as_array().into_iter().flatten() {
        let name = running["name"].as_str().unwrap_or_default();
        let cascade = (uid(family).to_owned(), name.to_owned());
        invariants.waited.entry(cascade).or_insert(before);
    }
    let since = family["status"]["pending"]["since"].as_str().and_then(|since| since.parse().ok());
    match since {
        Some(since) => _ = cluster.invariants.waiting.insert(uid(family).into(), since),
        None if family["status"]["cascades"].as_array().is_none_or(Vec::is_empty) => {
            _ = cluster.invariants.waiting.remove(uid(family))
        }
        None => {}
    }
}

/// A gate through which a digest was adopted although it is closed.
pub(super) struct ClosedGate {
    invariant: &'static str,
    pub message: String,
}

/// Checks that each upstream was adopted through its gates.
fn adopted(
    cluster: &Cluster,
    before: Option<&Value>,
    family: &Value,
) -> Option<(&'static str, String)> {
    let key = key_of(family);
    let (spec, started_at) = reconcile_view(cluster, &key)?;
    let digest = |family: &Value, upstream: &Upstream| {
        let rows = family["status"]["upstreams"].as_array().into_iter().flatten();
        let mut rows = rows.filter(|row| row["name"] == upstream.name.as_str());
        rows.find_map(|row| built_digest(&row["adopted"]).map(str::to_owned))
    };
    spec.upstreams.iter().find_map(|upstream| {
        let (old, new) = (digest(before?, upstream)?, digest(family, upstream)?);
        if old == new {
            return None;
        }
        let why = refused(cluster, &key, before?, upstream, &new, started_at)?;
        let message = format!(
            "{} of {}: {} to {}, and {}",
            upstream.name,
            key.name,
            short(&old),
            short(&new),
            why.message
        );
        Some((why.invariant, message))
    })
}

/// Returns why a digest must not be adopted.
pub(super) fn refused(
    cluster: &Cluster,
    family: &Key,
    before: &Value,
    upstream: &Upstream,
    digest: &str,
    started_at: Timestamp,
) -> Option<ClosedGate> {
    let closed = |invariant, message: String| Some(ClosedGate { invariant, message });
    let rows = before["status"]["upstreams"].as_array().into_iter().flatten();
    let manual = rows
        .into_iter()
        .find(|row| row["name"] == upstream.name.as_str())
        .map(|row| row["hold"].clone());
    let manual = manual.filter(|hold| !hold.is_null());
    if let Some(hold) = upstream.hold_at(started_at) {
        let is_named = hold.digest.as_deref() == Some(digest);
        return closed("held upstreams stay", format!("{hold:?}")).filter(|_| !is_named);
    }
    if let Some(hold) = manual {
        let until: Option<Timestamp> = hold["until"].as_str().and_then(|until| until.parse().ok());
        if until.is_none_or(|until| started_at < until)
            && hold["digest"] != digest
            && requests::is_open(cluster, &hold["request"])
            && requests::open(cluster, family, &["Hold", "Unhold"]).count() == 1
        {
            return closed("held upstreams stay", format!("a request holds it: {hold}"));
        }
        return None;
    }
    if requests::open(cluster, family, &["Hold"]).next().is_some() {
        return None;
    }
    let approval = Approved {
        family: family.name.clone(),
        upstream: upstream.name.clone(),
        digest: digest.to_owned(),
    };
    if upstream.approval == Approval::Manual && !cluster.invariants.approved.contains(&approval) {
        return closed("candidates wait for approval", "no user approved it".into());
    }
    let rows = before["status"]["upstreams"].as_array().into_iter().flatten();
    let is_superseded = rows
        .filter(|row| row["name"] == upstream.name.as_str())
        .filter_map(|row| row["superseded"].as_array())
        .flatten()
        .any(|known| known == digest);
    let since = cluster.invariants.history.followed_since(&upstream.image, digest);
    if is_superseded
        && !cluster.invariants.approved.contains(&approval)
        && !cluster.time.was_skewed()
        && since.is_none_or(|since| cluster.elapsed().saturating_sub(since) < RETURN_AGE)
    {
        return closed("returned digests wait", "it was replaced before".into());
    }
    let pinned = format!("{}@{digest}", upstream.image);
    if !upstream.platforms.is_empty() && !cluster.registry.offers_all(&pinned) {
        return closed("adopted digests offer all platforms", "it lacks a platform".into());
    }
    let since = cluster.invariants.history.first_observed(&upstream.image, digest)?;
    let age = (cluster.elapsed().saturating_sub(since) + TIME_PRECISION).as_secs();
    let too_young = age < u64::from(upstream.minimum_age.as_secs()) && !cluster.time.was_skewed();
    closed("adopted digests are old enough", format!("it is {age} s old")).filter(|_| too_young)
}
