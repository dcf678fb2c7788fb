//! The operator's limits of concurrent builds hold at every step.

use groundswell::api::labels;
use serde_json::Value;

use super::{Violations, reached::reach};
use crate::{
    cluster::Cluster,
    job_controller::{Phase, Work},
};

/// Checks that a new build or check is within the limits of the namespace, the cluster and its
/// upstreams. All families are in one namespace. A check counts for no upstream.
pub fn check(cluster: &mut Cluster, job: &Value, shown: &str) -> Violations {
    let limits = cluster.limits;
    if cluster.is_late {
        return Vec::new();
    }
    // A pod that never starts counts as failed after a while. The process that lives now does not
    // know of a Job that a dead one has just created.
    let runs = |work: &&Work| {
        work.phase == Phase::Live && !(work.never_starts() && work.is_deleted()) && !work.is_late
    };
    let running: Vec<Vec<String>> =
        cluster.work.values().filter(runs).map(|work| upstreams(&work.job)).collect();
    let own = upstreams(job);
    let mut found = Vec::new();
    let mut compare = |name: &'static str, invariant, limit: Option<usize>, count: usize| {
        let Some(limit) = limit else { return };
        if count >= limit {
            found.push((invariant, format!("{shown} with {count} others, and {limit} may run")));
        } else if count + 1 == limit {
            reach(cluster, name);
        }
    };
    let all = running.len();
    compare(
        "limit: in the cluster reached",
        "the limit of builds in the cluster holds",
        limits.cluster,
        all,
    );
    compare(
        "limit: in the namespace reached",
        "the limit of builds in the namespace holds",
        limits.namespace,
        all,
    );
    for upstream in &own {
        let count = running.iter().filter(|other| other.contains(upstream)).count();
        compare(
            "limit: of an upstream reached",
            "the limit of builds for an upstream holds",
            limits.upstream,
            count,
        );
    }
    found
}

/// Returns the upstreams that a build counts for.
pub fn upstreams(job: &Value) -> Vec<String> {
    let listed = job["metadata"]["annotations"][labels::UPSTREAMS].as_str().unwrap_or_default();
    listed.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
