// The graph as the server describes it, with what the page asks of it.

/** What nodes are that are no images of the families. */
export const KINDS = {
  Upstream: "Upstream",
  External: "Image of another family",
  Workload: "Workload",
};

/** The nodes and edges of a snapshot, and how they are drawn. */
export class Graph {
  constructor(state) {
    this.scene = state.scene;
    this.nodes = state.graph.nodes;
    this.index = new Map(this.nodes.map((node, index) => [node.name, index]));
    this.parents = this.nodes.map(() => []);
    this.children = this.nodes.map(() => []);
    this.edges = state.graph.edges.map((edge) => {
      const parentIndex = this.index.get(edge.parent);
      const childIndex = this.index.get(edge.child);
      this.parents[childIndex].push({ index: parentIndex, use: edge.use });
      this.children[parentIndex].push({ index: childIndex, use: edge.use });
      return { ...edge, parentIndex, childIndex };
    });
    for (const edge of this.edges) {
      edge.isMain = this.mainParent(edge.childIndex) === edge.parentIndex;
    }
    this.weight = this.#weights();
    this.firstIndex = this.#first();
  }

  /** Whether another graph is drawn in the same way: it may differ in states only. */
  isDrawnAs(other) {
    return other !== undefined
      && JSON.stringify(this.scene) === JSON.stringify(other.scene)
      && this.nodes.every((node, index) => node.name === other.nodes[index].name)
      && this.nodes.every((node, index) => node.kind === other.nodes[index].kind);
  }

  /** Says what a node is. */
  description(index) {
    const { name, kind, state } = this.nodes[index];
    return [name, KINDS[kind]?.toLowerCase(), state].filter(Boolean).join(", ");
  }

  /** Returns the parent that a node is drawn next to: its base, or else its first parent. */
  mainParent(index) {
    const parents = this.parents[index];
    return (parents.find((edge) => edge.use !== "BuildStage") ?? parents[0])?.index;
  }

  /** Returns the cells of the block of a node. */
  cellsOf(parent) {
    const cells = this.children[parent].map((edge) => edge.index);
    return cells.filter((cell) => this.scene.nodes[cell].cell && this.mainParent(cell) === parent);
  }

  /** Returns what a node is built on, and what that is built on. */
  ancestors(index) {
    const found = new Set();
    const stack = [index];
    while (stack.length > 0) {
      for (const edge of this.parents[stack.pop()]) {
        if (!found.has(edge.index)) {
          found.add(edge.index);
          stack.push(edge.index);
        }
      }
    }
    return found;
  }

  /** Returns how many nodes each state has, of images alone. */
  counts() {
    const counts = new Map();
    for (const node of this.nodes.filter((one) => one.kind === "Image")) {
      const state = node.state ?? "Unknown";
      counts.set(state, (counts.get(state) ?? 0) + 1);
    }
    return counts;
  }

  /** Returns the number of nodes below each node along the main parents. */
  #weights() {
    const weights = this.nodes.map(() => 1);
    const deepestFirst = this.nodes.map((_, index) => index)
      .sort((a, b) => this.nodes[b].level - this.nodes[a].level);
    for (const index of deepestFirst) {
      const parent = this.mainParent(index);
      if (parent !== undefined) weights[parent] += weights[index];
    }
    return weights;
  }

  /** Returns the root with the most below it. */
  #first() {
    const roots = this.nodes.map((_, index) => index)
      .filter((index) => this.parents[index].length === 0);
    return roots.sort((a, b) => this.weight[b] - this.weight[a])[0];
  }
}
