//! The entries of `spec.images` that stand for the images of one family.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::{
    api::{Edge, EdgeSource, FamilyRef, GitSource, Image, Source, dns_label::to_label},
    registry::Reference,
};

use crate::import::{
    analysis::ImportedImage,
    definition::DockerfileOrigin,
    grouping::FamilyGroups,
    references::{EdgeParent, ImportedEdge},
};

/// The tag of a reference without one.
const LATEST: &str = "latest";
/// Length to which the name of an upstream is cut, so that it can still be made unique.
const MAX_UPSTREAM_NAME: usize = 50;

/// A family whose images are not folded yet.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainFamily {
    pub name: String,
    pub images: Vec<Image>,
    /// The names of the images whose tags a file or the mapping says.
    pub known_tags: BTreeSet<String>,
    /// The names of the images that other families are built on.
    pub exports: BTreeSet<String>,
    /// The upstreams that the family has already: names, with the references that they follow.
    pub known_upstreams: BTreeMap<String, String>,
}

/// Returns the families with their images and edges. The Dockerfiles say the edges wherever the
/// controller finds them by itself; the others are entries of `from`.
pub fn families(
    images: &[ImportedImage],
    groups: &FamilyGroups,
    repository: &str,
) -> Vec<PlainFamily> {
    let mut family_of: BTreeMap<usize, &str> = BTreeMap::new();
    for (family, positions) in groups {
        family_of.extend(positions.iter().map(|position| (*position, family.as_str())));
    }
    let names = RepositoryNames::of(images, &family_of, repository);
    let mut exports: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut families = Vec::new();
    for (family, positions) in groups {
        let members: Vec<&ImportedImage> =
            positions.iter().filter_map(|position| images.get(*position)).collect();
        let mut plain = Vec::new();
        for (position, image) in positions.iter().zip(&members) {
            let mut from = Vec::new();
            for edge in &image.edges {
                let Some(entry) = names.entry(*position, edge) else { continue };
                if let EdgeParent::Image(parent) = edge.parent
                    && entry.family.is_some()
                    && let (Some(of), Some(name)) = (family_of.get(&parent), &entry.image)
                {
                    exports.entry(of).or_default().insert(name.clone());
                }
                from.push(entry);
            }
            plain.push(plain_image(image, from));
        }
        let known_tags =
            members.iter().filter(|one| one.has_known_tags).map(|one| one.name.clone()).collect();
        families.push(PlainFamily {
            name: family.clone(),
            images: plain,
            known_tags,
            exports: BTreeSet::new(),
            known_upstreams: BTreeMap::new(),
        });
    }
    for family in &mut families {
        family.exports = exports.remove(family.name.as_str()).unwrap_or_default();
    }
    families
}

fn plain_image(image: &ImportedImage, from: Vec<Edge>) -> Image {
    let definition = &image.definition;
    let source = match &definition.dockerfile {
        DockerfileOrigin::Inline(text) => {
            Source { inline: Some(text.clone()), ..Source::default() }
        }
        DockerfileOrigin::File(file) => {
            let path = if definition.context.is_empty() { "." } else { &definition.context };
            let dockerfile =
                if file == GitSource::DOCKERFILE { String::new() } else { file.clone() };
            let git = GitSource { path: Some(path.to_owned()), dockerfile, ..GitSource::default() };
            Source { git: Some(git), ..Source::default() }
        }
    };
    Image {
        name: image.name.clone(),
        path: image.path.clone(),
        edges: EdgeSource::Dockerfile,
        from,
        source,
        args: definition.args.clone(),
        target: definition.target.clone(),
        tags: image.tags.clone(),
        ..Image::default()
    }
}

/// The images of the families by what Dockerfiles may write, as the controller finds them.
struct RepositoryNames<'a> {
    images: &'a [ImportedImage],
    family_of: &'a BTreeMap<usize, &'a str>,
    repository: &'a str,
    /// How many images of a family have this repository.
    counts: BTreeMap<(&'a str, String), usize>,
}

impl<'a> RepositoryNames<'a> {
    fn of(
        images: &'a [ImportedImage],
        family_of: &'a BTreeMap<usize, &'a str>,
        repository: &'a str,
    ) -> Self {
        let mut names = Self { images, family_of, repository, counts: BTreeMap::new() };
        for (position, family) in family_of {
            if let Some(own) = names.repository_of(*position) {
                *names.counts.entry((*family, own)).or_default() += 1;
            }
        }
        names
    }

    fn repository_of(&self, position: usize) -> Option<String> {
        let image = self.images.get(position)?;
        let path = image.path.as_deref().unwrap_or(&image.name);
        Some(format!("{}/{path}", self.repository))
    }

    /// Returns the entry of an edge that the Dockerfile does not say by itself.
    fn entry(&self, child: usize, edge: &ImportedEdge) -> Option<Edge> {
        let EdgeParent::Image(parent) = edge.parent else {
            let is_said = !self.is_name(child, &edge.written) && says_upstream(edge);
            return if is_said { None } else { upstream_entry(edge) };
        };
        let image = self.images.get(parent)?;
        let (own, other) = (self.family_of.get(&child)?, self.family_of.get(&parent)?);
        let is_own = own == other;
        if is_own && !edge.is_of_trigger && self.says(parent, other, &edge.written) {
            return None;
        }
        let family = FamilyRef { namespace: None, name: (*other).to_owned() };
        Some(Edge {
            image: Some(image.name.clone()),
            family: (!is_own).then_some(family),
            reference: Some(without_digest(&edge.written)),
            usage: edge.usage,
            ..Edge::default()
        })
    }

    /// Whether an image of the family of `child` has this name. The controller takes it for that
    /// image, unless an entry says something else.
    fn is_name(&self, child: usize, written: &str) -> bool {
        let own = self.family_of.get(&child);
        let is_named = |position: &usize| {
            self.images.get(*position).is_some_and(|image| image.name == written)
        };
        let mut family = self.family_of.iter().filter(|(_, family)| Some(*family) == own);
        family.any(|(position, _)| is_named(position))
    }

    /// Whether the controller finds the image of a family by what the Dockerfile writes.
    fn says(&self, parent: usize, family: &str, written: &str) -> bool {
        let Some(image) = self.images.get(parent) else { return false };
        let Ok(reference) = written.parse::<Reference>() else { return false };
        let own = self.repository_of(parent).unwrap_or_default();
        if reference.repository() != own {
            // The controller takes a name alone as that of an image of the family, unless something
            // else has this reference.
            return written == image.name;
        }
        let is_only = self.counts.get(&(family, own)) == Some(&1);
        match reference.tag() {
            Some(tag) => image.tags.iter().any(|known| known == tag) || (tag == LATEST && is_only),
            None => is_only,
        }
    }
}

/// Whether the Dockerfile itself says the reference of an upstream.
fn says_upstream(edge: &ImportedEdge) -> bool {
    match &edge.parent {
        EdgeParent::Upstream(reference) => same(reference, &edge.written) && !edge.is_of_trigger,
        EdgeParent::Image(_) => false,
    }
}

/// Returns the entry of an upstream. Its name is set with the upstreams of the family.
fn upstream_entry(edge: &ImportedEdge) -> Option<Edge> {
    let EdgeParent::Upstream(reference) = &edge.parent else { return None };
    Some(Edge {
        upstream: Some(reference.clone()),
        reference: Some(without_digest(&edge.written)),
        usage: edge.usage,
        ..Edge::default()
    })
}

/// Whether two references are the same without their digests.
fn same(a: &str, b: &str) -> bool {
    without_digest_full(a) == without_digest_full(b)
}

fn without_digest_full(text: &str) -> String {
    text.parse::<Reference>().map_or_else(
        |_| text.to_owned(),
        |reference| format!("{}:{}", reference.repository(), reference.tag().unwrap_or(LATEST)),
    )
}

/// Returns a reference as it is written, without its digest: the build uses that of the family.
fn without_digest(written: &str) -> String {
    written.split_once('@').map_or(written, |(reference, _)| reference).to_owned()
}

/// Returns the name of each upstream that entries declare by its reference, and replaces the
/// references by the names. One that the family has already keeps its name, and the name of another
/// is not used again.
pub fn name_upstreams(family: &mut PlainFamily) -> BTreeMap<String, String> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let known = std::mem::take(&mut family.known_upstreams);
    let mut taken: BTreeSet<String> = known.keys().cloned().collect();
    taken.extend(family.images.iter().map(|image| image.name.clone()));
    for edge in family.images.iter_mut().flat_map(|image| &mut image.from) {
        let Some(reference) = edge.upstream.clone() else { continue };
        let name = names.entry(reference.clone()).or_insert_with(|| {
            if let Some((name, _)) = known.iter().find(|(_, followed)| **followed == reference) {
                return name.clone();
            }
            let familiar = reference.parse().map_or(reference.clone(), |r: Reference| r.familiar());
            let mut name = to_label(&familiar);
            name.truncate(MAX_UPSTREAM_NAME);
            name.truncate(name.trim_end_matches('-').len());
            while !taken.insert(name.clone()) {
                name.push_str("-x");
            }
            name
        });
        edge.upstream = Some(name.clone());
    }
    names
}
