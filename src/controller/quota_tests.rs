//! The quota: one reconcile after the other, and many interleaved.

use std::collections::VecDeque;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{Resource, runtime::watcher::Event};
use proptest::prelude::*;

use super::{
    fixture::{FakeFamily, QuotaFixture, StartedBuilds, indices_of, second},
    *,
};

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
    _ = reservation.commit(&fixture.stores);
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
fn a_family_whose_namespace_is_not_watched_any_more_keeps_no_place() {
    let (mut a, mut b) =
        (FakeFamily::new("one", "a", &[""; 9]), FakeFamily::new("two", "b", &[""; 9]));
    let mut fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    assert_eq!((fixture.reconcile(&mut a, 0), fixture.reconcile(&mut b, 1)), (4, 0));
    fixture.quota.abandon(&a.key, second(2));
    assert_eq!(fixture.admitted(), std::slice::from_ref(&b.key));
    assert_eq!(fixture.reconcile(&mut b, 3), 4);
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
fn a_family_that_does_not_start_what_it_may_is_not_triggered_at_once_by_itself() {
    let (a, mut b) = (FakeFamily::new("one", "a", &[""; 2]), FakeFamily::new("one", "b", &[""; 1]));
    let mut fixture = QuotaFixture::new(cluster(1), &[&a, &b]);
    let mut reservation = fixture.quota.open_reservation(&a.key, &fixture.stores, second(5));
    reservation.reserve_builds(a.request(&[0, 1]), |allowance| a.request(&a.decide(&allowance)));
    assert_eq!(fixture.quota.queued_builds(), 1);
    let again = reservation.commit(&fixture.stores).expect("nothing was started");
    assert_eq!(again.duration_since(second(5)), OWN_PLACES_PAUSE);
    assert!(fixture.admitted().is_empty());
    assert_eq!(fixture.reconcile(&mut b, 5), 0, "the place is for the family that has waited");
    assert_eq!(fixture.admitted(), [a.key], "which any other reconcile triggers");
}

#[test]
fn the_reservation_of_a_reconcile_that_began_later_and_failed_counts() {
    let (a, b) = (FakeFamily::new("one", "a", &[""; 3]), FakeFamily::new("one", "b", &[""; 3]));
    let fixture = QuotaFixture::new(cluster(4), &[&a, &b]);
    let mut of_a = fixture.quota.open_reservation(&a.key, &fixture.stores, second(0));
    let mut of_b = fixture.quota.open_reservation(&b.key, &fixture.stores, second(1));
    of_b.reserve_builds(b.request(&b.decide(&BuildAllowance::default())), |_| {
        panic!("there are places")
    });
    drop(of_b);
    let mut asked = Vec::new();
    of_a.reserve_builds(a.request(&a.decide(&BuildAllowance::default())), |allowance| {
        let start = a.decide(&allowance);
        asked.push(allowance);
        a.request(&start)
    });
    assert_eq!(asked, [BuildAllowance { family: Some(1), ..BuildAllowance::default() }]);
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
fn a_family_is_admitted_for_any_build_that_it_could_start_instead() {
    let limits = BuildLimits { cluster: None, namespace: None, upstream: Some(1) };
    let mut a = FakeFamily { parallelism: 1, ..FakeFamily::new("one", "a", &["debian", "alpine"]) };
    let mut b = FakeFamily::new("two", "b", &["debian", "alpine"]);
    let mut fixture = QuotaFixture::new(limits, &[&a, &b]);
    assert_eq!(fixture.reconcile(&mut b, 0), 2);
    assert_eq!(fixture.reconcile(&mut a, 1), 0);
    assert_eq!(fixture.quota.queued_builds(), 1, "it has room for one of them");
    // Of alpine. The family would have preferred the other one.
    fixture.end(&mut b);
    fixture.reconcile(&mut b, 2);
    assert_eq!(fixture.admitted(), [a.key.clone()]);
    assert_eq!(fixture.reconcile(&mut a, 3), 1);
    assert_eq!(a.ready, [vec!["debian".to_owned()]]);
    assert_eq!(fixture.quota.queued_builds(), 0);
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
    _ = reservation.commit(&fixture.stores);
    assert!(fixture.quota.lock().by_family.is_empty());
}

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
                        let again = reservation.commit(&fixture.stores);
                        queue.extend(again.map(|_| index));
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
