//! Renders the graph as a tree. Every image has one line, under its base; its other parents are
//! named on that line. What does not fit is folded: siblings whose names begin alike into one line,
//! and what is below an image into a count.
//!
//! The tree opens level by level as long as there are lines left, and first towards what is in
//! focus.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt::Write as _,
};

use comfy_table::Color;

use groundswell::{
    api::{ImageState, condition::shorten},
    terminal::printable,
};

use crate::{
    estate_graph::{EdgeKind, EstateGraph, GraphNode, GraphNodeKind, NodeId},
    output::colours,
};

/// Minimum number of siblings that are folded into one line.
const MIN_FOLDED: usize = 3;
/// Minimum width to which a line is cut.
const MIN_WIDTH: usize = 20;
/// Number of characters of the line to a parent.
const BRANCH_WIDTH: usize = 3;

/// How much space a tree has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Maximum number of lines; `None` folds nothing.
    pub lines: Option<usize>,
    /// Width in characters; `None` cuts nothing.
    pub width: Option<u16>,
}

/// A line of the tree.
#[derive(Clone, Debug)]
enum Item {
    /// An image, or what it is built on or runs it.
    Node(NodeId),
    /// Siblings whose names begin alike.
    Group { prefix: String, members: Vec<NodeId> },
    /// Siblings that do not fit.
    Rest(Vec<NodeId>),
}

struct Entry {
    item: Item,
    /// Positions of the lines below it in [`OpenedTree::entries`].
    children: Vec<usize>,
    /// Whether the children are shown, as far as there are any.
    is_open: bool,
}

/// Renders the graph as a tree. The text has colours.
pub fn render(graph: &EstateGraph, focus: &[NodeId], limits: TreeLimits) -> String {
    let tree = Tree::of(graph, focus);
    let opened = tree.open(limits.lines.unwrap_or(usize::MAX));
    tree.write(&opened, limits.width)
}

/// The lines of the tree. They are no recursive type, because a chain may have any length.
#[derive(Default)]
struct OpenedTree {
    entries: Vec<Entry>,
    /// Positions of the lines without a parent.
    roots: Vec<usize>,
}

impl OpenedTree {
    /// Adds lines, and returns their positions.
    fn add(&mut self, entries: Vec<Entry>) -> Vec<usize> {
        let first = self.entries.len();
        self.entries.extend(entries);
        (first..self.entries.len()).collect()
    }
}

/// The tree below each node, by its main parent.
struct Tree<'a> {
    graph: &'a EstateGraph,
    children: Vec<Vec<NodeId>>,
    roots: Vec<NodeId>,
    /// The nodes that lead to what is in focus.
    focus: HashSet<NodeId>,
    /// How many images are below each node, by state.
    below: Vec<Counts>,
}

/// How many images there are, in all and by recorded state.
#[derive(Clone, Debug, Default)]
struct Counts {
    images: usize,
    workloads: usize,
    states: BTreeMap<ImageState, usize>,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.workloads += other.workloads;
        for (state, count) in &other.states {
            *self.states.entry(*state).or_default() += count;
        }
    }

    fn of(node: &GraphNode) -> Self {
        Self {
            images: usize::from(node.kind == GraphNodeKind::Image),
            workloads: usize::from(node.kind == GraphNodeKind::Workload),
            states: node.state.map(|state| (state, 1)).into_iter().collect(),
        }
    }

    /// Says what there is: `12 images (11 Current, 1 Failed), 2 workloads`.
    fn text(&self) -> String {
        let plural = |count, name: &str| match count {
            0 => None,
            1 => Some(format!("1 {name}")),
            _ => Some(format!("{count} {name}s")),
        };
        let mut images = plural(self.images, "image");
        let states: Vec<String> = self
            .states
            .iter()
            .map(|(state, count)| format!("{count} {}", state.as_str()))
            .collect();
        if !states.is_empty()
            && let Some(images) = &mut images
        {
            _ = write!(images, " ({})", states.join(", "));
        }
        let parts = images.into_iter().chain(plural(self.workloads, "workload"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// Where a line is among its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Branch {
    Root,
    Middle,
    Last,
}

impl<'a> Tree<'a> {
    fn of(graph: &'a EstateGraph, focus: &[NodeId]) -> Self {
        let count = graph.nodes().count();
        let (mut children, mut roots) = (vec![Vec::new(); count], Vec::new());
        for (node, _) in graph.nodes() {
            match graph.main_parent(node).and_then(|parent| children.get_mut(parent.node.0)) {
                Some(siblings) => siblings.push(node),
                None => roots.push(node),
            }
        }
        let key = |node: &NodeId| graph.node(*node).map(|node| (node.kind, node.name.clone()));
        children.iter_mut().chain([&mut roots]).for_each(|nodes| nodes.sort_by_key(key));
        let mut tree = Self { graph, children, roots, focus: HashSet::new(), below: Vec::new() };
        tree.below = tree.counts();
        for node in focus {
            let mut above = Some(*node);
            while let Some(node) = above.filter(|node| tree.focus.insert(*node)) {
                above = graph.main_parent(node).map(|parent| parent.node);
            }
        }
        tree
    }

    /// Counts what is below each node, children before parents.
    fn counts(&self) -> Vec<Counts> {
        let mut order: Vec<NodeId> = self.roots.clone();
        let mut next = 0;
        while let Some(node) = order.get(next) {
            order.extend(self.below_node(*node).to_vec());
            next += 1;
        }
        let mut counts = vec![Counts::default(); self.children.len()];
        for node in order.into_iter().rev() {
            let mut sum = Counts::default();
            for child in self.below_node(node) {
                if let (Some(below), Some(content)) = (counts.get(child.0), self.graph.node(*child))
                {
                    sum.add(below);
                    sum.add(&Counts::of(content));
                }
            }
            if let Some(count) = counts.get_mut(node.0) {
                *count = sum;
            }
        }
        counts
    }

    fn below_node(&self, node: NodeId) -> &[NodeId] {
        self.children.get(node.0).map_or(&[], Vec::as_slice)
    }

    /// Opens the tree as far as it fits into this number of lines.
    fn open(&self, lines: usize) -> OpenedTree {
        let roots = self.fitting(&self.roots, lines, "").unwrap_or_else(|| self.rest(&self.roots));
        let mut left = lines.saturating_sub(roots.len());
        let (mut opened, mut queues) = (OpenedTree::default(), OpenQueues::default());
        opened.roots = opened.add(roots);
        queues.add(&opened.roots, self, &opened);
        while let Some(at) = queues.pop() {
            let Some(entry) = opened.entries.get(at) else { continue };
            let (members, folded) = match &entry.item {
                Item::Node(node) => (self.below_node(*node), ""),
                Item::Group { prefix, members } => (members.as_slice(), prefix.as_str()),
                Item::Rest(_) => continue,
            };
            let below = match self.fitting(members, left, folded) {
                Some(below) => below,
                // What is in focus is shown however little space there is.
                None if self.is_in_focus(&entry.item) => self.focused(members),
                None => continue,
            };
            left = left.saturating_sub(below.len());
            let children = opened.add(below);
            queues.add(&children, self, &opened);
            if let Some(entry) = opened.entries.get_mut(at) {
                (entry.children, entry.is_open) = (children, true);
            }
        }
        opened
    }

    fn is_in_focus(&self, item: &Item) -> bool {
        match item {
            Item::Node(node) => self.focus.contains(node),
            Item::Group { members, .. } | Item::Rest(members) => {
                members.iter().any(|member| self.focus.contains(member))
            }
        }
    }

    /// Returns the lines of siblings: one each, or else one for those whose names begin alike;
    /// `None` if they do not fit. `folded` is how the names of all of them begin: those of groups
    /// are longer.
    fn fitting(&self, siblings: &[NodeId], lines: usize, folded: &str) -> Option<Vec<Entry>> {
        if siblings.len() <= lines {
            return Some(siblings.iter().map(|node| Entry::of(Item::Node(*node))).collect());
        }
        let mut groups = self.groups(siblings, folded.len());
        while let [((_, prefix), members)] = groups.as_slice()
            && members.len() >= MIN_FOLDED
            && !folded.is_empty()
        {
            let length = prefix.len();
            groups = self.groups(siblings, length);
            if let [((_, longer), _)] = groups.as_slice()
                && longer.len() <= length
            {
                return None;
            }
        }
        let entries = groups.into_iter().flat_map(|((_, prefix), members)| {
            if members.len() < MIN_FOLDED {
                return members.into_iter().map(|node| Entry::of(Item::Node(node))).collect();
            }
            vec![Entry::of(Item::Group { prefix, members })]
        });
        let entries: Vec<Entry> = entries.collect();
        (entries.len() <= lines).then_some(entries)
    }

    /// Returns siblings by kind and by how their names begin, with more than `folded` bytes. Each
    /// that is in focus is on its own.
    fn groups(
        &self,
        siblings: &[NodeId],
        folded: usize,
    ) -> Vec<((GraphNodeKind, String), Vec<NodeId>)> {
        let mut groups: BTreeMap<(GraphNodeKind, String), Vec<NodeId>> = BTreeMap::new();
        for node in siblings {
            let Some(content) = self.graph.node(*node) else { continue };
            let is_focused = self.focus.contains(node);
            let prefix = if is_focused { &content.name } else { prefix(content, folded) };
            groups.entry((content.kind, prefix.to_owned())).or_default().push(*node);
        }
        groups.into_iter().collect()
    }

    /// Returns those of siblings that lead to what is in focus, and one line for the others.
    fn focused(&self, siblings: &[NodeId]) -> Vec<Entry> {
        let (focused, others): (Vec<NodeId>, Vec<NodeId>) =
            siblings.iter().partition(|node| self.focus.contains(node));
        let focused = focused.into_iter().map(|node| Entry::of(Item::Node(node)));
        let others = (!others.is_empty()).then(|| Entry::of(Item::Rest(others)));
        focused.chain(others).collect()
    }

    fn rest(&self, roots: &[NodeId]) -> Vec<Entry> {
        if self.focus.is_empty() {
            return vec![Entry::of(Item::Rest(roots.to_vec()))];
        }
        self.focused(roots)
    }

    fn write(&self, opened: &OpenedTree, width: Option<u16>) -> String {
        let width = width.map_or(usize::MAX, |width| usize::from(width).max(MIN_WIDTH));
        let mut text = String::new();
        // The branches on the way to the line that is written, without its root.
        let mut way: Vec<Branch> = Vec::new();
        let mut stack: Vec<(usize, usize, Branch)> =
            opened.roots.iter().rev().map(|root| (*root, 0, Branch::Root)).collect();
        while let Some((at, depth, branch)) = stack.pop() {
            let Some(entry) = opened.entries.get(at) else { continue };
            way.truncate(depth.saturating_sub(1));
            if branch != Branch::Root {
                way.push(branch);
            }
            self.write_line(&mut text, entry, &indentation(&way, width / 2), width);
            let mut branch = Branch::Last;
            for child in entry.children.iter().rev() {
                stack.push((*child, depth + 1, branch));
                branch = Branch::Middle;
            }
        }
        text
    }

    fn write_line(&self, text: &mut String, entry: &Entry, indent: &str, width: usize) {
        let mut line = match &entry.item {
            Item::Node(node) => self.node_line(*node, entry),
            Item::Group { prefix, members } => {
                Line { name: format!("{prefix}*"), ..self.members_line(members) }
            }
            Item::Rest(members) => Line { name: "…".into(), ..self.members_line(members) },
        };
        line.name = printable(&line.name).replace('\n', " ");
        line.details = printable(&line.details).replace('\n', " ");
        let used = indent.chars().count();
        let name = shorten(&line.name, width.saturating_sub(used).max(1));
        let left = width.saturating_sub(used + name.chars().count() + 2);
        // Writing to a String never fails.
        _ = write!(text, "{indent}{}", colours::paint(&name, line.colour));
        if !line.details.is_empty() && left > 3 {
            _ = write!(text, "  {}", shorten(&line.details, left));
        }
        text.push('\n');
    }

    fn members_line(&self, members: &[NodeId]) -> Line {
        let mut counts = Counts::default();
        for member in members {
            if let Some(node) = self.graph.node(*member) {
                counts.add(&Counts::of(node));
            }
            counts.add(self.below.get(member.0).unwrap_or(&Counts::default()));
        }
        Line { name: String::new(), details: counts.text(), colour: worst_colour(&counts) }
    }

    fn node_line(&self, node: NodeId, entry: &Entry) -> Line {
        let Some(content) = self.graph.node(node) else {
            return Line { name: String::new(), details: String::new(), colour: None };
        };
        let mut details: Vec<String> = Vec::new();
        details.extend(content.state.map(|state| state.as_str().to_owned()));
        details.extend(content.rollout.map(|state| state.as_str().to_owned()));
        let below = self.below.get(node.0).filter(|_| !entry.is_open);
        if let Some(below) = below.map(Counts::text).filter(|text| !text.is_empty()) {
            details.push(format!("… {below} below"));
        }
        let main = self.graph.main_parent(node);
        let others: Vec<String> = self
            .graph
            .parents(node)
            .iter()
            .filter(|edge| Some(**edge) != main)
            .filter_map(|edge| Some(also(&self.graph.node(edge.node)?.name, edge.kind)))
            .collect();
        if !others.is_empty() {
            details.push(format!("also from {}", others.join(", ")));
        }
        if content.kind == GraphNodeKind::Image
            && main.is_some_and(|edge| edge.kind == EdgeKind::BuildStage)
        {
            details.push("as a build stage".into());
        }
        let name = match content.kind {
            GraphNodeKind::External => format!("{} (not in the input)", content.name),
            GraphNodeKind::Upstream | GraphNodeKind::Image | GraphNodeKind::Workload => {
                content.name.clone()
            }
        };
        let colour = content.state.map(colours::of_state);
        Line { name, details: details.join(", "), colour }
    }
}

/// The entries to open: those that lead to what is in focus come first.
#[derive(Debug, Default)]
struct OpenQueues {
    focused: VecDeque<usize>,
    others: VecDeque<usize>,
}

impl OpenQueues {
    fn add(&mut self, entries: &[usize], tree: &Tree<'_>, opened: &OpenedTree) {
        for at in entries {
            if opened.entries.get(*at).is_some_and(|entry| tree.is_in_focus(&entry.item)) {
                self.focused.push_back(*at);
            } else {
                self.others.push_back(*at);
            }
        }
    }

    fn pop(&mut self) -> Option<usize> {
        self.focused.pop_front().or_else(|| self.others.pop_front())
    }
}

/// Draws the lines on the way to an entry. If they are wider than `width`, those of the first
/// levels become their number: `[580] │  └─ `.
fn indentation(way: &[Branch], width: usize) -> String {
    let hidden_of = |kept: usize| way.len().saturating_sub(kept);
    let number = |hidden: usize| if hidden == 0 { String::new() } else { format!("[{hidden}] ") };
    let fits = |kept: usize| number(hidden_of(kept)).len() + kept * BRANCH_WIDTH <= width;
    let most = (width / BRANCH_WIDTH).min(way.len());
    let kept = (1..=most).rev().find(|kept| fits(*kept)).unwrap_or(1).min(way.len());
    let mut text = number(hidden_of(kept));
    let shown = way.get(hidden_of(kept)..).unwrap_or_default();
    for (index, branch) in shown.iter().enumerate() {
        let is_own = index + 1 == shown.len();
        text.push_str(match (branch, is_own) {
            (Branch::Root, _) => "",
            (Branch::Middle, true) => "├─ ",
            (Branch::Middle, false) => "│  ",
            (Branch::Last, true) => "└─ ",
            (Branch::Last, false) => "   ",
        });
    }
    text
}

/// A line without its indentation.
struct Line {
    name: String,
    details: String,
    colour: Option<Color>,
}

impl Entry {
    fn of(item: Item) -> Self {
        Self { item, children: Vec::new(), is_open: false }
    }
}

/// Returns how a name begins: up to its first dash, or of the last part of a path, but longer than
/// `folded` bytes.
fn prefix(node: &GraphNode, folded: usize) -> &str {
    let name = &node.name;
    let start = name.rfind('/').map_or(0, |slash| slash + 1).max(folded);
    let last = name.get(start..).unwrap_or_default();
    let length = last.find(['-', ':']).map_or(last.len(), |dash| dash + 1);
    name.get(..start + length).unwrap_or(name)
}

fn also(name: &str, kind: EdgeKind) -> String {
    match kind {
        EdgeKind::BuildStage => format!("{name} (build stage)"),
        EdgeKind::Base | EdgeKind::Rollout => name.to_owned(),
    }
}

/// Returns the colour of the state that needs a user most.
fn worst_colour(counts: &Counts) -> Option<Color> {
    let worst = [ImageState::Failed, ImageState::Blocked, ImageState::Building, ImageState::Queued];
    let states = worst.into_iter().chain(ImageState::ALL);
    states.into_iter().find(|state| counts.states.contains_key(state)).map(colours::of_state)
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
