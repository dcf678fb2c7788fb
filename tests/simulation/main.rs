//! Runs the real reconciles of the controller against models of the API server, the Job controller,
//! builders and registries, in virtual time. Everything that happens is drawn from one seed.
//!
//! `make simulate SEEDS=100000` runs many seeds; `make simulate SEED=7` prints one, and shrinks it
//! if it fails. `make mutants` shows what the simulation detects: mutations.patch breaks the engine
//! in many ways, one at a time.

#![allow(
    clippy::pedantic,
    clippy::enum_variant_names,
    clippy::nonminimal_bool,
    clippy::large_enum_variant,
    reason = "a model follows the structure of what it models"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test reports a problem by failing"
)]

mod api_server;
mod builder;
mod checker;
mod cluster;
mod edits;
mod estate;
mod faults;
mod garbage_collector;
mod history;
mod invariants;
mod job_controller;
#[path = "../support/lost_fields.rs"]
mod lost_fields;
mod manifests;
mod objects;
mod oracle;
mod plans;
mod pod_end;
mod process;
mod random;
mod refreshes;
mod registry;
mod registry_service;
mod runner;
mod scenarios;
mod scene;
mod script;
mod shrink;
mod steps;
mod stranger;
mod sweep;
mod time;
mod topology;
mod trace;
mod traffic;
mod upstreams;

use invariants::reached::EXPECTED;
use runner::run;
use script::Script;
use sweep::sweep;
use trace::TraceOutput;

/// Whether the simulation is compiled without optimization, as plain `cargo test` does. Each seed
/// then takes thirty times as long. `make test` runs it with optimization.
const IS_SLOW: bool = cfg!(debug_assertions);
/// How many seeds a plain test runs: some minutes on two cores.
const SEEDS: u64 = if IS_SLOW { 16 } else { 2000 };

/// How many seeds reach each rule that is expected to be reached.
const MIN_SEEDS_TO_REACH_ALL: u64 = 1000;

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn the_invariants_hold_for_every_seed() {
    let (from, count) =
        (number_from_env("FROM").unwrap_or(0), number_from_env("SEEDS").unwrap_or(SEEDS));
    // dev/mutants looks for one violation, and not for its cause.
    let until = std::env::var("UNTIL").unwrap_or_default();
    let until: Vec<String> =
        until.split('|').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let result = sweep(from..from + count, &until);
    println!("{result}");
    if !until.is_empty() {
        return;
    }
    for (seed, violation) in result.failed.iter().take(1) {
        let small = shrink::shrink(&Script::draw(*seed), violation);
        println!("{small}\n{}", run(&small, TraceOutput::Tail).lines.join("\n"));
    }
    assert!(
        result.failed.is_empty(),
        "{} of {count} seeds fail; SEED={} replays the first",
        result.failed.len(),
        result.failed[0].0
    );
    if count >= MIN_SEEDS_TO_REACH_ALL {
        let missed = EXPECTED.iter().find(|name| !result.reached.contains_key(**name));
        assert!(missed.is_none(), "no seed reaches `{}`", missed.unwrap_or(&""));
    }
}

/// `PLANS` seeds from `FROM` on (100; 8 without optimization).
#[test]
fn plans_name_what_is_then_built() {
    let from = number_from_env("FROM").unwrap_or(0);
    let count = number_from_env("PLANS").unwrap_or(if IS_SLOW { 8 } else { 100 });
    let comparison = plans::compare(from..from + count);
    println!("{comparison:?}");
    assert!(comparison.wrong.is_empty(), "{:#?}", comparison.wrong);
    assert!(comparison.equal as u64 * 2 > count, "too few plans are compared: {comparison:?}");
    assert!(comparison.images as u64 > count, "the plans name too few images: {comparison:?}");
}

#[test]
fn a_seed_determines_the_whole_simulation() {
    let seeds = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55];
    for seed in seeds.into_iter().take(if IS_SLOW { 3 } else { seeds.len() }) {
        let script = Script::draw(seed);
        assert_eq!(script, Script::draw(seed));
        let (first, second) = (run(&script, TraceOutput::Hash), run(&script, TraceOutput::Hash));
        assert_eq!((first.hash, first.reconciles), (second.hash, second.reconciles), "seed {seed}");
    }
}

/// Seeds that once failed, with the bug that each showed.
const REGRESSIONS: [(&str, &[u64]); 16] = [
    (
        "tags moved just before the process died were attributed to somebody else and reverted",
        &[2919, 4816, 5339, 5948],
    ),
    ("a Job whose creation got no answer was not counted", &[36273, 42237]),
    (
        "a child was built from a failed parent's digest that had not passed its checks",
        &[32179, 35072],
    ),
    ("an unchanged child of a failed parent was blocked", &[43505]),
    ("a cascade got the name of one that had ended before the clock was set back", &[40729]),
    ("a cascade created by a process that died ran concurrently with another", &[48061]),
    ("a build cancelled during a hold was started again when the hold ended", &[122_464]),
    ("a check that passed during a hold was ignored", &[132_098]),
    ("a cancelled check was waited for, or believed", &[138_281]),
    ("an image built while it waited was built again when the Job had expired", &[200_647]),
    ("tags moved backwards while the source of an image was resolved again", &[409_932, 416_605]),
    ("a cascade promoted a held digest that had not passed its checks", &[112_469]),
    ("a cascade whose creation got no answer was forgotten with the family's status", &[603_399]),
    ("an upstream reverted to the digest before a write that got no answer", &[518_612]),
    ("the cascade's record was not written while the clock was set back", &[202_175]),
    (
        "tags moved although the only build of a required image had been cancelled before the \
         cascade listed the image",
        &[3001381],
    ),
];

#[test]
fn known_bugs_stay_fixed() {
    for (bug, seeds) in REGRESSIONS {
        for seed in seeds {
            let violation = run(&Script::mixed(*seed), TraceOutput::None).violation;
            assert!(violation.is_none(), "seed {seed}: {violation:?}; it once showed: {bug}");
        }
    }
}

/// Replays the seed in the environment variable `SEED`.
#[test]
fn replay() {
    let Some(seed) = number_from_env("SEED") else { return };
    let script = Script::draw(seed);
    println!("{script}");
    let report = run(&script, TraceOutput::Full);
    let Some(violation) = report.violation else {
        println!(
            "no violation after {} reconciles, {} effects and {} builds",
            report.reconciles, report.effects, report.builds
        );
        return;
    };
    let small = shrink::shrink(&script, &violation);
    println!("\nshrunk:\n{small}");
    let report = run(&small, TraceOutput::Full);
    panic!("{}", report.violation.unwrap_or(violation));
}
