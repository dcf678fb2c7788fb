//! The breaker: pauses a cascade that only fails before it has failed everywhere.
//!
//! The breaker opens for a cause when `consecutiveFailures` distinct images have failed from it and
//! none has succeeded from it since. While it is open, only a trial build of that cause starts now
//! and then, to show whether builds still fail. Builds that have another cause go on. The state is
//! not stored: it follows from the last builds of the images, so that a restart of the controller
//! neither opens nor closes the breaker.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::Breaker;

/// Upper bound on the failed images that [`OpenBreaker`] names.
const MAX_NAMES: usize = 10;

/// The outcome of an image's last builds that share one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastBuild<'a> {
    /// The image's name.
    pub image: &'a str,
    /// The cause of the builds, as [`key`](crate::engine::causes::key) writes it: builds with equal
    /// text share the cause. A build with an empty cause does not count.
    pub cause: &'a str,
    /// When the last of the builds failed.
    pub failed_at: Option<Timestamp>,
    /// When the last of the builds succeeded.
    pub succeeded_at: Option<Timestamp>,
}

/// Builds of a cause are paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBreaker {
    /// When the failure that opened the breaker happened. A trial build that fails may move this to
    /// a later time, because only the last failure of an image is recorded.
    pub since: Timestamp,
    /// The cause that the failed builds share.
    pub cause: String,
    /// The names of the failed images, by the time of their failures; at most ten.
    pub failures: Vec<String>,
    /// How many images failed.
    pub count: usize,
    /// When one trial build may start.
    pub probe_at: Timestamp,
}

/// The last failure of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FailedImage<'a> {
    at: Timestamp,
    image: &'a str,
}

/// Returns the causes for which the breaker is open, the one whose trial build comes first as the
/// first.
///
/// Only failures after the last success from the same cause count. So one success closes the
/// breaker, and a trial build that fails delays the next one. With `consecutiveFailures: 0` the
/// breaker never opens.
#[must_use]
pub fn open_breakers(
    policy: &Breaker,
    builds: &[LastBuild<'_>],
    now: Timestamp,
) -> Vec<OpenBreaker> {
    let threshold = usize::try_from(policy.consecutive_failures).unwrap_or(0);
    if threshold == 0 {
        return Vec::new();
    }
    let mut by_cause: BTreeMap<&str, Vec<&LastBuild<'_>>> = BTreeMap::new();
    for build in builds.iter().filter(|build| !build.cause.is_empty()) {
        by_cause.entry(build.cause).or_default().push(build);
    }
    let open = by_cause.into_iter().filter_map(|(cause, builds)| {
        let failures = consecutive_failures(&builds);
        let opened_by = failures.get(threshold - 1)?;
        let names = failures.iter().take(MAX_NAMES).map(|failed| failed.image.to_owned());
        Some(OpenBreaker {
            since: opened_by.at,
            cause: cause.into(),
            failures: names.collect(),
            count: failures.len(),
            probe_at: probe_at(policy, &failures, now),
        })
    });
    let mut open: Vec<OpenBreaker> = open.collect();
    open.sort_by_key(|breaker| breaker.probe_at);
    open
}

/// Returns the images that failed after the last success, by the time of their last failure.
fn consecutive_failures<'a>(builds: &[&LastBuild<'a>]) -> Vec<FailedImage<'a>> {
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
    let mut failures: Vec<FailedImage<'a>> =
        last.into_iter().map(|(image, at)| FailedImage { at, image }).collect();
    failures.sort_unstable();
    failures
}

/// Returns when the next trial build may start: `probeAfter` after the last failure.
///
/// A failure more than `probeAfter` in the future was recorded before the clock was set back, and
/// is ignored.
fn probe_at(policy: &Breaker, failures: &[FailedImage<'_>], now: Timestamp) -> Timestamp {
    let pause = policy.probe_after.signed();
    let after = |time: Timestamp| time.saturating_add(pause).unwrap_or(Timestamp::MAX);
    let plausible = failures.iter().map(|failed| failed.at).rfind(|at| *at <= after(now));
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

    fn state(policy: &Breaker, builds: &[LastBuild<'_>], now: Timestamp) -> Option<OpenBreaker> {
        open_breakers(policy, builds, now).into_iter().next()
    }

    #[test]
    fn opens_when_distinct_images_fail_in_a_row() {
        let builds = [failed("c", 30), failed("a", 10), failed("b", 20)];
        assert_eq!(state(&policy(4), &builds, second(40)), None);
        let expected = Some(OpenBreaker {
            since: second(30),
            cause: MOVED.into(),
            failures: vec!["a".into(), "b".into(), "c".into()],
            count: 3,
            probe_at: second(630),
        });
        assert_eq!(state(&policy(3), &builds, second(40)), expected);
        // The state does not depend on the time, so that no reconcile writes it again.
        assert_eq!(state(&policy(3), &builds, second(5000)), expected);
        let twice = [failed("a", 10), failed("a", 20), failed("a", 30), failed("b", 40)];
        assert_eq!(
            state(&policy(3), &twice, second(50)),
            None,
            "an image that fails again counts once"
        );
    }

    #[test]
    fn a_success_with_the_same_cause_closes_it() {
        let mut builds = vec![failed("a", 10), failed("b", 20), failed("c", 30)];
        builds.push(LastBuild { cause: "a new source", ..succeeded("d", 40) });
        assert!(state(&policy(3), &builds, second(50)).is_some());
        builds.push(succeeded("e", 15));
        assert_eq!(state(&policy(3), &builds, second(50)), None, "only two have failed since");
        assert!(state(&policy(2), &builds, second(50)).is_some());
        builds.push(succeeded("e", 40));
        assert_eq!(state(&policy(1), &builds, second(50)), None);
        // An image that failed and then succeeded counts as a success.
        let recovered = LastBuild { succeeded_at: Some(second(60)), ..failed("a", 50) };
        assert_eq!(state(&policy(1), &[recovered], second(70)), None);
    }

    #[test]
    fn a_failed_trial_build_delays_the_next_one() {
        let probed = [failed("a", 700), failed("b", 20), failed("c", 30)];
        let Some(OpenBreaker { probe_at, failures, .. }) = state(&policy(3), &probed, second(710))
        else {
            panic!("closed")
        };
        assert_eq!((probe_at, failures), (second(1300), vec!["b".into(), "c".into(), "a".into()]));
    }

    #[test]
    fn only_failures_with_one_cause_count_together() {
        let other = |image, at| LastBuild { cause: "upstream debian moved", ..failed(image, at) };
        let builds = [failed("a", 10), failed("b", 20), other("c", 5), other("d", 15)];
        assert_eq!(state(&policy(3), &builds, second(50)), None);
        let Some(OpenBreaker { cause, probe_at, count, .. }) =
            state(&policy(2), &builds, second(50))
        else {
            panic!("closed")
        };
        assert_eq!(
            (cause.as_str(), probe_at, count),
            ("upstream debian moved", second(615), 2),
            "its trial build comes first"
        );
        let causes = open_breakers(&policy(2), &builds, second(50));
        let causes: Vec<&str> = causes.iter().map(|open| open.cause.as_str()).collect();
        assert_eq!(causes, ["upstream debian moved", MOVED]);
        let unknown = |image, at| LastBuild { cause: "", ..failed(image, at) };
        assert_eq!(state(&policy(2), &[unknown("a", 1), unknown("b", 2)], second(9)), None);
    }

    #[test]
    fn it_can_be_disabled_and_names_at_most_ten_images() {
        let names: Vec<String> = (0..250).map(|index| format!("image-{index:03}")).collect();
        let builds: Vec<LastBuild<'_>> =
            names.iter().map(|name| LastBuild { image: name, ..failed("", 10) }).collect();
        assert_eq!(state(&policy(0), &builds, second(50)), None);
        let Some(OpenBreaker { failures, count, .. }) = state(&policy(5), &builds, second(50))
        else {
            panic!("closed")
        };
        assert_eq!((failures.len(), count), (10, 250));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_delay_the_trial_build_for_long() {
        let ahead = [failed("a", 90_000), failed("b", 90_010)];
        let probe = |builds: &[LastBuild<'_>], now| match state(&policy(2), builds, second(now)) {
            Some(OpenBreaker { probe_at, .. }) => probe_at,
            None => panic!("closed"),
        };
        assert_eq!(probe(&ahead, 100), second(100), "immediately");
        assert_eq!(
            probe(&[failed("a", 100), failed("b", 90_010)], 110),
            second(700),
            "the trial build has failed"
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
        fn is_open_when_enough_images_fail_with_one_cause(
            builds in builds(),
            threshold in 0..6_i32,
            now in 0..2000_i64,
        ) {
            let failing = |cause: &str| {
                let success = builds
                    .iter()
                    .filter(|build| build.cause == cause)
                    .filter_map(|build| build.succeeded_at)
                    .max();
                let failed =
                    builds.iter().filter(|build| build.cause == cause && build.failed_at > success);
                failed.map(|build| build.image).collect::<std::collections::BTreeSet<_>>()
            };
            let wanted = usize::try_from(threshold).expect("positive");
            let expected = wanted > 0
                && [MOVED, "a new source"].iter().any(|cause| failing(cause).len() >= wanted);
            let state = state(&policy(threshold), &builds, second(now));
            prop_assert_eq!(state.is_some(), expected);
            if let Some(OpenBreaker { cause, failures, count, since, probe_at }) = state {
                prop_assert_eq!(failures.len(), count);
                prop_assert_eq!(
                    failures.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
                    failing(&cause)
                );
                // Failures in the future are ignored for the trial build: the clock was set back.
                prop_assert!(probe_at > since || probe_at == second(now) || since > second(now));
            }
        }

        #[test]
        fn a_success_after_all_failures_closes_it(mut builds in builds(), threshold in 1..6_i32) {
            for cause in [MOVED, "a new source"] {
                builds.push(LastBuild { cause, ..succeeded("f", 1000) });
            }
            prop_assert_eq!(state(&policy(threshold), &builds, second(1000)), None);
        }
    }
}
