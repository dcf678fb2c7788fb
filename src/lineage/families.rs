//! Families that stand on images of other families: is each such image there, is its use consented
//! to, and does no image stand on itself in the end.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use petgraph::{
    algo::kosaraju_scc,
    graph::{DiGraph, NodeIndex},
};

use crate::{
    api::{
        Edge, ImageFamily, ImageFamilySpec,
        condition::{Problem, reason},
    },
    lineage::graph::spelled,
};

/// The most images of all families that a walk looks at.
pub const MAX_IMAGES: usize = 50_000;

/// A family of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FamilyName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An image of a family of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    /// The family.
    pub family: FamilyName,
    /// The image's name in it.
    pub image: String,
}

/// What is known of a family.
#[derive(Clone, Debug)]
pub enum FamilyLookup {
    /// It is there.
    Family(Arc<ImageFamily>),
    /// There is none of this name.
    Missing,
    /// Its namespace is not watched.
    NotWatched,
}

/// Families by name.
pub trait Families {
    /// The family of this name.
    fn family(&self, name: &FamilyName) -> FamilyLookup;
}

/// Why an image of another family can't be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImportProblem {
    /// `family` names the family itself.
    #[error(
        "spec.images[{by}].from names the image `{image}` of this very family: leave `family` \
             out"
    )]
    Own {
        /// The image whose `from` it is.
        by: String,
        /// The image that it names.
        image: String,
    },
    /// There is no such family.
    #[error(
        "spec.images[{by}].from names the ImageFamily {family}, which does not exist: correct \
         `family` or create it"
    )]
    NoFamily {
        /// The image whose `from` it is.
        by: String,
        /// The family that is not there.
        family: FamilyName,
    },
    /// The operator does not see the family's namespace.
    #[error(
        "spec.images[{by}].from names the ImageFamily {family}, whose namespace this operator does \
         not watch: have it watched, or name a family of another one"
    )]
    NotWatched {
        /// The image whose `from` it is.
        by: String,
        /// The family.
        family: FamilyName,
    },
    /// The family does not have the image.
    #[error(
        "spec.images[{by}].from names the image `{image}` of {family}, which has none of that \
         name: it was renamed or taken out there; correct the name or have it put back"
    )]
    NoImage {
        /// The image whose `from` it is.
        by: String,
        /// The other family.
        family: FamilyName,
        /// The image that is not there.
        image: String,
    },
    /// The family does not export the image.
    #[error(
        "spec.images[{by}].from names the image `{image}` of {family}, which does not export it: \
         have it listed in spec.exports there"
    )]
    NotExported {
        /// The image whose `from` it is.
        by: String,
        /// The other family.
        family: FamilyName,
        /// Its image.
        image: String,
    },
    /// The family exports the image, and not to this namespace.
    #[error(
        "spec.images[{by}].from names the image `{image}` of {family}, which does not export it to \
         the namespace {namespace}: have {namespace} listed in spec.exports[{image}].namespaces \
         there"
    )]
    NotToNamespace {
        /// The image whose `from` it is.
        by: String,
        /// The other family.
        family: FamilyName,
        /// Its image.
        image: String,
        /// The namespace of the family that names it.
        namespace: String,
    },
    /// The image stands on the one that names it.
    #[error("the edges run in a circle through several families: {}; take one of these `from` \
             entries out", .path.join(" -> "))]
    Cycle {
        /// Names along the circle, child before parent; the first is repeated at the end.
        path: Vec<String>,
    },
    /// Too much stands above to tell whether the edges run in a circle.
    #[error(
        "more than {MAX_IMAGES} images of other families stand above this one, and no more are \
         looked at: stand on fewer, or on upstreams"
    )]
    TooMany,
}

/// What became of a look at the images of other families that a family names.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Each of these images once, in the order in which they are first named, with what is wrong
    /// with it.
    pub imports: Vec<(ImageName, Option<ImportProblem>)>,
    /// The other families that this depends on, sorted by name.
    pub consulted: Vec<Consulted>,
}

/// A family that a survey depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consulted {
    /// The family.
    pub family: FamilyName,
    /// Which spec of it was looked at; `None` if there was no such family.
    pub version: Option<Version>,
    /// Its images that were looked at because something stands on them.
    pub images: BTreeSet<String>,
}

/// Tells one spec of a family from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    uid: Option<String>,
    generation: Option<i64>,
}

impl Version {
    /// The version of a family's spec.
    #[must_use]
    pub fn of(family: &ImageFamily) -> Self {
        Self { uid: family.metadata.uid.clone(), generation: family.metadata.generation }
    }
}

/// Checks the images of other families that a family stands on. Its own graph has been checked.
/// O(images + edges) of all families above it, at most [`MAX_IMAGES`].
#[must_use]
pub fn check_imports(of: &FamilyName, spec: &ImageFamilySpec, families: &impl Families) -> Survey {
    let mut walk = Walk::new(of, spec, families);
    let mut named: Vec<(ImageName, usize)> = Vec::new();
    let mut places: HashMap<ImageName, usize> = HashMap::new();
    for (by, image) in spec.images.iter().enumerate() {
        for import in image.from.iter().filter_map(|edge| import(of, edge)) {
            places.entry(import.clone()).or_insert_with(|| {
                named.push((import, by));
                named.len() - 1
            });
        }
    }
    let mut imports: Vec<(ImageName, Option<ImportProblem>)> = named
        .into_iter()
        .map(|(import, by)| {
            let by = spec.images.get(by).map_or("", |image| image.name.as_str());
            let problem = walk.usable(of, by, &import).err();
            (import, problem)
        })
        .collect();
    if imports.iter().any(|(_, problem)| problem.is_none()) {
        let complete = walk.climb();
        let cycles = walk.cycles();
        for (import, problem) in imports.iter_mut().filter(|(_, problem)| problem.is_none()) {
            *problem = match (cycles.get(import), complete) {
                (Some(path), _) => Some(ImportProblem::Cycle { path: path.clone() }),
                (None, false) => Some(ImportProblem::TooMany),
                (None, true) => None,
            };
        }
    }
    Survey { imports, consulted: walk.consulted() }
}

/// The image of another family that an edge names, if it does.
#[must_use]
pub fn import(of: &FamilyName, edge: &Edge) -> Option<ImageName> {
    let family = edge.family.as_ref()?;
    let namespace = family.namespace.clone().unwrap_or_else(|| of.namespace.clone());
    let family = FamilyName { namespace, name: family.name.clone() };
    Some(ImageName { family, image: edge.image.clone()? })
}

/// A family that the walk has come to.
struct Known {
    family: Option<Arc<ImageFamily>>,
    places: HashMap<String, usize>,
}

/// An image by the place of its family in the walk, and by its place in that.
type Place = (usize, usize);

/// The way up from a family, over all families.
struct Walk<'a, F> {
    families: &'a F,
    spec: &'a ImageFamilySpec,
    names: Vec<FamilyName>,
    known: Vec<Known>,
    indices: HashMap<FamilyName, usize>,
    /// Edges from child to parent.
    graph: DiGraph<Place, (), usize>,
    nodes: HashMap<Place, NodeIndex<usize>>,
}

impl<'a, F: Families> Walk<'a, F> {
    fn new(of: &FamilyName, spec: &'a ImageFamilySpec, families: &'a F) -> Self {
        Self {
            families,
            spec,
            names: vec![of.clone()],
            known: vec![Known { family: None, places: places(spec) }],
            indices: [(of.clone(), 0)].into(),
            graph: DiGraph::default(),
            nodes: HashMap::new(),
        }
    }

    /// The other families, as they were seen.
    fn consulted(&self) -> Vec<Consulted> {
        let mut consulted: Vec<Consulted> = self
            .names
            .iter()
            .zip(&self.known)
            .map(|(family, known)| Consulted {
                family: family.clone(),
                version: known.family.as_deref().map(Version::of),
                images: BTreeSet::new(),
            })
            .collect();
        for (family, image) in self.nodes.keys() {
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

    /// The spec of a family: of the one that is checked, or as it was found.
    fn spec(&self, family: usize) -> Option<&ImageFamilySpec> {
        if family == 0 {
            Some(self.spec)
        } else {
            Some(&self.known.get(family)?.family.as_ref()?.spec)
        }
    }

    /// The place of an image of another family that a family may use.
    fn usable(
        &mut self,
        of: &FamilyName,
        by: &str,
        import: &ImageName,
    ) -> Result<Place, ImportProblem> {
        let ImageName { family: name, image } = import;
        let (by, family, image) = (by.to_owned(), name.clone(), image.clone());
        if name == of {
            return Err(ImportProblem::Own { by, image });
        }
        let index = match self.indices.get(name) {
            Some(index) => *index,
            None => match self.find(name) {
                Some(index) => index,
                None => return Err(ImportProblem::NotWatched { by, family }),
            },
        };
        let Some(spec) = self.spec(index) else {
            return Err(ImportProblem::NoFamily { by, family });
        };
        let Some(place) = self.known.get(index).and_then(|known| known.places.get(&image)) else {
            return Err(ImportProblem::NoImage { by, family, image });
        };
        let Some(export) = spec.exports.iter().find(|export| export.image == image) else {
            return Err(ImportProblem::NotExported { by, family, image });
        };
        let listed = |namespace: &String| namespace == "*" || *namespace == of.namespace;
        if name.namespace == of.namespace || export.namespaces.iter().any(listed) {
            Ok((index, *place))
        } else {
            Err(ImportProblem::NotToNamespace {
                by,
                family,
                image,
                namespace: of.namespace.clone(),
            })
        }
    }

    /// Looks a family up, once; `None` if its namespace is not seen, which may change only with the
    /// process.
    fn find(&mut self, name: &FamilyName) -> Option<usize> {
        let family = match self.families.family(name) {
            FamilyLookup::Family(family) => Some(family),
            FamilyLookup::Missing => None,
            FamilyLookup::NotWatched => return None,
        };
        let places = family.as_ref().map(|family| places(&family.spec)).unwrap_or_default();
        self.known.push(Known { family, places });
        self.names.push(name.clone());
        self.indices.insert(name.clone(), self.names.len() - 1);
        Some(self.names.len() - 1)
    }

    /// Follows every edge up from the images that stand on other families. What may not be used is
    /// not followed: it is not built from either. Whether the top was reached.
    fn climb(&mut self) -> bool {
        let starts = self.spec.images.iter().enumerate();
        let starts =
            starts.filter(|(_, image)| image.from.iter().any(|edge| edge.family.is_some()));
        let mut queue: VecDeque<Place> = starts.map(|(place, _)| (0, place)).collect();
        for place in &queue {
            let node = self.graph.add_node(*place);
            self.nodes.insert(*place, node);
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

    fn parents(&mut self, (family, image): Place) -> Vec<Place> {
        let Some(name) = self.names.get(family).cloned() else { return Vec::new() };
        let Some(image) = self.spec(family).and_then(|spec| spec.images.get(image)) else {
            return Vec::new();
        };
        let (mut parents, mut imports) = (Vec::new(), Vec::new());
        for edge in &image.from {
            match (import(&name, edge), &edge.image) {
                (Some(import), _) => imports.push(import),
                (None, Some(parent)) => {
                    let place = self.known.get(family).and_then(|known| known.places.get(parent));
                    parents.extend(place.map(|place| (family, *place)));
                }
                (None, None) => {}
            }
        }
        parents.extend(imports.iter().filter_map(|import| self.usable(&name, "", import).ok()));
        parents
    }

    /// The circles through images of the family, by the import through which they leave it.
    fn cycles(&self) -> HashMap<ImageName, Vec<String>> {
        let mut component = vec![0; self.graph.node_count()];
        for (number, members) in kosaraju_scc(&self.graph).into_iter().enumerate() {
            for member in members {
                component[member.index()] = number;
            }
        }
        let mut cycles = HashMap::new();
        for edge in self.graph.raw_edges() {
            let (child, parent) = (edge.source(), edge.target());
            let leaves = self.graph[child].0 == 0 && self.graph[parent].0 != 0;
            if leaves && component[child.index()] == component[parent.index()] {
                cycles.entry(self.name(parent)).or_insert_with(|| self.spell(child, parent));
            }
        }
        cycles
    }

    /// The shortest circle that goes from a child to this parent, by names.
    fn spell(&self, child: NodeIndex<usize>, parent: NodeIndex<usize>) -> Vec<String> {
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
        spelled(&walk, |node| self.name(*node).to_string())
    }

    fn name(&self, node: NodeIndex<usize>) -> ImageName {
        let (family, image) = self.graph[node];
        let name = self
            .spec(family)
            .and_then(|spec| spec.images.get(image))
            .map(|image| image.name.clone());
        ImageName { family: self.names[family].clone(), image: name.unwrap_or_default() }
    }
}

fn places(spec: &ImageFamilySpec) -> HashMap<String, usize> {
    spec.images.iter().enumerate().map(|(place, image)| (image.name.clone(), place)).collect()
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

impl ImportProblem {
    /// Whether it is wrong whatever the other families are.
    #[must_use]
    pub const fn is_of_spec_alone(&self) -> bool {
        matches!(self, Self::Own { .. })
    }
}

impl From<ImportProblem> for Problem {
    fn from(problem: ImportProblem) -> Self {
        let reason =
            if problem.is_of_spec_alone() { reason::INVALID_SPEC } else { reason::IMPORT_REFUSED };
        Self { reason, message: problem.to_string() }
    }
}
