//! What keeps candidates from being adopted and builds from starting, and for how long.

use jiff::SignedDuration;

use crate::{
    api::{
        Approval, Breaker, Duration, FailureClass, Hold, ImageHold, ImageState, OnParentFailure,
        RateLimit, Window, condition::reason,
    },
    engine::{
        BuildAllowance, CascadeDecision,
        tests::{CURRENT, world::World},
    },
};

fn chain() -> World {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world
}

#[test]
fn a_candidate_waits_until_it_is_old_enough_and_the_first_digest_does_not() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.upstreams[0].minimum_age = Duration::from_secs(1800);
    world.settle();
    assert_eq!(world.builds(), [1], "the first digest is used at once");
    world.upstream_digests[0] = "sha256:up-1".into();
    let decision = world.pass();
    assert_eq!(decision.upstreams[0].reason.as_deref(), Some(reason::MINIMUM_AGE));
    assert_eq!(decision.wake_at, Some(world.now + SignedDuration::from_secs(1800)));
    world.now += SignedDuration::from_secs(1000);
    world.upstream_digests[0] = "sha256:up-2".into();
    let decision = world.pass();
    assert_eq!(
        decision.wake_at,
        Some(world.now + SignedDuration::from_secs(1800)),
        "a newer one \
        begins anew"
    );
    world.settle();
    assert_eq!(world.builds(), [2]);
}

#[test]
fn a_candidate_waits_for_approval_of_just_this_digest() {
    let mut world = chain();
    world.spec.upstreams[0].approval = Approval::Manual;
    let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    world.upstream_digests[0] = digest('a');
    world.settle();
    assert_eq!(world.builds(), [1, 1]);
    assert_eq!(world.status.upstreams[0].reason.as_deref(), Some(reason::AWAITING_APPROVAL));
    let request = |id: &str, digest: &str| {
        format!(
            r#"{{"id":"{id}","action":"Approve","upstream":"up","digest":"{digest}","by":"ada"}}"#
        )
    };
    world.ask(&request("1", &digest('b')));
    world.settle();
    assert_eq!(world.builds(), [1, 1]);
    assert!(
        world.answer("1").contains("is not the candidate of up any more"),
        "{}",
        world.answer("1")
    );
    world.ask(&request("2", &digest('a')));
    world.settle();
    assert_eq!(world.builds(), [2, 2]);
    let approval = world.status.upstreams[0].approval.clone().expect("a record");
    assert_eq!((approval.digest, approval.by), (digest('a'), Some("ada".into())));
    world.upstream_digests[0] = digest('c');
    world.settle();
    assert_eq!(world.builds(), [2, 2], "the next one needs another");
}

#[test]
fn a_hold_outlives_new_candidates_and_needs_something_to_hold() {
    let mut world = chain();
    world.spec.upstreams[0].hold = Some(Hold::default());
    for digest in ["sha256:up-1", "sha256:up-2"] {
        world.upstream_digests[0] = digest.into();
        world.settle();
    }
    assert_eq!(world.builds(), [1, 1]);

    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.upstreams[0].hold = Some(Hold::default());
    world.settle();
    assert_eq!(world.builds(), [0]);
    assert_eq!(world.record("base").reason, reason::HELD);
    assert!(
        world.record("base").message.contains("set hold.digest"),
        "{}",
        world.record("base").message
    );
}

#[test]
fn a_held_image_stays_and_its_children_go_on_standing_on_it() {
    let mut world = World::new(&["up", "up2"], &[("base", "up"), ("app", "base up2*")]);
    world.settle();
    let until = world.now + SignedDuration::from_secs(900);
    world.spec.images[0].hold =
        Some(ImageHold { until: Some(until), reason: Some("release".into()) });
    world.upstream_digests = vec!["sha256:up-1".into(), "sha256:up2-1".into()];
    let before = world.record("base").digest.clone();
    for _ in 0..60 {
        world.now += SignedDuration::from_secs(1);
        world.pass();
        world.finish_builds();
    }
    assert_eq!(world.states(), [ImageState::Held, CURRENT]);
    assert_eq!(world.builds(), [1, 2]);
    assert_eq!(world.record("base").digest, before);
    assert!(world.record("base").message.contains(": release"), "{}", world.record("base").message);
    assert_eq!(world.pass().wake_at, Some(until));
    world.settle();
    assert_eq!(
        (world.states(), world.builds()),
        (vec![CURRENT; 2], vec![2, 3]),
        "the hold has \
        ended by itself"
    );
}

#[test]
fn no_build_starts_while_no_window_is_open() {
    let mut world = chain();
    // The model's time begins on a Friday at 08:00 UTC.
    world.spec.policy.windows = vec![Window {
        schedule: "0 22 * * *".into(),
        duration: Duration::from_secs(3600),
        time_zone: "UTC".into(),
    }];
    world.upstream_digests[0] = "sha256:up-1".into();
    let decision = world.pass();
    let opens = decision.wake_at.expect("a time");
    assert_eq!(opens.to_string(), "2027-01-15T22:00:00Z");
    assert!(decision.window.is_some_and(|window| !window.open && window.until == Some(opens)));
    world.now = opens;
    assert!(matches!(world.pass().cascade, CascadeDecision::Start { .. } | CascadeDecision::None));
    world.now += SignedDuration::from_secs(40);
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [2, 1]);
    world.now = opens + SignedDuration::from_secs(3600);
    world.finish_builds();
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [2, 1], "the cascade waits for the next window");
    assert_eq!(world.record("app").reason, reason::WINDOW_CLOSED);
    world.now = opens + SignedDuration::from_hours(24);
    world.settle();
    assert_eq!((world.builds(), world.cascades.len()), (vec![2, 2], 2));
}

#[test]
fn a_storm_starts_builds_at_its_rate_and_leaves_alone_what_a_person_caused() {
    let images: Vec<(String, String)> =
        (0..10).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut world = World::new(&["up"], &images);
    world.spec.policy.parallelism = 100;
    world.settle();
    assert_eq!(world.builds(), [1; 10]);
    world.jobs.clear();
    world.spec.policy.rate_limit = Some(RateLimit { builds: 3, per: Duration::from_secs(60) });
    world.upstream_digests[0] = "sha256:up-1".into();
    let decision = world.begin();
    assert_eq!(world.builds().iter().sum::<usize>(), 13);
    assert_eq!(decision.wake_at, Some(world.now + SignedDuration::from_secs(60)));
    world.spec.images[9].args.insert("A".into(), "1".into());
    world.pass();
    assert_eq!(world.builds()[9], 2, "an edit is not slowed down");
    world.settle();
    assert_eq!(world.states(), [CURRENT; 10]);
    assert_eq!(world.builds(), [2; 10]);
}

#[test]
fn starts_count_for_a_storm_though_their_jobs_are_gone() {
    let mut world = World::new(&["up"], &[("a", "up"), ("b", "up"), ("c", "up"), ("d", "up")]);
    world.settle();
    world.spec.policy.rate_limit = Some(RateLimit { builds: 2, per: Duration::from_secs(3600) });
    world.jobs.clear();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.pass();
    world.now += SignedDuration::from_secs(30);
    for _ in 0..10 {
        world.pass();
        world.pass();
        world.finish_builds();
        world.pass();
        world.now += SignedDuration::from_secs(300);
        // Jobs are kept for less than the span.
        world.jobs.clear();
    }
    assert_eq!(world.builds().iter().sum::<usize>(), 4 + 2, "{:?}", world.builds());
    world.settle();
    assert_eq!(world.builds(), [2; 4]);
    assert!(world.records.iter().flatten().all(|record| record.starts.len() == 1));
}

#[test]
fn the_breaker_opens_lets_one_build_through_and_closes_on_success() {
    let images: Vec<(String, String)> =
        (0..8).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut world = World::new(&["up"], &images);
    world.settle();
    world.spec.policy.breaker =
        Breaker { consecutive_failures: 3, probe_after: Duration::from_secs(600) };
    world.spec.policy.retries.build = 0;
    world.spec.policy.parallelism = 1;
    world.failing = (0..8).map(|image| (image, FailureClass::Build)).collect();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.pass();
    world.now += SignedDuration::from_secs(30);
    for _ in 0..20 {
        world.pass();
        world.finish_builds();
    }
    assert_eq!(world.builds().iter().sum::<usize>(), 8 + 3, "{:?}", world.builds());
    let breaker = world.status.breaker.clone().expect("open");
    assert_eq!(breaker.failures.len(), 3);
    assert!(breaker.cause.contains("up"), "{}", breaker.cause);
    assert_eq!(world.record("image7").reason, reason::BREAKER_OPEN);
    world.now = breaker.probe_at.expect("a time");
    for _ in 0..5 {
        world.pass();
        world.finish_builds();
    }
    assert_eq!(
        world.builds().iter().sum::<usize>(),
        8 + 4,
        "one build is tried, and the breaker \
        stays open"
    );
    world.failing.clear();
    world.settle();
    assert!(world.status.breaker.is_none());
    assert_eq!(world.builds().iter().sum::<usize>(), 8 + 8, "{:?}", world.builds());
}

#[test]
fn a_breaker_with_nothing_left_to_try_waits_for_the_next_cascade_or_for_a_person() {
    let images: Vec<(String, String)> =
        (0..4).map(|image| (format!("image{image}"), "base".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let images = [&[("base", "up")], images.as_slice()].concat();
    let mut world = World::new(&["up"], &images);
    world.settle();
    world.spec.policy.breaker =
        Breaker { consecutive_failures: 3, probe_after: Duration::from_secs(600) };
    world.failing = (1..5).map(|image| (image, FailureClass::Build)).collect();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.states()[1..], [ImageState::Failed; 4]);
    assert!(world.cascade.is_none());
    let breaker = world.status.breaker.clone().expect("open");
    assert_eq!(
        (breaker.failures.len(), breaker.probe_at),
        (4, None),
        "no image is left to be tried"
    );

    // Those that have failed wait for their parent: what they failed of is of the cascade before.
    world.failing.clear();
    world.upstream_digests[0] = "sha256:up-2".into();
    world.begin();
    assert_eq!(world.states()[..2], [ImageState::Building, ImageState::Waiting]);
    assert!(world.status.breaker.is_none(), "a new cascade closes it");
    world.settle();
    assert_eq!(world.states(), [CURRENT; 5]);
}

#[test]
fn the_operators_limits_are_kept_and_told() {
    let mut world = World::new(&["up"], &[("a", "up"), ("b", "up"), ("c", "up")]);
    world.budget = BuildAllowance { family: Some(1), ..BuildAllowance::default() };
    world.pass();
    world.pass();
    assert_eq!(world.builds().iter().sum::<usize>(), 1);
    let kept_back = world
        .records
        .iter()
        .flatten()
        .filter(|record| record.reason == reason::BUILD_LIMIT_REACHED);
    assert_eq!(kept_back.count(), 2);
    world.budget =
        BuildAllowance { family: None, upstreams: [("docker.io/library/up:1".into(), 0)].into() };
    world.finish_builds();
    world.pass();
    assert_eq!(world.builds().iter().sum::<usize>(), 1);
    world.budget = BuildAllowance::default();
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
}

#[test]
fn what_a_person_caused_goes_before_longer_paths() {
    let mut world = World::new(
        &["up"],
        &[("deep", "up"), ("below", "deep"), ("bottom", "below"), ("leaf", "up")],
    );
    world.settle();
    world.spec.policy.parallelism = 1;
    world.upstream_digests[0] = "sha256:up-1".into();
    world.spec.images[3].args.insert("A".into(), "1".into());
    world.begin();
    assert_eq!(world.builds(), [1, 1, 1, 2]);
}

#[test]
fn a_child_may_go_on_with_the_last_good_digest_of_a_failed_parent() {
    let mut world =
        World::new(&["up", "up2"], &[("base", "up"), ("app", "base up2*"), ("other", "base up2*")]);
    world.settle();
    world.spec.images[1].on_parent_failure = OnParentFailure::UseLastGood;
    world.failing.insert(0, FailureClass::Build);
    world.upstream_digests = vec!["sha256:up-1".into(), "sha256:up2-1".into()];
    let verified = world.record("base").digest.clone().expect("a digest");
    world.settle();
    assert_eq!(world.states(), [ImageState::Failed, CURRENT, ImageState::Blocked]);
    let inputs = world.record("app").inputs.clone().expect("inputs");
    assert_eq!(inputs.parents[0].digest, verified);
    assert_eq!(inputs.parents[1].digest, "sha256:up2-1");
}
