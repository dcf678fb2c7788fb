//! Outages: what builds need around them fails, for minutes or for weeks, and works again.

use std::collections::HashSet;

use jiff::SignedDuration;

use crate::{
    api::{Breaker, FailureClass, ImageState, OnParentFailure, condition::Reason},
    engine::{
        BuildOutcome, CascadeDecision,
        tests::{CURRENT, model::FamilyModel},
    },
};

/// Lets the infrastructure of these images fail.
fn fail(model: &mut FamilyModel, images: impl IntoIterator<Item = usize>) {
    model.failing = images.into_iter().map(|image| (image, FailureClass::Infrastructure)).collect();
}

/// Reconciles for some minutes, at each time that something waits for. Builds end at once, and
/// the Jobs of those that failed are soon gone.
fn run(model: &mut FamilyModel, minutes: i64) {
    let end = model.now + SignedDuration::from_mins(minutes);
    while model.now < end {
        let decision = model.reconcile();
        let soon = model.now + SignedDuration::from_secs(1);
        let starts_or_ends =
            !matches!(decision.cascade, CascadeDecision::None | CascadeDecision::Continue);
        let is_moving = starts_or_ends || !decision.effects.is_empty();
        model.finish_builds();
        let next = decision.wake_at.filter(|_| !is_moving).unwrap_or(soon);
        model.now = next.clamp(soon, end.max(soon));
        model.jobs.retain(|(_, job)| job.live || job.outcome == BuildOutcome::Succeeded);
    }
    model.reconcile();
}

fn all_builds(model: &FamilyModel) -> usize {
    model.builds().iter().sum()
}

#[test]
fn an_outage_of_days_heals_within_minutes_after_its_end() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, [0]);
    model.failure_reason = Reason::RegistryUnavailable;
    run(&mut model, 10);
    let record = model.record("base").clone();
    let state = (record.state, record.reason.as_str());
    assert_eq!(state, (ImageState::Queued, Reason::RegistryUnavailable.as_str()));
    assert!(record.message.contains("failures: it broke"), "{}", record.message);
    assert_eq!(model.record("app").reason, Reason::WaitingForParent);
    let before = model.builds()[0];
    run(&mut model, 3 * 24 * 60);
    let tried = model.builds()[0] - before;
    assert!((3 * 24 * 12..=3 * 24 * 16 + 1).contains(&tried), "{tried} in three days");
    assert_eq!(model.states(), [ImageState::Queued, ImageState::Waiting]);
    model.failing.clear();
    run(&mut model, 6);
    assert_eq!(model.states(), [CURRENT; 2]);
    assert_eq!(model.record("base").failure, None);
}

/// The builder's 429 is `RegistryUnavailable`; a registry may limit pulls for six hours.
#[test]
fn a_limit_that_lasts_for_hours_gives_no_image_up() {
    let mut model = FamilyModel::fan(6);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..6);
    model.failure_reason = Reason::RegistryUnavailable;
    let before = all_builds(&model);
    run(&mut model, 6 * 60);
    assert_eq!(model.states(), [ImageState::Queued; 6]);
    assert_eq!(model.record("image0").reason, Reason::RegistryUnavailable);
    let tried = all_builds(&model) - before;
    assert!((6 * 12..=6 * 12 + 20).contains(&tried), "{tried} builds for all images in six hours");
    model.failing.clear();
    run(&mut model, 6);
    assert_eq!(model.states(), [CURRENT; 6]);
}

#[test]
fn what_a_user_has_to_correct_is_tried_rarely_until_it_is() {
    for reason in [Reason::RegistryDenied, Reason::PushRefused, Reason::RegistryUntrusted] {
        let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
        model.settle();
        model.upstream_digests[0] = "sha256:up-1".into();
        fail(&mut model, [0]);
        model.failure_reason = reason;
        // The quiet time, the first attempt, and the pause after it.
        run(&mut model, 1);
        assert_eq!(model.builds()[0], 1 + 1, "{reason}");
        assert_eq!(model.record("base").reason, Reason::Retrying);
        run(&mut model, 1);
        assert_eq!(model.builds()[0], 1 + 2, "{reason}");
        let record = model.record("base").clone();
        assert_eq!((record.state, record.known_reason()), (ImageState::Queued, Some(reason)));
        run(&mut model, 60);
        let tried = model.builds()[0] - 3;
        assert!((11..=17).contains(&tried), "{reason}: {tried} in an hour");
        model.failing.clear();
        run(&mut model, 6);
        assert_eq!(model.states(), [CURRENT; 2], "{reason}");
    }
}

#[test]
fn one_build_at_a_time_is_tried_for_all_images_of_an_outage() {
    let mut model = FamilyModel::fan(100);
    model.settle();
    model.spec.policy.parallelism = 10;
    model.spec.policy.breaker = Breaker { consecutive_failures: 0, ..Breaker::default() };
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..100);
    run(&mut model, 30);
    let before = model.builds();
    let first_round = before.iter().sum::<usize>() - 100;
    assert!(first_round <= 30, "{first_round} tries in half an hour");
    run(&mut model, 60);
    let tried = all_builds(&model) - before.iter().sum::<usize>();
    assert!((11..=13).contains(&tried), "{tried} tries in an hour");
    let after = model.builds();
    let images: HashSet<usize> = (0..100).filter(|image| after[*image] > before[*image]).collect();
    assert_eq!(images.len(), tried, "another image each time");
    // An image that was not tried says what it waits for.
    let record = model.record("image99");
    let state = (record.state, record.reason.as_str());
    assert_eq!(state, (ImageState::Queued, Reason::InfrastructureFailed.as_str()));
    assert!(record.message.contains("one build at a time is tried"), "{}", record.message);
    assert_eq!(model.status.breaker, None, "an outage is no failure of builds");

    model.failing.clear();
    model.most_at_once = 0;
    run(&mut model, 6);
    assert_eq!(model.states(), [CURRENT; 100]);
    assert_eq!(model.most_at_once, 10, "the others follow through the usual limits");
}

#[test]
fn an_outage_of_first_builds_is_over_when_one_succeeds() {
    let mut model = FamilyModel::fan(20);
    model.spec.policy.parallelism = 10;
    fail(&mut model, 0..20);
    run(&mut model, 60);
    assert!(model.records.iter().flatten().all(|record| record.digest.is_none()));
    model.failing.clear();
    model.most_at_once = 0;
    run(&mut model, 6);
    assert_eq!(model.states(), [CURRENT; 20]);
    assert_eq!(model.most_at_once, 10, "the others follow through the usual limits");
}

#[test]
fn builds_that_need_something_else_go_on_in_an_outage() {
    let images: Vec<(String, String)> = (0..40)
        .map(|image| (format!("image{image}"), if image < 20 { "up" } else { "up2" }.to_owned()))
        .collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut model = FamilyModel::new(&["up", "up2"], &images);
    model.spec.upstreams[0].image = "quay.io/library/up".into();
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..20);
    run(&mut model, 30);
    assert!(model.states()[..20].iter().all(|state| *state == ImageState::Queued));
    model.upstream_digests[1] = "sha256:up2-1".into();
    let before = all_builds(&model);
    run(&mut model, 10);
    assert_eq!(model.states()[20..], [CURRENT; 20]);
    assert_eq!(model.builds()[20..], [2; 20]);
    assert!(all_builds(&model) - before <= 20 + 3, "{}", all_builds(&model) - before);
}

/// An image that runs out of memory says nothing about the others, and is likely to do so again.
#[test]
fn a_build_that_needs_too_much_holds_back_no_other_and_fails_in_the_end() {
    let mut model = FamilyModel::fan(30);
    model.settle();
    model.spec.policy.parallelism = 5;
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..5);
    model.failure_reason = Reason::OutOfMemory;
    run(&mut model, 3);
    assert_eq!(model.states()[5..], [CURRENT; 25]);
    assert_eq!(model.record("image0").reason, Reason::Retrying);
    run(&mut model, 12);
    let record = model.record("image0");
    let state = (record.state, record.reason.as_str());
    assert_eq!(state, (ImageState::Failed, Reason::InfrastructureFailed.as_str()));
    assert_eq!(model.builds()[..5], [1 + 6; 5], "retries.infrastructure is 5");
    assert!(model.running.is_empty());
}

/// Two nodes are drained: what was evicted is built again at once, and side by side.
#[test]
fn a_passing_trouble_makes_no_build_wait_for_another() {
    let mut model = FamilyModel::fan(8);
    model.settle();
    model.spec.policy.parallelism = 8;
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..5);
    model.begin();
    model.finish_builds();
    model.failing.clear();
    model.reconcile();
    model.now += SignedDuration::from_secs(5);
    model.reconcile();
    assert_eq!(model.builds(), [3, 3, 3, 3, 3, 2, 2, 2]);
}

#[test]
fn a_cascade_that_only_waits_for_an_outage_ends_for_what_is_pending() {
    let mut model = FamilyModel::fan(6);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..6);
    run(&mut model, 60);
    assert!(!model.running.is_empty());
    model.upstream_digests[0] = "sha256:up-2".into();
    model.failing.clear();
    run(&mut model, 3);
    let adopted = model.status.upstreams[0].adopted.as_ref().map(|adopted| &*adopted.digest);
    assert_eq!((adopted, model.states()), (Some("sha256:up-2"), vec![CURRENT; 6]));
}

#[test]
fn a_child_may_continue_with_the_last_verified_digest_of_a_parent_in_an_outage() {
    let mut model = FamilyModel::new(
        &["up", "up2"],
        &[("base", "up"), ("app", "base up2*"), ("other", "base up2*")],
    );
    model.settle();
    model.spec.images[1].on_parent_failure = OnParentFailure::UseLastVerified;
    let verified = model.record("base").digest.clone().expect("a digest");
    fail(&mut model, [0]);
    model.upstream_digests = vec!["sha256:up-1".into(), "sha256:up2-1".into()];
    run(&mut model, 60);
    assert_eq!(model.states(), [ImageState::Queued, CURRENT, ImageState::Waiting]);
    let inputs = model.record("app").inputs.clone().expect("inputs");
    let digests: Vec<&str> = inputs.parents.iter().map(|parent| &*parent.digest).collect();
    assert_eq!(digests, [verified.as_str(), "sha256:up2-1"]);
    model.failing.clear();
    run(&mut model, 10);
    assert_eq!(model.states(), [CURRENT; 3]);
    let inputs = model.record("app").inputs.clone().expect("inputs");
    assert_eq!(Some(&inputs.parents[0].digest), model.record("base").digest.as_ref());
}

#[test]
fn a_user_who_retries_waits_for_no_outage() {
    let mut model = FamilyModel::fan(10);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..10);
    run(&mut model, 60);
    let before = model.builds();
    model.ask(r#"{"id":"1","action":"Retry","image":"image4"}"#);
    model.reconcile();
    let started: Vec<usize> =
        (0..10).filter(|image| model.builds()[*image] > before[*image]).collect();
    assert!(started.contains(&4) && started.len() <= 2, "{started:?}");
}

#[test]
fn a_user_who_retries_an_image_that_has_not_failed_waits_for_no_outage() {
    let mut model = FamilyModel::fan(100);
    model.settle();
    model.spec.policy.breaker = Breaker { consecutive_failures: 0, ..Breaker::default() };
    model.upstream_digests[0] = "sha256:up-1".into();
    fail(&mut model, 0..100);
    run(&mut model, 30);
    let waits = (0..100).find(|image| {
        model.builds()[*image] == 1 && model.record(&format!("image{image}")).failure.is_none()
    });
    let waits = waits.expect("an image that only waits for the outage");
    model.ask(&format!(r#"{{"id":"1","action":"Retry","image":"image{waits}"}}"#));
    model.reconcile();
    assert_eq!(model.builds()[waits], 2, "{:?}", model.record(&format!("image{waits}")));
}
