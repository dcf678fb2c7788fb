//! The metrics, each with its type, labels and help. Labels have a fixed set of values and never
//! contain names of objects, so that the number of time series does not grow with the cluster. The
//! objects and the Events say which family is concerned.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, text},
    metrics::{
        counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge, histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};

use crate::{
    api::{CascadePhase, FailureClass, ImageCounts, ImageState, RolloutState},
    build_info,
};

/// Histogram bounds of builds and cascades, in seconds: from a single text file to an operating
/// system.
const BUILD_SECONDS_BOUNDS: [f64; 12] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Histogram bounds of reconciles, in seconds.
const RECONCILE_SECONDS_BOUNDS: [f64; 10] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of the controller. Clones are cheap and share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    fleet: Fleet,
    cascades_started: Counter,
    cascades_finished: Family<PhaseLabels, Counter>,
    cascade_seconds: Histogram,
    builds: Family<BuildLabels, Counter>,
    builds_waiting: Gauge,
    checks: Family<CheckLabels, Counter>,
    build_seconds: Histograms<BuildLabels>,
    polls: Family<PollLabels, Counter>,
    reconciles: Family<KindLabels, Counter>,
    reconcile_errors: Family<ErrorLabels, Counter>,
    reconcile_seconds: Histograms<KindLabels>,
    leader: Gauge,
    unwatched: CountedAtScrape,
    others: CountedAtScrape,
}

/// Result of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum BuildResult {
    /// The builder ended without an error. The registry is asked for the image afterwards.
    Succeeded,
    /// The build itself failed.
    BuildFailed,
    /// The infrastructure around the build failed, or the build could not be started.
    InfrastructureFailed,
    /// The inputs of the build are invalid.
    InputRefused,
    /// The Job was stopped before it finished: by a request, for a newer cascade, or by another
    /// client.
    Cancelled,
}

/// Result of a check. Several required checks that fail in one attempt count as one, as they do
/// against the retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum CheckResult {
    /// The check passed.
    Passed,
    /// The check rejected the digest.
    Failed,
    /// The infrastructure around the check failed, or the check could not be started.
    InfrastructureFailed,
}

/// Result of a poll of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum PollResult {
    /// The digest is the one already known.
    Unchanged,
    /// The tag points to a new digest.
    Moved,
    /// There is no such image or tag.
    NotFound,
    /// The registry rejected the credential.
    Denied,
    /// The registry is unreachable, limits the rate of requests, or sends an invalid response.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    result: BuildResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    result: CheckResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PollLabels {
    result: PollResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
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
    /// Returns metrics that count from zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            fleet: Fleet::default(),
            cascades_started: Counter::default(),
            cascades_finished: Family::default(),
            cascade_seconds: Histogram::new(BUILD_SECONDS_BOUNDS),
            builds: Family::default(),
            builds_waiting: Gauge::default(),
            checks: Family::default(),
            build_seconds: Family::new_with_constructor(|| Histogram::new(BUILD_SECONDS_BOUNDS)),
            polls: Family::default(),
            reconciles: Family::default(),
            reconcile_errors: Family::default(),
            reconcile_seconds: Family::new_with_constructor(|| {
                Histogram::new(RECONCILE_SECONDS_BOUNDS)
            }),
            leader: Gauge::default(),
            unwatched: CountedAtScrape::new(
                "unwatched_namespaces",
                "Number of namespaces that are to be served and cannot be watched",
            ),
            others: CountedAtScrape::new(
                "families_of_other_installations",
                "Number of families that another installation serves",
            ),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("groundswell");
        all.register_collector(Box::new(self.fleet.clone()));
        all.register_collector(Box::new(self.unwatched.clone()));
        all.register_collector(Box::new(self.others.clone()));
        let build = vec![("version", build_info::VERSION), ("commit", build_info::COMMIT)];
        all.register("build", "Version and commit of the controller", Info::new(build));
        all.register(
            "cascades_started",
            "Number of cascades that started",
            self.cascades_started.clone(),
        );
        all.register(
            "cascades_finished",
            "Number of cascades that finished, by phase",
            self.cascades_finished.clone(),
        );
        all.register(
            "cascade_duration_seconds",
            "Duration of finished cascades",
            self.cascade_seconds.clone(),
        );
        all.register("builds", "Number of builds that finished, by result", self.builds.clone());
        let help = "Number of builds that only the operator's limits on concurrent builds delay";
        all.register("builds_waiting_for_limits", help, self.builds_waiting.clone());
        all.register("checks", "Number of checks that finished, by result", self.checks.clone());
        all.register(
            "build_duration_seconds",
            "Duration of builds, by result",
            self.build_seconds.clone(),
        );
        all.register(
            "upstream_polls",
            "Number of polls of upstreams, by result",
            self.polls.clone(),
        );
        all.register(
            "reconciles",
            "Number of reconciles, by kind of object",
            self.reconciles.clone(),
        );
        all.register(
            "reconcile_errors",
            "Number of failed reconciles, by kind and reason",
            self.reconcile_errors.clone(),
        );
        all.register(
            "reconcile_duration_seconds",
            "Duration of reconciles, by kind",
            self.reconcile_seconds.clone(),
        );
        all.register(
            "leader",
            "Whether this replica is the leader: 1 if it is, 0 in a standby",
            self.leader.clone(),
        );
        all
    }

    /// Counts the namespaces that cannot be watched at each request of the metrics.
    pub fn count_unwatched_namespaces(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        self.unwatched.set(count);
    }

    /// Counts the families that another installation serves at each request of the metrics.
    pub fn count_families_of_others(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        self.others.set(count);
    }

    /// Counts a cascade that started.
    pub fn cascade_started(&self) {
        self.cascades_started.inc();
    }

    /// Counts a cascade that finished after `length`. The phase `Running` is not counted.
    pub fn cascade_finished(&self, phase: CascadePhase, length: Duration) {
        let phase = match phase {
            CascadePhase::Running => return,
            CascadePhase::Complete => "Complete",
            CascadePhase::Incomplete => "Incomplete",
            CascadePhase::Superseded => "Superseded",
        };
        self.cascades_finished.get_or_create(&PhaseLabels { phase }).inc();
        self.cascade_seconds.observe(length.as_secs_f64());
    }

    /// Counts a build that finished after `length`, if its start is known.
    pub fn build_finished(&self, result: BuildResult, length: Option<Duration>) {
        self.builds.get_or_create(&BuildLabels { result }).inc();
        if let Some(length) = length {
            self.build_seconds.get_or_create(&BuildLabels { result }).observe(length.as_secs_f64());
        }
    }

    /// Sets the number of builds that only the operator's limits delay.
    pub fn builds_waiting(&self, builds: usize) {
        self.builds_waiting.set(i64::try_from(builds).unwrap_or(i64::MAX));
    }

    /// Counts a check that finished.
    pub fn check_finished(&self, result: CheckResult) {
        self.checks.get_or_create(&CheckLabels { result }).inc();
    }

    /// Counts a poll of an upstream.
    pub fn upstream_polled(&self, result: PollResult) {
        self.polls.get_or_create(&PollLabels { result }).inc();
    }

    /// Counts a reconcile of an object of this kind. `failure` is the error's category, which has a
    /// small fixed set of values.
    pub fn reconciled(&self, kind: &'static str, length: Duration, failure: Option<&'static str>) {
        self.reconciles.get_or_create(&KindLabels { kind }).inc();
        self.reconcile_seconds.get_or_create(&KindLabels { kind }).observe(length.as_secs_f64());
        if let Some(reason) = failure {
            self.reconcile_errors.get_or_create(&ErrorLabels { kind, reason }).inc();
        }
    }

    /// Sets whether this replica is the leader.
    pub fn set_leader(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }

    /// Records a family. `family` is a key for [`Self::family_gone`] and is not exported.
    pub fn family(&self, family: &str, metrics: FamilyMetrics) {
        self.fleet.families().insert(family.into(), metrics);
    }

    /// Records the states of the workloads that an image rolls out to. `image` is a key for
    /// [`Self::image_gone`] and is not exported.
    pub fn rollouts(&self, image: &str, states: Vec<RolloutState>) {
        self.fleet.rollouts().insert(image.into(), states);
    }

    /// Removes an image that was deleted or that rolls nothing out.
    pub fn image_gone(&self, image: &str) {
        self.fleet.rollouts().remove(image);
    }

    /// Removes a family that was deleted or that another replica counts.
    pub fn family_gone(&self, family: &str) {
        self.fleet.families().remove(family);
    }

    /// Returns the metrics in the `OpenMetrics` text format.
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

/// The images of all families. They are summed up at each scrape, so that ages are right between
/// reconciles.
#[derive(Clone, Debug, Default)]
struct Fleet {
    families: Arc<Mutex<HashMap<String, FamilyMetrics>>>,
    rollouts: Arc<Mutex<HashMap<String, Vec<RolloutState>>>>,
}

/// A number that is counted at each scrape, once this replica is the leader.
#[derive(Clone)]
struct CountedAtScrape {
    name: &'static str,
    help: &'static str,
    count: Arc<OnceLock<Box<dyn Fn() -> usize + Send + Sync>>>,
}

impl CountedAtScrape {
    fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, count: Arc::default() }
    }

    /// Sets the function that counts. It is set once, when this replica becomes the leader.
    fn set(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        _ = self.count.set(Box::new(count));
    }
}

impl fmt::Debug for CountedAtScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedAtScrape").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for CountedAtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let count = self.count.get().map_or(0, |count| count());
        let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        let (name, metric_type) = (self.name, gauge.metric_type());
        gauge.encode(encoder.encode_descriptor(name, self.help, None, metric_type)?)
    }
}

/// What the metrics say about one family.
#[derive(Clone, Debug, Default)]
pub struct FamilyMetrics {
    /// How many of its images are in each state.
    pub counts: ImageCounts,
    /// Since when it has not matched its inputs.
    pub stale_since: Option<Timestamp>,
    /// Since when it has not matched inputs that no gate of its spec keeps back.
    pub overdue_since: Option<Timestamp>,
    /// How many of its upstreams follow a release whose support has ended.
    pub ended_upstreams: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

impl Fleet {
    fn families(&self) -> MutexGuard<'_, HashMap<String, FamilyMetrics>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rollouts(&self) -> MutexGuard<'_, HashMap<String, Vec<RolloutState>>> {
        self.rollouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn images(&self, state: ImageState) -> i64 {
        self.families()
            .values()
            .map(|FamilyMetrics { counts, .. }| match state {
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

    /// Returns the age in seconds of the oldest of these times, or 0 if there is none.
    fn age(&self, since: fn(&FamilyMetrics) -> Option<Timestamp>, now: Timestamp) -> f64 {
        let oldest = self.families().values().filter_map(since).min();
        oldest.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0))
    }

    /// Returns the number of workloads in each state of their rollout.
    fn workloads(&self, state: RolloutState) -> i64 {
        let rollouts = self.rollouts();
        let found = rollouts.values().flatten().filter(|known| **known == state).count();
        i64::try_from(found).unwrap_or(i64::MAX)
    }
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let families = ConstGauge::new(i64::try_from(self.families().len()).unwrap_or(i64::MAX));
        families.encode(encoder.encode_descriptor(
            "families",
            "Number of families",
            None,
            families.metric_type(),
        )?)?;
        let now = Timestamp::now();
        let stale = ConstGauge::new(self.age(|family| family.stale_since, now));
        stale.encode(encoder.encode_descriptor(
            "oldest_stale_image_seconds",
            "Age of the oldest stale image, 0 if none is stale",
            None,
            stale.metric_type(),
        )?)?;
        let overdue = ConstGauge::new(self.age(|family| family.overdue_since, now));
        overdue.encode(encoder.encode_descriptor(
            "oldest_overdue_image_seconds",
            "Age of the oldest stale image that no gate of a spec keeps back, 0 if there is none",
            None,
            overdue.metric_type(),
        )?)?;
        let ended: usize = self.families().values().map(|family| family.ended_upstreams).sum();
        let ended = ConstGauge::new(i64::try_from(ended).unwrap_or(i64::MAX));
        ended.encode(encoder.encode_descriptor(
            "upstreams_past_end_of_life",
            "Number of upstreams that follow a release whose support has ended",
            None,
            ended.metric_type(),
        )?)?;
        let rollouts: Family<StateLabels, Gauge> = Family::default();
        for state in RolloutState::ALL {
            let labels = StateLabels { state: state.as_str() };
            rollouts.get_or_create(&labels).set(self.workloads(state));
        }
        rollouts.encode(encoder.encode_descriptor(
            "rollouts",
            "Number of workloads, by the state of their rollout",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?)?;
        let images: Family<StateLabels, Gauge> = Family::default();
        for state in ImageState::ALL {
            images.get_or_create(&StateLabels { state: state.as_str() }).set(self.images(state));
        }
        let metric_type = prometheus_client::metrics::MetricType::Gauge;
        images.encode(encoder.encode_descriptor(
            "images",
            "Number of images, by state",
            None,
            metric_type,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_encoded() {
        let metrics = Metrics::new();
        metrics.cascade_started();
        metrics.cascade_finished(CascadePhase::Complete, Duration::from_secs(42));
        metrics.build_finished(BuildResult::Succeeded, Some(Duration::from_secs(3)));
        metrics.build_finished(FailureClass::Infrastructure.into(), None);
        metrics.check_finished(FailureClass::Build.into());
        metrics.builds_waiting(7);
        metrics.upstream_polled(PollResult::Moved);
        metrics.reconciled("ImageFamily", Duration::from_millis(2), Some("api"));
        metrics.set_leader(true);
        let text = metrics.encode().expect("text");
        for line in [
            "groundswell_cascades_started_total 1",
            "groundswell_cascades_finished_total{phase=\"Complete\"} 1",
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
            &format!(
                "groundswell_build_info{{version=\"{}\",commit=\"{}\"}} 1",
                build_info::VERSION,
                build_info::COMMIT
            ),
        ] {
            assert!(text.lines().any(|have| have == line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn families_are_summed_and_removed() {
        let metrics = Metrics::new();
        let at = |second| Some(Timestamp::from_second(second).expect("second"));
        let family = |current, stale_since| FamilyMetrics {
            counts: ImageCounts { total: 5, current, ..ImageCounts::default() },
            stale_since,
            overdue_since: stale_since.filter(|since| since.as_second() == 1_000),
            ended_upstreams: 2,
        };
        metrics.family("a/x", family(5, None));
        metrics.family("a/y", family(1, at(1_000)));
        metrics.family("b/z", family(2, at(400)));
        let now = Timestamp::from_second(1_500).expect("second");
        assert_eq!(metrics.fleet.images(ImageState::Current), 8);
        let stale = || metrics.fleet.age(|family| family.stale_since, now);
        assert!((stale() - 1_100.0).abs() < f64::EPSILON);
        let overdue = metrics.fleet.age(|family| family.overdue_since, now);
        assert!((overdue - 500.0).abs() < f64::EPSILON);
        let text = metrics.encode().expect("text");
        assert!(text.contains("groundswell_upstreams_past_end_of_life 6"), "{text}");
        metrics.family("a/x", family(4, None));
        metrics.family_gone("b/z");
        assert_eq!(metrics.fleet.images(ImageState::Current), 5);
        assert!((stale() - 500.0).abs() < f64::EPSILON);
    }

    #[test]
    fn rollouts_are_counted_by_state() {
        let metrics = Metrics::new();
        metrics.rollouts("a/x", vec![RolloutState::Contested, RolloutState::Complete]);
        metrics.rollouts("a/y", vec![RolloutState::Contested]);
        let contested = || {
            let text = metrics.encode().expect("text");
            let line = text.lines().find_map(|line| {
                line.strip_prefix("groundswell_rollouts{state=\"Contested\"} ").map(str::to_owned)
            });
            line.expect("a line")
        };
        assert_eq!(contested(), "2");
        metrics.rollouts("a/x", vec![RolloutState::Complete]);
        metrics.image_gone("a/y");
        assert_eq!(contested(), "0");
    }
}
