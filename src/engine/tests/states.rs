//! Walks through the model, by chance and on purpose: while nobody interferes, images go from state
//! to state as [`states`](crate::engine::states) says, each way is taken, and there is no other.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use crate::{
    api::{
        Check, FailureClass, ImageHold, ImageState, OnParentFailure, Supersede, condition::Reason,
    },
    engine::{
        BuildOutcome, Lookup, LookupResult, Observed, Problem, states::TRANSITIONS,
        tests::model::FamilyModel,
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
fn diamond() -> FamilyModel {
    let mut model = FamilyModel::new(
        &["up", "up2"],
        &[("base", "up"), ("left", "base"), ("right", "base up2*"), ("join", "left right*")],
    );
    model.spec.policy.parallelism = 2;
    model.spec.images[1].checks = vec![check()];
    model
}

/// Something happens.
fn happen(model: &mut FamilyModel, random: &mut Random, step: usize) {
    const CLASSES: [FailureClass; 3] =
        [FailureClass::Build, FailureClass::Infrastructure, FailureClass::Input];
    let image = random.below(model.spec.images.len());
    let class = random.of(&CLASSES);
    match random.below(24) {
        0..=5 => model.finish_builds(),
        6..=7 => model.finish_checks(),
        8 => model.now += SignedDuration::from_secs(random.of(&[1, 31, 700])),
        9 => {
            let upstream = random.below(2);
            model.upstream_digests[upstream] = format!("sha256:{upstream}-{step}");
        }
        10 => _ = model.failing.insert(image, class),
        11 => model.failing.clear(),
        12 => _ = model.failing_checks.insert("starts".into(), class),
        13 => model.failing_checks.clear(),
        14 => {
            _ = model.spec.images[image]
                .args
                .insert("STEP".into(), random.of(&["1", "2", "3"]).into());
        }
        15 => model.spec.images[1].checks[0].command = vec![random.of(&["true", "false"]).into()],
        16 => model.spec.images[image].hold = random.of(&[true, false]).then(ImageHold::default),
        17 => {
            let (action, fields) = random.of(&[
                ("Trigger", ""),
                ("Retry", ""),
                ("Cancel", ""),
                ("Force", r#", "image": "base""#),
                ("Force", r#", "image": "left", "subtree": true"#),
                ("Cancel", r#", "image": "right""#),
            ]);
            model.ask(&format!(r#"{{"id": "r{step}", "action": "{action}"{fields}}}"#));
        }
        18 => model.spec.suspend = random.below(4) == 0,
        19 => {
            let problem = Problem { reason: Reason::SourceUnavailable, message: "away".into() };
            let known = || Observed::Known("source".into());
            model.source = [known(), known(), Observed::Pending, Observed::Failed(problem)]
                [random.below(4)]
            .clone();
        }
        20 => {
            model.records[image] = None;
            model.asked.remove(&image);
        }
        21 => {
            let ask_at = model.now + SignedDuration::from_secs(60);
            let problem = Problem { reason: Reason::RegistryUnavailable, message: "away".into() };
            if let Some(lookup) = model.asked.get_mut(&image).and_then(|lookups| lookups.last_mut())
            {
                lookup.result = if random.below(2) == 0 {
                    LookupResult::Failed(problem, ask_at)
                } else {
                    LookupResult::Rejected(problem, ask_at)
                };
            }
        }
        22 => model.jobs.retain(|(of, job)| *of != image || job.outcome == BuildOutcome::Running),
        _ => {
            let choice = random.of(&[OnParentFailure::Block, OnParentFailure::UseLastVerified]);
            model.spec.images[image].on_parent_failure = choice;
        }
    }
}

/// States before and after.
type ObservedTransitions = BTreeSet<(ImageState, ImageState)>;

/// Reconciles while nobody interferes.
fn quiet(model: &mut FamilyModel, input: &mut ObservedTransitions, reconciles: usize) {
    for _ in 0..reconciles {
        let before = model.states();
        model.reconcile();
        input.extend(before.into_iter().zip(model.states()).filter(|(from, to)| from != to));
    }
}

/// Moves upstreams, and reconciles until the cascade that picks them up has started its first
/// builds.
fn begin(
    model: &mut FamilyModel,
    upstreams: &[usize],
    digest: &str,
    input: &mut ObservedTransitions,
) {
    for upstream in upstreams {
        model.upstream_digests[*upstream] = format!("sha256:{upstream}-{digest}");
    }
    model.reconcile();
    model.now += SignedDuration::from_secs(31);
    quiet(model, input, 2);
}

fn check() -> Check {
    Check { name: "starts".into(), command: vec!["true".into()], ..Check::default() }
}

/// Holds an image for a number of seconds.
fn hold(model: &mut FamilyModel, image: usize, seconds: i64) {
    let until = Some(model.now + SignedDuration::from_secs(seconds));
    model.spec.images[image].hold = Some(ImageHold { until, ..ImageHold::default() });
}

/// Ways that chance takes rarely or never.
const RARE: [fn(&mut ObservedTransitions); 8] = [
    |input| {
        // A parent comes out the same; meanwhile somebody has given one of its children a check.
        let mut model =
            FamilyModel::new(&["up"], &[("base", "up"), ("left", "base"), ("right", "base")]);
        model.content.insert(0, "same".into());
        model.settle();
        begin(&mut model, &[0], "1", input);
        model.spec.images[1].checks = vec![check()];
        model.reconcile();
        assert_eq!(
            model.states(),
            [ImageState::Building, ImageState::Waiting, ImageState::Waiting]
        );
        model.finish_builds();
        quiet(&mut model, input, 1);
        assert_eq!(
            model.states(),
            [ImageState::Current, ImageState::Checking, ImageState::Current]
        );
    },
    |input| {
        // A newer cascade takes the place of one whose child is being built.
        let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("left", "base")]);
        model.spec.policy.supersede = Supersede::Cancel;
        model.settle();
        begin(&mut model, &[0], "1", input);
        model.finish_builds();
        quiet(&mut model, input, 1);
        assert_eq!(model.states(), [ImageState::Current, ImageState::Building]);
        begin(&mut model, &[0], "2", input);
        quiet(&mut model, input, 1);
        assert_eq!(model.states(), [ImageState::Building, ImageState::Waiting]);
    },
    |input| {
        // The hold of an image ends that has failed in this cascade; its child is built or checked
        // meanwhile.
        for checked in [false, true] {
            let mut model = FamilyModel::new(
                &["up", "up2"],
                &[("base", "up"), ("left", "base"), ("right", "up2")],
            );
            model.spec.policy.retries.build = 0;
            model.spec.images[1].checks = if checked { vec![check()] } else { Vec::new() };
            model.settle();
            model.failing.insert(0, FailureClass::Build);
            begin(&mut model, &[0, 1], "1", input);
            model.finish_only("base");
            quiet(&mut model, input, 1);
            assert_eq!(
                model.states(),
                [ImageState::Failed, ImageState::Blocked, ImageState::Building]
            );
            hold(&mut model, 0, 100);
            model.spec.images[1].args.insert("STEP".into(), "1".into());
            model.reconcile();
            if checked {
                model.finish_only("left");
                model.reconcile();
            }
            let left = if checked { ImageState::Checking } else { ImageState::Building };
            assert_eq!(model.states(), [ImageState::Held, left, ImageState::Building]);
            model.now += SignedDuration::from_secs(101);
            quiet(&mut model, input, 1);
            assert_eq!(
                model.states(),
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
            let mut model = FamilyModel::new(
                &["up", "up2"],
                &[("base", "up"), ("left", "base"), ("right", "up2")],
            );
            model.spec.images[0].checks = if checked { vec![check()] } else { Vec::new() };
            model.settle();
            if !ended {
                hold(&mut model, 0, 100);
            }
            begin(&mut model, &[&[0], moved].concat(), "1", input);
            if ended {
                hold(&mut model, 0, 100);
                model.reconcile();
                model.finish_only("base");
            }
            quiet(&mut model, input, 2);
            assert_eq!(model.states()[..2], [Held, Current]);
            model.now += SignedDuration::from_secs(101);
            quiet(&mut model, input, 1);
            assert_eq!(model.states(), after);
        }
    },
    |input| {
        // The hold of a child ends while its base is built, and after that has failed.
        for (fails, after) in [(false, ImageState::Waiting), (true, ImageState::Blocked)] {
            let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("left", "base")]);
            model.spec.policy.retries.build = 0;
            model.settle();
            hold(&mut model, 1, 100);
            begin(&mut model, &[0], "1", input);
            if fails {
                model.failing.insert(0, FailureClass::Build);
                model.finish_builds();
                quiet(&mut model, input, 1);
            }
            assert_eq!(model.states()[1], ImageState::Held);
            model.now += SignedDuration::from_secs(101);
            quiet(&mut model, input, 1);
            assert_eq!(model.states()[1], after);
        }
    },
    |input| {
        // One build at a time.
        let mut model = FamilyModel::new(&["up"], &[("a", "up"), ("b", "up")]);
        (model.spec.policy.parallelism, model.spec.policy.retries.build) = (1, 0);
        model.settle();
        begin(&mut model, &[0], "1", input);
        assert_eq!(model.states(), [ImageState::Building, ImageState::Queued]);
        model.failing = [(0, FailureClass::Build), (1, FailureClass::Build)].into();
        model.settle();
        assert_eq!(model.states(), [ImageState::Failed; 2]);
        begin(&mut model, &[0], "2", input);
        assert_eq!(model.states(), [ImageState::Building, ImageState::Queued]);
    },
    |input| {
        // A cascade that another image causes.
        let mut model = FamilyModel::new(&["up", "up2"], &[("a", "up"), ("b", "up2")]);
        model.spec.policy.retries.build = 0;
        model.spec.images[0].checks = vec![check()];
        model.failing_checks.insert("starts".into(), FailureClass::Build);
        model.settle();
        assert_eq!(model.states(), [ImageState::Failed, ImageState::Current]);
        begin(&mut model, &[1], "1", input);
        assert_eq!(model.states(), [ImageState::Checking, ImageState::Building]);
    },
    |input| {
        // The registry had an image that was not what its tag claimed, until somebody deleted it;
        // the build has pushed again since.
        let mut model =
            FamilyModel::new(&["up", "up2"], &[("base", "up"), ("left", "base"), ("right", "up2")]);
        model.settle();
        begin(&mut model, &[0, 1], "1", input);
        model.finish_only("base");
        let built = model.jobs.iter().rfind(|(of, _)| *of == 0).expect("a build");
        let problem = Problem {
            reason: Reason::InvalidRegistryResponse,
            message: "it is built on another parent".into(),
        };
        let rejected = LookupResult::Rejected(problem, model.now + SignedDuration::from_secs(60));
        let lookup = Lookup { fingerprint: built.1.identity.fingerprint.clone(), result: rejected };
        model.asked.insert(0, vec![lookup]);
        quiet(&mut model, input, 1);
        assert_eq!(model.states(), [ImageState::Failed, ImageState::Blocked, ImageState::Building]);
        model.now += SignedDuration::from_secs(61);
        quiet(&mut model, input, 1);
        assert_eq!(
            model.states(),
            [ImageState::Current, ImageState::Building, ImageState::Building]
        );
    },
];

#[test]
fn images_go_from_state_to_state_as_documented() {
    let mut input = ObservedTransitions::new();
    for evaluation in RARE {
        evaluation(&mut input);
    }
    for seed in 0..WALKS {
        let (mut model, mut random) = (diamond(), Random(seed));
        for step in 0..STEPS {
            happen(&mut model, &mut random, step);
            model.reconcile();
        }
        // From here on nobody interferes: builds and checks end, and time passes.
        model.spec.suspend = false;
        model.source = Observed::Known("source".into());
        for _ in 0..3 {
            model.reconcile();
        }
        for _ in 0..QUIET {
            match random.below(4) {
                0 => model.finish_builds(),
                1 => model.finish_checks(),
                2 => model.now += SignedDuration::from_secs(random.of(&[1, 31, 700])),
                _ => {}
            }
            quiet(&mut model, &mut input, 1);
        }
    }
    let documented: ObservedTransitions =
        TRANSITIONS.iter().map(|transition| (transition.from, transition.to)).collect();
    let undocumented: Vec<_> = input.difference(&documented).collect();
    assert!(undocumented.is_empty(), "not in states.rs: {undocumented:?}");
    let not_taken: Vec<_> = documented.difference(&input).collect();
    assert!(not_taken.is_empty(), "in states.rs, and never taken: {not_taken:?}");
}
