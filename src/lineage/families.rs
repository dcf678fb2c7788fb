//! Edges into other families: whether each imported image exists, whether its family exports it,
//! and whether the edges form a cycle across families.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::DefaultHasher},
    fmt,
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use petgraph::{
    algo::kosaraju_scc,
    graph::{DiGraph, NodeIndex},
};

use crate::{
    api::{Edge, EdgeSource, ImageFamily, ImageFamilySpec},
    lineage::graph::cycle_names,
};

pub use crate::lineage::import_problem::ImportProblem;

/// Upper bound on the images of all families that one check visits.
pub const MAX_IMAGES: usize = 50_000;

/// The name of a family in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FamilyName {
    /// The family's namespace.
    pub namespace: String,
    /// The family's name.
    pub name: String,
}

/// The name of an image in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    /// The family.
    pub family: FamilyName,
    /// The image's name within the family.
    pub image: String,
}

/// The result of looking up a family.
#[derive(Clone, Debug)]
pub enum FamilyLookup {
    /// The family exists.
    Found(Arc<ImageFamily>),
    /// The family does not exist.
    NotFound,
    /// The operator does not watch the family's namespace.
    NotWatched,
}

/// Looks up families by name.
pub trait FamilyReader {
    /// Returns the family of this name.
    fn family(&self, name: &FamilyName) -> FamilyLookup;
}

/// The result of checking the images that a family imports.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The imported images, without repetition, in the order in which they are first named. Each
    /// has the problem because of which it can't be used.
    pub imports: Vec<(ImageName, Option<ImportProblem>)>,
    /// The other families that this result depends on, sorted by name.
    pub consulted: Vec<ConsultedFamily>,
}

/// A family that the result of a check depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsultedFamily {
    /// The family.
    pub family: FamilyName,
    /// The version of its spec that was checked; `None` if the family did not exist.
    pub version: Option<SpecVersion>,
    /// Its images that were visited because another image is built on them.
    pub images: BTreeSet<String>,
}

/// Identifies the version of a family's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecVersion {
    uid: Option<String>,
    generation: Option<i64>,
    /// Hash of the edges that Dockerfiles say: they change without a new generation.
    found_edges: u64,
}

impl SpecVersion {
    /// Returns the version of a family's spec.
    #[must_use]
    pub fn of(family: &ImageFamily) -> Self {
        let mut hasher = DefaultHasher::new();
        for image in &family.spec.images {
            if image.edges == EdgeSource::Dockerfile {
                for edge in &image.from {
                    (&image.name, edge.parent(), &edge.reference, edge.usage).hash(&mut hasher);
                }
            }
        }
        Self {
            uid: family.metadata.uid.clone(),
            generation: family.metadata.generation,
            found_edges: hasher.finish(),
        }
    }
}

/// Checks the images that a family imports. The graph of the family itself must be valid.
///
/// Costs O(images + edges) of its ancestors in all families, at most [`MAX_IMAGES`].
#[must_use]
pub fn check_imports(
    of: &FamilyName,
    spec: &ImageFamilySpec,
    families: &impl FamilyReader,
) -> Survey {
    let mut graph = ImportGraph::new(of, spec, families);
    let mut named: Vec<(ImageName, usize)> = Vec::new();
    let mut indices: HashMap<ImageName, usize> = HashMap::new();
    for (by, image) in spec.images.iter().enumerate() {
        for import in image.from.iter().filter_map(|edge| import(of, edge)) {
            indices.entry(import.clone()).or_insert_with(|| {
                named.push((import, by));
                named.len() - 1
            });
        }
    }
    let mut imports: Vec<(ImageName, Option<ImportProblem>)> = named
        .into_iter()
        .map(|(import, by)| {
            let by = spec.images.get(by).map_or("", |image| image.name.as_str());
            let problem = graph.resolve_import(of, by, &import).err();
            (import, problem)
        })
        .collect();
    if imports.iter().any(|(_, problem)| problem.is_none()) {
        let complete = graph.add_ancestors();
        let cycles = graph.cycles();
        for (import, problem) in imports.iter_mut().filter(|(_, problem)| problem.is_none()) {
            *problem = match (cycles.get(import), complete) {
                (Some(path), _) => Some(ImportProblem::Cycle { path: path.clone() }),
                (None, false) => Some(ImportProblem::TooManyAncestors),
                (None, true) => None,
            };
        }
    }
    Survey { imports, consulted: graph.consulted() }
}

/// Returns the image of another family that an edge names, if it names one.
#[must_use]
pub fn import(of: &FamilyName, edge: &Edge) -> Option<ImageName> {
    let family = edge.family.as_ref()?;
    let namespace = family.namespace.clone().unwrap_or_else(|| of.namespace.clone());
    let family = FamilyName { namespace, name: family.name.clone() };
    Some(ImageName { family, image: edge.image.clone()? })
}

/// A family that was visited.
struct VisitedFamily {
    /// `None` if the family does not exist, or is the one that is checked.
    family: Option<Arc<ImageFamily>>,
    /// The index of each image in the spec, by name.
    images: HashMap<String, usize>,
}

/// Identifies an image in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ImagePosition {
    /// The index of the family in [`ImportGraph::visited`].
    family: usize,
    /// The index of the image in the family's spec.
    image: usize,
}

/// The graph of a family and its ancestors in all families.
struct ImportGraph<'a, F> {
    families: &'a F,
    /// The spec of the family that is checked.
    spec: &'a ImageFamilySpec,
    names: Vec<FamilyName>,
    /// Parallel to `names`. The first family is the one that is checked.
    visited: Vec<VisitedFamily>,
    indices: HashMap<FamilyName, usize>,
    /// Edges point from child to parent.
    graph: DiGraph<ImagePosition, (), usize>,
    nodes: HashMap<ImagePosition, NodeIndex<usize>>,
}

impl<'a, F: FamilyReader> ImportGraph<'a, F> {
    fn new(of: &FamilyName, spec: &'a ImageFamilySpec, families: &'a F) -> Self {
        Self {
            families,
            spec,
            names: vec![of.clone()],
            visited: vec![VisitedFamily { family: None, images: image_indices(spec) }],
            indices: [(of.clone(), 0)].into(),
            graph: DiGraph::default(),
            nodes: HashMap::new(),
        }
    }

    /// Returns the other families, as they were read.
    fn consulted(&self) -> Vec<ConsultedFamily> {
        let mut consulted: Vec<ConsultedFamily> = self
            .names
            .iter()
            .zip(&self.visited)
            .map(|(family, visited)| ConsultedFamily {
                family: family.clone(),
                version: visited.family.as_deref().map(SpecVersion::of),
                images: BTreeSet::new(),
            })
            .collect();
        for ImagePosition { family, image } in self.nodes.keys() {
            let name = self
                .spec(*family)
                .and_then(|spec| spec.images.get(*image))
                .map(|image| image.name.clone());
            if let Some(consulted) = consulted.get_mut(*family) {
                consulted.images.extend(name);
            }
        }
        let mut others = consulted.split_off(1);
        others.sort_by(|a, b| a.family.cmp(&b.family));
        others
    }

    /// Returns the spec of a family: the one that is checked, or another as it was read.
    fn spec(&self, family: usize) -> Option<&ImageFamilySpec> {
        if family == 0 {
            Some(self.spec)
        } else {
            Some(&self.visited.get(family)?.family.as_ref()?.spec)
        }
    }

    /// Returns the position of an image of another family, or why a family may not use it.
    fn resolve_import(
        &mut self,
        of: &FamilyName,
        by: &str,
        import: &ImageName,
    ) -> Result<ImagePosition, ImportProblem> {
        let ImageName { family: name, image } = import;
        let (by, family, image) = (by.to_owned(), name.clone(), image.clone());
        if name == of {
            return Err(ImportProblem::OwnFamily { by, image });
        }
        let index = match self.indices.get(name) {
            Some(index) => *index,
            None => match self.visit(name) {
                Some(index) => index,
                None => return Err(ImportProblem::NotWatched { by, family }),
            },
        };
        let Some(spec) = self.spec(index) else {
            return Err(ImportProblem::FamilyNotFound { by, family });
        };
        let Some(position) = self.visited.get(index).and_then(|family| family.images.get(&image))
        else {
            return Err(ImportProblem::ImageNotFound { by, family, image });
        };
        let Some(export) = spec.exports.iter().find(|export| export.image == image) else {
            return Err(ImportProblem::NotExported { by, family, image });
        };
        let is_allowed = |namespace: &String| namespace == "*" || *namespace == of.namespace;
        if name.namespace == of.namespace || export.namespaces.iter().any(is_allowed) {
            Ok(ImagePosition { family: index, image: *position })
        } else {
            Err(ImportProblem::NotExportedToNamespace {
                by,
                family,
                image,
                namespace: of.namespace.clone(),
            })
        }
    }

    /// Reads a family that was not visited yet. Returns `None` if its namespace is not watched,
    /// which can only change when the operator restarts.
    fn visit(&mut self, name: &FamilyName) -> Option<usize> {
        let family = match self.families.family(name) {
            FamilyLookup::Found(family) => Some(family),
            FamilyLookup::NotFound => None,
            FamilyLookup::NotWatched => return None,
        };
        let images = family.as_ref().map(|family| image_indices(&family.spec)).unwrap_or_default();
        self.visited.push(VisitedFamily { family, images });
        self.names.push(name.clone());
        self.indices.insert(name.clone(), self.names.len() - 1);
        Some(self.names.len() - 1)
    }

    /// Adds the ancestors of the images that are built on other families. An image that may not be
    /// used is not added, because it is not built from either. Returns whether all ancestors were
    /// added.
    fn add_ancestors(&mut self) -> bool {
        let starts = self.spec.images.iter().enumerate();
        let starts =
            starts.filter(|(_, image)| image.from.iter().any(|edge| edge.family.is_some()));
        let mut queue: VecDeque<ImagePosition> =
            starts.map(|(image, _)| ImagePosition { family: 0, image }).collect();
        for position in &queue {
            let node = self.graph.add_node(*position);
            self.nodes.insert(*position, node);
        }
        while let Some(child) = queue.pop_front() {
            let Some(from) = self.nodes.get(&child).copied() else { continue };
            for parent in self.parents(child) {
                let node = match self.nodes.get(&parent) {
                    Some(node) => *node,
                    None if self.nodes.len() >= MAX_IMAGES => return false,
                    None => {
                        queue.push_back(parent);
                        let node = self.graph.add_node(parent);
                        self.nodes.insert(parent, node);
                        node
                    }
                };
                self.graph.update_edge(from, node, ());
            }
        }
        true
    }

    /// Returns the parents of an image that are images, and that its family may use.
    fn parents(&mut self, ImagePosition { family, image }: ImagePosition) -> Vec<ImagePosition> {
        let Some(name) = self.names.get(family).cloned() else { return Vec::new() };
        let Some(image) = self.spec(family).and_then(|spec| spec.images.get(image)) else {
            return Vec::new();
        };
        let (mut parents, mut imports) = (Vec::new(), Vec::new());
        for edge in &image.from {
            match (import(&name, edge), &edge.image) {
                (Some(import), _) => imports.push(import),
                (None, Some(parent)) => {
                    let index =
                        self.visited.get(family).and_then(|family| family.images.get(parent));
                    parents.extend(index.map(|image| ImagePosition { family, image: *image }));
                }
                (None, None) => {}
            }
        }
        parents.extend(
            imports.iter().filter_map(|import| self.resolve_import(&name, "", import).ok()),
        );
        parents
    }

    /// Returns the cycles through images of the checked family, by the import with which each
    /// leaves the family.
    fn cycles(&self) -> HashMap<ImageName, Vec<String>> {
        let mut component = vec![0; self.graph.node_count()];
        for (number, members) in kosaraju_scc(&self.graph).into_iter().enumerate() {
            for member in members {
                if let Some(component) = component.get_mut(member.index()) {
                    *component = number;
                }
            }
        }
        let mut cycles = HashMap::new();
        for edge in self.graph.raw_edges() {
            let (child, parent) = (edge.source(), edge.target());
            let leaves = self.graph[child].family == 0 && self.graph[parent].family != 0;
            if leaves && component.get(child.index()) == component.get(parent.index()) {
                cycles
                    .entry(self.name(parent))
                    .or_insert_with(|| self.shortest_cycle(child, parent));
            }
        }
        cycles
    }

    /// Returns the names along the shortest cycle that goes from a child to this parent.
    fn shortest_cycle(&self, child: NodeIndex<usize>, parent: NodeIndex<usize>) -> Vec<String> {
        let mut came_from: HashMap<NodeIndex<usize>, NodeIndex<usize>> = HashMap::new();
        let mut queue = VecDeque::from([parent]);
        while let Some(node) = queue.pop_front().filter(|node| *node != child) {
            for above in self.graph.neighbors(node) {
                if above != parent && !came_from.contains_key(&above) {
                    came_from.insert(above, node);
                    queue.push_back(above);
                }
            }
        }
        let mut walk = vec![child];
        let mut node = child;
        while let Some(below) = came_from.get(&node) {
            walk.push(*below);
            node = *below;
        }
        walk.push(child);
        walk.reverse();
        cycle_names(&walk, |node| self.name(*node).to_string())
    }

    #[allow(clippy::indexing_slicing, reason = "every node names a family that was visited")]
    fn name(&self, node: NodeIndex<usize>) -> ImageName {
        let ImagePosition { family, image } = self.graph[node];
        let name = self
            .spec(family)
            .and_then(|spec| spec.images.get(image))
            .map(|image| image.name.clone());
        ImageName { family: self.names[family].clone(), image: name.unwrap_or_default() }
    }
}

/// Maps the names of images to their indices in a spec.
fn image_indices(spec: &ImageFamilySpec) -> HashMap<String, usize> {
    spec.images.iter().enumerate().map(|(index, image)| (image.name.clone(), index)).collect()
}

impl fmt::Display for FamilyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.family, self.image)
    }
}
