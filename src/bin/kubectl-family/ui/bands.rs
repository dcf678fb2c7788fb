//! The layout of a large graph: a tree along the bases that grows to the right. Images without
//! children that have the same base are the cells of a block, as many in a row as makes the whole
//! drawing as wide as a screen. What is built on an image has a band of its own, so that nothing
//! overlaps. Costs O(images + edges).

use std::collections::{BTreeMap, HashMap};

use crate::{
    estate_graph::{EstateGraph, GraphNode, NodeId},
    graph::layout::{BOX_HEIGHT, name, width},
    ui::scene::{GraphScene, SceneBlock, SceneNode, cell_label},
};

/// Width of a drawing over its height, as on a screen.
const ASPECT: f64 = 1.6;
/// Numbers of cells in a row that are tried.
const COLUMNS: [usize; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 40];
/// Minimum number of images without children that are a block.
const MIN_BLOCK: usize = 2;
/// Minimum and maximum space between levels.
const LEVEL_GAP: f64 = 64.0;
const MAX_LEVEL_GAP: f64 = 460.0;
/// Space between bands.
const BAND_GAP: f64 = 14.0;
/// Height of a cell.
const CELL_HEIGHT: f64 = 22.0;
/// Width of a character in a cell, and space inside of the cell at its left and right.
const CELL_CHARACTER: f64 = 6.4;
const CELL_PADDING: f64 = 28.0;
/// Space between cells.
const CELL_GAP: f64 = 4.0;
/// Space between the frame of a block and its cells.
const BLOCK_PADDING: f64 = 6.0;

/// Lays a graph out.
pub fn scene(graph: &EstateGraph) -> GraphScene {
    let bands = Bands::of(graph);
    let mut best: Option<GraphScene> = None;
    for columns in COLUMNS {
        let scene = bands.scene(graph, BandShape { columns, level_gap: LEVEL_GAP });
        // What is left of the width gives names and edges more space.
        let free = (scene.height * ASPECT - scene.width).max(0.0) / bands.levels();
        let level_gap = (LEVEL_GAP + free).min(MAX_LEVEL_GAP);
        let scene = bands.scene(graph, BandShape { columns, level_gap });
        // The smaller, the larger can it be shown.
        let size = |scene: &GraphScene| scene.width.max(scene.height * ASPECT);
        if best.as_ref().is_none_or(|best| size(&scene) < size(best)) {
            best = Some(scene);
        }
    }
    let mut scene = best.unwrap_or_default();
    scene.edges = edges(graph, &scene);
    scene
}

/// What is varied until the drawing has the shape of a screen.
#[derive(Clone, Copy, Debug)]
struct BandShape {
    /// Number of cells in a row.
    columns: usize,
    level_gap: f64,
}

/// The bands, each after that of its parent.
#[derive(Debug, Default)]
struct Bands(Vec<Band>);

/// A node that is no cell.
#[derive(Debug)]
struct Band {
    node: NodeId,
    /// Its distance from the root.
    depth: usize,
    /// The position of the parent's band.
    parent: Option<usize>,
    /// The cells of its block.
    cells: Vec<NodeId>,
}

impl Bands {
    fn of(graph: &EstateGraph) -> Self {
        let mut children: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        let mut stack = Vec::new();
        for (node, _) in graph.nodes() {
            match graph.main_parent(node) {
                Some(parent) => children.entry(parent.node).or_default().push(node),
                None => stack.push((node, 0, None)),
            }
        }
        stack.reverse();
        let mut bands = Self::default();
        while let Some((node, depth, parent)) = stack.pop() {
            let below = children.remove(&node).unwrap_or_default();
            let (mut cells, mut branches): (Vec<NodeId>, Vec<NodeId>) =
                below.into_iter().partition(|child| !children.contains_key(child));
            if cells.len() < MIN_BLOCK {
                branches.append(&mut cells);
            }
            let position = bands.0.len();
            let next = branches.into_iter().map(|branch| (branch, depth + 1, Some(position)));
            stack.extend(next.rev());
            bands.0.push(Band { node, depth, parent, cells });
        }
        bands
    }

    fn levels(&self) -> f64 {
        pixels(self.0.iter().map(|band| band.depth + 1).max().unwrap_or(1))
    }

    /// Returns the left of each depth.
    fn lefts(&self, graph: &EstateGraph, level_gap: f64) -> Vec<f64> {
        let mut widths: BTreeMap<usize, f64> = BTreeMap::new();
        for band in &self.0 {
            let own = graph.node(band.node).map_or(0.0, width);
            let widest = widths.entry(band.depth).or_default();
            *widest = widest.max(own);
        }
        let mut lefts = vec![0.0];
        let mut left = 0.0;
        for width in widths.into_values() {
            left += width + level_gap;
            lefts.push(left);
        }
        lefts
    }

    /// Returns the height of each band with this number of cells in a row.
    fn heights(&self, columns: usize) -> Vec<f64> {
        let mut heights = vec![0.0_f64; self.0.len()];
        for (position, band) in self.0.iter().enumerate().rev() {
            let gap = if band.cells.is_empty() { 0.0 } else { BAND_GAP };
            let block = BlockSize::of(band.cells.len(), columns).height;
            let below = heights.get(position).copied().unwrap_or_default();
            // Every child has added a gap, which the last one does not need.
            let content = (below + block + gap - BAND_GAP).max(BOX_HEIGHT);
            if let Some(height) = heights.get_mut(position) {
                *height = content;
            }
            if let Some(parent) = band.parent.and_then(|parent| heights.get_mut(parent)) {
                *parent += content + BAND_GAP;
            }
        }
        heights
    }

    fn scene(&self, graph: &EstateGraph, shape: BandShape) -> GraphScene {
        let columns = shape.columns;
        let mut nodes: Vec<SceneNode> = graph.nodes().map(|(_, node)| branch_box(node)).collect();
        let mut blocks = Vec::new();
        let (lefts, heights) = (self.lefts(graph, shape.level_gap), self.heights(columns));
        // Where the next child of each band begins.
        let mut next_tops = vec![0.0_f64; self.0.len()];
        let (mut next_root, mut right) = (0.0, 0.0_f64);
        for (position, (band, height)) in self.0.iter().zip(&heights).enumerate() {
            let above = match band.parent {
                Some(parent) => next_tops.get_mut(parent),
                None => Some(&mut next_root),
            };
            let Some(above) = above else { continue };
            let top = *above;
            *above += height + BAND_GAP;
            let left = lefts.get(band.depth).copied().unwrap_or_default();
            let Some(own) = nodes.get_mut(band.node.0) else { continue };
            (own.x, own.y) = (left, top + (height - BOX_HEIGHT) / 2.0);
            right = right.max(own.x + own.width);
            let mut below = top;
            if !band.cells.is_empty() {
                let left = lefts.get(band.depth + 1).copied().unwrap_or_default();
                let block = BlockSize::of(band.cells.len(), columns);
                let frame = block.place(band, &mut nodes, left, top);
                below += frame.height + BAND_GAP;
                right = right.max(frame.x + frame.width);
                blocks.push(frame);
            }
            if let Some(next) = next_tops.get_mut(position) {
                *next = below;
            }
        }
        let height = (next_root - BAND_GAP).max(0.0);
        GraphScene { width: right, height, nodes, edges: Vec::new(), blocks }
    }
}

fn branch_box(node: &GraphNode) -> SceneNode {
    let (width, label) = (width(node), name(node));
    SceneNode { width, height: BOX_HEIGHT, label, ..SceneNode::default() }
}

/// The size of a block.
#[derive(Clone, Copy, Debug)]
struct BlockSize {
    columns: usize,
    height: f64,
}

impl BlockSize {
    fn of(cells: usize, columns: usize) -> Self {
        let columns = columns.min(cells).max(1);
        let rows = pixels(cells.div_ceil(columns));
        let height = rows * (CELL_HEIGHT + CELL_GAP) - CELL_GAP + 2.0 * BLOCK_PADDING;
        Self { columns, height: if cells == 0 { 0.0 } else { height } }
    }

    /// Places the cells of a band, and returns their frame.
    fn place(self, band: &Band, nodes: &mut [SceneNode], left: f64, top: f64) -> SceneBlock {
        let labels =
            band.cells.iter().filter_map(|cell| Some(cell_label(&nodes.get(cell.0)?.label)));
        let labels: Vec<String> = labels.collect();
        let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or_default();
        let width = pixels(longest) * CELL_CHARACTER + CELL_PADDING;
        for (position, (cell, label)) in band.cells.iter().zip(labels).enumerate() {
            let column = pixels(position % self.columns);
            let row = pixels(position / self.columns);
            let placed = SceneNode {
                x: left + BLOCK_PADDING + column * (width + CELL_GAP),
                y: top + BLOCK_PADDING + row * (CELL_HEIGHT + CELL_GAP),
                width,
                height: CELL_HEIGHT,
                label,
                cell: true,
            };
            if let Some(node) = nodes.get_mut(cell.0) {
                *node = placed;
            }
        }
        let path = nodes.get(band.node.0).map(|base| base.path_to(left, top + self.height / 2.0));
        SceneBlock {
            x: left,
            y: top,
            width: pixels(self.columns) * (width + CELL_GAP) - CELL_GAP + 2.0 * BLOCK_PADDING,
            height: self.height,
            parent: band.node.0,
            path: path.unwrap_or_default(),
        }
    }
}

/// Returns the path of every edge. The frame of a block has the edge of its cells.
fn edges(graph: &EstateGraph, scene: &GraphScene) -> Vec<String> {
    let mut paths = Vec::new();
    for (child, _) in graph.nodes() {
        let main = graph.main_parent(child);
        for edge in graph.parents(child) {
            let ends = scene.nodes.get(edge.node.0).zip(scene.nodes.get(child.0));
            let path = ends.map(|(parent, child)| {
                if child.cell && Some(*edge) == main {
                    return String::new();
                }
                parent.path_to(child.x, child.y + child.height / 2.0)
            });
            paths.push(path.unwrap_or_default());
        }
    }
    paths
}

/// Returns a count as a length. A graph has far fewer nodes than 2³².
fn pixels(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::fixtures::{estate, layered_family};

    fn overlap(a: &SceneNode, b: &SceneNode) -> bool {
        a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
    }

    #[test]
    fn nothing_overlaps_and_the_drawing_has_the_shape_of_a_screen() {
        let estate = estate(&layered_family(600));
        let graph = EstateGraph::of(&estate).expect("a graph");
        let scene = scene(&graph);
        assert_eq!(scene.nodes.len(), graph.nodes().count());
        for (position, node) in scene.nodes.iter().enumerate() {
            assert!(node.x >= 0.0 && node.x + node.width <= scene.width, "{node:?}");
            assert!(node.y >= 0.0 && node.y + node.height <= scene.height, "{node:?}");
            let others = scene.nodes.iter().skip(position + 1);
            let overlapping: Vec<&SceneNode> =
                others.filter(|other| overlap(node, other)).collect();
            assert!(overlapping.is_empty(), "{node:?} {overlapping:?}");
        }
        let aspect = scene.width / scene.height;
        assert!((0.7..2.8).contains(&aspect), "{aspect}");
        assert!(scene.blocks.len() > 50, "{}", scene.blocks.len());
    }

    #[test]
    fn every_edge_has_a_path_or_a_block() {
        let estate = estate(&layered_family(200));
        let graph = EstateGraph::of(&estate).expect("a graph");
        let scene = scene(&graph);
        let edges = graph.nodes().map(|(node, _)| graph.parents(node).len()).sum::<usize>();
        let empty = scene.edges.iter().filter(|path| path.is_empty()).count();
        assert_eq!(scene.edges.len(), edges);
        assert_eq!(empty, scene.nodes.iter().filter(|node| node.cell).count());
    }
}
