//! How cascades come together, end early, stop where nothing has changed, and are promoted.

use jiff::SignedDuration;

use crate::{
    api::{
        CascadePhase, Cutoff, FailureClass, ImageState, Promotion, Supersede, condition::reason,
    },
    engine::{
        CascadeDecision,
        tests::{CURRENT, world::World},
    },
};

fn chain() -> World {
    let mut world = World::new(&["up"], &[("base", "up"), ("lib", "base"), ("app", "lib")]);
    world.settle();
    world
}

/// Moves the upstream to `sha256:up-2`, until the cascade that runs is ended for it.
fn supersede(world: &mut World) {
    world.upstream_digests[0] = "sha256:up-2".into();
    world.pass();
    world.now += SignedDuration::from_secs(30);
    let decision = world.pass();
    assert!(
        matches!(decision.cascade, CascadeDecision::Finish { superseded: true, .. }),
        "{:?}",
        decision.cascade
    );
}

#[test]
fn causes_reach_down_to_the_upstream() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    let causes = &world.record("app").causes;
    let root = causes.iter().find(|cause| cause.name == "up").expect("the upstream");
    assert_eq!((root.from.as_str(), root.to.as_str()), ("sha256:up-0", "sha256:up-1"));
    assert_eq!(root.via, ["base", "lib"]);
    let cascade = world.cascades.last().expect("a cascade");
    let app = cascade.images.iter().find(|image| image.name == "app").expect("a result");
    assert_eq!(&app.causes, causes);
    assert!(app.why.contains("because up moved from up-0 to up-1"), "{}", app.why);
}

#[test]
fn a_cascade_goes_to_its_end_however_fast_an_upstream_moves() {
    let mut world = chain();
    world.spec.policy.settle = crate::api::Duration::from_secs(0);
    for round in 1..40 {
        world.upstream_digests[0] = format!("sha256:up-{round}");
        world.now += SignedDuration::from_secs(1);
        world.pass();
        world.finish_builds();
    }
    let complete =
        world.cascades.iter().filter(|cascade| cascade.phase == CascadePhase::Complete).count();
    assert!(complete >= 5, "{complete}");
    assert!(world.builds()[2] >= complete - 1, "{:?}", world.builds());
}

#[test]
fn a_cascade_is_cancelled_for_a_newer_digest_and_the_next_one_is_not() {
    let mut world = chain();
    world.spec.policy.supersede = Supersede::Cancel;
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    assert_eq!(world.builds(), [2, 1, 1]);
    supersede(&mut world);
    let decision = world.pass();
    assert!(
        matches!(&decision.cascade, CascadeDecision::Start { supersedes: Some(_), .. }),
        "{:?}",
        decision.cascade
    );
    world.pass();
    assert_eq!(world.stopped(), 1, "the build for the older digest is ended");
    world.jobs.retain(|(_, job)| job.live || job.outcome != crate::engine::BuildOutcome::Stopped);
    world.pass();
    assert_eq!(world.builds(), [3, 1, 1]);
    world.upstream_digests[0] = "sha256:up-3".into();
    world.pass();
    world.now += SignedDuration::from_secs(60);
    let decision = world.pass();
    assert!(
        matches!(decision.cascade, CascadeDecision::Continue { .. }),
        "a cascade that superseded another goes to its end"
    );
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
    assert_eq!(world.stopped(), 0);
    let phases: Vec<CascadePhase> = world.cascades.iter().map(|cascade| cascade.phase).collect();
    assert_eq!(
        phases,
        [
            CascadePhase::Complete,
            CascadePhase::Superseded,
            CascadePhase::Complete,
            CascadePhase::Complete
        ]
    );
}

#[test]
fn the_cascade_that_takes_the_place_of_another_does_not_wait_for_what_that_has_left_ready() {
    let mut world = World::new(&["up"], &[("base", "up"), ("other", "up")]);
    world.settle();
    world.spec.policy.supersede = Supersede::Cancel;
    world.spec.policy.parallelism = 1;
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    assert_eq!(world.record("other").reason, reason::PARALLELISM_REACHED);
    supersede(&mut world);
    let decision = world.pass();
    assert!(matches!(decision.cascade, CascadeDecision::Start { .. }), "{:?}", decision.cascade);
}

#[test]
fn only_the_candidate_that_a_cascade_was_ended_for_begins_without_a_quiet_time() {
    let mut world = chain();
    world.spec.policy.supersede = Supersede::Cancel;
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    supersede(&mut world);
    // In that moment the publisher takes it back.
    world.upstream_digests[0] = "sha256:up-1".into();
    for image in ["base", "lib", "app"] {
        let index = world.index(image);
        world.spec.images[index].hold = Some(crate::api::ImageHold::default());
    }
    world.finish_builds();
    world.pass();
    world.now += SignedDuration::from_secs(3600);
    world.pass();
    world.upstream_digests[0] = "sha256:up-3".into();
    let decision = world.pass();
    assert_eq!(decision.cascade, CascadeDecision::None, "a later one has a quiet time of its own");
    assert!(decision.pending.is_some());
    world.now += SignedDuration::from_secs(30);
    assert!(matches!(world.pass().cascade, CascadeDecision::Start { .. }));
}

#[test]
fn what_changes_while_a_cascade_runs_waits_no_longer_than_max_settle() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    // It moves faster than the quiet time, for longer than `maxSettle`, while one build runs.
    for round in 2..40 {
        world.upstream_digests[0] = format!("sha256:up-{round}");
        world.now += SignedDuration::from_secs(20);
        world.pass();
    }
    assert_eq!(world.cascades.len(), 1, "the cascade goes on");
    world.upstream_digests[0] = "sha256:up-40".into();
    while world.cascades.len() == 1 {
        world.finish_builds();
        world.pass();
    }
    assert!(
        matches!(world.pass().cascade, CascadeDecision::Start { .. }),
        "{:?}",
        world.status.pending
    );
}

#[test]
fn a_quiet_time_passes_while_something_else_keeps_the_cascade_from_beginning() {
    let mut world = chain();
    world.spec.suspend = true;
    world.upstream_digests[0] = "sha256:up-1".into();
    world.pass();
    world.now += SignedDuration::from_secs(30);
    world.pass();
    world.spec.suspend = false;
    assert!(matches!(world.pass().cascade, CascadeDecision::Start { .. }));
}

#[test]
fn a_rebuild_that_changes_nothing_stops_the_cascade() {
    for (cutoff, builds) in [(Cutoff::Content, [2, 2, 1]), (Cutoff::Never, [2, 2, 2])] {
        let mut world = World::new(&["up"], &[("base", "up"), ("lib", "base"), ("app", "lib")]);
        world.spec.policy.cutoff = cutoff;
        world.content.insert(1, "the same".into());
        world.settle();
        let before = world.record("lib").digest.clone();
        world.upstream_digests[0] = "sha256:up-1".into();
        world.settle();
        assert_eq!(world.builds(), builds, "{cutoff:?}");
        assert_eq!(world.record("lib").digest == before, cutoff == Cutoff::Content);
        if cutoff == Cutoff::Content {
            let cascade = world.cascades.last().expect("a cascade");
            let spared: Vec<&str> = cascade
                .images
                .iter()
                .filter(|image| image.spared)
                .map(|image| image.name.as_str())
                .collect();
            assert_eq!(spared, ["lib", "app"]);
            assert!(cascade.outcome.starts_with("1 rebuilt, 2 spared"), "{}", cascade.outcome);
            world.records = vec![None; 3];
            world.asked.clear();
            world.jobs.clear();
            world.settle();
            assert_eq!(world.builds(), builds, "the registry remembers what came out the same");
            assert_eq!(world.record("lib").digest, before);
        }
    }
}

#[test]
fn what_was_built_before_is_taken_up_again_as_it_is() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.policy.cutoff = Cutoff::Never;
    world.content.insert(0, "the same".into());
    world.settle();
    let (first, before) = (world.record("base").digest.clone(), world.upstream_digests[0].clone());
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_ne!(world.record("base").digest, first);
    // An immutable tag of the first build stands on its digest.
    world.spec.policy.cutoff = Cutoff::Content;
    world.upstream_digests[0] = before;
    world.settle();
    assert_eq!((world.record("base").digest.clone(), world.builds()), (first, vec![2]));
}

#[test]
fn tags_of_a_cascade_move_together_or_not_at_all() {
    let mut world = chain();
    world.spec.policy.promotion = Promotion::Cascade;
    world.settle();
    let latest =
        |world: &World, name: &str| world.tags[&(world.index(name), "latest".to_owned())].clone();
    let before: Vec<String> =
        ["base", "lib", "app"].iter().map(|name| latest(&world, name)).collect();
    world.failing.insert(2, FailureClass::Build);
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.states(), [CURRENT, CURRENT, ImageState::Failed]);
    let after: Vec<String> =
        ["base", "lib", "app"].iter().map(|name| latest(&world, name)).collect();
    assert_eq!(before, after, "nothing moves");
    assert!(world.tags.contains_key(&(0, "r2".to_owned())), "but for tags that name the build");
    let outcome = &world.cascades.last().expect("a cascade").outcome;
    assert!(outcome.contains("required images are missing: app"), "{outcome}");
    world.failing.clear();
    world.spec.images[2].args.insert("A".into(), "1".into());
    world.settle();
    for name in ["base", "lib", "app"] {
        assert_eq!(
            latest(&world, name),
            world.record(name).digest.clone().expect("a digest"),
            "{name}"
        );
    }
}

#[test]
fn a_cascade_does_not_wait_for_what_is_not_required() {
    let mut world = chain();
    world.spec.policy.promotion = Promotion::Cascade;
    world.spec.images[2].required = false;
    world.settle();
    world.failing.insert(2, FailureClass::Build);
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    let latest = |name: &str| world.tags[&(world.index(name), "latest".to_owned())].clone();
    assert_eq!(Some(latest("lib")), world.record("lib").digest);
    assert_eq!(Some(latest("app")), world.record("app").digest, "its last good digest");
}

#[test]
fn a_cascade_that_comes_whole_while_the_family_is_suspended_is_promoted_afterwards() {
    let mut world = chain();
    world.spec.policy.promotion = Promotion::Cascade;
    world.settle();
    let latest = |world: &World| -> Vec<String> {
        (0..3).map(|image| world.tags[&(image, "latest".to_owned())].clone()).collect()
    };
    let before = latest(&world);
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    while world.builds()[2] < 2 {
        world.finish_builds();
        world.pass();
    }
    world.spec.suspend = true;
    world.settle();
    assert!(world.cascade.is_none(), "what ran has come to its end, and the cascade with it");
    assert_eq!(latest(&world), before);
    let verified: Vec<_> =
        world.records.iter().flatten().filter_map(|record| record.digest.clone()).collect();
    // The next one begins at once, and does not come whole.
    world.upstream_digests[0] = "sha256:up-2".into();
    world.settle();
    world.now += SignedDuration::from_secs(30);
    world.spec.suspend = false;
    world.failing.insert(2, FailureClass::Build);
    world.settle();
    assert_eq!(latest(&world), verified);
}

#[test]
fn an_interrupted_flip_is_completed() {
    let mut world = chain();
    world.spec.policy.promotion = Promotion::Cascade;
    world.settle();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    let flipped = world.tags.clone();
    // As if the controller had been killed after it had recorded the target, and before it had
    // moved the last tag.
    let digest = world
        .record("base")
        .tags
        .iter()
        .find(|tag| tag.tag == "latest")
        .expect("a tag")
        .digest
        .clone();
    world.tags.insert((2, "latest".into()), digest.clone());
    let record = world.records[2].as_mut().expect("a record");
    record
        .tags
        .iter_mut()
        .filter(|tag| tag.tag == "latest")
        .for_each(|tag| tag.digest.clone_from(&digest));
    world.settle();
    assert_eq!(world.tags, flipped);
}

#[test]
fn what_a_parent_brings_twice_in_a_cascade_is_left_to_the_next() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base"), ("slow", "base")]);
    world.settle();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    world.finish_builds();
    world.pass();
    assert_eq!(world.builds(), [2, 2, 2]);
    world.finish_only("app");
    world.pass();
    world.spec.images[0].args.insert("A".into(), "1".into());
    world.pass();
    world.finish_only("base");
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [3, 2, 2], "an edit of its own is built in the cascade");
    assert_eq!(world.record("app").reason, reason::NEXT_CASCADE);
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![3, 3, 3], vec![CURRENT; 3]));
    let last = world.cascades.iter().rev().nth(1).expect("a cascade");
    assert!(last.images.iter().all(|image| image.name == "base" || image.builds == 1), "{last:#?}");
}

#[test]
fn the_build_of_an_image_that_is_gone_is_ended() {
    let mut world = chain();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    assert_eq!(world.stopped(), 0);
    world.rename("base", "ground");
    world.spec.images[1].from[0].image = Some("ground".into());
    world.pass();
    assert_eq!(world.stopped(), 1);
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
}

#[test]
fn a_clock_that_is_set_back_gives_no_cascade_the_name_of_an_earlier_one() {
    let mut world = chain();
    world.spec.policy.settle = crate::api::Duration::from_secs(0);
    let first = world.now;
    for round in 1..=2 {
        world.upstream_digests[0] = format!("sha256:up-{round}");
        world.settle();
        world.now += SignedDuration::from_hours(1);
    }
    world.now = first;
    world.upstream_digests[0] = "sha256:up-3".into();
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT; 3], vec![4; 3]));
    let names: std::collections::BTreeSet<&String> =
        world.ended.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), world.ended.len(), "{:?}", world.ended);
}
