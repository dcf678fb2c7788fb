//! Every patch arrives within a bound that follows from the policies.
//!
//! While nothing disturbs a family, and nothing that a user decides keeps it waiting, each of its
//! images is built from what the tags of its upstreams point to, at the latest after the polls, the
//! age, the quiet time, the windows, and the builds that were made meanwhile, one after another.

use std::time::Duration;

use groundswell::{
    api::{Approval, ImageFamilySpec},
    controller::object_cache::Key,
};
use serde_json::Value;

use super::{Violations, calm, reached::reach};
use crate::{
    cluster::Cluster,
    objects::{Kind, uid},
    script::FOLLOWED,
};

/// What a build may take in addition to the run of its pod: to start, to be observed, and checks.
const OVERHEAD: Duration = Duration::from_mins(6);
/// How often a window of the scripts opens.
const WINDOW_PERIOD: Duration = Duration::from_hours(1);

/// Since when a family has not been up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    since: Duration,
    /// The digests that the tags of its upstreams point to.
    digests: Vec<Option<String>>,
}

/// Checks that no family has been outdated for too long.
pub fn inspect(cluster: &mut Cluster) -> Violations {
    let families: Vec<(Key, String)> = cluster
        .objects
        .all(Kind::Family)
        .map(|(key, family)| (key.clone(), uid(family).to_owned()))
        .collect();
    let mut found = Vec::new();
    for (key, uid) in families {
        let outdated = outdated_image(cluster, &key);
        let before = cluster.invariants.outdated.remove(&uid);
        let Some(OutdatedImage { image, digests, bound }) = outdated else {
            if before.is_some() {
                reach(cluster, "patch: arrives in time");
            }
            continue;
        };
        let now = cluster.elapsed();
        let is_same = |before: &Outdated| {
            before.digests == digests
                && calm::is_calm_since(cluster, before.since)
                && calm::is_unchanged_since(cluster, before.since)
        };
        let outdated = before.filter(is_same).unwrap_or(Outdated { since: now, digests });
        if now > outdated.since + bound {
            let message = format!(
                "{}/{image} is outdated since {:?}, for {bound:?}",
                key.name, outdated.since
            );
            found.push(("patches arrive in time", message));
        }
        cluster.invariants.outdated.insert(uid, outdated);
    }
    found
}

/// An image that is not built from what it is to be built from.
struct OutdatedImage {
    image: String,
    digests: Vec<Option<String>>,
    /// How long the family may be outdated.
    bound: Duration,
}

/// Returns an outdated image of a family, unless a user's decision keeps it waiting, or a failure.
fn outdated_image(cluster: &Cluster, key: &Key) -> Option<OutdatedImage> {
    let family = cluster.objects.get(Kind::Family, key)?;
    let spec = cluster.current_spec(family)?;
    if spec.suspend || has_decision(&spec, family) {
        return None;
    }
    let digests: Vec<Option<String>> = spec
        .upstreams
        .iter()
        .map(|upstream| cluster.registry.followed(&upstream.image, FOLLOWED))
        .collect();
    let mut outdated = None;
    for image in &spec.images {
        let record = Key::new(&key.namespace, &format!("{}.{}", key.name, image.name));
        let record = cluster.objects.get(Kind::Image, &record)?;
        let status = &record["status"];
        let state = status["state"].as_str().unwrap_or("Waiting");
        // What fails is the subject of other invariants.
        if matches!(state, "Failed" | "Blocked" | "Held")
            || !status["failure"].is_null()
            || image.from.iter().any(|edge| edge.family.is_some())
        {
            return None;
        }
        let parents = status["inputs"]["parents"].as_array().map_or(&[][..], Vec::as_slice);
        let is_current = image.from.iter().all(|edge| {
            let Some(name) = &edge.upstream else { return true };
            let place = spec.upstreams.iter().position(|upstream| upstream.name == *name);
            let digest = place.and_then(|place| digests[place].as_deref());
            parents.iter().any(|parent| {
                parent["name"] == name.as_str() && parent["digest"].as_str() == digest
            })
        });
        if !is_current || state != "Current" {
            outdated = outdated.or_else(|| Some(image.name.clone()));
        }
    }
    let bound = bound(cluster, &spec);
    outdated.map(|image| OutdatedImage { image, digests, bound })
}

/// Returns whether a decision of a user, or a digest that may not be adopted, keeps a family as it
/// is.
fn has_decision(spec: &ImageFamilySpec, family: &Value) -> bool {
    let rows = family["status"]["upstreams"].as_array().into_iter().flatten();
    spec.upstreams
        .iter()
        .any(|upstream| upstream.approval == Approval::Manual || upstream.hold.is_some())
        || rows.into_iter().any(|row| {
            !row["hold"].is_null()
                || matches!(row["reason"].as_str(), Some("DigestReturned" | "PlatformMissing"))
        })
}

/// Returns how long a family may be outdated.
fn bound(cluster: &Cluster, spec: &ImageFamilySpec) -> Duration {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let of_upstreams = spec.upstreams.iter().map(|upstream| {
        2 * seconds(upstream.interval.as_secs()) + seconds(upstream.minimum_age.as_secs())
    });
    // The graph may be a chain, and the cascade before may have begun just now. A starter of the
    // family may have to wait for those of the others.
    let families = cluster.objects.all(Kind::Family).count();
    let images = 2 * u32::try_from(spec.images.len() * families).unwrap_or(u32::MAX);
    let each = longest_build(cluster) + OVERHEAD;
    let rate =
        spec.policy.rate_limit.as_ref().map_or(Duration::ZERO, |rate| seconds(rate.per.as_secs()));
    let windows = if spec.policy.windows.is_empty() { 0 } else { images };
    of_upstreams.max().unwrap_or_default()
        + seconds(spec.policy.max_settle.as_secs())
        + images * (each + rate)
        + windows * WINDOW_PERIOD
}

/// Returns how long the longest build took, at least a minute.
fn longest_build(cluster: &Cluster) -> Duration {
    let attempts = cluster.invariants.attempts.iter();
    let took = attempts.filter_map(|attempt| {
        let runs = cluster.work.contains_key(&attempt.job).then_some(cluster.elapsed());
        let until = attempt.end.map(|(_, at)| at).or(attempt.gone_at).or(runs)?;
        Some(until - attempt.started_at)
    });
    took.max().unwrap_or_default().max(Duration::from_mins(1))
}
