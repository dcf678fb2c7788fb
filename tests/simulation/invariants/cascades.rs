//! What a cascade does with what failed before, and which cascades are superseded.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use groundswell::{api::Supersede, controller::object_cache::Key};
use serde_json::Value;

use super::{calm, quiet_time, reached::reach, reconcile_view, records};
use crate::{
    cluster::Cluster,
    objects::{Kind, key_of, owner, uid},
};

/// How old a record of a failure must be, so that the controller certainly knows of it.
const MIN_RECORD_AGE: Duration = Duration::from_secs(5);

/// What had failed when a cascade opened.
#[derive(Clone, Debug)]
pub struct OpenedCascade {
    at: Duration,
    /// The fingerprints of its images that had failed.
    failed: BTreeMap<String, String>,
}

impl OpenedCascade {
    /// Returns when it opened.
    pub fn at(&self) -> Duration {
        self.at
    }
}

/// Checks the plan of a new cascade.
pub fn opened(cluster: &mut Cluster, cascade: &Value) -> Option<(&'static str, String)> {
    let key = key_of(cascade);
    let now = cluster.elapsed();
    let family = Key::new(&key.namespace, cascade["spec"]["family"].as_str().unwrap_or_default());
    if let Some((spec, _)) = reconcile_view(cluster, &family) {
        quiet_time::opened(cluster, &family, &spec.policy);
    }
    let failed: BTreeMap<String, String> = cluster
        .objects
        .all(Kind::Image)
        .filter(|(_, record)| owner(record) == owner(cascade) && has_failed(record))
        .filter_map(|(_, record)| {
            let fingerprint = record["status"]["failure"]["fingerprint"].as_str()?;
            Some((record["spec"]["image"].as_str()?.to_owned(), fingerprint.to_owned()))
        })
        .collect();
    let planned = images(cascade);
    let others: Vec<&Value> =
        running(cluster, owner(cascade)).filter(|other| uid(other) != uid(cascade)).collect();
    let has_others = !others.is_empty();
    let of_others: BTreeSet<&str> = others.into_iter().flat_map(images).collect();
    // What another running cascade works on waits for that.
    let is_free = |image: &str| {
        let spec = reconcile_view(cluster, &family).map(|(spec, _)| spec);
        spec.is_some_and(|spec| {
            let below = records::below(&spec, image);
            below.iter().all(|image| !of_others.contains(image.as_str()))
        })
    };
    let is_known = |image: &str| {
        let key = Key::new(&family.namespace, &format!("{}.{image}", family.name));
        let written = cluster.invariants.record_written.get(&key).copied().unwrap_or_default();
        now.saturating_sub(written) >= MIN_RECORD_AGE
    };
    let settled = now.saturating_sub(MIN_RECORD_AGE);
    let missing = failed.keys().find(|image| {
        is_known(image)
            && !planned.contains(image.as_str())
            && is_free(image)
            && calm::is_calm_since(cluster, settled)
            && calm::is_unchanged_since(cluster, settled)
    });
    let found = missing.map(|image| {
        ("a plan names the failed images", format!("{} does not name {image}", key.name))
    });
    let failed = failed.into_iter().filter(|(image, _)| planned.contains(image.as_str())).collect();
    cluster.invariants.opened.insert(uid(cascade).into(), OpenedCascade { at: now, failed });
    if has_others {
        reach(cluster, "cascade: runs next to another");
    }
    found
}

/// Returns the running cascades of a family.
pub fn running<'c>(cluster: &'c Cluster, family: &'c str) -> impl Iterator<Item = &'c Value> {
    let cascades = cluster.objects.all(Kind::Cascade).map(|(_, cascade)| &**cascade);
    cascades.filter(move |cascade| {
        owner(cascade) == family
            && matches!(cascade["status"]["phase"].as_str(), None | Some("Running"))
    })
}

/// Returns the images that a cascade has planned, or lists.
pub fn images(cascade: &Value) -> BTreeSet<&str> {
    let levels = cascade["spec"]["levels"].as_array().into_iter().flatten();
    let planned = levels.flat_map(|level| level.as_array().into_iter().flatten());
    let listed = cascade["status"]["images"].as_array().into_iter().flatten();
    planned.chain(listed.map(|result| &result["name"])).filter_map(Value::as_str).collect()
}

/// Returns whether an image has failed for another reason than that a user cancelled it.
fn has_failed(record: &Value) -> bool {
    let status = &record["status"];
    status["state"] == "Failed"
        && !status["failure"].is_null()
        && status["failure"]["last"]["class"] != "Cancelled"
}

/// Checks a cascade whose status was written, when it has ended.
pub fn written(
    cluster: &mut Cluster,
    before: Option<&Value>,
    cascade: &Value,
) -> Option<(&'static str, String)> {
    let key = key_of(cascade);
    let phase = cascade["status"]["phase"].as_str()?;
    if before.is_some_and(|before| before["status"]["phase"] == phase) || phase == "Running" {
        return None;
    }
    let family = Key::new(&key.namespace, cascade["spec"]["family"].as_str()?);
    let (spec, _) = reconcile_view(cluster, &family)?;
    if phase == "Superseded" {
        return (spec.policy.supersede == Supersede::Finish)
            .then(|| ("with Finish no cascade is superseded", key.name.clone()));
    }
    let opened = cluster.invariants.opened.get(uid(cascade))?.clone();
    if !calm::is_calm_since(cluster, opened.at.saturating_sub(MIN_RECORD_AGE))
        || !calm::is_unchanged_since(cluster, opened.at.saturating_sub(MIN_RECORD_AGE))
    {
        return None;
    }
    for (image, fingerprint) in &opened.failed {
        let record = Key::new(&key.namespace, &format!("{}.{image}", family.name));
        let Some(record) = cluster.objects.get(Kind::Image, &record) else { continue };
        let failure = &record["status"]["failure"];
        let is_same = failure["fingerprint"] == fingerprint.as_str() && has_failed(record);
        let was_tried = failure["cascade"] == key.name.as_str()
            || is_newer(cluster, failure["cascade"].as_str().unwrap_or_default(), &opened, &key);
        if is_same && !was_tried {
            return Some((
                "the next cascade tries failed images again",
                format!("{image} failed before {} and was not tried", key.name),
            ));
        }
        reach(cluster, "cascade: tries a failed image again");
    }
    None
}

/// Returns whether the cascade of this name opened after another one.
fn is_newer(cluster: &Cluster, name: &str, than: &OpenedCascade, key: &Key) -> bool {
    let other = cluster.objects.get(Kind::Cascade, &Key::new(&key.namespace, name));
    let opened = other.and_then(|other| cluster.invariants.opened.get(uid(other)));
    opened.is_some_and(|opened| opened.at > than.at)
}
