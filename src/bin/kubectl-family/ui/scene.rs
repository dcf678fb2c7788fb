//! Where the page draws nodes and edges. A small graph has the layout of `graph -o svg`, a large
//! one that of [`bands`].

use std::collections::HashMap;

use graphlay::Placement;
use groundswell::api::condition::shorten;
use serde::Serialize;

use crate::{
    estate_graph::{EdgeKind, EstateGraph, NodeId},
    graph::layout::{Drawing, name},
    ui::bands,
};

/// Maximum number of nodes of a small graph.
const MAX_SMALL: usize = 60;
/// Maximum number of characters of a name in a cell of a block.
pub const MAX_CELL_NAME: usize = 20;

/// A drawing. Its lists of nodes and edges have the order of those of the graph's document. All
/// lengths are in pixels.
#[derive(Debug, Default, Serialize)]
pub struct GraphScene {
    pub width: f64,
    pub height: f64,
    pub nodes: Vec<SceneNode>,
    /// The path of each edge, in the language of SVG; empty for one that a block stands for.
    pub edges: Vec<String>,
    pub blocks: Vec<SceneBlock>,
}

/// A box.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SceneNode {
    /// The left.
    pub x: f64,
    /// The top.
    pub y: f64,
    pub width: f64,
    pub height: f64,
    /// What is written into it.
    pub label: String,
    /// Whether it is a cell of a block.
    pub cell: bool,
}

/// The frame around images without children that have the same base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SceneBlock {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    /// Position of the base in the list of nodes.
    pub parent: usize,
    /// Path from the base to the frame.
    pub path: String,
}

impl GraphScene {
    /// Lays a graph out.
    ///
    /// # Errors
    ///
    /// Returns the error of the layout, which takes every graph without circles.
    pub fn of(graph: &EstateGraph) -> anyhow::Result<Self> {
        if graph.nodes().count() <= MAX_SMALL {
            Self::layered(graph)
        } else {
            Ok(bands::scene(graph))
        }
    }

    fn layered(graph: &EstateGraph) -> anyhow::Result<Self> {
        let drawing = Drawing::of(graph)?;
        let bounds = drawing.layout.bounds;
        let nodes = graph.nodes().zip(&drawing.layout.nodes);
        let nodes = nodes.map(|((_, node), placed)| SceneNode::new(placed, name(node)));
        let drawn = drawing.edges.iter().enumerate().filter_map(|(index, edge)| {
            Some(((edge.parent, edge.child, edge.kind), drawing.path(index)?))
        });
        let mut paths: HashMap<(NodeId, NodeId, EdgeKind), String> = drawn.collect();
        let mut scene = Self {
            width: bounds.max.x - bounds.min.x,
            height: bounds.max.y - bounds.min.y,
            nodes: nodes.collect(),
            edges: Vec::new(),
            blocks: Vec::new(),
        };
        for (child, _) in graph.nodes() {
            for edge in graph.parents(child) {
                scene.edges.push(paths.remove(&(edge.node, child, edge.kind)).unwrap_or_default());
            }
        }
        Ok(scene)
    }
}

impl SceneNode {
    fn new(placed: &Placement, label: String) -> Self {
        let (width, height) = (placed.size.width, placed.size.height);
        let (x, y) = (placed.center.x - width / 2.0, placed.center.y - height / 2.0);
        Self { x, y, width, height, label, cell: false }
    }

    /// Returns the path from the right of this box to the left of another one.
    pub fn path_to(&self, x: f64, y: f64) -> String {
        let (from_x, from_y) = (self.x + self.width, self.y + self.height / 2.0);
        let bend = ((x - from_x) / 2.0).abs().clamp(20.0, 120.0);
        format!(
            "M{from_x:.0} {from_y:.0}C{:.0} {from_y:.0} {:.0} {y:.0} {x:.0} {y:.0}",
            from_x + bend,
            x - bend
        )
    }
}

/// Returns what is written into a cell.
pub fn cell_label(label: &str) -> String {
    shorten(label, MAX_CELL_NAME)
}
