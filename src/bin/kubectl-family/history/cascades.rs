//! The recorded cascades of families.

use comfy_table::Color;
use jiff::Timestamp;
use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::Serialize;

use groundswell::{
    api::{Cascade, CascadePhase, CascadeStatus},
    engine::causes::sentence,
    lineage::families::FamilyName,
};

use crate::{
    build_times::readable,
    history::patched::TimeToPatched,
    input::Estate,
    output::{
        csv,
        table::{self, StyledText, styled},
    },
    status::age,
};

/// What stands for a history without an entry.
const NONE: &str = "no cascade is recorded\n";

/// The cascades of families.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CascadeHistory {
    /// The cascades, newest first.
    cascades: Vec<CascadeEntry>,
}

/// A cascade.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CascadeEntry {
    /// Namespace of the family.
    namespace: String,
    /// Name of the family.
    family: String,
    /// Name of the cascade.
    name: String,
    /// `Running`, `Complete`, `Incomplete` or `Superseded`.
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    started_at: Option<Timestamp>,
    /// Time that the cascade took in seconds. Not set while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<i64>,
    /// Number of its images.
    images: i32,
    /// Number of its images that are current.
    current: i32,
    /// Number of its images that have failed.
    failed: i32,
    /// Number of builds that it has started, retries included.
    builds: i32,
    /// How long images took to be patched. Not set if none was rebuilt.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_patched: Option<TimeToPatched>,
    /// What caused the cascade, in a sentence.
    cause: String,
    /// Summary of the result.
    message: String,
    /// What the record omits because its size is bounded. Empty if it omits nothing.
    omitted: String,
}

impl CascadeHistory {
    /// Returns the cascades of an estate.
    pub fn of(estate: &Estate) -> Self {
        let mut cascades: Vec<CascadeEntry> = estate
            .families
            .iter()
            .flat_map(|family| family.cascades.iter().map(|one| entry(&family.name, one)))
            .collect();
        cascades.sort_by(|a, b| {
            let key = |one: &CascadeEntry| (one.started_at, one.name.clone());
            key(b).cmp(&key(a))
        });
        Self { cascades }
    }

    /// Returns the columns that fit into a terminal.
    pub fn table(&self, now: Timestamp, width: Option<u16>) -> String {
        let header =
            ["CASCADE", "PHASE", "AGE", "TOOK", "IMAGES", "FAILED", "P50", "P95", "MAX", "CAUSE"];
        let row = |cascade: &CascadeEntry| {
            let mut row = cascade.cells(now);
            row.push((&cascade.cause).into());
            row
        };
        if self.cascades.is_empty() {
            return NONE.into();
        }
        let rows = self.cascades.iter().map(row).collect();
        table::render_without(&["MAX", "P50"], &header, rows, width)
    }

    /// Returns all columns.
    pub fn wide(&self, now: Timestamp, width: Option<u16>) -> String {
        let header = [
            "CASCADE",
            "PHASE",
            "AGE",
            "TOOK",
            "IMAGES",
            "FAILED",
            "P50",
            "P95",
            "MAX",
            "NAMESPACE",
            "FAMILY",
            "BUILDS",
            "CAUSE",
            "MESSAGE",
        ];
        let row = |cascade: &CascadeEntry| {
            let mut row = cascade.cells(now);
            row.extend([
                (&cascade.namespace).into(),
                (&cascade.family).into(),
                cascade.builds.into(),
                (&cascade.cause).into(),
                cascade.summary().into(),
            ]);
            row
        };
        table::list(&self.cascades, NONE, &header, row, width)
    }

    /// Returns the names of the cascades, as kubectl takes them.
    pub fn names(&self) -> String {
        self.cascades
            .iter()
            .map(|cascade| table::one_line(&format!("cascade/{}", cascade.name)) + "\n")
            .collect()
    }

    /// Returns all columns for a spreadsheet.
    pub fn csv(&self) -> anyhow::Result<String> {
        let header = [
            "namespace",
            "family",
            "cascade",
            "phase",
            "started",
            "seconds",
            "images",
            "current",
            "failed",
            "builds",
            "patched",
            "p50_seconds",
            "p95_seconds",
            "max_seconds",
            "cause",
            "message",
        ];
        let row = |cascade: &CascadeEntry| {
            let patched = |value: fn(&TimeToPatched) -> i64| {
                cascade.time_to_patched.as_ref().map(|times| value(times).to_string())
            };
            let images = cascade.time_to_patched.as_ref().map_or(0, |times| times.images);
            vec![
                cascade.namespace.clone(),
                cascade.family.clone(),
                cascade.name.clone(),
                cascade.phase.to_owned(),
                cascade.started_at.map(|at| at.to_string()).unwrap_or_default(),
                cascade.duration_seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
                cascade.images.to_string(),
                cascade.current.to_string(),
                cascade.failed.to_string(),
                cascade.builds.to_string(),
                images.to_string(),
                patched(|times| times.p50_seconds).unwrap_or_default(),
                patched(|times| times.p95_seconds).unwrap_or_default(),
                patched(|times| times.max_seconds).unwrap_or_default(),
                cascade.cause.clone(),
                cascade.summary(),
            ]
        };
        csv::render(&header, &self.cascades.iter().map(row).collect::<Vec<_>>())
    }
}

impl CascadeEntry {
    /// Returns the columns that both tables begin with.
    fn cells(&self, now: Timestamp) -> Vec<StyledText> {
        let colour = match self.phase {
            "Running" => Color::Yellow,
            "Complete" => Color::Green,
            "Incomplete" => Color::Red,
            _ => Color::Grey,
        };
        let patched = |value: fn(&TimeToPatched) -> i64| {
            seconds(self.time_to_patched.as_ref().map(value)).into()
        };
        vec![
            (&self.name).into(),
            styled(self.phase, colour),
            age(self.started_at, now).into(),
            seconds(self.duration_seconds).into(),
            format!("{}/{}", self.current, self.images).into(),
            self.failed.into(),
            patched(|times| times.p50_seconds),
            patched(|times| times.p95_seconds),
            patched(|times| times.max_seconds),
        ]
    }

    fn summary(&self) -> String {
        let parts = [self.message.as_str(), self.omitted.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if parts.is_empty() { "-".into() } else { parts.join("; ") }
    }
}

/// Returns a time for a reader.
pub fn seconds(seconds: Option<i64>) -> String {
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or("-".into(), |seconds| readable(std::time::Duration::from_secs(seconds)))
}

fn entry(family: &FamilyName, cascade: &Cascade) -> CascadeEntry {
    let empty = CascadeStatus::default();
    let status = cascade.status.as_ref().unwrap_or(&empty);
    CascadeEntry {
        namespace: family.namespace.clone(),
        family: family.name.clone(),
        name: cascade.name_any(),
        phase: match status.phase {
            CascadePhase::Running => "Running",
            CascadePhase::Complete => "Complete",
            CascadePhase::Incomplete => "Incomplete",
            CascadePhase::Superseded => "Superseded",
        },
        started_at: status.started_at,
        duration_seconds: status.duration.map(|duration| i64::from(duration.as_secs())),
        images: status.counts.total,
        current: status.counts.current,
        failed: status.counts.failed,
        builds: status.images.iter().fold(0, |sum, image| sum.saturating_add(image.builds)),
        time_to_patched: TimeToPatched::of([cascade]),
        cause: sentence(&cascade.spec.causes),
        message: status.message.clone(),
        omitted: status.omitted.clone(),
    }
}
