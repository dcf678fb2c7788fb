// Names over a drawing that is too small to be read, as on a map: as many as fit without touching
// each other, the most important ones first.

import { svg } from "./elements.js";

/** Width of a character and height of a line, in pixels. */
const CHARACTER = 7.6;
const LINE = 15;

/** States that are named before others. Cells are named only if they have failed. */
const URGENT = { Failed: 3, Building: 2, Checking: 2, Blocked: 1 };

/**
 * Writes the names into a group of the drawing; without a graph, removes them. `area` has the
 * transform of the drawing, its size, and the members of what is emphasised.
 */
export function placeLabels(group, graph, area) {
  if (!graph) {
    group.replaceChildren();
    return;
  }
  const placed = [];
  const texts = [];
  for (const index of byImportance(graph, area.members)) {
    const box = graph.scene.nodes[index];
    // The end of a reference says enough.
    const name = graph.nodes[index].kind === "Image" ? box.label : box.label.replace(/^.*\//, "");
    const [x, y] = area.transform.apply([box.x + box.width, box.y + box.height / 2]);
    const label = {
      left: x + 4,
      right: x + 4 + name.length * CHARACTER,
      top: y - LINE / 2,
      bottom: y + LINE / 2,
    };
    const isVisible = label.left < area.width && label.right > 0
      && label.bottom > 0 && label.top < area.height;
    if (!isVisible || placed.some((other) => touches(label, other))) continue;
    placed.push(label);
    texts.push(svg("text", { x: label.left, y: y + 4 }, name));
  }
  group.replaceChildren(...texts);
}

function touches(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/** Returns the nodes that may be named, the most important one first. */
function byImportance(graph, members) {
  const importance = (index) => {
    const node = graph.nodes[index];
    return (URGENT[node.state] ?? 0) * 1e6 + graph.weight[index];
  };
  const indices = graph.nodes.map((_, index) => index);
  const named = indices.filter((index) => {
    if (members && !members.has(index)) return false;
    return !graph.scene.nodes[index].cell || graph.nodes[index].state === "Failed";
  });
  return named.sort((a, b) => importance(b) - importance(a));
}
