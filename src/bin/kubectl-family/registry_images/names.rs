//! From what a user names to a reference that a registry knows.

use std::{collections::BTreeSet, str::FromStr};

use anyhow::{Context as _, anyhow};
use groundswell::{
    api::{Edge, EdgeUse, ManagedImageStatus},
    engine::tags::claimed,
    lineage::{ImageIndex, Parent, families::FamilyName},
    registry::{Digest, Reference},
};

use crate::input::{Estate, EstateFamily, target::TargetName};

/// An image on the command line.
#[derive(Clone, Debug)]
pub enum ImageArgument {
    /// A reference: it has a dot, a colon or an at sign, which no name has.
    Reference(Reference),
    /// An image of a family.
    Name(TargetName),
}

impl FromStr for ImageArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['.', ':', '@']) {
            let reference = text.parse::<Reference>().map_err(|error| error.to_string())?;
            return Ok(Self::Reference(reference));
        }
        let name = text.parse().map_err(|problem| {
            format!("{problem}, or a reference such as registry.example.com/team/app:1")
        })?;
        Ok(Self::Name(name))
    }
}

/// Returns the reference of a build's digest.
pub fn build_reference(
    family: &EstateFamily,
    image: ImageIndex,
    digest: &str,
) -> anyhow::Result<Reference> {
    let repository = repository(family, image)?;
    let digest: Digest = digest.parse().with_context(|| format!("the digest `{digest}`"))?;
    let reference: Reference = repository.parse()?;
    Ok(reference.with_digest(&digest))
}

/// Returns the reference of what an image's users get: the promoted digest if one is recorded, or
/// else its first floating tag.
pub fn current_reference(family: &EstateFamily, image: ImageIndex) -> anyhow::Result<Reference> {
    let spec = family.family.spec.images.get(image.position()).context("the image is unknown")?;
    let status = family.images.get(&spec.name).and_then(|image| image.status.as_ref());
    let recorded = status.and_then(|status| {
        let ManagedImageStatus { promoted, digest, .. } = status;
        promoted.as_deref().or(digest.as_deref())
    });
    if let Some(digest) = recorded {
        return build_reference(family, image, digest);
    }
    let tags = claimed(&family.family.spec, spec).unwrap_or_default();
    let tag = tags.iter().find(|tag| !tag.immutable).ok_or_else(|| {
        anyhow!(
            "image {}/{} has no recorded digest and no floating tag; name it by its reference",
            family.name,
            spec.name
        )
    })?;
    Ok(repository(family, image)?.parse::<Reference>()?.with_tag(&tag.name)?)
}

fn repository(family: &EstateFamily, image: ImageIndex) -> anyhow::Result<&str> {
    let blueprint = family.blueprint.images.get(image.position());
    Ok(&blueprint.context("the image is unknown")?.repository)
}

/// One of the images whose layers an image begins with.
pub struct Ancestor {
    /// Its name in the family. Empty if it is not known which image it is.
    pub name: String,
    /// What it is, if that is known.
    pub reference: Option<Reference>,
    /// Whether it is an upstream, which no family builds.
    pub is_upstream: bool,
}

/// Returns the images that an image is built on by `use: Base`, the lowest first, through all
/// families of the estate. If it is not known what the lowest one is built on, that is an ancestor
/// without a name.
pub fn base_chain(estate: &Estate, family: &EstateFamily, image: ImageIndex) -> Vec<Ancestor> {
    let (mut chain, mut passed) = (Vec::new(), BTreeSet::new());
    let mut next = Some((family, image));
    while let Some((family, current)) = next.take() {
        if !passed.insert((&family.name, current.position())) {
            break;
        }
        let Some(spec) = family.family.spec.images.get(current.position()) else { break };
        let unknown = || Ancestor { name: String::new(), reference: None, is_upstream: false };
        if family.unknown_edges.contains(&spec.name) {
            chain.push(unknown());
            break;
        }
        let parents = family.blueprint.lineage.parents(current);
        let base = spec.from.iter().zip(parents).find(|(edge, _)| edge.usage == EdgeUse::Base);
        let Some((edge, parent)) = base else { break };
        match parent {
            Parent::Image(parent) => {
                next = Some((family, *parent));
                chain.push(ancestor(family, *parent, edge.parent()));
            }
            Parent::Upstream(upstream) => {
                let upstream = family.family.spec.upstreams.get(upstream.position());
                let reference = upstream.and_then(|upstream| {
                    let reference: Reference = upstream.reference().parse().ok()?;
                    let used = used_digest(family, &spec.name, &upstream.name);
                    Some(used.map_or(reference.clone(), |used| reference.with_digest(&used)))
                });
                let name = edge.parent().to_owned();
                chain.push(Ancestor { name, reference, is_upstream: true });
            }
            Parent::Import(import) => {
                next = imported(estate, family, edge);
                let name = family.blueprint.import_names.get(import.position());
                let name = name.cloned().unwrap_or_default();
                if let Some((other, image)) = next {
                    chain.push(ancestor(other, image, &name));
                } else {
                    chain.push(Ancestor { name, reference: None, is_upstream: false });
                    chain.push(unknown());
                }
            }
        }
    }
    chain.reverse();
    chain
}

fn ancestor(family: &EstateFamily, image: ImageIndex, name: &str) -> Ancestor {
    let reference = current_reference(family, image).ok();
    Ancestor { name: name.to_owned(), reference, is_upstream: false }
}

/// Returns the image of another family that an edge names, if the estate has it.
fn imported<'e>(
    estate: &'e Estate,
    family: &EstateFamily,
    edge: &Edge,
) -> Option<(&'e EstateFamily, ImageIndex)> {
    let other = edge.family.as_ref()?;
    let namespace = other.namespace.as_ref().unwrap_or(&family.name.namespace).clone();
    let other = estate.family(&FamilyName { namespace, name: other.name.clone() })?;
    let mut images = ImageIndex::enumerate(&other.family.spec.images);
    let (index, _) = images.find(|(_, image)| edge.image.as_ref() == Some(&image.name))?;
    Some((other, index))
}

/// Returns the digest of a parent that the last build of an image has used.
fn used_digest(family: &EstateFamily, image: &str, parent: &str) -> Option<Digest> {
    let inputs = family.images.get(image)?.status.as_ref()?.inputs.as_ref()?;
    let parent = inputs.parents.iter().find(|input| input.name == parent)?;
    parent.digest.parse().ok()
}
