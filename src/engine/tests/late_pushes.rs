//! Registries that show what a build has pushed only a while after it has succeeded.

use jiff::SignedDuration;

use crate::{
    api::{ImageState, condition::Reason},
    engine::{
        BuildOutcome, Effect,
        tests::{CURRENT, model::FamilyModel},
    },
};

/// A family whose build has just succeeded, and whose registry does not show the push.
fn unshown() -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.reconcile();
    model.reconcile();
    let now = model.now;
    for (_, job) in &mut model.jobs {
        (job.outcome, job.live, job.ended_at) = (BuildOutcome::Succeeded, false, Some(now));
    }
    model
}

/// Lets the registry show what the first build has pushed.
fn show(model: &mut FamilyModel) {
    let identity = model.jobs[0].1.identity.clone();
    model.pushed.insert((0, identity.fingerprint), ("sha256:late".into(), identity.number));
}

/// Lets some seconds pass, and reconciles.
fn reconcile_after(model: &mut FamilyModel, seconds: i64) {
    model.now += SignedDuration::from_secs(seconds);
    model.reconcile();
}

/// The state of the image and its reason.
fn state(model: &FamilyModel) -> (ImageState, Reason) {
    let record = model.record("base");
    (record.state, record.known_reason().expect("a reason"))
}

#[test]
fn a_push_that_shows_late_is_awaited_and_built_once() {
    let mut model = unshown();
    let decision = model.reconcile();
    assert_eq!(state(&model), (ImageState::Checking, Reason::Verifying));
    let message = &model.record("base").message;
    assert!(message.starts_with("build 1 has succeeded") && message.contains("60 s"), "{message}");
    assert_eq!(decision.wake_at, Some(model.now + SignedDuration::from_secs(2)));
    assert_eq!(model.record("app").reason, Reason::WaitingForParent);
    show(&mut model);
    reconcile_after(&mut model, 1);
    assert_eq!(state(&model).1, Reason::Verifying, "it is asked after the pause");
    reconcile_after(&mut model, 1);
    assert_eq!(state(&model), (CURRENT, Reason::Current));
    assert_eq!(model.record("base").digest.as_deref(), Some("sha256:late"));
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![1, 1]));
}

#[test]
fn a_push_that_never_shows_counts_as_failed_after_a_minute() {
    let mut model = unshown();
    model.reconcile();
    for _ in 0..5 {
        reconcile_after(&mut model, 11);
        assert_eq!(state(&model), (ImageState::Checking, Reason::Verifying));
        assert_eq!(model.record("base").failure, None);
    }
    reconcile_after(&mut model, 5);
    assert_eq!(state(&model), (ImageState::Queued, Reason::Retrying));
    let failures = |model: &FamilyModel| {
        model.record("base").failure.as_ref().map(|record| record.infrastructure)
    };
    assert_eq!(failures(&model), Some(1));
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![2, 1]));
}

#[test]
fn a_restart_neither_extends_the_wait_nor_ends_it() {
    let mut model = unshown();
    for elapsed in (0..60).step_by(10) {
        model.asked.clear();
        model.reconcile();
        assert_eq!(state(&model).1, Reason::Verifying, "after {elapsed} s");
        model.now += SignedDuration::from_secs(10);
    }
    model.asked.clear();
    model.reconcile();
    assert_eq!(state(&model).1, Reason::Retrying);
    assert_eq!(model.builds(), [1, 0]);
}

/// A build whose end nobody knows any more, or that ended long ago, is not waited for.
#[test]
fn a_push_is_not_awaited_without_a_recent_end() {
    for ended in [None, Some(-61), Some(61)] {
        let mut model = unshown();
        model.jobs[0].1.ended_at =
            ended.map(|seconds| model.now + SignedDuration::from_secs(seconds));
        model.reconcile();
        assert_eq!(state(&model).1, Reason::Retrying, "{ended:?}");
    }
}

#[test]
fn the_registry_is_asked_again_before_the_build_is_repeated() {
    let mut model = unshown();
    model.jobs[0].1.ended_at = None;
    model.reconcile();
    assert_eq!(state(&model).1, Reason::Retrying);
    show(&mut model);
    reconcile_after(&mut model, 1);
    assert_eq!(state(&model).1, Reason::Retrying, "it is asked when the pause has passed");
    reconcile_after(&mut model, 9);
    assert_eq!(state(&model), (CURRENT, Reason::Current));
    model.settle();
    assert_eq!(model.builds(), [1, 1]);
}

/// The Job shows when the build ended, so that it must stay until the push shows.
#[test]
fn a_job_that_a_sidecar_outlives_stays_while_its_push_is_awaited() {
    let mut model = unshown();
    model.jobs[0].1.live = true;
    for (seconds, stops) in [(0, 0), (10, 0), (50, 1)] {
        model.now += SignedDuration::from_secs(seconds);
        let decision = model.reconcile();
        let stopped =
            decision.effects.iter().filter(|effect| matches!(effect, Effect::Stop { .. }));
        assert_eq!(stopped.count(), stops, "{seconds} s later");
    }
}

#[test]
fn a_user_who_cancels_does_not_wait_for_a_push() {
    let mut model = unshown();
    model.reconcile();
    model.ask(r#"{"id":"stop","action":"Cancel","image":"base"}"#);
    reconcile_after(&mut model, 3);
    assert_eq!(state(&model), (ImageState::Failed, Reason::Cancelled));
}
