// The drawing: nodes, edges and blocks as elements of SVG, which pans and zooms.

import { icon, svg } from "./elements.js";
import { placeLabels } from "./labels.js";

/** Scale below which the names in the boxes are too small to be read. */
const READABLE_SCALE = 0.62;
/** Space around everything when it is fitted, in pixels. */
const MARGIN = 28;
/** Number of nodes from which edges are drawn in a way that costs less. */
const MANY_NODES = 200;
/** Time after the last movement until everything is drawn again, in milliseconds. */
const REST = 150;

const { select, zoom, zoomIdentity } = window.d3;

/** The drawing of one graph. */
export class Canvas {
  /** `select` is called with the index of a node that the user has clicked, or with nothing. */
  constructor(root, onSelect) {
    this.root = root;
    this.view = root.querySelector("#view");
    this.labels = root.querySelector("#labels");
    this.transform = zoomIdentity;
    this.nodes = [];
    this.isFitted = true;
    this.size = { width: 0, height: 0 };
    this.zoom = zoom().scaleExtent([0.03, 3]).on("zoom", (event) => this.#moved(event));
    this.target = select(root);
    this.target.call(this.zoom).on("dblclick.zoom", null);
    root.addEventListener("click", (event) => {
      const node = event.target.closest(".node");
      onSelect(node ? Number(node.dataset.index) : undefined);
    });
    new ResizeObserver(() => this.#resized()).observe(root);
  }

  /** Draws a graph anywhere, replacing the last one. */
  draw(graph) {
    const focused = document.activeElement?.closest(".node")?.dataset.index;
    const name = focused === undefined ? undefined : this.graph.nodes[focused].name;
    this.graph = graph;
    this.emphasised = undefined;
    const { scene } = graph;
    this.root.classList.toggle("many", graph.nodes.length > MANY_NODES);
    this.nodes = graph.nodes.map((node, index) => this.#node(node, scene.nodes[index], index));
    this.edges = graph.edges.map((edge, index) =>
      svg("path", {
        class: `edge use-${edge.use} ${edge.isMain ? "" : "cross"}`,
        d: scene.edges[index],
      }));
    this.blocks = scene.blocks.map((block) => svg("g", { class: "block" },
      svg("path", { class: "edge use-Base", d: block.path }),
      svg("rect", { x: block.x, y: block.y, width: block.width, height: block.height, rx: 6 })));
    this.root.querySelector("#blocks").replaceChildren(...this.blocks);
    this.root.querySelector("#edges").replaceChildren(...this.edges);
    this.root.querySelector("#nodes").replaceChildren(...this.nodes);
    if (this.isFitted) this.fit(0);
    this.#labelled();
    if (graph.index.has(name)) this.focus(graph.index.get(name));
  }

  /** Shows the states of the same graph. */
  update(graph) {
    this.graph = graph;
    graph.nodes.forEach((node, index) => {
      const element = this.nodes[index];
      element.setAttribute("class", `node kind-${node.kind} ${drawnClass(graph, index)}`);
      element.setAttribute("aria-label", graph.description(index));
      element.querySelector("title").textContent = graph.description(index);
      element.querySelector("use")?.setAttribute("href", `#icon-${stateOf(node)}`);
    });
    this.#labelled();
  }

  /** Adds a class to the nodes of a set, and removes it from the others. */
  mark(name, members) {
    this.nodes.forEach((node, index) => {
      node.classList.toggle(name, members.has(index));
      if (name === "selected") node.setAttribute("aria-selected", String(members.has(index)));
    });
  }

  /** Emphasises the nodes of a set with the edges between them, and fades the rest. */
  emphasise(members) {
    const isShown = (index) => !members || members.has(index);
    this.emphasised = members;
    this.nodes.forEach((node, index) => node.classList.toggle("faded", !isShown(index)));
    this.edges.forEach((path, index) => {
      const { parentIndex, childIndex } = this.graph.edges[index];
      const isInside = isShown(parentIndex) && isShown(childIndex);
      path.classList.toggle("faded", !isInside);
      path.classList.toggle("strong", Boolean(members) && isInside);
    });
    this.blocks.forEach((block, index) => {
      const cells = this.graph.cellsOf(this.graph.scene.blocks[index].parent);
      const isInside = isShown(this.graph.scene.blocks[index].parent) && cells.some(isShown);
      block.classList.toggle("faded", !isInside);
      block.classList.toggle("strong", Boolean(members) && isInside);
    });
    this.#labelled();
  }

  /** Shows everything. */
  fit(time = 250) {
    const { scene } = this.graph ?? {};
    const { width, height } = this.size;
    if (!scene || scene.width === 0 || width === 0) return;
    const space = { width: width - 2 * MARGIN, height: height - 2 * MARGIN };
    const scale = Math.min(1.25, space.width / scene.width, space.height / scene.height);
    const left = (width - scene.width * scale) / 2;
    const top = (height - scene.height * scale) / 2;
    this.#go(zoomIdentity.translate(left, top).scale(scale), time);
    this.isFitted = true;
  }

  /** Zooms by a factor around the middle. */
  scaleBy(factor) {
    this.isFitted = false;
    this.#animated(200).call(this.zoom.scaleBy, factor);
  }

  /** Moves a node into view, with its name readable if asked to. */
  reveal(index, isReadable = false) {
    const box = this.graph.scene.nodes[index];
    const { width, height } = this.size;
    const scale = isReadable ? Math.max(this.transform.k, 0.8) : this.transform.k;
    const [x, y] = this.transform.apply([box.x + box.width / 2, box.y + box.height / 2]);
    const isInside = x > 60 && x < width - 60 && y > 40 && y < height - 40;
    if (isInside && scale === this.transform.k) return;
    const target = zoomIdentity
      .translate(width / 2, height / 2)
      .scale(scale)
      .translate(-box.x - box.width / 2, -box.y - box.height / 2);
    this.isFitted = false;
    this.#go(target, 250);
  }

  /** Moves the keyboard focus to a node. */
  focus(index) {
    this.nodes.forEach((node, other) => node.setAttribute("tabindex", other === index ? 0 : -1));
    this.nodes[index]?.focus({ preventScroll: true });
  }

  #go(transform, time) {
    this.#animated(time).call(this.zoom.transform, transform);
  }

  #animated(time) {
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    return time > 0 && !isCalm ? this.target.transition().duration(time) : this.target;
  }

  #moved(event) {
    this.transform = event.transform;
    if (event.sourceEvent) this.isFitted = false;
    this.view.setAttribute("transform", event.transform);
    this.root.classList.add("moving");
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.root.classList.remove("moving"), REST);
    this.#labelled();
  }

  #resized() {
    const { width, height } = this.root.getBoundingClientRect();
    this.size = { width, height };
    if (this.isFitted) this.fit(0);
    else this.#labelled();
  }

  #labelled() {
    if (!this.graph) return;
    const isFar = this.transform.k < READABLE_SCALE;
    this.root.classList.toggle("far", isFar);
    placeLabels(this.labels, isFar ? this.graph : undefined, {
      transform: this.transform,
      ...this.size,
      members: this.emphasised,
    });
  }

  #node(node, box, index) {
    const middle = box.height / 2;
    const radius = { Upstream: middle, External: middle, Workload: 1 }[node.kind] ?? 5;
    const hasState = Boolean(node.state);
    const badge = box.cell ? 11 : 0;
    const children = [
      svg("title", {}, this.graph.description(index)),
      svg("rect", { width: box.width, height: box.height, rx: radius }),
    ];
    if (hasState || node.kind === "Image") {
      children.push(
        svg("circle", { class: "badge", cx: badge, cy: middle, r: 7 }),
        icon(stateOf(node), { x: badge - 7, y: middle - 7, width: 14, height: 14 }),
      );
    }
    const text = box.cell
      ? svg("text", { x: 22, y: middle + 4 }, box.label)
      : svg("text", { x: box.width / 2 + 3, y: middle + 4, "text-anchor": "middle" }, box.label);
    return svg("g", {
      class: `node kind-${node.kind} ${drawnClass(this.graph, index)}`,
      transform: `translate(${box.x} ${box.y})`,
      role: "treeitem",
      tabindex: index === this.graph.firstIndex ? 0 : -1,
      "aria-label": this.graph.description(index),
      "aria-level": node.level + 1,
      "data-index": index,
    }, ...children, text);
  }
}

/** Returns the state that a node is drawn with. */
function stateOf(node) {
  return node.kind === "Image" ? node.state ?? "Waiting" : "Waiting";
}

function drawnClass(graph, index) {
  const node = graph.nodes[index];
  const cell = graph.scene.nodes[index].cell ? "cell" : "branch";
  return `state-${node.kind === "Image" ? node.state ?? "Unknown" : node.kind} ${cell}`;
}
