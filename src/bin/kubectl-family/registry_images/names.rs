//! From what a user names to a reference that a registry knows.

use std::{collections::BTreeSet, str::FromStr};

use anyhow::{Context as _, anyhow};
use groundswell::{
    api::{EdgeUse, ManagedImageStatus},
    engine::tags::claimed,
    lineage::{ImageIndex, Parent},
    registry::{Digest, Reference},
};

use crate::input::{EstateFamily, target::TargetName};

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
    /// Its name in the family.
    pub name: String,
    /// What it is, if that is known.
    pub reference: Option<Reference>,
}

/// Returns the images that an image is built on by `use: Base`, the lowest first.
pub fn base_chain(family: &EstateFamily, image: ImageIndex) -> Vec<Ancestor> {
    let (mut chain, mut next, mut passed) = (Vec::new(), Some(image), BTreeSet::new());
    while let Some(current) = next.take().filter(|current| passed.insert(current.position())) {
        let Some(spec) = family.family.spec.images.get(current.position()) else { break };
        let parents = family.blueprint.lineage.parents(current);
        let base = spec.from.iter().zip(parents).find(|(edge, _)| edge.usage == EdgeUse::Base);
        let Some((_, parent)) = base else { break };
        chain.push(match parent {
            Parent::Image(parent) => {
                next = Some(*parent);
                let name = family.family.spec.images.get(parent.position());
                Ancestor {
                    name: name.map(|image| image.name.clone()).unwrap_or_default(),
                    reference: current_reference(family, *parent).ok(),
                }
            }
            Parent::Upstream(upstream) => {
                let upstream = family.family.spec.upstreams.get(upstream.position());
                Ancestor {
                    name: upstream.map(|upstream| upstream.name.clone()).unwrap_or_default(),
                    reference: upstream.and_then(|upstream| {
                        let reference: Reference = upstream.reference().parse().ok()?;
                        let used = used_digest(family, &spec.name, &upstream.name);
                        Some(used.map_or(reference.clone(), |used| reference.with_digest(&used)))
                    }),
                }
            }
            Parent::Import(import) => {
                let name = family.blueprint.import_names.get(import.position());
                Ancestor { name: name.cloned().unwrap_or_default(), reference: None }
            }
        });
    }
    chain.reverse();
    chain
}

/// Returns the digest of a parent that the last build of an image has used.
fn used_digest(family: &EstateFamily, image: &str, parent: &str) -> Option<Digest> {
    let inputs = family.images.get(image)?.status.as_ref()?.inputs.as_ref()?;
    let parent = inputs.parents.iter().find(|input| input.name == parent)?;
    parent.digest.parse().ok()
}
