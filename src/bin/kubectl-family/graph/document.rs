//! The graph as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use groundswell::{
    api::{ImageState, RolloutState},
    lineage::{ImageIndex, families::FamilyName},
};

use crate::{
    estate_graph::{EdgeKind, EstateGraph, GraphNode, GraphNodeKind},
    input::Estate,
};

/// The nodes and edges of a graph.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GraphDocument {
    /// Upstreams, images and workloads.
    nodes: Vec<GraphNodeDocument>,
    /// What each of them is built on, or updated to.
    edges: Vec<GraphEdgeDocument>,
}

/// A node of a graph.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GraphNodeDocument {
    /// Name of the node, unique in the graph.
    name: String,
    /// `Upstream`, `External` (an image of a family that the input does not have), `Image` or
    /// `Workload`.
    kind: &'static str,
    /// Namespace of the family. Not set for what belongs to no family.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// Name of the family. Not set for what belongs to no family.
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<String>,
    /// Name of the image in its family. Set for images.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Repository that the image is pushed to. Set for images.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    /// Distance from the upstreams: 0 for upstreams, 1 for images that are built on upstreams
    /// alone.
    level: usize,
    /// State of the image or of the rollout, if the cluster has recorded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Digest of the last verified build, if the cluster has recorded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// An edge of a graph.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct GraphEdgeDocument {
    /// Name of the node that is built on `parent`, or updated to it.
    child: String,
    /// Name of the node that it is built on, or updated to.
    parent: String,
    /// `Base`, `BuildStage` or `Rollout`.
    #[serde(rename = "use")]
    usage: &'static str,
}

impl GraphDocument {
    /// Returns the document of a graph.
    pub fn of(estate: &Estate, graph: &EstateGraph) -> Self {
        let nodes = graph.nodes().map(|(_, node)| GraphNodeDocument::of(estate, node)).collect();
        let name = |node: &GraphNode| node.name.clone();
        let mut edges = Vec::new();
        for (child, content) in graph.nodes() {
            for edge in graph.parents(child) {
                edges.push(GraphEdgeDocument {
                    child: content.name.clone(),
                    parent: graph.node(edge.node).map(name).unwrap_or_default(),
                    usage: match edge.kind {
                        EdgeKind::Base => "Base",
                        EdgeKind::BuildStage => "BuildStage",
                        EdgeKind::Rollout => "Rollout",
                    },
                });
            }
        }
        Self { nodes, edges }
    }
}

impl GraphNodeDocument {
    fn of(estate: &Estate, node: &GraphNode) -> Self {
        let family = node.family.and_then(|family| estate.families.get(family));
        let name = family.map(|family| &family.name);
        let position = node.image.map(ImageIndex::position);
        let spec = family.zip(position).and_then(|(family, at)| family.family.spec.images.get(at));
        let blueprint =
            family.zip(position).and_then(|(family, at)| family.blueprint.images.get(at));
        let record = family.zip(spec).and_then(|(family, image)| family.images.get(&image.name));
        let status = record.and_then(|record| record.status.as_ref());
        Self {
            name: node.name.clone(),
            kind: match node.kind {
                GraphNodeKind::Upstream => "Upstream",
                GraphNodeKind::External => "External",
                GraphNodeKind::Image => "Image",
                GraphNodeKind::Workload => "Workload",
            },
            namespace: name.map(|FamilyName { namespace, .. }| namespace.clone()),
            family: name.map(|family| family.name.clone()),
            image: spec.map(|image| image.name.clone()),
            repository: blueprint.map(|image| image.repository.clone()),
            level: node.level,
            state: node
                .state
                .map(ImageState::as_str)
                .or_else(|| node.rollout.map(RolloutState::as_str)),
            digest: status.and_then(|status| status.digest.clone()),
        }
    }
}
