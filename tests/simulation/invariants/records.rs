//! What may be recorded: bounded statuses, one cascade at a time, upstreams that are adopted only
//! through their gates.

use std::time::Duration;

use groundswell::{
    api::{
        Approval, CascadeSpec, CauseType, Upstream, family_status::MAX_ATTENTION,
        handled_request::MAX_REQUESTS, labels, managed_image::MAX_HISTORY,
    },
    controller::object_cache::Key,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{seen, short};
use crate::{
    cluster::Cluster,
    objects::{Kind, key_of, owner, uid},
};

/// The most bytes of one status.
const MAX_STATUS: usize = 96 * 1024;
/// What times in records may be cut off by.
const SECOND: Duration = Duration::from_secs(1);

/// A cascade was opened.
pub fn opened(cluster: &mut Cluster, cascade: &Value) {
    let running = cluster.objects.all(Kind::Cascade).filter(|(_, other)| {
        owner(other) == owner(cascade)
            && uid(other) != uid(cascade)
            && matches!(other["status"]["phase"].as_str(), None | Some("Running"))
    });
    let running: Vec<String> = running.map(|(key, _)| key.name.clone()).collect();
    if !running.is_empty() {
        let message = format!("{} beside {}", key_of(cascade).name, running.join(", "));
        cluster.violated("one cascade at a time", message);
    }
    if let Some(message) = hasty(cluster, cascade) {
        cluster.violated("cascades begin after the quiet time", message);
    }
}

/// How a cascade has begun too early that only upstreams have set off, and nobody asked for, in a
/// family of which something was built before. When they moved is known; when the controller saw
/// it, from which on the quiet time counts, is later.
fn hasty(cluster: &Cluster, cascade: &Value) -> Option<String> {
    let opened: CascadeSpec = CascadeSpec::deserialize(&cascade["spec"]).ok()?;
    let key = Key::new(&key_of(cascade).namespace, &opened.family);
    let (spec, begun) = seen(cluster, &key)?;
    let asked = |object: &Value| !object["metadata"]["annotations"][labels::REQUEST].is_null();
    let of_images =
        cluster.objects.all(Kind::Image).filter(|(_, record)| owner(record) == owner(cascade));
    let of_images: Vec<&Value> = of_images.map(|(_, record)| &**record).collect();
    let family = cluster.objects.get(Kind::Family, &key)?;
    let asked = asked(family) || of_images.iter().any(|record| asked(record));
    let built = of_images.iter().any(|record| record["status"]["digest"].is_string());
    let moved = opened
        .causes
        .iter()
        .all(|cause| cause.type_ == CauseType::Upstream && !cause.from.is_empty());
    if asked || !built || !moved || opened.supersedes.is_some() || cluster.time.was_skewed() {
        return None;
    }
    let image = |name: &str| {
        spec.upstreams.iter().find(|upstream| upstream.name == name).map(|found| &found.image)
    };
    let seen = opened.causes.iter().filter_map(|cause| {
        let since = cluster.invariants.history.first_seen(image(&cause.name)?, &cause.to)?;
        Some((since, &cause.name))
    });
    let (newest, name) = seen.max()?;
    let quiet = cluster.elapsed().saturating_sub(newest) + SECOND;
    let since = cluster.invariants.waiting.get(uid(family));
    let waited = since.map(|since| begun.duration_since(*since) >= spec.policy.max_settle.signed());
    let early = quiet.as_secs() < u64::from(spec.policy.settle.as_secs()) && waited != Some(true);
    early.then(|| format!("{} began {quiet:?} after {name} moved", key_of(cascade).name))
}

/// A status was written; `before` is the object as it was.
pub fn written(cluster: &mut Cluster, kind: Kind, before: Option<&Value>, object: &Value) {
    cluster.invariants.effects += 1;
    cluster.invariants.told += u64::from(kind == Kind::Family);
    let status = &object["status"];
    let name = key_of(object).name;
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let bounds = [
        ("history", MAX_HISTORY),
        ("attention", MAX_ATTENTION),
        ("requests", MAX_REQUESTS),
        ("conditions", 8),
        ("tags", 16),
        ("criticalPath", 64),
    ];
    for (field, most) in bounds {
        let length = status[field].as_array().map_or(0, Vec::len);
        if length > most {
            found.push((
                "statuses are bounded",
                format!(
                    "{kind:?} {name}: status.{field} has \
                {length} entries"
                ),
            ));
        }
    }
    let bytes = status.to_string().len();
    if bytes > MAX_STATUS {
        found.push((
            "statuses are bounded",
            format!("{kind:?} {name}: its status has {bytes} bytes"),
        ));
    }
    let handled: Vec<&str> = status["requests"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|request| request["id"].as_str())
        .collect();
    if let Some(twice) =
        handled.iter().enumerate().find(|(place, id)| handled[..*place].contains(id))
    {
        found.push(("requests are handled once", format!("{kind:?} {name}: {} twice", twice.1)));
    }
    let forced = |request: &&Value| request["action"] == "Force" && request["outcome"] == "Done";
    let forced = status["requests"].as_array().into_iter().flatten().find(forced);
    if let (Kind::Image, Some(forced), true) = (kind, forced, status["nonce"].is_null()) {
        found.push((
            "forced rebuilds are remembered",
            format!(
                "{name}: {forced}, and there is no \
            nonce"
            ),
        ));
    }
    if kind == Kind::Cascade
        && status["phase"] == "Superseded"
        && !object["spec"]["supersedes"].is_null()
    {
        found.push(("what supersedes is not superseded", name));
    }
    if kind == Kind::Image {
        super::tags::announced(cluster, before, object);
    }
    if kind == Kind::Family {
        waits(cluster, object);
        super::remember_truth(cluster);
        found.extend(adopted(cluster, before, object));
    }
    for (invariant, message) in found {
        cluster.violated(invariant, message);
    }
}

/// Remembers since when changes of a family wait. A status that announces a cascade does not tell
/// it any more.
fn waits(cluster: &mut Cluster, family: &Value) {
    let since = family["status"]["pending"]["since"].as_str().and_then(|since| since.parse().ok());
    match since {
        Some(since) => drop(cluster.invariants.waiting.insert(uid(family).into(), since)),
        None if family["status"]["cascade"].is_null() => {
            drop(cluster.invariants.waiting.remove(uid(family)))
        }
        None => {}
    }
}

/// Whether each upstream was adopted through its gates.
fn adopted(
    cluster: &Cluster,
    before: Option<&Value>,
    family: &Value,
) -> Option<(&'static str, String)> {
    let key = key_of(family);
    let (spec, begun) = seen(cluster, &key)?;
    let digest = |family: &Value, upstream: &Upstream| {
        let rows = family["status"]["upstreams"].as_array().into_iter().flatten();
        let mut rows = rows.filter(|row| row["name"] == upstream.name.as_str());
        rows.find_map(|row| row["adopted"]["digest"].as_str().map(str::to_owned))
    };
    spec.upstreams.iter().find_map(|upstream| {
        let (old, new) = (digest(before?, upstream)?, digest(family, upstream)?);
        if old == new {
            return None;
        }
        let why = refused(cluster, &key, before?, upstream, &new, begun)?;
        let message = format!(
            "{} of {}: {} to {}, and {why}",
            upstream.name,
            key.name,
            short(&old),
            short(&new)
        );
        Some(("upstreams are adopted through their gates", message))
    })
}

/// Why a digest must not be adopted.
fn refused(
    cluster: &Cluster,
    family: &Key,
    before: &Value,
    upstream: &Upstream,
    digest: &str,
    begun: Timestamp,
) -> Option<String> {
    let rows = before["status"]["upstreams"].as_array().into_iter().flatten();
    let manual = rows
        .into_iter()
        .find(|row| row["name"] == upstream.name.as_str())
        .map(|row| row["hold"].clone());
    let manual = manual.filter(|hold| !hold.is_null());
    let request = before["metadata"]["annotations"][labels::REQUEST].as_str().unwrap_or_default();
    if let Some(hold) = upstream.hold_at(begun) {
        return (hold.digest.as_deref() != Some(digest)).then(|| format!("{hold:?}"));
    }
    if let Some(hold) = manual {
        let until: Option<Timestamp> = hold["until"].as_str().and_then(|until| until.parse().ok());
        if until.is_none_or(|until| begun < until)
            && hold["digest"] != digest
            && !request.contains("Unhold")
        {
            return Some(format!("a request holds it: {hold}"));
        }
        return None;
    }
    if request.contains("\"Hold\"") {
        return None;
    }
    let agreed = (family.name.clone(), upstream.name.clone(), digest.to_owned());
    if upstream.approval == Approval::Manual && !cluster.invariants.approved.contains(&agreed) {
        return Some("nobody agreed to it".into());
    }
    let pinned = format!("{}@{digest}", upstream.image);
    if !upstream.platforms.is_empty() && !cluster.registry.offers_all(&pinned) {
        return Some("it lacks a platform".into());
    }
    let since = cluster.invariants.history.first_seen(&upstream.image, digest)?;
    let age = (cluster.elapsed().saturating_sub(since) + SECOND).as_secs();
    let young = age < u64::from(upstream.minimum_age.as_secs()) && !cluster.time.was_skewed();
    young.then(|| format!("it is {age} s old"))
}
