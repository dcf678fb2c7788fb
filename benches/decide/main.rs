//! The decision of one reconcile of families of 1,000 to 100,000 images: time, instructions,
//! growth, and memory.
//!
//! A family has two edges per image and eight upstreams. The input of a decision is made
//! beforehand; only [`decide`] is measured, with the end of what it returns. Times are of this
//! machine; instructions are counted by callgrind and can be compared between machines.
//! `make bench` runs it; `cargo bench --bench decide -- --once moved 10000` makes one decision
//! alone, for a profiler.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark says what is wrong by failing"
)]
#![allow(clippy::cast_precision_loss, reason = "counts and bytes far below 2^52")]

#[path = "../../tests/scale/draw.rs"]
mod draw;
mod family;
#[path = "../../tests/scale/layered.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod layered;

use std::{
    fs,
    hint::black_box,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use family::BenchFamily;
use groundswell::engine::{DecideInput, Decision, decide};
use jiff::Timestamp;

/// The sizes of the families, in images.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// The sizes whose instructions are counted: callgrind makes a program fifty times slower.
const COUNTED: [usize; 2] = [1_000, 10_000];
/// How long one figure is measured.
const SPAN: Duration = Duration::from_secs(2);
/// The goal: a decision with nothing to do for 10,000 images.
const GOAL: (usize, Duration) = (10_000, Duration::from_millis(10));
/// The function that callgrind counts, as its pattern for symbols.
const COUNTED_FUNCTION: &str = "*measured_decision*";

/// A state of the family in which a decision is measured.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    /// Its name on the command line.
    name: &'static str,
    /// What has happened.
    description: &'static str,
    /// Makes it happen.
    prepare: fn(&mut BenchFamily),
}

const SCENARIOS: [Scenario; 5] = [
    Scenario { name: "rest", description: "nothing to do", prepare: |_| {} },
    Scenario {
        name: "moved",
        description: "one upstream of eight moved: its cascade starts",
        prepare: |family| {
            family.move_upstream();
        },
    },
    Scenario {
        name: "cascade",
        description: "the reconcile after that: the first builds start",
        prepare: |family| {
            family.move_upstream();
            family.begin_cascade();
        },
    },
    Scenario {
        name: "stale",
        description: "everything stale (the strategy changed): the first builds start",
        prepare: |family| {
            family.change_strategy();
            family.begin_cascade();
        },
    },
    Scenario {
        name: "lost",
        description: "every record lost: all fingerprints computed again, every build found",
        prepare: BenchFamily::lose_records,
    },
];

fn main() -> ExitCode {
    // cargo itself adds `--bench`.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            memory();
            times();
            instructions();
        }
        ["--once", name, images] if decide_once(name, images).is_some() => {}
        _ => {
            let names = SCENARIOS.map(|scenario| scenario.name).join("|");
            eprintln!("usage: decide [--once {names} IMAGES]");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Makes one decision; `None` if there is no such scenario.
fn decide_once(name: &str, images: &str) -> Option<()> {
    let scenario = SCENARIOS.into_iter().find(|scenario| scenario.name == name)?;
    let mut family = BenchFamily::at_rest(images.parse().ok()?);
    (scenario.prepare)(&mut family);
    measured_decision(&family.input(), family.now());
    Some(())
}

/// Makes and drops one decision, as the controller does. It is a function of its own, so that
/// callgrind can distinguish it from its preparation.
#[inline(never)]
fn measured_decision(input: &DecideInput<'_>, now: Timestamp) {
    let decision: Decision = decide(black_box(input), now);
    drop(black_box(decision));
}

/// Bytes per image, from the process's resident memory, so that what the allocator wastes counts.
fn memory() {
    let images = SIZES[SIZES.len() - 1];
    let before = resident();
    let family = BenchFamily::at_rest(images);
    let known = resident();
    let input = family.input();
    let per_image = |bytes: u64| bytes / images as u64;
    println!("memory per image, in a family of {images}");
    println!(
        "  spec, blueprint, records, verified builds {:8} bytes",
        per_image(known.saturating_sub(before))
    );
    println!(
        "  one input                                 {:8} bytes",
        per_image(growth(|| family.input()))
    );
    println!(
        "  one decision                              {:8} bytes",
        per_image(growth(|| decide(&input, family.now())))
    );
}

/// By how many bytes another copy makes this process grow: the median of several that are kept,
/// after some that may have found room in what was freed before.
fn growth<T>(make: impl Fn() -> T) -> u64 {
    let mut kept = Vec::new();
    let mut grown: Vec<u64> = (0..10)
        .map(|_| {
            let before = resident();
            kept.push(black_box(make()));
            resident().saturating_sub(before)
        })
        .skip(5)
        .collect();
    grown.sort_unstable();
    grown[grown.len() / 2]
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
}

fn times() {
    println!(
        "\ntime of a decision: median in ms (in brackets per image in ns), and growth per tenfold; \
         10.0 is linear"
    );
    println!("  {:66} {}", "", SIZES.map(|size| format!("{size:>18}")).join(""));
    let mut goal = None;
    for scenario in SCENARIOS {
        let mut medians = Vec::new();
        for images in SIZES {
            let mut family = BenchFamily::at_rest(images);
            (scenario.prepare)(&mut family);
            medians.push(median(&family));
        }
        let cells = medians.iter().zip(SIZES).map(|(median, images)| {
            format!(
                "{:9.3} ({:6.0})",
                median.as_secs_f64() * 1e3,
                median.as_secs_f64() * 1e9 / images as f64
            )
        });
        let growth = medians
            .windows(2)
            .map(|pair| format!("{:.1}", pair[1].as_secs_f64() / pair[0].as_secs_f64()));
        println!(
            "  {:66} {}  growth {}",
            scenario.description,
            cells.collect::<String>(),
            growth.collect::<Vec<_>>().join(", ")
        );
        if scenario.name == "rest" {
            goal = SIZES.iter().position(|size| *size == GOAL.0).map(|place| medians[place]);
        }
    }
    let (images, edges) = BenchFamily::at_rest(GOAL.0).size();
    if let Some(rest) = goal {
        let met = if rest < GOAL.1 { "met" } else { "MISSED" };
        println!(
            "  goal: nothing to do over {images} images and {edges} edges under {:?}: {rest:.2?}, \
             {met}",
            GOAL.1
        );
    }
}

/// The median of as many decisions as fit into the span, at least five.
fn median(family: &BenchFamily) -> Duration {
    let input = family.input();
    let begin = Instant::now();
    let mut durations = Vec::new();
    while durations.len() < 5 || begin.elapsed() < SPAN {
        let start = Instant::now();
        measured_decision(&input, family.now());
        durations.push(start.elapsed());
    }
    durations.sort();
    durations[durations.len() / 2]
}

fn instructions() {
    println!("\ninstructions of a decision, by callgrind");
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("  valgrind is not installed, so that none are counted: apt-get install valgrind");
        return;
    }
    println!("  {:66} {}", "", COUNTED.map(|size| format!("{size:>22}")).join(""));
    for scenario in SCENARIOS {
        let counts = COUNTED.map(|images| count(scenario.name, images));
        let cells = counts
            .iter()
            .zip(COUNTED)
            .map(|(count, images)| format!("{count:13} ({:6})", count / images as u64));
        let growth = counts[1] as f64 / counts[0] as f64;
        println!("  {:66} {}  growth {growth:.1}", scenario.description, cells.collect::<String>());
    }
}

/// The instructions of one decision, counted in a process of its own.
fn count(scenario: &str, images: usize) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            &format!("--toggle-collect={COUNTED_FUNCTION}"),
        ])
        .arg(program)
        .args(["--once", scenario, &images.to_string()])
        .output()
        .expect("valgrind");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind: {errors}");
    let collected = errors
        .lines()
        .find_map(|line| line.split_once("Collected : ").map(|(_, count)| count.trim()));
    collected
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("callgrind says no count:\n{errors}"))
}
