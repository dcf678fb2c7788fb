//! When an invariant may be strict: nothing came between the controller and its environment, and no
//! user changed anything.
//!
//! Faults delay and repeat what the controller does, within no bound that a rule names. So the
//! invariants of what must happen, and when, are only checked while it is calm. Failed builds are
//! no disturbance: rules say what follows from them.

use std::time::Duration;

use crate::cluster::Cluster;

/// The last disturbance, and the last change by a user.
#[derive(Debug, Default)]
pub struct Calm {
    /// Until when the last disturbance lasts.
    disturbed_until: Duration,
    /// When a user changed something last.
    changed_at: Duration,
}

/// A fault disturbs the controller for this long.
pub fn disturb(cluster: &mut Cluster, lasts: Duration) {
    let until = cluster.elapsed() + lasts;
    let calm = &mut cluster.invariants.calm;
    calm.disturbed_until = calm.disturbed_until.max(until);
}

/// A user changes something: a spec, a source, or what is requested.
pub fn change(cluster: &mut Cluster) {
    cluster.invariants.calm.changed_at = cluster.elapsed();
}

/// Returns whether nothing has disturbed the controller since this time.
pub fn is_calm_since(cluster: &Cluster, since: Duration) -> bool {
    cluster.invariants.calm.disturbed_until < since && !cluster.time.was_skewed()
}

/// Returns whether nothing has disturbed the controller for this long.
pub fn is_calm_for(cluster: &Cluster, how_long: Duration) -> bool {
    cluster.elapsed().checked_sub(how_long).is_some_and(|since| is_calm_since(cluster, since))
}

/// Returns whether no user has changed anything since this time.
pub fn is_unchanged_since(cluster: &Cluster, since: Duration) -> bool {
    cluster.invariants.calm.changed_at < since
}
