//! The driver: one thread, virtual time, one event at a time.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    cluster::{Cluster, Event, Shared, Violation},
    faults::Faults,
    invariants::{
        self,
        arrivals::Arrival,
        attempts::{Attempt, AttemptEnd},
        reached::Reached,
    },
    objects::Kind,
    oracle::{self, Strictness},
    plans,
    process::Process,
    scene,
    script::{Move, Script},
    trace::{Trace, TraceOutput},
    traffic::RegistryTraffic,
    upstreams,
};

/// Upper bound on the reconciles until the system converges, per image.
const MAX_RECONCILES_PER_IMAGE: u64 = 150;
/// Upper bound on the pause until a poll that has failed is tried again.
const LONGEST_POLL_PAUSE: Duration = Duration::from_hours(1);
/// How long a converged system must stay unchanged.
const UNCHANGED_PERIOD: Duration = Duration::from_mins(12);

/// The result of a simulation.
#[derive(Clone, Debug)]
pub struct Report {
    pub violation: Option<Violation>,
    /// The hash of the trace.
    pub hash: u64,
    pub reconciles: u64,
    pub effects: u64,
    pub builds: usize,
    /// The patches that have arrived in their images.
    pub arrivals: Vec<Arrival>,
    /// How many have not.
    pub missing_patches: usize,
    /// All builds.
    pub attempts: Vec<Attempt>,
    /// How often each rule was reached.
    pub reached: Reached,
    /// The last lines of the trace, with [`TraceOutput::Tail`].
    pub lines: Vec<String>,
}

/// Families at rest, and what is built after every upstream has moved.
pub struct MovedUpstreams {
    /// The objects of the API at rest.
    pub objects: Vec<Value>,
    /// The time at which the upstreams move.
    pub at: Timestamp,
    /// The images that are built, with their families.
    pub built: BTreeSet<(String, String)>,
    /// Whether every build has succeeded, and every image is current or held in the end.
    pub has_succeeded: bool,
    /// The requests to registries since the upstreams have moved.
    pub traffic: RegistryTraffic,
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

/// Runs a script until its faults have stopped and every family is at rest, and on until the
/// patches of all upstreams have arrived. Returns the first violation of an invariant, if there is
/// one.
pub fn move_upstreams(script: &Script) -> Result<MovedUpstreams, Violation> {
    runtime().block_on(async {
        let mut simulation = Simulation::new(script, TraceOutput::None);
        simulation.run_script().await;
        let (objects, at, started) = {
            let mut cluster = simulation.shared.lock();
            cluster.traffic = Some(RegistryTraffic::default());
            (plans::api_objects(&cluster), cluster.time.truth(), cluster.elapsed())
        };
        simulation.move_all_upstreams();
        simulation.converge(Strictness::Strict).await;
        let mut cluster = simulation.shared.lock();
        let traffic = cluster.traffic.take().unwrap_or_default();
        let attempts = cluster.invariants.attempts.iter();
        let attempts: Vec<&Attempt> =
            attempts.filter(|attempt| attempt.started_at >= started).collect();
        let name = |attempt: &&Attempt| (attempt.family_name.clone(), attempt.image.clone());
        let has_succeeded =
            attempts.iter().all(|attempt| matches!(attempt.end, Some((AttemptEnd::Succeeded, _))))
                && plans::all_at_rest(&cluster);
        let built = attempts.iter().map(name).collect();
        let moved = MovedUpstreams { objects, at, built, has_succeeded, traffic };
        cluster.violation.take().map_or(Ok(moved), Err)
    })
}

/// Runs a script until it completes, or until the first violation.
pub fn run(script: &Script, output: TraceOutput) -> Report {
    runtime().block_on(async {
        let mut simulation = Simulation::new(script, output);
        simulation.run_phases().await;
        let mut cluster = simulation.shared.lock();
        Report {
            violation: cluster.violation.clone(),
            hash: cluster.trace.hash(),
            reconciles: cluster.invariants.reconciles_started,
            effects: cluster.invariants.effects,
            builds: cluster.invariants.builds(),
            missing_patches: cluster.invariants.arrivals.missing(),
            arrivals: std::mem::take(&mut cluster.invariants.arrivals.arrived),
            attempts: std::mem::take(&mut cluster.invariants.attempts),
            reached: cluster.invariants.reached.clone(),
            lines: cluster.trace.tail(400),
        }
    })
}

struct Simulation<'a> {
    shared: Shared,
    process: Option<Process>,
    script: &'a Script,
}

impl<'a> Simulation<'a> {
    fn new(script: &'a Script, output: TraceOutput) -> Self {
        let trace = Trace::new(output);
        let cluster = Cluster::new(script.seed, Faults::new(script.seed, script.rates), trace);
        Self { shared: Shared::new(cluster), process: None, script }
    }

    async fn run_phases(&mut self) {
        self.run_script().await;
        self.move_all_upstreams();
        self.converge(Strictness::Strict).await;
        self.stay_unchanged().await;
    }

    /// Runs the script, and on without faults until every family is at rest.
    async fn run_script(&mut self) {
        {
            let mut cluster = self.shared.lock();
            scene::set_up(&mut cluster, self.script);
            invariants::record_truth(&mut cluster);
            let first = cluster.invariants.history.next_process();
            cluster.schedule(Duration::ZERO, Event::Start(first));
        }
        // Not at a full minute, when windows open: a reconcile that starts while the clock is
        // corrected may read either time.
        self.run_until(self.script.end + Duration::from_millis(250), |_| false).await;
        scene::stop_faults(&mut self.shared.lock());
        self.converge(Strictness::Lenient).await;
    }

    fn move_all_upstreams(&mut self) {
        let mut cluster = self.shared.lock();
        for upstream in 0..self.script.upstreams {
            upstreams::move_upstream(&mut cluster, upstream, Move::New);
        }
        invariants::record_truth(&mut cluster);
    }

    /// Runs until this time, until `done` returns true, or until the first violation.
    async fn run_until(&mut self, until: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        loop {
            if let Some(process) = &mut self.process {
                process.start_reconciles();
            }
            let (now, next, violated) = {
                let mut cluster = self.shared.lock();
                cluster.faults.now = cluster.elapsed();
                (cluster.elapsed(), cluster.next_at(), cluster.violation.is_some())
            };
            if violated || now >= until || done(self) {
                return;
            }
            let due = self.process.as_ref().and_then(Process::next_at);
            let wake_at = next.into_iter().chain(due).chain([until]).min().unwrap_or(until);
            let at = self.shared.lock().time.at(wake_at);
            let changed = self.shared.changed.clone();
            let coming = async {
                match &mut self.process {
                    Some(process) => process.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changed.notified() => {}
                () = coming => {}
                () = tokio::time::sleep_until(at) => {}
            }
            let number = self.shared.lock().process;
            if self.process.as_ref().is_some_and(|process| process.number != number) {
                self.process = None;
            }
            while let Some(event) = { self.shared.lock().take_due() } {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(number) => {
                self.process = Some(Process::start(
                    &self.shared,
                    number,
                    self.script.audit,
                    self.script.limits,
                ))
            }
            Event::Deliver(number, kind) => {
                if let Some(process) =
                    self.process.as_mut().filter(|process| process.number == number)
                {
                    process.deliver(kind);
                }
            }
            other => scene::handle_event(&mut self.shared.lock(), self.script, other),
        }
        let number = self.shared.lock().process;
        if self.process.as_ref().is_some_and(|process| process.number != number) {
            self.process = None;
        }
    }

    /// Runs until the oracle finds no mismatch.
    async fn converge(&mut self, strictness: Strictness) {
        let (start, reconciles_before, images) = {
            let cluster = self.shared.lock();
            if cluster.violation.is_some() {
                return;
            }
            let images = cluster.objects.all(Kind::Family);
            let images = images
                .map(|(_, family)| family["spec"]["images"].as_array().map_or(0, Vec::len))
                .sum::<usize>();
            (cluster.elapsed(), cluster.invariants.reconciles_started, images as u64)
        };
        self.shared.lock().note(format_args!("faults have stopped; {strictness:?}"));
        let max_reconciles = reconciles_before + MAX_RECONCILES_PER_IMAGE * (images + 3);
        let mut compared_at = (u64::MAX, 0);
        let mut reached = false;
        let mut why = String::new();
        self.run_until(start + scene::MAX_CONVERGENCE_TIME, |simulation| {
            let cluster = simulation.shared.lock();
            // The cluster garbage-collects the Jobs of a family that is gone without any effect.
            let stamp = (
                cluster.invariants.effects + cluster.invariants.reconciles_started,
                cluster.work.len(),
            );
            if stamp == compared_at
                || simulation
                    .process
                    .as_ref()
                    .is_none_or(|process| !process.is_idle_until(cluster.elapsed()))
            {
                return false;
            }
            compared_at = stamp;
            let found = oracle::mismatch(&cluster, strictness);
            reached = found.is_none();
            why = found.unwrap_or_default();
            reached || cluster.invariants.reconciles_started > max_reconciles
        })
        .await;
        let mut cluster = self.shared.lock();
        if reached || cluster.violation.is_some() {
            return;
        }
        let (took, reconciles) = (
            (cluster.elapsed() - start).as_secs(),
            cluster.invariants.reconciles_started - reconciles_before,
        );
        cluster.violated(
            "the system converges",
            format!("not after {took} s and {reconciles} reconciles: {why}"),
        );
    }

    /// Runs on for a while and verifies that nothing changes any more.
    async fn stay_unchanged(&mut self) {
        // What is polled late after failures is shown until the next poll.
        let latest = self.shared.lock().elapsed() + LONGEST_POLL_PAUSE;
        self.run_until(latest, |simulation| !polls_are_late(&simulation.shared.lock())).await;
        // Long enough to poll every upstream once more, and to write what was deferred.
        let soon = self.shared.lock().elapsed() + Duration::from_mins(13);
        self.run_until(soon, |_| false).await;
        let (effects_before, end) = {
            let cluster = self.shared.lock();
            (unexpected_effects(&cluster), cluster.elapsed() + UNCHANGED_PERIOD)
        };
        self.run_until(end, |_| false).await;
        let mut cluster = self.shared.lock();
        if cluster.violation.is_some() {
            return;
        }
        let effects = unexpected_effects(&cluster) - effects_before;
        if effects > 0 {
            cluster.violated(
                "a converged system stays unchanged",
                format!("there were {effects} effects"),
            );
        } else if let Some(found) = oracle::mismatch(&cluster, Strictness::Strict) {
            cluster.violated("a converged system stays unchanged", found);
        }
        if let Some(process) = &self.process {
            invariants::check_cache_bounds(&mut cluster, &process.context);
        }
    }
}

/// Returns whether the status of a family shows a Git source that is polled late.
fn polls_are_late(cluster: &Cluster) -> bool {
    let mut families = cluster.objects.all(Kind::Family);
    families.any(|(_, family)| family["status"]["lateSources"].is_array())
}

/// Counts the effects that a converged system must not have. The status of a family may change when
/// a window opens or closes. Holds with an end have ended before: see [`Strictness::Strict`].
fn unexpected_effects(cluster: &Cluster) -> u64 {
    let mut families = cluster.objects.all(Kind::Family);
    let has_windows = families.any(|(_, family)| family["spec"]["policy"]["windows"].is_array());
    cluster.invariants.effects
        - if has_windows { cluster.invariants.family_status_writes } else { 0 }
}
