// What is said of all images: how many are in each state, which cascades run, what is wrong.

import { age, count, html, stateMark } from "./elements.js";

/** The states in the order in which they are shown. */
const ORDER = ["Failed", "Blocked", "Building", "Checking", "Queued", "Waiting", "Held", "Current"];

/** The head of the page. */
export class Summary {
  /** `onStates` gets the states that the user has chosen, `onCascade` a cascade. */
  constructor(onStates, onCascade) {
    this.chosen = new Set();
    this.onStates = onStates;
    this.onCascade = onCascade;
  }

  /** Shows a snapshot. */
  show(state, graph) {
    this.#title(state, graph);
    this.#states(graph.counts());
    this.#cascades(state.cascades);
    this.#problem(state);
    const connection = document.querySelector("#connection");
    connection.textContent = state.isLive ? "live" : "files";
    connection.className = state.isLive ? "live" : "";
    connection.title = state.isLive ? "Changes are shown at once" : "Read once, at the start";
  }

  /** Says that the server does not answer. */
  lost() {
    const connection = document.querySelector("#connection");
    connection.textContent = "stopped";
    connection.className = "lost";
    connection.title = "The command does not run any more: what is shown may be outdated";
  }

  #title(state, graph) {
    const images = graph.nodes.filter((node) => node.kind === "Image").length;
    const [only] = state.families;
    const name = state.families.length === 1
      ? `${only.namespace}/${only.name}`
      : count(state.families.length, "family").replace("familys", "families");
    document.querySelector("#title").textContent = `${name} · ${count(images, "image")}`;
    document.title = `${name} · image families`;
  }

  #states(counts) {
    const shown = ORDER.filter((state) => counts.has(state));
    for (const state of this.chosen) {
      if (!counts.has(state)) this.chosen.delete(state);
    }
    const focused = document.activeElement?.dataset?.state;
    const buttons = shown.map((state) => html("button", {
      type: "button",
      "data-state": state,
      "aria-pressed": String(this.chosen.has(state)),
      onclick: () => this.#toggle(state),
    }, stateMark(state), html("b", {}, counts.get(state).toLocaleString("en"))));
    document.querySelector("#states").replaceChildren(...buttons);
    buttons.find((button) => button.dataset.state === focused)?.focus();
  }

  #toggle(state) {
    if (!this.chosen.delete(state)) this.chosen.add(state);
    for (const button of document.querySelectorAll("#states button")) {
      button.setAttribute("aria-pressed", String(this.chosen.has(button.dataset.state)));
    }
    this.onStates(this.chosen);
  }

  #cascades(cascades) {
    const list = document.querySelector("#cascades");
    list.hidden = cascades.length === 0;
    list.replaceChildren(...cascades.map((cascade) => this.#cascade(cascade)));
  }

  #cascade(cascade) {
    const { total = 0, current = 0, failed = 0, blocked = 0, building = 0 } = cascade.counts;
    const parts = total > 0 ? [`${current} of ${total} current`] : ["no image yet"];
    if (building > 0) parts.push(`${building} building`);
    if (failed > 0) parts.push(`${failed} failed`);
    if (blocked > 0) parts.push(`${blocked} blocked`);
    const since = cascade.startedAt ? `for ${age(cascade.startedAt)}` : "";
    return html("li", {}, html("button", {
      type: "button",
      title: "Show the images of this cascade",
      onclick: () => this.onCascade(cascade),
    },
    html("b", {}, `${cascade.family}: cascade ${cascade.name}`),
    html("progress", { max: Math.max(total, 1), value: current, "aria-label": parts[0] }),
    html("span", {}, [parts.join(", "), since].filter(Boolean).join(" ")),
    html("span", { class: "cause" }, cascade.cause)));
  }

  #problem(state) {
    const notReady = state.families.filter((family) => family.message)
      .map((family) => `${family.namespace}/${family.name}: ${family.message}`);
    const texts = [state.problem, ...state.notes, ...notReady].filter(Boolean);
    const problem = document.querySelector("#problem");
    problem.hidden = texts.length === 0;
    const shown = texts.slice(0, 3).join(" · ");
    problem.textContent = texts.length > 3 ? `${shown} · ${texts.length - 3} more` : shown;
  }
}
