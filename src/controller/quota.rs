//! The ledger of the operator's limits: builds at once in the cluster, in a namespace, and for an
//! upstream.
//!
//! Passes over many families run side by side, and each sees only its own builds. So a pass says
//! here what runs of its family, asks for places before it starts builds, and holds them until the
//! Jobs stand in the cache. Who waits is remembered with what it waits for: places go to whoever's
//! turn it is by [`fair_shares`], not to whoever asks first, and a family is woken when its turn has
//! come.
//!
//! What runs is counted anew from the caches in every pass of a family, so that nothing here can
//! drift. Without limits none of this costs anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use tokio::sync::Notify;

use crate::{
    api::{ImageFamily, labels},
    controller::{
        family::observe::jobs::{JOB_NAME, ended, has_ended, upstreams},
        object_cache::Key,
        stores::Stores,
    },
    engine::{
        Action, Budget, Decision,
        cascade::limits::{ConcurrencyLimits, Demand, fair_shares},
    },
};

/// How long places are held for builds of which it is not known whether they were started: longer
/// than a call may take.
const HOLD: SignedDuration = SignedDuration::from_secs(60);

/// How many builds may run at once; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildLimits {
    /// In the whole cluster.
    pub cluster: Option<usize>,
    /// In each namespace.
    pub namespace: Option<usize>,
    /// For each upstream, of those builds that it caused.
    pub upstream: Option<usize>,
}

/// A build that runs or is to run: the references of the upstreams that it counts for.
pub type Build = Vec<String>;

/// What runs and what waits, of all families.
#[derive(Debug, Default)]
pub struct BuildQuota {
    limits: BuildLimits,
    families: Mutex<FamilyUsages>,
    told: Notify,
}

#[derive(Debug, Default)]
struct FamilyUsages {
    /// Whether the builds of families that have had no pass yet are counted.
    counted: bool,
    rows: BTreeMap<Key, FamilyUsage>,
    /// FamilyUsages whose turn has come.
    woken: BTreeSet<Key>,
}

/// A family.
#[derive(Debug, Default)]
struct FamilyUsage {
    weight: i32,
    /// Its builds that run.
    live: Vec<Build>,
    /// Builds for which places are held, until a time.
    held: Vec<Build>,
    held_until: Timestamp,
    /// Builds that find no place.
    waiting: Vec<Build>,
    since: Timestamp,
    /// Whether it is being looked at, or will be: then there is no need to wake it.
    awake: bool,
}

/// What a pass asks for.
#[derive(Clone, Debug)]
pub struct QuotaRequest {
    /// The family's `policy.weight`.
    pub weight: i32,
    /// The builds that it would start, the most urgent first.
    pub builds: Vec<Build>,
}

/// A family's pass, from its beginning to its end.
#[derive(Debug)]
pub struct Reservation<'a> {
    /// `None` where there are no limits.
    quota: Option<&'a BuildQuota>,
    family: Key,
    now: Timestamp,
    settled: bool,
}

impl BuildQuota {
    /// A ledger of these limits.
    #[must_use]
    pub fn new(limits: BuildLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// A pass over a family begins. What runs of it is counted, and who can use what has become
    /// free is woken.
    pub fn reserve(&self, family: &Key, stores: &Stores, now: Timestamp) -> Reservation<'_> {
        let limited = self.limits != BuildLimits::default();
        let pass = Reservation {
            quota: limited.then_some(self),
            family: family.clone(),
            now,
            settled: false,
        };
        if !limited {
            return pass;
        }
        let live = live_builds(stores, family);
        let mut families = self.lock();
        // One that is gone from the cache is forgotten soon or already, and comes back only as
        // another one.
        if stores.families.get(family).is_none() {
            return pass;
        }
        if !families.counted {
            families.counted = true;
            for other in stores.families.all() {
                let key = Key::of(&*other);
                let live = live_builds(stores, &key);
                families.rows.insert(key, FamilyUsage { live, ..FamilyUsage::default() });
            }
        }
        let row = families.rows.entry(family.clone()).or_default();
        row.live = live;
        row.awake = true;
        families.woken.remove(family);
        self.wake(&mut families, now);
        pass
    }

    /// Forgets a family that is gone.
    pub fn forget(&self, family: &Key, now: Timestamp) {
        let mut families = self.lock();
        families.rows.remove(family);
        families.woken.remove(family);
        self.wake(&mut families, now);
    }

    /// The next family whose turn has come.
    pub async fn next_woken(&self) -> Key {
        loop {
            let next = self.lock().woken.pop_first();
            if let Some(family) = next {
                return family;
            }
            // It keeps a permit: who is woken between the look and the wait is not missed.
            self.told.notified().await;
        }
    }

    /// How many builds of all families wait for nothing but these limits.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().rows.values().map(|row| row.waiting.len()).sum()
    }

    /// Wakes the families for whose builds there are places by now.
    fn wake(&self, families: &mut FamilyUsages, now: Timestamp) {
        if families.rows.values().all(|row| row.awake || row.waiting.is_empty()) {
            return;
        }
        for (family, granted) in self.divide(families, now).granted {
            if let Some(row) =
                families.rows.get_mut(&family).filter(|row| !row.awake && !granted.is_empty())
            {
                row.awake = true;
                families.woken.insert(family);
            }
        }
        if !families.woken.is_empty() {
            self.told.notify_one();
        }
    }

    /// Which of the builds that wait may start.
    fn divide(&self, families: &FamilyUsages, now: Timestamp) -> Division {
        let mut upstreams = Upstreams { limit: self.limits.upstream, ..Upstreams::default() };
        for build in families.rows.values().flat_map(|row| row.running(now)) {
            upstreams.count(build);
        }
        let rows: Vec<(&Key, &FamilyUsage, Vec<Vec<usize>>)> = families
            .rows
            .iter()
            .map(|(key, row)| {
                (key, row, row.waiting.iter().map(|build| upstreams.places_of(build)).collect())
            })
            .collect();
        let demands: Vec<Demand<'_>> = rows
            .iter()
            .map(|(key, row, wants)| Demand {
                family: &key.name,
                namespace: &key.namespace,
                weight: row.weight,
                running: row.running(now).count(),
                wants,
                since: row.since,
            })
            .collect();
        let limits =
            ConcurrencyLimits { cluster: self.limits.cluster, namespace: self.limits.namespace };
        let granted = fair_shares(limits, &upstreams.free(), &demands, now);
        for ((_, row, _), share) in rows.iter().zip(&granted) {
            share
                .iter()
                .filter_map(|place| row.waiting.get(*place))
                .for_each(|build| upstreams.count(build));
        }
        let granted = rows.iter().map(|(key, ..)| (*key).clone()).zip(granted).collect();
        Division { granted, full: upstreams.full() }
    }

    fn lock(&self) -> MutexGuard<'_, FamilyUsages> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// Asks for places for the builds that the family would start, and holds those that it gets.
    ///
    /// If there are not enough, `decide` is asked what the family would start with the budget that
    /// is left to it, until there are: builds that count for a full upstream may let others pass.
    /// The last that it was asked for is what may start; what found no place is remembered, and the
    /// family is woken when its turn has come. Nothing else is given away meanwhile.
    pub fn reserve(
        &mut self,
        request: QuotaRequest,
        mut decide: impl FnMut(Budget) -> QuotaRequest,
    ) {
        let Some(quota) = self.quota else { return };
        let (mut families, now) = (quota.lock(), self.now);
        let at_most = request.builds.len();
        let (mut request, mut budget, mut refused) = (request, Budget::default(), Vec::new());
        let granted = loop {
            let Some(row) = families.rows.get_mut(&self.family) else {
                // The family is gone.
                decide(Budget { family: Some(0), ..Budget::default() });
                return;
            };
            row.ask(&request, now);
            let mut division = quota.divide(&families, now);
            let places = division.granted.remove(&self.family).unwrap_or_default();
            let (granted, left) = split(request.builds, &places);
            if left.is_empty() || budget.family == Some(0) {
                break granted;
            }
            tighten(&mut budget, &granted, &left, &division.full);
            refused.extend(left);
            request = decide(budget.clone());
        };
        let Some(row) = families.rows.get_mut(&self.family) else { return };
        refused.truncate(at_most.saturating_sub(granted.len()));
        row.waiting = refused;
        if !granted.is_empty() {
            row.since = now;
        }
        row.held = granted;
        row.held_until = now.saturating_add(HOLD).unwrap_or(Timestamp::MAX);
    }

    /// The pass has come to its end, and what it has started stands in the cache.
    pub fn commit(mut self, stores: &Stores) {
        let Some(quota) = self.quota else { return };
        self.settled = true;
        let live = live_builds(stores, &self.family);
        if let Some(row) = quota.lock().rows.get_mut(&self.family) {
            row.live = live;
            row.held.clear();
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let Some(quota) = self.quota else { return };
        let mut families = quota.lock();
        if let Some(row) = families.rows.get_mut(&self.family) {
            row.awake = false;
            if !self.settled {
                // It failed, and is tried again after a pause; nobody is to wait for it. What it
                // may have started is held.
                row.waiting.clear();
            }
        }
        quota.wake(&mut families, self.now);
    }
}

impl FamilyUsage {
    /// Its builds that run, or may.
    fn running(&self, now: Timestamp) -> impl Iterator<Item = &Build> {
        // A clock that was put back ends what was held before it.
        let latest = now.saturating_add(HOLD).unwrap_or(Timestamp::MAX);
        let held =
            self.held.iter().filter(move |_| self.held_until > now && self.held_until <= latest);
        self.live.iter().chain(held)
    }

    /// Takes down what it asks for, in place of what it asked for before.
    fn ask(&mut self, request: &QuotaRequest, now: Timestamp) {
        if self.waiting.is_empty() {
            self.since = now;
        }
        self.weight = request.weight;
        self.waiting.clone_from(&request.builds);
        // It asks again for what it holds places for, if it still wants it.
        self.held.clear();
    }
}

/// Who may start what.
struct Division {
    /// By family, places in what waits.
    granted: HashMap<Key, Vec<usize>>,
    /// The upstreams for which nothing is left.
    full: BTreeSet<String>,
}

/// What is used of the places for upstreams.
#[derive(Default)]
struct Upstreams<'a> {
    limit: Option<usize>,
    names: HashMap<&'a str, usize>,
    used: Vec<usize>,
}

impl<'a> Upstreams<'a> {
    /// The places in the list of upstreams of those that a build counts for.
    fn places_of(&mut self, build: &'a Build) -> Vec<usize> {
        if self.limit.is_none() {
            return Vec::new();
        }
        let places = build.iter().map(|name| {
            *self.names.entry(name).or_insert_with(|| {
                self.used.push(0);
                self.used.len() - 1
            })
        });
        places.collect()
    }

    /// Counts a build that runs.
    fn count(&mut self, build: &'a Build) {
        for place in self.places_of(build) {
            if let Some(used) = self.used.get_mut(place) {
                *used += 1;
            }
        }
    }

    fn free(&self) -> Vec<usize> {
        let limit = self.limit.unwrap_or(usize::MAX);
        self.used.iter().map(|used| limit.saturating_sub(*used)).collect()
    }

    fn full(&self) -> BTreeSet<String> {
        let free = self.free();
        let full = self.names.iter().filter(|(_, place)| free.get(**place) == Some(&0));
        full.map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// Builds at these places, and the others.
fn split(builds: Vec<Build>, places: &[usize]) -> (Vec<Build>, Vec<Build>) {
    let (granted, left): (Vec<_>, Vec<_>) =
        builds.into_iter().enumerate().partition(|(place, _)| places.binary_search(place).is_ok());
    let plain = |builds: Vec<(usize, Build)>| builds.into_iter().map(|(_, build)| build).collect();
    (plain(granted), plain(left))
}

/// Makes a budget so tight that what was granted fits and what was left does not. Where that does
/// not make it any tighter, nothing is left of it.
fn tighten(budget: &mut Budget, granted: &[Build], left: &[Build], full: &BTreeSet<String>) {
    let before = budget.clone();
    for build in left {
        let full: Vec<&String> = build.iter().filter(|upstream| full.contains(*upstream)).collect();
        for upstream in &full {
            let used = granted.iter().filter(|build| build.contains(upstream)).count();
            let free = budget.upstreams.entry((*upstream).clone()).or_insert(used);
            *free = used.min(*free);
        }
        if full.is_empty() {
            let free = budget.family.unwrap_or(usize::MAX);
            budget.family = Some(granted.len().min(free));
        }
    }
    if *budget == before {
        budget.family = Some(0);
    }
}

/// What a decision would start.
#[must_use]
pub fn request(family: &ImageFamily, decision: &Decision) -> QuotaRequest {
    let builds = decision.actions.iter().filter_map(|action| match action {
        Action::Build { identity, .. } => Some(identity.upstreams.clone()),
        _ => None,
    });
    QuotaRequest { weight: family.spec.policy.weight, builds: builds.collect() }
}

/// The builds of a family that run, by the caches: Jobs that have not ended, and of whose pods none
/// has. Checks do not count.
fn live_builds(stores: &Stores, family: &Key) -> Vec<Build> {
    let pods = stores.pods.group(family);
    let ended_pods =
        pods.iter().filter(|pod| has_ended(pod)).filter_map(|pod| pod.labels().get(JOB_NAME));
    let ended_jobs: HashSet<&str> = ended_pods.map(String::as_str).collect();
    let jobs = stores.jobs.group(family);
    let live = jobs.iter().filter(|job| {
        let is_build = job.labels().contains_key(labels::FINGERPRINT);
        is_build
            && !ended(job)
            && job.metadata.name.as_deref().is_none_or(|name| !ended_jobs.contains(name))
    });
    live.map(|job| {
        let names: BTreeSet<String> = upstreams(job).into_iter().collect();
        names.into_iter().collect()
    })
    .collect()
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
