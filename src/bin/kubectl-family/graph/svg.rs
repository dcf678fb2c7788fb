//! The graph as a drawing, with the layout of `layout`.

use std::fmt::Write as _;

use graphlay::{Layout, Placement};

use crate::{
    estate_graph::{EdgeKind, EstateGraph, GraphNode, GraphNodeKind},
    graph::{
        drawings::label,
        layout::{BOX_HEIGHT, Drawing, name},
    },
    output::colours,
};

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

/// Renders the graph.
///
/// # Errors
///
/// Returns the error of the layout, which takes every graph without circles.
pub fn render(graph: &EstateGraph) -> anyhow::Result<String> {
    let drawing = Drawing::of(graph)?;
    let mut text = header(&drawing.layout);
    for (index, edge) in drawing.edges.iter().enumerate() {
        let Some(path) = drawing.path(index) else { continue };
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
