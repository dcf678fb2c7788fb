// The keyboard: arrows go from node to node, and single keys do what the buttons do.

/** What is the case in a direction: how far a point is along it, and how far off. */
const DIRECTIONS = {
  ArrowUp: ({ x, y }) => ({ along: -y, across: Math.abs(x) }),
  ArrowDown: ({ x, y }) => ({ along: y, across: Math.abs(x) }),
  ArrowLeft: ({ x, y }) => ({ along: -x, across: Math.abs(y) }),
  ArrowRight: ({ x, y }) => ({ along: x, across: Math.abs(y) }),
};

/** Returns the node to which an arrow goes from a node; nothing if there is none. */
export function neighbour(graph, from, key) {
  const isCell = graph.scene.nodes[from].cell;
  const parent = graph.mainParent(from);
  const siblings = isCell ? graph.cellsOf(parent) : [];
  const inBlock = nearest(graph, from, key, siblings, 0.5);
  if (inBlock !== undefined) return inBlock;
  if (key === "ArrowLeft") return parent;
  if (key === "ArrowRight") {
    const children = graph.children[from].map((edge) => edge.index);
    return nearest(graph, from, key, children, Infinity);
  }
  return nearest(graph, from, key, graph.nodes.map((_, index) => index), 1.2);
}

/** Returns the nearest of the candidates in a direction, at most so far off it. */
function nearest(graph, from, key, candidates, slope) {
  const middle = (index) => {
    const box = graph.scene.nodes[index];
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  };
  const start = middle(from);
  let best;
  for (const candidate of candidates) {
    const end = middle(candidate);
    const { along, across } = DIRECTIONS[key]({ x: end.x - start.x, y: end.y - start.y });
    const cost = along + 2 * across;
    if (along <= 1 || across > along * slope || cost >= (best?.cost ?? Infinity)) continue;
    best = { candidate, cost };
  }
  return best?.candidate;
}

/** Listens to the keys of the page. `actions` has a function for each. */
export function listen(root, actions) {
  root.addEventListener("keydown", (event) => {
    const node = event.target.closest(".node");
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Number(node.dataset.index);
    if (event.key in DIRECTIONS) actions.move(index, event.key);
    else if (event.key === "Enter" || event.key === " ") actions.select(index);
    else if (event.key === "Home") actions.first();
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) {
      return;
    }
    if (event.key === "Escape") actions.close();
    if (event.target.closest("input, textarea, select")) return;
    const action = { "/": "search", "+": "zoomIn", "=": "zoomIn", "-": "zoomOut", 0: "fit",
      "?": "help" }[event.key];
    if (!action) return;
    actions[action]();
    event.preventDefault();
  });
}
