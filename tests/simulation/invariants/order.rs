//! Starts follow the documented order: what a user caused starts first, then what has the longest
//! path of descendants, measured by the durations of past builds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use groundswell::{
    api::{Image, ImageFamilySpec, ImageState, ManagedImageStatus, RefreshReason, labels},
    controller::object_cache::Key,
};
use serde::Deserialize;
use serde_json::Value;

use super::{SETTLED_AFTER, attempts::Attempt, calm, reached::reach, reconcile_view};
use crate::{
    cluster::Cluster,
    edits::text_of,
    objects::{Kind, uid},
    scene::repository,
};

/// How many of an image's last builds the expected duration is averaged over.
const SAMPLES: usize = 5;
/// Expected seconds of an image that was never built.
const DEFAULT_SECONDS: i64 = 60;

/// Expected seconds of a build of each image, and of everything that is built on it after it.
type Paths = BTreeMap<String, i64>;

/// The records of a family's images, by image.
pub type Records = BTreeMap<String, Arc<Value>>;

/// Returns the records of a family's images as they are.
pub fn records(cluster: &Cluster, family: &Key, spec: &ImageFamilySpec) -> Records {
    let names = spec.images.iter().map(|image| &image.name);
    let records = names.filter_map(|name| {
        let key = Key::new(&family.namespace, &format!("{}.{name}", family.name));
        Some((name.clone(), Arc::clone(cluster.objects.get(Kind::Image, &key)?)))
    });
    records.collect()
}

/// Returns the paths of a family's images, as far as the records say.
fn paths(records: &Records, spec: &ImageFamilySpec) -> Paths {
    let mut paths = Paths::new();
    for image in &spec.images {
        path(records, spec, &image.name, &mut paths);
    }
    paths
}

fn path(records: &Records, spec: &ImageFamilySpec, image: &str, paths: &mut Paths) -> i64 {
    if let Some(known) = paths.get(image) {
        return *known;
    }
    let is_child = |child: &&Image| {
        child.from.iter().any(|edge| edge.family.is_none() && edge.image.as_deref() == Some(image))
    };
    let children: Vec<&Image> = spec.images.iter().filter(is_child).collect();
    let below = children
        .into_iter()
        .map(|child| path(records, spec, &child.name, paths))
        .max()
        .unwrap_or_default();
    let own = expected_seconds(records.get(image));
    paths.insert(image.to_owned(), own + below);
    own + below
}

fn expected_seconds(record: Option<&Arc<Value>>) -> i64 {
    let status = record.and_then(|record| ManagedImageStatus::deserialize(&record["status"]).ok());
    let known: Vec<i64> = status
        .iter()
        .flat_map(|status| &status.history)
        .filter_map(|build| build.duration)
        .take(SAMPLES)
        .map(|duration| i64::from(duration.as_secs()))
        .collect();
    let count = i64::try_from(known.len()).unwrap_or_default();
    if count == 0 { DEFAULT_SECONDS } else { (known.iter().sum::<i64>() / count).max(1) }
}

/// Returns the state of an image and its reason: the unwritten ones, or else those of its record.
fn state<'a>(
    record: Option<&'a Arc<Value>>,
    unwritten: Option<&'a ManagedImageStatus>,
) -> Option<(ImageState, &'a str)> {
    if let Some(status) = unwritten {
        return Some((status.state, &status.reason));
    }
    let status = &record?["status"];
    Some((ImageState::deserialize(&status["state"]).ok()?, status["reason"].as_str()?))
}

/// Checks the builds that the reconcile has started that ends now, against those that wait because
/// these took the last places.
pub fn reconcile_ended(
    cluster: &mut Cluster,
    family: &Key,
    started_at: Duration,
    before: &Records,
    unwritten: &BTreeMap<String, ManagedImageStatus>,
) -> Option<(&'static str, String)> {
    let object = cluster.objects.get(Kind::Family, family)?;
    let of_family = uid(object).to_owned();
    let (spec, _) = reconcile_view(cluster, family)?;
    let started = cluster.invariants.attempts.iter().rev();
    let started: Vec<Attempt> = started
        .take_while(|attempt| attempt.started_at >= started_at)
        .filter(|attempt| attempt.family == of_family)
        .cloned()
        .collect();
    let settled = started_at.saturating_sub(SETTLED_AFTER);
    if started.is_empty()
        || !calm::is_calm_since(cluster, settled)
        || !calm::is_unchanged_since(cluster, settled)
    {
        return None;
    }
    let now = records(cluster, family, &spec);
    let (before, after) = (paths(before, &spec), paths(&now, &spec));
    let (mut users_first, mut longest_first) = (false, false);
    for image in &spec.images {
        let Some((state, waits)) = state(now.get(&image.name), unwritten.get(&image.name)) else {
            continue;
        };
        if state != ImageState::Queued || !["ParallelismReached", "RateLimited"].contains(&waits) {
            continue;
        }
        let Some(waits_for_user) = is_user_caused(cluster, &now, &spec, image) else { continue };
        for other in &started {
            if waits == "RateLimited" && other.user_caused {
                continue;
            }
            let shown = format!("{}/{} before {}", family.name, other.image, image.name);
            if waits_for_user && !other.user_caused {
                return Some(("users' builds start first", shown));
            }
            users_first |= other.user_caused && !waits_for_user;
            if waits_for_user != other.user_caused {
                continue;
            }
            let is_longer = |paths: &Paths| paths.get(&image.name) > paths.get(&other.image);
            if is_longer(&before) && is_longer(&after) {
                let lengths = (before.get(&image.name), before.get(&other.image));
                return Some(("longer paths start first", format!("{shown}: {lengths:?}")));
            }
            longest_first |= before.get(&image.name) < before.get(&other.image);
        }
    }
    if users_first {
        reach(cluster, "order: a user's build starts first");
    }
    if longest_first {
        reach(cluster, "order: a longer path starts first");
    }
    None
}

/// Returns whether a user caused the build that an image waits for, if the model knows.
fn is_user_caused(
    cluster: &Cluster,
    records: &Records,
    spec: &ImageFamilySpec,
    image: &Image,
) -> Option<bool> {
    let status = ManagedImageStatus::deserialize(&records.get(&image.name)?["status"]).ok()?;
    let Some(digest) = status.digest.as_deref() else { return Some(true) };
    let pinned = format!("{}@{digest}", repository(spec, image));
    let made = cluster.registry.origins(&pinned).last()?;
    let text = text_of(cluster, &image.source)?;
    let nonce = status.inputs.as_ref().map(|inputs| inputs.nonce.clone()).unwrap_or_default();
    let wanted = status.nonce.clone().unwrap_or_default();
    let is_refreshed = wanted != nonce && RefreshReason::of_nonce(&wanted).is_some();
    let is_forced = wanted != nonce && !is_refreshed;
    let is_same = made.source == text && made.args == image.args && !is_forced;
    let is_spared = status.history.iter().any(|build| build.spared);
    // The source of a repository is polled, and that of a spared build is not known.
    if is_spared || image.source.git.is_some() || made.parents.len() != image.from.len() {
        return None;
    }
    let is_edited = made.source != text || made.args != image.args || is_forced;
    if is_same { Some(false) } else { Some(is_edited) }
}

/// Returns whether a Job says that a user caused its build.
pub fn says_user_caused(job: &Value) -> bool {
    job["metadata"]["annotations"][labels::USER_CAUSED] == "true"
}
