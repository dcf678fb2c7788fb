// The page: it follows the snapshots of the server, and shows what the user selects.

import { Canvas } from "./canvas.js";
import { count } from "./elements.js";
import { Graph } from "./graph.js";
import { listen, neighbour } from "./keyboard.js";
import { Panel, ask } from "./panel.js";
import { Summary } from "./summary.js";

const root = document.querySelector("#graph");
const search = document.querySelector("#search");
const matches = document.querySelector("#matches");
const help = document.querySelector("#help");

/** What is shown. `selected` is the name of a node, `details` what is known of it. */
const page = { graph: undefined, selected: undefined, details: undefined, cascade: undefined };

const canvas = new Canvas(root, (index) => {
  if (index === undefined) close();
  else select(index);
});
const panel = new Panel(document.querySelector("#panel"), {
  select: (name) => select(page.graph.index.get(name)),
  close,
});
const summary = new Summary(emphasise, (cascade) => {
  page.cascade = page.cascade === cascade.name ? undefined : cascade.name;
  page.cascadeNodes = cascade.nodes;
  emphasise();
});

/** Shows a snapshot. What is the same stays where it is. */
function show(state) {
  const graph = new Graph(state);
  const isSame = graph.isDrawnAs(page.graph);
  page.graph = graph;
  page.cascadeNodes = state.cascades.find((one) => one.name === page.cascade)?.nodes;
  if (!isSame) canvas.draw(graph);
  canvas.update(graph);
  summary.show(state, graph);
  root.dataset.version = state.version;
  if (page.selected !== undefined) refresh();
  emphasise();
}

/** Selects a node: its details, what it is built on, and what its move would reach. */
async function select(index) {
  if (index === undefined) return;
  page.selected = page.graph.nodes[index].name;
  page.details = undefined;
  canvas.focus(index);
  await refresh();
  const now = page.graph.index.get(page.selected);
  if (now !== undefined) canvas.reveal(now);
}

/** Asks for the details of what is selected. */
async function refresh() {
  const name = page.selected;
  const index = page.graph.index.get(name);
  if (index === undefined) {
    close();
    return;
  }
  let details;
  try {
    details = await ask("details", name);
  } catch {
    // The next snapshot asks again, or says that the server is lost.
    return;
  }
  if (page.selected !== name) return;
  page.details = details;
  panel.show(page.graph, page.graph.index.get(name), details);
  emphasise();
}

/** Closes the details, and shows everything again. */
function close() {
  const index = page.graph?.index.get(page.selected);
  const hadFocus = document.querySelector("#panel").contains(document.activeElement);
  page.selected = undefined;
  page.details = undefined;
  page.cascade = undefined;
  search.value = "";
  panel.hide();
  emphasise();
  if (index !== undefined && hadFocus) canvas.focus(index);
}

/** Emphasises what is selected or searched for, with what belongs to it. */
function emphasise() {
  const { graph } = page;
  if (!graph) return;
  const indices = (names) => new Set((names ?? []).map((name) => graph.index.get(name)));
  const moved = page.details?.impact;
  const selected = indices(page.selected === undefined ? [] : [page.selected]);
  const ancestors = new Set([...selected].flatMap((index) => [...graph.ancestors(index)]));
  const reached = indices([...(moved?.images ?? []).map((image) => image.name),
    ...(moved?.workloads ?? [])]);
  canvas.mark("selected", selected);
  canvas.mark("ancestor", ancestors);
  canvas.mark("reached", reached);
  canvas.mark("critical", indices(moved?.criticalPath));
  canvas.emphasise(found() ?? (selected.size > 0
    ? new Set([...selected, ...ancestors, ...reached])
    : cascade()));
}

/** Returns what the search and the chosen states leave; nothing if there are neither. */
function found() {
  const { graph } = page;
  const text = search.value.trim().toLowerCase();
  const states = summary.chosen;
  matches.textContent = "";
  if (text === "" && states.size === 0) return undefined;
  const members = graph.nodes.map((_, index) => index).filter((index) => {
    const { name, state, kind } = graph.nodes[index];
    const hasState = states.size === 0 || (kind === "Image" && states.has(state));
    return hasState && name.toLowerCase().includes(text);
  });
  matches.textContent = `${count(members.length, "match").replace("matchs", "matches")}`;
  return new Set(members);
}

/** Returns the nodes of the cascade that the user has chosen. */
function cascade() {
  if (page.cascade === undefined || !page.cascadeNodes) return undefined;
  return new Set(page.cascadeNodes.map((name) => page.graph.index.get(name)));
}

function nextMatch() {
  const members = [...(found() ?? [])].sort((a, b) => a - b);
  const at = members.indexOf(page.match);
  page.match = members[(at + 1) % members.length];
  if (page.match !== undefined) canvas.reveal(page.match, true);
  return page.match;
}

search.addEventListener("input", () => {
  page.match = undefined;
  emphasise();
});
search.addEventListener("keydown", (event) => {
  if (event.key === "Enter") nextMatch();
  if (event.key === "ArrowDown") canvas.focus(page.match ?? nextMatch() ?? page.graph.firstIndex);
});

const actions = {
  move(index, key) {
    const next = neighbour(page.graph, index, key);
    if (next === undefined) return;
    canvas.focus(next);
    canvas.reveal(next);
  },
  async select(index) {
    await select(index);
    panel.focus();
  },
  first() {
    canvas.focus(page.graph.firstIndex);
    canvas.reveal(page.graph.firstIndex);
  },
  close,
  search: () => search.select(),
  zoomIn: () => canvas.scaleBy(1.4),
  zoomOut: () => canvas.scaleBy(1 / 1.4),
  fit: () => canvas.fit(),
  help: () => help.showModal(),
};
listen(root, actions);
document.querySelector("#zoom-in").addEventListener("click", actions.zoomIn);
document.querySelector("#zoom-out").addEventListener("click", actions.zoomOut);
document.querySelector("#fit").addEventListener("click", actions.fit);
document.querySelector("#help-button").addEventListener("click", actions.help);

/** Follows the server. While a snapshot is read, only the newest of the next ones is kept. */
function follow() {
  const events = new EventSource("api/events");
  let isReading = false;
  let isOutdated = false;
  async function read() {
    isOutdated = true;
    if (isReading) return;
    isReading = true;
    while (isOutdated) {
      isOutdated = false;
      try {
        const response = await fetch("api/state");
        show(await response.json());
      } catch {
        summary.lost();
      }
    }
    isReading = false;
  }
  events.addEventListener("snapshot", read);
  events.addEventListener("error", () => summary.lost());
}

follow();
