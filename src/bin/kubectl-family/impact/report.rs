//! What a move reaches, as text and as a document.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    build_times::{ExpectedTime, readable},
    estate_graph::{EstateGraph, NodeId},
    impact::{Impact, schedule::Schedule},
    input::plural,
    output::table::{self, StyledText},
};

/// What would be rebuilt if an upstream or an image moved.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImpactDocument {
    /// What moves.
    target: String,
    /// The images that are rebuilt, parents first.
    pub images: Vec<ImpactImage>,
    /// Names of images that a hold keeps at their digest. What is built on them is not rebuilt.
    held: Vec<String>,
    /// The workloads that are updated, as `Kind namespace/name`.
    workloads: Vec<String>,
    /// What keeps families from following the move at once, or at all, one sentence each: holds and
    /// approval of upstreams, their minimum age, and suspended families.
    gates: Vec<String>,
    /// Names of the images on the longest path, the first one first.
    critical_path: Vec<String>,
    /// Estimated time of all builds with a known time in seconds, with the parallelism of the
    /// families. Not set if no build time is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_seconds: Option<u64>,
    /// Number of images whose time is not known, so that the estimate is too short.
    untimed_images: usize,
    /// Sum of the sizes of the last builds in bytes, of the images for which one is recorded: how
    /// much was pushed last time if no layer was reused. Not set if no size is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<i64>,
    /// Upper bound on the requests of the controller to the registries, for all images.
    registry_requests: usize,
}

/// An image that is rebuilt.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImpactImage {
    /// Name of the image, unique in the input.
    name: String,
    /// Level of the image in the graph of all families.
    level: usize,
    /// Median time of its builds in seconds. Not set if none is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    /// Whether the time is that of other images of the family, because the image has no build.
    assumed: bool,
    /// Size of the last build in bytes. Not set if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Upper bound on the requests of the controller to the registry.
    pub registry_requests: usize,
}

impl ImpactImage {
    /// Sets the expected time of the build.
    pub fn set_expected(&mut self, time: ExpectedTime) {
        self.assumed = matches!(time, ExpectedTime::Assumed(_));
        self.seconds = match time {
            ExpectedTime::Unknown => None,
            known => Some(known.duration().as_secs()),
        };
    }
}

impl ImpactDocument {
    /// Creates the document of an impact, without times and sizes.
    pub(super) fn new(graph: &EstateGraph, impact: &Impact, target: &str) -> Self {
        let names = |nodes: &[NodeId]| names(graph, nodes);
        let images = impact.rebuilt.iter().filter_map(|node| {
            let node = graph.node(*node)?;
            let (name, level) = (node.name.clone(), node.level);
            Some(ImpactImage {
                name,
                level,
                seconds: None,
                assumed: false,
                size: None,
                registry_requests: 0,
            })
        });
        let reached = impact.target.and_then(|node| graph.node(node));
        Self {
            target: reached.map_or_else(|| target.to_owned(), |node| node.name.clone()),
            images: images.collect(),
            held: names(&impact.held),
            workloads: names(&impact.workloads),
            gates: impact.gates.clone(),
            critical_path: Vec::new(),
            estimated_seconds: None,
            untimed_images: 0,
            bytes: None,
            registry_requests: 0,
        }
    }

    /// Sets what follows from the times and sizes of all images.
    pub fn set_schedule(&mut self, graph: &EstateGraph, schedule: &Schedule) {
        self.critical_path = names(graph, &schedule.critical_path);
        self.untimed_images = self.images.iter().filter(|image| image.seconds.is_none()).count();
        let is_timed = self.untimed_images < self.images.len();
        self.estimated_seconds = is_timed.then_some(schedule.total.as_secs());
        self.registry_requests = self.images.iter().map(|image| image.registry_requests).sum();
        let sizes = self.images.iter().filter_map(|image| image.size);
        self.bytes = sizes.fold(None, |sum, size| Some(sum.unwrap_or(0) + size));
    }

    /// Renders one line per level, and what follows for the whole.
    pub fn summary(&self, width: Option<u16>) -> String {
        let mut levels: BTreeMap<usize, Vec<&ImpactImage>> = BTreeMap::new();
        for image in &self.images {
            levels.entry(image.level).or_default().push(image);
        }
        let rows = levels.iter().map(|(level, images)| {
            let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
            let times = images.iter().filter_map(|image| image.seconds);
            vec![
                level.into(),
                images.len().into(),
                times.max().map_or_else(|| "-".into(), seconds).into(),
                names.join(", ").into(),
            ]
        });
        let mut text = table::wrapped(&self.headline(levels.len()), width, 2);
        if !levels.is_empty() {
            let header = ["LEVEL", "IMAGES", "LONGEST", "NAMES"];
            text = text + "\n" + &table::render(&header, rows.collect(), width) + "\n";
        }
        let facts: Vec<Vec<StyledText>> =
            self.facts().into_iter().map(|(name, value)| vec![name.into(), value.into()]).collect();
        if !facts.is_empty() {
            let table = table::render(&["", ""], facts, width);
            // The first line is the empty header.
            text.extend(table.lines().skip(1).flat_map(|line| [line, "\n"]));
        }
        text
    }

    /// Renders one line per image.
    pub fn rows(&self, width: Option<u16>) -> String {
        let rows = self.images.iter().map(|image| {
            let mark = if image.assumed { "~" } else { "" };
            let time =
                image.seconds.map_or_else(|| "-".into(), |time| mark.to_owned() + &seconds(time));
            let size = image.size.map_or_else(|| "-".into(), bytes);
            vec![image.level.into(), (&image.name).into(), time.into(), size.into()]
        });
        table::render(&["LEVEL", "IMAGE", "TIME", "SIZE"], rows.collect(), width)
    }

    /// Renders one name per line.
    pub fn names(&self) -> String {
        let names = self.images.iter().map(|image| table::one_line(&image.name) + "\n");
        names.collect()
    }

    fn headline(&self, levels: usize) -> String {
        let (images, workloads) = (self.images.len(), self.workloads.len());
        let target = table::one_line(&self.target);
        if images + workloads == 0 {
            return format!("{target}: nothing is rebuilt if it moves");
        }
        format!(
            "{target}: if it moves, {images} image{} on {levels} level{} and {workloads} \
             workload{} follow",
            plural(images),
            plural(levels),
            plural(workloads)
        )
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        if let Some(total) = self.estimated_seconds {
            let time = match self.untimed_images {
                0 => seconds(total),
                untimed => format!(
                    "more than {}: no build is recorded of {untimed} of {} images",
                    seconds(total),
                    self.images.len()
                ),
            };
            facts.push(("Estimated time", time));
        } else if !self.images.is_empty() {
            facts.push(("Estimated time", "unknown: no build is recorded".into()));
        }
        if self.critical_path.len() > 1 {
            facts.push(("Critical path", self.critical_path.join(" -> ")));
        }
        if let Some(sum) = self.bytes {
            let known = self.images.iter().filter(|image| image.size.is_some()).count();
            let images = format!("the last builds of {known} image{}", plural(known));
            facts.push(("Size", format!("{}: {images}", bytes(sum))));
        }
        if self.registry_requests > 0 {
            let requests = format!("at most {} requests of the controller", self.registry_requests);
            facts.push(("Registry", requests));
        }
        for (name, list) in [("Workloads", &self.workloads), ("Held", &self.held)] {
            if !list.is_empty() {
                facts.push((name, list.join(", ")));
            }
        }
        facts.extend(self.gates.iter().map(|gate| ("Gate", gate.clone())));
        facts
    }
}

fn names(graph: &EstateGraph, nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().filter_map(|node| Some(graph.node(*node)?.name.clone())).collect()
}

fn seconds(seconds: u64) -> String {
    readable(Duration::from_secs(seconds))
}

/// Writes a number of bytes in the largest unit that it fills.
pub fn bytes(bytes: i64) -> String {
    let units = [(1_i64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(size, _)| bytes >= *size);
    let Some((size, name)) = unit else { return format!("{bytes} B") };
    format!("{}.{} {name}", bytes / size, bytes % size * 10 / size)
}
