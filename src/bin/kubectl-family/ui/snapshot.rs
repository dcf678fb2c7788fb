//! What the page shows at one time: the families, their graph, where it is drawn, and all of it as
//! JSON.

use std::{collections::HashMap, sync::Arc};

use axum::body::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use groundswell::{
    api::{Cascade, CascadePhase, ImageCounts, condition::READY},
    engine::causes::sentence,
    lineage::ImageIndex,
};

use crate::{
    estate_graph::{EstateGraph, NodeId},
    graph::GraphDocument,
    input::{Estate, EstateFamily, EstateOrigin},
    output::Document,
    ui::scene::GraphScene,
};

/// The state of the page. It does not change: a change of the cluster makes the next snapshot.
#[derive(Debug)]
pub struct PageSnapshot {
    version: u64,
    content: Arc<ShownContent>,
    json: Bytes,
}

/// The families and their graph.
#[derive(Debug)]
struct ShownContent {
    estate: Estate,
    graph: EstateGraph,
    nodes: HashMap<String, NodeId>,
    scene: GraphScene,
    /// Why there is no graph.
    problem: Option<String>,
}

/// An image that the page shows.
#[derive(Clone, Copy, Debug)]
pub struct ShownImage<'a> {
    /// Its family.
    pub family: &'a EstateFamily,
    /// Its position in the family.
    pub index: ImageIndex,
}

impl PageSnapshot {
    /// Creates the first snapshot.
    pub fn first(estate: Estate) -> Self {
        Self::new(1, Arc::new(ShownContent::of(estate)), None)
    }

    /// Creates the snapshot that follows this one after a change.
    pub fn next(&self, estate: Estate) -> Self {
        Self::new(self.version + 1, Arc::new(ShownContent::of(estate)), None)
    }

    /// Creates the snapshot that follows this one when the cluster does not answer any more.
    pub fn outdated(&self, problem: String) -> Self {
        Self::new(self.version + 1, Arc::clone(&self.content), Some(problem))
    }

    fn new(version: u64, content: Arc<ShownContent>, problem: Option<String>) -> Self {
        let problem = problem.or_else(|| content.problem.clone());
        let json = json(version, &content, problem.as_deref());
        Self { version, content, json }
    }

    /// Returns the number of the snapshot.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Returns the state as JSON.
    pub fn json(&self) -> Bytes {
        self.json.clone()
    }

    /// Returns the families.
    pub fn estate(&self) -> &Estate {
        &self.content.estate
    }

    /// Returns the graph.
    pub fn graph(&self) -> &EstateGraph {
        &self.content.graph
    }

    /// Returns the node of this name.
    pub fn node(&self, name: &str) -> Option<NodeId> {
        self.content.nodes.get(name).copied()
    }

    /// Returns the image of this node's name.
    pub fn image(&self, name: &str) -> Option<ShownImage<'_>> {
        let node = self.graph().node(self.node(name)?)?;
        Some(ShownImage { family: self.estate().families.get(node.family?)?, index: node.image? })
    }
}

impl ShownContent {
    /// Families that build on each other in a circle have no graph, which is a problem and not the
    /// end: the next change may cut the circle.
    fn of(estate: Estate) -> Self {
        let drawn = EstateGraph::of(&estate).and_then(|graph| Ok((GraphScene::of(&graph)?, graph)));
        let (scene, graph, problem) = match drawn {
            Ok((scene, graph)) => (scene, graph, None),
            Err(error) => {
                (GraphScene::default(), EstateGraph::default(), Some(format!("{error:#}")))
            }
        };
        let nodes = graph.nodes().map(|(id, node)| (node.name.clone(), id)).collect();
        Self { estate, graph, nodes, scene, problem }
    }
}

/// A snapshot for the page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateDocument<'a> {
    version: u64,
    is_live: bool,
    /// Why the content may be outdated, or why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    /// What is not shown, and why, a sentence each.
    notes: Vec<String>,
    graph: Document<'a, GraphDocument>,
    scene: &'a GraphScene,
    families: Vec<FamilySummary<'a>>,
    cascades: Vec<CascadeSummary<'a>>,
}

#[derive(Serialize)]
struct FamilySummary<'a> {
    namespace: &'a str,
    name: &'a str,
    /// The message of the condition `Ready`, unless it is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// A cascade that runs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CascadeSummary<'a> {
    name: &'a str,
    family: String,
    /// Why it runs: a sentence.
    cause: String,
    counts: ImageCounts,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    /// Names of the nodes that it may build.
    nodes: Vec<&'a str>,
}

/// Writes a snapshot as JSON.
fn json(version: u64, content: &ShownContent, problem: Option<&str>) -> Bytes {
    let estate = &content.estate;
    let notes = estate.problems.iter().map(ToString::to_string);
    let graph = GraphDocument::of(estate, &content.graph);
    let document = StateDocument {
        version,
        is_live: estate.origin == EstateOrigin::Cluster,
        problem,
        notes: notes.chain(estate.notes()).collect(),
        graph: Document::new("Graph", &graph),
        scene: &content.scene,
        families: estate.families.iter().map(FamilySummary::of).collect(),
        cascades: content.cascades(),
    };
    // It never fails for these types: their keys are texts.
    serde_json::to_vec(&document).unwrap_or_default().into()
}

impl<'a> FamilySummary<'a> {
    fn of(family: &'a EstateFamily) -> Self {
        let status = family.family.status.as_ref();
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let mut ready = conditions.iter().filter(|condition| condition.type_ == READY);
        Self {
            namespace: &family.name.namespace,
            name: &family.name.name,
            message: ready.find(|ready| ready.status != "True").map(|ready| ready.message.as_str()),
        }
    }
}

impl ShownContent {
    /// Returns the cascades that run.
    fn cascades(&self) -> Vec<CascadeSummary<'_>> {
        let families = self.estate.families.iter();
        let all = families.flat_map(|family| family.cascades.iter().map(move |one| (family, one)));
        let running = all.filter(|(_, cascade)| {
            let status = cascade.status.as_ref();
            status.is_none_or(|status| status.phase == CascadePhase::Running)
        });
        running.map(|(family, cascade)| self.cascade(family, cascade)).collect()
    }

    fn cascade<'a>(&'a self, family: &'a EstateFamily, cascade: &'a Cascade) -> CascadeSummary<'a> {
        let images = cascade.spec.levels.iter().flatten();
        let nodes = images.filter_map(|image| {
            let node = self.graph.image(&family.name, image)?;
            Some(self.graph.node(node)?.name.as_str())
        });
        let status = cascade.status.as_ref();
        CascadeSummary {
            name: cascade.metadata.name.as_deref().unwrap_or_default(),
            family: family.name.to_string(),
            cause: sentence(&cascade.spec.causes),
            counts: status.map(|status| status.counts.clone()).unwrap_or_default(),
            started_at: status.and_then(|status| status.started_at),
            nodes: nodes.collect(),
        }
    }
}
