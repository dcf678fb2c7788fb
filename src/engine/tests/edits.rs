//! What becomes of a cascade when its family is edited, or goes, while it runs.

use crate::{
    api::{CascadePhase, Edge, ImageFamilyStatus},
    engine::{
        BuildOutcome,
        tests::{CURRENT, world::World},
    },
};

/// A chain beside an image that stands on nothing of it, in the middle of a cascade.
fn mid_cascade() -> World {
    let mut world =
        World::new(&["up"], &[("base", "up"), ("other", "up"), ("lib", "base"), ("app", "lib")]);
    world.settle();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.begin();
    world.finish_builds();
    world.pass();
    assert_eq!(world.builds(), [2, 2, 2, 1], "lib is being built");
    world
}

fn on(image: &str) -> Vec<Edge> {
    vec![Edge { image: Some(image.into()), ..Edge::default() }]
}

fn parents(world: &World, image: &str) -> Vec<String> {
    let inputs = world.record(image).inputs.clone().expect("inputs");
    inputs.parents.into_iter().map(|parent| parent.digest).collect()
}

fn digest(world: &World, image: &str) -> String {
    world.record(image).digest.clone().expect("a digest")
}

#[test]
fn edges_that_are_rewired_mid_cascade_are_built_in_it() {
    // Of an image that waits, past the one that is being built.
    let mut world = mid_cascade();
    world.spec.images[3].from = on("base");
    world.pass();
    assert_eq!(world.builds()[3], 2, "it no longer waits for lib");
    world.settle();
    assert_eq!((world.states(), world.cascades.len()), (vec![CURRENT; 4], 2));
    assert_eq!(parents(&world, "app"), [digest(&world, "base")]);

    // Of the image that is being built: what runs is for other inputs, and nothing comes of it.
    let mut world = mid_cascade();
    world.spec.images[2].from = on("other");
    world.pass();
    assert!(
        world.record("lib").message.contains("it is rebuilt next"),
        "{}",
        world.record("lib").message
    );
    let cascades = world.cascades.len();
    world.settle();
    assert_eq!((world.states(), world.cascades.len()), (vec![CURRENT; 4], cascades + 1));
    assert_eq!(world.builds(), [2, 2, 3, 2]);
    assert_eq!(parents(&world, "lib"), [digest(&world, "other")]);
    assert_eq!(parents(&world, "app"), [digest(&world, "lib")]);

    // The other way around: a parent comes to stand on what was its child.
    let mut world = mid_cascade();
    world.spec.images[3].from = on("base");
    world.spec.images[2].from = on("app");
    world.settle();
    assert_eq!(world.states(), [CURRENT; 4]);
    assert_eq!(parents(&world, "lib"), [digest(&world, "app")]);
    assert!(world.cascade.is_none());
}

#[test]
fn an_image_that_is_removed_while_it_builds_is_stopped_and_the_cascade_ends_without_it() {
    let mut world = mid_cascade();
    world.finish_builds();
    world.pass();
    assert_eq!(world.builds()[3], 2, "app is being built");
    world.remove_last();
    world.pass();
    assert_eq!(world.stopped(), 1);
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
    let cascade = world.cascades.last().expect("a cascade");
    assert_eq!(
        (cascade.phase, cascade.images.len()),
        (CascadePhase::Complete, 3),
        "{}",
        cascade.outcome
    );
}

#[test]
fn a_family_that_is_deleted_mid_cascade_and_made_again_is_built_whole() {
    for jobs_are_gone in [false, true] {
        let mut world = mid_cascade();
        // All that was recorded goes with it: the images, its status, the cascade. Its Jobs go a
        // moment later.
        world.records = vec![None; 4];
        world.status = ImageFamilyStatus::default();
        (world.cascade, world.ended) = (None, Vec::new());
        world.asked.clear();
        world.pass();
        if jobs_are_gone {
            for (_, job) in
                world.jobs.iter_mut().filter(|(_, job)| job.outcome == BuildOutcome::Running)
            {
                (job.outcome, job.live) = (BuildOutcome::Stopped, false);
            }
            world.pass();
            world.jobs.clear();
        }
        world.settle();
        assert_eq!(world.states(), [CURRENT; 4]);
        assert!(world.cascade.is_none());
        let lib = if jobs_are_gone { 3 } else { 2 };
        assert_eq!(
            world.builds(),
            [2, 2, lib, 2],
            "what stands in the registry is not built again"
        );
        assert_eq!(parents(&world, "app"), [digest(&world, "lib")]);
    }
}
