//! The graph of all families of an input: upstreams, images, images of families that the input does
//! not have, and workloads. Families that build on the same reference share its node, so that the
//! graph shows what a moved upstream reaches in all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use anyhow::bail;

use groundswell::{
    api::{EdgeUse, ImageState, Rollout, RolloutState},
    lineage::{
        ImageIndex, Import, Parent, UpstreamIndex,
        families::{FamilyName, ImageName},
    },
};

use crate::input::{
    Estate, EstateFamily,
    target::{FamilyTarget, NamedTarget},
};

/// Maximum number of names of a circle that an error lists.
const MAX_NAMED: usize = 8;

/// Position of a node in [`EstateGraph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GraphNodeKind {
    /// An image that is watched and not built.
    Upstream,
    /// An image of another family, which the input does not have.
    External,
    /// An image that is built.
    Image,
    /// A workload that is updated to an image.
    Workload,
}

/// How a node uses its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EdgeKind {
    /// The parent's layers are in the image.
    Base,
    /// The parent is an input of a build stage.
    BuildStage,
    /// The workload is updated to the image.
    Rollout,
}

/// A node of the graph.
#[derive(Clone, Debug)]
pub struct GraphNode {
    /// What it is.
    pub kind: GraphNodeKind,
    /// Its name, unique in the graph: a reference, the name of an image with as much of its family
    /// as is needed, or a workload.
    pub name: String,
    /// The position of its family in [`Estate::families`]; `None` for upstreams, which families
    /// share, and for images of other families.
    pub family: Option<usize>,
    /// The image's position in its family.
    pub image: Option<ImageIndex>,
    /// The level: 0 for upstreams and external images, otherwise one more than the highest level of
    /// the parents.
    pub level: usize,
    /// The recorded state of an image.
    pub state: Option<ImageState>,
    /// The recorded state of a rollout.
    pub rollout: Option<RolloutState>,
}

/// An edge to or from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GraphEdge {
    /// The node at the other end.
    pub node: NodeId,
    /// How the child uses the parent.
    pub kind: EdgeKind,
}

/// The graph of an estate. It has no circles.
#[derive(Clone, Debug, Default)]
pub struct EstateGraph {
    nodes: Vec<GraphNode>,
    parents: Vec<Vec<GraphEdge>>,
    children: Vec<Vec<GraphEdge>>,
    images: HashMap<ImageName, NodeId>,
    upstreams: HashMap<String, NodeId>,
}

impl EstateGraph {
    /// Builds the graph of an estate. Costs O(images + edges).
    ///
    /// # Errors
    ///
    /// Returns an error if families build on each other in a circle.
    pub fn of(estate: &Estate) -> anyhow::Result<Self> {
        let mut graph = Self::default();
        let naming = ImageNaming::of(estate);
        for (position, family) in estate.families.iter().enumerate() {
            for (index, image) in ImageIndex::enumerate(&family.family.spec.images) {
                let record = family.images.get(&image.name);
                let node = graph.add(GraphNode {
                    kind: GraphNodeKind::Image,
                    name: naming.image(&family.name, &image.name),
                    family: Some(position),
                    image: Some(index),
                    level: 0,
                    state: record.and_then(|record| Some(record.status.as_ref()?.state)),
                    rollout: None,
                });
                let name = ImageName { family: family.name.clone(), image: image.name.clone() };
                graph.images.insert(name, node);
            }
        }
        for (position, family) in estate.families.iter().enumerate() {
            graph.add_edges(family, &naming);
            graph.add_workloads(position, family);
        }
        graph.set_levels()?;
        Ok(graph)
    }

    fn add(&mut self, node: GraphNode) -> NodeId {
        self.nodes.push(node);
        self.parents.push(Vec::new());
        self.children.push(Vec::new());
        NodeId(self.nodes.len() - 1)
    }

    fn connect(&mut self, parent: NodeId, child: NodeId, kind: EdgeKind) {
        let (above, below) = (GraphEdge { node: parent, kind }, GraphEdge { node: child, kind });
        if let Some(parents) = self.parents.get_mut(child.0).filter(|all| !all.contains(&above)) {
            parents.push(above);
            if let Some(children) = self.children.get_mut(parent.0) {
                children.push(below);
            }
        }
    }

    fn add_edges(&mut self, family: &EstateFamily, naming: &ImageNaming) {
        let lineage = &family.blueprint.lineage;
        for (index, image) in ImageIndex::enumerate(&family.family.spec.images) {
            let Some(child) = self.image(&family.name, &image.name) else { continue };
            for (edge, parent) in image.from.iter().zip(lineage.parents(index)) {
                let kind = match edge.usage {
                    EdgeUse::Base => EdgeKind::Base,
                    EdgeUse::BuildStage => EdgeKind::BuildStage,
                };
                let parent = match parent {
                    Parent::Upstream(upstream) => self.upstream_node(family, *upstream),
                    Parent::Image(parent) => {
                        let parent = family.family.spec.images.get(parent.position());
                        parent.and_then(|parent| self.image(&family.name, &parent.name))
                    }
                    Parent::Import(import) => {
                        let import = lineage.imports().get(import.position());
                        import.map(|import| self.import_node(&family.name, import, naming))
                    }
                };
                if let Some(parent) = parent {
                    self.connect(parent, child, kind);
                }
            }
        }
    }

    fn upstream_node(&mut self, family: &EstateFamily, index: UpstreamIndex) -> Option<NodeId> {
        let reference = family.family.spec.upstreams.get(index.position())?.reference();
        if let Some(known) = self.upstreams.get(&reference) {
            return Some(*known);
        }
        let node = self.add(GraphNode::root(GraphNodeKind::Upstream, reference.clone()));
        self.upstreams.insert(reference, node);
        Some(node)
    }

    fn import_node(&mut self, of: &FamilyName, import: &Import, naming: &ImageNaming) -> NodeId {
        let namespace = import.namespace.clone().unwrap_or_else(|| of.namespace.clone());
        let family = FamilyName { namespace, name: import.family.clone() };
        let name = ImageName { family, image: import.image.clone() };
        if let Some(known) = self.images.get(&name) {
            return *known;
        }
        let label = naming.image(&name.family, &name.image);
        let node = self.add(GraphNode::root(GraphNodeKind::External, label));
        self.images.insert(name, node);
        node
    }

    fn add_workloads(&mut self, position: usize, family: &EstateFamily) {
        let mut known: BTreeMap<String, NodeId> = BTreeMap::new();
        for image in &family.family.spec.images {
            let Some(parent) = self.image(&family.name, &image.name) else { continue };
            let status = family.images.get(&image.name).and_then(|image| image.status.as_ref());
            let records = status.map(|status| status.rollouts.as_slice()).unwrap_or_default();
            let is_recorded =
                if records.is_empty() { RecordedRollouts::None } else { RecordedRollouts::Some };
            let recorded = records.iter().map(|record| record.workload.clone());
            let declared = image.rollout.iter().filter_map(|rollout| {
                declared_workload(rollout, &family.name.namespace, is_recorded)
            });
            for workload in recorded.chain(declared).collect::<BTreeSet<String>>() {
                let record = records.iter().find(|record| record.workload == workload);
                let node = *known.entry(workload.clone()).or_insert_with(|| {
                    self.add(GraphNode {
                        family: Some(position),
                        rollout: record.map(|record| record.state),
                        ..GraphNode::root(GraphNodeKind::Workload, workload)
                    })
                });
                self.connect(parent, node, EdgeKind::Rollout);
            }
        }
    }

    /// Computes the levels, parents first.
    fn set_levels(&mut self) -> anyhow::Result<()> {
        let mut missing: Vec<usize> = self.parents.iter().map(Vec::len).collect();
        let roots = missing.iter().enumerate().filter(|(_, count)| **count == 0);
        let mut queue: VecDeque<NodeId> = roots.map(|(node, _)| NodeId(node)).collect();
        // An image without parents is built from scratch.
        for node in self.nodes.iter_mut().filter(|node| node.kind == GraphNodeKind::Image) {
            node.level = 1;
        }
        let mut done = 0;
        while let Some(parent) = queue.pop_front() {
            done += 1;
            let level = self.node(parent).map_or(0, |node| node.level) + 1;
            for edge in self.children.get(parent.0).cloned().unwrap_or_default() {
                if let Some(child) = self.nodes.get_mut(edge.node.0) {
                    child.level = child.level.max(level);
                }
                if let Some(missing) = missing.get_mut(edge.node.0) {
                    *missing -= 1;
                    if *missing == 0 {
                        queue.push_back(edge.node);
                    }
                }
            }
        }
        if done < self.nodes.len() {
            let left = self.nodes.iter().zip(&missing).filter(|(_, missing)| **missing > 0);
            let names: Vec<&str> =
                left.map(|(node, _)| node.name.as_str()).take(MAX_NAMED).collect();
            bail!("families build on each other in a circle: {}; cut it", names.join(", "));
        }
        Ok(())
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &GraphNode)> {
        self.nodes.iter().enumerate().map(|(node, content)| (NodeId(node), content))
    }

    /// Returns a node.
    pub fn node(&self, node: NodeId) -> Option<&GraphNode> {
        self.nodes.get(node.0)
    }

    /// Returns the parents of a node.
    pub fn parents(&self, node: NodeId) -> &[GraphEdge] {
        self.parents.get(node.0).map_or(&[], Vec::as_slice)
    }

    /// Returns the children of a node.
    pub fn children(&self, node: NodeId) -> &[GraphEdge] {
        self.children.get(node.0).map_or(&[], Vec::as_slice)
    }

    /// Returns the node of an image.
    pub fn image(&self, family: &FamilyName, image: &str) -> Option<NodeId> {
        let name = ImageName { family: family.clone(), image: image.to_owned() };
        self.images.get(&name).copied()
    }

    /// Returns the node of an image or upstream; `None` for an upstream that nothing is built on.
    pub fn target(&self, target: &FamilyTarget<'_>) -> Option<NodeId> {
        let spec = &target.family.family.spec;
        match target.target {
            NamedTarget::Image(image) => {
                self.image(&target.family.name, &spec.images.get(image.position())?.name)
            }
            NamedTarget::Upstream(upstream) => {
                self.upstreams.get(&spec.upstreams.get(upstream.position())?.reference()).copied()
            }
        }
    }

    /// Returns the parent under which a tree shows a node: its base, or else its first parent.
    pub fn main_parent(&self, node: NodeId) -> Option<GraphEdge> {
        let parents = self.parents(node);
        let base = parents.iter().find(|edge| edge.kind != EdgeKind::BuildStage);
        base.or_else(|| parents.first()).copied()
    }

    /// Returns the nodes that can be reached over at most `edges` edges, as a mask over all nodes:
    /// the start itself, and its descendants or ancestors.
    pub fn reach(&self, start: NodeId, direction: Direction, edges: usize) -> Vec<bool> {
        let mut mask = vec![false; self.nodes.len()];
        let mut queue = VecDeque::from([(start, edges)]);
        while let Some((node, left)) = queue.pop_front() {
            let Some(is_member) = mask.get_mut(node.0) else { continue };
            if std::mem::replace(is_member, true) {
                continue;
            }
            let Some(left) = left.checked_sub(1) else { continue };
            let next = match direction {
                Direction::Ancestors => self.parents(node),
                Direction::Descendants => self.children(node),
            };
            queue.extend(next.iter().map(|edge| (edge.node, left)));
        }
        mask
    }

    /// Returns the graph of some of the nodes, with the edges between them.
    pub fn only(&self, mask: &[bool]) -> Self {
        let mut graph = Self::default();
        let mut kept: HashMap<NodeId, NodeId> = HashMap::new();
        for (node, content) in self.nodes() {
            if mask.get(node.0) == Some(&true) {
                kept.insert(node, graph.add(content.clone()));
            }
        }
        for (node, _) in self.nodes() {
            for edge in self.parents(node) {
                if let (Some(child), Some(parent)) = (kept.get(&node), kept.get(&edge.node)) {
                    graph.connect(*parent, *child, edge.kind);
                }
            }
        }
        let images = self.images.iter();
        graph.images =
            images.filter_map(|(name, node)| Some((name.clone(), *kept.get(node)?))).collect();
        let upstreams = self.upstreams.iter();
        graph.upstreams =
            upstreams.filter_map(|(name, node)| Some((name.clone(), *kept.get(node)?))).collect();
        graph
    }
}

/// Which way a graph is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the parents.
    Ancestors,
    /// To the children.
    Descendants,
}

impl GraphNode {
    fn root(kind: GraphNodeKind, name: String) -> Self {
        Self { kind, name, family: None, image: None, level: 0, state: None, rollout: None }
    }
}

/// Returns the workload of a rollout as records name it. One that is selected by labels is named
/// only while no record says which it is.
fn declared_workload(
    rollout: &Rollout,
    namespace: &str,
    records: RecordedRollouts,
) -> Option<String> {
    let (kind, workload) = rollout.workload()?;
    let namespace = workload.namespace.as_deref().unwrap_or(namespace);
    if let Some(name) = &workload.name {
        return Some(format!("{} {namespace}/{name}", kind.as_str()));
    }
    let labels = workload.match_labels.iter().flatten();
    let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
    let labels = labels.join(",");
    (records == RecordedRollouts::None).then(|| format!("{} {namespace}/{labels}", kind.as_str()))
}

/// Whether the cluster has recorded rollouts of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordedRollouts {
    Some,
    None,
}

/// How images are named: with as much of their family as keeps the names apart.
struct ImageNaming {
    family: Part,
    namespace: Part,
}

/// Whether a part of a name is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Written,
    Implied,
}

impl ImageNaming {
    fn of(estate: &Estate) -> Self {
        let part = |is_needed| if is_needed { Part::Written } else { Part::Implied };
        let first = estate.families.first().map(|family| &family.name.namespace);
        let is_apart = |family: &EstateFamily| Some(&family.name.namespace) != first;
        Self {
            family: part(estate.families.len() > 1),
            namespace: part(estate.families.iter().any(is_apart)),
        }
    }

    fn image(&self, family: &FamilyName, image: &str) -> String {
        match (self.namespace, self.family) {
            (Part::Written, _) => format!("{}/{}/{image}", family.namespace, family.name),
            (Part::Implied, Part::Written) => format!("{}/{image}", family.name),
            (Part::Implied, Part::Implied) => image.to_owned(),
        }
    }
}
