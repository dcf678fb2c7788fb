//! The edges of images with `edges: Dockerfile`: what their Dockerfiles name becomes part of the
//! spec, before anything else reads it. Pure.
//!
//! - [`dockerfile`]: what a Dockerfile names, apart from what `from` declares
//! - [`parents`]: which parent that is: an upstream or an image of the family, or a new upstream
//! - [`names`]: the names of new upstreams
//! - this file: the expanded spec

pub mod dockerfile;
mod names;
mod parents;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    api::{
        Edge, EdgeSource, FoundEdge, ImageFamily, ImageFamilySpec, ManagedImage, UpstreamDefaults,
        condition::Reason,
    },
    engine::Problem,
    found_edges::{
        dockerfile::NamedParent,
        parents::{FamilyParents, FollowedTag, FoundParent, ParentOf},
    },
    lineage::{Lineage, LineageError},
};

/// Maximum number of upstreams of a family, with those that Dockerfiles name.
const MAX_UPSTREAMS: usize = 64;
/// Maximum number of edges of an image, with those that its Dockerfile names.
const MAX_EDGES: usize = 32;
/// Maximum number of cycles that are resolved one after another. A family with more is rejected.
const MAX_CYCLES: usize = 64;

/// What is known of the Dockerfile of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownParents {
    /// What it names; `None` if it could not be read.
    pub read: Option<Vec<NamedParent>>,
    /// What it named when it was last read.
    pub recorded: Option<Vec<NamedParent>>,
}

impl KnownParents {
    /// Returns what the record of an image says.
    #[must_use]
    pub fn recorded(record: Option<&ManagedImage>) -> Self {
        let edges = record.and_then(|record| record.status.as_ref()?.edges.as_ref());
        let named =
            |edge: &FoundEdge| NamedParent { reference: edge.reference.clone(), usage: edge.usage };
        let recorded = edges.map(|edges| edges.iter().take(MAX_EDGES).map(named).collect());
        Self { read: None, recorded }
    }
}

/// A spec with all edges.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeExpansion {
    /// The spec, with the edges and upstreams that Dockerfiles name.
    pub spec: ImageFamilySpec,
    /// The images, parallel to those of the spec.
    pub images: Vec<ExpandedImage>,
}

/// What the expansion has found for one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpandedImage {
    /// What the Dockerfile names; `None` if that is not known.
    pub edges: Option<Vec<FoundEdge>>,
    /// Why the image cannot be built with what the Dockerfile names.
    pub problem: Option<Problem>,
}

/// Whether the edges of an image of a family come from its Dockerfile.
#[must_use]
pub fn needs_expansion(spec: &ImageFamilySpec) -> bool {
    spec.images.iter().any(|image| image.edges == EdgeSource::Dockerfile)
}

/// Returns a family with the edges that its records say. Other families see it so.
#[must_use]
pub fn expanded_from_records(
    family: &ImageFamily,
    records: &[Arc<ManagedImage>],
) -> Arc<ImageFamily> {
    let records: BTreeMap<&str, &ManagedImage> =
        records.iter().map(|record| (record.spec.image.as_str(), &**record)).collect();
    let known: Vec<KnownParents> = family
        .spec
        .images
        .iter()
        .map(|image| KnownParents::recorded(records.get(image.name.as_str()).copied()))
        .collect();
    with_spec(family, expand_edges(&family.spec, &known).spec)
}

/// Returns a family with another spec.
#[must_use]
pub fn with_spec(family: &ImageFamily, spec: ImageFamilySpec) -> Arc<ImageFamily> {
    Arc::new(ImageFamily { metadata: family.metadata.clone(), spec, status: family.status.clone() })
}

/// Returns a spec with the edges and upstreams that Dockerfiles name. `known` is parallel to the
/// images.
#[must_use]
pub fn expand_edges(spec: &ImageFamilySpec, known: &[KnownParents]) -> EdgeExpansion {
    let mut builder = EdgeCollector::new(spec);
    for (index, known) in known.iter().enumerate().take(spec.images.len()) {
        builder.add_image(index, known);
    }
    builder.finish()
}

/// The parents of one image that its Dockerfile names.
#[derive(Default)]
struct FoundParents {
    parents: Vec<FoundParent>,
    problem: Option<Problem>,
    /// Whether the parents are what the Dockerfile names.
    are_known: bool,
}

struct EdgeCollector<'a> {
    spec: &'a ImageFamilySpec,
    family: FamilyParents<'a>,
    /// The tags that Dockerfiles name and no declared upstream follows.
    followed: BTreeSet<FollowedTag>,
    images: Vec<FoundParents>,
}

impl<'a> EdgeCollector<'a> {
    fn new(spec: &'a ImageFamilySpec) -> Self {
        let images = spec.images.iter().map(|_| FoundParents::default()).collect();
        Self { spec, family: FamilyParents::of(spec), followed: BTreeSet::new(), images }
    }

    /// Adds what the Dockerfile of an image names. If that cannot be used, the image keeps the
    /// edges that were recorded: its upstreams must not look new once it can be used again.
    fn add_image(&mut self, index: usize, known: &KnownParents) {
        if self.spec.images.get(index).is_none_or(|image| image.edges != EdgeSource::Dockerfile) {
            return;
        }
        let mut found = FoundParents::default();
        let named = known.read.as_ref().or(known.recorded.as_ref());
        match named.map(|named| self.resolve(index, named)) {
            Some(Ok(parents)) => {
                found = FoundParents { parents, problem: None, are_known: true };
            }
            Some(Err(problem)) => {
                let recorded = known.recorded.as_ref().filter(|_| known.read.is_some());
                let parents = recorded.and_then(|named| self.resolve(index, named).ok());
                found.are_known = parents.is_some();
                found.parents = parents.unwrap_or_default();
                found.problem = Some(problem);
            }
            None => {}
        }
        let new = found.parents.iter().filter_map(|parent| match &parent.of {
            ParentOf::NewUpstream(followed) => Some(followed.clone()),
            ParentOf::Upstream(_) | ParentOf::Image(_) => None,
        });
        self.followed.extend(new);
        if let Some(place) = self.images.get_mut(index) {
            *place = found;
        }
    }

    /// Returns the parents of an image, if the image and the family may have that many.
    fn resolve(&self, index: usize, named: &[NamedParent]) -> Result<Vec<FoundParent>, Problem> {
        let parents = self.family.resolve(index, named)?;
        let image = self.spec.images.get(index);
        let (name, declared) = image.map_or(("", 0), |image| (&*image.name, image.from.len()));
        if declared + parents.len() > MAX_EDGES {
            let message = format!(
                "spec.images[{name}]: `from` and the Dockerfile name {} images, and an image has \
                 at most {MAX_EDGES} edges; build parts of it as images of their own",
                declared + parents.len()
            );
            return Err(mismatch(message));
        }
        let is_new = |parent: &&FoundParent| match &parent.of {
            ParentOf::NewUpstream(followed) => !self.followed.contains(followed),
            ParentOf::Upstream(_) | ParentOf::Image(_) => false,
        };
        let new = parents.iter().filter(is_new).count();
        if self.spec.upstreams.len() + self.followed.len() + new > MAX_UPSTREAMS {
            let message = format!(
                "spec.images[{name}]: the Dockerfile names more upstreams than the \
                 {MAX_UPSTREAMS} that a family may have; move images to another family"
            );
            return Err(mismatch(message));
        }
        Ok(parents)
    }

    fn finish(mut self) -> EdgeExpansion {
        let declared = self.spec.upstreams.iter().map(|upstream| upstream.name.as_str());
        let followed = std::mem::take(&mut self.followed);
        let names = names::upstream_names(followed.iter(), declared);
        let mut spec = self.spec.clone();
        let defaults = spec.upstream_defaults.clone().unwrap_or_default();
        spec.upstreams.extend(new_upstreams(&names, &defaults));
        for (image, found) in spec.images.iter_mut().zip(&self.images) {
            image.from.extend(found.parents.iter().map(|parent| edge(parent, &names)));
        }
        self.break_cycles(&mut spec);
        let images = self.images.into_iter().map(|found| ExpandedImage {
            edges: found.are_known.then(|| recorded(&found.parents, &names)),
            problem: found.problem,
        });
        let images = images.collect();
        EdgeExpansion { spec, images }
    }

    /// Removes the edges between images with which Dockerfiles close cycles. The images report it,
    /// and the others go on.
    fn break_cycles(&mut self, spec: &mut ImageFamilySpec) {
        for _ in 0..MAX_CYCLES {
            let Err(LineageError::Cycle { path }) = Lineage::new(spec) else { return };
            let mut is_broken = false;
            let images = spec.images.iter_mut().zip(&self.spec.images).zip(&mut self.images);
            for ((image, declared), found) in
                images.filter(|((image, _), _)| path.contains(&image.name))
            {
                let is_image = |parent: &FoundParent| matches!(parent.of, ParentOf::Image(_));
                if !found.parents.iter().any(is_image) {
                    continue;
                }
                is_broken = true;
                let message = format!(
                    "spec.images[{}]: the Dockerfile closes a cycle: {}; name another image in it",
                    image.name,
                    path.join(" -> ")
                );
                found.problem = Some(Problem { reason: Reason::Cycle, message });
                found.parents.retain(|parent| !is_image(parent));
                let first_found = declared.from.len();
                let keep = |edge: &Edge| edge.image.is_none();
                let added = image.from.split_off(first_found);
                image.from.extend(added.into_iter().filter(keep));
            }
            if !is_broken {
                return;
            }
        }
    }
}

fn mismatch(message: String) -> Problem {
    Problem { reason: Reason::DockerfileMismatch, message }
}

fn new_upstreams<'a>(
    names: &'a BTreeMap<&FollowedTag, String>,
    defaults: &'a UpstreamDefaults,
) -> impl Iterator<Item = crate::api::Upstream> + 'a {
    names.iter().map(|(followed, name)| {
        defaults.upstream(name.clone(), followed.repository.clone(), followed.tag.clone())
    })
}

/// Returns the edge to a parent that a Dockerfile names.
fn edge(parent: &FoundParent, names: &BTreeMap<&FollowedTag, String>) -> Edge {
    let (upstream, image) = parent_names(parent, names);
    Edge {
        upstream,
        image,
        reference: parent.reference.clone(),
        usage: parent.named.usage,
        ..Edge::default()
    }
}

/// Returns the name of the upstream or of the image that a parent is.
fn parent_names(
    parent: &FoundParent,
    names: &BTreeMap<&FollowedTag, String>,
) -> (Option<String>, Option<String>) {
    match &parent.of {
        ParentOf::Upstream(name) => (Some(name.clone()), None),
        ParentOf::NewUpstream(followed) => (names.get(followed).cloned(), None),
        ParentOf::Image(name) => (None, Some(name.clone())),
    }
}

/// Returns what is recorded of the parents of an image.
fn recorded(parents: &[FoundParent], names: &BTreeMap<&FollowedTag, String>) -> Vec<FoundEdge> {
    let found = parents.iter().map(|parent| {
        let (upstream, image) = parent_names(parent, names);
        let NamedParent { reference, usage } = parent.named.clone();
        FoundEdge { reference, usage, upstream, image }
    });
    found.collect()
}
