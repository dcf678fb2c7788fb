//! A cascade is no lock: what a running cascade does not touch does not wait for it.

use jiff::SignedDuration;

use crate::{
    api::{CascadePhase, FailureClass, ImageState, Promotion, Supersede, condition::Reason},
    engine::{
        CascadeDecision,
        tests::{CURRENT, model::FamilyModel},
    },
};

/// Two upstreams, of which the first has an image that takes long to build.
pub(super) fn two_trees() -> FamilyModel {
    let mut model = FamilyModel::new(
        &["up", "up2"],
        &[("slow", "up"), ("below", "slow"), ("quick", "up2"), ("app", "quick")],
    );
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    assert_eq!(model.builds(), [2, 1, 1, 1]);
    model
}

/// Moves the second upstream, and lets its quiet time pass.
pub(super) fn move_second(model: &mut FamilyModel) {
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.begin();
}

pub(super) fn names(model: &FamilyModel) -> Vec<String> {
    model.running.iter().map(|cascade| cascade.name.to_string()).collect()
}

fn latest(model: &FamilyModel, name: &str) -> String {
    model.tags[&(model.index(name), "latest".to_owned())].clone()
}

#[test]
fn a_slow_image_keeps_no_other_tree_from_its_patches() {
    let mut model = two_trees();
    move_second(&mut model);
    assert_eq!(model.builds(), [2, 1, 2, 1], "the other tree does not wait");
    assert_eq!(names(&model).len(), 2);
    for image in ["quick", "app"] {
        model.finish_only(image);
        model.reconcile();
        model.reconcile();
    }
    assert_eq!(model.builds(), [2, 1, 2, 2]);
    assert_eq!(model.record("app").state, CURRENT);
    assert_eq!(names(&model).len(), 1, "the second has ended, and the first runs");
    let ended = model.cascades.last().expect("a cascade");
    let listed: Vec<&str> = ended.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!((ended.phase, listed), (CascadePhase::Complete, vec!["quick", "app"]));
    assert_eq!(model.record("slow").state, ImageState::Building);
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 2, 2, 2], vec![CURRENT; 4]));
    assert_eq!(model.cascades.len(), 3);
}

#[test]
fn an_upstream_moves_again_and_again_while_a_slow_image_builds() {
    let mut model = two_trees();
    for round in 1..10 {
        model.upstream_digests[1] = format!("sha256:up2-{round}");
        model.begin();
        for image in ["quick", "app"] {
            model.finish_only(image);
            model.reconcile();
            model.reconcile();
        }
        assert_eq!(model.builds(), [2, 1, 1 + round, 1 + round]);
    }
}

#[test]
fn a_diamond_stays_single() {
    let mut model = FamilyModel::new(
        &["up", "up2"],
        &[("slow", "up"), ("quick", "up2"), ("both", "slow quick*"), ("alone", "up2")],
    );
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    move_second(&mut model);
    assert_eq!(model.builds(), [2, 1, 1, 1], "what shares an image waits");
    let running = names(&model);
    assert_eq!(running.len(), 1);
    let upstream = &model.status.upstreams[1];
    let message = upstream.message.as_deref().unwrap_or_default();
    assert!(message.contains(&format!("waits for the cascade {}", running[0])), "{message}");
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 2, 3, 2], vec![CURRENT; 4]));
    assert!(model.status.upstreams[1].message.is_none());
}

#[test]
fn what_a_cascade_has_finished_is_built_by_the_next() {
    let mut model =
        FamilyModel::new(&["up", "up2"], &[("slow", "up"), ("quick", "up up2*"), ("app", "quick")]);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    move_second(&mut model);
    assert_eq!(model.builds(), [2, 2, 1], "quick is being built");
    for image in ["quick", "app"] {
        model.finish_only(image);
        model.reconcile();
    }
    let first = model.running[0].status.clone();
    model.begin();
    assert_eq!(model.builds(), [2, 3, 2], "slow runs on");
    let [first_cascade, second] = &model.running[..] else { panic!("{:?}", names(&model)) };
    let result = |name: &str| first_cascade.status.images.iter().find(|image| image.name == name);
    for image in first.images.iter().filter(|image| image.name != "slow") {
        assert_eq!(result(&image.name), Some(image), "its record keeps what it has done");
    }
    assert_eq!(second.planned.concat(), ["quick", "app"]);
    for image in ["quick", "app"] {
        model.finish_only(image);
        for _ in 0..3 {
            model.reconcile();
        }
    }
    assert_eq!(names(&model).len(), 1);
    for image in first.images.iter().filter(|image| image.name != "slow") {
        let listed = &model.running[0].status.images;
        assert!(listed.contains(image), "also after the second has ended: {listed:#?}");
    }
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 3, 3], vec![CURRENT; 3]));
    let phases: Vec<CascadePhase> = model.cascades.iter().map(|cascade| cascade.phase).collect();
    assert_eq!(phases, [CascadePhase::Complete; 3], "{:#?}", model.cascades);
}

#[test]
fn what_a_newer_cascade_has_tried_in_vain_is_not_tried_again_in_an_older_one() {
    let mut model =
        FamilyModel::new(&["up", "up2"], &[("slow", "up"), ("broken", "up"), ("other", "up2")]);
    model.settle();
    model.failing = [(1, FailureClass::Build)].into();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    let give_up = |model: &mut FamilyModel| {
        for _ in 0..9 {
            model.finish_only("broken");
            model.reconcile();
            model.now += SignedDuration::from_mins(10);
            model.reconcile();
        }
        assert_eq!(model.record("broken").state, ImageState::Failed);
        model.builds()[1]
    };
    let tried = give_up(&mut model);
    move_second(&mut model);
    let again = give_up(&mut model);
    assert!(again > tried, "the second cascade tries it again");
    model.finish_only("other");
    for _ in 0..3 {
        model.reconcile();
    }
    assert_eq!(names(&model).len(), 1, "the second has ended, and the first runs");
    assert_eq!(give_up(&mut model), again);
}

#[test]
fn an_edit_starts_a_cascade_of_its_own_or_joins_the_one_that_waits_for_it() {
    let mut model = FamilyModel::new(
        &["up", "up2"],
        &[("slow", "up"), ("parent", "up2"), ("child", "slow parent*"), ("alone", "up2")],
    );
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.spec.images[1].args.insert("A".into(), "1".into());
    model.reconcile();
    assert_eq!(model.builds(), [2, 2, 1, 1], "the cascade waits for it: it joins at once");
    model.spec.images[3].args.insert("A".into(), "1".into());
    model.reconcile();
    assert_eq!(model.record("alone").reason, Reason::Settling);
    model.begin();
    assert_eq!(model.builds(), [2, 2, 1, 2]);
    assert_eq!(model.running[1].planned.concat(), ["alone"]);
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 2, 2, 2], vec![CURRENT; 4]));
}

#[test]
fn cascades_side_by_side_move_their_own_tags_together() {
    let mut model = two_trees();
    model.spec.policy.promotion = Promotion::Cascade;
    move_second(&mut model);
    let slow = latest(&model, "slow");
    model.finish_only("quick");
    model.reconcile();
    let before = latest(&model, "quick");
    assert_ne!(model.record("quick").digest.as_ref(), Some(&before), "it waits for app");
    model.finish_only("app");
    for _ in 0..3 {
        model.reconcile();
    }
    for image in ["quick", "app"] {
        assert_eq!(Some(latest(&model, image)), model.record(image).digest, "{image}");
    }
    assert_eq!(latest(&model, "slow"), slow);
    model.settle();
    assert_eq!(Some(latest(&model, "slow")), model.record("slow").digest);
}

#[test]
fn only_the_cascade_that_an_upstream_touches_is_superseded() {
    let mut model = two_trees();
    model.spec.policy.supersede = Supersede::Cancel;
    move_second(&mut model);
    let [first, second] = &names(&model)[..] else { panic!("{:?}", names(&model)) };
    model.upstream_digests[1] = "sha256:up2-2".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    let CascadeDecision::Finish { ending } = model.reconcile().cascade else {
        panic!("{:?}", names(&model))
    };
    let ended: Vec<(String, bool)> =
        ending.iter().map(|ending| (ending.name.to_string(), ending.superseded)).collect();
    assert_eq!(ended, [(second.clone(), true)]);
    let CascadeDecision::Start { supersedes, .. } = model.reconcile().cascade else {
        panic!("{:?}", names(&model))
    };
    assert_eq!(supersedes.map(String::from).as_ref(), Some(second));
    assert_eq!(&names(&model)[0], first);
    model.settle();
    assert_eq!(model.states(), [CURRENT; 4]);
    assert_eq!(model.builds(), [2, 2, 3, 2]);
}

/// A tree whose second upstream waits for the cascade of the first, and another tree next to it.
fn waiting_next_to_a_free_tree() -> FamilyModel {
    let mut model = FamilyModel::new(
        &["up", "up2", "up3"],
        &[("slow", "up"), ("both", "slow up2*"), ("alone", "up3")],
    );
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    move_second(&mut model);
    model
}

#[test]
fn what_has_waited_for_a_cascade_settles_no_longer_when_that_has_ended() {
    let mut model = waiting_next_to_a_free_tree();
    model.now += model.spec.policy.max_settle.signed();
    for image in ["slow", "both"] {
        model.finish_only(image);
        for _ in 0..3 {
            if !model.running.is_empty() {
                model.reconcile();
            }
        }
    }
    assert!(model.running.is_empty() && model.status.upstreams[1].candidate.is_some());
    // Another change comes in the moment at which the cascade has ended.
    model.spec.images[2].args.insert("A".into(), "1".into());
    model.reconcile();
    assert_eq!(model.status.upstreams[1].candidate, None, "it starts at once");
}

#[test]
fn what_waits_for_a_cascade_goes_on_waiting_while_others_start() {
    let mut model = waiting_next_to_a_free_tree();
    let waiting = model.status.pending.clone();
    assert!(waiting.as_ref().is_some_and(|pending| pending.waits_for_cascade));
    model.upstream_digests[2] = "sha256:up3-1".into();
    model.ask(r#"{"id":"1","action":"Trigger","image":"alone","by":"ada"}"#);
    model.reconcile();
    model.reconcile();
    assert_eq!((names(&model).len(), &model.status.pending), (2, &waiting));
}

/// Twenty upstreams that move one after the other, each with an image that is being built.
fn twenty_trees(supersede: Supersede) -> FamilyModel {
    let upstreams: Vec<String> = (0..20).map(|number| format!("up{number}")).collect();
    let images: Vec<String> = (0..20).map(|number| format!("image{number}")).collect();
    let upstreams: Vec<&str> = upstreams.iter().map(String::as_str).collect();
    let images: Vec<(&str, &str)> =
        images.iter().zip(&upstreams).map(|(image, up)| (image.as_str(), *up)).collect();
    let mut model = FamilyModel::new(&upstreams, &images);
    model.spec.policy.parallelism = 100;
    model.spec.policy.supersede = supersede;
    model.settle();
    for upstream in 0..20 {
        model.upstream_digests[upstream] = format!("sha256:moved-{upstream}");
        model.begin();
    }
    model
}

#[test]
fn at_most_sixteen_cascades_run_and_the_others_wait() {
    let mut model = twenty_trees(Supersede::Finish);
    assert_eq!(names(&model).len(), 16);
    assert_eq!(model.builds().iter().filter(|builds| **builds == 2).count(), 16);
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2; 20], vec![CURRENT; 20]));
}

#[test]
fn what_waits_for_a_place_among_sixteen_cascades_supersedes_none() {
    let mut model = twenty_trees(Supersede::Cancel);
    let first = names(&model);
    assert_eq!((first.len(), model.ended.iter().any(|(_, superseded)| *superseded)), (16, false));
    for waiting in 16..20 {
        let message = model.status.upstreams[waiting].message.clone().unwrap_or_default();
        assert!(
            message.ends_with("waits until one of the running cascades has ended"),
            "{message}"
        );
    }
    model.now += SignedDuration::from_hours(1);
    model.reconcile();
    assert_eq!(names(&model), first, "however long it takes");
    // The one that a candidate touches is superseded, also among sixteen.
    model.upstream_digests[3] = "sha256:again".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    model.reconcile();
    let superseded: Vec<String> = model
        .ended
        .iter()
        .filter(|(_, superseded)| *superseded)
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(superseded, [first[3].clone()]);
    model.settle();
    let mut builds = vec![2; 20];
    builds[3] = 3;
    assert_eq!((model.builds(), model.states()), (builds, vec![CURRENT; 20]));
}

#[test]
fn a_supersession_is_not_forgotten_while_another_cascade_ends() {
    let mut model = two_trees();
    model.spec.policy.supersede = Supersede::Cancel;
    model.spec.policy.retries.build = 0;
    model.finish_only("slow");
    model.reconcile();
    move_second(&mut model);
    let [first, second] = &names(&model)[..] else { panic!("{:?}", names(&model)) };
    model.upstream_digests[1] = "sha256:up2-2".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    let ended = |decision: CascadeDecision| match decision {
        CascadeDecision::Finish { ending } => {
            ending.into_iter().map(|ended| (ended.name.to_string(), ended.superseded)).collect()
        }
        _ => Vec::new(),
    };
    assert_eq!(ended(model.reconcile().cascade), [(second.clone(), true)]);
    model.failing.insert(1, FailureClass::Build);
    model.finish_only("below");
    model.failing.clear();
    assert_eq!(ended(model.reconcile().cascade), [(first.clone(), false)], "in between");
    let CascadeDecision::Start { supersedes, .. } = model.reconcile().cascade else {
        panic!("{:?}", names(&model))
    };
    assert_eq!(supersedes.map(String::from).as_ref(), Some(second));
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 3, 3, 2], vec![CURRENT; 4]));
    // It is replaced once, also if the cascade that has replaced it has ended.
    model.upstream_digests[1] = "sha256:up2-3".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    let CascadeDecision::Start { supersedes, .. } = model.reconcile().cascade else {
        panic!("{:?}", names(&model))
    };
    assert_eq!(supersedes, None);
}

#[test]
fn what_waits_for_a_cascade_shortens_nobodys_quiet_time() {
    let mut model = FamilyModel::new(
        &["up", "up2", "up3"],
        &[("slow", "up"), ("quick", "up2"), ("both", "slow quick*"), ("alone", "up3")],
    );
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    move_second(&mut model);
    model.now += SignedDuration::from_hours(24);
    model.upstream_digests[2] = "sha256:up3-1".into();
    model.reconcile();
    model.reconcile();
    assert_eq!(names(&model).len(), 1, "its quiet time has just begun");
    model.now += SignedDuration::from_secs(30);
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [2, 1, 1, 2]);
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 2, 3, 2], vec![CURRENT; 4]));
}

/// A base with leaves that have a second upstream each.
fn base_with_leaves() -> FamilyModel {
    let mut model = FamilyModel::new(
        &["up", "up1", "up2"],
        &[("base", "up"), ("one", "base up1*"), ("two", "base up2*")],
    );
    model.settle();
    model
}

/// Whether the base is built in the end, although one of its leaves is always being built.
/// `moves` returns the digest of its upstream in each round.
fn base_is_built(model: &mut FamilyModel, moves: impl Fn(usize) -> String) -> bool {
    let max_settle = model.spec.policy.max_settle.signed();
    model.upstream_digests[1] = "sha256:up1-1".into();
    model.begin();
    model.upstream_digests[0] = moves(0);
    model.reconcile();
    for round in 1..20 {
        let (leaf, other) = if round % 2 == 1 { ("one", 2) } else { ("two", 1) };
        model.now += max_settle - SignedDuration::from_mins(1);
        model.upstream_digests[0] = moves(round);
        model.upstream_digests[other] = format!("sha256:other-{round}");
        model.begin();
        model.finish_only(leaf);
        for _ in 0..4 {
            model.reconcile();
        }
        if model.builds()[0] == 2 {
            return true;
        }
    }
    false
}

#[test]
fn a_candidate_of_many_images_does_not_wait_for_ever() {
    let mut model = base_with_leaves();
    assert!(base_is_built(&mut model, |_| "sha256:up-1".into()), "{:?}", model.builds());
}

#[test]
fn an_upstream_of_many_images_does_not_wait_for_ever_however_fast_it_moves() {
    let mut model = base_with_leaves();
    assert!(
        base_is_built(&mut model, |round| format!("sha256:up-{round}")),
        "{:?}",
        model.builds()
    );
    assert_eq!(model.status.upstreams[0].outdated_since, None, "it has been adopted");
}

#[test]
fn tags_of_an_incomplete_cascade_do_not_move_with_another_one() {
    let mut model =
        FamilyModel::new(&["up", "up2"], &[("sound", "up"), ("bad", "up"), ("alone", "up2")]);
    model.spec.policy.promotion = Promotion::Cascade;
    model.spec.policy.retries.build = 0;
    model.settle();
    let before = latest(&model, "sound");
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    move_second(&mut model);
    model.failing.insert(1, FailureClass::Build);
    model.finish_only("sound");
    model.reconcile();
    model.finish_only("bad");
    for _ in 0..3 {
        model.reconcile();
    }
    assert_eq!(model.record("bad").state, ImageState::Failed);
    assert_eq!(names(&model).len(), 1, "the first has ended incomplete");
    model.finish_only("alone");
    for _ in 0..3 {
        model.reconcile();
    }
    assert_eq!(Some(latest(&model, "alone")), model.record("alone").digest);
    assert_eq!(latest(&model, "sound"), before, "not without bad");
}
