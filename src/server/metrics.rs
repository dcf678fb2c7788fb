//! The metrics, each with its type, labels and help. Labels have a fixed set of values, never the
//! names of objects, so that their number does not grow with the cluster; which family it is stands
//! in the objects and the Events.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, text},
    metrics::{
        counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge, histogram::Histogram,
    },
    registry::Registry,
};

use crate::api::{CascadePhase, FailureClass, ImageCounts, ImageState};

/// Bounds of builds and cascades, in seconds: from a layer of text to an operating system.
const LONG: [f64; 12] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Bounds of a reconciler's passes, in seconds.
const SHORT: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of the controller. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    fleet: Fleet,
    cascades_started: Counter,
    cascades_finished: Family<Outcome, Counter>,
    cascade_seconds: Histogram,
    builds: Family<Built, Counter>,
    builds_waiting: Gauge,
    checks: Family<Checked, Counter>,
    build_seconds: Histograms<Built>,
    polls: Family<Polled, Counter>,
    reconciles: Family<Kind, Counter>,
    reconcile_errors: Family<KindAndReason, Counter>,
    reconcile_seconds: Histograms<Kind>,
    leader: Gauge,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum BuildResult {
    /// The registry has what it pushed.
    Succeeded,
    /// The build itself failed.
    BuildFailed,
    /// What is around it failed, or it could not be started.
    InfrastructureFailed,
    /// Its inputs can't be built.
    InputRefused,
    /// Its Job was ended before its end: by a request, for a newer cascade, or by somebody else.
    Cancelled,
}

/// How a check ended. Several required ones that fail in one attempt count once, as on its budget
/// of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum CheckResult {
    /// A check has passed.
    Passed,
    /// The verdict of a check is that the digest is not good.
    Failed,
    /// What is around a check failed, or it could not be started.
    InfrastructureFailed,
}

/// What a poll of an upstream found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PollResult {
    /// The digest that was known.
    Unchanged,
    /// A new digest.
    Moved,
    /// No such image or tag.
    NotFound,
    /// The registry refused the credential.
    Denied,
    /// The registry is away, limits us, or answers nonsense.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Built {
    result: BuildResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    result: CheckResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Polled {
    result: PollResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindAndReason {
    kind: &'static str,
    reason: &'static str,
}

impl From<FailureClass> for BuildResult {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::Build => Self::BuildFailed,
            FailureClass::Infrastructure => Self::InfrastructureFailed,
            FailureClass::Input => Self::InputRefused,
            FailureClass::Cancelled => Self::Cancelled,
        }
    }
}

impl From<FailureClass> for CheckResult {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::Build | FailureClass::Input => Self::Failed,
            FailureClass::Infrastructure | FailureClass::Cancelled => Self::InfrastructureFailed,
        }
    }
}

impl Metrics {
    /// Metrics that count from zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            fleet: Fleet::default(),
            cascades_started: Counter::default(),
            cascades_finished: Family::default(),
            cascade_seconds: Histogram::new(LONG),
            builds: Family::default(),
            builds_waiting: Gauge::default(),
            checks: Family::default(),
            build_seconds: Family::new_with_constructor(|| Histogram::new(LONG)),
            polls: Family::default(),
            reconciles: Family::default(),
            reconcile_errors: Family::default(),
            reconcile_seconds: Family::new_with_constructor(|| Histogram::new(SHORT)),
            leader: Gauge::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("groundswell");
        all.register_collector(Box::new(self.fleet.clone()));
        all.register(
            "cascades_started",
            "Cascades of builds that began",
            self.cascades_started.clone(),
        );
        all.register(
            "cascades_finished",
            "Cascades of builds that ended, by outcome",
            self.cascades_finished.clone(),
        );
        all.register(
            "cascade_duration_seconds",
            "Length of ended cascades",
            self.cascade_seconds.clone(),
        );
        all.register("builds", "Builds that ended, by result", self.builds.clone());
        let help = "Builds that only the operator's limits of builds at once keep from starting";
        all.register("builds_waiting_for_limits", help, self.builds_waiting.clone());
        all.register("checks", "Checks that ended, by result", self.checks.clone());
        all.register(
            "build_duration_seconds",
            "Length of builds, by result",
            self.build_seconds.clone(),
        );
        all.register("upstream_polls", "Polls of upstreams, by result", self.polls.clone());
        all.register(
            "reconciles",
            "Passes of the reconcilers, by kind of object",
            self.reconciles.clone(),
        );
        all.register(
            "reconcile_errors",
            "Failed passes, by kind and reason",
            self.reconcile_errors.clone(),
        );
        all.register(
            "reconcile_duration_seconds",
            "Length of passes, by kind",
            self.reconcile_seconds.clone(),
        );
        all.register(
            "leader",
            "Whether this replica acts: 1, or 0 in a standby",
            self.leader.clone(),
        );
        all
    }

    /// A cascade began.
    pub fn cascade_started(&self) {
        self.cascades_started.inc();
    }

    /// A cascade ended after `length`. A phase that is not an end is not counted.
    pub fn cascade_finished(&self, phase: CascadePhase, length: Duration) {
        let outcome = match phase {
            CascadePhase::Running => return,
            CascadePhase::Complete => "Complete",
            CascadePhase::Incomplete => "Incomplete",
            CascadePhase::Superseded => "Superseded",
        };
        self.cascades_finished.get_or_create(&Outcome { outcome }).inc();
        self.cascade_seconds.observe(length.as_secs_f64());
    }

    /// A build ended after `length`, where its start is known.
    pub fn build_finished(&self, result: BuildResult, length: Option<Duration>) {
        self.builds.get_or_create(&Built { result }).inc();
        if let Some(length) = length {
            self.build_seconds.get_or_create(&Built { result }).observe(length.as_secs_f64());
        }
    }

    /// So many builds wait for nothing but the operator's limits.
    pub fn builds_waiting(&self, builds: usize) {
        self.builds_waiting.set(i64::try_from(builds).unwrap_or(i64::MAX));
    }

    /// A check ended.
    pub fn check_finished(&self, result: CheckResult) {
        self.checks.get_or_create(&Checked { result }).inc();
    }

    /// An upstream was polled.
    pub fn polled(&self, result: PollResult) {
        self.polls.get_or_create(&Polled { result }).inc();
    }

    /// A pass over an object of this kind ended; `failure` is the error's category, one of a fixed
    /// few.
    pub fn reconciled(&self, kind: &'static str, length: Duration, failure: Option<&'static str>) {
        self.reconciles.get_or_create(&Kind { kind }).inc();
        self.reconcile_seconds.get_or_create(&Kind { kind }).observe(length.as_secs_f64());
        if let Some(reason) = failure {
            self.reconcile_errors.get_or_create(&KindAndReason { kind, reason }).inc();
        }
    }

    /// Whether this replica acts.
    pub fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// What a family's images are doing, and since when the one that has been stale longest is
    /// stale. `family` is only a key, to be given again when the family goes.
    pub fn family(&self, family: &str, counts: &ImageCounts, stale_since: Option<Timestamp>) {
        self.fleet.lock().insert(family.into(), Share { counts: counts.clone(), stale_since });
    }

    /// A family is gone, or is somebody else's to count.
    pub fn family_gone(&self, family: &str) {
        self.fleet.lock().remove(family);
    }

    /// The metrics in the `OpenMetrics` text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The families' images, summed up when somebody asks, so that ages are right between passes.
#[derive(Clone, Debug, Default)]
struct Fleet {
    families: Arc<Mutex<HashMap<String, Share>>>,
}

#[derive(Clone, Debug)]
struct Share {
    counts: ImageCounts,
    stale_since: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

impl Fleet {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Share>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn images(&self, state: ImageState) -> i64 {
        self.lock()
            .values()
            .map(|Share { counts, .. }| match state {
                ImageState::Waiting => counts.waiting,
                ImageState::Queued => counts.queued,
                ImageState::Building => counts.building,
                ImageState::Checking => counts.checking,
                ImageState::Current => counts.current,
                ImageState::Held => counts.held,
                ImageState::Failed => counts.failed,
                ImageState::Blocked => counts.blocked,
            })
            .map(i64::from)
            .sum()
    }

    /// For how long the image that has been stale longest is stale, in seconds; 0 when none is.
    fn staleness(&self, now: Timestamp) -> f64 {
        let oldest = self.lock().values().filter_map(|share| share.stale_since).min();
        oldest.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0))
    }
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let families = ConstGauge::new(i64::try_from(self.lock().len()).unwrap_or(i64::MAX));
        families.encode(encoder.encode_descriptor(
            "families",
            "Families",
            None,
            families.metric_type(),
        )?)?;
        let staleness = ConstGauge::new(self.staleness(Timestamp::now()));
        let help = "For how long the image that has been stale longest is stale";
        staleness.encode(encoder.encode_descriptor(
            "oldest_stale_image_seconds",
            help,
            None,
            staleness.metric_type(),
        )?)?;
        let images: Family<State, Gauge> = Family::default();
        for state in ImageState::ALL {
            images.get_or_create(&State { state: state.as_str() }).set(self.images(state));
        }
        let metric_type = prometheus_client::metrics::MetricType::Gauge;
        images.encode(encoder.encode_descriptor("images", "Images, by state", None, metric_type)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_stands_in_the_text() {
        let metrics = Metrics::new();
        metrics.cascade_started();
        metrics.cascade_finished(CascadePhase::Complete, Duration::from_secs(42));
        metrics.build_finished(BuildResult::Succeeded, Some(Duration::from_secs(3)));
        metrics.build_finished(FailureClass::Infrastructure.into(), None);
        metrics.check_finished(FailureClass::Build.into());
        metrics.builds_waiting(7);
        metrics.polled(PollResult::Moved);
        metrics.reconciled("ImageFamily", Duration::from_millis(2), Some("api"));
        metrics.leading(true);
        let text = metrics.encode().expect("text");
        for line in [
            "groundswell_cascades_started_total 1",
            "groundswell_cascades_finished_total{outcome=\"Complete\"} 1",
            "groundswell_cascade_duration_seconds_bucket{le=\"60.0\"} 1",
            "groundswell_builds_total{result=\"Succeeded\"} 1",
            "groundswell_builds_total{result=\"InfrastructureFailed\"} 1",
            "groundswell_builds_waiting_for_limits 7",
            "groundswell_checks_total{result=\"Failed\"} 1",
            "groundswell_build_duration_seconds_count{result=\"Succeeded\"} 1",
            "groundswell_upstream_polls_total{result=\"Moved\"} 1",
            "groundswell_reconciles_total{kind=\"ImageFamily\"} 1",
            "groundswell_reconcile_errors_total{kind=\"ImageFamily\",reason=\"api\"} 1",
            "groundswell_leader 1",
            "groundswell_images{state=\"Blocked\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn families_are_summed_and_forgotten() {
        let metrics = Metrics::new();
        let counts = |current| ImageCounts { total: 5, current, ..ImageCounts::default() };
        let at = |second| Some(Timestamp::from_second(second).expect("second"));
        metrics.family("a/x", &counts(5), None);
        metrics.family("a/y", &counts(1), at(1_000));
        metrics.family("b/z", &counts(2), at(400));
        let now = Timestamp::from_second(1_500).expect("second");
        assert_eq!(metrics.fleet.images(ImageState::Current), 8);
        assert!((metrics.fleet.staleness(now) - 1_100.0).abs() < f64::EPSILON);
        metrics.family("a/x", &counts(4), None);
        metrics.family_gone("b/z");
        assert_eq!(metrics.fleet.images(ImageState::Current), 5);
        assert!((metrics.fleet.staleness(now) - 500.0).abs() < f64::EPSILON);
    }
}
