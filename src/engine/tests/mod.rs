//! What a family comes to, pass by pass, in the model of [`world`].

mod cascades;
mod checks;
mod edits;
mod gates;
mod imports;
mod requests;
mod states;
mod world;

use jiff::SignedDuration;

use crate::{
    api::{CascadePhase, FailureClass, Hold, ImageFamilyStatus, ImageState, condition::reason},
    engine::*,
};
use world::World;

const CURRENT: ImageState = ImageState::Current;

#[test]
fn a_chain_is_built_once_parents_first_and_tagged() {
    let mut world = World::new(&["up"], &[("app", "lib"), ("lib", "base"), ("base", "up")]);
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [0, 0, 1], "a child never starts before its parent is current");
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
    assert_eq!(world.builds(), [1, 1, 1]);
    let tags: Vec<&str> = world.record("app").tags.iter().map(|tag| tag.tag.as_str()).collect();
    assert_eq!(tags.len(), 2);
    assert_eq!(world.cascades.len(), 1);
    assert_eq!(world.cascades[0].phase, CascadePhase::Complete);
    assert_eq!(world.cascades[0].critical_path, ["base", "lib", "app"]);
}

#[test]
fn moves_that_come_together_build_each_image_once() {
    let mut world = World::new(
        &["up1", "up2"],
        &[("base", "up1"), ("left", "base"), ("right", "base up2*"), ("join", "left right*")],
    );
    world.settle();
    assert_eq!(world.builds(), [1; 4]);
    world.upstream_digests[0] = "sha256:up1-1".into();
    let decision = world.pass();
    assert_eq!(decision.cascade, CascadeDecision::None, "the quiet time has not passed");
    assert!(decision.wake_at.is_some_and(|at| at == world.now + SignedDuration::from_secs(30)));
    world.now += SignedDuration::from_secs(20);
    world.upstream_digests[1] = "sha256:up2-1".into();
    let decision = world.pass();
    assert!(
        decision.wake_at.is_some_and(|at| at == world.now + SignedDuration::from_secs(30)),
        "it begins anew"
    );
    world.settle();
    assert_eq!(world.builds(), [2; 4]);
    assert_eq!(world.states(), [CURRENT; 4]);
    assert_eq!(world.cascades.len(), 2);
}

#[test]
fn changes_that_keep_coming_put_a_cascade_off_only_so_long() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    let start = world.now;
    let opened = (1..).find_map(|round| {
        world.upstream_digests[0] = format!("sha256:up-{round}");
        let decision = world.pass();
        world.now += SignedDuration::from_secs(20);
        matches!(decision.cascade, CascadeDecision::Start { .. }).then_some(world.now)
    });
    let waited = opened.expect("a cascade").duration_since(start).as_secs();
    assert!((600..=640).contains(&waited), "{waited}");
}

#[test]
fn an_upstream_that_moves_mid_cascade_is_adopted_by_the_next() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.pass();
    world.pass();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.finish_builds();
    world.pass();
    assert_eq!(world.builds(), [1, 1], "the cascade goes on with what it began with");
    world.settle();
    assert_eq!(world.builds(), [2, 2]);
    assert_eq!(world.cascades.len(), 2);
}

#[test]
fn losing_every_record_builds_nothing() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    let before: Vec<_> = world
        .records
        .iter()
        .flatten()
        .map(|record| (record.digest.clone(), record.build))
        .collect();
    world.records = vec![None; 2];
    world.status = ImageFamilyStatus::default();
    world.asked.clear();
    world.jobs.clear();
    world.settle();
    assert_eq!(world.builds(), [1, 1]);
    let after: Vec<_> = world
        .records
        .iter()
        .flatten()
        .map(|record| (record.digest.clone(), record.build))
        .collect();
    assert_eq!(before, after);
    assert_eq!(world.cascades.len(), 1, "no cascade is recorded for builds that were only found");
}

#[test]
fn a_failure_blocks_its_descendants_and_nobody_else() {
    let mut world = World::new(
        &["up"],
        &[("base", "up"), ("bad", "base"), ("below", "bad"), ("sibling", "base")],
    );
    let bad = world.index("bad");
    world.failing.insert(bad, FailureClass::Build);
    world.settle();
    assert_eq!(world.states(), [CURRENT, ImageState::Failed, ImageState::Blocked, CURRENT]);
    assert_eq!(world.builds(), [1, 2, 0, 1], "retries.build is 1");
    assert_eq!(world.record("below").message, "blocked by bad, which failed");
    assert_eq!(world.cascades[0].phase, CascadePhase::Incomplete);
    assert!(
        world.cascades[0].outcome.contains("failed: bad")
            && world.cascades[0].outcome.contains("blocked: below"),
        "{}",
        world.cascades[0].outcome
    );

    world.failing.clear();
    world.settle();
    assert_eq!(world.builds(), [1, 2, 0, 1], "nothing is tried again while no input changes");
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.states(), [CURRENT; 4], "a base update after a failure is not swallowed");
    assert_eq!(world.builds(), [2, 3, 1, 2]);
}

#[test]
fn infrastructure_has_a_budget_of_its_own() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.failing.insert(0, FailureClass::Infrastructure);
    world.settle();
    assert_eq!(world.builds(), [6], "retries.infrastructure is 5");
    assert_eq!(world.record("base").reason, reason::INFRASTRUCTURE_FAILED);
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.failing.insert(0, FailureClass::Input);
    world.settle();
    assert_eq!(world.builds(), [1], "what is certain to fail again is not tried again");
}

#[test]
fn a_build_whose_push_is_not_there_is_tried_again() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.pass();
    world.pass();
    for (_, job) in &mut world.jobs {
        (job.outcome, job.live) = (BuildOutcome::Succeeded, false);
    }
    world.pass();
    assert_eq!(world.record("base").reason, reason::RETRYING);
    world.settle();
    assert_eq!(world.builds(), [2]);
    assert_eq!(world.states(), [CURRENT]);
}

#[test]
fn holds_keep_an_upstream_where_it_is() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    let until = world.now + SignedDuration::from_secs(600);
    world.spec.upstreams[0].hold =
        Some(Hold { digest: None, until: Some(until), reason: Some("freeze".into()) });
    world.upstream_digests[0] = "sha256:up-1".into();
    let decision = world.pass();
    assert_eq!(decision.upstreams[0].reason.as_deref(), Some(reason::HELD));
    assert!(
        decision.upstreams[0].message.as_deref().is_some_and(|message| message.contains("freeze"))
    );
    assert_eq!(decision.wake_at, Some(until));
    world.settle();
    assert_eq!(world.builds(), [2], "the hold has ended by itself");
    world.spec.upstreams[0].hold =
        Some(Hold { digest: Some("sha256:up-0".into()), until: None, reason: None });
    world.settle();
    assert_eq!(world.builds(), [2], "what was built before is found in the registry");
    assert_eq!(
        world.status.upstreams[0].adopted.as_ref().map(|adopted| adopted.digest.as_str()),
        Some("sha256:up-0")
    );
}

#[test]
fn a_suspended_family_starts_nothing_and_moves_no_tag() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.suspend = true;
    world.settle();
    assert_eq!((world.builds(), world.tags.len()), (vec![0], 0));
    assert_eq!(world.record("base").reason, reason::SUSPENDED);
    world.spec.suspend = false;
    world.settle();
    assert_eq!((world.builds(), world.tags.len()), (vec![1], 2));
}

#[test]
fn no_more_builds_run_than_parallelism_allows() {
    let images: Vec<(String, String)> =
        (0..12).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut world = World::new(&["up"], &images);
    world.spec.policy.parallelism = 3;
    world.settle();
    assert_eq!(world.states(), [CURRENT; 12]);
    assert_eq!(world.most_at_once, 3);
}

#[test]
fn the_longest_remaining_path_starts_first() {
    let mut world = World::new(
        &["up"],
        &[("leaf", "up"), ("deep", "up"), ("below", "deep"), ("bottom", "below")],
    );
    world.spec.policy.parallelism = 1;
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [0, 1, 0, 0]);
}

#[test]
fn a_tag_that_somebody_moved_is_put_back_and_an_immutable_one_is_not() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    let digest = world.record("base").digest.clone().expect("a digest");
    world.tags.insert((0, "latest".into()), "sha256:elsewhere".into());
    let records = world.records.clone();
    let decision = world.decide();
    assert_eq!(world.records, records);
    // The record still says what we have set: that is how a foreign move is told from one of ours.
    world.records[0]
        .as_mut()
        .expect("base")
        .tags
        .iter_mut()
        .for_each(|tag| tag.digest.clone_from(&digest));
    let moved = |decision: &Decision| {
        decision.actions.iter().any(|action| {
            matches!(action, Action::Promote { tags, .. }
            if tags[0].tag == "latest" && tags[0].moved_to == Some("sha256:elsewhere".into()))
        })
    };
    assert!(moved(&decision) && moved(&world.decide()));
    world.pass();
    assert_eq!(world.tags[&(0, "latest".to_owned())], digest);

    world.tags.insert((0, "r1".into()), "sha256:elsewhere".into());
    assert!(!world.decide().actions.iter().any(|action| matches!(action, Action::Promote { .. })));
}

#[test]
fn a_tag_that_could_not_be_put_back_is_tried_again_though_it_is_recorded() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    let blueprint = world.blueprint();
    let mut input = world.input(&blueprint);
    let problem = Problem { reason: reason::REGISTRY_UNAVAILABLE, message: "it is away".into() };
    let retry_at = world.now + SignedDuration::from_secs(10);
    input.images[0].tags.insert("latest".into(), ObservedTag::Failed(problem, retry_at));
    let moves = |now| {
        decide(&input, now).actions.iter().any(|action| matches!(action, Action::Promote { .. }))
    };
    assert!(!moves(world.now));
    assert!(moves(retry_at));
}

#[test]
fn an_upstream_without_its_platforms_waits() {
    let world = World::new(&["up"], &[("base", "up")]);
    let blueprint = world.blueprint();
    let mut input = world.input(&blueprint);
    input.upstreams[0].newest.as_mut().expect("seen").missing_platforms =
        vec!["linux/arm64".into()];
    let decision = decide(&input, world.now);
    assert!(decision.upstreams[0].adopted.is_none());
    assert!(decision.actions.is_empty());
}

#[test]
fn deciding_is_pure() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.pass();
    assert_eq!(world.decide(), world.decide());
}

#[test]
fn a_source_that_is_asked_for_again_makes_nothing_stale() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world.source = Observed::Pending;
    world.pass();
    assert_eq!(
        world.states(),
        [CURRENT; 2],
        "what is remembered of the source is enough to be \
        current"
    );
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.builds(), [1, 1], "and not enough to build");
    assert!(world.cascade.is_some(), "the cascade waits for it");
    world.source = Observed::Known("source".into());
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![2, 2], vec![CURRENT; 2]));
}

#[test]
fn an_image_on_its_way_to_a_new_source_does_not_fall_back_while_that_is_asked_for_again() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world.source = Observed::Known("newer".into());
    world.begin();
    assert_eq!(world.builds(), [2, 1]);
    world.source = Observed::Pending;
    world.pass();
    world.finish_builds();
    world.pass();
    assert_eq!(world.states(), [ImageState::Waiting; 2]);
    assert_eq!(world.record("base").reason, reason::RESOLVING);
    assert!(world.cascade.is_some());
    world.source = Observed::Known("newer".into());
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![2, 2], vec![CURRENT; 2]));

    // The process died after it had said where the tags were about to go.
    let record = world.records[0].as_mut().expect("a record");
    record.promoted = Some("sha256:newest".into());
    world.source = Observed::Pending;
    world.pass();
    assert_eq!(world.states()[0], ImageState::Waiting);
    assert_eq!(world.tags[&(0, "latest".to_owned())], "sha256:newest", "the move is completed");
}

#[test]
fn a_recorded_candidate_is_looked_at_again_before_it_is_used() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.pass();
    world.now += SignedDuration::from_secs(3600);
    let blueprint = world.blueprint();
    let mut input = world.input(&blueprint);
    input.upstreams[0].newest = None;
    let decision = decide(&input, world.now);
    assert_eq!(decision.cascade, CascadeDecision::None);
    assert_eq!(decision.upstreams[0].reason.as_deref(), Some(reason::RESOLVING));
}

#[test]
fn a_build_number_names_one_build_for_ever() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    for digest in ["sha256:up-1", "sha256:up-0", "sha256:up-2"] {
        world.upstream_digests[0] = digest.into();
        world.settle();
    }
    assert_eq!(world.builds(), [3], "the way back is found in the registry");
    assert_eq!(world.record("base").build, Some(3), "2 was given before the way back");
}

#[test]
fn failures_are_remembered_while_an_input_is_away() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.failing.insert(0, FailureClass::Build);
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![2], vec![ImageState::Failed]));
    world.jobs.clear();
    world.source =
        Observed::Failed(Problem { reason: reason::SOURCE_NOT_FOUND, message: "away".into() });
    world.settle();
    world.source = Observed::Known("source".into());
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![2], vec![ImageState::Failed]));
}
