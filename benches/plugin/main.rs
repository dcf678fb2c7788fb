//! `kubectl family` on generated trees of Dockerfiles and generated families: time, growth and peak
//! memory of the whole program.
//!
//! `make bench` runs it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark says what is wrong by failing"
)]
#![allow(clippy::cast_precision_loss, reason = "times and bytes far below 2^52")]

mod estate;
#[path = "../../tests/support/monorepo.rs"]
mod monorepo;

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use monorepo::{Monorepo, REPOSITORY};

/// How often each command runs.
const RUNS: usize = 9;
const MIB: f64 = (1 << 20) as f64;

/// A command that is measured on two sizes of input.
struct Measured {
    what: &'static str,
    /// What the size counts.
    unit: &'static str,
    sizes: [usize; 2],
    /// The goal for the larger size.
    goal: Duration,
    /// Writes an input of a size to a folder, and returns the arguments of the command.
    prepare: fn(&Path, usize) -> Vec<String>,
}

/// One run of the program.
struct ProgramRun {
    time: Duration,
    /// Peak resident memory in bytes.
    memory: u64,
}

const MEASURED: [Measured; 3] = [
    Measured {
        what: "import",
        unit: "Dockerfiles",
        sizes: [200, 2_000],
        goal: Duration::from_secs(1),
        prepare: import,
    },
    Measured {
        what: "plan --move",
        unit: "images",
        sizes: [1_000, 10_000],
        goal: Duration::from_secs(1),
        prepare: plan,
    },
    Measured {
        what: "graph -o svg",
        unit: "images",
        sizes: [1_000, 10_000],
        goal: Duration::from_secs(3),
        prepare: graph,
    },
];

fn main() -> ExitCode {
    let missed = MEASURED.iter().filter(|measured| !measured.run()).count();
    ExitCode::from(u8::from(missed > 0))
}

impl Measured {
    /// Prints the figures. Returns whether the goal is met.
    fn run(&self) -> bool {
        let Self { what, unit, sizes, goal, prepare } = self;
        let mut medians = Vec::new();
        for size in sizes {
            let folder = tempfile::tempdir().expect("a folder");
            let arguments = prepare(folder.path(), *size);
            let mut runs: Vec<ProgramRun> = (0..RUNS).map(|_| run_plugin(&arguments)).collect();
            runs.sort_by_key(|run| run.time);
            let median = &runs[RUNS / 2];
            println!(
                "{what} of {size} {unit}: {:.0} ms (median of {RUNS}, {:.0} to {:.0}), peak memory \
                 {:.1} MiB",
                millis(median.time),
                millis(runs[0].time),
                millis(runs[RUNS - 1].time),
                runs.iter().map(|run| run.memory).max().unwrap_or_default() as f64 / MIB
            );
            medians.push(median.time);
        }
        let growth = medians[1].as_secs_f64() / medians[0].as_secs_f64();
        println!("growth from {} to {}: {growth:.1} times", sizes[0], sizes[1]);
        let is_met = medians[1] < *goal;
        let verdict = if is_met { "met" } else { "not met" };
        println!("goal: {} {unit} in less than {} s: {verdict}\n", sizes[1], goal.as_secs());
        is_met
    }
}

fn import(folder: &Path, dockerfiles: usize) -> Vec<String> {
    Monorepo::generate(dockerfiles).write(folder);
    let url = "https://git.example.com/images.git";
    let folder = folder.display().to_string();
    ["import", &folder, "--repository", REPOSITORY, "--git-url", url].map(str::to_owned).into()
}

fn plan(folder: &Path, images: usize) -> Vec<String> {
    let file = families(folder, images);
    ["plan", "-f", &file, "--move", estate::UPSTREAM, "-o", "json"].map(str::to_owned).into()
}

fn graph(folder: &Path, images: usize) -> Vec<String> {
    ["graph", "-f", &families(folder, images), "-o", "svg"].map(str::to_owned).into()
}

/// Writes families to a file, and returns its path.
fn families(folder: &Path, images: usize) -> String {
    let file = folder.join("families.yaml");
    fs::write(&file, estate::manifests(images)).expect("a file");
    file.display().to_string()
}

/// Runs the program. Its output is larger than a pipe, so that it still runs, with all its work
/// done, when the first byte arrives.
fn run_plugin(arguments: &[String]) -> ProgramRun {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-family"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut output = child.stdout.take().expect("its output");
    let mut first = [0_u8; 1];
    output.read_exact(&mut first).expect("an output");
    let memory = peak_memory(child.id());
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("the output");
    assert!(child.wait().expect("an end").success(), "{arguments:?}");
    ProgramRun { time: start.elapsed(), memory }
}

fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.map(|line| line.trim().trim_end_matches(" kB").parse::<u64>());
    kilobytes.map_or(0, |kilobytes| kilobytes.expect("kilobytes") * 1024)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
