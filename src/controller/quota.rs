//! The operator's limits of concurrent builds: in the cluster, in a namespace, and for an upstream.
//! A check takes a place like a build, but counts for no upstream. No client is needed.
//!
//! Families are reconciled concurrently, and each reconcile knows only its own builds. So a
//! reconcile registers the running builds of its family here, reserves places before it starts
//! builds, and keeps the reservation until the Jobs are in the store. Builds that get no place are
//! queued here. Places go to families by [`fair_shares`], not in the order of their requests, and a
//! family is triggered when its queued builds may start.
//!
//! Running builds are counted again from the stores in every reconcile of a family, so nothing here
//! can drift. Without limits none of this costs anything.

mod upstream_usage;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use tokio::sync::Notify;

use self::upstream_usage::UpstreamUsage;
use crate::{
    api::{ImageFamily, labels},
    builds::outcome::pod_has_ended,
    controller::{
        family::observe::{
            job::upstreams,
            jobs::{controlling_job, job_has_ended},
        },
        object_cache::Key,
        stores::{Stores, family_of},
    },
    engine::{
        BuildAllowance, Decision,
        cascade::limits::{ConcurrencyLimits, Demand, QuotaUpstream, WantIndex, fair_shares},
    },
};

/// How long a reservation lasts after a reconcile that failed, and may have started builds: longer
/// than a call to the API server may take.
const RESERVATION_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// The pause until a family is reconciled again that leaves places free that it could use.
const OWN_PLACES_PAUSE: SignedDuration = SignedDuration::from_millis(250);

/// How many builds may run concurrently; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildLimits {
    /// In the whole cluster.
    pub cluster: Option<usize>,
    /// In each namespace.
    pub namespace: Option<usize>,
    /// For each upstream, among the builds that it has caused.
    pub upstream: Option<usize>,
}

/// The upstreams that a build counts for, by their references. A running or queued build is known
/// here by nothing else.
pub type BuildUpstreams = Vec<String>;

/// The running and queued builds of all families.
#[derive(Debug, Default)]
pub struct BuildQuota {
    limits: BuildLimits,
    families: Mutex<FamilyUsages>,
    /// Notified when a family is admitted.
    admission: Notify,
}

#[derive(Debug, Default)]
struct FamilyUsages {
    /// Whether the running builds of families that were not reconciled yet are counted.
    counted: bool,
    by_family: BTreeMap<Key, FamilyUsage>,
    /// Families whose queued builds may start, and that are to be reconciled.
    admitted: BTreeSet<Key>,
}

/// What one family uses and asks for.
#[derive(Debug, Default)]
struct FamilyUsage {
    weight: i32,
    /// The running builds.
    running: Vec<BuildUpstreams>,
    /// Builds with a reserved place.
    reserved: Vec<BuildUpstreams>,
    reserved_until: Timestamp,
    /// Builds without a place. Some are alternatives to others whose upstreams have reached their
    /// limits.
    queued: Vec<BuildUpstreams>,
    /// How many of them may start: the family has no room for more.
    max_starts: usize,
    queued_since: Timestamp,
    /// Whether the family is being reconciled, or will be: then it need not be triggered.
    is_reconciling: bool,
}

/// What a reconcile asks for.
#[derive(Clone, Debug)]
pub struct QuotaRequest {
    /// The family's `policy.weight`.
    pub weight: i32,
    /// The builds that the family would start, the most urgent first.
    pub builds: Vec<BuildUpstreams>,
}

/// A family's share of the limits during one reconcile.
#[derive(Debug)]
pub struct Reservation<'a> {
    /// `None` where there are no limits, and once it is committed.
    quota: Option<&'a BuildQuota>,
    family: Key,
    now: Timestamp,
}

impl BuildQuota {
    /// Returns a quota with these limits.
    #[must_use]
    pub fn new(limits: BuildLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Begins the reconcile of a family: counts its running builds, and triggers the families that
    /// can use places that have become free.
    pub fn open_reservation(
        &self,
        family: &Key,
        stores: &Stores,
        now: Timestamp,
    ) -> Reservation<'_> {
        let limited = self.limits != BuildLimits::default();
        let reservation =
            Reservation { quota: limited.then_some(self), family: family.clone(), now };
        if !limited {
            return reservation;
        }
        let running = running_builds(stores, family);
        let mut families = self.lock();
        // A family that is no longer in the store was deleted, and must not be counted again.
        if stores.families.get(family).is_none() {
            return reservation;
        }
        if !families.counted {
            families.counted = true;
            for key in known_families(stores) {
                let running = running_builds(stores, &key);
                families.by_family.insert(key, FamilyUsage { running, ..FamilyUsage::default() });
            }
        }
        let usage = families.by_family.entry(family.clone()).or_default();
        usage.running = running;
        usage.is_reconciling = true;
        families.admitted.remove(family);
        self.admit(&mut families, now);
        reservation
    }

    /// Forgets a deleted family, except for its running builds: these keep their places until this
    /// is called again, after their Jobs have ended or are gone.
    pub fn forget(&self, family: &Key, stores: &Stores, now: Timestamp) {
        if self.limits == BuildLimits::default() {
            return;
        }
        let running = running_builds(stores, family);
        let mut families = self.lock();
        families.admitted.remove(family);
        if running.is_empty() {
            families.by_family.remove(family);
        } else {
            let usage = FamilyUsage { running, ..FamilyUsage::default() };
            families.by_family.insert(family.clone(), usage);
        }
        self.admit(&mut families, now);
    }

    /// Forgets a family that is not reconciled any more, with its running builds: nobody learns
    /// when these end.
    pub fn abandon(&self, family: &Key, now: Timestamp) {
        let mut families = self.lock();
        families.admitted.remove(family);
        if families.by_family.remove(family).is_some() {
            self.admit(&mut families, now);
        }
    }

    /// Waits for the next family whose queued builds may start, and returns it.
    pub async fn next_admitted(&self) -> Key {
        loop {
            let next = self.lock().admitted.pop_first();
            if let Some(family) = next {
                return family;
            }
            // It keeps a permit, so a family that is admitted before the wait begins is not missed.
            self.admission.notified().await;
        }
    }

    /// Returns how many builds of all families are queued only because of these limits.
    #[must_use]
    pub fn queued_builds(&self) -> usize {
        let families = self.lock();
        families.by_family.values().map(|usage| usage.queued.len().min(usage.max_starts)).sum()
    }

    /// Admits the families for whose queued builds there are places now.
    fn admit(&self, families: &mut FamilyUsages, now: Timestamp) {
        let mut usages = families.by_family.values();
        if usages.all(|usage| usage.is_reconciling || usage.queued.is_empty()) {
            return;
        }
        for (family, granted) in self.divide(families, now).granted {
            let usage = families.by_family.get_mut(&family).filter(|usage| !usage.is_reconciling);
            if let Some(usage) = usage.filter(|_| !granted.is_empty()) {
                usage.is_reconciling = true;
                families.admitted.insert(family);
            }
        }
        if !families.admitted.is_empty() {
            self.admission.notify_one();
        }
    }

    /// Divides the free places among the queued builds.
    fn divide(&self, families: &FamilyUsages, now: Timestamp) -> Division {
        let mut upstreams = UpstreamUsage::new(self.limits.upstream);
        for build in families.by_family.values().flat_map(|usage| usage.used(now)) {
            upstreams.count(build);
        }
        let usages = families.by_family.iter();
        let wants: Vec<Vec<Vec<QuotaUpstream>>> = usages
            .clone()
            .map(|(_, usage)| usage.queued.iter().map(|build| upstreams.indices(build)).collect())
            .collect();
        let demands: Vec<Demand<'_>> = usages
            .clone()
            .zip(&wants)
            .map(|((key, usage), wants)| Demand {
                family: &key.name,
                namespace: &key.namespace,
                weight: usage.weight,
                running: usage.used(now).count(),
                wants,
                most: usage.max_starts,
                since: usage.queued_since,
            })
            .collect();
        let limits =
            ConcurrencyLimits { cluster: self.limits.cluster, namespace: self.limits.namespace };
        let granted = fair_shares(limits, &upstreams.free(), &demands, now);
        for ((_, usage), share) in usages.clone().zip(&granted) {
            let builds = share.iter().filter_map(|want| usage.queued.get(want.position()));
            builds.for_each(|build| upstreams.count(build));
        }
        let granted = usages.map(|(key, _)| key.clone()).zip(granted).collect();
        Division { granted, limited_upstreams: upstreams.limited() }
    }

    fn lock(&self) -> MutexGuard<'_, FamilyUsages> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// Reserves places for the builds that the family would start.
    ///
    /// If there are not enough places, `decide` is asked what the family would start within the
    /// allowance that is left to it, until there are: a build whose upstream has reached its limit
    /// may let other builds start. What `decide` returned last may start. Builds that got no place
    /// are queued, and the family is triggered when they may start. No other family gets a place
    /// meanwhile.
    pub fn reserve_builds(
        &mut self,
        request: QuotaRequest,
        mut decide: impl FnMut(BuildAllowance) -> QuotaRequest,
    ) {
        let Some(quota) = self.quota else { return };
        let (mut families, now) = (quota.lock(), self.now);
        let max_builds = request.builds.len();
        let mut wanted = request;
        let mut allowance = BuildAllowance::default();
        // The builds that got no place under an earlier allowance.
        let mut queued = Vec::new();
        let granted = loop {
            let Some(usage) = families.by_family.get_mut(&self.family) else {
                // The family was deleted.
                decide(BuildAllowance { family: Some(0), ..BuildAllowance::default() });
                return;
            };
            usage.request(&wanted, now);
            let mut division = quota.divide(&families, now);
            let indices = division.granted.remove(&self.family).unwrap_or_default();
            let SplitBuilds { granted, left } = split(wanted.builds, &indices);
            if left.is_empty() || allowance.family == Some(0) {
                break granted;
            }
            tighten(&mut allowance, &granted, &left, &division.limited_upstreams);
            queued.extend(left);
            wanted = decide(allowance.clone());
        };
        let Some(usage) = families.by_family.get_mut(&self.family) else { return };
        usage.queued = queued;
        usage.max_starts = max_builds.saturating_sub(granted.len());
        if !granted.is_empty() {
            usage.queued_since = now;
        }
        usage.reserved = granted;
        usage.reserved_until = now.saturating_add(RESERVATION_TIMEOUT).unwrap_or(Timestamp::MAX);
    }

    /// Replaces the reservation with the Jobs that were started, which are in the store now, and
    /// triggers the families that can use places that have become free.
    ///
    /// Returns when this family is to be reconciled again, if it could use some itself. It is not
    /// triggered at once: if it does not start what it gets a place for, it would decide the same
    /// again without end.
    #[must_use]
    pub fn commit(mut self, stores: &Stores) -> Option<Timestamp> {
        let quota = self.quota.take()?;
        let running = running_builds(stores, &self.family);
        let mut families = quota.lock();
        let usage = families.by_family.get_mut(&self.family)?;
        usage.running = running;
        usage.reserved.clear();
        usage.is_reconciling = false;
        quota.admit(&mut families, self.now);
        if !families.admitted.remove(&self.family) {
            return None;
        }
        if let Some(usage) = families.by_family.get_mut(&self.family) {
            usage.is_reconciling = false;
        }
        Some(self.now.saturating_add(OWN_PLACES_PAUSE).unwrap_or(Timestamp::MAX))
    }
}

impl Drop for Reservation<'_> {
    /// Ends the reservation of a reconcile that has failed. That is retried after a pause, so no
    /// other family waits for its queued builds. The reservation stays for builds that it may have
    /// started.
    fn drop(&mut self) {
        let Some(quota) = self.quota else { return };
        let mut families = quota.lock();
        if let Some(usage) = families.by_family.get_mut(&self.family) {
            usage.is_reconciling = false;
            usage.queued.clear();
            let until = self.now.saturating_add(RESERVATION_TIMEOUT);
            usage.reserved_until = until.unwrap_or(Timestamp::MAX);
        }
        quota.admit(&mut families, self.now);
    }
}

impl FamilyUsage {
    /// Returns the builds that use a place: running ones and reserved ones.
    fn used(&self, now: Timestamp) -> impl Iterator<Item = &BuildUpstreams> {
        // If the clock was set back, an earlier reservation ends. One of a reconcile that has begun
        // after the one that asks, and has failed before, counts.
        let latest = now.saturating_add(2 * RESERVATION_TIMEOUT).unwrap_or(Timestamp::MAX);
        let is_recent = self.reserved_until > now && self.reserved_until <= latest;
        // A reconcile that takes longer still starts what it has reserved.
        let is_valid = self.is_reconciling || is_recent;
        self.running.iter().chain(self.reserved.iter().filter(move |_| is_valid))
    }

    /// Replaces the queued builds with those of a new request.
    fn request(&mut self, request: &QuotaRequest, now: Timestamp) {
        if self.queued.is_empty() {
            self.queued_since = now;
        }
        self.weight = request.weight;
        self.queued.clone_from(&request.builds);
        self.max_starts = request.builds.len();
        // The new request contains the reserved builds, if they are still wanted.
        self.reserved.clear();
    }
}

/// A division of the free places.
struct Division {
    /// By family, the queued builds that may start.
    granted: HashMap<Key, Vec<WantIndex>>,
    /// The upstreams that have reached their limit.
    limited_upstreams: BTreeSet<String>,
}

/// Builds with a place, and builds without.
struct SplitBuilds {
    granted: Vec<BuildUpstreams>,
    left: Vec<BuildUpstreams>,
}

/// Splits builds into those at the given indices, which are sorted, and the others.
fn split(builds: Vec<BuildUpstreams>, granted: &[WantIndex]) -> SplitBuilds {
    let mut split = SplitBuilds { granted: Vec::new(), left: Vec::new() };
    for (index, build) in WantIndex::enumerate(builds) {
        let is_granted = granted.binary_search(&index).is_ok();
        let builds = if is_granted { &mut split.granted } else { &mut split.left };
        builds.push(build);
    }
    split
}

/// Tightens an allowance so that it covers the granted builds and none of those without a place. If
/// that does not change the allowance, it becomes zero.
fn tighten(
    allowance: &mut BuildAllowance,
    granted: &[BuildUpstreams],
    left: &[BuildUpstreams],
    limited: &BTreeSet<String>,
) {
    let before = allowance.clone();
    for build in left {
        let limited: Vec<&String> =
            build.iter().filter(|upstream| limited.contains(*upstream)).collect();
        for upstream in &limited {
            let used = granted.iter().filter(|build| build.contains(upstream)).count();
            let free = allowance.upstreams.entry((*upstream).clone()).or_insert(used);
            *free = used.min(*free);
        }
        if limited.is_empty() {
            let free = allowance.family.unwrap_or(usize::MAX);
            allowance.family = Some(granted.len().min(free));
        }
    }
    if *allowance == before {
        allowance.family = Some(0);
    }
}

/// Returns the request for the builds and checks that a decision would start.
#[must_use]
pub fn request(family: &ImageFamily, decision: &Decision) -> QuotaRequest {
    let builds = decision.starts().map(<[String]>::to_vec);
    QuotaRequest { weight: family.spec.policy.weight, builds: builds.collect() }
}

/// Returns the families, and those that were deleted and have left Jobs.
fn known_families(stores: &Stores) -> BTreeSet<Key> {
    let families = stores.families.all().into_iter().map(|family| Key::of(&*family));
    let jobs = stores.jobs.all();
    families.chain(jobs.iter().filter_map(|job| family_of(&**job))).collect()
}

/// Returns the running builds and checks of a family, from the stores: Jobs that have not ended,
/// and none of whose pods has. A check counts for no upstream.
fn running_builds(stores: &Stores, family: &Key) -> Vec<BuildUpstreams> {
    let pods = stores.pods.group(family);
    let ended_pods = pods.iter().filter(|pod| pod_has_ended(pod));
    let ended_jobs: HashSet<&str> =
        ended_pods.filter_map(|pod| Some(controlling_job(pod)?.uid.as_str())).collect();
    let jobs = stores.jobs.group(family);
    let running = jobs.iter().filter(|job| {
        let is_ours = [labels::FINGERPRINT, labels::CHECK]
            .iter()
            .any(|label| job.labels().contains_key(*label));
        let uid = job.metadata.uid.as_deref();
        is_ours && !job_has_ended(job) && uid.is_none_or(|uid| !ended_jobs.contains(uid))
    });
    let unique = |upstreams: Vec<String>| upstreams.into_iter().collect::<BTreeSet<String>>();
    running.map(|job| unique(upstreams(job)).into_iter().collect()).collect()
}

#[cfg(test)]
#[path = "quota_fixture.rs"]
mod fixture;
#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
