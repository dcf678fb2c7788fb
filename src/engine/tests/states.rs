//! Walks through the model, by chance and on purpose: while nobody interferes, images go from state
//! to state as [`states`](crate::engine::states) says, each way is taken, and there is no other.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use crate::{
    api::{
        Check, FailureClass, ImageHold, ImageState, OnParentFailure, Supersede, condition::reason,
    },
    engine::{
        BuildOutcome, Lookup, LookupResult, Observed, Problem, states::TRANSITIONS,
        tests::world::World,
    },
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
    world.spec.images[1].checks = vec![check()];
    world
}

/// Something happens.
fn happen(world: &mut World, random: &mut Random, step: usize) {
    const CLASSES: [FailureClass; 3] =
        [FailureClass::Build, FailureClass::Infrastructure, FailureClass::Input];
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
        14 => {
            _ = world.spec.images[image]
                .args
                .insert("STEP".into(), random.of(&["1", "2", "3"]).into());
        }
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
            let problem = Problem { reason: reason::SOURCE_UNAVAILABLE, message: "away".into() };
            let known = || Observed::Known("source".into());
            world.source = [known(), known(), Observed::Pending, Observed::Failed(problem)]
                [random.below(4)]
            .clone();
        }
        20 => {
            world.records[image] = None;
            world.asked.remove(&image);
        }
        21 => {
            let ask_at = world.now + SignedDuration::from_secs(60);
            let problem = Problem { reason: reason::REGISTRY_UNAVAILABLE, message: "away".into() };
            if let Some(lookup) = world.asked.get_mut(&image).and_then(|lookups| lookups.last_mut())
            {
                lookup.result = if random.below(2) == 0 {
                    LookupResult::Failed(problem, ask_at)
                } else {
                    LookupResult::Rejected(problem, ask_at)
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

/// States before and after.
type Seen = BTreeSet<(ImageState, ImageState)>;

/// Passes while nobody interferes.
fn quiet(world: &mut World, input: &mut Seen, passes: usize) {
    for _ in 0..passes {
        let before = world.states();
        world.pass();
        input.extend(before.into_iter().zip(world.states()).filter(|(from, to)| from != to));
    }
}

/// Moves upstreams, and passes until the cascade that takes them up has started its first builds.
fn begin(world: &mut World, upstreams: &[usize], digest: &str, input: &mut Seen) {
    for upstream in upstreams {
        world.upstream_digests[*upstream] = format!("sha256:{upstream}-{digest}");
    }
    world.pass();
    world.now += SignedDuration::from_secs(31);
    quiet(world, input, 2);
}

fn check() -> Check {
    Check { name: "starts".into(), command: vec!["true".into()], ..Check::default() }
}

/// Holds an image for so many seconds.
fn hold(world: &mut World, image: usize, seconds: i64) {
    let until = Some(world.now + SignedDuration::from_secs(seconds));
    world.spec.images[image].hold = Some(ImageHold { until, ..ImageHold::default() });
}

/// Ways that chance takes rarely or never.
const RARE: [fn(&mut Seen); 8] = [
    |input| {
        // A parent comes out the same; meanwhile somebody has given one of its children a check.
        let mut world = World::new(&["up"], &[("base", "up"), ("left", "base"), ("right", "base")]);
        world.content.insert(0, "same".into());
        world.settle();
        begin(&mut world, &[0], "1", input);
        world.spec.images[1].checks = vec![check()];
        world.pass();
        assert_eq!(
            world.states(),
            [ImageState::Building, ImageState::Waiting, ImageState::Waiting]
        );
        world.finish_builds();
        quiet(&mut world, input, 1);
        assert_eq!(
            world.states(),
            [ImageState::Current, ImageState::Checking, ImageState::Current]
        );
    },
    |input| {
        // A newer cascade takes the place of one whose child is being built.
        let mut world = World::new(&["up"], &[("base", "up"), ("left", "base")]);
        world.spec.policy.supersede = Supersede::Cancel;
        world.settle();
        begin(&mut world, &[0], "1", input);
        world.finish_builds();
        quiet(&mut world, input, 1);
        assert_eq!(world.states(), [ImageState::Current, ImageState::Building]);
        begin(&mut world, &[0], "2", input);
        quiet(&mut world, input, 1);
        assert_eq!(world.states(), [ImageState::Building, ImageState::Waiting]);
    },
    |input| {
        // The hold of an image ends that has failed in this cascade; its child is built or checked
        // meanwhile.
        for checked in [false, true] {
            let mut world =
                World::new(&["up", "up2"], &[("base", "up"), ("left", "base"), ("right", "up2")]);
            world.spec.policy.retries.build = 0;
            world.spec.images[1].checks = if checked { vec![check()] } else { Vec::new() };
            world.settle();
            world.failing.insert(0, FailureClass::Build);
            begin(&mut world, &[0, 1], "1", input);
            world.finish_only("base");
            quiet(&mut world, input, 1);
            assert_eq!(
                world.states(),
                [ImageState::Failed, ImageState::Blocked, ImageState::Building]
            );
            hold(&mut world, 0, 100);
            world.spec.images[1].args.insert("STEP".into(), "1".into());
            world.pass();
            if checked {
                world.finish_only("left");
                world.pass();
            }
            let left = if checked { ImageState::Checking } else { ImageState::Building };
            assert_eq!(world.states(), [ImageState::Held, left, ImageState::Building]);
            world.now += SignedDuration::from_secs(101);
            quiet(&mut world, input, 1);
            assert_eq!(
                world.states(),
                [ImageState::Failed, ImageState::Blocked, ImageState::Building]
            );
        }
    },
    |input| {
        // The hold of a base ends: before a cascade, in one, when its build has ended, and when
        // that is to be checked.
        use ImageState::{Building, Checking, Current, Held, Queued, Waiting};
        for (moved, ended, checked, after) in [
            (&[][..], false, false, [Queued, Waiting, Current]),
            (&[1], false, false, [Building, Waiting, Building]),
            (&[1], true, false, [Current, Building, Building]),
            (&[1], true, true, [Checking, Waiting, Building]),
        ] {
            let mut world =
                World::new(&["up", "up2"], &[("base", "up"), ("left", "base"), ("right", "up2")]);
            world.spec.images[0].checks = if checked { vec![check()] } else { Vec::new() };
            world.settle();
            if !ended {
                hold(&mut world, 0, 100);
            }
            begin(&mut world, &[&[0], moved].concat(), "1", input);
            if ended {
                hold(&mut world, 0, 100);
                world.pass();
                world.finish_only("base");
            }
            quiet(&mut world, input, 2);
            assert_eq!(world.states()[..2], [Held, Current]);
            world.now += SignedDuration::from_secs(101);
            quiet(&mut world, input, 1);
            assert_eq!(world.states(), after);
        }
    },
    |input| {
        // The hold of a child ends while its base is built, and after that has failed.
        for (fails, after) in [(false, ImageState::Waiting), (true, ImageState::Blocked)] {
            let mut world = World::new(&["up"], &[("base", "up"), ("left", "base")]);
            world.spec.policy.retries.build = 0;
            world.settle();
            hold(&mut world, 1, 100);
            begin(&mut world, &[0], "1", input);
            if fails {
                world.failing.insert(0, FailureClass::Build);
                world.finish_builds();
                quiet(&mut world, input, 1);
            }
            assert_eq!(world.states()[1], ImageState::Held);
            world.now += SignedDuration::from_secs(101);
            quiet(&mut world, input, 1);
            assert_eq!(world.states()[1], after);
        }
    },
    |input| {
        // One build at a time.
        let mut world = World::new(&["up"], &[("a", "up"), ("b", "up")]);
        (world.spec.policy.parallelism, world.spec.policy.retries.build) = (1, 0);
        world.settle();
        begin(&mut world, &[0], "1", input);
        assert_eq!(world.states(), [ImageState::Building, ImageState::Queued]);
        world.failing = [(0, FailureClass::Build), (1, FailureClass::Build)].into();
        world.settle();
        assert_eq!(world.states(), [ImageState::Failed; 2]);
        begin(&mut world, &[0], "2", input);
        assert_eq!(world.states(), [ImageState::Building, ImageState::Queued]);
    },
    |input| {
        // A cascade that another image sets off.
        let mut world = World::new(&["up", "up2"], &[("a", "up"), ("b", "up2")]);
        world.spec.policy.retries.build = 0;
        world.spec.images[0].checks = vec![check()];
        world.failing_checks.insert("starts".into(), FailureClass::Build);
        world.settle();
        assert_eq!(world.states(), [ImageState::Failed, ImageState::Current]);
        begin(&mut world, &[1], "1", input);
        assert_eq!(world.states(), [ImageState::Checking, ImageState::Building]);
    },
    |input| {
        // What stood in the registry was not what it said, until somebody deleted it; the build has
        // pushed again meanwhile.
        let mut world =
            World::new(&["up", "up2"], &[("base", "up"), ("left", "base"), ("right", "up2")]);
        world.settle();
        begin(&mut world, &[0, 1], "1", input);
        world.finish_only("base");
        let built = world.jobs.iter().rfind(|(of, _)| *of == 0).expect("a build");
        let problem = Problem {
            reason: reason::INVALID_REGISTRY_RESPONSE,
            message: "it stands on another \
                parent"
                .into(),
        };
        let rejected = LookupResult::Rejected(problem, world.now + SignedDuration::from_secs(60));
        let lookup = Lookup { fingerprint: built.1.identity.fingerprint.clone(), result: rejected };
        world.asked.insert(0, vec![lookup]);
        quiet(&mut world, input, 1);
        assert_eq!(world.states(), [ImageState::Failed, ImageState::Blocked, ImageState::Building]);
        world.now += SignedDuration::from_secs(61);
        quiet(&mut world, input, 1);
        assert_eq!(
            world.states(),
            [ImageState::Current, ImageState::Building, ImageState::Building]
        );
    },
];

#[test]
fn images_go_from_state_to_state_as_documented() {
    let mut input = Seen::new();
    for evaluation in RARE {
        evaluation(&mut input);
    }
    for seed in 0..WALKS {
        let (mut world, mut random) = (diamond(), Random(seed));
        for step in 0..STEPS {
            happen(&mut world, &mut random, step);
            world.pass();
        }
        // From here on nobody interferes: builds and checks end, and time passes.
        world.spec.suspend = false;
        world.source = Observed::Known("source".into());
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
            quiet(&mut world, &mut input, 1);
        }
    }
    let documented: Seen =
        TRANSITIONS.iter().map(|transition| (transition.from, transition.to)).collect();
    let undocumented: Vec<_> = input.difference(&documented).collect();
    assert!(undocumented.is_empty(), "not in states.rs: {undocumented:?}");
    let not_taken: Vec<_> = documented.difference(&input).collect();
    assert!(not_taken.is_empty(), "in states.rs, and never taken: {not_taken:?}");
}
