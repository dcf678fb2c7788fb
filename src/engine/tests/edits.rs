//! What happens to a cascade when its family is edited, or goes, while it runs.

use crate::{
    api::{CascadePhase, Check, Edge, ImageFamilyStatus, ImageState, condition::Reason},
    engine::{
        BuildOutcome, Decision, Effect,
        tests::{CURRENT, model::FamilyModel},
    },
};

/// A chain, and an image that is not built on any of it, in the middle of a cascade.
fn mid_cascade() -> FamilyModel {
    let mut model = FamilyModel::new(
        &["up"],
        &[("base", "up"), ("other", "up"), ("lib", "base"), ("app", "lib")],
    );
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.builds(), [2, 2, 2, 1], "lib is being built");
    model
}

fn on(image: &str) -> Vec<Edge> {
    vec![Edge { image: Some(image.into()), ..Edge::default() }]
}

fn parents(model: &FamilyModel, image: &str) -> Vec<String> {
    let inputs = model.record(image).inputs.clone().expect("inputs");
    inputs.parents.into_iter().map(|parent| parent.digest).collect()
}

fn digest(model: &FamilyModel, image: &str) -> String {
    model.record(image).digest.clone().expect("a digest")
}

#[test]
fn edges_that_are_rewired_mid_cascade_are_built_in_it() {
    // Of an image that waits, past the one that is being built.
    let mut model = mid_cascade();
    model.spec.images[3].from = on("base");
    model.reconcile();
    assert_eq!(model.builds()[3], 2, "it no longer waits for lib");
    model.settle();
    assert_eq!((model.states(), model.cascades.len()), (vec![CURRENT; 4], 2));
    assert_eq!(parents(&model, "app"), [digest(&model, "base")]);

    // Of the image that is being built: what runs is for other inputs, and its result is not used.
    let mut model = mid_cascade();
    model.spec.images[2].from = on("other");
    model.reconcile();
    assert!(
        model.record("lib").message.contains("the image is rebuilt next"),
        "{}",
        model.record("lib").message
    );
    let cascades = model.cascades.len();
    model.settle();
    assert_eq!((model.states(), model.cascades.len()), (vec![CURRENT; 4], cascades + 1));
    assert_eq!(model.builds(), [2, 2, 3, 2]);
    assert_eq!(parents(&model, "lib"), [digest(&model, "other")]);
    assert_eq!(parents(&model, "app"), [digest(&model, "lib")]);

    // The other way around: a parent is now built on its former child.
    let mut model = mid_cascade();
    model.spec.images[3].from = on("base");
    model.spec.images[2].from = on("app");
    model.settle();
    assert_eq!(model.states(), [CURRENT; 4]);
    assert_eq!(parents(&model, "lib"), [digest(&model, "app")]);
    assert!(model.running.is_empty());
}

#[test]
fn a_build_that_has_not_started_is_replaced_at_once() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    model.spec.images[0].args.insert("PLATFORM".into(), "wrong".into());
    model.begin();
    assert_eq!(model.builds(), [2]);
    let pending = &mut model.jobs.last_mut().expect("a build").1;
    pending.has_started = false;
    pending.waits_for = Some("no node can run the pod".into());
    assert_eq!((model.reconcile().effects, model.stopped()), (Vec::new(), 0), "it is wanted");
    model.spec.images[0].args.clear();
    model.spec.images[0].args.insert("PLATFORM".into(), "right".into());
    model.reconcile();
    assert_eq!((model.stopped(), model.builds()), (1, vec![2]));
    let message = &model.record("base").message;
    assert!(message.contains("has not started and is stopped"), "{message}");
    model.reconcile();
    assert_eq!(model.builds(), [3], "its successor starts");
    model.settle();
    assert_eq!((model.states(), model.cascades.len()), (vec![CURRENT], 2));
    assert_eq!(model.record("base").failure, None);
}

#[test]
fn a_build_for_another_repository_is_replaced_and_spends_no_attempt() {
    for has_ended in [false, true] {
        let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
        model.reconcile();
        model.reconcile();
        assert_eq!(model.builds(), [1]);
        let build = &mut model.jobs[0].1;
        build.repository = Some("registry.example.com/elsewhere/base".into());
        if has_ended {
            (build.outcome, build.live) = (BuildOutcome::Succeeded, false);
            build.ignore_other_repository("registry.example.com/platform/base");
        }
        model.reconcile();
        assert_eq!(model.stopped(), 1);
        model.settle();
        assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![2]));
        assert_eq!((&model.record("base").failure, model.cascades.len()), (&None, 1));
        assert_eq!(model.jobs[1].1.identity.attempt, 1, "another Job");
    }
}

#[test]
fn an_image_that_is_removed_while_it_builds_is_stopped_and_the_cascade_ends_without_it() {
    let mut model = mid_cascade();
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.builds()[3], 2, "app is being built");
    model.remove_last();
    model.reconcile();
    assert_eq!(model.stopped(), 1);
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
    let cascade = model.cascades.last().expect("a cascade");
    assert_eq!(
        (cascade.phase, cascade.images.len()),
        (CascadePhase::Complete, 3),
        "{}",
        cascade.message
    );
}

#[test]
fn a_check_of_an_image_that_is_removed_is_stopped_and_counts_until_it_has_ended() {
    let check = |name: &str| {
        vec![Check { name: name.into(), command: vec!["true".into()], ..Check::default() }]
    };
    let starts = |decision: &Decision| {
        decision.effects.iter().any(|effect| matches!(effect, Effect::Check { .. }))
    };
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "up")]);
    model.spec.policy.parallelism = 1;
    model.settle();
    // New checks are checks of what stands.
    model.spec.images[1].checks = check("smoke");
    model.reconcile();
    assert_eq!(model.checks.len(), 1);
    let job = model.checks[0].1.job.clone();
    model.remove_last();
    model.spec.images[0].checks = check("smoke");
    let decision = model.decide();
    assert!(decision.effects.contains(&Effect::Stop { job }), "{:?}", decision.effects);
    assert!(!starts(&decision), "its pod takes the only place until it is gone");
    model.checks.clear();
    assert!(starts(&model.reconcile()));
}

#[test]
fn a_family_that_is_deleted_mid_cascade_and_recreated_is_rebuilt_completely() {
    for jobs_are_gone in [false, true] {
        let mut model = mid_cascade();
        // All that was recorded goes with it: the images, its status, the cascade. Its Jobs go a
        // moment later.
        model.records = vec![None; 4];
        model.status = ImageFamilyStatus::default();
        (model.running, model.ended) = (Vec::new(), Vec::new());
        model.asked.clear();
        model.reconcile();
        if jobs_are_gone {
            for (_, job) in
                model.jobs.iter_mut().filter(|(_, job)| job.outcome == BuildOutcome::Running)
            {
                (job.outcome, job.live) = (BuildOutcome::Stopped, false);
            }
            model.reconcile();
            model.jobs.clear();
        }
        model.settle();
        assert_eq!(model.states(), [CURRENT; 4]);
        assert!(model.running.is_empty());
        let lib = if jobs_are_gone { 3 } else { 2 };
        assert_eq!(model.builds(), [2, 2, lib, 2], "what is in the registry is not built again");
        assert_eq!(parents(&model, "app"), [digest(&model, "lib")]);
    }
}

#[test]
fn a_tag_collision_stalls_the_images_that_claim_the_tag() {
    let mut model = FamilyModel::new(&["up"], &[("a", "up"), ("b", "up"), ("c", "up")]);
    model.settle();
    let before = model.tags.clone();
    let b = model.index("b");
    model.spec.images[b].path = Some("a".into());
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [1, 1, 2], "the other image is rebuilt");
    for image in ["a", "b"] {
        let record = model.record(image);
        assert_eq!(
            (record.state, record.reason.as_str()),
            (ImageState::Waiting, Reason::TagCollision.as_str())
        );
        let index = model.index(image);
        let is_of_image = |tag: &&(usize, String)| tag.0 == index;
        for tag in before.keys().filter(is_of_image) {
            assert_eq!(model.tags[tag], before[tag], "{image} gets no tag of another");
        }
    }
    model.spec.images[b].path = None;
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
    assert_eq!(model.builds(), [2, 2, 2]);
}
