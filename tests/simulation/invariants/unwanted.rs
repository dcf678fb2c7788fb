//! Nothing runs that nobody wants.

use std::time::Duration;

use groundswell::{api::labels, controller::object_cache::Key};

use super::{SETTLED_AFTER, Violations, calm};
use crate::{
    builder,
    cluster::Cluster,
    job_controller::{Phase, Work},
    objects::{Kind, owner, uid},
    registry::built_digest,
};

/// How long after a cascade was superseded its builds may run.
const MAX_STOP_TIME: Duration = Duration::from_secs(20);

/// Checks the builds that run.
pub fn inspect(cluster: &Cluster) -> Violations {
    let settled = cluster.elapsed().saturating_sub(SETTLED_AFTER);
    if !calm::is_calm_since(cluster, settled) || !calm::is_unchanged_since(cluster, settled) {
        return Vec::new();
    }
    let runs = |work: &&Work| work.phase == Phase::Live && !work.is_deleted() && !work.is_late;
    let running = cluster.work.values().filter(runs);
    running.filter_map(|work| unwanted(cluster, work)).collect()
}

/// Describes why nobody wants a build or a check.
fn unwanted(cluster: &Cluster, work: &Work) -> Option<(&'static str, String)> {
    let key = Key::new(&work.key.namespace, work.label(labels::FAMILY));
    let family = cluster.objects.get(Kind::Family, &key)?;
    if uid(family) != owner(&work.job) {
        return None;
    }
    let spec = cluster.current_spec(family)?;
    let image = work.label(labels::IMAGE);
    if spec.images.iter().all(|known| known.name != image) {
        return Some(("builds of removed images are stopped", work.key.name.clone()));
    }
    if work.is_check() {
        return None;
    }
    let running: Vec<&str> = family["status"]["cascades"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|running| running["name"].as_str())
        .collect();
    let superseded = work.label(labels::CASCADE);
    let mut cascades = cluster.objects.all(Kind::Cascade);
    let (_, cascade) = cascades.find(|(key, cascade)| {
        running.contains(&key.name.as_str())
            && owner(cascade) == uid(family)
            && cascade["spec"]["supersedes"] == superseded
    })?;
    let opened_at = cluster.invariants.opened.get(uid(cascade))?.at();
    // A build that runs when its image is held runs to completion.
    let record = Key::new(&key.namespace, &format!("{}.{image}", key.name));
    let record = cluster.objects.get(Kind::Image, &record);
    let is_held = record.is_some_and(|record| record["status"]["state"] == "Held");
    if is_held || cluster.elapsed() < opened_at + MAX_STOP_TIME {
        return None;
    }
    // A build from a digest that is not adopted any more.
    let outdated = builder::specification(&work.job).parents.into_iter().find(|parent| {
        let (name, digest) = parent.pinned.split_once('@').unwrap_or_default();
        spec.upstreams.iter().filter(|upstream| upstream.image == name).any(|upstream| {
            let rows = family["status"]["upstreams"].as_array().into_iter().flatten();
            let mut rows = rows.filter(|row| row["name"] == upstream.name.as_str());
            let adopted = rows.find_map(|row| built_digest(&row["adopted"]));
            adopted.is_some_and(|adopted| adopted != digest)
        })
    })?;
    Some((
        "builds of a superseded cascade are stopped",
        format!("{} is built from {}", work.key.name, outdated.pinned),
    ))
}
