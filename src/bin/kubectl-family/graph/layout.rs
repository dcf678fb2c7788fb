//! Where nodes and edges are drawn. The layout is that of the library `graphlay`: layers for a
//! small graph, and a tidy tree along the bases for a large one, which stays legible and takes
//! milliseconds for 10,000 images. Other edges of a large graph are drawn as curves across the
//! tree.

use std::fmt::Write as _;

use anyhow::Context as _;
use graphlay::{
    Effort, Graph, GraphBuilder, Layout, LayoutOptions, Node, Point, Size, TreeOptions, layout,
    tree,
};

use groundswell::api::condition::shorten;

use crate::{
    estate_graph::{EdgeKind, EstateGraph, GraphNode, NodeId},
    graph::drawings::label,
};

/// Maximum number of nodes that are drawn in layers, which takes longer than a tree.
pub const MAX_LAYERED: usize = 120;
/// Height of a box in pixels.
pub const BOX_HEIGHT: f64 = 34.0;
/// Width of a character in pixels.
const CHARACTER_WIDTH: f64 = 7.2;
/// Space inside of a box, at its left and right, in pixels.
const BOX_PADDING: f64 = 22.0;
/// Maximum number of characters of a name in a box.
const MAX_NAME: usize = 48;
/// Minimum number of characters for which a box has space.
const MIN_NAME: usize = 8;
/// Space between the boxes of siblings in pixels.
const SIBLING_GAP: f64 = 10.0;
/// Space between levels in pixels.
pub const LEVEL_GAP: f64 = 90.0;

/// An edge of the drawing.
pub struct DrawnEdge {
    pub parent: NodeId,
    pub child: NodeId,
    pub kind: EdgeKind,
}

/// The edges of the drawing, and the layout: of all of them, or of the tree alone.
pub struct Drawing {
    /// The edges in the order of the layout's routes. Those behind the last route are curves.
    pub edges: Vec<DrawnEdge>,
    pub layout: Layout,
}

impl Drawing {
    /// Lays a graph out.
    ///
    /// # Errors
    ///
    /// Returns the error of the layout, which takes every graph without circles.
    pub fn of(graph: &EstateGraph) -> anyhow::Result<Self> {
        let is_layered = graph.nodes().count() <= MAX_LAYERED;
        let (mut edges, mut curves) = (Vec::new(), Vec::new());
        for (child, _) in graph.nodes() {
            let main = graph.main_parent(child);
            for edge in graph.parents(child) {
                let drawn = DrawnEdge { parent: edge.node, child, kind: edge.kind };
                let is_routed = is_layered || Some(*edge) == main;
                if is_routed { edges.push(drawn) } else { curves.push(drawn) }
            }
        }
        let input = layout_input(graph, &edges);
        let placed = if is_layered {
            let mut options =
                LayoutOptions { effort: Effort::Fast, ..LayoutOptions::layered_default() };
            options.spacing.node_gap = SIBLING_GAP;
            layout(&input, &options)
        } else {
            let options = TreeOptions {
                direction: graphlay::Direction::LeftRight,
                sibling_gap: SIBLING_GAP,
                subtree_gap: SIBLING_GAP,
                row_gap: LEVEL_GAP,
                ..TreeOptions::default()
            };
            tree::layout(&input, &options)
        };
        edges.append(&mut curves);
        Ok(Self { edges, layout: placed.context("lay the graph out")? })
    }

    /// Returns the path of an edge in the language of SVG.
    pub fn path(&self, index: usize) -> Option<String> {
        match self.layout.edges.get(index) {
            Some(route) => Some(polyline(&route.points)),
            None => self.curve(self.edges.get(index)?),
        }
    }

    /// Returns the path of an edge that the layout has not routed: from the right of the parent to
    /// the left of the child.
    fn curve(&self, edge: &DrawnEdge) -> Option<String> {
        let parent = self.layout.nodes.get(edge.parent.0)?;
        let child = self.layout.nodes.get(edge.child.0)?;
        let (from_x, from_y) = (parent.center.x + parent.size.width / 2.0, parent.center.y);
        let (to_x, to_y) = (child.center.x - child.size.width / 2.0, child.center.y);
        let bend = LEVEL_GAP / 2.0;
        Some(format!(
            "M{from_x:.0} {from_y:.0}C{:.0} {from_y:.0} {:.0} {to_y:.0} {to_x:.0} {to_y:.0}",
            from_x + bend,
            to_x - bend
        ))
    }
}

fn layout_input(graph: &EstateGraph, edges: &[DrawnEdge]) -> Graph {
    let mut input = GraphBuilder::new();
    let nodes: Vec<graphlay::NodeId> = graph
        .nodes()
        .map(|(_, node)| {
            let size = Size::new(width(node), BOX_HEIGHT);
            input.add_node(Node { size, ..Node::default() })
        })
        .collect();
    for edge in edges {
        if let (Some(parent), Some(child)) = (nodes.get(edge.parent.0), nodes.get(edge.child.0)) {
            input.connect(*parent, *child);
        }
    }
    input.build()
}

/// Returns what is written into the box of a node.
pub fn name(node: &GraphNode) -> String {
    shorten(label(node).lines().next().unwrap_or_default(), MAX_NAME)
}

/// Returns the width of the box of a node in pixels.
pub fn width(node: &GraphNode) -> f64 {
    let characters = name(node).chars().count().max(MIN_NAME);
    // At most `MAX_NAME`.
    f64::from(u32::try_from(characters).unwrap_or(u32::MAX)) * CHARACTER_WIDTH + BOX_PADDING
}

fn polyline(points: &[Point]) -> String {
    let mut path = String::new();
    for (index, point) in points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        _ = write!(path, "{command}{:.0} {:.0}", point.x, point.y);
    }
    path
}
