//! Fair shares against the definition of fairness, and over time.

use proptest::prelude::*;

use super::*;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Builds that count for no upstream.
static PLAIN: [Vec<QuotaUpstream>; 1000] = [const { Vec::new() }; 1000];

fn upstreams(positions: &[usize]) -> Vec<QuotaUpstream> {
    positions.iter().copied().map(QuotaUpstream::new).collect()
}

fn demand(
    family: &'static str,
    weight: i32,
    running: usize,
    ready: usize,
    since: i64,
) -> Demand<'static> {
    Demand {
        family,
        namespace: "one",
        weight,
        running,
        wants: &PLAIN[..ready],
        most: ready,
        since: second(since),
    }
}

/// Returns the positions of the builds that each family may start.
fn shares(
    limits: ConcurrencyLimits,
    free_by_upstream: &[usize],
    demands: &[Demand<'_>],
) -> Vec<Vec<usize>> {
    let shares = fair_shares(limits, free_by_upstream, demands, second(9));
    shares.iter().map(|share| share.iter().map(|want| want.position()).collect()).collect()
}

/// Returns how many builds each family may start.
fn counts(limits: ConcurrencyLimits, demands: &[Demand<'_>], now: i64) -> Vec<usize> {
    fair_shares(limits, &[], demands, second(now)).iter().map(Vec::len).collect()
}

const fn cluster(limit: usize) -> ConcurrencyLimits {
    ConcurrencyLimits { cluster: Some(limit), namespace: None }
}

#[test]
fn without_limits_every_ready_build_starts() {
    let demands = [demand("a", 1, 3, 7, 0), demand("b", 100, 0, 0, 0), demand("c", 10, 0, 1000, 0)];
    assert_eq!(counts(ConcurrencyLimits::default(), &demands, 0), [7, 0, 1000]);
    assert!(counts(cluster(5), &[], 0).is_empty());
}

#[test]
fn the_family_that_runs_the_fewest_builds_for_its_weight_is_served_first() {
    // 4 more may run: `b` catches up with `a`, and then they take turns.
    assert_eq!(
        counts(cluster(6), &[demand("a", 10, 2, 9, 0), demand("b", 10, 0, 9, 0)], 9),
        [1, 3]
    );
    // Three times the weight, three times the builds.
    assert_eq!(
        counts(cluster(8), &[demand("a", 10, 0, 9, 0), demand("b", 30, 0, 9, 0)], 9),
        [2, 6]
    );
    // Capacity that one family does not need goes to the other.
    assert_eq!(
        counts(cluster(8), &[demand("a", 10, 0, 9, 0), demand("b", 30, 0, 1, 0)], 9),
        [7, 1]
    );
}

#[test]
fn a_tie_goes_to_the_family_that_waited_longest_for_its_weight() {
    assert_eq!(
        counts(cluster(1), &[demand("a", 10, 0, 1, 5), demand("b", 10, 0, 1, 3)], 9),
        [0, 1]
    );
    assert_eq!(
        counts(cluster(1), &[demand("a", 20, 0, 1, 5), demand("b", 10, 0, 1, 3)], 9),
        [1, 0]
    );
    assert_eq!(
        counts(cluster(1), &[demand("b", 10, 0, 1, 3), demand("a", 10, 0, 1, 3)], 9),
        [0, 1]
    );
    // The clock was set back: no family has waited.
    assert_eq!(
        counts(cluster(1), &[demand("a", 10, 0, 1, 5), demand("b", 10, 0, 1, 3)], 1),
        [1, 0]
    );
}

#[test]
fn a_namespace_at_its_limit_leaves_its_share_to_others() {
    let other = Demand { namespace: "two", ..demand("c", 1, 0, 9, 8) };
    let limits = ConcurrencyLimits { cluster: Some(10), namespace: Some(3) };
    assert_eq!(
        counts(limits, &[demand("a", 50, 1, 9, 0), demand("b", 50, 1, 9, 0), other], 9),
        [1, 0, 3]
    );
    // More builds run than allowed, because the limit was lowered: none starts there.
    assert_eq!(
        counts(limits, &[demand("a", 50, 5, 9, 0), demand("b", 50, 0, 9, 0), other], 9),
        [0, 0, 3]
    );
    assert_eq!(counts(cluster(4), &[demand("a", 50, 5, 9, 0), other], 9), [0, 0]);
}

#[test]
fn an_upstream_at_its_limit_does_not_delay_other_builds() {
    let wants = [&[0][..], &[0, 1], &[1], &[], &[7]].map(upstreams);
    let one = Demand { wants: &wants, most: wants.len(), ..demand("a", 10, 0, 0, 0) };
    assert_eq!(shares(ConcurrencyLimits::default(), &[1, 5], &[one]), [[0, 2, 3, 4]]);
    let two = Demand { family: "b", ..one };
    assert_eq!(
        shares(ConcurrencyLimits::default(), &[2, 1], &[one, two]),
        [vec![0, 2, 3, 4], vec![0, 3, 4]]
    );
    // Capacity for an upstream is not given to a family whose namespace is at its limit.
    let full = Demand { namespace: "full", running: 3, since: second(-99), ..one };
    let limits = ConcurrencyLimits { cluster: None, namespace: Some(3) };
    assert_eq!(shares(limits, &[1, 0], &[full, two]), [vec![], vec![0, 3, 4]]);
}

#[test]
fn of_alternatives_no_more_start_than_the_family_may_run() {
    let wants = [&[0][..], &[1], &[1]].map(upstreams);
    let one = Demand { wants: &wants, most: 1, ..demand("a", 10, 0, 0, 0) };
    let free = |free: &[usize]| shares(cluster(3), free, &[one, demand("b", 10, 0, 9, 0)]);
    assert_eq!(free(&[1, 1]), [vec![0], vec![0, 1]], "the other places are for the other family");
    assert_eq!(free(&[0, 1]), [vec![1], vec![0, 1]]);
    assert_eq!(free(&[0, 0]), [vec![], vec![0, 1, 2]]);
    let none = Demand { most: 0, ..one };
    assert_eq!(shares(cluster(2), &[1, 1], &[none]), [[0_usize; 0]]);
}

#[derive(Clone, Debug)]
struct TestFamily {
    name: String,
    namespace: &'static str,
    weight: i32,
    running: usize,
    wants: Vec<Vec<QuotaUpstream>>,
    since: i64,
}

impl TestFamily {
    fn demand(&self) -> Demand<'_> {
        Demand {
            family: &self.name,
            namespace: self.namespace,
            weight: self.weight,
            running: self.running,
            wants: &self.wants,
            most: self.wants.len(),
            since: second(self.since),
        }
    }
}

fn families() -> impl Strategy<Value = Vec<TestFamily>> {
    let wants = prop::sample::select([&[][..], &[0], &[1], &[0, 1], &[2]].map(upstreams).to_vec());
    let wants = prop_oneof![
        prop::collection::vec(wants, 0..12),
        (0..12_usize).prop_map(|count| vec![Vec::new(); count]),
    ];
    let family = (
        prop::sample::select(vec!["one", "two", "three"]),
        1..=100_i32,
        0..6_usize,
        wants,
        0..100_i64,
    );
    prop::collection::vec(family, 0..12).prop_map(|families| {
        let family = |(index, (namespace, weight, running, wants, since))| TestFamily {
            name: format!("family-{index}"),
            namespace,
            weight,
            running,
            wants,
            since,
        };
        families.into_iter().enumerate().map(family).collect()
    })
}

/// Limits of the cluster and of a namespace, and the capacity for two upstreams. A third upstream
/// has no limit.
fn limits() -> impl Strategy<Value = (ConcurrencyLimits, [usize; 2])> {
    (prop::option::of(0..40_usize), prop::option::of(0..15_usize), 0..12_usize, 0..12_usize)
        .prop_map(|(cluster, namespace, first, second)| {
            (ConcurrencyLimits { cluster, namespace }, [first, second])
        })
}

fn divide(
    (limits, upstreams): (ConcurrencyLimits, [usize; 2]),
    families: &[TestFamily],
) -> Vec<Vec<WantIndex>> {
    let demands: Vec<Demand<'_>> = families.iter().map(TestFamily::demand).collect();
    fair_shares(limits, &upstreams, &demands, second(100))
}

proptest! {
    #[test]
    fn limits_hold_and_no_usable_capacity_stays_free(limits in limits(), families in families()) {
        let shares = divide(limits, &families);
        let sum = |namespace: Option<&str>, of: &dyn Fn(usize) -> usize| -> usize {
            let here = |index: &usize| {
                namespace.is_none_or(|namespace| families[*index].namespace == namespace)
            };
            (0..families.len()).filter(here).map(of).sum()
        };
        let full = |namespace: Option<&str>, limit: Option<usize>| {
            limit.is_some_and(|limit| {
                sum(namespace, &|index| families[index].running + shares[index].len()) >= limit
            })
        };
        let (limits, upstreams) = limits;
        for (namespace, limit) in [(None, limits.cluster)]
            .into_iter()
            .chain(["one", "two", "three"].map(|name| (Some(name), limits.namespace)))
        {
            let run = sum(namespace, &|index| families[index].running);
            let given = sum(namespace, &|index| shares[index].len());
            prop_assert!(limit.is_none_or(|limit| given == 0 || given + run <= limit));
        }
        let used = |upstream: usize| {
            let given = families.iter().zip(&shares).flat_map(|(family, share)| {
                share.iter().map(|want| &family.wants[want.position()])
            });
            given.filter(|want| want.contains(&QuotaUpstream::new(upstream))).count()
        };
        prop_assert!(used(0) <= upstreams[0] && used(1) <= upstreams[1]);
        for (family, share) in families.iter().zip(&shares) {
            prop_assert!(
                share.is_sorted_by(|earlier, later| earlier < later),
                "twice, or out of \
                order"
            );
            let at_limit =
                full(None, limits.cluster) || full(Some(family.namespace), limits.namespace);
            for (index, want) in
                WantIndex::enumerate(&family.wants).filter(|(index, _)| !share.contains(index))
            {
                let at_upstream_limit = want.iter().any(|upstream| {
                    let position = upstream.position();
                    upstreams.get(position).is_some_and(|free| used(position) >= *free)
                });
                prop_assert!(at_limit || at_upstream_limit, "{} could start {index}", family.name);
            }
        }
    }

    #[test]
    fn builds_go_to_the_family_with_the_least_load(limits in limits(), families in families()) {
        // Capacity for an upstream goes to a family that has a build for it, which turns alone do
        // not explain.
        let families: Vec<TestFamily> = families
            .into_iter()
            .map(|mut family| {
                family.wants.iter_mut().for_each(Vec::clear);
                family
            })
            .collect();
        let shares: Vec<usize> = divide(limits, &families).iter().map(Vec::len).collect();
        for (waiting, share) in
            families.iter().zip(&shares).filter(|(family, share)| **share < family.wants.len())
        {
            let runs = |namespace: &str| -> usize {
                let here = families
                    .iter()
                    .zip(&shares)
                    .filter(|(family, _)| family.namespace == namespace);
                here.map(|(family, share)| family.running + share).sum()
            };
            let namespace_full =
                limits.0.namespace.is_some_and(|limit| runs(waiting.namespace) >= limit);
            for (served, given) in families.iter().zip(&shares).filter(|(_, given)| **given > 0) {
                if namespace_full && served.namespace != waiting.namespace {
                    continue;
                }
                // Before it was given its last build, the served family ran no more builds for its
                // weight than the waiting one.
                let served_load = (served.running + given - 1)
                    * usize::try_from(waiting.weight).expect("positive");
                let waiting_load =
                    (waiting.running + share) * usize::try_from(served.weight).expect("positive");
                prop_assert!(
                    served_load <= waiting_load,
                    "{} before {}",
                    served.name,
                    waiting.name
                );
            }
        }
    }

    #[test]
    fn a_higher_cluster_limit_or_a_longer_queue_never_shrinks_a_share(
        limits in limits(),
        families in families(),
        more in 1..10_usize,
        which in any::<prop::sample::Index>(),
    ) {
        let before = divide(limits, &families);
        let wider =
            ConcurrencyLimits { cluster: limits.0.cluster.map(|limit| limit + more), ..limits.0 };
        for (before, after) in before.iter().zip(divide((wider, limits.1), &families)) {
            prop_assert!(before.iter().all(|want| after.contains(want)));
        }
        if !families.is_empty() {
            let which = which.index(families.len());
            let mut longer = families.clone();
            longer[which].wants.extend(vec![vec![]; more]);
            prop_assert!(divide(limits, &longer)[which].len() >= before[which].len());
        }
    }

    #[test]
    fn the_order_of_the_demands_does_not_matter(limits in limits(), families in families()) {
        let shares = divide(limits, &families);
        let reversed: Vec<TestFamily> = families.iter().rev().cloned().collect();
        prop_assert_eq!(divide(limits, &reversed).into_iter().rev().collect::<Vec<_>>(), shares);
    }
}

/// What a family whose queue is never empty has run.
#[derive(Clone, Copy, Debug, Default)]
struct FamilyRun {
    started: usize,
    /// Builds that ran, summed over all seconds.
    ran: usize,
    longest_wait: i64,
}

/// Runs families, given as weights and build durations in seconds, that always have more to build
/// and share capacity for `places` builds.
fn simulate(places: usize, families: &[(i32, i64)], seconds: i64) -> Vec<FamilyRun> {
    let names: Vec<String> = (0..families.len()).map(|index| format!("family-{index}")).collect();
    let mut ends: Vec<Vec<i64>> = vec![Vec::new(); families.len()];
    let mut since = vec![0; families.len()];
    let mut records = vec![FamilyRun::default(); families.len()];
    for now in 0..seconds {
        for ends in &mut ends {
            ends.retain(|end| *end > now);
        }
        let demands: Vec<Demand<'_>> = (0..families.len())
            .map(|index| Demand {
                family: &names[index],
                namespace: "one",
                weight: families[index].0,
                running: ends[index].len(),
                wants: &PLAIN,
                most: PLAIN.len(),
                since: second(since[index]),
            })
            .collect();
        for (index, share) in counts(cluster(places), &demands, now).into_iter().enumerate() {
            ends[index].extend(std::iter::repeat_n(now + families[index].1, share));
            records[index].started += share;
            records[index].ran += ends[index].len();
            records[index].longest_wait = records[index].longest_wait.max(now - since[index]);
            if share > 0 {
                since[index] = now;
            }
        }
        assert!(
            ends.iter().map(Vec::len).sum::<usize>() == places,
            "capacity stays free, or is used twice"
        );
    }
    records
}

#[test]
fn families_share_a_large_capacity_by_their_weights() {
    let families = [(10, 7), (20, 31), (30, 3), (60, 13)];
    for (record, (weight, _)) in simulate(24, &families, 10_000).iter().zip(families) {
        let mean = record.ran / 10_000;
        let fair = 24 * usize::try_from(weight).expect("positive") / 120;
        assert!(mean.abs_diff(fair) <= 1, "{mean} builds instead of {fair}");
    }
}

#[test]
fn families_share_capacity_for_one_build_by_their_weights() {
    let families = [(10, 5), (20, 5), (30, 5), (60, 5)];
    let records = simulate(1, &families, 60_000);
    assert!(
        records.is_sorted_by(|lighter, heavier| lighter.started < heavier.started),
        "{records:?}"
    );
    for (record, (weight, _)) in records.iter().zip(families) {
        // Whole builds take turns, so the shares are approximate.
        let fair = 12_000 * usize::try_from(weight).expect("positive") / 120;
        assert!(
            record.started.abs_diff(fair) * 2 < fair,
            "{} starts instead of {fair}",
            record.started
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_family_starves(
        places in 1..6_usize,
        families in prop::collection::vec((1..=100_i32, 1..20_i64), 1..10),
    ) {
        let records = simulate(places, &families, 5_000);
        let longest = families.iter().map(|(_, seconds)| *seconds).max().unwrap_or(1);
        let total: i64 = families.iter().map(|(weight, _)| i64::from(*weight)).sum();
        for (record, (weight, _)) in records.iter().zip(&families) {
            // Its turn comes at the latest when all others have had as many turns as their weights
            // allow.
            let bound = longest * (2 + 2 * total / i64::from(*weight));
            prop_assert!(
                record.longest_wait <= bound,
                "waited {} s of at most {bound}",
                record.longest_wait
            );
        }
    }
}
