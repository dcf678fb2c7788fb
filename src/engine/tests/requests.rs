//! Requests of users.

use jiff::SignedDuration;

use crate::{
    api::{Duration, FailureClass, ImageState, condition::Reason},
    engine::{
        BuildOutcome,
        tests::{CURRENT, model::FamilyModel},
    },
};

pub(super) fn chain() -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base"), ("other", "up")]);
    model.settle();
    model
}

#[test]
fn a_trigger_skips_the_quiet_time() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.reconcile();
    assert_eq!(model.cascades.len(), 1);
    model.ask(r#"{"id":"1","action":"Trigger","image":"app"}"#);
    for _ in 0..3 {
        model.now += SignedDuration::from_secs(1);
        model.reconcile();
    }
    assert_eq!(model.builds(), [2, 1, 2]);
    assert!(model.answer("1").contains("without the quiet time"), "{}", model.answer("1"));
}

#[test]
fn a_forced_rebuild_is_made_once_per_request() {
    let mut model = chain();
    model.ask(r#"{"id":"1","action":"Force","image":"base"}"#);
    model.settle();
    assert_eq!(model.builds(), [2, 2, 1]);
    let nonce = model.record("base").nonce.clone().expect("a nonce");
    assert!(nonce.ends_with("Z/1"), "{nonce}");
    let causes = &model.record("app").causes;
    assert!(causes.iter().any(|cause| cause.via == ["base"] && cause.to == nonce), "{causes:?}");
    model.ask(r#"{"id":"2","action":"Force"}"#);
    model.settle();
    assert_eq!(model.builds(), [3, 3, 2]);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [4, 4, 3]);
}

#[test]
fn a_cancelled_build_is_stopped_and_waits_for_a_retry() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    assert_eq!(model.builds(), [2, 1, 2]);
    model.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    model.settle();
    assert_eq!(model.states(), [ImageState::Failed, ImageState::Blocked, CURRENT]);
    assert_eq!(model.record("base").reason, Reason::Cancelled);
    assert_eq!(model.builds(), [2, 1, 2]);
    // The cluster has deleted the Job by then.
    model.jobs.retain(|(_, job)| job.outcome != BuildOutcome::Stopped);
    model.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![3, 2, 2]));
    let fingerprint = model.record("base").fingerprint.clone();
    let again = model
        .jobs
        .iter()
        .find(|(of, job)| {
            *of == 0
                && fingerprint.as_ref().is_some_and(|wanted| job.identity.fingerprint == *wanted)
        })
        .expect("a Job");
    assert_eq!(again.1.identity.attempt, 1, "another Job than the one that was stopped");
}

#[test]
fn cancel_stops_what_was_begun_for_earlier_inputs() {
    let mut model = chain();
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.begin();
    assert_eq!(model.builds(), [2, 1, 1]);
    model.spec.images[0].args.insert("A".into(), "2".into());
    model.reconcile();
    assert!(model.record("base").message.contains("an earlier build runs to completion"));
    model.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    model.reconcile();
    assert_eq!(model.stopped(), 1);
    model.settle();
    assert_eq!((model.states()[0], model.builds()[0]), (ImageState::Failed, 2));

    // Back to what is built already, while what nobody wants any more still runs.
    let mut model = chain();
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.begin();
    model.spec.images[0].args.clear();
    model.reconcile();
    assert_eq!(model.states()[0], CURRENT);
    model.ask(r#"{"id":"1","action":"Cancel"}"#);
    model.settle();
    assert_eq!((model.stopped(), model.states()), (1, vec![CURRENT; 3]));
    assert!(model.answer("1").contains("are cancelled"), "{}", model.answer("1"));
}

#[test]
fn cancel_leaves_alone_what_has_failed_permanently() {
    let mut model = FamilyModel::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    model.settle();
    model.failing.insert(0, FailureClass::Build);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let failed = model.record("base").clone();
    model.ask(r#"{"id":"1","action":"Cancel"}"#);
    model.settle();
    assert_eq!(model.record("base").failure, failed.failure);
    assert!(model.answer("1").contains("nothing to cancel"), "{}", model.answer("1"));
    model.failing.clear();
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 2], "the next cascade tries it again");
}

/// A chain whose second image is cancelled while its parent is built.
fn cancelled_while_waiting() -> FamilyModel {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    assert_eq!(model.states()[1], ImageState::Waiting);
    model.ask(r#"{"id":"1","action":"Cancel","image":"app"}"#);
    model.reconcile();
    assert_eq!(model.record("app").reason, Reason::Cancelled);
    model
}

#[test]
fn an_image_that_waits_for_its_parent_is_taken_out_of_the_cascade() {
    let mut model = cancelled_while_waiting();
    model.settle();
    assert_eq!(model.states(), [CURRENT, ImageState::Failed, CURRENT]);
    assert_eq!(model.builds(), [2, 1, 2]);
    model.ask(r#"{"id":"2","action":"Retry","image":"app"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![2, 2, 2]));

    // Its parent comes to nothing in this cascade: the next one does not know of the cancellation.
    model.upstream_digests[0] = "sha256:up-2".into();
    model.begin();
    model.ask(r#"{"id":"3","action":"Cancel","image":"app"}"#);
    model.failing.insert(0, FailureClass::Build);
    model.settle();
    assert_eq!(model.states(), [ImageState::Failed, ImageState::Blocked, CURRENT]);
    model.failing.clear();
    model.upstream_digests[0] = "sha256:up-3".into();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
}

#[test]
fn a_forced_image_is_built_that_was_cancelled_while_it_waited() {
    let mut model = cancelled_while_waiting();
    model.ask(r#"{"id":"2","action":"Force","image":"app"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![2, 2, 2]));
}

#[test]
fn a_cancellation_that_was_recorded_before_is_kept() {
    let mut model = cancelled_while_waiting();
    // Earlier versions wrote what is absent as an empty text and as -1.
    let app = model.index("app");
    let failure = model.record("app").failure.clone().expect("cancelled");
    let mut written = serde_json::to_value(&failure).expect("a record");
    assert!(written["fingerprint"].is_null() && written["attempt"].is_null(), "{written}");
    (written["fingerprint"], written["attempt"]) = ("".into(), (-1).into());
    let read = serde_json::from_value(written).expect("a record");
    assert_eq!(failure, read);
    model.records[app].as_mut().expect("a record").failure = Some(read);
    model.settle();
    assert_eq!(model.states(), [CURRENT, ImageState::Failed, CURRENT]);
    assert_eq!(model.builds(), [2, 1, 2]);
}

#[test]
fn a_retry_that_is_not_recorded_yet_forgives_once() {
    let mut model = FamilyModel::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    model.settle();
    model.failing.insert(0, FailureClass::Build);
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.settle();
    assert_eq!(model.builds(), [3, 1]);
    model.ask(r#"{"id":"1","action":"Retry"}"#);
    let asked = model.requests.clone();
    for _ in 0..10 {
        // As if the controller died every time between the images' records and the request's.
        model.requests.clone_from(&asked);
        model.settle();
    }
    assert_eq!(model.builds(), [5, 1], "retries.build is 1");
}

#[test]
fn a_failed_image_is_retried_on_request_and_by_the_next_cascade() {
    let mut model = FamilyModel::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    model.failing.insert(0, FailureClass::Build);
    model.settle();
    assert_eq!(model.builds(), [2, 1]);
    model.ask(r#"{"id":"1","action":"Retry"}"#);
    model.settle();
    assert_eq!(model.builds(), [4, 1], "retries.build is reset");
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.settle();
    assert_eq!(model.builds(), [6, 2], "a cascade tries again whatever caused it");
    model.failing.clear();
    model.upstream_digests[1] = "sha256:up2-2".into();
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![7, 3], vec![CURRENT; 2]));
}

#[test]
fn an_image_that_is_held_is_taken_out_of_the_cascade() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    let held = crate::api::ImageHold {
        until: Some(model.now + SignedDuration::from_secs(60)),
        ..Default::default()
    };
    model.spec.images[0].hold = Some(held);
    model.reconcile();
    assert_eq!((model.states()[0], model.builds()), (ImageState::Held, vec![2, 1, 2]));
    model.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    model.reconcile();
    assert_eq!(model.stopped(), 1);
    model.reconcile();
    model.jobs.retain(|(_, job)| job.outcome != BuildOutcome::Stopped);
    model.now += SignedDuration::from_secs(61);
    model.reconcile();
    assert_eq!(
        (model.states()[0], model.record("base").reason.as_str()),
        (ImageState::Failed, Reason::Cancelled.as_str())
    );
    model.settle();
    assert_eq!(model.builds(), [2, 1, 2]);
    model.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![3, 2, 2]));
}

#[test]
fn a_hold_does_not_make_failures_forgotten() {
    let mut model = chain();
    model.failing.insert(0, FailureClass::Build);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let (failed, built) = (model.record("base").failure.clone(), model.builds());
    // Their Jobs expire meanwhile.
    model.jobs.retain(|(of, _)| *of != 0);
    model.spec.images[0].hold = Some(crate::api::ImageHold::default());
    model.settle();
    assert_eq!(model.states()[0], ImageState::Held);
    model.spec.images[0].hold = None;
    model.settle();
    assert_eq!((model.states()[0], model.builds()), (ImageState::Failed, built));
    assert_eq!(model.record("base").failure, failed);
}

#[test]
fn holds_by_request_last_until_they_are_removed() {
    let mut model = chain();
    model.ask(r#"{"id":"1","action":"Hold","image":"base","reason":"release","by":"ada"}"#);
    model.settle();
    let hold = model.record("base").hold.clone().expect("a hold");
    assert_eq!((hold.reason.as_deref(), hold.by.as_deref()), (Some("release"), Some("ada")));
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.states(), [ImageState::Held, CURRENT, CURRENT]);
    assert_eq!(model.builds(), [1, 1, 2]);
    model.ask(r#"{"id":"2","action":"Unhold","image":"base"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![2, 2, 2]));

    model.ask(r#"{"id":"3","action":"Hold","upstream":"up"}"#);
    model.settle();
    model.upstream_digests[0] = "sha256:up-2".into();
    model.settle();
    assert_eq!(model.status.upstreams[0].known_reason(), Some(Reason::Held));
    assert_eq!(model.builds(), [2, 2, 2]);
    model.ask(r#"{"id":"4","action":"Unhold","upstream":"up"}"#);
    model.settle();
    assert_eq!(model.builds(), [3, 3, 3]);
}

#[test]
fn a_request_to_start_waits_until_it_can() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.spec.suspend = true;
    model.ask(r#"{"id":"1","action":"Trigger"}"#);
    model.settle();
    assert_eq!((model.answer("1"), model.builds()), ("not handled", vec![1; 3]));
    model.spec.suspend = false;
    model.now += SignedDuration::from_secs(1);
    for _ in 0..3 {
        model.reconcile();
    }
    assert_eq!(model.builds(), [2, 1, 2], "without a quiet time");
    assert!(model.answer("1").contains("without the quiet time"), "{}", model.answer("1"));
}

#[test]
fn requests_during_a_cascade_start_when_it_has_ended() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.upstream_digests[0] = "sha256:up-2".into();
    model.reconcile();
    model.ask(r#"{"id":"1","action":"Trigger","image":"app"}"#);
    for _ in 0..6 {
        model.reconcile();
        assert_eq!(
            model.builds()[0] < 3,
            model.answer("1") == "not handled",
            "handled when it has begun"
        );
        model.finish_builds();
        model.now += SignedDuration::from_secs(1);
    }
    assert_eq!(model.builds()[0], 3, "the next cascade has begun within seconds");
    assert!(model.answer("1").contains("without the quiet time"), "{}", model.answer("1"));

    // What the cascade has built already, and leaves to the next one.
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base"), ("slow", "base")]);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.finish_builds();
    model.reconcile();
    model.finish_only("app");
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.reconcile();
    model.finish_only("base");
    model.reconcile();
    assert_eq!(model.record("app").reason, Reason::NextCascade);
    model.ask(r#"{"id":"1","action":"Trigger","image":"app"}"#);
    model.finish_builds();
    for _ in 0..4 {
        model.reconcile();
        model.now += SignedDuration::from_secs(1);
    }
    assert_eq!(model.builds()[1], 3, "{:?}", model.records);
}

#[test]
fn a_request_to_start_survives_a_suspension_of_the_cascade() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.spec.suspend = true;
    model.ask(r#"{"id":"1","action":"Force","image":"other"}"#);
    model.settle();
    assert_eq!((model.answer("1"), model.builds()[2]), ("not handled", 2));
    model.spec.suspend = false;
    model.settle();
    assert_eq!(model.builds(), [2, 2, 3]);
    assert!(model.answer("1").contains("is rebuilt"), "{}", model.answer("1"));
}

#[test]
fn a_forced_image_does_not_wait_for_parents_whose_upstream_settles() {
    let mut model = FamilyModel::new(
        &["up"],
        &[("base", "up"), ("lib", "base"), ("app", "lib"), ("other", "base")],
    );
    model.settle();
    model.spec.policy.settle = Duration::from_secs(600);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.reconcile();
    model.ask(r#"{"id":"hotfix","action":"Force","image":"app"}"#);
    for _ in 0..4 {
        model.now += SignedDuration::from_secs(1);
        model.reconcile();
        model.finish_builds();
    }
    assert_eq!(model.builds(), [1, 1, 2, 1], "built from its parents as they are");
    assert!(model.status.upstreams[0].candidate.is_some(), "it settles");
    model.settle();
    assert_eq!(model.builds(), [2, 2, 3, 2]);
}

#[test]
fn a_start_is_not_lost_while_the_registry_is_unreachable() {
    for (request, builds) in [
        (r#"{"id":"1","action":"Force","image":"app"}"#, [1, 2, 1]),
        (r#"{"id":"1","action":"Force","image":"base","subtree":true}"#, [2, 2, 1]),
        (r#"{"id":"1","action":"Retry"}"#, [3, 1, 1]),
    ] {
        let mut model = chain();
        if request.contains("Retry") {
            model.failing.insert(0, FailureClass::Input);
            model.spec.images[0].args.insert("A".into(), "1".into());
            model.settle();
            model.failing.clear();
        }
        model.registry_unreachable = true;
        model.asked.clear();
        model.ask(request);
        for _ in 0..5 {
            model.reconcile();
            model.now += SignedDuration::from_secs(10);
        }
        assert_eq!(model.answer("1"), "not handled", "{request}");
        model.registry_unreachable = false;
        let since = model.now;
        for _ in 0..4 {
            model.reconcile();
            model.finish_builds();
        }
        assert_eq!(
            (model.now, model.builds()[0]),
            (since, builds[0]),
            "without a quiet time: {request}"
        );
        model.settle();
        assert!(model.builds()[1] >= builds[1], "{request}");
        assert_ne!(model.answer("1"), "not handled");
    }
}

#[test]
fn there_has_to_be_something_to_cancel() {
    let mut model = chain();
    model.ask(r#"{"id":"1","action":"Cancel"}"#);
    model.settle();
    assert!(model.answer("1").contains("nothing to cancel"), "{}", model.answer("1"));
}

#[test]
fn impossible_requests_are_refused_with_a_message() {
    let mut model = chain();
    for (request, words) in [
        (r#"{"id":"1","action":"Force","image":"nobody"}"#, "the family has no image `nobody`"),
        (
            r#"{"id":"2","action":"Hold","upstream":"nobody"}"#,
            "the family has no upstream `nobody`",
        ),
        (
            r#"{"id":"3","action":"Hold","image":"base","until":"2001-01-01T00:00:00Z"}"#,
            "`until` is in the past",
        ),
    ] {
        model.ask(request);
        model.settle();
        let id = &request[7..8];
        assert!(model.answer(id).contains(words), "{}", model.answer(id));
    }
    assert_eq!(model.builds(), [1, 1, 1]);
}
