//! What a new digest is put through.

use std::collections::HashMap;

use jiff::SignedDuration;

use crate::{
    api::{Check, CheckState, FailureClass, ImageState, condition::reason},
    engine::{
        Action, CheckOutcome,
        tests::{CURRENT, world::World},
    },
};

fn check(name: &str, required: bool) -> Check {
    Check { name: name.into(), command: vec!["true".into()], required, ..Check::default() }
}

#[test]
fn a_child_and_the_tags_wait_for_the_checks() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.pass();
    world.pass();
    world.finish_builds();
    let decision = world.pass();
    assert!(
        decision
            .actions
            .iter()
            .any(|action| matches!(action, Action::Check { image, check: 0, attempt: 0, .. } if image.position() == 0))
    );
    assert_eq!(world.states(), [ImageState::Checking, ImageState::Waiting]);
    assert_eq!((world.builds(), world.tags.len()), (vec![1, 0], 0));
    world.pass();
    assert_eq!(world.record("base").message, "waits for its check smoke");
    world.checks[0].1.waits_for = Some("no node has room".into());
    world.pass();
    assert_eq!(world.record("base").message, "waits for its check smoke (no node has room)");
    world.settle();
    assert_eq!(world.states(), [CURRENT; 2]);
    assert_eq!(world.checks.len(), 1);
    assert_eq!(world.record("base").checks[0].state, CheckState::Passed);
}

#[test]
fn a_failing_check_fails_the_image_and_moves_nothing() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    let before = (world.tags.clone(), world.record("app").digest.clone());
    world.spec.images[0].checks = vec![check("smoke", true), check("size", false)];
    world.settle();
    assert_eq!(world.builds(), [1, 1], "new checks build nothing");
    assert_eq!(world.checks.len(), 2);
    world.failing_checks.insert("smoke".into(), FailureClass::Build);
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.states(), [ImageState::Failed, ImageState::Blocked]);
    assert_eq!(world.record("base").reason, reason::CHECK_FAILED);
    assert!(world.record("base").message.contains("check smoke: it is not as it should be"));
    assert_eq!(world.builds(), [2, 1], "what is checked again is not built again");
    assert_eq!(
        world.checks.iter().filter(|(_, observed)| observed.check == "smoke").count(),
        1 + 2,
        "retries.build is 1"
    );
    assert_eq!((world.tags.clone(), world.record("app").digest.clone()), before);
    world.failing_checks.clear();
    world.upstream_digests[0] = "sha256:up-2".into();
    world.settle();
    assert_eq!(world.states(), [CURRENT; 2]);
}

#[test]
fn a_check_that_is_only_reported_fails_nothing() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.images[0].checks = vec![check("size", false)];
    world.failing_checks.insert("size".into(), FailureClass::Build);
    world.settle();
    assert_eq!(world.states(), [CURRENT]);
    assert_eq!(world.record("base").checks[0].state, CheckState::Failed);
    assert_eq!(world.checks.len(), 1);
}

#[test]
fn a_check_that_is_only_reported_and_was_refused_holds_nothing_up() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.images[0].checks = vec![check("size", false)];
    for _ in 0..3 {
        world.pass();
        world.finish_builds();
    }
    assert_eq!(world.states(), [ImageState::Checking]);
    // As the controller records it: there is no Job.
    world.checks.clear();
    world.records[0].as_mut().expect("a record").checks[0].state = CheckState::Failed;
    world.settle();
    assert_eq!((world.states(), world.checks.len()), (vec![CURRENT], 0));
}

#[test]
fn what_is_around_a_check_has_its_own_budget() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.failing_checks.insert("smoke".into(), FailureClass::Infrastructure);
    world.settle();
    assert_eq!(world.states(), [ImageState::Failed]);
    assert_eq!((world.checks.len(), world.builds()), (6, vec![1]), "retries.infrastructure is 5");
}

#[test]
fn passed_checks_are_remembered_without_their_jobs() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.settle();
    world.checks.clear();
    world.settle();
    assert!(world.checks.is_empty());
    world.spec.images[0].checks[0].command = vec!["false".into()];
    world.settle();
    assert_eq!(world.checks.len(), 1, "another check is run");
}

#[test]
fn a_check_that_was_mended_is_run_again_and_builds_nothing() {
    for class in [FailureClass::Build, FailureClass::Infrastructure] {
        let mut world = World::new(&["up"], &[("base", "up")]);
        world.spec.images[0].checks = vec![check("smoke", true)];
        world.failing_checks.insert("smoke".into(), class);
        world.settle();
        assert_eq!(world.states(), [ImageState::Failed]);
        world.failing_checks.clear();
        world.spec.images[0].checks[0].command = vec!["mended".into()];
        world.settle();
        assert_eq!(world.states(), [CURRENT], "{}", world.record("base").message);
        assert_eq!(world.builds(), [1]);
    }
}

#[test]
fn a_check_that_failed_on_a_digest_as_it_was_is_run_again_by_hand_and_by_the_next_cascade() {
    let mut world = World::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.failing_checks.insert("smoke".into(), FailureClass::Build);
    world.settle();
    assert_eq!(
        (world.states()[0], world.checks.len()),
        (ImageState::Failed, 2),
        "retries.build is \
        1"
    );
    world.ask(r#"{"id":"1","action":"Retry"}"#);
    world.settle();
    assert_eq!(
        (world.states()[0], world.checks.len()),
        (ImageState::Failed, 4),
        "the budget \
        begins anew"
    );
    world.upstream_digests[1] = "sha256:up2-1".into();
    world.settle();
    assert_eq!(
        (world.states()[0], world.checks.len()),
        (ImageState::Failed, 6),
        "and with every \
        cascade"
    );
    world.failing_checks.clear();
    world.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    world.settle();
    assert_eq!(
        (world.states(), world.builds()),
        (vec![CURRENT; 2], vec![1, 2]),
        "nothing is built \
        for it"
    );
}

#[test]
fn a_cancelled_check_is_stopped_and_its_digest_goes_nowhere_until_a_retry() {
    let mut world =
        World::new(&["up", "up2"], &[("base", "up"), ("app", "base"), ("other", "up2")]);
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true), check("size", true)];
    world.settle();
    let before = (world.tags.clone(), world.record("base").digest.clone());
    world.upstream_digests[0] = "sha256:up-1".into();
    while world.states()[0] != ImageState::Checking {
        world.now += SignedDuration::from_secs(30);
        world.pass();
        world.finish_builds();
    }
    world.pass();
    let of_old = world.checks.len() - 2;
    world.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    // One of them ends well before it is stopped.
    world.checks[of_old].1.outcome = CheckOutcome::Passed("fine".into());
    world.pass();
    assert_eq!(world.checks.len(), of_old + 1, "the other is stopped");
    assert_eq!(world.record("base").reason, reason::CANCELLED);
    world.checks[of_old].1.outcome = CheckOutcome::Passed("fine".into());
    world.upstream_digests[1] = "sha256:up2-1".into();
    world.settle();
    assert_eq!(world.states(), [ImageState::Failed, ImageState::Blocked, CURRENT]);
    assert_eq!(world.record("base").digest, before.1);
    let of_base =
        |tags: &HashMap<(usize, String), String>| tags.get(&(0, "latest".to_owned())).cloned();
    assert_eq!(of_base(&world.tags), of_base(&before.0));
    world.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
    let again = world.checks.last().expect("a check");
    assert_eq!(
        (again.1.check.as_str(), again.1.attempt),
        ("size", 1),
        "another Job than the one \
        that was stopped"
    );
    assert_eq!(world.builds(), [2, 2, 2], "what stands in the registry is not built again");
}

#[test]
fn a_check_that_passes_after_it_was_cancelled_moves_nothing() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.images[0].checks = vec![check("smoke", true)];
    for _ in 0..3 {
        world.pass();
        world.finish_builds();
    }
    world.pass();
    assert_eq!(world.states(), [ImageState::Checking]);
    let mut passed = world.checks.clone();
    passed[0].1.outcome = CheckOutcome::Passed("fine".into());
    world.ask(r#"{"id":"1","action":"Cancel"}"#);
    world.pass();
    // Its pod had ended before the Job was deleted.
    world.checks = passed;
    world.settle();
    assert_eq!((world.states(), world.tags.len()), (vec![ImageState::Failed], 0));
    world.ask(r#"{"id":"2","action":"Retry"}"#);
    world.settle();
    assert_eq!((world.states(), world.tags.len()), (vec![CURRENT], 2));
}

#[test]
fn a_cancellation_comes_before_a_check_that_passes_meanwhile() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.pass();
    world.spec.images[1].args.insert("A".into(), "1".into());
    world.pass();
    world.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    world.checks[0].1.outcome = CheckOutcome::Passed("fine".into());
    world.settle();
    assert_eq!(
        (world.states(), world.builds()),
        (vec![ImageState::Failed, ImageState::Blocked], vec![1, 1])
    );
}

#[test]
fn a_check_that_was_cancelled_is_run_again_when_it_is_another_one() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.pass();
    world.ask(r#"{"id":"1","action":"Cancel"}"#);
    world.settle();
    assert_eq!(world.record("base").reason, reason::CANCELLED);
    world.spec.images[0].checks[0].command = vec!["false".into()];
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT], vec![1]));
}

/// A pod that waits for its image counts as failed before it has gone.
#[test]
fn no_check_starts_beside_one_that_is_being_ended() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.pass();
    world.pass();
    world.finish_builds();
    world.pass();
    world.failing_checks.insert("smoke".into(), FailureClass::Build);
    world.finish_checks();
    world.checks[0].1.live = true;
    world.pass();
    world.now += SignedDuration::from_mins(5);
    world.pass();
    assert_eq!(world.checks.len(), 1);
    assert_eq!(world.record("base").reason, reason::CHECKING);
    world.checks[0].1.live = false;
    world.pass();
    assert_eq!(world.checks.len(), 2);
}

/// Nothing of a build is recorded with the image whose parent changes before its checks are
/// through.
#[test]
fn a_build_whose_checks_were_overtaken_is_not_made_again_in_the_same_cascade() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.spec.images[1].checks = vec![check("smoke", true)];
    world.settle();
    world.spec.images[1].args.insert("A".into(), "1".into());
    world.pass();
    world.now += SignedDuration::from_mins(1);
    world.pass();
    world.pass();
    world.finish_builds();
    world.pass();
    assert_eq!((world.states()[1], world.builds()), (ImageState::Checking, vec![1, 2]));
    // A person edits the base while that is checked, and by the time that it is there the Jobs are
    // gone.
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.pass();
    world.finish_checks();
    world.jobs.retain(|(image, _)| *image == 0);
    world.checks.clear();
    for _ in 0..20 {
        if world.cascade.is_none() {
            break;
        }
        world.pass();
        world.finish_builds();
        world.finish_checks();
    }
    assert_eq!((world.cascade.is_none(), world.builds()), (true, vec![2, 2]));
    assert_eq!(world.record("app").reason, reason::NEXT_CASCADE);
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT; 2], vec![2, 3]));
}

#[test]
fn the_last_good_digest_is_of_no_use_to_a_child_once_it_fails_a_check() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.spec.images[1].on_parent_failure = crate::api::OnParentFailure::UseLastGood;
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.failing_checks.insert("smoke".into(), FailureClass::Build);
    world.settle();
    assert_eq!(world.states(), [ImageState::Failed, CURRENT], "what is built stays as it is");
    world.spec.images[1].args.insert("A".into(), "1".into());
    world.settle();
    assert_eq!(
        (world.states(), world.builds()),
        (vec![ImageState::Failed, ImageState::Blocked], vec![1, 1])
    );
}

#[test]
fn a_child_is_not_built_from_a_held_parent_that_has_not_passed_its_checks() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.spec.images[0].hold = Some(crate::api::ImageHold::default());
    world.settle();
    assert_eq!(world.states(), [ImageState::Held, CURRENT], "what is built stays as it is");
    world.spec.images[1].args.insert("A".into(), "1".into());
    world.settle();
    assert_eq!(
        (world.states(), world.builds()),
        (vec![ImageState::Held, ImageState::Waiting], vec![1, 1])
    );
}

#[test]
fn a_check_that_passes_while_its_image_is_held_lets_children_go_on() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.pass();
    assert_eq!((world.states()[0], world.checks.len()), (ImageState::Checking, 1));
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.spec.images[0].hold = Some(crate::api::ImageHold::default());
    world.spec.images[1].args.insert("A".into(), "1".into());
    world.pass();
    assert_eq!(world.states(), [ImageState::Held, ImageState::Waiting]);
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![ImageState::Held, CURRENT], vec![1, 2]));
    assert_eq!(world.record("base").checks[0].state, CheckState::Passed);
}

#[test]
fn a_check_that_was_cancelled_says_nothing_under_a_hold() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.pass();
    world.pass();
    let mut passed = world.checks.clone();
    passed[0].1.outcome = CheckOutcome::Passed("fine".into());
    world.ask(r#"{"id":"1","action":"Cancel"}"#);
    world.pass();
    world.checks = passed;
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.spec.images[0].hold = Some(crate::api::ImageHold::default());
    world.spec.images[1].args.insert("A".into(), "1".into());
    world.settle();
    assert_eq!(
        (world.states(), world.builds()),
        (vec![ImageState::Held, ImageState::Waiting], vec![1, 1])
    );
    world.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![ImageState::Held, CURRENT], vec![1, 2]));
}

#[test]
fn no_cascade_promotes_a_held_digest_that_has_not_passed_its_checks() {
    let mut world = World::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    world.spec.policy.promotion = crate::api::Promotion::Cascade;
    world.settle();
    let before = world.tags.clone();
    world.upstream_digests = vec!["sha256:up-1".into(), "sha256:up2-1".into()];
    world.failing.insert(1, FailureClass::Build);
    world.settle();
    assert_eq!(world.states(), [CURRENT, ImageState::Failed]);
    world.spec.images[0].checks = vec![check("smoke", true)];
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.spec.images[0].hold = Some(crate::api::ImageHold::default());
    world.failing.clear();
    world.upstream_digests[1] = "sha256:up2-2".into();
    world.settle();
    assert_eq!(world.states(), [ImageState::Held, CURRENT]);
    let floating = |tags: &HashMap<(usize, String), String>| {
        (0..2).map(|image| tags.get(&(image, "latest".to_owned())).cloned()).collect::<Vec<_>>()
    };
    assert_eq!(floating(&world.tags), floating(&before), "the cascade is not whole");
    world.spec.images[0].hold = None;
    world.settle();
    assert_eq!(world.states(), [CURRENT; 2]);
    assert_ne!(floating(&world.tags), floating(&before));
}
