//! Metrics that are computed at each scrape, so that ages are right between reconciles.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
};

use crate::api::{ImageCounts, ImageState, RolloutState};

/// The images of all families. They are summed up at each scrape.
#[derive(Clone, Debug, Default)]
pub(super) struct Fleet {
    families: Arc<Mutex<HashMap<String, FamilyMetrics>>>,
    rollouts: Arc<Mutex<HashMap<String, Vec<RolloutState>>>>,
}

/// A number that is counted at each scrape, once this replica is the leader.
#[derive(Clone)]
pub(super) struct CountedAtScrape {
    name: &'static str,
    help: &'static str,
    count: Arc<OnceLock<Box<dyn Fn() -> usize + Send + Sync>>>,
}

impl CountedAtScrape {
    pub(super) fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, count: Arc::default() }
    }

    /// Sets the function that counts. It is set once, when this replica becomes the leader.
    pub(super) fn set(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
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
    pub(super) fn families(&self) -> MutexGuard<'_, HashMap<String, FamilyMetrics>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rollouts(&self) -> MutexGuard<'_, HashMap<String, Vec<RolloutState>>> {
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
            MetricType::Gauge,
        )?)?;
        let images: Family<StateLabels, Gauge> = Family::default();
        for state in ImageState::ALL {
            images.get_or_create(&StateLabels { state: state.as_str() }).set(self.images(state));
        }
        let metric_type = MetricType::Gauge;
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
    use crate::server::Metrics;

    #[test]
    fn families_are_summed_and_removed() {
        let metrics = Metrics::new();
        let fleet = &metrics.fleet;
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
        assert_eq!(fleet.images(ImageState::Current), 8);
        let stale = || fleet.age(|family| family.stale_since, now);
        assert!((stale() - 1_100.0).abs() < f64::EPSILON);
        let overdue = fleet.age(|family| family.overdue_since, now);
        assert!((overdue - 500.0).abs() < f64::EPSILON);
        let text = metrics.encode().expect("text");
        assert!(text.contains("groundswell_upstreams_past_end_of_life 6"), "{text}");
        metrics.family("a/x", family(4, None));
        metrics.family_gone("b/z");
        assert_eq!(fleet.images(ImageState::Current), 5);
        assert!((stale() - 500.0).abs() < f64::EPSILON);
    }
}
