//! The metrics, each with its type, labels and help. Labels have a fixed set of values and never
//! contain names of objects, so that the number of time series does not grow with the cluster; only
//! the few registries that are paused are named. The objects and the Events say which family is
//! concerned.

mod labels;
mod paused;
mod scrape;

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use self::{
    labels::{BuildLabels, CheckLabels, ErrorLabels, KindLabels, PhaseLabels, PollLabels},
    paused::PausedRegistries,
    scrape::{CountedAtScrape, Fleet},
};
pub use self::{
    labels::{BuildResult, CheckResult, PollResult},
    paused::PausedRegistry,
    scrape::FamilyMetrics,
};
use crate::{
    api::{CascadePhase, RolloutState},
    build_info,
};

/// Histogram bounds of builds and cascades, in seconds: from a single text file to an operating
/// system.
const BUILD_SECONDS_BOUNDS: [f64; 12] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Histogram bounds of the start of a build after its parents' builds, in seconds. Pods say to the
/// second when they end.
const START_DELAY_SECONDS_BOUNDS: [f64; 9] = [0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 120.0];
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
    start_delay_seconds: Histogram,
    polls: Family<PollLabels, Counter>,
    reconciles: Family<KindLabels, Counter>,
    reconcile_errors: Family<ErrorLabels, Counter>,
    reconcile_seconds: Histograms<KindLabels>,
    leader: Gauge,
    unwatched: CountedAtScrape,
    others: CountedAtScrape,
    paused: PausedRegistries,
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
            start_delay_seconds: Histogram::new(START_DELAY_SECONDS_BOUNDS),
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
            paused: PausedRegistries::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }

    fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("groundswell");
        all.register_collector(Box::new(self.fleet.clone()));
        all.register_collector(Box::new(self.unwatched.clone()));
        all.register_collector(Box::new(self.others.clone()));
        all.register_collector(Box::new(self.paused.clone()));
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
            "build_start_delay_seconds",
            "Time from the end of the last parent's build to the start of a build that waited for \
             nothing else",
            self.start_delay_seconds.clone(),
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

    /// Lists the registries that are not called for a while at each request of the metrics.
    pub fn list_paused_registries(
        &self,
        list: impl Fn() -> Vec<PausedRegistry> + Send + Sync + 'static,
    ) {
        self.paused.set(list);
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

    /// Counts a build that started `delay` after its last parent's build has ended.
    pub fn build_started(&self, delay: Duration) {
        self.start_delay_seconds.observe(delay.as_secs_f64());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FailureClass;

    #[test]
    fn every_metric_is_encoded() {
        let metrics = Metrics::new();
        metrics.cascade_started();
        metrics.cascade_finished(CascadePhase::Complete, Duration::from_secs(42));
        metrics.build_finished(BuildResult::Succeeded, Some(Duration::from_secs(3)));
        metrics.build_finished(FailureClass::Infrastructure.into(), None);
        metrics.build_started(Duration::from_millis(1200));
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
            "groundswell_build_start_delay_seconds_bucket{le=\"1.0\"} 0",
            "groundswell_build_start_delay_seconds_bucket{le=\"1.5\"} 1",
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
