//! `kubectl family import` of generated trees of 200 and 2,000 Dockerfiles: time, growth and peak
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

#[path = "../../tests/support/monorepo.rs"]
mod monorepo;

use std::{
    fs,
    io::Read as _,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use monorepo::{Monorepo, REPOSITORY};

/// The sizes of the trees, in Dockerfiles.
const SIZES: [usize; 2] = [200, 2_000];
/// The goal for the largest tree.
const GOAL: Duration = Duration::from_secs(1);
/// How often each tree is imported.
const RUNS: usize = 9;
const MIB: f64 = (1 << 20) as f64;

/// One run of the program.
struct ImportRun {
    time: Duration,
    /// Peak resident memory in bytes.
    memory: u64,
}

fn main() -> ExitCode {
    let mut medians = Vec::new();
    for dockerfiles in SIZES {
        let tree = Monorepo::generate(dockerfiles);
        let folder = tempfile::tempdir().expect("a folder");
        tree.write(folder.path());
        let mut runs: Vec<ImportRun> = (0..RUNS).map(|_| import(folder.path())).collect();
        runs.sort_by_key(|run| run.time);
        let median = &runs[RUNS / 2];
        println!(
            "import of {dockerfiles} Dockerfiles with {} edges: {:.0} ms (median of {RUNS}, {:.0} \
             to {:.0}), peak memory {:.1} MiB",
            tree.edges.len(),
            millis(median.time),
            millis(runs[0].time),
            millis(runs[RUNS - 1].time),
            runs.iter().map(|run| run.memory).max().unwrap_or_default() as f64 / MIB
        );
        medians.push(median.time);
    }
    let growth = medians[1].as_secs_f64() / medians[0].as_secs_f64();
    println!("growth from {} to {}: {growth:.1} times", SIZES[0], SIZES[1]);
    let is_met = medians[1] < GOAL;
    let verdict = if is_met { "met" } else { "not met" };
    println!("goal: {} Dockerfiles in less than {} s: {verdict}", SIZES[1], GOAL.as_secs());
    ExitCode::from(u8::from(!is_met))
}

/// Runs the program. Its manifests are larger than a pipe, so that it still runs, with all its work
/// done, when the first of them arrive.
fn import(folder: &std::path::Path) -> ImportRun {
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-family"))
        .arg("import")
        .arg(folder)
        .args(["--repository", REPOSITORY, "--git-url", "https://git.example.com/images.git"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut output = child.stdout.take().expect("its output");
    let mut first = [0_u8; 1];
    output.read_exact(&mut first).expect("manifests");
    let memory = peak_memory(child.id());
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("manifests");
    assert!(child.wait().expect("an end").success(), "everything is imported");
    ImportRun { time: start.elapsed(), memory }
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
