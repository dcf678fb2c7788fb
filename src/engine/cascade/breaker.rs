//! The breaker: a cascade that only fails is stopped before it has failed everywhere.
//!
//! When as many distinct images as the policy says have failed from one cause, and none has
//! succeeded from it since, no further build starts, but for one now and then that shows whether it
//! still fails. Nothing is remembered: the state follows from the last builds of the images, so
//! that a restart neither opens nor closes it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::Breaker;

/// The most failed images that are named.
const MAX_NAMES: usize = 10;

/// How the last builds of an image went that were made for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastBuild<'a> {
    /// The image.
    pub image: &'a str,
    /// What the build was made for, in words: builds that share them share the cause. One without a
    /// cause does not count.
    pub cause: &'a str,
    /// When the last of them failed.
    pub failed_at: Option<Timestamp>,
    /// When the last of them succeeded.
    pub succeeded_at: Option<Timestamp>,
}

/// When an image last failed, and its name.
type Failure<'a> = (Timestamp, &'a str);

/// Whether builds may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// They may.
    Closed,
    /// They may not.
    Open {
        /// When so many had failed that it opened. A probe that fails may move it on, for the
        /// records keep an image's last failure only.
        since: Timestamp,
        /// What the failed builds have in common.
        cause: String,
        /// The images that failed, by the time of their failures; the first ten.
        failures: Vec<String>,
        /// How many failed.
        count: usize,
        /// When one build may start, to see whether it still fails.
        probe_at: Timestamp,
    },
}

/// Whether the breaker is open. If it is for several causes, the answer is for the one whose probe
/// comes first.
///
/// Failures count that are later than the last success from the same cause: so one success closes
/// it, and a probe that fails puts the next one off. With `consecutiveFailures: 0` it never opens.
#[must_use]
pub fn state(policy: &Breaker, builds: &[LastBuild<'_>], now: Timestamp) -> BreakerState {
    let enough = usize::try_from(policy.consecutive_failures).unwrap_or(0);
    if enough == 0 {
        return BreakerState::Closed;
    }
    let mut causes: BTreeMap<&str, Vec<&LastBuild<'_>>> = BTreeMap::new();
    for build in builds.iter().filter(|build| !build.cause.is_empty()) {
        causes.entry(build.cause).or_default().push(build);
    }
    let mut first: Option<(Timestamp, &str, Vec<Failure<'_>>)> = None;
    for (cause, builds) in causes {
        let failures = consecutive_failures(&builds);
        if failures.len() < enough {
            continue;
        }
        let probe_at = probe_at(policy, &failures, now);
        if first.as_ref().is_none_or(|(earliest, ..)| probe_at < *earliest) {
            first = Some((probe_at, cause, failures));
        }
    }
    let Some((probe_at, cause, failures)) = first else { return BreakerState::Closed };
    BreakerState::Open {
        since: failures.get(enough - 1).map_or(now, |(at, _)| *at),
        cause: cause.into(),
        failures: failures.iter().take(MAX_NAMES).map(|(_, image)| (*image).to_owned()).collect(),
        count: failures.len(),
        probe_at,
    }
}

/// The images that failed after the last success, each with its last failure, by their times.
fn consecutive_failures<'a>(builds: &[&LastBuild<'a>]) -> Vec<Failure<'a>> {
    let success = builds.iter().filter_map(|build| build.succeeded_at).max();
    let mut last: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for build in builds {
        if let Some(failed) =
            build.failed_at.filter(|failed| success.is_none_or(|success| *failed > success))
        {
            let known = last.entry(build.image).or_insert(failed);
            *known = failed.max(*known);
        }
    }
    let mut failures: Vec<Failure<'a>> = last.into_iter().map(|(image, at)| (at, image)).collect();
    failures.sort_unstable();
    failures
}

/// When the next probe may start: so long after the last failure. A failure in the future is of a
/// clock that was put back since; one further ahead than a probe's pause is not waited for.
fn probe_at(policy: &Breaker, failures: &[Failure<'_>], now: Timestamp) -> Timestamp {
    let pause = policy.probe_after.signed();
    let after = |time: Timestamp| time.saturating_add(pause).unwrap_or(Timestamp::MAX);
    let plausible = failures.iter().map(|(at, _)| *at).rfind(|at| *at <= after(now));
    plausible.map_or(now, after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::Duration;

    const MOVED: &str = "upstream alpine moved";

    fn policy(failures: i32) -> Breaker {
        Breaker { consecutive_failures: failures, probe_after: Duration::from_secs(600) }
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn failed(image: &'static str, at: i64) -> LastBuild<'static> {
        LastBuild { image, cause: MOVED, failed_at: Some(second(at)), succeeded_at: None }
    }

    fn succeeded(image: &'static str, at: i64) -> LastBuild<'static> {
        LastBuild { image, cause: MOVED, failed_at: None, succeeded_at: Some(second(at)) }
    }

    fn open(state: &BreakerState) -> bool {
        matches!(state, BreakerState::Open { .. })
    }

    #[test]
    fn opens_when_distinct_images_fail_in_a_row() {
        let builds = [failed("c", 30), failed("a", 10), failed("b", 20)];
        assert_eq!(state(&policy(4), &builds, second(40)), BreakerState::Closed);
        let expected = BreakerState::Open {
            since: second(30),
            cause: MOVED.into(),
            failures: vec!["a".into(), "b".into(), "c".into()],
            count: 3,
            probe_at: second(630),
        };
        assert_eq!(state(&policy(3), &builds, second(40)), expected);
        // The time does not change it, so that no pass writes it anew.
        assert_eq!(state(&policy(3), &builds, second(5000)), expected);
        let twice = [failed("a", 10), failed("a", 20), failed("a", 30), failed("b", 40)];
        assert_eq!(
            state(&policy(3), &twice, second(50)),
            BreakerState::Closed,
            "one image that fails again is one"
        );
    }

    #[test]
    fn a_success_of_the_cause_closes_it_and_one_of_another_does_not() {
        let mut builds = vec![failed("a", 10), failed("b", 20), failed("c", 30)];
        builds.push(LastBuild { cause: "a new source", ..succeeded("d", 40) });
        assert!(open(&state(&policy(3), &builds, second(50))));
        builds.push(succeeded("e", 15));
        assert_eq!(
            state(&policy(3), &builds, second(50)),
            BreakerState::Closed,
            "only two have failed since"
        );
        assert!(open(&state(&policy(2), &builds, second(50))));
        builds.push(succeeded("e", 40));
        assert_eq!(state(&policy(1), &builds, second(50)), BreakerState::Closed);
        // An image that failed and then succeeded is a success.
        let mended = LastBuild { succeeded_at: Some(second(60)), ..failed("a", 50) };
        assert_eq!(state(&policy(1), &[mended], second(70)), BreakerState::Closed);
    }

    #[test]
    fn a_probe_that_fails_puts_the_next_one_off() {
        let probed = [failed("a", 700), failed("b", 20), failed("c", 30)];
        let BreakerState::Open { probe_at, failures, .. } = state(&policy(3), &probed, second(710))
        else {
            panic!("closed")
        };
        assert_eq!((probe_at, failures), (second(1300), vec!["b".into(), "c".into(), "a".into()]));
    }

    #[test]
    fn only_what_shares_a_cause_counts_together() {
        let other = |image, at| LastBuild { cause: "upstream debian moved", ..failed(image, at) };
        let builds = [failed("a", 10), failed("b", 20), other("c", 5), other("d", 15)];
        assert_eq!(state(&policy(3), &builds, second(50)), BreakerState::Closed);
        let BreakerState::Open { cause, probe_at, count, .. } =
            state(&policy(2), &builds, second(50))
        else {
            panic!("closed")
        };
        assert_eq!(
            (cause.as_str(), probe_at, count),
            ("upstream debian moved", second(615), 2),
            "its probe is the first"
        );
        let unknown = |image, at| LastBuild { cause: "", ..failed(image, at) };
        assert_eq!(
            state(&policy(2), &[unknown("a", 1), unknown("b", 2)], second(9)),
            BreakerState::Closed
        );
    }

    #[test]
    fn it_can_be_off_and_names_no_more_than_ten() {
        let names: Vec<String> = (0..250).map(|index| format!("image-{index:03}")).collect();
        let builds: Vec<LastBuild<'_>> =
            names.iter().map(|name| LastBuild { image: name, ..failed("", 10) }).collect();
        assert_eq!(state(&policy(0), &builds, second(50)), BreakerState::Closed);
        let BreakerState::Open { failures, count, .. } = state(&policy(5), &builds, second(50))
        else {
            panic!("closed")
        };
        assert_eq!((failures.len(), count), (10, 250));
    }

    #[test]
    fn a_clock_that_was_put_back_does_not_put_the_probe_off_for_long() {
        let ahead = [failed("a", 90_000), failed("b", 90_010)];
        let probe = |builds: &[LastBuild<'_>], now| match state(&policy(2), builds, second(now)) {
            BreakerState::Open { probe_at, .. } => probe_at,
            BreakerState::Closed => panic!("closed"),
        };
        assert_eq!(probe(&ahead, 100), second(100), "at once");
        assert_eq!(
            probe(&[failed("a", 100), failed("b", 90_010)], 110),
            second(700),
            "the probe has failed"
        );
    }

    fn builds() -> impl Strategy<Value = Vec<LastBuild<'static>>> {
        let images = prop::sample::select(vec!["a", "b", "c", "d", "e", "f"]);
        let causes = prop::sample::select(vec![MOVED, "a new source", ""]);
        let time = || prop::option::of((0..1000_i64).prop_map(second));
        let build =
            (images, causes, time(), time()).prop_map(|(image, cause, failed_at, succeeded_at)| {
                LastBuild { image, cause, failed_at, succeeded_at }
            });
        prop::collection::vec(build, 0..30)
    }

    proptest! {
        #[test]
        fn says_what_its_definition_says(builds in builds(), enough in 0..6_i32, now in 0..2000_i64) {
            let failing = |cause: &str| {
                let success = builds.iter().filter(|build| build.cause == cause).filter_map(|build| build.succeeded_at).max();
                let failed = builds.iter().filter(|build| build.cause == cause && build.failed_at > success);
                failed.map(|build| build.image).collect::<std::collections::BTreeSet<_>>()
            };
            let wanted = usize::try_from(enough).expect("positive");
            let expected = wanted > 0 && [MOVED, "a new source"].iter().any(|cause| failing(cause).len() >= wanted);
            let state = state(&policy(enough), &builds, second(now));
            prop_assert_eq!(open(&state), expected);
            if let BreakerState::Open { cause, failures, count, since, probe_at } = state {
                prop_assert_eq!(failures.len(), count);
                prop_assert_eq!(failures.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), failing(&cause));
                // A failure of the future says nothing of when to try: the clock was put back
                // since.
                prop_assert!(probe_at > since || probe_at == second(now) || since > second(now));
            }
        }

        #[test]
        fn one_success_after_all_closes_it(mut builds in builds(), enough in 1..6_i32) {
            for cause in [MOVED, "a new source"] {
                builds.push(LastBuild { cause, ..succeeded("f", 1000) });
            }
            prop_assert_eq!(state(&policy(enough), &builds, second(1000)), BreakerState::Closed);
        }
    }
}
