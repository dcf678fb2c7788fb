//! The ledger: one pass after the other, and many interleaved.

use std::collections::{BTreeMap, VecDeque};

use futures::FutureExt;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition, JobStatus},
    core::v1::{Pod, PodStatus},
};
use kube::{api::ObjectMeta, runtime::watcher::Event};
use proptest::prelude::*;

use super::*;
use crate::api::ImageFamilySpec;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// A family as the engine would decide for it: builds that are ready in their order, and those that
/// run.
#[derive(Clone, Debug)]
struct FakeFamily {
    key: Key,
    weight: i32,
    parallelism: usize,
    ready: Vec<Build>,
    running: Vec<String>,
    made: usize,
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
            made: 0,
        }
    }

    /// The places of the builds that it would start.
    fn decide(&self, budget: &Budget) -> Vec<usize> {
        let mut free = budget.clone();
        let mut start = Vec::new();
        for (place, build) in self.ready.iter().enumerate() {
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
            start.push(place);
        }
        start
    }

    fn request(&self, start: &[usize]) -> QuotaRequest {
        QuotaRequest {
            weight: self.weight,
            builds: start.iter().map(|place| self.ready[*place].clone()).collect(),
        }
    }
}

/// The caches of a cluster.
struct QuotaFixture {
    stores: Stores,
    quota: BuildQuota,
    version: u64,
}

impl QuotaFixture {
    fn new(limits: BuildLimits, families: &[&FakeFamily]) -> Self {
        let mut world =
            Self { stores: Stores::default(), quota: BuildQuota::new(limits), version: 0 };
        for family in families {
            let metadata = world.metadata(&family.key.namespace, &family.key.name);
            let family = ImageFamily { metadata, spec: ImageFamilySpec::default(), status: None };
            world.stores.families.wrote(family);
        }
        world
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

    fn job(&mut self, family: &Key, name: &str, upstreams: &Build) -> Job {
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

    fn create(&mut self, family: &mut FakeFamily, place: usize) {
        let build = family.ready.remove(place);
        family.made += 1;
        let name = format!("{}-{}", family.key.name, family.made);
        let job = self.job(&family.key, &name, &build);
        self.stores.jobs.wrote(job);
        family.running.push(name);
    }

    /// The family's first job comes to its end.
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
        self.stores.jobs.wrote(job);
    }

    /// A whole pass: how many builds it started.
    fn pass(&mut self, family: &mut FakeFamily, now: i64) -> usize {
        let mut start = family.decide(&Budget::default());
        {
            let mut pass = self.quota.reserve(&family.key, &self.stores, second(now));
            pass.reserve(family.request(&start), |budget| {
                start = family.decide(&budget);
                family.request(&start)
            });
            let held = pass;
            // Its Jobs stand in the cache before it is settled.
            std::mem::forget(held);
        }
        for place in start.iter().rev() {
            self.create(family, *place);
        }
        let pass = Reservation {
            quota: Some(&self.quota),
            family: family.key.clone(),
            now: second(now),
            settled: false,
        };
        pass.commit(&self.stores);
        start.len()
    }

    fn woken(&self) -> Vec<Key> {
        std::iter::from_fn(|| self.quota.next_woken().now_or_never()).collect()
    }
}

const fn cluster(limit: usize) -> BuildLimits {
    BuildLimits { cluster: Some(limit), namespace: None, upstream: None }
}

#[test]
fn without_limits_nobody_is_asked_twice() {
    let family = FakeFamily::new("one", "a", &[""; 50]);
    let world = QuotaFixture::new(BuildLimits::default(), &[&family]);
    let mut pass = world.quota.reserve(&family.key, &world.stores, second(0));
    pass.reserve(family.request(&family.decide(&Budget::default())), |_| panic!("asked again"));
    pass.commit(&world.stores);
    assert!(world.quota.lock().rows.is_empty());
}

#[test]
fn passes_that_run_side_by_side_stay_within_the_limit_together() {
    let (a, b) = (FakeFamily::new("one", "a", &[""; 3]), FakeFamily::new("two", "b", &[""; 3]));
    let world = QuotaFixture::new(cluster(4), &[&a, &b]);
    let mut of_a = world.quota.reserve(&a.key, &world.stores, second(0));
    let mut of_b = world.quota.reserve(&b.key, &world.stores, second(0));
    of_a.reserve(a.request(&a.decide(&Budget::default())), |_| panic!("there is room"));
    let mut asked = Vec::new();
    of_b.reserve(b.request(&b.decide(&Budget::default())), |budget| {
        let start = b.decide(&budget);
        asked.push(budget);
        b.request(&start)
    });
    assert_eq!(asked, [Budget { family: Some(1), ..Budget::default() }]);
}

#[test]
fn what_only_the_limits_keep_back_is_counted() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 2]));
    b.parallelism = 1;
    let mut world = QuotaFixture::new(cluster(4), &[&a, &b]);
    assert_eq!((world.pass(&mut a, 0), world.quota.waiting()), (4, 5));
    assert_eq!(
        (world.pass(&mut b, 1), world.quota.waiting()),
        (0, 6),
        "parallelism keeps one of them"
    );
    drop(world.quota.reserve(&a.key, &world.stores, second(2)));
    assert_eq!(world.quota.waiting(), 1, "a pass that fails asks again");
    world.quota.forget(&b.key, second(3));
    assert_eq!(world.quota.waiting(), 0);
}

#[test]
fn whoever_waits_is_woken_when_a_build_ends_and_goes_before_who_runs_more() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut world = QuotaFixture::new(cluster(4), &[&a, &b]);
    assert_eq!((world.pass(&mut a, 0), world.pass(&mut b, 1)), (4, 0));
    assert!(world.woken().is_empty(), "nothing is free");
    world.end(&mut a);
    assert_eq!(world.pass(&mut a, 2), 0, "it is the other's turn");
    assert_eq!(world.woken(), std::slice::from_ref(&b.key));
    assert!(world.woken().is_empty(), "once");
    assert_eq!(world.pass(&mut b, 3), 1);
    world.end(&mut a);
    assert_eq!((world.pass(&mut a, 4), world.pass(&mut b, 5)), (0, 1));
    world.end(&mut a);
    world.end(&mut b);
    assert_eq!(world.woken(), [], "nobody has said so yet");
    // What has ended counts once its family has been looked at; now 1 and 2 run.
    assert_eq!((world.pass(&mut b, 6), world.woken()), (1, vec![]));
    assert_eq!((world.pass(&mut a, 7), a.running.len(), b.running.len()), (1, 2, 2));
}

#[test]
fn a_pass_that_fails_holds_what_it_may_have_started_for_a_while_and_asks_for_nothing() {
    let (a, mut b) = (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut world = QuotaFixture::new(cluster(4), &[&a, &b]);
    let mut pass = world.quota.reserve(&a.key, &world.stores, second(0));
    pass.reserve(QuotaRequest { weight: 10, builds: vec![Build::new(); 3] }, |_| {
        panic!("there is room")
    });
    drop(pass);
    assert_eq!(world.pass(&mut b, 1), 1);
    assert!(world.woken().is_empty(), "the one that failed comes by itself");
    assert_eq!(world.pass(&mut b, 61), 3);
    // A clock that is put back does not prolong it.
    let (a, mut b) = (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut world = QuotaFixture::new(cluster(4), &[&a, &b]);
    let mut pass = world.quota.reserve(&a.key, &world.stores, second(100_000));
    pass.reserve(QuotaRequest { weight: 10, builds: vec![Build::new(); 3] }, |_| {
        panic!("there is room")
    });
    drop(pass);
    assert_eq!(world.pass(&mut b, 1), 4);
}

#[test]
fn who_was_woken_and_needs_nothing_any_more_lets_the_next_one_go() {
    let mut families = ["a", "b", "c"].map(|name| FakeFamily::new("one", name, &[""; 2]));
    let mut world = QuotaFixture::new(cluster(2), &families.each_ref());
    let [a, b, c] = &mut families;
    assert_eq!([world.pass(a, 0), world.pass(b, 1), world.pass(c, 2)], [2, 0, 0]);
    world.end(a);
    world.pass(a, 3);
    assert_eq!(world.woken(), std::slice::from_ref(&b.key));
    b.ready.clear();
    assert_eq!((world.pass(b, 4), world.woken()), (0, vec![c.key.clone()]));
    assert_eq!(world.pass(c, 5), 1);
    // And so does one that goes.
    world.end(a);
    world.pass(a, 6);
    assert_eq!(world.woken(), std::slice::from_ref(&c.key));
    world.quota.forget(&c.key, second(7));
    assert_eq!(world.quota.lock().rows.len(), 2);
}

#[test]
fn a_namespace_and_an_upstream_have_limits_of_their_own() {
    let limits = BuildLimits { cluster: None, namespace: Some(3), upstream: Some(2) };
    let mut a = FakeFamily {
        parallelism: 3,
        ..FakeFamily::new("one", "a", &["debian", "debian", "debian", "alpine", ""])
    };
    let mut b = FakeFamily::new("two", "b", &["debian", "debian alpine", "", "", ""]);
    let mut world = QuotaFixture::new(limits, &[&a, &b]);
    // The third of debian lets alpine pass, though its place among the first three was not its own.
    assert_eq!(world.pass(&mut a, 0), 3);
    assert_eq!(a.ready, [vec!["debian".to_owned()], vec![]]);
    assert_eq!(world.pass(&mut b, 1), 3);
    assert_eq!(b.ready.len(), 2);
    world.end(&mut a);
    world.end(&mut a);
    world.end(&mut a);
    assert_eq!(world.pass(&mut a, 2), 2, "the other's namespace is full");
}

#[test]
fn a_new_process_counts_what_runs_of_families_that_it_has_not_looked_at() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("one", "b", &[""; 9]));
    let mut world = QuotaFixture::new(cluster(4), &[&a, &b]);
    world.pass(&mut a, 0);
    world.quota = BuildQuota::new(cluster(4));
    assert_eq!(world.pass(&mut b, 1), 0);
}

#[test]
fn checks_do_not_count_nor_do_builds_whose_pod_has_ended() {
    let mut a = FakeFamily::new("one", "a", &["debian alpine debian"; 9]);
    let mut world = QuotaFixture::new(cluster(4), &[&a]);
    let mut check = world.job(&a.key, "check", &Build::new());
    check.metadata.labels.as_mut().expect("labels").remove(labels::FINGERPRINT);
    world.stores.jobs.wrote(check);
    assert!(live_builds(&world.stores, &a.key).is_empty());
    world.pass(&mut a, 0);
    assert_eq!(
        live_builds(&world.stores, &a.key),
        vec![vec!["alpine".to_owned(), "debian".to_owned()]; 4]
    );
    for (phase, live) in [("Running", 4), ("Failed", 3)] {
        let mut metadata = world.metadata("one", "pod");
        let labels = [(labels::FAMILY, "a"), (JOB_NAME, "a-1")];
        metadata.labels =
            Some(labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect());
        let status = PodStatus { phase: Some(phase.into()), ..PodStatus::default() };
        world.stores.pods.wrote(Pod { metadata, status: Some(status), ..Pod::default() });
        assert_eq!(live_builds(&world.stores, &a.key).len(), live, "{phase}");
    }
}

#[test]
fn a_family_that_is_gone_starts_nothing_and_leaves_no_trace() {
    let a = FakeFamily::new("one", "a", &[""; 9]);
    let world = QuotaFixture::new(cluster(4), &[&a]);
    let known = world.stores.families.get(&a.key).expect("a family");
    world.stores.families.observe("", Event::Delete(ImageFamily::clone(&known)));
    let mut pass = world.quota.reserve(&a.key, &world.stores, second(0));
    let mut start = a.decide(&Budget::default());
    pass.reserve(a.request(&start), |budget| {
        start = a.decide(&budget);
        a.request(&start)
    });
    assert!(start.is_empty());
    pass.commit(&world.stores);
    assert!(world.quota.lock().rows.is_empty());
}

/// A pass on its way: what it will start.
type Started = Vec<usize>;

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Passes are interleaved at will; some fail after their builds were or were not made. At every
    /// moment the limits hold, and in the end everything is built: nobody who could go on is
    /// forgotten.
    #[test]
    fn limits_hold_at_every_moment_and_everything_is_built(
        mut families in prop::collection::vec(any_family(), 1..8),
        limits in any_limits(),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        for (index, family) in families.iter_mut().enumerate() {
            family.key.name = format!("family-{index}");
        }
        let mut world = QuotaFixture::new(limits, &families.iter().collect::<Vec<_>>());
        let mut queue: VecDeque<usize> = (0..families.len()).collect();
        let mut passes: Vec<Option<Started>> = vec![None; families.len()];
        let mut failures = 12;
        let mut choices = choices.into_iter().cycle();
        let mut choose = |among: usize| choices.next().expect("endless").index(among);
        let total: usize = families.iter().map(|family| family.ready.len()).sum();
        let mut now = 0;
        for _ in 0..total * 60 + 400 {
            now += 1;
            let woken = world.woken();
            queue.extend(woken.iter().filter_map(|key| families.iter().position(|family| family.key == *key)));
            match choose(3) {
                // A pass begins, and asks.
                0 => {
                    let Some(at) = queue.iter().position(|index| passes[*index].is_none()) else { continue };
                    let index = queue.remove(at).expect("there");
                    let family = &families[index];
                    let mut start = family.decide(&Budget::default());
                    let mut pass = world.quota.reserve(&family.key, &world.stores, second(now));
                    pass.reserve(family.request(&start), |budget| {
                        start = family.decide(&budget);
                        family.request(&start)
                    });
                    std::mem::forget(pass);
                    passes[index] = Some(start);
                }
                // A pass makes its Jobs, and ends; or fails in between.
                1 => {
                    let under_way: Vec<usize> = (0..passes.len()).filter(|index| passes[*index].is_some()).collect();
                    if under_way.is_empty() {
                        continue;
                    }
                    let index = under_way[choose(under_way.len())];
                    let start = passes[index].take().expect("under way");
                    let family = &mut families[index];
                    let fails = failures > 0 && choose(4) == 0;
                    let made = if fails { choose(start.len() + 1) } else { start.len() };
                    for place in start[..made].iter().rev() {
                        world.create(family, *place);
                    }
                    let key = family.key.clone();
                    let pass = Reservation { quota: (limits != BuildLimits::default()).then_some(&world.quota), family: key, now: second(now), settled: false };
                    if fails {
                        failures -= 1;
                        drop(pass);
                        queue.push_back(index);
                    } else {
                        pass.commit(&world.stores);
                    }
                }
                // A build ends, and its family is looked at.
                _ => {
                    let running: Vec<usize> = (0..families.len()).filter(|index| !families[*index].running.is_empty()).collect();
                    if running.is_empty() {
                        continue;
                    }
                    let index = running[choose(running.len())];
                    world.end(&mut families[index]);
                    queue.push_back(index);
                }
            }
            let live: Vec<Build> = families.iter().flat_map(|family| live_builds(&world.stores, &family.key)).collect();
            prop_assert!(limits.cluster.is_none_or(|limit| live.len() <= limit));
            for upstream in ["debian", "alpine"] {
                let of_upstream = live.iter().filter(|build| build.iter().any(|name| name == upstream)).count();
                prop_assert!(limits.upstream.is_none_or(|limit| of_upstream <= limit));
            }
            for namespace in ["one", "two"] {
                let here = families.iter().filter(|family| family.key.namespace == namespace);
                prop_assert!(limits.namespace.is_none_or(|limit| here.map(|family| family.running.len()).sum::<usize>() <= limit));
            }
        }
        let left: usize = families.iter().map(|family| family.ready.len()).sum();
        prop_assert_eq!(left, 0, "forgotten: {:?}, {:?}", families, world.quota);
    }
}
