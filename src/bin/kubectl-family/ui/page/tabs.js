// The contents of the panel's tabs. Each function returns the elements of one.

import { age, bytes, count, duration, html, short } from "./elements.js";

/** Maximum number of names in a list, and of packages in the table. */
const MAX_NAMES = 40;
const MAX_PACKAGES = 1000;

function section(title, ...content) {
  const shown = content.flat().filter(Boolean);
  return shown.length === 0 ? [] : [html("h3", {}, title), ...shown];
}

function sentences(texts) {
  return texts.length === 0 ? [] : [html("ul", {}, ...texts.map((text) => html("li", {}, text)))];
}

function facts(rows) {
  const known = rows.filter(([, value]) => value !== undefined && value !== "");
  if (known.length === 0) return [];
  return [html("dl", {}, ...known.flatMap(([name, value]) =>
    [html("dt", {}, name), html("dd", {}, value)]))];
}

function table(header, rows) {
  const titles = header.map((name) => html("th", { scope: "col" }, name));
  const lines = rows.map((row) => html("tr", {}, ...row.map((cell) => html("td", {}, cell ?? ""))));
  return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" },
    html("table", {}, html("thead", {}, html("tr", {}, ...titles)), html("tbody", {}, ...lines)));
}

/** Returns buttons that lead to other nodes. */
function links(graph, names, select) {
  if (names.length === 0) return [];
  const shown = names.slice(0, MAX_NAMES).map((name) => graph.index.has(name)
    ? html("button", { type: "button", class: "link", onclick: () => select(name) }, name)
    : html("span", {}, name));
  const more = names.length - shown.length;
  return [html("p", { class: "names" }, ...shown, more > 0 ? `and ${more} more` : "")];
}

/** Says how many images a move reaches. */
function reach(document) {
  const levels = new Set(document.images.map((image) => image.level)).size;
  const workloads = document.workloads.length;
  if (document.images.length + workloads === 0) return "If it moves, nothing is rebuilt.";
  return `If it moves, ${count(document.images.length, "image")} on ${count(levels, "level")} and `
    + `${count(workloads, "workload")} follow.`;
}

function failure(status) {
  const last = status?.failure?.last;
  return last ? [html("p", { class: "failed" }, `${last.reason}: ${last.message}`)] : [];
}

/** Why a node is as it is. */
export function overview({ graph, index, node, details }, select) {
  const { why, status, upstream, tags } = details;
  const names = (edges, use) => edges.filter((edge) => (edge.use === "Rollout") === use)
    .map((edge) => graph.nodes[edge.index].name);
  const above = names(graph.parents[index], false);
  const below = names(graph.children[index], false);
  const workloads = names(graph.children[index], true);
  const waits = (why?.waitsFor ?? []).map((wait) => html("li", {},
    html("b", {}, wait.image), ` is ${wait.state}: ${wait.message}`));
  const builtOn = (why?.builtOn ?? []).map((parent) => html("li", {}, `${parent.name} at `,
    html("code", {}, short(parent.digest)),
    parent.newest && parent.newest !== parent.digest ? `, now ${short(parent.newest)}` : ""));
  return [
    why?.message && why.state !== "Current" ? html("p", {}, `${why.message}.`) : undefined,
    details.unexplained ? html("p", { class: "quiet" }, "Nothing is recorded of it yet.")
      : undefined,
    ...section("Last failure", failure(status)),
    ...section("Why it has to be built", sentences(why?.stale ?? [])),
    ...section("What it waits for", waits.length > 0 ? html("ul", {}, ...waits) : undefined),
    ...section("Why its last build was started", sentences(why?.lastBuild ?? [])),
    ...section("What its last build is built on",
      builtOn.length > 0 ? html("ol", {}, ...builtOn) : undefined),
    ...section("Built on", links(graph, above, select)),
    ...section(`Built on it (${below.length})`, links(graph, below, select)),
    ...section("Workloads", links(graph, workloads, select)),
    ...section("Facts", facts([
      ["Repository", node.repository],
      ["Tags", (tags ?? []).join(", ")],
      ["Digest", node.digest ?? upstream?.adopted?.digest],
      ["Candidate", upstream?.candidate?.digest],
      ["Message", upstream?.message],
      ["Size", status?.size === undefined ? undefined : bytes(status.size)],
      ["Platform", status?.platform],
      ["State since", status?.since ? `${age(status.since)} ago` : undefined],
      ["Family", node.family && `${node.namespace}/${node.family}`],
      ["State", node.kind === "Workload" ? node.state : undefined],
    ])),
  ].filter(Boolean);
}

/** What would be rebuilt if the node moved. */
export function impact({ graph, details }, select) {
  const document = details.impact;
  const estimate = document.estimatedSeconds === undefined ? "unknown: no build is recorded"
    : `${document.untimedImages > 0 ? "more than " : ""}${duration(document.estimatedSeconds)}`;
  const levels = new Map();
  for (const image of document.images) {
    levels.set(image.level, [...(levels.get(image.level) ?? []), image.name]);
  }
  return [
    html("p", { class: "reach" }, reach(document)),
    ...facts(document.images.length === 0 ? [] : [
      ["Estimated time", estimate],
      ["Size", document.bytes === undefined ? undefined : bytes(document.bytes)],
      ["Registry", `at most ${count(document.registryRequests, "request")} of the controller`],
    ]),
    ...section("What keeps it back", sentences(document.gates)),
    ...section("Critical path",
      document.criticalPath.length > 1 ? links(graph, document.criticalPath, select) : undefined),
    ...section("Workloads", links(graph, document.workloads, select)),
    ...section("Held", links(graph, document.held, select)),
    ...[...levels].flatMap(([level, names]) =>
      section(`Level ${level} (${names.length})`, links(graph, names, select))),
  ];
}

/** The recorded builds. */
export function history({ details }) {
  const builds = details.status?.history ?? [];
  if (builds.length === 0) return [html("p", { class: "quiet" }, "No build is recorded.")];
  return [table(["Build", "Ended", "Took", "Digest", "Why"], builds.map((build) => [
    build.build === undefined ? "-" : String(build.build),
    build.finishedAt ? `${age(build.finishedAt)} ago` : "",
    build.duration ?? "",
    build.digest ? html("code", { title: build.digest }, short(build.digest)) : "failed",
    build.message,
  ]))];
}

/** The layers, from the registry. */
export function layers({ answer }) {
  const largest = Math.max(1, ...answer.layers.map((layer) => layer.size));
  const { family } = answer;
  return [
    html("p", {}, `${bytes(answer.size)} in ${count(answer.layers.length, "layer")}.`),
    ...sentences(answer.pulls.map((pull) =>
      `A node pulls ${bytes(pull.bytes)} of it when ${pull.rebuilt} is rebuilt.`)),
    table(["Size", "From", "Images", "Command"], answer.layers.map((layer) => [
      html("span", { class: "size" }, html("meter", { max: largest, value: layer.size }),
        bytes(layer.size)),
      layer.from,
      layer.images > 0 ? String(layer.images) : "",
      html("code", {}, layer.command),
    ])),
    family ? html("p", { class: "quiet" },
      `The ${count(family.images, "image")} of the family take ${bytes(family.stored)} in the `
      + `registry, and would take ${bytes(family.unshared)} if they shared no layer.`) : undefined,
  ].filter(Boolean);
}

/** The packages, from the layers. */
export function packages({ answer }) {
  const rows = (text) => answer.packages
    .filter((one) => `${one.name} ${one.version}`.includes(text.trim()))
    .slice(0, MAX_PACKAGES)
    .map((one) => [one.name, one.version, one.architecture, one.ecosystem]);
  const list = html("div", {}, table(["Package", "Version", "Arch", "Kind"], rows("")));
  const found = answer.databases.length === 0
    ? "The image has no database of packages."
    : `${count(answer.packages.length, "package")} in ${answer.databases.join(", ")}.`;
  return [
    html("p", {}, found),
    ...sentences(answer.problems),
    html("input", { type: "search", placeholder: "Search", "aria-label": "Search packages",
      oninput: (event) => list.replaceChildren(
        table(["Package", "Version", "Arch", "Kind"], rows(event.target.value))) }),
    list,
  ];
}

/** The last lines of a log. */
export function log({ answer }) {
  return [
    html("p", { class: "quiet" }, `Pod ${answer.pod}, container ${answer.container}`),
    html("pre", { tabindex: 0, "aria-label": "Log" }, answer.text),
  ];
}
