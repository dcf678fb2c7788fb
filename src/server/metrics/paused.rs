//! The registries that are not called for a while, computed at each scrape.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, family::Family, gauge::Gauge},
};

/// Maximum number of registries that are shown: those with the longest pauses.
const MAX_SHOWN: usize = 20;
/// Maximum length of a registry's name, in bytes. Whoever writes families names it.
const MAX_NAME: usize = 100;

/// A registry that is not called for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PausedRegistry {
    /// Its host.
    pub registry: String,
    /// Why it is not called: one of a small fixed set.
    pub cause: &'static str,
    /// How much of the pause remains.
    pub pause: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PausedLabels {
    registry: String,
    cause: &'static str,
}

/// Lists the registries that are paused now.
type ListPaused = Box<dyn Fn() -> Vec<PausedRegistry> + Send + Sync>;

/// The pauses of registries. Only those that are paused now have a time series.
#[derive(Clone, Default)]
pub(super) struct PausedRegistries {
    list: Arc<OnceLock<ListPaused>>,
}

impl PausedRegistries {
    /// Sets the function that lists them. It is set once, when this replica becomes the leader.
    pub(super) fn set(&self, list: impl Fn() -> Vec<PausedRegistry> + Send + Sync + 'static) {
        _ = self.list.set(Box::new(list));
    }
}

impl fmt::Debug for PausedRegistries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PausedRegistries").finish_non_exhaustive()
    }
}

impl Collector for PausedRegistries {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut paused = self.list.get().map_or_else(Vec::new, |list| list());
        paused.sort_by(|a, b| b.pause.cmp(&a.pause).then_with(|| a.registry.cmp(&b.registry)));
        let shown: Family<PausedLabels, Gauge> = Family::default();
        for PausedRegistry { registry, cause, pause } in paused.into_iter().take(MAX_SHOWN) {
            let registry = registry.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
            let seconds = i64::try_from(pause.as_secs()).unwrap_or(i64::MAX);
            shown.get_or_create(&PausedLabels { registry, cause }).set(seconds);
        }
        shown.encode(encoder.encode_descriptor(
            "registry_pause_seconds",
            "How long a registry is not called yet, by cause",
            None,
            MetricType::Gauge,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Metrics;

    #[test]
    fn only_a_few_paused_registries_are_shown() {
        let metrics = Metrics::new();
        let lines = |metrics: &Metrics| -> Vec<String> {
            let text = metrics.encode().expect("text");
            let lines = text.lines().filter(|line| line.starts_with("groundswell_registry_pause"));
            lines.map(ToOwned::to_owned).collect()
        };
        assert_eq!(lines(&metrics), [""; 0]);
        metrics.list_paused_registries(|| {
            let paused = |number: u64| PausedRegistry {
                registry: format!("r{number}.example\n{}", "x".repeat(500)),
                cause: "Limited",
                pause: Duration::from_secs(number),
            };
            (0..1000).map(paused).collect()
        });
        let shown = lines(&metrics);
        assert_eq!(shown.len(), MAX_SHOWN);
        assert!(shown.iter().all(|line| line.len() < 200), "{shown:?}");
        assert!(shown.iter().any(|line| line.contains("r999.example") && line.ends_with(" 999")));
    }
}
