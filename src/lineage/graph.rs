//! Building and checking the graph.

use std::collections::HashMap;

use petgraph::{
    algo::{tarjan_scc, toposort},
    graph::{DiGraph, NodeIndex},
};

use crate::{
    api::ImageFamilySpec,
    lineage::{ImageIndex, ImportIndex, UpstreamIndex},
};

/// The most names of a cycle that an error spells out.
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

/// An image of another family that images of this one stand on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Import {
    /// The other family's namespace, if it is not this one's.
    pub namespace: Option<String>,
    /// The other family.
    pub family: String,
    /// Its image.
    pub image: String,
}

impl std::fmt::Display for Import {
    /// `namespace/family.image`, without the namespace where it is the own one.
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
    /// Where the parents of each image begin in that list; at last where it ends.
    begins: Vec<usize>,
    /// Children per image, each once.
    children: Vec<Vec<ImageIndex>>,
    /// Images that stand directly on an upstream, per upstream, each once.
    upstream_children: Vec<Vec<ImageIndex>>,
    /// Images of other families that images stand on, each once, in the order in which they are
    /// first named.
    imports: Vec<Import>,
    /// Images level by level, so that parents come before children; in the order of the spec within
    /// a level.
    order: Vec<ImageIndex>,
    /// Distance from the upstreams per image, from 1.
    levels: Vec<usize>,
}

/// Why a spec is not a graph that can be built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LineageError {
    /// Two entries of a list have one name.
    #[error("spec.{list}: the name `{name}` stands there twice; give each entry a name of its own")]
    DuplicateName {
        /// The list.
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
        /// The name that is not there.
        parent: String,
    },
    /// The edges run in a circle.
    #[error("spec.images: the edges run in a circle: {}; take one of these `from` entries out", .path.join(" -> "))]
    Cycle {
        /// Names along the circle, child before parent; the first is repeated at the end.
        path: Vec<String>,
    },
}

impl Lineage {
    /// Builds and checks the graph of a spec. O(images + edges).
    pub fn new(spec: &ImageFamilySpec) -> Result<Self, LineageError> {
        let upstreams = spec.upstreams.iter().map(|upstream| upstream.name.as_str());
        let upstreams = index("upstreams", upstreams, UpstreamIndex::new)?;
        let images = spec.images.iter().map(|image| image.name.as_str());
        let images = index("images", images, ImageIndex::new)?;
        let mut imports = Imports::default();
        let parents = spec
            .images
            .iter()
            .map(|image| {
                let parents = image.from.iter();
                parents
                    .map(|edge| resolve(&image.name, edge, &upstreams, &images, &mut imports))
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

        let order = toposort(&graph, None).map_err(|_| cycle(spec, &graph, &parents))?;
        let mut order: Vec<ImageIndex> =
            order.into_iter().map(|node| ImageIndex::new(node.index())).collect();
        let mut levels = vec![1; parents.len()];
        for image in &order {
            let above = parents[image.position()].iter().filter_map(|parent| match parent {
                Parent::Image(parent) => Some(levels[parent.position()]),
                Parent::Upstream(_) | Parent::Import(_) => None,
            });
            levels[image.position()] = above.max().unwrap_or(0) + 1;
        }
        // Level by level as the spec has them, so that a walk reads what is known of the images in
        // the order in which it lies in memory.
        order.sort_unstable_by_key(|&image| (levels[image.position()], image));
        let begins = parents.iter().scan(0, |end, parents| {
            *end += parents.len();
            Some(*end)
        });
        let begins = std::iter::once(0).chain(begins).collect();
        Ok(Self {
            parents: parents.concat(),
            begins,
            children,
            upstream_children,
            imports: imports.list,
            order,
            levels,
        })
    }

    /// Images level by level, so that parents come before children; in the order of the spec within
    /// a level.
    #[must_use]
    pub fn order(&self) -> &[ImageIndex] {
        &self.order
    }

    /// The parents of an image, in the order of its `from`.
    #[must_use]
    pub fn parents(&self, image: ImageIndex) -> &[Parent] {
        let image = image.position();
        match (self.begins.get(image), self.begins.get(image + 1)) {
            (Some(&begin), Some(&end)) => self.parents.get(begin..end).unwrap_or_default(),
            _ => &[],
        }
    }

    /// The images that stand directly on an image, each once.
    #[must_use]
    pub fn children(&self, image: ImageIndex) -> &[ImageIndex] {
        self.children.get(image.position()).map_or(&[], Vec::as_slice)
    }

    /// The images that stand directly on an upstream, each once.
    #[must_use]
    pub fn upstream_children(&self, upstream: UpstreamIndex) -> &[ImageIndex] {
        self.upstream_children.get(upstream.position()).map_or(&[], Vec::as_slice)
    }

    /// The images of other families that images stand on, each once.
    #[must_use]
    pub fn imports(&self) -> &[Import] {
        &self.imports
    }

    /// The level of an image: 1 if it stands on upstreams and other families only, else one more
    /// than its highest parent.
    #[must_use]
    pub fn level(&self, image: ImageIndex) -> usize {
        self.levels.get(image.position()).copied().unwrap_or(1)
    }

    /// The given images and all that stand on them, as a mask over the images. O(images + edges).
    #[must_use]
    pub fn with_descendants(&self, roots: impl IntoIterator<Item = ImageIndex>) -> Vec<bool> {
        let mut mask = vec![false; self.children.len()];
        let mut stack: Vec<ImageIndex> = roots.into_iter().collect();
        while let Some(image) = stack.pop() {
            if let Some(seen) = mask.get_mut(image.position())
                && !std::mem::replace(seen, true)
            {
                stack.extend(self.children(image));
            }
        }
        mask
    }

    /// The images of a mask grouped by level, parents first; in the order of the spec within a
    /// level.
    #[must_use]
    pub fn by_level(&self, mask: &[bool]) -> Vec<Vec<ImageIndex>> {
        let mut levels: Vec<Vec<ImageIndex>> = Vec::new();
        let mask = mask.iter().take(self.children.len());
        for (image, _) in ImageIndex::enumerate(mask).filter(|(_, is_member)| **is_member) {
            let level = self.level(image);
            if levels.len() < level {
                levels.resize(level, Vec::new());
            }
            levels[level - 1].push(image);
        }
        levels.retain(|level| !level.is_empty());
        levels
    }

    /// For each image the weight of the heaviest path from it down to a leaf, itself included.
    /// O(images + edges).
    #[must_use]
    pub fn remaining(&self, weight: impl Fn(ImageIndex) -> i64) -> Vec<i64> {
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

fn index<'a, I>(
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

/// Imports, each once.
#[derive(Default)]
struct Imports {
    list: Vec<Import>,
    places: HashMap<Import, ImportIndex>,
}

impl Imports {
    fn place(&mut self, import: Import) -> ImportIndex {
        *self.places.entry(import.clone()).or_insert_with(|| {
            self.list.push(import);
            ImportIndex::new(self.list.len() - 1)
        })
    }
}

fn resolve(
    image: &str,
    edge: &crate::api::Edge,
    upstreams: &HashMap<&str, UpstreamIndex>,
    images: &HashMap<&str, ImageIndex>,
    imports: &mut Imports,
) -> Result<Parent, LineageError> {
    if let (Some(family), Some(name)) = (&edge.family, &edge.image) {
        let import = Import {
            namespace: family.namespace.clone(),
            family: family.name.clone(),
            image: name.clone(),
        };
        return Ok(Parent::Import(imports.place(import)));
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

/// Walks from child to parent inside of one strongly connected component until an image comes up
/// again.
fn cycle(
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
    LineageError::Cycle { path: spelled(&walk, name) }
}

/// The names along a circle; of a long one the first, and the last, which is the first again.
pub(super) fn spelled<T>(walk: &[T], name: impl Fn(&T) -> String) -> Vec<String> {
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

    /// `("child", "parent parent")`; a parent in capitals is an upstream.
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
    fn a_diamond_has_three_levels_and_its_join_once() {
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
        assert_eq!(lineage.remaining(|_| 1), [1, 2, 2, 3]);
    }

    #[test]
    fn two_edges_to_one_parent_are_one_child() {
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
    fn unknown_and_repeated_names_are_named() {
        let error = Lineage::new(&spec(&[("app", "nobody")])).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "spec.images[app].from names the image `nobody`, which the family does not have; \
             correct the name or add it"
        );
        let error = Lineage::new(&spec(&[("app", "A"), ("app", "A")])).expect_err("twice");
        assert_eq!(error, LineageError::DuplicateName { list: "images", name: "app".into() });
    }
}
