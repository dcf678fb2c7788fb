//! The graph as input of other programs: DOT for Graphviz, and Mermaid for Markdown documents.

use std::fmt::Write as _;

use groundswell::terminal::printable;

use crate::{
    estate_graph::{EdgeKind, EstateGraph, GraphNode, GraphNodeKind},
    output::colours,
};

/// Renders the graph in the language of Graphviz.
pub fn dot(graph: &EstateGraph) -> String {
    let mut text = String::from(
        "digraph images {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", \
         fontname=\"sans-serif\"];\n",
    );
    for (id, node) in graph.nodes() {
        // Writing to a String never fails.
        _ = writeln!(
            text,
            "  n{} [label=\"{}\", fillcolor=\"{}\"{}];",
            id.0,
            dot_text(&label(node)),
            colours::fill_of_state(node.state),
            shape(node.kind)
        );
    }
    for (id, _) in graph.nodes() {
        for edge in graph.parents(id) {
            _ = writeln!(text, "  n{} -> n{}{};", edge.node.0, id.0, dot_style(edge.kind));
        }
    }
    text + "}\n"
}

/// Renders the graph in the language of Mermaid.
pub fn mermaid(graph: &EstateGraph) -> String {
    let mut text = String::from("flowchart LR\n");
    for (id, node) in graph.nodes() {
        let label = mermaid_text(&label(node));
        let shown = match node.kind {
            GraphNodeKind::Upstream | GraphNodeKind::External => format!("([\"{label}\"])"),
            GraphNodeKind::Image => format!("[\"{label}\"]"),
            GraphNodeKind::Workload => format!("{{{{\"{label}\"}}}}"),
        };
        _ = writeln!(text, "  n{}{shown}", id.0);
    }
    for (id, _) in graph.nodes() {
        for edge in graph.parents(id) {
            let arrow = match edge.kind {
                EdgeKind::Base => "-->",
                EdgeKind::BuildStage => "-.->",
                EdgeKind::Rollout => "==>",
            };
            _ = writeln!(text, "  n{} {arrow} n{}", edge.node.0, id.0);
        }
    }
    for (id, node) in graph.nodes().filter(|(_, node)| node.state.is_some()) {
        let fill = colours::fill_of_state(node.state);
        _ = writeln!(text, "  style n{} fill:{fill},color:#000", id.0);
    }
    text
}

/// Returns what is written into the box of a node.
pub fn label(node: &GraphNode) -> String {
    let name = printable(&node.name).replace('\n', " ");
    match node.state {
        Some(state) => format!("{name}\n{}", state.as_str()),
        None => name,
    }
}

const fn shape(kind: GraphNodeKind) -> &'static str {
    match kind {
        GraphNodeKind::Upstream | GraphNodeKind::External => ", shape=ellipse",
        GraphNodeKind::Image => "",
        GraphNodeKind::Workload => ", shape=hexagon",
    }
}

const fn dot_style(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::Base => "",
        EdgeKind::BuildStage => " [style=dashed]",
        EdgeKind::Rollout => " [style=bold]",
    }
}

fn dot_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Escapes a label: Mermaid reads entities, and Markdown renderers read tags.
fn mermaid_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("<br>"),
            '"' | '<' | '>' | '&' | '#' | '`' | '\\' => {
                _ = write!(escaped, "#{};", u32::from(character));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_leave_their_quotes() {
        assert_eq!(dot_text("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(mermaid_text("a\"<b>#;\nc"), "a#34;#60;b#62;#35;;<br>c");
    }
}
