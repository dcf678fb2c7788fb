//! What a new digest is put through.

use std::collections::HashMap;

use jiff::SignedDuration;

use crate::{
    api::{BuildFailure, Check, CheckState, FailureClass, ImageState, condition::Reason},
    engine::{
        CheckOutcome, Effect,
        tests::{CURRENT, model::FamilyModel},
    },
    lineage::{CheckIndex, ImageIndex},
};

fn required_check(name: &str) -> Check {
    Check { required: true, ..optional_check(name) }
}

fn optional_check(name: &str) -> Check {
    let command = vec!["true".into()];
    Check { name: name.into(), command, required: false, ..Check::default() }
}

#[test]
fn a_child_and_the_tags_wait_for_the_checks() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.reconcile();
    model.reconcile();
    model.finish_builds();
    let decision = model.reconcile();
    assert!(decision.effects.iter().any(|effect| {
        let (base, first) = (ImageIndex::new(0), CheckIndex::new(0));
        matches!(
            effect,
            Effect::Check { image, check, attempt: 0, .. } if *image == base && *check == first
        )
    }));
    assert_eq!(model.states(), [ImageState::Checking, ImageState::Waiting]);
    assert_eq!((model.builds(), model.tags.len()), (vec![1, 0], 0));
    model.reconcile();
    assert_eq!(model.record("base").message, "waits for its check smoke");
    model.checks[0].1.waits_for = Some("no node has room".into());
    model.reconcile();
    assert_eq!(model.record("base").message, "waits for its check smoke (no node has room)");
    model.settle();
    assert_eq!(model.states(), [CURRENT; 2]);
    assert_eq!(model.checks.len(), 1);
    assert_eq!(model.record("base").checks[0].state, CheckState::Passed);
}

#[test]
fn a_failing_check_fails_the_image_and_moves_nothing() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    let before = (model.tags.clone(), model.record("app").digest.clone());
    model.spec.images[0].checks = vec![required_check("smoke"), optional_check("size")];
    model.settle();
    assert_eq!(model.builds(), [1, 1], "new checks build nothing");
    assert_eq!(model.checks.len(), 2);
    model.failing_checks.insert("smoke".into(), FailureClass::Build);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.states(), [ImageState::Failed, ImageState::Blocked]);
    assert_eq!(model.record("base").reason, Reason::CheckFailed);
    assert!(model.record("base").message.contains("check smoke: it is not as it should be"));
    assert_eq!(model.builds(), [2, 1], "what is checked again is not built again");
    assert_eq!(
        model.checks.iter().filter(|(_, observed)| observed.check == "smoke").count(),
        1 + 2,
        "retries.build is 1"
    );
    assert_eq!((model.tags.clone(), model.record("app").digest.clone()), before);
    model.failing_checks.clear();
    model.upstream_digests[0] = "sha256:up-2".into();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 2]);
}

#[test]
fn a_check_that_is_only_reported_fails_nothing() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].checks = vec![optional_check("size")];
    model.failing_checks.insert("size".into(), FailureClass::Build);
    model.settle();
    assert_eq!(model.states(), [CURRENT]);
    assert_eq!(model.record("base").checks[0].state, CheckState::Failed);
    assert_eq!(model.checks.len(), 1);
}

#[test]
fn a_check_that_is_only_reported_and_was_refused_holds_nothing_up() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].checks = vec![optional_check("size")];
    for _ in 0..3 {
        model.reconcile();
        model.finish_builds();
    }
    assert_eq!(model.states(), [ImageState::Checking]);
    // As the controller records it: there is no Job.
    model.checks.clear();
    model.records[0].as_mut().expect("a record").checks[0].state = CheckState::Failed;
    model.settle();
    assert_eq!((model.states(), model.checks.len()), (vec![CURRENT], 0));
}

#[test]
fn infrastructure_failures_of_checks_end_with_their_cause() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.failing_checks.insert("smoke".into(), FailureClass::Infrastructure);
    model.settle();
    let record = model.record("base");
    let state = (record.state, record.reason.as_str());
    assert_eq!(state, (ImageState::Checking, Reason::InfrastructureFailed.as_str()));
    assert!(record.message.starts_with("tried again at "), "{}", record.message);
    assert!((13..=24).contains(&model.checks.len()), "{} in an hour", model.checks.len());
    model.failing_checks.clear();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![1]));
}

#[test]
fn passed_checks_are_remembered_without_their_jobs() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.settle();
    model.checks.clear();
    model.settle();
    assert!(model.checks.is_empty());
    model.spec.images[0].checks[0].command = vec!["false".into()];
    model.settle();
    assert_eq!(model.checks.len(), 1, "another check is run");
}

#[test]
fn the_record_says_in_which_image_a_check_ran() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    let scan = Check { image: Some("scanner:1".into()), ..required_check("scan") };
    model.spec.images[0].checks = vec![scan, required_check("smoke")];
    model.begin();
    model.finish_builds();
    model.reconcile();
    model.reconcile();
    let images = |model: &FamilyModel| -> Vec<Option<String>> {
        let checks = &model.record("base").checks;
        checks.iter().map(|check| check.image.clone()).collect()
    };
    assert_eq!(images(&model), [Some("scanner:1@0".into()), None], "while it runs");
    // The infrastructure fails, and the next attempt has another digest.
    model.failing_checks.insert("scan".into(), FailureClass::Infrastructure);
    model.finish_checks();
    model.reconcile();
    model.failing_checks.clear();
    model.settle();
    assert_eq!(model.states(), [CURRENT]);
    assert_eq!(images(&model), [Some("scanner:1@1".into()), None]);
    // The result stays when the Jobs are gone.
    model.checks.clear();
    model.settle();
    assert_eq!((images(&model)[0].as_deref(), model.checks.len()), (Some("scanner:1@1"), 0));
}

#[test]
fn a_corrected_check_is_run_again_and_builds_nothing() {
    for class in [FailureClass::Build, FailureClass::Infrastructure] {
        let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
        model.spec.images[0].checks = vec![required_check("smoke")];
        model.failing_checks.insert("smoke".into(), class);
        model.settle();
        assert_ne!(model.states(), [CURRENT]);
        model.failing_checks.clear();
        model.spec.images[0].checks[0].command = vec!["mended".into()];
        model.settle();
        assert_eq!(model.states(), [CURRENT], "{}", model.record("base").message);
        assert_eq!(model.builds(), [1]);
    }
}

#[test]
fn a_check_that_failed_on_an_unchanged_digest_runs_again_on_request_and_in_the_next_cascade() {
    let mut model = FamilyModel::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.failing_checks.insert("smoke".into(), FailureClass::Build);
    model.settle();
    assert_eq!(
        (model.states()[0], model.checks.len()),
        (ImageState::Failed, 2),
        "retries.build is 1"
    );
    model.ask(r#"{"id":"1","action":"Retry"}"#);
    model.settle();
    assert_eq!(
        (model.states()[0], model.checks.len()),
        (ImageState::Failed, 4),
        "the retry budget is reset"
    );
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.settle();
    assert_eq!(
        (model.states()[0], model.checks.len()),
        (ImageState::Failed, 6),
        "and with every cascade"
    );
    model.failing_checks.clear();
    model.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    model.settle();
    assert_eq!(
        (model.states(), model.builds()),
        (vec![CURRENT; 2], vec![1, 2]),
        "nothing is built for it"
    );
}

#[test]
fn a_cancelled_check_is_stopped_and_its_digest_is_not_promoted_until_a_retry() {
    let mut model =
        FamilyModel::new(&["up", "up2"], &[("base", "up"), ("app", "base"), ("other", "up2")]);
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke"), required_check("size")];
    model.settle();
    let before = (model.tags.clone(), model.record("base").digest.clone());
    model.upstream_digests[0] = "sha256:up-1".into();
    while model.states()[0] != ImageState::Checking {
        model.now += SignedDuration::from_secs(30);
        model.reconcile();
        model.finish_builds();
    }
    model.reconcile();
    let of_old = model.checks.len() - 2;
    model.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    // One of them ends well before it is stopped.
    model.checks[of_old].1.outcome = CheckOutcome::Passed("fine".into());
    model.reconcile();
    assert_eq!(model.checks.len(), of_old + 1, "the other is stopped");
    assert_eq!(model.record("base").reason, Reason::Cancelled);
    model.checks[of_old].1.outcome = CheckOutcome::Passed("fine".into());
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.settle();
    assert_eq!(model.states(), [ImageState::Failed, ImageState::Blocked, CURRENT]);
    assert_eq!(model.record("base").digest, before.1);
    let of_base =
        |tags: &HashMap<(usize, String), String>| tags.get(&(0, "latest".to_owned())).cloned();
    assert_eq!(of_base(&model.tags), of_base(&before.0));
    model.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
    let again = model.checks.last().expect("a check");
    assert_eq!(
        (again.1.check.as_str(), again.1.attempt),
        ("size", 1),
        "another Job than the one that was stopped"
    );
    assert_eq!(model.builds(), [2, 2, 2], "what is in the registry is not built again");
}

#[test]
fn a_recorded_pass_outlives_the_pod_that_has_said_so() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.policy.retries.infrastructure = 0;
    model.spec.images[0].checks = vec![required_check("smoke"), required_check("size")];
    for _ in 0..3 {
        model.reconcile();
        model.finish_builds();
    }
    model.reconcile();
    assert_eq!(model.checks.len(), 2);
    model.checks[0].1.outcome = CheckOutcome::Passed("fine".into());
    model.checks[0].1.live = false;
    model.reconcile();
    // The node of its pod is drained while the other check still runs.
    model.checks[0].1.outcome = CheckOutcome::Failed(BuildFailure {
        class: FailureClass::Infrastructure,
        reason: Reason::PodLost.into(),
        message: "no pod says how it ended".into(),
    });
    model.reconcile();
    assert_eq!(model.states(), [ImageState::Checking]);
    assert_eq!(model.record("base").failure, None);
    model.checks[1].1.outcome = CheckOutcome::Passed("fine".into());
    model.settle();
    assert_eq!((model.states(), model.checks.len()), (vec![CURRENT], 2));
}

#[test]
fn a_check_that_passes_after_it_was_cancelled_moves_nothing() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].checks = vec![required_check("smoke")];
    for _ in 0..3 {
        model.reconcile();
        model.finish_builds();
    }
    model.reconcile();
    assert_eq!(model.states(), [ImageState::Checking]);
    let mut passed = model.checks.clone();
    passed[0].1.outcome = CheckOutcome::Passed("fine".into());
    model.ask(r#"{"id":"1","action":"Cancel"}"#);
    model.reconcile();
    // Its pod had ended before the Job was deleted.
    model.checks = passed;
    model.settle();
    assert_eq!((model.states(), model.tags.len()), (vec![ImageState::Failed], 0));
    model.ask(r#"{"id":"2","action":"Retry"}"#);
    model.settle();
    assert_eq!((model.states(), model.tags.len()), (vec![CURRENT], 2));
}

#[test]
fn a_cancellation_comes_before_a_check_that_passes_meanwhile() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.reconcile();
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.reconcile();
    model.ask(r#"{"id":"1","action":"Cancel","image":"base"}"#);
    model.checks[0].1.outcome = CheckOutcome::Passed("fine".into());
    model.settle();
    assert_eq!(
        (model.states(), model.builds()),
        (vec![ImageState::Failed, ImageState::Blocked], vec![1, 1])
    );
}

#[test]
fn a_check_that_was_cancelled_is_run_again_when_it_is_another_one() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.reconcile();
    model.ask(r#"{"id":"1","action":"Cancel"}"#);
    model.settle();
    assert_eq!(model.record("base").reason, Reason::Cancelled);
    model.spec.images[0].checks[0].command = vec!["false".into()];
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![1]));
}

/// A pod that waits for its image counts as failed before it has gone.
#[test]
fn no_check_starts_while_the_previous_one_is_being_ended() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.reconcile();
    model.reconcile();
    model.finish_builds();
    model.reconcile();
    model.failing_checks.insert("smoke".into(), FailureClass::Build);
    model.finish_checks();
    model.checks[0].1.live = true;
    model.reconcile();
    model.now += SignedDuration::from_mins(5);
    model.reconcile();
    assert_eq!(model.checks.len(), 1);
    assert_eq!(model.record("base").reason, Reason::Checking);
    model.checks[0].1.live = false;
    model.reconcile();
    assert_eq!(model.checks.len(), 2);
}

/// Nothing of a build is recorded with the image whose parent changes before its checks are
/// through.
#[test]
fn a_build_whose_checks_were_overtaken_is_not_repeated_in_the_same_cascade() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.images[1].checks = vec![required_check("smoke")];
    model.settle();
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.reconcile();
    model.now += SignedDuration::from_mins(1);
    model.reconcile();
    model.reconcile();
    model.finish_builds();
    model.reconcile();
    assert_eq!((model.states()[1], model.builds()), (ImageState::Checking, vec![1, 2]));
    // A user edits the base while the digest is checked, and when the new base is built, the Jobs
    // of the checks are gone.
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.reconcile();
    model.finish_checks();
    model.jobs.retain(|(image, _)| *image == 0);
    model.checks.clear();
    for _ in 0..20 {
        if model.running.is_empty() {
            break;
        }
        model.reconcile();
        model.finish_builds();
        model.finish_checks();
    }
    assert_eq!((model.running.is_empty(), model.builds()), (true, vec![2, 2]));
    assert_eq!(model.record("app").reason, Reason::NextCascade);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![2, 3]));
}

#[test]
fn a_child_does_not_use_the_last_verified_digest_once_it_fails_a_check() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.images[1].on_parent_failure = crate::api::OnParentFailure::UseLastVerified;
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.failing_checks.insert("smoke".into(), FailureClass::Build);
    model.settle();
    assert_eq!(model.states(), [ImageState::Failed, CURRENT], "what is built stays as it is");
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.settle();
    assert_eq!(
        (model.states(), model.builds()),
        (vec![ImageState::Failed, ImageState::Blocked], vec![1, 1])
    );
}

#[test]
fn a_child_is_not_built_from_a_held_parent_that_has_not_passed_its_checks() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.spec.images[0].hold = Some(crate::api::ImageHold::default());
    model.settle();
    assert_eq!(model.states(), [ImageState::Held, CURRENT], "what is built stays as it is");
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.settle();
    assert_eq!(
        (model.states(), model.builds()),
        (vec![ImageState::Held, ImageState::Waiting], vec![1, 1])
    );
}

#[test]
fn a_check_that_passes_while_its_image_is_held_lets_children_continue() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.reconcile();
    assert_eq!((model.states()[0], model.checks.len()), (ImageState::Checking, 1));
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.spec.images[0].hold = Some(crate::api::ImageHold::default());
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.reconcile();
    assert_eq!(model.states(), [ImageState::Held, ImageState::Waiting]);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![ImageState::Held, CURRENT], vec![1, 2]));
    assert_eq!(model.record("base").checks[0].state, CheckState::Passed);
}

#[test]
fn a_check_that_was_cancelled_says_nothing_under_a_hold() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.reconcile();
    model.reconcile();
    let mut passed = model.checks.clone();
    passed[0].1.outcome = CheckOutcome::Passed("fine".into());
    model.ask(r#"{"id":"1","action":"Cancel"}"#);
    model.reconcile();
    model.checks = passed;
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.spec.images[0].hold = Some(crate::api::ImageHold::default());
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.settle();
    assert_eq!(
        (model.states(), model.builds()),
        (vec![ImageState::Held, ImageState::Waiting], vec![1, 1])
    );
    model.ask(r#"{"id":"2","action":"Retry","image":"base"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![ImageState::Held, CURRENT], vec![1, 2]));
}

#[test]
fn no_cascade_promotes_a_held_digest_that_has_not_passed_its_checks() {
    let mut model = FamilyModel::new(&["up", "up2"], &[("base", "up"), ("other", "up2")]);
    model.spec.policy.promotion = crate::api::Promotion::Cascade;
    model.settle();
    let before = model.tags.clone();
    model.upstream_digests = vec!["sha256:up-1".into(), "sha256:up2-1".into()];
    model.failing.insert(1, FailureClass::Build);
    model.settle();
    assert_eq!(model.states(), [CURRENT, ImageState::Failed]);
    model.spec.images[0].checks = vec![required_check("smoke")];
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.spec.images[0].hold = Some(crate::api::ImageHold::default());
    model.failing.clear();
    model.upstream_digests[1] = "sha256:up2-2".into();
    model.settle();
    assert_eq!(model.states(), [ImageState::Held, CURRENT]);
    let floating = |tags: &HashMap<(usize, String), String>| {
        (0..2).map(|image| tags.get(&(image, "latest".to_owned())).cloned()).collect::<Vec<_>>()
    };
    assert_eq!(floating(&model.tags), floating(&before), "the cascade is not whole");
    model.spec.images[0].hold = None;
    model.settle();
    assert_eq!(model.states(), [CURRENT; 2]);
    assert_ne!(floating(&model.tags), floating(&before));
}
