//! The graph as a drawing. The layout is that of the library `graphlay`: layers for a small graph,
//! and a tidy tree along the bases for a large one, which stays legible and takes milliseconds for
//! 10,000 images. Other edges of a large graph are drawn as curves across the tree.

use std::fmt::Write as _;

use anyhow::Context as _;
use graphlay::{
    Effort, Graph, GraphBuilder, Layout, LayoutOptions, Node, Placement, Point, Size, TreeOptions,
    layout, tree,
};

use groundswell::api::condition::shorten;

use crate::{
    estate_graph::{EdgeKind, EstateGraph, GraphNode, GraphNodeKind, NodeId},
    graph::drawings::label,
    output::colours,
};

/// Maximum number of nodes that are drawn in layers, which takes longer than a tree.
const MAX_LAYERED: usize = 120;
/// Height of a box in pixels.
const BOX_HEIGHT: f64 = 34.0;
/// Width of a character in pixels.
const CHARACTER_WIDTH: f64 = 7.2;
/// Space inside of a box, at its left and right, in pixels.
const BOX_PADDING: f64 = 22.0;
/// Maximum number of characters of a name in a box.
const MAX_NAME: usize = 48;
/// Minimum number of characters for which a box has space.
const MIN_NAME: usize = 8;
/// How edges and texts are drawn. The text is dark and the boxes are light, so that the drawing can
/// be read on a light and on a dark page.
const STYLE: &str = "<style>\
path{fill:none;stroke:#78909c;stroke-width:1.4}\
.stage{stroke-dasharray:5 4}\
.rollout{stroke-width:2.6}\
rect{stroke:#546e7a;stroke-width:1}\
text{font:12px sans-serif;fill:#102027;text-anchor:middle}\
</style>";
/// Space around the drawing in pixels.
const MARGIN: f64 = 20.0;
/// Space between the boxes of siblings in pixels.
const SIBLING_GAP: f64 = 10.0;
/// Space between levels in pixels.
const LEVEL_GAP: f64 = 90.0;

/// An edge of the drawing.
struct DrawnEdge {
    parent: NodeId,
    child: NodeId,
    kind: EdgeKind,
}

/// The edges of the drawing, and the layout: of all of them, or of the tree alone.
struct Drawing {
    /// The edges in the order of the layout's routes. Those behind the last route are curves.
    edges: Vec<DrawnEdge>,
    layout: Layout,
}

/// Renders the graph.
///
/// # Errors
///
/// Returns the error of the layout, which takes every graph without circles.
pub fn render(graph: &EstateGraph) -> anyhow::Result<String> {
    let drawing = Drawing::of(graph)?;
    let mut text = header(&drawing.layout);
    for (index, edge) in drawing.edges.iter().enumerate() {
        let route = drawing.layout.edges.get(index).map(|route| polyline(&route.points));
        let Some(path) = route.or_else(|| drawing.curve(edge)) else { continue };
        let class = match edge.kind {
            EdgeKind::Base => "base",
            EdgeKind::BuildStage => "stage",
            EdgeKind::Rollout => "rollout",
        };
        // Writing to a String never fails.
        _ = writeln!(text, "<path class=\"{class}\" d=\"{path}\"/>");
    }
    for ((_, node), placed) in graph.nodes().zip(&drawing.layout.nodes) {
        write_box(&mut text, node, placed);
    }
    Ok(text + "</svg>\n")
}

impl Drawing {
    fn of(graph: &EstateGraph) -> anyhow::Result<Self> {
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

fn name(node: &GraphNode) -> String {
    shorten(label(node).lines().next().unwrap_or_default(), MAX_NAME)
}

fn width(node: &GraphNode) -> f64 {
    let characters = name(node).chars().count().max(MIN_NAME);
    // At most `MAX_NAME`.
    f64::from(u32::try_from(characters).unwrap_or(u32::MAX)) * CHARACTER_WIDTH + BOX_PADDING
}

fn header(layout: &Layout) -> String {
    let bounds = layout.bounds;
    let (x, y) = (bounds.min.x - MARGIN, bounds.min.y - MARGIN);
    let width = bounds.max.x - bounds.min.x + 2.0 * MARGIN;
    let height = bounds.max.y - bounds.min.y + 2.0 * MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"{x:.0} {y:.0} {width:.0} {height:.0}\" role=\"img\">\n\
         <title>Lineage of container images</title>\n{STYLE}\n"
    )
}

fn polyline(points: &[Point]) -> String {
    let mut path = String::new();
    for (index, point) in points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        _ = write!(path, "{command}{:.0} {:.0}", point.x, point.y);
    }
    path
}

fn write_box(text: &mut String, node: &GraphNode, placed: &Placement) {
    let (width, height) = (placed.size.width, placed.size.height);
    let (x, y) = (placed.center.x - width / 2.0, placed.center.y - height / 2.0);
    let fill = colours::fill_of_state(node.state);
    let radius = match node.kind {
        GraphNodeKind::Upstream | GraphNodeKind::External => BOX_HEIGHT / 2.0,
        GraphNodeKind::Image => 4.0,
        GraphNodeKind::Workload => 0.0,
    };
    let full = escape(&label(node).replace('\n', ": "));
    _ = writeln!(
        text,
        "<g><title>{full}</title><rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" rx=\"{radius:.0}\" fill=\"{fill}\"/>\
         <text x=\"{:.0}\" y=\"{:.0}\">{}</text></g>",
        placed.center.x,
        placed.center.y + 4.0,
        escape(&name(node))
    );
}

/// Escapes a text that has no control characters any more. XML has neither U+FFFE nor U+FFFF, not
/// even as a reference.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.extend(character.escape_unicode()),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
        assert_eq!(escape("a\u{fffe}b\u{ffff}"), "a\\u{fffe}b\\u{ffff}");
    }
}
