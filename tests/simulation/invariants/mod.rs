//! Invariants that must hold at every step. They are checked as each effect reaches the cluster or
//! a registry, against what the model knows and the controller does not.
//!
//! [`builds`]: when a Job may be created; [`tags`]: what a tag may point to; [`records`] and
//! [`requests`]: what may be recorded; [`rollbacks`]: what stays rolled back; [`losses`]: what must
//! survive the loss of records; [`limits`]: how much runs at once; [`attempts`]: how often and when
//! a build is tried again;
//! [`refresh`]: when an image is rebuilt because of its age;
//! [`cascades`], [`quiet_time`] and [`cutoff`]: when a cascade starts, and what it builds;
//! [`order`] and [`breaker`]: which builds start; [`answers`] and [`reasons`]: what users ask for,
//! and what images wait for; [`patches`]: that every patch arrives; [`unwanted`]: what must not run
//! any more. [`calm`] says when they may be strict, [`reached`] how often a run got to each rule,
//! and [`arrivals`] how long patches took.

pub mod answers;
pub mod arrivals;
pub mod attempts;
pub mod breaker;
pub mod builds;
pub mod calm;
pub mod cascades;
pub mod cutoff;
pub mod inspection;
pub mod limits;
pub mod losses;
pub mod order;
pub mod patches;
pub mod quiet_time;
pub mod reached;
pub mod reasons;
pub mod records;
pub mod refresh;
pub mod requests;
pub mod rollbacks;
pub mod tags;
pub mod unwanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use groundswell::{
    api::{Cutoff, Edge, Image, ImageFamilySpec, ManagedImageStatus},
    controller::{context::Context, object_cache::Key, reconcile_cache::MAX_LOOKUPS_PER_IMAGE},
    engine::fingerprint::check_revision,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    edits::text_of,
    history::History,
    objects::{Kind, uid},
    registry::built_digest,
    scene::repository,
    script::FOLLOWED,
};

/// Upper bound on the requests to registries between the starts of two reconciles: a converged
/// system makes some thousands of polls.
const MAX_REGISTRY_REQUESTS: usize = 5000;
/// Upper bound on the reconciles that start in one second: what triggers itself never ends.
const MAX_RECONCILES_PER_SECOND: u64 = 2000;
/// How long the controller may take to follow a change while nothing disturbs it.
const SETTLED_AFTER: Duration = Duration::from_secs(20);

/// Violated invariants, each with what happened.
type Violations = Vec<(&'static str, String)>;

/// What the model records in order to detect violations.
#[derive(Debug, Default)]
pub struct Invariants {
    pub history: History,
    pub calm: calm::Calm,
    pub reached: reached::Reached,
    pub arrivals: arrivals::Arrivals,
    /// The builds so far, in the order of their starts.
    pub attempts: Vec<attempts::Attempt>,
    /// The changes that wait for a cascade, by the family's uid.
    pending: BTreeMap<String, quiet_time::PendingChanges>,
    /// Those for which a cascade is about to start.
    started: BTreeMap<String, quiet_time::PendingChanges>,
    /// The cascades so far, by uid.
    opened: BTreeMap<String, cascades::OpenedCascade>,
    /// The families that are not up to date, by uid.
    outdated: BTreeMap<String, patches::Outdated>,
    /// The requests of users.
    asked: Vec<answers::AskedRequest>,
    /// What each image waits for.
    reasons: BTreeMap<Key, reasons::ImageReason>,
    /// When a build or a check of each family started or ended last, by the family's uid.
    places_changed: BTreeMap<String, Duration>,
    /// When the record of each image was written last.
    record_written: BTreeMap<Key, Duration>,
    /// What the last reconcile of each family read when it started.
    reconciles: BTreeMap<Key, ReconcileStart>,
    /// How many Jobs there were of each image, by the family's uid.
    jobs: BTreeMap<(String, String), usize>,
    /// The leaves that each `repository@digest` depends on.
    leaves: BTreeMap<String, BTreeMap<String, LeafValues>>,
    /// What was built from each `repository@digest`.
    children: BTreeMap<String, BTreeSet<String>>,
    /// The digest that the controller last set each floating tag to, by `repository:tag`.
    tags_set: BTreeMap<String, String>,
    /// The digests that floating tags were correctly promoted to, as `repository@digest`.
    promoted: BTreeSet<String>,
    /// Checks that passed, by `repository@digest`, the check's name and its revision, and whether
    /// the controller certainly observes it.
    passed: BTreeMap<PassedCheck, bool>,
    /// Digests that a user approved, with family and upstream.
    approved: BTreeSet<Approved>,
    /// The digests that were ever adopted, by the family's uid and the upstream's reference.
    agreed: BTreeMap<(String, String), BTreeSet<String>>,
    /// Since when changes wait, according to each family's last status, by its uid.
    waiting: BTreeMap<String, Timestamp>,
    /// Since when changes had waited when a cascade started, by the family's uid and its name.
    waited: BTreeMap<(String, String), Option<Timestamp>>,
    /// When builds succeeded.
    built: BTreeMap<builds::BuildKey, Duration>,
    /// Build starts that no user caused, by the family's uid.
    starts: BTreeMap<String, Vec<builds::BuildStart>>,
    /// The uids of Jobs that were deleted before any pod of theirs was admitted.
    not_admitted: BTreeSet<String>,
    /// How many builds were cancelled for a newer cascade, by their cascade and image.
    cancelled: BTreeMap<(String, String), usize>,
    /// Requests to registries since the last reconcile started.
    registry_requests: usize,
    /// How many effects there were: writes and moved tags.
    pub effects: u64,
    /// How many of the effects were writes of a family's status.
    pub family_status_writes: u64,
    /// How many reconciles have started.
    pub reconciles_started: u64,
    /// The current second, and how many reconciles had started before it.
    reconciles_before: (u64, u64),
}

/// The values of a leaf that a digest represents. Each has the time when it was last true before
/// the build, or before a floating tag was set to the digest. There are several values if builds
/// with different inputs had equal content.
type LeafValues = BTreeMap<String, Duration>;

/// A check that passed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PassedCheck {
    /// The checked `repository@digest`.
    pinned: String,
    check: String,
    revision: String,
}

/// An upstream's digest that a user approved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Approved {
    family: String,
    upstream: String,
    digest: String,
}

/// What a reconcile read when it started.
#[derive(Clone, Debug)]
struct ReconcileStart {
    generation: i64,
    /// The time of day that the controller's clock showed.
    at: Timestamp,
    /// The true time since the start of the simulation.
    started_at: Duration,
    /// When the last reconcile started that completed.
    last_completed: Option<Duration>,
    /// The records of its images, if builds may wait for others in a known order.
    records: order::Records,
}

impl Invariants {
    /// Returns how many Jobs were created.
    pub fn builds(&self) -> usize {
        self.jobs.values().sum()
    }

    /// Counts a Job of an image, and returns how many there were before.
    pub fn count_job(&mut self, family: &str, image: &str) -> usize {
        let count = self.jobs.entry((family.into(), image.into())).or_default();
        *count += 1;
        *count - 1
    }

    /// Records that a check passed. The controller may not observe the result of a Job that is
    /// being deleted.
    pub fn check_passed(&mut self, pinned: &str, check: &str, revision: &str, is_observed: bool) {
        let passed =
            PassedCheck { pinned: pinned.into(), check: check.into(), revision: revision.into() };
        *self.passed.entry(passed).or_default() |= is_observed;
    }

    /// Records that a user approved a digest.
    pub fn approve(&mut self, family: &str, upstream: &str, digest: String) {
        self.approved.insert(Approved { family: family.into(), upstream: upstream.into(), digest });
    }

    /// Returns whether `repository@digest` has passed the required checks of the image.
    pub fn is_checked(&self, image: &Image, pinned: &str) -> bool {
        self.checked(image, pinned).is_some()
    }

    /// Returns whether it has, and the controller certainly observes it.
    pub fn is_surely_checked(&self, image: &Image, pinned: &str) -> bool {
        self.checked(image, pinned) == Some(true)
    }

    /// Returns whether the controller certainly observes that the required checks passed; `None` if
    /// they have not.
    fn checked(&self, image: &Image, pinned: &str) -> Option<bool> {
        let mut required = image.checks.iter().filter(|check| check.required);
        required.try_fold(true, |is_observed, check| {
            let passed = PassedCheck {
                pinned: pinned.to_owned(),
                check: check.name.clone(),
                revision: check_revision(check),
            };
            Some(is_observed & *self.passed.get(&passed)?)
        })
    }
}

/// Returns the spec that the running reconcile of a family has read, and the time that the
/// controller's clock showed when it started.
fn reconcile_view(cluster: &Cluster, key: &Key) -> Option<(Arc<ImageFamilySpec>, Timestamp)> {
    let family = cluster.objects.get(Kind::Family, key)?;
    let reconcile = cluster.invariants.reconciles.get(key);
    let generation = reconcile.map_or(0, |reconcile| reconcile.generation);
    let spec = cluster.spec_at(uid(family), generation)?;
    Some((spec, reconcile.map_or(cluster.time.controller_time(), |reconcile| reconcile.at)))
}

/// Counts a request to a registry. Returns whether the limit of requests since the last reconcile
/// started is exceeded: that reconcile will never end.
pub fn count_registry_request(cluster: &mut Cluster) -> bool {
    cluster.invariants.registry_requests += 1;
    let exceeds_limit = cluster.invariants.registry_requests > MAX_REGISTRY_REQUESTS;
    if exceeds_limit {
        cluster.violated(
            "reconciles end",
            format!("{MAX_REGISTRY_REQUESTS} requests to registries since one started"),
        );
    }
    exceeds_limit
}

/// Records that a reconcile of a family starts and reads this generation.
pub fn reconcile_starts(cluster: &mut Cluster, key: &Key, generation: i64) {
    let (at, started_at) = (cluster.time.controller_time(), cluster.elapsed());
    let records = reconcile_records(cluster, key, generation);
    let invariants = &mut cluster.invariants;
    invariants.registry_requests = 0;
    if invariants.reconciles_before.0 != started_at.as_secs() {
        invariants.reconciles_before = (started_at.as_secs(), invariants.reconciles_started);
    }
    invariants.reconciles_started += 1;
    let is_spinning =
        invariants.reconciles_started - invariants.reconciles_before.1 > MAX_RECONCILES_PER_SECOND;
    let last_completed = invariants.reconciles.get(key).and_then(|last| last.last_completed);
    invariants.reconciles.insert(
        key.clone(),
        ReconcileStart { generation, at, started_at, last_completed, records },
    );
    if is_spinning {
        let message = format!("more than {MAX_RECONCILES_PER_SECOND} start in a second");
        cluster.violated("reconciles do not trigger themselves", message);
    }
}

/// Records that a reconcile reads its family from the API server, as it does after a write that was
/// refused or got no answer: it decides over what it has read.
pub fn family_is_read(cluster: &mut Cluster, key: &Key) {
    // It must be known at its generation.
    if cluster.spec(key).is_none() {
        return;
    }
    let Some(family) = cluster.objects.get(Kind::Family, key) else { return };
    let generation = family["metadata"]["generation"].as_i64().unwrap_or_default();
    if let Some(reconcile) = cluster.invariants.reconciles.get_mut(key) {
        reconcile.generation = generation;
    }
}

/// Returns the records of a family, if the order of its builds is checked.
fn reconcile_records(cluster: &Cluster, key: &Key, generation: i64) -> order::Records {
    let family = cluster.objects.get(Kind::Family, key);
    let spec = family.and_then(|family| cluster.spec_at(uid(family), generation));
    match spec.filter(|_| calm::is_calm_for(cluster, SETTLED_AFTER)) {
        Some(spec) => order::records(cluster, key, &spec),
        None => order::Records::new(),
    }
}

/// Records that a reconcile of a family completes, which leaves these statuses unwritten.
pub fn reconcile_ends(
    cluster: &mut Cluster,
    key: &Key,
    unwritten: &BTreeMap<String, ManagedImageStatus>,
) {
    let Some(last) = cluster.invariants.reconciles.get_mut(key) else { return };
    last.last_completed = Some(last.started_at);
    let (started_at, records) = (last.started_at, std::mem::take(&mut last.records));
    let found = order::reconcile_ended(cluster, key, started_at, &records, unwritten);
    if let Some((invariant, message)) = found {
        cluster.violated(invariant, message);
    }
}

/// Records the current text of every source, and the digests of upstreams that families use.
pub fn record_truth(cluster: &mut Cluster) {
    let now = cluster.elapsed();
    let mut truths: Vec<(String, String)> = Vec::new();
    let families: Vec<Key> =
        cluster.objects.all(Kind::Family).map(|(key, _)| key.clone()).collect();
    for key in families {
        let Some(spec) = cluster.spec(&key) else { continue };
        if spec.policy.cutoff != Cutoff::Never {
            cluster.invariants.history.record_sparing(&key.name);
        }
        let family = cluster.objects.get(Kind::Family, &key);
        for upstream in &spec.upstreams {
            let pinned = upstream
                .hold_at(cluster.time.controller_time())
                .and_then(|hold| hold.digest.clone());
            let rows = family
                .and_then(|family| family["status"]["upstreams"].as_array())
                .into_iter()
                .flatten();
            let mut rows = rows.filter(|row| row["name"] == upstream.name.as_str());
            let adopted = rows.find_map(|row| built_digest(&row["adopted"]).map(str::to_owned));
            let current = cluster.registry.followed(&upstream.image, FOLLOWED);
            let digest = pinned.or(adopted).or(current);
            let leaf =
                |image: &Image| tags::upstream_of(&repository(&spec, image), &upstream.image);
            truths.extend(
                digest.zip(spec.images.first()).map(|(digest, image)| (leaf(image), digest)),
            );
        }
        for image in &spec.images {
            let text = text_of(cluster, &image.source);
            truths
                .extend(text.map(|text| (format!("source of {}", repository(&spec, image)), text)));
            let parents: Option<Vec<String>> = image
                .from
                .iter()
                .map(|edge| parent_repository(cluster, &key, &spec, edge))
                .collect();
            truths.extend(parents.map(|parents| {
                (format!("parents of {}", repository(&spec, image)), parents.join(" "))
            }));
        }
    }
    cluster.invariants.history.record_truths(truths, now);
}

/// Returns the repository of the parent that an edge names, if it exists.
fn parent_repository(
    cluster: &mut Cluster,
    family: &Key,
    spec: &ImageFamilySpec,
    edge: &Edge,
) -> Option<String> {
    if let Some(name) = &edge.upstream {
        return spec
            .upstreams
            .iter()
            .find(|upstream| upstream.name == *name)
            .map(|upstream| upstream.image.clone());
    }
    let of = |spec: &ImageFamilySpec| {
        spec.images
            .iter()
            .find(|image| Some(&image.name) == edge.image.as_ref())
            .map(|image| repository(spec, image))
    };
    match &edge.family {
        None => of(spec),
        Some(other) => of(&*cluster.spec(&Key::new(&family.namespace, &other.name))?),
    }
}

/// Shortens a digest or a text for a message.
pub fn short(value: &str) -> &str {
    let value = value.strip_prefix("sha256:").unwrap_or(value);
    value.get(..12).unwrap_or(value)
}

/// Checks that the controller's caches do not grow with time, when the system has converged.
pub fn check_cache_bounds(cluster: &mut Cluster, context: &Context) {
    let named = |family: &Value| {
        let images = family["spec"]["images"].as_array().into_iter().flatten();
        images.filter_map(|image| image["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let families = cluster.objects.all(Kind::Family);
    let families: Vec<(Key, String, Vec<String>)> = families
        .map(|(key, family)| (key.clone(), uid(family).to_owned(), named(family)))
        .collect();
    for (key, uid, images) in families {
        let cache = context.reconcile_caches.of(&uid);
        let Ok(cache) = cache.try_lock() else { continue };
        let lookups =
            images.iter().map(|image| cache.lookups.of(image).len()).max().unwrap_or_default();
        let lengths = [
            ("lookups", lookups, MAX_LOOKUPS_PER_IMAGE),
            ("tags", cache.tags.len(), images.len()),
            ("configMaps", cache.config_maps.len(), images.len()),
            // All checks run in one image.
            ("checkImages", cache.check_images.len(), 1),
        ];
        for (name, length, limit) in lengths {
            if length > limit {
                let message =
                    format!("{}: {length} {name} are cached, and at most {limit} may be", key.name);
                cluster.violated("caches are bounded", message);
            }
        }
    }
}
