//! `kubectl family graph`: the lineage of all families, or of one image, as a tree for the terminal
//! and as input for other programs.
//!
//! - `tree`: text that folds what does not fit
//! - `drawings`: DOT and Mermaid
//! - [`layout`]: where nodes and edges are drawn
//! - `svg`: a drawing with that layout
//! - `document`: JSON

mod document;
mod drawings;
pub mod layout;
mod svg;
mod tree;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::{
    estate_graph::{Direction, EstateGraph, GraphNodeKind, NodeId},
    input::{Estate, InputArguments, target::TargetName},
    output::{self, Document, Outcome, Terminal},
};

pub use document::GraphDocument;

const EXAMPLES: &str = "Examples:
  # All families of the namespace, folded to the height of the terminal
  kubectl family graph
  # What app is built on, and what is built on it, from a file
  kubectl family graph app -f family.yaml
  # Two levels below every base, as a drawing
  kubectl family graph -A --depth 2 -o svg > images.svg
  # The output of Kustomize as a diagram for a Markdown document
  kubectl kustomize . | kubectl family graph -f - -o mermaid";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct GraphArguments {
    /// Show only this image or upstream, with its ancestors and descendants: NAME, FAMILY/NAME,
    /// NAMESPACE/FAMILY/NAME, upstream.NAME, or a reference
    image: Option<TargetName>,
    /// With an image: whether to show what it is built on, what is built on it, or both
    #[arg(long, value_enum, default_value_t, requires = "image")]
    direction: ShownDirection,
    /// Show the whole graph, and fold everything that does not lead to this image. May be repeated
    #[arg(long, value_name = "IMAGE", conflicts_with = "image")]
    focus: Vec<TargetName>,
    /// Maximum number of levels: above and below the image if one is named, or else below the
    /// upstreams
    #[arg(long, value_name = "LEVELS")]
    depth: Option<usize>,
    /// Leave out the workloads that are updated to the images
    #[arg(long)]
    no_workloads: bool,
    /// Maximum number of lines of the tree. What does not fit is folded. 0 folds nothing. Defaults
    /// to the height of the terminal, and to 0 without one
    #[arg(long, value_name = "LINES")]
    lines: Option<usize>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: GraphFormat,
    #[command(flatten)]
    input: InputArguments,
}

/// Which part of the lineage of an image is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ShownDirection {
    /// Ancestors and descendants
    #[default]
    Both,
    /// What the image is built on
    Ancestors,
    /// What is built on the image
    Descendants,
}

/// Format of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum GraphFormat {
    /// A tree of text
    #[default]
    Tree,
    /// A graph for Graphviz
    Dot,
    /// A diagram for Markdown documents
    Mermaid,
    /// A drawing
    Svg,
    /// A JSON object, described by docs/reference/plugin/graph.schema.json
    Json,
}

pub async fn run(arguments: GraphArguments) -> anyhow::Result<Outcome> {
    arguments.check()?;
    let estate = Estate::read(&arguments.input).await?;
    let graph = arguments.selected(&estate, EstateGraph::of(&estate)?)?;
    let text = match arguments.output {
        GraphFormat::Tree => {
            let terminal = Terminal::of_stdout();
            let focus = arguments.focused(&estate, &graph)?;
            let limits =
                tree::TreeLimits { lines: arguments.lines(terminal), width: terminal.width };
            tree::render(&graph, &focus, limits)
        }
        GraphFormat::Dot => drawings::dot(&graph),
        GraphFormat::Mermaid => drawings::mermaid(&graph),
        GraphFormat::Svg => svg::render(&graph)?,
        GraphFormat::Json => Document::new("Graph", &GraphDocument::of(&estate, &graph)).json()?,
    };
    output::write(&text)?;
    Ok(Outcome::Fine)
}

impl GraphArguments {
    /// Returns the part of the graph that is shown.
    fn selected(&self, estate: &Estate, graph: EstateGraph) -> anyhow::Result<EstateGraph> {
        let count = graph.nodes().count();
        let mut mask = vec![true; count];
        if let Some(name) = &self.image {
            let Some(node) = graph.target(&name.find(estate)?) else {
                bail!("nothing is built on {name}");
            };
            mask = self.lineage(&graph, node);
        }
        // The levels of an image are counted from it.
        let depth = self.depth.filter(|_| self.image.is_none());
        for (node, content) in graph.nodes() {
            let is_hidden = self.no_workloads && content.kind == GraphNodeKind::Workload
                || depth.is_some_and(|depth| content.level > depth);
            if let Some(shown) = mask.get_mut(node.0) {
                *shown &= !is_hidden;
            }
        }
        Ok(graph.only(&mask))
    }

    /// Rejects flags that the format does not use.
    fn check(&self) -> anyhow::Result<()> {
        if self.output != GraphFormat::Tree && !self.focus.is_empty() {
            bail!("--focus folds the tree; leave it out, or leave out --output");
        }
        if self.output != GraphFormat::Tree && self.lines.is_some() {
            bail!("--lines folds the tree; leave it out, or leave out --output");
        }
        Ok(())
    }

    fn lineage(&self, graph: &EstateGraph, node: NodeId) -> Vec<bool> {
        let edges = self.depth.unwrap_or(usize::MAX);
        let ancestors = graph.reach(node, Direction::Ancestors, edges);
        let descendants = graph.reach(node, Direction::Descendants, edges);
        match self.direction {
            ShownDirection::Ancestors => ancestors,
            ShownDirection::Descendants => descendants,
            ShownDirection::Both => {
                ancestors.iter().zip(&descendants).map(|(above, below)| *above || *below).collect()
            }
        }
    }

    /// Returns what is in focus.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not exist or is not shown.
    fn focused(&self, estate: &Estate, graph: &EstateGraph) -> anyhow::Result<Vec<NodeId>> {
        let nodes = self.focus.iter().map(|name| {
            let node = graph.target(&name.find(estate)?);
            node.with_context(|| match self.depth {
                Some(depth) => format!("{name} is below level {depth}; set a larger --depth"),
                None => format!("nothing is built on {name}; leave out its --focus"),
            })
        });
        nodes.collect()
    }

    /// Returns the number of lines to which the tree is folded.
    fn lines(&self, terminal: Terminal) -> Option<usize> {
        match self.lines {
            Some(0) => None,
            Some(lines) => Some(lines),
            // One line is left for the prompt.
            None => terminal.height.map(|height| usize::from(height).saturating_sub(1).max(1)),
        }
    }
}
