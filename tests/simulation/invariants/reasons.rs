//! An image waits for what its status says: as soon as that is over, it goes on. So no gate stays
//! closed that should be open, and nothing waits without a reason.

use std::{collections::BTreeMap, time::Duration};

use groundswell::{
    api::{
        ImageFamilySpec, Upstream,
        condition::{Reason, ReasonTrait},
        labels,
    },
    controller::object_cache::Key,
};
use jiff::SignedDuration;
use serde_json::Value;

use super::{SETTLED_AFTER, Violations, breaker, builds, calm, limits, quiet_time};
use crate::{
    cluster::Cluster,
    job_controller::Work,
    objects::{Kind, key_of, owner, uid},
};

/// How long a reservation of a place lasts if it is not used.
const RESERVATION_TIME: Duration = Duration::from_mins(2);

/// Since when an image has had the reason that its record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageReason {
    reason: String,
    since: Duration,
}

/// Records the reason of an image.
pub fn written(cluster: &mut Cluster, record: &Value) {
    let reason = record["status"]["reason"].as_str().unwrap_or_default().to_owned();
    let since = cluster.elapsed();
    let known = cluster.invariants.reasons.entry(key_of(record)).or_default();
    if known.reason != reason {
        *known = ImageReason { reason, since };
    }
}

/// Checks the reasons of all images.
pub fn inspect(cluster: &Cluster) -> Violations {
    let now = cluster.elapsed();
    let settled = now.saturating_sub(SETTLED_AFTER);
    if !calm::is_calm_since(cluster, settled) || !calm::is_unchanged_since(cluster, settled) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (key, record) in cluster.objects.all(Kind::Image) {
        let Some(ImageReason { reason, since }) = cluster.invariants.reasons.get(key) else {
            continue;
        };
        if *since > settled || record["status"]["reason"] != reason.as_str() {
            continue;
        }
        let name = record["spec"]["family"].as_str().unwrap_or_default();
        let family = Key::new(&key.namespace, name);
        let Some(object) = cluster.objects.get(Kind::Family, &family) else { continue };
        let Some(spec) = cluster.current_spec(object) else { continue };
        if uid(object) != owner(record) {
            continue;
        }
        let waiting = Waiting { cluster, family: object, spec: &spec, record };
        if let Some((invariant, why)) = waiting.violation(reason) {
            found.push((invariant, format!("{} is {reason} since {since:?}, and {why}", key.name)));
        }
    }
    found
}

/// An image that waits.
struct Waiting<'a> {
    cluster: &'a Cluster,
    family: &'a Value,
    spec: &'a ImageFamilySpec,
    record: &'a Value,
}

impl Waiting<'_> {
    /// Describes how the reason is not true any more.
    fn violation(&self, reason: &str) -> Option<(&'static str, String)> {
        match reason {
            "ParallelismReached" => {
                let parallelism = usize::try_from(self.spec.policy.parallelism).unwrap_or(1);
                let (running, changed) = self.places(Some(uid(self.family)));
                (running < parallelism && self.is_over(changed, SETTLED_AFTER))
                    .then(|| ("free places are used", format!("{running} of {parallelism} run")))
            }
            "BuildLimitReached" => {
                let (running, changed) = self.places(None);
                (self.is_below_limits(running) && self.is_over(changed, SETTLED_AFTER))
                    .then(|| ("shared places are used", format!("{running} run")))
            }
            "RateLimited" => {
                let per = self.spec.policy.rate_limit.as_ref()?.per;
                let per = Duration::from_secs(per.as_secs().into());
                let starts = self.cluster.invariants.starts.get(uid(self.family));
                let last = starts.and_then(|starts| starts.last()).map(builds::BuildStart::at)?;
                let over = self.cluster.time.since_start(last) + per;
                self.is_over(over, SETTLED_AFTER)
                    .then(|| ("the rate limit frees", format!("the last start was at {last}")))
            }
            "WindowClosed" => (!self.spec.policy.windows.is_empty() && self.is_window_open())
                .then(|| ("builds start when a window opens", "a window is open".to_owned())),
            "Suspended" => (!self.spec.suspend)
                .then(|| ("resumed families go on", "the family is not suspended".to_owned())),
            "Retrying" => {
                let failure = &self.record["status"]["failure"];
                let at: jiff::Timestamp = failure["at"].as_str()?.parse().ok()?;
                let class = failure["last"]["class"].as_str()?;
                let reason = Reason::parse(failure["last"]["reason"].as_str()?);
                let is_lasting =
                    reason.is_some_and(|reason| reason.has(ReasonTrait::AwaitsCorrection));
                let (count, first, longest) = match class {
                    "Infrastructure" if is_lasting => (failure["infrastructure"].as_u64()?, 60, 5),
                    "Infrastructure" => (failure["infrastructure"].as_u64()?, 5, 5),
                    _ => (failure["build"].as_u64()?, 10, 10),
                };
                let doublings = u32::try_from(count.saturating_sub(1)).ok()?.min(16);
                let pause = Duration::from_secs(first) * 2_u32.pow(doublings);
                let over =
                    self.cluster.time.since_start(at) + pause.min(Duration::from_mins(longest));
                // The attempt before may still be stopped.
                let (running, changed) = self.places(Some(uid(self.family)));
                (running == 0 && self.is_over(over.max(changed), SETTLED_AFTER))
                    .then(|| ("attempts follow after their pause", format!("failed last at {at}")))
            }
            "BreakerOpen" => {
                let (running, changed) = self.places(Some(uid(self.family)));
                let at = self.record["status"]["message"].as_str()?.rsplit(" at ").next()?;
                let probe_at = self.cluster.time.since_start(at.parse().ok()?);
                let is_free = self.spec.policy.windows.is_empty() && !self.spec.suspend;
                let over = probe_at.max(changed) + RESERVATION_TIME;
                (running == 0
                    && is_free
                    && self.is_over(over, SETTLED_AFTER)
                    && quiet_time::runs_cascade(&self.family["status"]))
                .then(|| ("trial builds start", format!("one was to start at {at}")))
            }
            _ => None,
        }
    }

    /// Returns whether no limit of the operator that could hold the image back is reached, when
    /// `running` builds and checks take a place in all.
    fn is_below_limits(&self, running: usize) -> bool {
        let limits = self.cluster.limits;
        // All families are in one namespace.
        if limits.cluster.into_iter().chain(limits.namespace).any(|limit| running >= limit) {
            return false;
        }
        let Some(limit) = limits.upstream else { return true };
        let mut builds: BTreeMap<String, usize> = BTreeMap::new();
        for work in self.cluster.work.values().filter(|work| work.takes_place()) {
            for upstream in limits::upstreams(&work.job) {
                *builds.entry(upstream).or_default() += 1;
            }
        }
        let mut reached = builds.iter().filter(|(_, count)| **count >= limit);
        !reached.any(|(reference, _)| self.may_count_for(reference))
    }

    /// Returns whether a build of the image may count for the upstream of this reference.
    fn may_count_for(&self, reference: &str) -> bool {
        let image = self.record["spec"]["image"].as_str().unwrap_or_default();
        let mut named =
            self.spec.upstreams.iter().filter(|upstream| reference.starts_with(&upstream.image));
        let is_built_on =
            |upstream: &Upstream| breaker::is_built_on(self.spec, image, &upstream.name);
        // An image that is built on other families counts for their upstreams, too.
        breaker::is_built_on(self.spec, image, "").is_none()
            || named.any(|upstream| is_built_on(upstream) == Some(true))
    }

    /// Returns whether this time passed so long ago.
    fn is_over(&self, at: Duration, how_long: Duration) -> bool {
        self.cluster.elapsed() > at + how_long
    }

    /// Returns how many builds and checks take a place, of this family or of all, and when that
    /// changed last.
    fn places(&self, family: Option<&str>) -> (usize, Duration) {
        let is_counted = |owner: &str| family.is_none_or(|family| family == owner);
        let takes_place = |work: &&Work| work.takes_place() && is_counted(owner(&work.job));
        let running = self.cluster.work.values().filter(takes_place).count();
        let changes = self.cluster.invariants.places_changed.iter();
        let changes = changes.filter(|(family, _)| is_counted(family)).map(|(_, at)| *at);
        (running, changes.max().unwrap_or_default())
    }

    /// Returns whether a window is open, and has been for a while.
    fn is_window_open(&self) -> bool {
        let now = self.cluster.time.truth();
        let before = SignedDuration::try_from(SETTLED_AFTER).expect("short");
        let before = now.saturating_sub(before).expect("a time");
        let windows = &self.spec.policy.windows;
        [before, now].iter().all(|at| windows.iter().any(|window| builds::is_open(window, *at)))
    }
}

/// Records that a build or a check takes a place, or leaves it.
pub fn place_changes(cluster: &mut Cluster, job: &Value) {
    let now = cluster.elapsed();
    if job["metadata"]["labels"][labels::IMAGE].is_null() {
        return;
    }
    cluster.invariants.places_changed.insert(owner(job).into(), now);
}
