//! The quota: one reconcile after the other, and many interleaved.

use std::collections::{BTreeMap, VecDeque};

use futures::FutureExt;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition, JobStatus},
    core::v1::{Pod, PodStatus},
};
use kube::{Resource, api::ObjectMeta, runtime::watcher::Event};
use proptest::prelude::*;

use super::*;
use crate::api::ImageFamilySpec;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// A family as the engine would decide for it: its ready builds in their order, and its running
/// ones.
#[derive(Clone, Debug)]
struct FakeFamily {
    key: Key,
    weight: i32,
    parallelism: usize,
    ready: Vec<BuildUpstreams>,
    running: Vec<String>,
    created: usize,
}

impl FakeFamily {
    fn new(namespace: &str, name: &str, ready: &[&str]) -> Self {
        let ready =
            ready.iter().map(|upstreams| upstreams.split_whitespace().map(str::to_owned).collect());
        Self {
            key: Key::new(namespace, name),
            weight: 10,
            parallelism: 100,
            ready: ready.collect(),
            running: Vec::new(),
            created: 0,
        }
    }

    /// Returns the indices of the builds that it would start.
    fn decide(&self, allowance: &BuildAllowance) -> Vec<usize> {
        let mut free = allowance.clone();
        let mut start = Vec::new();
        for (index, build) in self.ready.iter().enumerate() {
            let full = start.len() + self.running.len() >= self.parallelism
                || free.family == Some(0)
                || build.iter().any(|upstream| free.upstreams.get(upstream) == Some(&0));
            if full {
                continue;
            }
            free.family = free.family.map(|free| free - 1);
            for upstream in build {
                free.upstreams.entry(upstream.clone()).and_modify(|free| *free -= 1);
            }
            start.push(index);
        }
        start
    }

    fn request(&self, start: &[usize]) -> QuotaRequest {
        QuotaRequest {
            weight: self.weight,
            builds: start.iter().map(|index| self.ready[*index].clone()).collect(),
        }
    }
}

/// The stores of a cluster, and the quota.
struct QuotaFixture {
    stores: Stores,
    quota: BuildQuota,
    version: u64,
}

impl QuotaFixture {
    fn new(limits: BuildLimits, families: &[&FakeFamily]) -> Self {
        let mut fixture =
            Self { stores: Stores::default(), quota: BuildQuota::new(limits), version: 0 };
        for family in families {
            let metadata = fixture.metadata(&family.key.namespace, &family.key.name);
            let family = ImageFamily { metadata, spec: ImageFamilySpec::default(), status: None };
            fixture.stores.families.record_write(family);
        }
        fixture
    }

    fn metadata(&mut self, namespace: &str, name: &str) -> ObjectMeta {
        self.version += 1;
        ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(format!("{namespace}/{name}")),
            resource_version: Some(self.version.to_string()),
            ..ObjectMeta::default()
        }
    }

    fn job(&mut self, family: &Key, name: &str, upstreams: &BuildUpstreams) -> Job {
        let metadata = self.metadata(&family.namespace, name);
        let labels = [(labels::FAMILY, family.name.as_str()), (labels::FINGERPRINT, "f")];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
        Job {
            metadata: ObjectMeta {
                labels: Some(BTreeMap::from(labels)),
                annotations: Some(BTreeMap::from([(
                    labels::UPSTREAMS.to_owned(),
                    upstreams.join(","),
                )])),
                ..metadata
            },
            ..Job::default()
        }
    }

    fn create(&mut self, family: &mut FakeFamily, index: usize) {
        let build = family.ready.remove(index);
        family.created += 1;
        let name = format!("{}-{}", family.key.name, family.created);
        let job = self.job(&family.key, &name, &build);
        self.stores.jobs.record_write(job);
        family.running.push(name);
    }

    /// Completes the family's first Job.
    fn end(&mut self, family: &mut FakeFamily) {
        let name = family.running.remove(0);
        let known = self.stores.jobs.get(&Key::new(&family.key.namespace, &name)).expect("a job");
        self.version += 1;
        let mut job = Job::clone(&known);
        job.metadata.resource_version = Some(self.version.to_string());
        let complete = JobCondition {
            type_: "Complete".into(),
            status: "True".into(),
            ..JobCondition::default()
        };
        job.status = Some(JobStatus { conditions: Some(vec![complete]), ..JobStatus::default() });
        self.stores.jobs.record_write(job);
    }

    /// Reconciles a family. Returns how many builds it started.
    fn reconcile(&mut self, family: &mut FakeFamily, now: i64) -> usize {
        let start = self.reserve(family, now);
        for index in start.iter().rev() {
            self.create(family, *index);
        }
        self.reopened(&family.key, now).commit(&self.stores);
        start.len()
    }

    /// Reserves places for a family, and returns the builds that it may start. The reservation is
    /// forgotten, because the fixture is changed before it ends: see [`Self::reopened`].
    fn reserve(&self, family: &FakeFamily, now: i64) -> StartedBuilds {
        let mut start = family.decide(&BuildAllowance::default());
        let mut reservation = self.quota.open_reservation(&family.key, &self.stores, second(now));
        reservation.reserve_builds(family.request(&start), |allowance| {
            start = family.decide(&allowance);
            family.request(&start)
        });
        std::mem::forget(reservation);
        start
    }

    /// Returns the reservation that was forgotten while the fixture was changed.
    fn reopened(&self, family: &Key, now: i64) -> Reservation<'_> {
        let is_limited = self.quota.limits != BuildLimits::default();
        Reservation {
            quota: is_limited.then_some(&self.quota),
            family: family.clone(),
            now: second(now),
            committed: false,
        }
    }

    fn admitted(&self) -> Vec<Key> {
        std::iter::from_fn(|| self.quota.next_admitted().now_or_never()).collect()
    }
}

const fn cluster(limit: usize) -> BuildLimits {
    BuildLimits { cluster: Some(limit), namespace: None, upstream: None }
}

#[test]
fn without_limits_the_decision_is_made_once() {
    let family = FakeFamily::new("one", "a", &[""; 50]);
    let fixture = QuotaFixture::new(BuildLimits::default(), &[&family]);
    let mut reservation = fixture.quota.open_reservation(&family.key, &fixture.stores, second(0));
    reservation.reserve_builds(family.request(&family.decide(&BuildAllowance::default())), |_| {
        panic!("asked again")
    });
    reservation.commit(&fixture.stores);
    assert!(fixture.quota.lock().by_family.is_empty());
}

#[test]
fn concurrent_reconciles_stay_within_the_limit_together() {
    let (a, b) = (FakeFamily::new("one", "a", &[""; 3]), FakeFamily::new("two", "b", &[""; 3]));
    let fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    let mut of_a = fixture.quota.open_reservation(&a.key, &fixture.stores, second(0));
    let mut of_b = fixture.quota.open_reservation(&b.key, &fixture.stores, second(0));
    of_a.reserve_builds(a.request(&a.decide(&BuildAllowance::default())), |_| {
        panic!("there are places")
    });
    let mut asked = Vec::new();
    of_b.reserve_builds(b.request(&b.decide(&BuildAllowance::default())), |allowance| {
        let start = b.decide(&allowance);
        asked.push(allowance);
        b.request(&start)
    });
    assert_eq!(asked, [BuildAllowance { family: Some(1), ..BuildAllowance::default() }]);
}

#[test]
fn builds_that_are_queued_only_by_the_limits_are_counted() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 2]));
    b.parallelism = 1;
    let mut fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    assert_eq!((fixture.reconcile(&mut a, 0), fixture.quota.queued_builds()), (4, 5));
    assert_eq!(
        (fixture.reconcile(&mut b, 1), fixture.quota.queued_builds()),
        (0, 6),
        "parallelism limits one of them"
    );
    drop(fixture.quota.open_reservation(&a.key, &fixture.stores, second(2)));
    assert_eq!(fixture.quota.queued_builds(), 1, "a failed reconcile asks again");
    fixture.quota.forget(&b.key, &fixture.stores, second(3));
    assert_eq!(fixture.quota.queued_builds(), 0);
}

#[test]
fn a_queued_family_is_admitted_when_a_build_ends_before_one_that_runs_more() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    assert_eq!((fixture.reconcile(&mut a, 0), fixture.reconcile(&mut b, 1)), (4, 0));
    assert!(fixture.admitted().is_empty(), "nothing is free");
    fixture.end(&mut a);
    assert_eq!(fixture.reconcile(&mut a, 2), 0, "it is the other's turn");
    assert_eq!(fixture.admitted(), std::slice::from_ref(&b.key));
    assert!(fixture.admitted().is_empty(), "once");
    assert_eq!(fixture.reconcile(&mut b, 3), 1);
    fixture.end(&mut a);
    assert_eq!((fixture.reconcile(&mut a, 4), fixture.reconcile(&mut b, 5)), (0, 1));
    fixture.end(&mut a);
    fixture.end(&mut b);
    assert_eq!(fixture.admitted(), [], "nobody was reconciled yet");
    // An ended build is counted once its family was reconciled. Now 1 and 2 builds run.
    assert_eq!((fixture.reconcile(&mut b, 6), fixture.admitted()), (1, vec![]));
    assert_eq!((fixture.reconcile(&mut a, 7), a.running.len(), b.running.len()), (1, 2, 2));
}

#[test]
fn a_failed_reconcile_keeps_its_reservation_for_a_while_and_queues_nothing() {
    let (a, mut b) = (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    let mut reservation = fixture.quota.open_reservation(&a.key, &fixture.stores, second(0));
    reservation.reserve_builds(
        QuotaRequest { weight: 10, builds: vec![BuildUpstreams::new(); 3] },
        |_| panic!("there are places"),
    );
    drop(reservation);
    assert_eq!(fixture.reconcile(&mut b, 1), 1);
    assert!(fixture.admitted().is_empty(), "the failed one is retried by itself");
    assert_eq!(fixture.reconcile(&mut b, 61), 3);
    // A clock that is set back does not prolong the reservation.
    let (a, mut b) = (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    let mut reservation = fixture.quota.open_reservation(&a.key, &fixture.stores, second(100_000));
    reservation.reserve_builds(
        QuotaRequest { weight: 10, builds: vec![BuildUpstreams::new(); 3] },
        |_| panic!("there are places"),
    );
    drop(reservation);
    assert_eq!(fixture.reconcile(&mut b, 1), 4);
}

#[test]
fn an_admitted_family_that_needs_nothing_any_more_lets_the_next_one_start() {
    let mut families = ["a", "b", "c"].map(|name| FakeFamily::new("one", name, &[""; 2]));
    let mut fixture = QuotaFixture::new(cluster(2), &families.each_ref());
    let [a, b, c] = &mut families;
    assert_eq!(
        [fixture.reconcile(a, 0), fixture.reconcile(b, 1), fixture.reconcile(c, 2)],
        [2, 0, 0]
    );
    fixture.end(a);
    fixture.reconcile(a, 3);
    assert_eq!(fixture.admitted(), std::slice::from_ref(&b.key));
    b.ready.clear();
    assert_eq!((fixture.reconcile(b, 4), fixture.admitted()), (0, vec![c.key.clone()]));
    assert_eq!(fixture.reconcile(c, 5), 1);
    // So does one that is deleted.
    fixture.end(a);
    fixture.reconcile(a, 6);
    assert_eq!(fixture.admitted(), std::slice::from_ref(&c.key));
    fixture.end(c);
    fixture.quota.forget(&c.key, &fixture.stores, second(7));
    assert_eq!(fixture.quota.lock().by_family.len(), 2);
}

#[test]
fn running_builds_of_a_deleted_family_keep_their_places() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 2]), FakeFamily::new("one", "b", &[""; 2]));
    let mut fixture = QuotaFixture::new(cluster(2), &[&a, &b]);
    assert_eq!((fixture.reconcile(&mut a, 0), fixture.reconcile(&mut b, 1)), (2, 0));
    let known = fixture.stores.families.get(&a.key).expect("a family");
    fixture.stores.families.observe("", Event::Delete(ImageFamily::clone(&known)));
    fixture.quota.forget(&a.key, &fixture.stores, second(2));
    assert_eq!((fixture.admitted(), fixture.reconcile(&mut b, 3)), (vec![], 0));
    // A process that starts now counts them, too.
    fixture.quota = BuildQuota::new(cluster(2));
    assert_eq!(fixture.reconcile(&mut b, 4), 0);
    for now in 5..7 {
        fixture.end(&mut a);
        fixture.quota.forget(&a.key, &fixture.stores, second(now));
        assert_eq!(fixture.admitted(), std::slice::from_ref(&b.key));
        assert_eq!(fixture.reconcile(&mut b, now), 1);
    }
    assert_eq!(fixture.quota.lock().by_family.len(), 1);
}

#[test]
fn a_namespace_and_an_upstream_have_limits_of_their_own() {
    let limits = BuildLimits { cluster: None, namespace: Some(3), upstream: Some(2) };
    let mut a = FakeFamily {
        parallelism: 3,
        ..FakeFamily::new("one", "a", &["debian", "debian", "debian", "alpine", ""])
    };
    let mut b = FakeFamily::new("two", "b", &["debian", "debian alpine", "", "", ""]);
    let mut fixture = QuotaFixture::new(limits, &[&a, &b]);
    // The third build from debian lets the one from alpine start, which was not among the first
    // three.
    assert_eq!(fixture.reconcile(&mut a, 0), 3);
    assert_eq!(a.ready, [vec!["debian".to_owned()], vec![]]);
    assert_eq!(fixture.reconcile(&mut b, 1), 3);
    assert_eq!(b.ready.len(), 2);
    fixture.end(&mut a);
    fixture.end(&mut a);
    fixture.end(&mut a);
    assert_eq!(fixture.reconcile(&mut a, 2), 2, "the namespace of the other is full");
}

#[test]
fn a_new_process_counts_running_builds_of_families_that_it_has_not_reconciled() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    fixture.reconcile(&mut a, 0);
    fixture.quota = BuildQuota::new(cluster(4));
    assert_eq!(fixture.reconcile(&mut b, 1), 0);
}

#[test]
fn a_check_takes_a_place_and_a_build_whose_pod_has_ended_takes_none() {
    let mut a = FakeFamily::new("one", "a", &["debian alpine debian"; 9]);
    let mut fixture = QuotaFixture::new(cluster(4), &[&a]);
    let mut other = fixture.job(&a.key, "other", &BuildUpstreams::new());
    other.metadata.labels.as_mut().expect("labels").remove(labels::FINGERPRINT);
    fixture.stores.jobs.record_write(other);
    assert!(running_builds(&fixture.stores, &a.key).is_empty());
    let mut check = fixture.job(&a.key, "check", &BuildUpstreams::new());
    let labels = check.metadata.labels.as_mut().expect("labels");
    labels.remove(labels::FINGERPRINT);
    labels.insert(labels::CHECK.into(), "smoke".into());
    fixture.stores.jobs.record_write(check);
    fixture.reconcile(&mut a, 0);
    let upstreams = vec!["alpine".to_owned(), "debian".to_owned()];
    let mut running = running_builds(&fixture.stores, &a.key);
    running.sort();
    let counted = [vec![vec![]], vec![upstreams; 3]].concat();
    assert_eq!(running, counted, "the check leaves three places, and counts for no upstream");
    for (phase, live) in [("Running", 4), ("Failed", 3)] {
        let mut metadata = fixture.metadata("one", "pod");
        metadata.labels = Some([(labels::FAMILY.into(), "a".into())].into());
        let job = fixture.stores.jobs.get(&Key::new("one", "a-1")).expect("a build");
        metadata.owner_references = Some(vec![job.controller_owner_ref(&()).expect("a uid")]);
        let status = PodStatus { phase: Some(phase.into()), ..PodStatus::default() };
        fixture.stores.pods.record_write(Pod { metadata, status: Some(status), ..Pod::default() });
        assert_eq!(running_builds(&fixture.stores, &a.key).len(), live, "{phase}");
    }
}

#[test]
fn a_deleted_family_starts_nothing_and_leaves_no_trace() {
    let a = FakeFamily::new("one", "a", &[""; 9]);
    let fixture = QuotaFixture::new(cluster(4), &[&a]);
    let known = fixture.stores.families.get(&a.key).expect("a family");
    fixture.stores.families.observe("", Event::Delete(ImageFamily::clone(&known)));
    let mut reservation = fixture.quota.open_reservation(&a.key, &fixture.stores, second(0));
    let mut start = a.decide(&BuildAllowance::default());
    reservation.reserve_builds(a.request(&start), |allowance| {
        start = a.decide(&allowance);
        a.request(&start)
    });
    assert!(start.is_empty());
    reservation.commit(&fixture.stores);
    assert!(fixture.quota.lock().by_family.is_empty());
}

/// The builds that a reconcile in progress will start, as indices.
type StartedBuilds = Vec<usize>;

fn any_family() -> impl Strategy<Value = FakeFamily> {
    let build = prop::sample::select(vec!["", "debian", "alpine", "debian alpine"]);
    let namespace = prop::sample::select(vec!["one", "two"]);
    (namespace, prop::collection::vec(build, 0..12), 1..6_usize, 1..=100_i32).prop_map(
        |(namespace, ready, parallelism, weight)| FakeFamily {
            weight,
            parallelism,
            ..FakeFamily::new(namespace, "", &ready)
        },
    )
}

fn any_limits() -> impl Strategy<Value = BuildLimits> {
    let limit = || prop::option::of(1..6_usize);
    (limit(), limit(), limit()).prop_map(|(cluster, namespace, upstream)| BuildLimits {
        cluster,
        namespace,
        upstream,
    })
}

/// A reservation ended a minute after it was made, although its reconcile was still starting Jobs.
#[test]
fn a_reconcile_that_takes_long_keeps_its_places() {
    let [slow, other] = ["slow", "other"].map(|name| FakeFamily::new("one", name, &["debian"]));
    let limits = BuildLimits { cluster: Some(1), namespace: None, upstream: None };
    let fixture = QuotaFixture::new(limits, &[&slow, &other]);
    assert_eq!(fixture.reserve(&slow, 1), [0]);
    assert!(fixture.reserve(&other, 100).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Reconciles are interleaved at random. Some fail after their builds were or were not created.
    /// The limits hold at every moment, and in the end everything is built: no family that could
    /// continue is forgotten.
    #[test]
    fn limits_hold_at_every_moment_and_everything_is_built(
        mut families in prop::collection::vec(any_family(), 1..8),
        limits in any_limits(),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        for (index, family) in families.iter_mut().enumerate() {
            family.key.name = format!("family-{index}");
        }
        let mut fixture = QuotaFixture::new(limits, &families.iter().collect::<Vec<_>>());
        let mut queue: VecDeque<usize> = (0..families.len()).collect();
        let mut reconciles: Vec<Option<StartedBuilds>> = vec![None; families.len()];
        let mut failures = 12;
        let mut choices = choices.into_iter().cycle();
        let mut choose = |among: usize| choices.next().expect("endless").index(among);
        let total: usize = families.iter().map(|family| family.ready.len()).sum();
        let mut now = 0;
        for _ in 0..total * 60 + 400 {
            now += 1;
            for key in fixture.admitted() {
                queue.extend(families.iter().position(|family| family.key == key));
            }
            match choose(3) {
                // A reconcile begins, and reserves places.
                0 => {
                    let idle = queue.iter().position(|index| reconciles[*index].is_none());
                    let Some(at) = idle else { continue };
                    let index = queue.remove(at).expect("a queued family");
                    reconciles[index] = Some(fixture.reserve(&families[index], now));
                }
                // A reconcile creates its Jobs and ends, or fails in between.
                1 => {
                    let in_progress = indices_of(&reconciles, Option::is_some);
                    if in_progress.is_empty() {
                        continue;
                    }
                    let index = in_progress[choose(in_progress.len())];
                    let start = reconciles[index].take().expect("a reconcile in progress");
                    let family = &mut families[index];
                    let fails = failures > 0 && choose(4) == 0;
                    let created = if fails { choose(start.len() + 1) } else { start.len() };
                    for index in start[..created].iter().rev() {
                        fixture.create(family, *index);
                    }
                    let reservation = fixture.reopened(&family.key, now);
                    if fails {
                        failures -= 1;
                        drop(reservation);
                        queue.push_back(index);
                    } else {
                        reservation.commit(&fixture.stores);
                    }
                }
                // A build ends, and its family is to be reconciled.
                _ => {
                    let running = indices_of(&families, |family| !family.running.is_empty());
                    if running.is_empty() {
                        continue;
                    }
                    let index = running[choose(running.len())];
                    fixture.end(&mut families[index]);
                    queue.push_back(index);
                }
            }
            let running: Vec<BuildUpstreams> = families
                .iter()
                .flat_map(|family| running_builds(&fixture.stores, &family.key))
                .collect();
            prop_assert!(limits.cluster.is_none_or(|limit| running.len() <= limit));
            for upstream in ["debian", "alpine"] {
                let is_from = |build: &&BuildUpstreams| build.iter().any(|name| name == upstream);
                let count = running.iter().filter(is_from).count();
                prop_assert!(limits.upstream.is_none_or(|limit| count <= limit));
            }
            for namespace in ["one", "two"] {
                let here = families.iter().filter(|family| family.key.namespace == namespace);
                let count: usize = here.map(|family| family.running.len()).sum();
                prop_assert!(limits.namespace.is_none_or(|limit| count <= limit));
            }
        }
        let left: usize = families.iter().map(|family| family.ready.len()).sum();
        prop_assert_eq!(left, 0, "forgotten: {:?}, {:?}", families, fixture.quota);
    }
}

fn indices_of<T>(entries: &[T], matches: impl Fn(&T) -> bool) -> Vec<usize> {
    (0..entries.len()).filter(|index| matches(&entries[*index])).collect()
}
