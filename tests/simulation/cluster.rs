//! Everything outside of the controller, in one place: objects, registries, source repositories,
//! scheduled events and pending faults. It only changes while nothing else runs.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use groundswell::{
    api::ImageFamilySpec,
    controller::{object_cache::Key, quota::BuildLimits},
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    faults::{Crash, Faults},
    invariants::{Invariants, calm},
    job_controller::{Stage, Work},
    objects::{Change, Kind, ObjectError, Objects, owner, uid},
    registry::Registry,
    time::Time,
    trace::Trace,
    traffic::RegistryTraffic,
};

/// The longest lag of a watch that is no disturbance.
const MAX_CALM_LAG: Duration = Duration::from_millis(100);
/// How long a new process takes to know everything.
const START_TIME: Duration = Duration::from_secs(10);

/// A scheduled event.
#[derive(Clone, Debug)]
pub enum Event {
    /// The script's step with this number.
    Step(usize),
    /// The watch of a kind, in the process with this number, delivers changes.
    Deliver(u64, Kind),
    /// The process with this number starts.
    Start(u64),
    /// A Job or its pod reaches its next stage.
    Work(String, Stage),
    /// The tag of an upstream (its repository) moves to a complete index, with the platforms that
    /// the one before lacked.
    Completes(String, String),
    /// Objects whose owner is gone are deleted.
    Collect,
    /// The invariants are inspected that no event violates.
    Inspect,
    /// A write of the process with this number arrives after that has died.
    Late(u64, Box<crate::api_server::Call>),
}

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the invariant.
    pub invariant: &'static str,
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.message)
    }
}

/// The state of everything outside of the controller.
pub struct Cluster {
    pub seed: u64,
    pub time: Time,
    pub trace: Trace,
    pub objects: Objects,
    pub registry: Registry,
    /// Commits by repository and branch.
    pub commits: BTreeMap<(String, String), String>,
    /// The Dockerfile of each commit.
    pub texts: BTreeMap<String, String>,
    /// Jobs in progress, by uid.
    pub work: BTreeMap<String, Work>,
    pub faults: Faults,
    /// The operator's limits of concurrent builds.
    pub limits: BuildLimits,
    /// Whether the call that takes effect now was sent by a process that has died.
    pub is_late: bool,
    /// The process that has written a status last.
    pub status_writers: BTreeMap<(Kind, Key), u64>,
    pub crash: Option<Crash>,
    /// The number of the running process; 0 while none runs.
    pub process: u64,
    /// The requests to registries, while they are counted.
    pub traffic: Option<RegistryTraffic>,
    pub invariants: Invariants,
    pub violation: Option<Violation>,
    /// Specs by family and generation.
    specs: BTreeMap<(String, i64), Arc<ImageFamilySpec>>,
    agenda: BTreeMap<(Duration, u64), Event>,
    events: u64,
    /// Kinds whose watches will break.
    pub broken_watches: Vec<Kind>,
    /// When each kind's watch delivers next.
    pub deliveries: BTreeMap<Kind, Duration>,
}

/// A shared handle of the cluster.
#[derive(Clone)]
pub struct Shared {
    cluster: Arc<Mutex<Cluster>>,
    /// Notified when an event was scheduled or a process died.
    pub changed: Arc<Notify>,
}

impl Shared {
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster: Arc::new(Mutex::new(cluster)), changed: Arc::new(Notify::new()) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().expect("nothing panics while it holds the cluster")
    }
}

impl Cluster {
    pub fn new(seed: u64, faults: Faults, trace: Trace) -> Self {
        Self {
            seed,
            time: Time::start(),
            trace,
            objects: Objects::default(),
            registry: Registry::default(),
            commits: BTreeMap::new(),
            texts: BTreeMap::new(),
            work: BTreeMap::new(),
            faults,
            limits: BuildLimits::default(),
            is_late: false,
            status_writers: BTreeMap::new(),
            crash: None,
            process: 0,
            traffic: None,
            invariants: Invariants::default(),
            violation: None,
            specs: BTreeMap::new(),
            agenda: BTreeMap::new(),
            events: 0,
            broken_watches: Vec::new(),
            deliveries: BTreeMap::new(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.time.elapsed()
    }

    /// Writes a line to the trace.
    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        let at = self.elapsed();
        self.trace.note(at, what);
    }

    /// Records the violation of an invariant. Only the first one is kept.
    pub fn violated(&mut self, invariant: &'static str, message: String) {
        self.note(format_args!("VIOLATION {invariant}: {message}"));
        self.violation.get_or_insert(Violation { invariant, message });
    }

    /// Returns the spec of a family that exists.
    pub fn spec(&mut self, key: &Key) -> Option<Arc<ImageFamilySpec>> {
        let family = self.objects.get(Kind::Family, key)?;
        let version =
            (uid(family).to_owned(), family["metadata"]["generation"].as_i64().unwrap_or_default());
        if let Some(known) = self.specs.get(&version) {
            return Some(Arc::clone(known));
        }
        let spec: Arc<ImageFamilySpec> =
            Arc::new(serde_json::from_value(family["spec"].clone()).ok()?);
        self.specs.insert(version, Arc::clone(&spec));
        Some(spec)
    }

    /// Returns the spec of a family at a generation for which [`Self::spec`] was called before.
    pub fn spec_at(&self, uid: &str, generation: i64) -> Option<Arc<ImageFamilySpec>> {
        self.specs.get(&(uid.to_owned(), generation)).cloned()
    }

    /// Returns the spec of a family as it is, if [`Self::spec`] was called since it changed.
    pub fn current_spec(&self, family: &Value) -> Option<Arc<ImageFamilySpec>> {
        let generation = family["metadata"]["generation"].as_i64().unwrap_or_default();
        self.spec_at(uid(family), generation)
    }

    /// Schedules an event.
    pub fn schedule(&mut self, after: Duration, event: Event) {
        self.events += 1;
        self.agenda.insert((self.elapsed() + after, self.events), event);
    }

    /// Returns when the next event happens.
    pub fn next_at(&self) -> Option<Duration> {
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Takes the next event, if it is due.
    pub fn take_due(&mut self) -> Option<Event> {
        let now = self.elapsed();
        let entry = self.agenda.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    pub fn create(&mut self, kind: Kind, object: Value) -> Result<Arc<Value>, ObjectError> {
        let now = self.time.truth();
        let made = self.objects.create(kind, object, now)?;
        self.schedule_delivery(kind);
        self.object_created(kind, &made);
        Ok(made)
    }

    /// Handles a new object. If its family is gone already, it is garbage-collected like the other
    /// objects of that family.
    pub fn object_created(&mut self, kind: Kind, object: &Value) {
        let owned = matches!(kind, Kind::Image | Kind::Cascade | Kind::Job);
        if owned && self.objects.all(Kind::Family).all(|(_, family)| uid(family) != owner(object)) {
            self.collect_soon();
        }
    }

    fn collect_soon(&mut self) {
        let pause = self.faults.machinery.pause(100..5000);
        self.schedule(pause, Event::Collect);
    }

    pub fn update(
        &mut self,
        kind: Kind,
        key: &Key,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, ObjectError> {
        let updated = self.objects.update(kind, key, change)?;
        self.schedule_delivery(kind);
        Ok(updated)
    }

    pub fn remove(&mut self, kind: Kind, key: &Key) -> Option<Arc<Value>> {
        let removed = self.objects.remove(kind, key)?;
        self.schedule_delivery(kind);
        if kind == Kind::Family || kind == Kind::Job {
            self.collect_soon();
        }
        Some(removed)
    }

    /// Schedules the watch of a kind to deliver its changes.
    pub fn schedule_delivery(&mut self, kind: Kind) {
        let now = self.elapsed();
        if self.process != 0 && self.deliveries.get(&kind).is_none_or(|at| *at < now) {
            let lag = self.faults.lag(kind);
            if lag > MAX_CALM_LAG {
                calm::disturb(self, lag);
            }
            self.deliveries.insert(kind, now + lag);
            self.schedule(lag, Event::Deliver(self.process, kind));
        }
    }

    /// Returns the changes of a kind from this index in its log on.
    pub fn changes_since(&self, kind: Kind, cursor: usize) -> Vec<Change> {
        self.objects.log(kind).get(cursor..).unwrap_or_default().to_vec()
    }

    /// Kills the process; the next one starts after `down`.
    pub fn kill(&mut self, down: Duration) {
        let next = self.invariants.history.next_process();
        self.process = 0;
        self.deliveries.clear();
        calm::disturb(self, down + START_TIME);
        self.note(format_args!("controller dies"));
        self.schedule(down, Event::Start(next));
    }
}
