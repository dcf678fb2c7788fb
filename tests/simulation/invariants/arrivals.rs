//! How long patches take: from the moment at which a family records a candidate until each image
//! that is built on the upstream is current and built from that digest, or a later one.

use std::{collections::BTreeMap, time::Duration};

use groundswell::controller::object_cache::Key;
use serde_json::Value;

use super::{quiet_time::built_on, tags::upstream_of};
use crate::{
    cluster::Cluster,
    objects::{Kind, key_of, uid},
    registry::built_digest,
    scene::repository,
};

/// The patches so far.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// The last candidate of each upstream of a family, by the family's uid.
    candidates: BTreeMap<(String, String), String>,
    /// The patches that have not arrived, by the image's record.
    waiting: BTreeMap<Key, Vec<Patch>>,
    /// The patches that have arrived.
    pub arrived: Vec<Arrival>,
}

/// A candidate that an image is to be built from.
#[derive(Clone, Debug)]
struct Patch {
    upstream: String,
    digest: String,
    since: Duration,
}

/// A patch that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub family: String,
    pub image: String,
    /// When its candidate was recorded.
    pub since: Duration,
    pub took: Duration,
}

impl Arrivals {
    /// Returns how many patches have not arrived.
    pub fn missing(&self) -> usize {
        self.waiting.values().map(Vec::len).sum()
    }
}

/// Records the candidates that a family's status names.
pub fn family_written(cluster: &mut Cluster, family: &Value) {
    let key = key_of(family);
    let now = cluster.elapsed();
    let Some(spec) = cluster.current_spec(family) else { return };
    for row in family["status"]["upstreams"].as_array().into_iter().flatten() {
        let (Some(name), Some(digest)) = (row["name"].as_str(), built_digest(&row["candidate"]))
        else {
            continue;
        };
        let Some(upstream) = spec.upstreams.iter().find(|upstream| upstream.name == name) else {
            continue;
        };
        let arrivals = &mut cluster.invariants.arrivals;
        let of_upstream = (uid(family).to_owned(), name.to_owned());
        if arrivals.candidates.insert(of_upstream, digest.into()).as_deref() == Some(digest) {
            continue;
        }
        for image in built_on(&spec, name) {
            let record = Key::new(&key.namespace, &format!("{}.{image}", key.name));
            let (upstream, digest) = (upstream.image.clone(), digest.to_owned());
            let patch = Patch { upstream, digest, since: now };
            arrivals.waiting.entry(record).or_default().push(patch);
        }
    }
}

/// Notes the patches that have arrived in an image whose status was written.
pub fn image_written(cluster: &mut Cluster, record: &Value) {
    let (key, now) = (key_of(record), cluster.elapsed());
    if record["status"]["state"] != "Current"
        || !cluster.invariants.arrivals.waiting.contains_key(&key)
    {
        return;
    }
    let family = record["spec"]["family"].as_str().unwrap_or_default();
    let image = record["spec"]["image"].as_str().unwrap_or_default();
    let object = cluster.objects.get(Kind::Family, &Key::new(&key.namespace, family));
    let spec = object.and_then(|object| cluster.current_spec(object));
    let Some(name) = spec.and_then(|spec| {
        let known = spec.images.iter().find(|known| known.name == image)?;
        Some(repository(&spec, known))
    }) else {
        return;
    };
    let digest = record["status"]["digest"].as_str().unwrap_or_default();
    let invariants = &mut cluster.invariants;
    let Some(leaves) = invariants.leaves.get(&format!("{name}@{digest}")) else { return };
    let (history, arrivals) = (&invariants.history, &mut invariants.arrivals);
    let has_arrived = |patch: &Patch| {
        let offered = |digest: &str| history.first_observed(&patch.upstream, digest);
        let values = leaves.get(&upstream_of(&name, &patch.upstream));
        values.into_iter().flat_map(BTreeMap::keys).any(|built| {
            *built == patch.digest
                || offered(built).is_some_and(|at| Some(at) >= offered(&patch.digest))
        })
    };
    let Some(waiting) = arrivals.waiting.remove(&key) else { return };
    let (arrived, left): (Vec<Patch>, Vec<Patch>) = waiting.into_iter().partition(has_arrived);
    if !left.is_empty() {
        arrivals.waiting.insert(key, left);
    }
    arrivals.arrived.extend(arrived.into_iter().map(|patch| Arrival {
        family: family.into(),
        image: image.into(),
        since: patch.since,
        took: now - patch.since,
    }));
}
