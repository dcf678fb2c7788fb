//! Runs many seeds on all cores.

use std::{
    fmt,
    ops::Range,
    panic::catch_unwind,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    cluster::Violation, invariants::reached::Reached, runner::run, script::Script,
    trace::TraceOutput,
};

/// How often a long sweep reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The result of many seeds.
#[derive(Debug, Default)]
pub struct SweepResult {
    pub seeds: u64,
    pub reconciles: u64,
    pub effects: u64,
    pub builds: usize,
    pub took: Duration,
    /// How often each rule was reached.
    pub reached: Reached,
    /// Seeds that failed, in order.
    pub failed: Vec<(u64, Violation)>,
}

/// Runs these seeds, until one violates an invariant of these names.
pub fn sweep(seeds: Range<u64>, until: &[String]) -> SweepResult {
    let start = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let (swept, done) = (Mutex::new(SweepResult::default()), AtomicBool::new(false));
    let is_found = AtomicBool::new(false);
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || is_found.load(Ordering::Relaxed) {
                    return;
                }
                let ran = catch_unwind(|| run(&Script::draw(seed), TraceOutput::None));
                let mut swept = swept.lock().expect("no worker panics while it counts");
                swept.seeds += 1;
                let Ok(report) = ran else {
                    swept.failed.push((
                        seed,
                        Violation { invariant: "nothing panics", message: "see above".into() },
                    ));
                    continue;
                };
                swept.reconciles += report.reconciles;
                swept.effects += report.effects;
                swept.builds += report.builds;
                for (name, count) in report.reached {
                    *swept.reached.entry(name).or_default() += count;
                }
                if let Some(violation) = report.violation {
                    println!("seed {seed} fails: {violation}");
                    if until.iter().any(|name| name == violation.invariant) {
                        is_found.store(true, Ordering::Relaxed);
                    }
                    swept.failed.push((seed, violation));
                }
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        scope.spawn(|| {
            let mut reported = Instant::now();
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                if reported.elapsed() >= PROGRESS_INTERVAL {
                    reported = Instant::now();
                    println!(
                        "{} of {} seeds",
                        next.load(Ordering::Relaxed).min(seeds.end) - seeds.start,
                        seeds.end - seeds.start
                    );
                }
            }
        });
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        for result in ended {
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let mut swept = swept.into_inner().expect("no worker panics while it counts");
    swept.failed.sort_by_key(|(seed, _)| *seed);
    swept.took = start.elapsed();
    swept
}

impl fmt::Display for SweepResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, reconciles, effects, builds, took, reached, failed } = self;
        for (name, count) in reached {
            writeln!(f, "reached {count:>9} {name}")?;
        }
        let each = took.as_secs_f64() * 1000.0 / (*seeds).max(1) as f64;
        write!(
            f,
            "{seeds} seeds, {reconciles} reconciles, {builds} builds, {effects} effects in {:.1} s \
             ({each:.1} ms per seed); {} failed",
            took.as_secs_f64(),
            failed.len()
        )
    }
}
