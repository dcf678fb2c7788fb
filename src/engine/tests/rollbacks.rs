//! Images that a user rolls back to an earlier build.

use jiff::SignedDuration;

use crate::{
    api::{Check, FailureClass, ImageFamilyStatus, ImageHold, ImageState, Promotion, RequestState},
    engine::{
        BuildOutcome,
        tests::{CURRENT, model::FamilyModel},
    },
};

use ImageState::Held;

/// Three images in a chain and one next to it, each built twice.
fn twice_built() -> FamilyModel {
    let mut model = FamilyModel::new(
        &["up"],
        &[("base", "up"), ("app", "base"), ("tool", "app"), ("other", "up")],
    );
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [2; 4]);
    model
}

/// Returns the digest of the build of an image before its last one.
fn earlier(model: &FamilyModel, image: &str) -> String {
    model.record(image).history[1].digest.clone()
}

fn latest(model: &FamilyModel, image: &str) -> String {
    model.tags[&(model.index(image), "latest".to_owned())].clone()
}

/// Rolls an image back by a request of this name, with more fields of it.
fn roll_back(model: &mut FamilyModel, id: &str, image: &str, digest: &str, more: &str) {
    model.ask(&format!(
        r#"{{"id":"{id}","action":"Rollback","image":"{image}","digest":"{digest}",
             "reason":"it leaks"{more}}}"#
    ));
    model.settle();
}

fn unhold(model: &mut FamilyModel, id: &str, image: &str) {
    model.now += SignedDuration::from_secs(1);
    model.ask(&format!(r#"{{"id":"{id}","action":"Unhold","image":"{image}"}}"#));
    model.settle();
}

fn state(model: &FamilyModel, id: &str) -> Option<RequestState> {
    model.request_state(id)
}

#[test]
fn an_image_goes_back_is_held_there_and_nothing_is_built() {
    let mut model = twice_built();
    let (before, newest) = (earlier(&model, "base"), latest(&model, "base"));
    roll_back(&mut model, "1", "base", &before, "");
    assert_eq!(state(&model, "1"), Some(RequestState::Active), "{}", model.answer("1"));
    assert_eq!(latest(&model, "base"), before);
    assert_eq!(model.tags[&(0, "r2".to_owned())], newest, "a tag of a build stays");
    assert_eq!(model.states(), [Held, CURRENT, CURRENT, CURRENT]);
    let record = model.record("base");
    assert_eq!(record.promoted.as_ref(), Some(&before));
    assert_eq!(record.digest.as_ref(), Some(&newest), "the newest build is not forgotten");
    assert!(record.message.contains("rolled back to build 1 ("), "{}", record.message);
    assert!(record.message.ends_with("it leaks"), "{}", record.message);
    assert_eq!(model.builds(), [2; 4], "a rollback starts no build");

    // Whatever comes: nothing undoes it.
    model.upstream_digests[0] = "sha256:up-2".into();
    model.settle();
    assert_eq!((model.builds(), latest(&model, "base")), (vec![2, 2, 2, 3], before));
    unhold(&mut model, "2", "base");
    assert_eq!((model.builds(), model.states()), (vec![3, 3, 3, 3], vec![CURRENT; 4]));
    assert_eq!(Some(latest(&model, "base")), model.record("base").digest);
    assert_eq!(state(&model, "2"), Some(RequestState::Done));
    assert_eq!(state(&model, "1"), Some(RequestState::Done));
}

#[test]
fn the_newest_build_wins_again_without_a_build() {
    for promotion in [Promotion::Image, Promotion::Cascade] {
        let mut model = twice_built();
        model.spec.policy.promotion = promotion;
        let (before, newest) = (earlier(&model, "base"), latest(&model, "base"));
        roll_back(&mut model, "1", "base", &before, "");
        assert_eq!(latest(&model, "base"), before, "{promotion:?}");
        // A cascade next to it neither waits for it nor moves its tags.
        model.spec.images[3].args.insert("A".into(), "1".into());
        model.settle();
        assert_eq!(model.builds(), [2, 2, 2, 3], "{promotion:?}");
        assert_eq!(Some(latest(&model, "other")), model.record("other").digest, "{promotion:?}");
        assert_eq!(latest(&model, "base"), before, "{promotion:?}");
        unhold(&mut model, "2", "base");
        assert_eq!((model.builds(), latest(&model, "base")), (vec![2, 2, 2, 3], newest));
        assert_eq!(model.states(), [CURRENT; 4]);
    }
}

#[test]
fn a_rollback_survives_the_loss_of_every_record() {
    let mut model = twice_built();
    let (before, newest) = (earlier(&model, "base"), latest(&model, "base"));
    roll_back(&mut model, "1", "base", &before, "");
    model.records = vec![None; model.records.len()];
    model.remembered.clear();
    model.status = ImageFamilyStatus::default();
    model.asked.clear();
    model.jobs.clear();
    model.rollback_targets.clear();
    // Somebody else moves the tag in the meantime.
    model.tags.insert((0, "latest".into()), newest.clone());
    model.settle();
    assert_eq!(model.states(), [Held, CURRENT, CURRENT, CURRENT]);
    assert_eq!((model.builds(), latest(&model, "base")), (vec![2; 4], before.clone()));
    assert_eq!(model.record("base").digest.as_ref(), Some(&newest));
    assert!(model.record("base").message.contains("build 1 ("), "the request has the number");
    // A digest that is deleted later does not end it either.
    model.deleted_digests.push(before.as_str().into());
    model.settle();
    assert_eq!(state(&model, "1"), Some(RequestState::Active));
    unhold(&mut model, "2", "base");
    assert_eq!((model.builds(), latest(&model, "base")), (vec![2; 4], newest));
}

/// It is found in the registry on the newest digest of its parent, and does not go back with it.
#[test]
fn a_child_that_loses_its_record_stays_at_its_build() {
    let mut model = twice_built();
    let (before, newest) = (earlier(&model, "base"), latest(&model, "app"));
    roll_back(&mut model, "1", "base", &before, "");
    let app = model.index("app");
    model.records[app] = None;
    model.settle();
    assert_eq!(model.builds(), [2; 4]);
    assert_eq!(latest(&model, "app"), newest);
    assert_eq!(model.record("app").digest.as_ref(), Some(&newest));
}

#[test]
fn an_image_that_is_rolled_back_is_not_blocked_by_its_parent() {
    let mut model = twice_built();
    model.spec.policy.retries.build = 0;
    let before = earlier(&model, "app");
    roll_back(&mut model, "1", "app", &before, "");
    model.failing.insert(0, FailureClass::Build);
    model.upstream_digests[0] = "sha256:up-2".into();
    model.settle();
    assert_eq!(model.record("base").state, ImageState::Failed);
    assert_eq!((model.record("app").state, latest(&model, "app")), (Held, before));
}

/// A check of the newest build would say nothing about the build that the tags point to.
#[test]
fn an_image_that_is_rolled_back_is_not_checked_until_a_user_ends_that() {
    let mut model = twice_built();
    let before = earlier(&model, "base");
    roll_back(&mut model, "1", "base", &before, "");
    let command = vec!["true".into()];
    model.spec.images[0].checks =
        vec![Check { name: "smoke".into(), command, required: true, ..Check::default() }];
    model.settle();
    assert_eq!((model.record("base").state, model.checks.len()), (Held, 0));
    unhold(&mut model, "2", "base");
    assert_eq!((model.record("base").state, model.checks.len()), (CURRENT, 1));
}

#[test]
fn a_subtree_goes_back_to_builds_that_belong_together() {
    let mut model = twice_built();
    // The application has a newer build on the same base.
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.settle();
    assert_eq!(model.builds(), [2, 3, 3, 2]);
    let images = ["base", "app", "tool"];
    let first = images.map(|image| model.record(image).history.last().expect("a build").clone());
    let newest = images.map(|image| latest(&model, image));
    let digest = first[0].digest.clone();
    roll_back(&mut model, "1", "base", &digest, r#","subtree":true"#);
    assert_eq!(model.answer("1"), "3 images are rolled back and held there");
    let expected = first.map(|build| build.digest);
    assert_eq!(images.map(|image| latest(&model, image)), expected);
    assert_eq!(model.states(), [Held, Held, Held, CURRENT]);
    assert_eq!(model.builds(), [2, 3, 3, 2]);

    // One image alone is released by its name, and all of them by the name of the first.
    unhold(&mut model, "2", "tool");
    assert_eq!(model.states(), [Held, Held, CURRENT, CURRENT]);
    assert_eq!(latest(&model, "tool"), newest[2]);
    assert_eq!(state(&model, "1"), Some(RequestState::Active));
    assert_eq!(model.requests[0].rollbacks.len(), 2);
    unhold(&mut model, "3", "base");
    assert_eq!(images.map(|image| latest(&model, image)), newest);
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 4], vec![2, 3, 3, 2]));
    assert_eq!(state(&model, "1"), Some(RequestState::Done));
}

#[test]
fn a_subtree_without_a_build_to_go_back_to_is_refused_as_a_whole() {
    let mut model = twice_built();
    let before = earlier(&model, "base");
    // Only builds from the newest base are recorded.
    model.records[2].as_mut().expect("a record").history.truncate(1);
    let tags = model.tags.clone();
    roll_back(&mut model, "1", "base", &before, r#","subtree":true"#);
    assert_eq!(state(&model, "1"), Some(RequestState::Refused));
    assert!(model.answer("1").contains("no recorded build of tool was"), "{}", model.answer("1"));
    assert_eq!((model.states(), &model.tags), (vec![CURRENT; 4], &tags));
    // The image alone goes back.
    roll_back(&mut model, "2", "base", &before, "");
    assert_eq!(latest(&model, "base"), before);
}

#[test]
fn an_unknown_build_and_one_that_is_gone_are_refused() {
    let mut model = twice_built();
    let (before, newest) = (earlier(&model, "base"), latest(&model, "base"));
    roll_back(&mut model, "1", "base", "sha256:unknown", "");
    assert_eq!(state(&model, "1"), Some(RequestState::Refused));
    let answer = model.answer("1");
    assert!(answer.contains("build 2 (") && answer.contains("build 1 ("), "{answer}");
    roll_back(&mut model, "2", "none", &before, "");
    assert!(model.answer("2").contains("no image `none`"), "{}", model.answer("2"));
    model.deleted_digests.push(before.as_str().into());
    roll_back(&mut model, "3", "base", &before, "");
    assert!(model.answer("3").contains("does not have"), "{}", model.answer("3"));
    assert_eq!((model.states(), latest(&model, "base")), (vec![CURRENT; 4], newest.clone()));

    // Nothing moves while the registry does not answer.
    model.deleted_digests.clear();
    model.rollback_targets.clear();
    model.registry_unreachable = true;
    model.ask(&format!(
        r#"{{"id":"4","action":"Rollback","image":"base","digest":"{before}","reason":"so"}}"#
    ));
    model.reconcile();
    assert_eq!(state(&model, "4"), Some(RequestState::Waiting));
    assert_eq!(latest(&model, "base"), newest);
    model.registry_unreachable = false;
    model.settle();
    assert_eq!((state(&model, "4"), latest(&model, "base")), (Some(RequestState::Active), before));
}

#[test]
fn a_child_that_is_built_for_another_reason_uses_the_earlier_build() {
    let mut model = twice_built();
    let (before, newest) = (earlier(&model, "base"), latest(&model, "base"));
    let parent = |model: &FamilyModel| {
        model.record("app").inputs.as_ref().expect("inputs").parents[0].digest.clone()
    };
    roll_back(&mut model, "1", "base", &before, "");
    assert_eq!(parent(&model), newest);
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.settle();
    assert_eq!((model.builds(), parent(&model)), (vec![2, 3, 3, 2], before));
    // At the end it follows the newest build, as after any hold.
    unhold(&mut model, "2", "base");
    assert_eq!((model.builds(), parent(&model)), (vec![2, 4, 4, 2], newest));
}

#[test]
fn what_is_being_built_has_no_effect_until_the_end() {
    let mut model = twice_built();
    let before = earlier(&model, "base");
    model.upstream_digests[0] = "sha256:up-2".into();
    model.begin();
    assert_eq!(model.builds(), [3, 2, 2, 3], "a cascade runs");
    roll_back(&mut model, "1", "base", &before, "");
    assert_eq!((model.builds(), latest(&model, "base")), (vec![3, 2, 2, 3], before));
    assert_eq!(model.states(), [Held, CURRENT, CURRENT, CURRENT]);
    assert!(model.running.is_empty(), "the cascade has ended");
    let ended = model.jobs.iter().filter(|(_, job)| job.outcome == BuildOutcome::Succeeded);
    assert!(ended.count() > 0, "the build was not stopped");
    unhold(&mut model, "2", "base");
    assert_eq!(model.builds(), [3, 3, 3, 3], "what was built is used");
}

#[test]
fn a_child_that_is_being_built_stays_and_is_not_built_again() {
    let mut model = twice_built();
    let before = earlier(&model, "base");
    model.upstream_digests[0] = "sha256:up-2".into();
    model.begin();
    model.finish_builds();
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [3, 3, 2, 3], "the child is built");
    roll_back(&mut model, "1", "base", &before, "");
    assert_eq!(model.builds(), [3, 3, 2, 3]);
    assert_eq!(model.states(), [Held, CURRENT, CURRENT, CURRENT]);
    unhold(&mut model, "2", "base");
    assert_eq!(model.builds(), [3, 3, 3, 3], "the child's build is found");
}

#[test]
fn later_requests_of_the_same_image() {
    let mut model = twice_built();
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.settle();
    let digests: Vec<String> =
        model.record("base").history.iter().map(|build| build.digest.clone()).collect();
    model.ask(r#"{"id":"0","action":"Hold","image":"base"}"#);
    model.settle();
    roll_back(&mut model, "1", "base", &digests[1], "");
    assert_eq!(state(&model, "0"), Some(RequestState::Superseded));
    model.ask(r#"{"id":"2","action":"Hold","image":"base"}"#);
    model.settle();
    assert_eq!(state(&model, "2"), Some(RequestState::Refused));
    assert!(model.answer("2").contains("unhold family/base"), "{}", model.answer("2"));
    roll_back(&mut model, "3", "base", &digests[2], "");
    assert_eq!(state(&model, "1"), Some(RequestState::Superseded));
    assert_eq!(latest(&model, "base"), digests[2]);
    // The object is deleted.
    model.requests.clear();
    model.settle();
    assert_eq!(latest(&model, "base"), digests[0]);
    assert_eq!(model.states()[0], CURRENT);

    // The hold of a manifest lasts longer.
    model.spec.images[0].hold = Some(ImageHold::default());
    roll_back(&mut model, "4", "base", &digests[1], "");
    assert_eq!(latest(&model, "base"), digests[1]);
    unhold(&mut model, "5", "base");
    assert!(model.answer("5").contains("held by the manifest"), "{}", model.answer("5"));
    assert_eq!(latest(&model, "base"), digests[0]);
}
