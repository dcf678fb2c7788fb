//! The graph of a family: building, checking and querying it.

use std::collections::HashMap;

use petgraph::{
    algo::{tarjan_scc, toposort},
    graph::{DiGraph, NodeIndex},
};

use crate::{
    api::ImageFamilySpec,
    lineage::{ImageIndex, ImportIndex, UpstreamIndex},
};

/// Upper bound on the names of a cycle that an error lists.
const MAX_CYCLE_NAMES: usize = 20;

/// A parent of an image, by its index in the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// An entry of `spec.upstreams`.
    Upstream(UpstreamIndex),
    /// An entry of `spec.images`.
    Image(ImageIndex),
    /// An image of another family: an entry of [`Lineage::imports`].
    Import(ImportIndex),
}

/// An image of another family that images of this family are built on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Import {
    /// The other family's namespace; `None` if it is the same namespace.
    pub namespace: Option<String>,
    /// The other family's name.
    pub family: String,
    /// The image's name.
    pub image: String,
}

impl std::fmt::Display for Import {
    /// Writes `namespace/family.image`, without the namespace if it is the same.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}.{}", self.family, self.image)
    }
}

/// The checked graph of a family: it has no cycles, and every parent exists.
#[derive(Clone, Debug)]
pub struct Lineage {
    /// The parents of all images, one image after the other, each in the order of its `from`.
    parents: Vec<Parent>,
    /// Where the parents of each image start in that list. The last entry is its length.
    offsets: Vec<usize>,
    /// The children of each image, without repetition.
    children: Vec<Vec<ImageIndex>>,
    /// The direct children of each upstream, without repetition.
    upstream_children: Vec<Vec<ImageIndex>>,
    /// The imported images, without repetition, in the order in which they are first named.
    imports: Vec<Import>,
    /// The images level by level, so that parents precede children; within a level in the order of
    /// the spec.
    order: Vec<ImageIndex>,
    /// The level of each image: its distance from the upstreams, from 1.
    levels: Vec<usize>,
}

/// Why the edges of a spec are invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LineageError {
    /// Two entries of a list have the same name.
    #[error("spec.{list}: the name `{name}` is used twice; give each entry a unique name")]
    DuplicateName {
        /// The field of the list.
        list: &'static str,
        /// The name.
        name: String,
    },
    /// `from` names something that the family does not have.
    #[error(
        "spec.images[{image}].from names the {kind} `{parent}`, which the family does not have; \
         correct the name or add it"
    )]
    UnknownParent {
        /// The image whose `from` it is.
        image: String,
        /// `upstream` or `image`.
        kind: &'static str,
        /// The name that does not exist.
        parent: String,
    },
    /// The edges form a cycle.
    #[error(
        "spec.images: the edges form a cycle: {}; remove one of these `from` entries",
        .path.join(" -> ")
    )]
    Cycle {
        /// The names along the cycle, child before parent. The first name is repeated at the end.
        path: Vec<String>,
    },
}

impl Lineage {
    /// Builds and checks the graph of a spec. O(images + edges).
    #[allow(
        clippy::indexing_slicing,
        reason = "every index is one of `spec`, as long as the lists"
    )]
    pub fn new(spec: &ImageFamilySpec) -> Result<Self, LineageError> {
        let upstreams = spec.upstreams.iter().map(|upstream| upstream.name.as_str());
        let upstreams = index_names("upstreams", upstreams, UpstreamIndex::new)?;
        let images = spec.images.iter().map(|image| image.name.as_str());
        let images = index_names("images", images, ImageIndex::new)?;
        let mut imports = ImportList::default();
        let parents = spec
            .images
            .iter()
            .map(|image| {
                let parents = image.from.iter();
                parents
                    .map(|edge| {
                        resolve_parent(&image.name, edge, &upstreams, &images, &mut imports)
                    })
                    .collect()
            })
            .collect::<Result<Vec<Vec<Parent>>, _>>()?;

        let mut graph = DiGraph::<(), (), usize>::with_capacity(parents.len(), parents.len());
        let nodes: Vec<NodeIndex<usize>> = parents.iter().map(|_| graph.add_node(())).collect();
        let mut children = vec![Vec::new(); parents.len()];
        let mut upstream_children = vec![Vec::new(); spec.upstreams.len()];
        for (child, parents) in ImageIndex::enumerate(&parents) {
            for parent in parents {
                let siblings: &mut Vec<ImageIndex> = match *parent {
                    Parent::Import(_) => continue,
                    Parent::Upstream(parent) => &mut upstream_children[parent.position()],
                    Parent::Image(parent) => {
                        graph.add_edge(nodes[parent.position()], nodes[child.position()], ());
                        &mut children[parent.position()]
                    }
                };
                // Children are visited in ascending order, so that a second edge to the same parent
                // is the last entry.
                if siblings.last() != Some(&child) {
                    siblings.push(child);
                }
            }
        }

        let order = toposort(&graph, None).map_err(|_| cycle_error(spec, &graph, &parents))?;
        let mut order: Vec<ImageIndex> =
            order.into_iter().map(|node| ImageIndex::new(node.index())).collect();
        let levels = levels_of(&order, &parents);
        // Within a level the order is that of the spec, so that a traversal reads lists parallel to
        // the spec in the order of their memory.
        order.sort_unstable_by_key(|&image| (levels[image.position()], image));
        let offsets = parents.iter().scan(0, |end, parents| {
            *end += parents.len();
            Some(*end)
        });
        let offsets = std::iter::once(0).chain(offsets).collect();
        Ok(Self {
            parents: parents.concat(),
            offsets,
            children,
            upstream_children,
            imports: imports.list,
            order,
            levels,
        })
    }

    /// Returns the images level by level, so that parents precede children; within a level in the
    /// order of the spec.
    #[must_use]
    pub fn order(&self) -> &[ImageIndex] {
        &self.order
    }

    /// Returns the parents of an image, in the order of its `from`.
    #[must_use]
    pub fn parents(&self, image: ImageIndex) -> &[Parent] {
        let image = image.position();
        match (self.offsets.get(image), self.offsets.get(image + 1)) {
            (Some(&begin), Some(&end)) => self.parents.get(begin..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Returns the direct children of an image, without repetition.
    #[must_use]
    pub fn children(&self, image: ImageIndex) -> &[ImageIndex] {
        self.children.get(image.position()).map_or(&[], Vec::as_slice)
    }

    /// Returns the direct children of an upstream, without repetition.
    #[must_use]
    pub fn upstream_children(&self, upstream: UpstreamIndex) -> &[ImageIndex] {
        self.upstream_children.get(upstream.position()).map_or(&[], Vec::as_slice)
    }

    /// Returns the imported images, without repetition.
    #[must_use]
    pub fn imports(&self) -> &[Import] {
        &self.imports
    }

    /// Returns the level of an image: 1 if all parents are upstreams or imports, otherwise one more
    /// than the highest level of its parents.
    #[must_use]
    pub fn level(&self, image: ImageIndex) -> usize {
        self.levels.get(image.position()).copied().unwrap_or(1)
    }

    /// Returns the given images and all their descendants, as a mask over the images. Costs
    /// O(images + edges).
    #[must_use]
    pub fn with_descendants(&self, roots: impl IntoIterator<Item = ImageIndex>) -> Vec<bool> {
        let mut mask = vec![false; self.children.len()];
        let mut stack: Vec<ImageIndex> = roots.into_iter().collect();
        while let Some(image) = stack.pop() {
            if let Some(is_member) = mask.get_mut(image.position())
                && !std::mem::replace(is_member, true)
            {
                stack.extend(self.children(image));
            }
        }
        mask
    }

    /// Returns the images of a mask grouped by level, parents first; within a level in the order of
    /// the spec. Levels without an image are left out.
    #[must_use]
    pub fn by_level(&self, mask: &[bool]) -> Vec<Vec<ImageIndex>> {
        let mut levels: Vec<Vec<ImageIndex>> = Vec::new();
        let mask = mask.iter().take(self.children.len());
        for (image, _) in ImageIndex::enumerate(mask).filter(|(_, is_member)| **is_member) {
            let level = self.level(image);
            if levels.len() < level {
                levels.resize(level, Vec::new());
            }
            if let Some(members) = levels.get_mut(level.saturating_sub(1)) {
                members.push(image);
            }
        }
        levels.retain(|level| !level.is_empty());
        levels
    }

    /// Returns for each image the weight of the heaviest path from it down to a leaf, including the
    /// image itself. Costs O(images + edges).
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "every index is of this graph, as long as the list")]
    pub fn remaining_weights(&self, weight: impl Fn(ImageIndex) -> i64) -> Vec<i64> {
        let mut remaining = vec![0; self.children.len()];
        for &image in self.order.iter().rev() {
            let below = self
                .children(image)
                .iter()
                .map(|child| remaining[child.position()])
                .max()
                .unwrap_or(0);
            remaining[image.position()] = weight(image).saturating_add(below);
        }
        remaining
    }
}

/// Returns the level of each image. `order` lists parents before children.
#[allow(clippy::indexing_slicing, reason = "every index is one of the graph, as long as the lists")]
fn levels_of(order: &[ImageIndex], parents: &[Vec<Parent>]) -> Vec<usize> {
    let mut levels = vec![1; parents.len()];
    for image in order {
        let above = parents[image.position()].iter().filter_map(|parent| match parent {
            Parent::Image(parent) => Some(levels[parent.position()]),
            Parent::Upstream(_) | Parent::Import(_) => None,
        });
        levels[image.position()] = above.max().unwrap_or(0) + 1;
    }
    levels
}

/// Maps names to their index in a list. Returns an error if a name occurs twice.
fn index_names<'a, I>(
    list: &'static str,
    names: impl Iterator<Item = &'a str>,
    new: impl Fn(usize) -> I,
) -> Result<HashMap<&'a str, I>, LineageError> {
    let mut index = HashMap::new();
    for (position, name) in names.enumerate() {
        if index.insert(name, new(position)).is_some() {
            return Err(LineageError::DuplicateName { list, name: name.into() });
        }
    }
    Ok(index)
}

/// A list of imports without repetition.
#[derive(Default)]
struct ImportList {
    list: Vec<Import>,
    indices: HashMap<Import, ImportIndex>,
}

impl ImportList {
    /// Returns the index of an import, which is added if it is new.
    fn index_of(&mut self, import: Import) -> ImportIndex {
        *self.indices.entry(import.clone()).or_insert_with(|| {
            self.list.push(import);
            ImportIndex::new(self.list.len() - 1)
        })
    }
}

/// Returns the parent that an edge names.
fn resolve_parent(
    image: &str,
    edge: &crate::api::Edge,
    upstreams: &HashMap<&str, UpstreamIndex>,
    images: &HashMap<&str, ImageIndex>,
    imports: &mut ImportList,
) -> Result<Parent, LineageError> {
    if let (Some(family), Some(name)) = (&edge.family, &edge.image) {
        let import = Import {
            namespace: family.namespace.clone(),
            family: family.name.clone(),
            image: name.clone(),
        };
        return Ok(Parent::Import(imports.index_of(import)));
    }
    let parent = edge.parent();
    let (kind, found) = if edge.upstream.is_some() {
        ("upstream", upstreams.get(parent).copied().map(Parent::Upstream))
    } else {
        ("image", images.get(parent).copied().map(Parent::Image))
    };
    found.ok_or_else(|| LineageError::UnknownParent {
        image: image.into(),
        kind,
        parent: parent.into(),
    })
}

/// Returns the error for a graph with a cycle.
///
/// It follows edges from child to parent within a strongly connected component until an image
/// recurs.
#[allow(clippy::indexing_slicing, reason = "every index is one of the graph, as long as `parents`")]
fn cycle_error(
    spec: &ImageFamilySpec,
    graph: &DiGraph<(), (), usize>,
    parents: &[Vec<Parent>],
) -> LineageError {
    let name = |image: &ImageIndex| {
        spec.images.get(image.position()).map_or_else(String::new, |image| image.name.clone())
    };
    let is_own_parent =
        |image: &ImageIndex| parents[image.position()].contains(&Parent::Image(*image));
    let inside: Vec<ImageIndex> = tarjan_scc(graph)
        .into_iter()
        .map(|nodes| {
            nodes.into_iter().map(|node| ImageIndex::new(node.index())).collect::<Vec<_>>()
        })
        .find(|component| component.len() > 1 || component.iter().any(is_own_parent))
        .unwrap_or_default();
    let members: std::collections::HashSet<ImageIndex> = inside.iter().copied().collect();
    let mut walk: Vec<ImageIndex> = inside.iter().min().copied().into_iter().collect();
    while let Some(&last) = walk.last() {
        let next = parents[last.position()].iter().find_map(|parent| match parent {
            Parent::Image(parent) if members.contains(parent) => Some(*parent),
            _ => None,
        });
        let Some(next) = next else { break };
        if let Some(start) = walk.iter().position(|image| *image == next) {
            walk.drain(..start);
            walk.push(next);
            break;
        }
        walk.push(next);
    }
    LineageError::Cycle { path: cycle_names(&walk, name) }
}

/// Returns the names along a cycle. A long cycle is shortened to its first names and its last one,
/// which equals the first.
pub(super) fn cycle_names<T>(walk: &[T], name: impl Fn(&T) -> String) -> Vec<String> {
    let mut path: Vec<String> = walk.iter().take(MAX_CYCLE_NAMES).map(&name).collect();
    if walk.len() > MAX_CYCLE_NAMES {
        path.push("…".into());
        path.extend(walk.last().map(name));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Edge, Image, Upstream};

    /// Returns a spec from `("child", "parent parent")`. A parent in capitals is an upstream.
    fn spec(images: &[(&str, &str)]) -> ImageFamilySpec {
        let edge = |parent: &str| {
            if parent.chars().all(char::is_uppercase) {
                Edge { upstream: Some(parent.to_lowercase()), ..Edge::default() }
            } else {
                Edge { image: Some(parent.into()), ..Edge::default() }
            }
        };
        ImageFamilySpec {
            upstreams: vec![Upstream { name: "a".into(), ..Upstream::default() }],
            images: images
                .iter()
                .map(|(name, parents)| Image {
                    name: (*name).into(),
                    from: parents.split_whitespace().map(edge).collect(),
                    ..Image::default()
                })
                .collect(),
            ..ImageFamilySpec::default()
        }
    }

    #[test]
    fn a_diamond_has_three_levels_and_lists_its_join_once() {
        let lineage = Lineage::new(&spec(&[
            ("join", "left right"),
            ("right", "base"),
            ("left", "base"),
            ("base", "A"),
        ]))
        .expect("ok");
        let [join, right, left, base] = [0, 1, 2, 3].map(ImageIndex::new);
        let levels = [join, right, left, base].map(|image| lineage.level(image));
        assert_eq!(levels, [3, 2, 2, 1]);
        assert_eq!(lineage.order().first(), Some(&base));
        assert_eq!(lineage.order().last(), Some(&join));
        let upstream = UpstreamIndex::new(0);
        assert_eq!(lineage.upstream_children(upstream), [base]);
        let all = lineage.with_descendants(lineage.upstream_children(upstream).iter().copied());
        assert_eq!(lineage.by_level(&all), vec![vec![base], vec![right, left], vec![join]]);
        assert_eq!(lineage.with_descendants([right]), [true, true, false, false]);
        assert_eq!(lineage.remaining_weights(|_| 1), [1, 2, 2, 3]);
    }

    #[test]
    fn two_edges_to_one_parent_count_as_one_child() {
        let lineage = Lineage::new(&spec(&[("base", "A A"), ("app", "base base")])).expect("ok");
        let [base, app] = [0, 1].map(ImageIndex::new);
        assert_eq!(lineage.children(base), [app]);
        assert_eq!(lineage.upstream_children(UpstreamIndex::new(0)), [base]);
    }

    #[test]
    fn a_cycle_is_spelled_out() {
        let error = Lineage::new(&spec(&[("base", "A"), ("x", "base z"), ("y", "x"), ("z", "y")]))
            .expect_err("cycle");
        assert_eq!(
            error,
            LineageError::Cycle { path: ["x", "z", "y", "x"].map(String::from).to_vec() }
        );
        let error = Lineage::new(&spec(&[("me", "A me")])).expect_err("cycle");
        assert_eq!(error, LineageError::Cycle { path: ["me", "me"].map(String::from).to_vec() });
    }

    #[test]
    fn unknown_and_repeated_names_are_reported() {
        let error = Lineage::new(&spec(&[("app", "missing")])).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "spec.images[app].from names the image `missing`, which the family does not have; \
             correct the name or add it"
        );
        let error = Lineage::new(&spec(&[("app", "A"), ("app", "A")])).expect_err("twice");
        assert_eq!(error, LineageError::DuplicateName { list: "images", name: "app".into() });
    }
}
