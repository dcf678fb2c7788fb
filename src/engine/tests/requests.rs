//! What people ask for by hand.

use jiff::SignedDuration;

use crate::{
    api::{FailureClass, ImageState, condition::reason},
    engine::{
        BuildOutcome,
        tests::{CURRENT, world::World},
    },
};

fn chain() -> World {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base"), ("other", "up")]);
    world.settle();
    world
}

#[test]
fn a_trigger_skips_the_quiet_time() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.pass();
    assert_eq!(world.cascades.len(), 1);
    world.ask(r#"{"id":"1","action":"Trigger","image":"app"}"#);
    for _ in 0..3 {
        world.now += SignedDuration::from_secs(1);
        world.pass();
    }
    assert_eq!(world.builds(), [2, 1, 2]);
    assert!(world.answer("1").contains("without the settle time"), "{}", world.answer("1"));
}

#[test]
fn a_forced_rebuild_is_made_once_per_request() {
    let mut world = chain();
    world.ask(r#"{"id":"1","action":"Force","image":"base"}"#);
    world.settle();
    assert_eq!(world.builds(), [2, 2, 1]);
    assert_eq!(world.record("base").nonce.as_deref(), Some("1"));
    let causes = &world.record("app").causes;
    assert!(causes.iter().any(|cause| cause.via == ["base"] && cause.to == "1"), "{causes:?}");
    world.ask(r#"{"id":"2","action":"Force"}"#);
    world.settle();
    assert_eq!(world.builds(), [3, 3, 2]);
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.builds(), [4, 4, 3]);
}

#[test]
fn a_cancelled_build_is_stopped_and_waits_for_a_retry() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    assert_eq!(world.builds(), [2, 1, 2]);
    world.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    world.settle();
    assert_eq!(world.states(), [ImageState::Failed, ImageState::Blocked, CURRENT]);
    assert_eq!(world.record("base").reason, reason::CANCELLED);
    assert_eq!(world.builds(), [2, 1, 2]);
    // The cluster has deleted the Job by then.
    world.jobs.retain(|(_, job)| job.outcome != BuildOutcome::Stopped);
    world.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT; 3], vec![3, 2, 2]));
    let fingerprint = world.record("base").fingerprint.clone();
    let again = world
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
    let mut world = chain();
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.begin();
    assert_eq!(world.builds(), [2, 1, 1]);
    world.spec.images[0].args.insert("A".into(), "2".into());
    world.pass();
    assert!(world.record("base").message.contains("an earlier build runs to completion"));
    world.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    world.pass();
    assert_eq!(world.stopped(), 1);
    world.settle();
    assert_eq!((world.states()[0], world.builds()[0]), (ImageState::Failed, 2));

    // Back to what is built already, while what nobody wants any more still runs.
    let mut world = chain();
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.begin();
    world.spec.images[0].args.clear();
    world.pass();
    assert_eq!(world.states()[0], CURRENT);
    world.ask(r#"{"id":"1","action":"Cancel"}"#);
    world.settle();
    assert_eq!((world.stopped(), world.states()), (1, vec![CURRENT; 3]));
    assert!(world.answer("1").contains("is cancelled"), "{}", world.answer("1"));
}

#[test]
fn cancel_leaves_alone_what_has_failed_for_good() {
    let mut world = World::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    world.settle();
    world.failing.insert(0, FailureClass::Build);
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    let failed = world.record("base").clone();
    world.ask(r#"{"id":"1","action":"Cancel"}"#);
    world.settle();
    assert_eq!(world.record("base").failure, failed.failure);
    assert!(world.answer("1").contains("nothing to cancel"), "{}", world.answer("1"));
    world.failing.clear();
    world.upstream_digests[1] = "sha256:up2-1".into();
    world.settle();
    assert_eq!(world.states(), [CURRENT; 2], "the next cascade tries it again");
}

#[test]
fn an_image_that_waits_for_its_parent_is_taken_out_of_the_cascade() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    assert_eq!(world.states()[1], ImageState::Waiting);
    world.ask(r#"{"id":"1","action":"Cancel","image":"app"}"#);
    world.pass();
    assert_eq!(world.record("app").reason, reason::CANCELLED);
    world.settle();
    assert_eq!(world.states(), [CURRENT, ImageState::Failed, CURRENT]);
    assert_eq!(world.builds(), [2, 1, 2]);
    world.ask(r#"{"id":"2","action":"Retry","image":"app"}"#);
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT; 3], vec![2, 2, 2]));

    // Its parent comes to nothing in this cascade: the next one does not know of the cancellation.
    world.upstream_digests[0] = "sha256:up-2".into();
    world.begin();
    world.ask(r#"{"id":"3","action":"Cancel","image":"app"}"#);
    world.failing.insert(0, FailureClass::Build);
    world.settle();
    assert_eq!(world.states(), [ImageState::Failed, ImageState::Blocked, CURRENT]);
    world.failing.clear();
    world.upstream_digests[0] = "sha256:up-3".into();
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
}

#[test]
fn a_retry_that_is_not_recorded_yet_forgives_once() {
    let mut world = World::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    world.settle();
    world.failing.insert(0, FailureClass::Build);
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.settle();
    assert_eq!(world.builds(), [3, 1]);
    let records = world.status.requests.len();
    for _ in 0..10 {
        // As if the controller died every time between the images' records and the family's.
        world.status.requests.truncate(records);
        world.requests.clear();
        world.ask(r#"{"id":"1","action":"Retry"}"#);
        world.settle();
    }
    assert_eq!(world.builds(), [5, 1], "retries.build is 1");
}

#[test]
fn a_failed_image_is_tried_again_by_hand_and_by_the_next_cascade() {
    let mut world = World::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    world.failing.insert(0, FailureClass::Build);
    world.settle();
    assert_eq!(world.builds(), [2, 1]);
    world.ask(r#"{"id":"1","action":"Retry"}"#);
    world.settle();
    assert_eq!(world.builds(), [4, 1], "retries.build begins anew");
    world.upstream_digests[1] = "sha256:up2-1".into();
    world.settle();
    assert_eq!(world.builds(), [6, 2], "a cascade tries again whatever set it off");
    world.failing.clear();
    world.upstream_digests[1] = "sha256:up2-2".into();
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![7, 3], vec![CURRENT; 2]));
}

#[test]
fn an_image_that_is_held_is_taken_out_of_the_cascade() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    let held = crate::api::ImageHold {
        until: Some(world.now + SignedDuration::from_secs(60)),
        ..Default::default()
    };
    world.spec.images[0].hold = Some(held);
    world.pass();
    assert_eq!((world.states()[0], world.builds()), (ImageState::Held, vec![2, 1, 2]));
    world.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    world.pass();
    assert_eq!(world.stopped(), 1);
    world.pass();
    world.jobs.retain(|(_, job)| job.outcome != BuildOutcome::Stopped);
    world.now += SignedDuration::from_secs(61);
    world.pass();
    assert_eq!(
        (world.states()[0], world.record("base").reason.as_str()),
        (ImageState::Failed, reason::CANCELLED)
    );
    world.settle();
    assert_eq!(world.builds(), [2, 1, 2]);
    world.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT; 3], vec![3, 2, 2]));
}

#[test]
fn a_hold_does_not_make_failures_forgotten() {
    let mut world = chain();
    world.failing.insert(0, FailureClass::Build);
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    let (failed, built) = (world.record("base").failure.clone(), world.builds());
    // Their Jobs expire meanwhile.
    world.jobs.retain(|(of, _)| *of != 0);
    world.spec.images[0].hold = Some(crate::api::ImageHold::default());
    world.settle();
    assert_eq!(world.states()[0], ImageState::Held);
    world.spec.images[0].hold = None;
    world.settle();
    assert_eq!((world.states()[0], world.builds()), (ImageState::Failed, built));
    assert_eq!(world.record("base").failure, failed);
}

#[test]
fn holds_by_request_last_until_they_are_taken_away() {
    let mut world = chain();
    world.ask(r#"{"id":"1","action":"Hold","image":"base","reason":"release","by":"ada"}"#);
    world.settle();
    let hold = world.record("base").hold.clone().expect("a hold");
    assert_eq!((hold.reason.as_deref(), hold.by.as_deref()), (Some("release"), Some("ada")));
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.states(), [ImageState::Held, CURRENT, CURRENT]);
    assert_eq!(world.builds(), [1, 1, 2]);
    world.ask(r#"{"id":"2","action":"Unhold","image":"base"}"#);
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT; 3], vec![2, 2, 2]));

    world.ask(r#"{"id":"3","action":"Hold","upstream":"up"}"#);
    world.settle();
    world.upstream_digests[0] = "sha256:up-2".into();
    world.settle();
    assert_eq!(world.status.upstreams[0].reason.as_deref(), Some(reason::HELD));
    assert_eq!(world.builds(), [2, 2, 2]);
    world.ask(r#"{"id":"4","action":"Unhold","upstream":"up"}"#);
    world.settle();
    assert_eq!(world.builds(), [3, 3, 3]);
}

#[test]
fn a_request_to_start_waits_until_it_can() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.spec.suspend = true;
    world.ask(r#"{"id":"1","action":"Trigger"}"#);
    world.settle();
    assert_eq!((world.answer("1"), world.builds()), ("not handled", vec![1; 3]));
    world.spec.suspend = false;
    world.now += SignedDuration::from_secs(1);
    for _ in 0..3 {
        world.pass();
    }
    assert_eq!(world.builds(), [2, 1, 2], "without a quiet time");
    assert!(world.answer("1").contains("without the settle time"), "{}", world.answer("1"));
}

#[test]
fn what_is_asked_for_while_a_cascade_runs_begins_when_that_has_ended() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    world.upstream_digests[0] = "sha256:up-2".into();
    world.pass();
    world.ask(r#"{"id":"1","action":"Trigger","image":"app"}"#);
    for _ in 0..6 {
        world.pass();
        assert_eq!(
            world.builds()[0] < 3,
            world.answer("1") == "not handled",
            "handled when it has \
            begun"
        );
        world.finish_builds();
        world.now += SignedDuration::from_secs(1);
    }
    assert_eq!(world.builds()[0], 3, "the next cascade has begun within seconds");
    assert!(world.answer("1").contains("without the settle time"), "{}", world.answer("1"));

    // What the cascade has built already, and leaves to the next one.
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base"), ("slow", "base")]);
    world.settle();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    world.finish_builds();
    world.pass();
    world.finish_only("app");
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.pass();
    world.finish_only("base");
    world.pass();
    assert_eq!(world.record("app").reason, reason::NEXT_CASCADE);
    world.ask(r#"{"id":"1","action":"Trigger","image":"app"}"#);
    world.finish_builds();
    for _ in 0..4 {
        world.pass();
        world.now += SignedDuration::from_secs(1);
    }
    assert_eq!(world.builds()[1], 3, "{:?}", world.records);
}

#[test]
fn a_request_to_start_survives_a_suspension_of_the_cascade() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    world.spec.suspend = true;
    world.ask(r#"{"id":"1","action":"Force","image":"other"}"#);
    world.settle();
    assert_eq!((world.answer("1"), world.builds()[2]), ("not handled", 2));
    world.spec.suspend = false;
    world.settle();
    assert_eq!(world.builds(), [2, 2, 3]);
    assert!(world.answer("1").contains("is rebuilt"), "{}", world.answer("1"));
}

#[test]
fn a_start_is_not_lost_while_the_registry_is_away() {
    for (request, builds) in [
        (r#"{"id":"1","action":"Force","image":"app"}"#, [1, 2, 1]),
        (r#"{"id":"1","action":"Force","image":"base","subtree":true}"#, [2, 2, 1]),
        (r#"{"id":"1","action":"Retry"}"#, [3, 1, 1]),
    ] {
        let mut world = chain();
        if request.contains("Retry") {
            world.failing.insert(0, FailureClass::Input);
            world.spec.images[0].args.insert("A".into(), "1".into());
            world.settle();
            world.failing.clear();
        }
        world.registry_away = true;
        world.asked.clear();
        world.ask(request);
        for _ in 0..5 {
            world.pass();
            world.now += SignedDuration::from_secs(10);
        }
        assert_eq!(world.answer("1"), "not handled", "{request}");
        world.registry_away = false;
        let since = world.now;
        for _ in 0..4 {
            world.pass();
            world.finish_builds();
        }
        assert_eq!(
            (world.now, world.builds()[0]),
            (since, builds[0]),
            "without a quiet time: \
            {request}"
        );
        world.settle();
        assert!(world.builds()[1] >= builds[1], "{request}");
        assert_ne!(world.answer("1"), "not handled");
    }
}

#[test]
fn there_has_to_be_something_to_cancel() {
    let mut world = chain();
    world.ask(r#"{"id":"1","action":"Cancel"}"#);
    world.settle();
    assert!(world.answer("1").contains("nothing to cancel"), "{}", world.answer("1"));
}

#[test]
fn what_cannot_be_done_is_refused_in_words() {
    let mut world = chain();
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
        world.ask(request);
        world.settle();
        let id = &request[7..8];
        assert!(world.answer(id).contains(words), "{}", world.answer(id));
    }
    assert_eq!(world.builds(), [1, 1, 1]);
}
