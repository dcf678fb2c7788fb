//! A rebuild with the content of the build before is spared.

use groundswell::{api::Cutoff, controller::object_cache::Key};
use serde_json::Value;

use super::{calm, reconcile_view, short};
use crate::{cluster::Cluster, objects::key_of};

/// Checks a record whose digest may have changed: with equal content, the image keeps its digest.
pub fn written(
    cluster: &Cluster,
    before: Option<&Value>,
    record: &Value,
) -> Option<(&'static str, String)> {
    let (old, new) = (&before?["status"], &record["status"]);
    let (from, to) = (old["digest"].as_str()?, new["digest"].as_str()?);
    let is_newer = new["build"].as_i64()? > old["build"].as_i64()?;
    if from == to || !is_newer {
        return None;
    }
    let family = Key::new(&key_of(record).namespace, record["spec"]["family"].as_str()?);
    let (spec, _) = reconcile_view(cluster, &family)?;
    let name = record["spec"]["repository"].as_str()?;
    let content = |digest: &str| cluster.registry.content(&format!("{name}@{digest}"));
    let is_equal = content(from).is_some() && content(from) == content(to);
    // A build whose pod succeeded is adopted at the time of the policy before.
    let now = cluster.elapsed();
    let unchanged = calm::is_unchanged_since(cluster, now.saturating_sub(super::SETTLED_AFTER));
    (is_equal && spec.policy.cutoff != Cutoff::Never && unchanged).then(|| {
        let message = format!("{} goes from {} to {}", key_of(record).name, short(from), short(to));
        ("equal content is spared", message)
    })
}
