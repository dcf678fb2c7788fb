//! The driver: one thread, virtual time, and one thing after the other.

use std::time::Duration;

use crate::{
    cluster::{Cluster, Event, Shared, Violation},
    faults::Faults,
    invariants,
    objects::Kind,
    oracle::{self, Demand},
    process::Process,
    scene,
    script::{Move, Script},
    trace::Trace,
};

/// The most passes that the world may take to come to rest, for each image.
const PASSES_PER_IMAGE: u64 = 150;
/// How long the world must stay as it is to count as at rest.
const REST: Duration = Duration::from_mins(12);

/// What came of a simulation.
#[derive(Clone, Debug)]
pub struct Report {
    pub violation: Option<Violation>,
    /// Of everything that happened.
    pub hash: u64,
    pub passes: u64,
    pub effects: u64,
    pub builds: usize,
    /// The last lines of the trace, where they were asked for.
    pub lines: Vec<String>,
}

/// How much of the trace is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    Nothing,
    TheEnd,
    Everything,
}

/// Runs a script to its end, or to the first violation.
pub fn run(script: &Script, tell: Tell) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let trace = Trace::new(tell == Tell::TheEnd, tell == Tell::Everything);
        let cluster = Cluster::new(script.seed, Faults::new(script.seed, script.rates), trace);
        let mut world = World { shared: Shared::new(cluster), process: None, script };
        world.whole().await;
        let cluster = world.shared.lock();
        Report {
            violation: cluster.violation.clone(),
            hash: cluster.trace.hash(),
            passes: cluster.invariants.passes_begun,
            effects: cluster.invariants.effects,
            builds: cluster.invariants.builds(),
            lines: cluster.trace.tail(400),
        }
    })
}

struct World<'a> {
    shared: Shared,
    process: Option<Process>,
    script: &'a Script,
}

impl World<'_> {
    async fn whole(&mut self) {
        {
            let mut cluster = self.shared.lock();
            scene::begin(&mut cluster, self.script);
            invariants::remember_truth(&mut cluster);
            let first = cluster.invariants.history.next_process();
            cluster.schedule(Duration::ZERO, Event::Start(first));
        }
        // Not on the minute, at which windows open: a pass that begins as the clock is set right
        // may be told either time.
        self.live(self.script.end + Duration::from_millis(250), |_| false).await;
        scene::heal(&mut self.shared.lock());
        self.settle(Demand::Lenient).await;
        {
            let mut cluster = self.shared.lock();
            for upstream in 0..self.script.upstreams {
                scene::move_upstream(&mut cluster, upstream, Move::New);
            }
            invariants::remember_truth(&mut cluster);
        }
        self.settle(Demand::Strict).await;
        self.rest().await;
    }

    /// Lives until this time, or until `done` says so, or until something happened that must not.
    async fn live(&mut self, until: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        loop {
            if let Some(process) = &mut self.process {
                process.begin_passes();
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
                self.happen(event);
            }
        }
    }

    fn happen(&mut self, event: Event) {
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
            other => scene::happen(&mut self.shared.lock(), self.script, other),
        }
        let number = self.shared.lock().process;
        if self.process.as_ref().is_some_and(|process| process.number != number) {
            self.process = None;
        }
    }

    /// Lives until the world is as the oracle says that it must become.
    async fn settle(&mut self, demand: Demand) {
        let (start, passes, images) = {
            let cluster = self.shared.lock();
            if cluster.violation.is_some() {
                return;
            }
            let images = cluster.objects.all(Kind::Family);
            let images = images
                .map(|(_, family)| family["spec"]["images"].as_array().map_or(0, Vec::len))
                .sum::<usize>();
            (cluster.elapsed(), cluster.invariants.passes_begun, images as u64)
        };
        self.shared.lock().note(format_args!("faults have stopped; {demand:?}"));
        let most = passes + PASSES_PER_IMAGE * (images + 3);
        let mut looked_at = (u64::MAX, 0);
        let mut reached = false;
        let mut why = String::new();
        self.live(start + scene::PATIENCE, |world| {
            let cluster = world.shared.lock();
            // The cluster clears away by itself what belonged to a family that is gone.
            let stamp =
                (cluster.invariants.effects + cluster.invariants.passes_begun, cluster.work.len());
            if stamp == looked_at
                || world
                    .process
                    .as_ref()
                    .is_none_or(|process| !process.is_idle_until(cluster.elapsed()))
            {
                return false;
            }
            looked_at = stamp;
            let found = oracle::mismatch(&cluster, demand);
            reached = found.is_none();
            why = found.unwrap_or_default();
            reached || cluster.invariants.passes_begun > most
        })
        .await;
        let mut cluster = self.shared.lock();
        if reached || cluster.violation.is_some() {
            return;
        }
        let (took, passes) =
            ((cluster.elapsed() - start).as_secs(), cluster.invariants.passes_begun - passes);
        cluster.violated(
            "the world comes to rest",
            format!(
                "after {took} s and {passes} passes: \
            {why}"
            ),
        );
    }

    /// Nothing may change any more.
    async fn rest(&mut self) {
        // Until every upstream was looked at once more, and what is held back is written.
        let soon = self.shared.lock().elapsed() + Duration::from_mins(13);
        self.live(soon, |_| false).await;
        let (before, end) = {
            let cluster = self.shared.lock();
            (at_rest(&cluster), cluster.elapsed() + REST)
        };
        self.live(end, |_| false).await;
        let mut cluster = self.shared.lock();
        if cluster.violation.is_some() {
            return;
        }
        let effects = at_rest(&cluster) - before;
        if effects > 0 {
            cluster.violated("a world at rest stays so", format!("there were {effects} effects"));
        } else if let Some(found) = oracle::mismatch(&cluster, Demand::Strict) {
            cluster.violated("a world at rest stays so", found);
        }
        if let Some(process) = &self.process {
            invariants::memory_is_bounded(&mut cluster, &process.context);
        }
    }
}

/// The effects that there must be none of at rest. That a window opens or closes is told in
/// statuses of families. Holds that end have ended before: see [`Demand::Strict`].
fn at_rest(cluster: &Cluster) -> u64 {
    let mut families = cluster.objects.all(Kind::Family);
    let tells = families.any(|(_, family)| family["spec"]["policy"]["windows"].is_array());
    cluster.invariants.effects - if tells { cluster.invariants.told } else { 0 }
}
