//! What is inspected at intervals, because nothing happens when it is violated.

use std::time::Duration;

use super::{answers, attempts, patches, quiet_time, reasons, unwanted};
use crate::cluster::{Cluster, Event};

/// How often the cluster is inspected.
const INTERVAL: Duration = Duration::from_secs(10);

/// Inspects the cluster now, and again after a while.
pub fn inspect(cluster: &mut Cluster) {
    cluster.schedule(INTERVAL, Event::Inspect);
    let mut found = quiet_time::inspect(cluster);
    found.extend(unwanted::inspect(cluster));
    found.extend(answers::inspect(cluster));
    found.extend(reasons::inspect(cluster));
    found.extend(patches::inspect(cluster));
    found.extend(attempts::inspect(cluster));
    for (invariant, message) in found {
        cluster.violated(invariant, message);
    }
}
