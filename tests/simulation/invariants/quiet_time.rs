//! What waits for the quiet time does not wait for longer: a cascade starts `settle` after the last
//! change and at the latest `maxSettle` after the first. With `supersede: Cancel` the cascade
//! before it ends then. What shares nothing with the running cascades does not wait for them. A
//! trigger of the family ends the wait.

use std::{collections::BTreeSet, time::Duration};

use groundswell::{
    api::{Image, ImageFamilySpec, Policy, RequestState, Supersede},
    controller::object_cache::Key,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Violations, builds, calm, cascades, reached::reach, records, requests};
use crate::{
    cluster::Cluster,
    objects::{Kind, uid},
    script::NAMESPACE,
};

/// How long after the quiet time a cascade may start.
const MAX_DELAY: Duration = Duration::from_secs(15);

/// Changes of a family that wait for a cascade.
#[derive(Clone, Debug, Default)]
pub struct PendingChanges {
    /// The hash of the changes.
    change: String,
    /// Since when some change waits, without a break.
    since: Duration,
    /// When the changes became others.
    last_change: Duration,
    /// Whether a cascade runs.
    cascades: bool,
    /// When a cascade was running last.
    cascaded_at: Duration,
    /// Whether all of them wait for running cascades.
    waits: bool,
    /// When a trigger of the family was answered, if these changes waited then.
    triggered_at: Option<Duration>,
}

impl PendingChanges {
    /// Returns when the quiet time ends.
    fn ends(&self, policy: &Policy) -> Duration {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let settled = (self.last_change + seconds(policy.settle.as_secs()))
            .min(self.since + seconds(policy.max_settle.as_secs()));
        settled.min(self.triggered_at.unwrap_or(settled))
    }
}

/// Records what a family's status says to be pending.
pub fn written(cluster: &mut Cluster, family: &Value) {
    let now = cluster.elapsed();
    let uid = uid(family).to_owned();
    let status = &family["status"];
    if !status["pending"].is_null() {
        cluster.note(format_args!("pending {}", status["pending"]));
    }
    let Some(change) = status["pending"]["change"].as_str() else {
        // The status names the cascade before that is created.
        if let Some(pending) = cluster.invariants.pending.remove(&uid) {
            cluster.invariants.started.insert(uid, pending);
        }
        return;
    };
    let pending = cluster
        .invariants
        .pending
        .entry(uid)
        .or_insert_with(|| PendingChanges { since: now, ..PendingChanges::default() });
    let waits = status["pending"]["waitsForCascade"] == true;
    if pending.change != change {
        // What waits for cascades counts apart from what may start next to them.
        if pending.waits != waits && runs_cascade(status) {
            pending.since = now;
        }
        pending.change = change.to_owned();
        pending.last_change = now;
        pending.triggered_at = None;
    }
    pending.waits = waits;
    if pending.cascades || runs_cascade(status) {
        pending.cascaded_at = now;
    }
    pending.cascades = runs_cascade(status);
}

/// Records that a request is answered which starts what is pending: it is done, or it waits and is
/// done as soon as a cascade starts.
pub fn answered(cluster: &mut Cluster, request: &Value) {
    let spec = &request["spec"];
    let is_of_family = spec["image"].is_null() && spec["upstream"].is_null();
    let starts =
        matches!(requests::state(request), Some(RequestState::Done | RequestState::Waiting));
    if spec["action"] != "Trigger" || !is_of_family || !starts {
        return;
    }
    let key = Key::new(NAMESPACE, spec["family"].as_str().unwrap_or_default());
    let Some(family) = cluster.objects.get(Kind::Family, &key) else { return };
    // A trigger starts builds, and not what no image is built from.
    if cluster.current_spec(family).is_none_or(|spec| has_unused_upstream(&spec)) {
        return;
    }
    let (uid, now) = (uid(family).to_owned(), cluster.elapsed());
    let waiting = cluster.invariants.pending.get_mut(&uid).filter(|pending| !pending.waits);
    if let Some(pending) = waiting {
        pending.triggered_at.get_or_insert(now);
    }
}

fn has_unused_upstream(spec: &ImageFamilySpec) -> bool {
    spec.upstreams.iter().any(|upstream| {
        let mut edges = spec.images.iter().flat_map(|image| &image.from);
        !edges.any(|edge| edge.upstream.as_ref() == Some(&upstream.name))
    })
}

/// Counts why a cascade starts now.
pub fn opened(cluster: &mut Cluster, family: &Key, policy: &Policy) {
    let Some(family) = cluster.objects.get(Kind::Family, family) else { return };
    let uid = uid(family).to_owned();
    let Some(pending) = cluster.invariants.started.remove(&uid) else { return };
    let settled = pending.last_change + Duration::from_secs(policy.settle.as_secs().into());
    let at_last = pending.since + Duration::from_secs(policy.max_settle.as_secs().into());
    let now = cluster.elapsed();
    if now < settled && now >= at_last {
        reach(cluster, "pending: at maxSettle");
    } else if now >= settled && policy.settle.as_secs() > 0 {
        reach(cluster, "pending: settled");
    }
}

/// Checks that no change waits for longer than the quiet time.
pub fn inspect(cluster: &Cluster) -> Violations {
    let mut found = Vec::new();
    for (key, family) in cluster.objects.all(Kind::Family) {
        let Some(pending) = cluster.invariants.pending.get(uid(family)) else { continue };
        let Some(spec) = cluster.current_spec(family) else { continue };
        let (now, status) = (cluster.elapsed(), &family["status"]);
        let ends = pending.ends(&spec.policy);
        let is_undisturbed = calm::is_calm_since(cluster, pending.since.min(ends))
            && calm::is_unchanged_since(cluster, now.saturating_sub(MAX_DELAY));
        if !is_undisturbed || spec.suspend {
            continue;
        }
        let late = |from: Duration| now > from + MAX_DELAY;
        let before = SignedDuration::try_from(MAX_DELAY).expect("short");
        let was = cluster.time.truth().saturating_sub(before).expect("a time");
        let open = spec.policy.windows.is_empty()
            || [was, cluster.time.truth()]
                .iter()
                .all(|at| spec.policy.windows.iter().any(|window| builds::is_open(window, *at)));
        if !runs_cascade(status) {
            if open && late(ends.max(pending.cascaded_at)) {
                found.push((
                    "cascades start when the quiet time has passed",
                    format!("{}: {pending:?} at {now:?}", key.name),
                ));
            }
        } else if spec.policy.supersede == Supersede::Cancel
            && candidates(status).next().is_some()
            && supersedes_nothing(cluster, family)
            && open
            && late(ends)
        {
            found.push((
                "a settled candidate supersedes the cascade",
                format!("{}: {pending:?} at {now:?}", key.name),
            ));
        } else if let Some(upstream) = free_candidate(cluster, family, &spec)
            && open
            && late(ends)
        {
            found.push((
                "cascades that share nothing run side by side",
                format!("{}: {upstream} waits, {pending:?} at {now:?}", key.name),
            ));
        }
    }
    found
}

/// Returns whether the status of a family says that a cascade runs.
pub fn runs_cascade(status: &Value) -> bool {
    status["cascades"].as_array().is_some_and(|cascades| !cascades.is_empty())
}

/// Returns the names of the upstreams whose candidates may be adopted.
fn candidates(status: &Value) -> impl Iterator<Item = &str> {
    let rows = status["upstreams"].as_array().into_iter().flatten();
    let rows = rows.filter(|row| !row["candidate"].is_null() && row["reason"].is_null());
    rows.filter_map(|row| row["name"].as_str())
}

/// Returns whether no running cascade has superseded another.
fn supersedes_nothing(cluster: &Cluster, family: &Value) -> bool {
    let mut running = cascades::running(cluster, uid(family));
    running.all(|cascade| cascade["spec"]["supersedes"].is_null())
}

/// Returns an upstream with a candidate that shares no image with any running cascade.
fn free_candidate<'f>(
    cluster: &Cluster,
    family: &'f Value,
    spec: &ImageFamilySpec,
) -> Option<&'f str> {
    let running: Vec<&Value> = cascades::running(cluster, uid(family)).collect();
    let opened = running.iter().map(|cascade| cluster.invariants.opened.get(uid(cascade)));
    let opened = opened.map(|opened| opened.map(cascades::OpenedCascade::at));
    // What a user changes meanwhile may join a cascade that does not list it yet.
    let since = opened.collect::<Option<Vec<Duration>>>()?.into_iter().min()?;
    if !calm::is_unchanged_since(cluster, since) || !calm::is_calm_since(cluster, since) {
        return None;
    }
    let busy: BTreeSet<&str> = running.into_iter().flat_map(cascades::images).collect();
    let is_busy = |image: &String| busy.contains(image.as_str());
    let upstreams: Vec<&str> = candidates(&family["status"]).collect();
    // One that has waited for as long as `maxSettle` keeps its images from later cascades.
    let reserved: BTreeSet<String> = upstreams
        .iter()
        .filter(|upstream| is_overdue(cluster, family, spec, upstream))
        .map(|upstream| built_on(spec, upstream))
        .filter(|images| images.iter().any(is_busy))
        .flatten()
        .collect();
    upstreams.into_iter().find(|upstream| {
        let images = built_on(spec, upstream);
        !images.iter().any(|image| is_busy(image) || reserved.contains(image))
    })
}

/// Returns the images that are built on an upstream, and everything below them.
pub(super) fn built_on(spec: &ImageFamilySpec, upstream: &str) -> BTreeSet<String> {
    let is_child =
        |image: &&Image| image.from.iter().any(|edge| edge.upstream.as_deref() == Some(upstream));
    let children = spec.images.iter().filter(is_child);
    children.flat_map(|image| records::below(spec, &image.name)).collect()
}

/// Returns whether an upstream has waited for as long as `maxSettle`, or did a moment ago.
fn is_overdue(cluster: &Cluster, family: &Value, spec: &ImageFamilySpec, upstream: &str) -> bool {
    let rows = family["status"]["upstreams"].as_array().into_iter().flatten();
    let mut rows = rows.filter(|row| row["name"] == upstream);
    let since = rows.find_map(|row| row["outdatedSince"].as_str());
    let since: Option<Timestamp> = since.and_then(|at| at.parse().ok());
    let max_settle = Duration::from_secs(spec.policy.max_settle.as_secs().into());
    since.is_none_or(|at| cluster.elapsed() >= cluster.time.since_start(at) + max_settle)
}
