//! The breaker: builds of a cause that keeps failing are paused, and nothing else.

use jiff::SignedDuration;

use crate::{
    api::{Breaker, Duration, FailureClass, ImageState, condition::Reason},
    engine::tests::{CURRENT, model::FamilyModel},
};

/// Returns a family of images that are built on one upstream.
fn fan(images: usize) -> FamilyModel {
    let images: Vec<(String, String)> =
        (0..images).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut model = FamilyModel::new(&["up", "up2"], &images);
    model.spec.policy.breaker =
        Breaker { consecutive_failures: 3, probe_after: Duration::from_secs(600) };
    model.spec.policy.retries.build = 0;
    model.spec.policy.parallelism = 4;
    model
}

/// Five images whose Dockerfiles do not build are added while a base is patched. The patches of
/// forty others waited for the trial builds of the five.
#[test]
fn builds_of_another_cause_go_on_while_the_breaker_is_open() {
    let mut model = fan(40);
    model.settle();
    let added = FamilyModel::new(
        &["up", "up2"],
        &[("new0", "up2"), ("new1", "up2"), ("new2", "up2"), ("new3", "up2"), ("new4", "up2")],
    );
    model.spec.images.extend(added.spec.images);
    model.records.resize(45, None);
    model.failing = (40..45).map(|image| (image, FailureClass::Build)).collect();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    let start = model.now;
    while model.builds()[..40].iter().any(|builds| *builds < 2) {
        model.reconcile();
        model.finish_builds();
        model.now += SignedDuration::from_secs(10);
        assert!(model.now.duration_since(start).as_secs() < 600, "{:?}", model.builds());
    }
    let breaker = model.status.breaker.clone().expect("open");
    assert_eq!(breaker.cause, "the first build");
    assert!(model.builds()[40..].iter().sum::<usize>() < 5 + 1, "{:?}", model.builds());
}

/// All bases of a family were broken. The repaired ones waited for a cascade that tried one broken
/// build every ten minutes.
#[test]
fn a_candidate_that_may_be_the_cure_ends_a_cascade_of_paused_builds() {
    let mut model = fan(8);
    model.settle();
    model.failing = (0..8).map(|image| (image, FailureClass::Build)).collect();
    model.upstream_digests[0] = "sha256:broken".into();
    model.begin();
    for _ in 0..20 {
        model.reconcile();
        model.finish_builds();
    }
    assert!(model.status.breaker.is_some() && !model.running.is_empty());
    assert_eq!(model.record("image7").reason, Reason::BreakerOpen);
    let paused_at = model.now;
    model.failing.clear();
    model.upstream_digests[0] = "sha256:repaired".into();
    for _ in 0..20 {
        model.reconcile();
        model.finish_builds();
        model.now += SignedDuration::from_secs(10);
    }
    assert!(model.now.duration_since(paused_at).as_secs() < 600);
    assert_eq!(model.states(), [CURRENT; 8]);
    let adopted = model.status.upstreams[0].adopted.as_ref().map(|adopted| &*adopted.digest);
    assert_eq!((adopted, &model.status.breaker), (Some("sha256:repaired"), &None));
}

#[test]
fn the_breaker_opens_lets_one_build_through_and_closes_on_success() {
    let images: Vec<(String, String)> =
        (0..8).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut model = FamilyModel::new(&["up"], &images);
    model.settle();
    model.spec.policy.breaker =
        Breaker { consecutive_failures: 3, probe_after: Duration::from_secs(600) };
    model.spec.policy.retries.build = 0;
    model.spec.policy.parallelism = 1;
    model.failing = (0..8).map(|image| (image, FailureClass::Build)).collect();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    for _ in 0..20 {
        model.reconcile();
        model.finish_builds();
    }
    assert_eq!(model.builds().iter().sum::<usize>(), 8 + 3, "{:?}", model.builds());
    let breaker = model.status.breaker.clone().expect("open");
    assert_eq!(breaker.failures.len(), 3);
    assert!(breaker.cause.contains("up"), "{}", breaker.cause);
    assert_eq!(model.record("image7").reason, Reason::BreakerOpen);
    model.now = breaker.probe_at.expect("a time");
    for _ in 0..5 {
        model.reconcile();
        model.finish_builds();
    }
    assert_eq!(
        model.builds().iter().sum::<usize>(),
        8 + 4,
        "one build is tried, and the breaker stays open"
    );
    model.failing.clear();
    model.settle();
    assert!(model.status.breaker.is_none());
    assert_eq!(model.builds().iter().sum::<usize>(), 8 + 8, "{:?}", model.builds());
}

#[test]
fn a_breaker_with_nothing_left_to_try_waits_for_the_next_cascade_or_for_a_user() {
    let images: Vec<(String, String)> =
        (0..4).map(|image| (format!("image{image}"), "base".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let images = [&[("base", "up")], images.as_slice()].concat();
    let mut model = FamilyModel::new(&["up"], &images);
    model.settle();
    model.spec.policy.breaker =
        Breaker { consecutive_failures: 3, probe_after: Duration::from_secs(600) };
    model.failing = (1..5).map(|image| (image, FailureClass::Build)).collect();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.states()[1..], [ImageState::Failed; 4]);
    assert!(model.running.is_empty());
    let breaker = model.status.breaker.clone().expect("open");
    assert_eq!(
        (breaker.failures.len(), breaker.probe_at),
        (4, None),
        "no image is left to be tried"
    );

    // Those that have failed wait for their parent: their failures belong to the cascade before.
    model.failing.clear();
    model.upstream_digests[0] = "sha256:up-2".into();
    model.begin();
    assert_eq!(model.states()[..2], [ImageState::Building, ImageState::Waiting]);
    assert!(model.status.breaker.is_none(), "a new cascade closes it");
    model.settle();
    assert_eq!(model.states(), [CURRENT; 5]);
}
