// The panel with the details of one node, in tabs.

import { html, short, stateMark } from "./elements.js";
import { KINDS } from "./graph.js";
import { history, impact, layers, log, overview, packages } from "./tabs.js";

const TABS = [
  { id: "overview", name: "Overview", show: overview, kinds: ["Image", ...Object.keys(KINDS)] },
  { id: "impact", name: "Impact", show: impact, kinds: ["Image", "Upstream", "External"] },
  { id: "history", name: "History", show: history, kinds: ["Image"] },
  { id: "layers", name: "Layers", show: layers, kinds: ["Image"], asks: "layers" },
  { id: "packages", name: "Packages", show: packages, kinds: ["Image"], asks: "packages" },
  { id: "log", name: "Log", show: log, kinds: ["Image"], asks: "log" },
];

/** Asks the server. The error of an answer is a sentence. */
export async function ask(what, node, signal) {
  const response = await fetch(`api/${what}?node=${encodeURIComponent(node)}`, { signal });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** The panel. */
export class Panel {
  /** `actions` has `select`, called with the name of a node, and `close`. */
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
    this.tab = "overview";
  }

  /** Shows a node with its details. */
  show(graph, index, details) {
    const isOther = this.name !== graph.nodes[index].name;
    this.name = graph.nodes[index].name;
    this.subject = { graph, index, node: graph.nodes[index], details };
    if (isOther) this.#frame();
    this.#head();
    this.#content(isOther);
    this.root.hidden = false;
  }

  /** Removes the panel. */
  hide() {
    this.name = undefined;
    this.request?.abort();
    this.root.hidden = true;
    this.root.replaceChildren();
  }

  /** Moves the keyboard focus into the panel. */
  focus() {
    this.root.focus();
  }

  #frame() {
    const { node } = this.subject;
    const shown = TABS.filter((tab) => tab.kinds.includes(node.kind));
    if (!shown.some((tab) => tab.id === this.tab)) this.tab = "overview";
    this.head = html("div", { class: "head" });
    this.tabs = shown.map((tab) => html("button", {
      type: "button",
      role: "tab",
      id: `tab-${tab.id}`,
      "aria-controls": "tab-content",
      onclick: () => this.#choose(tab.id),
    }, tab.name));
    const list = html("div", { role: "tablist", "aria-label": "Details", onkeydown: (event) =>
      this.#key(event) }, ...this.tabs);
    this.content = html("div", { id: "tab-content", role: "tabpanel", tabindex: 0 });
    this.root.replaceChildren(this.head, list, this.content);
    this.#mark();
  }

  #head() {
    const { node, details } = this.subject;
    const build = details.status?.build;
    const facts = [
      node.digest ? short(node.digest) : undefined,
      build === undefined ? undefined : `build ${build}`,
      `level ${node.level}`,
    ];
    this.head.replaceChildren(
      html("h2", { id: "panel-title" }, node.name),
      html("button", { type: "button", class: "close", "aria-label": "Close the details",
        title: "Close (Esc)", onclick: this.actions.close }, "×"),
      html("p", {},
        KINDS[node.kind] ?? (node.state ? stateMark(node.state) : "Nothing is recorded"),
        html("span", { class: "facts" }, facts.filter(Boolean).join(" · "))),
    );
  }

  #choose(id) {
    this.tab = id;
    this.#mark();
    this.#content(true);
  }

  #mark() {
    for (const tab of this.tabs) {
      const isChosen = tab.id === `tab-${this.tab}`;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.setAttribute("tabindex", isChosen ? 0 : -1);
    }
    this.content.setAttribute("aria-labelledby", `tab-${this.tab}`);
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const at = this.tabs.findIndex((tab) => tab.id === `tab-${this.tab}`);
    const next = this.tabs[(at + step + this.tabs.length) % this.tabs.length];
    next.click();
    next.focus();
    event.preventDefault();
  }

  /** Shows the content of the tab. What the registry or a pod says is asked for only then. */
  async #content(isNew) {
    const tab = TABS.find((one) => one.id === this.tab);
    const subject = this.subject;
    // Layers and packages of a digest do not change while they are read.
    if (!isNew && (tab.asks === "layers" || tab.asks === "packages")) return;
    this.request?.abort();
    if (!tab.asks) {
      this.content.replaceChildren(...tab.show(subject, this.actions.select));
      return;
    }
    this.request = new AbortController();
    const { signal } = this.request;
    if (isNew) {
      const source = tab.asks === "log" ? "cluster" : "registry";
      this.content.replaceChildren(html("p", { class: "quiet" }, `Asking the ${source} …`));
    }
    let shown;
    try {
      shown = tab.show({ ...subject, answer: await ask(tab.asks, subject.node.name, signal) });
    } catch (error) {
      shown = [html("p", { class: "failed" }, error.message)];
    }
    if (!signal.aborted) this.content.replaceChildren(...shown);
  }
}
