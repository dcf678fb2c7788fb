//! Random walks through the model: while nobody interferes, images go from state to state only as
//! [`states`](crate::engine::states) says.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::world::World;
use crate::{
    api::{Check, FailureClass, ImageHold, ImageState, OnParentFailure, condition::reason},
    engine::{BuildOutcome, Fault, PushResult, Sight, states::TRANSITIONS},
};

/// Walks; steps of each in which anything may happen, and in which nobody interferes.
const WALKS: u64 = 100;
const STEPS: usize = 15;
const QUIET: usize = 30;

/// A sequence that looks random and is the same for the same seed: `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).expect("a bound")).expect("a number")
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A diamond whose `left` is checked.
fn diamond() -> World {
    let mut world = World::new(
        &["up", "up2"],
        &[("base", "up"), ("left", "base"), ("right", "base up2*"), ("join", "left right*")],
    );
    world.spec.policy.parallelism = 2;
    world.spec.images[1].checks =
        vec![Check { name: "starts".into(), command: vec!["true".into()], ..Check::default() }];
    world
}

/// Something happens.
fn happen(world: &mut World, random: &mut Random, step: usize) {
    const CLASSES: [FailureClass; 3] = [FailureClass::Build, FailureClass::Infrastructure, FailureClass::Input];
    let image = random.below(world.spec.images.len());
    let class = random.of(&CLASSES);
    match random.below(24) {
        0..=5 => world.finish_builds(),
        6..=7 => world.finish_checks(),
        8 => world.now += SignedDuration::from_secs(random.of(&[1, 31, 700])),
        9 => {
            let upstream = random.below(2);
            world.upstream_digests[upstream] = format!("sha256:{upstream}-{step}");
        }
        10 => _ = world.failing.insert(image, class),
        11 => world.failing.clear(),
        12 => _ = world.failing_checks.insert("starts".into(), class),
        13 => world.failing_checks.clear(),
        14 => _ = world.spec.images[image].args.insert("STEP".into(), random.of(&["1", "2", "3"]).into()),
        15 => world.spec.images[1].checks[0].command = vec![random.of(&["true", "false"]).into()],
        16 => world.spec.images[image].hold = random.of(&[true, false]).then(ImageHold::default),
        17 => {
            let (action, fields) = random.of(&[
                ("Trigger", ""),
                ("Retry", ""),
                ("Cancel", ""),
                ("Force", r#", "image": "base""#),
                ("Force", r#", "image": "left", "subtree": true"#),
                ("Cancel", r#", "image": "right""#),
            ]);
            world.ask(&format!(r#"{{"id": "r{step}", "action": "{action}"{fields}}}"#));
        }
        18 => world.spec.suspend = random.below(4) == 0,
        19 => {
            let fault = Fault { reason: reason::SOURCE_UNAVAILABLE, message: "away".into() };
            let known = || Sight::Known("source".into());
            world.source = [known(), known(), Sight::Pending, Sight::Faulty(fault)][random.below(4)].clone();
        }
        20 => {
            world.records[image] = None;
            world.asked.remove(&image);
        }
        21 => {
            let ask_at = world.now + SignedDuration::from_secs(60);
            let fault = Fault { reason: reason::REGISTRY_UNAVAILABLE, message: "away".into() };
            if let Some(push) = world.asked.get_mut(&image).and_then(|pushes| pushes.last_mut()) {
                push.result = if random.below(2) == 0 {
                    PushResult::Faulty(fault, ask_at)
                } else {
                    PushResult::Rejected(fault, ask_at)
                };
            }
        }
        22 => world.jobs.retain(|(of, job)| *of != image || job.outcome == BuildOutcome::Running),
        _ => {
            let choice = random.of(&[OnParentFailure::Block, OnParentFailure::UseLastGood]);
            world.spec.images[image].on_parent_failure = choice;
        }
    }
}

#[test]
fn images_go_from_state_to_state_as_documented() {
    let mut seen: BTreeSet<(ImageState, ImageState)> = BTreeSet::new();
    for seed in 0..WALKS {
        let (mut world, mut random) = (diamond(), Random(seed));
        for step in 0..STEPS {
            happen(&mut world, &mut random, step);
            world.pass();
        }
        // From here on nobody interferes: builds and checks end, and time passes.
        world.spec.suspend = false;
        world.source = Sight::Known("source".into());
        for _ in 0..3 {
            world.pass();
        }
        for _ in 0..QUIET {
            match random.below(4) {
                0 => world.finish_builds(),
                1 => world.finish_checks(),
                2 => world.now += SignedDuration::from_secs(random.of(&[1, 31, 700])),
                _ => {}
            }
            let before = world.states();
            world.pass();
            seen.extend(before.into_iter().zip(world.states()).filter(|(from, to)| from != to));
        }
    }
    let documented: BTreeSet<(ImageState, ImageState)> =
        TRANSITIONS.iter().map(|transition| (transition.from, transition.to)).collect();
    let undocumented: Vec<_> = seen.difference(&documented).collect();
    assert!(undocumented.is_empty(), "not in states.rs: {undocumented:?}");
    let missing: Vec<_> = documented.difference(&seen).collect();
    eprintln!("MISSING {missing:?}");
    // Some ways are rare; a walk that takes few of the others has seen nothing.
    let taken = seen.intersection(&documented).count();
    assert!(taken >= 20, "only {taken} of {} ways were taken", documented.len());
}
