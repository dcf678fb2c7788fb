//! Which parent an image is that a Dockerfile names: an upstream of the spec, an image of the
//! family, or an upstream that the spec does not list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    api::{ImageFamilySpec, condition::Reason},
    engine::{Problem, blueprint::repository, validate::claims},
    found_edges::{dockerfile::NamedParent, mismatch},
    registry::Reference,
};

/// The tag of an image without one.
const LATEST: &str = "latest";

/// A tag that an upstream follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FollowedTag {
    /// The repository, with the registry.
    pub(super) repository: String,
    /// The tag.
    pub(super) tag: String,
}

impl FollowedTag {
    /// Returns the short form, as users write it.
    pub(super) fn familiar(&self) -> String {
        let text = self.to_string();
        text.parse().map_or(text, |reference: Reference| reference.familiar())
    }
}

impl fmt::Display for FollowedTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// A parent, and how the Dockerfile names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundParent {
    pub(super) named: NamedParent,
    pub(super) of: ParentOf,
    /// The reference of the edge, unless it is the default.
    pub(super) reference: Option<String>,
}

/// What a parent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ParentOf {
    /// The upstream of this name.
    Upstream(String),
    /// An upstream that the spec does not list.
    NewUpstream(FollowedTag),
    /// The image of this name.
    Image(String),
}

/// What a family has, by its references.
pub(super) struct FamilyParents<'a> {
    spec: &'a ImageFamilySpec,
    /// The names of upstreams, by the tags that they follow.
    upstreams: BTreeMap<FollowedTag, &'a str>,
    /// The names of images, by their floating tags.
    tags: BTreeMap<FollowedTag, &'a str>,
    /// The names of images, by their repositories.
    repositories: BTreeMap<String, Vec<&'a str>>,
    images: BTreeSet<&'a str>,
}

impl<'a> FamilyParents<'a> {
    pub(super) fn of(spec: &'a ImageFamilySpec) -> Self {
        let mut family = Self {
            spec,
            upstreams: BTreeMap::new(),
            tags: BTreeMap::new(),
            repositories: BTreeMap::new(),
            images: spec.images.iter().map(|image| image.name.as_str()).collect(),
        };
        for upstream in &spec.upstreams {
            if let Some(followed) = followed(&upstream.reference()) {
                family.upstreams.entry(followed).or_insert(&upstream.name);
            }
        }
        for image in &spec.images {
            if let Some(FollowedTag { repository, .. }) = followed(&repository(spec, image)) {
                family.repositories.entry(repository).or_default().push(&image.name);
            }
        }
        // A template that cannot be rendered is the problem of the whole family.
        for claim in claims(spec).unwrap_or_default().iter().filter(|claim| !claim.tag.immutable) {
            if let Some(followed) = followed(&claim.reference()) {
                family.tags.entry(followed).or_insert(claim.image);
            }
        }
        family
    }

    /// Returns the parents of an image, each once.
    ///
    /// # Errors
    /// Returns the problem of the first name that says no parent.
    pub(super) fn resolve(
        &self,
        index: usize,
        named: &[NamedParent],
    ) -> Result<Vec<FoundParent>, Problem> {
        let image = self.spec.images.get(index).map_or("", |image| image.name.as_str());
        let mut parents: Vec<FoundParent> = Vec::new();
        // Digests without tags may mean a tag that the same Dockerfile names elsewhere.
        let (tagged, untagged): (Vec<_>, Vec<_>) =
            named.iter().partition(|named| has_tag(&named.reference));
        for named in tagged.into_iter().chain(untagged) {
            let found = self.parent(image, named, &parents)?;
            let same = |known: &&mut FoundParent| {
                known.of == found.of && known.reference == found.reference
            };
            match parents.iter_mut().find(same) {
                Some(known) => known.named.usage = known.named.usage.min(found.named.usage),
                None => parents.push(found),
            }
        }
        let order = |parent: &FoundParent| {
            named.iter().position(|named| named.reference == parent.named.reference)
        };
        parents.sort_by_key(order);
        Ok(parents)
    }

    fn parent(
        &self,
        image: &str,
        named: &NamedParent,
        others: &[FoundParent],
    ) -> Result<FoundParent, Problem> {
        let reference: Reference = named.reference.parse().map_err(|error| {
            mismatch(format!("spec.images[{image}]: the Dockerfile names {error}"))
        })?;
        let of = match reference.tag() {
            Some(tag) => {
                let followed =
                    FollowedTag { repository: reference.repository(), tag: tag.to_owned() };
                self.tagged(image, &named.reference, followed)?
            }
            None => self.untagged(image, &reference, others)?,
        };
        let written = match (reference.tag(), &of) {
            (None, _) => None,
            // A name of the family has no repository.
            (Some(_), ParentOf::Image(name)) if *name == named.reference => {
                Some(named.reference.clone())
            }
            (Some(tag), _) => Some(format!("{}:{tag}", reference.repository())),
        };
        let default = self.default_reference(&of);
        let is_default = |text: &String| followed(text) == default.as_deref().and_then(followed);
        let reference = written.filter(|written| !is_default(written));
        Ok(FoundParent { named: named.clone(), of, reference })
    }

    fn tagged(
        &self,
        image: &str,
        written: &str,
        followed: FollowedTag,
    ) -> Result<ParentOf, Problem> {
        if let Some(name) = self.upstreams.get(&followed) {
            return Ok(ParentOf::Upstream((*name).to_owned()));
        }
        let owner = self.tags.get(&followed).copied();
        let of_repository =
            self.repositories.get(&followed.repository).map_or(&[][..], Vec::as_slice);
        let owner = match (owner, of_repository) {
            // An image without the tag `latest` is still the only one that it could mean.
            (None, [only]) if followed.tag == LATEST => Some(*only),
            (None, [_, _, ..]) if followed.tag == LATEST => {
                return Err(mismatch(format!(
                    "spec.images[{image}]: the Dockerfile names {followed}, and the images {} have \
                     this repository; name one of their tags",
                    of_repository.join(", ")
                )));
            }
            (owner, _) => owner,
        };
        match owner {
            Some(owner) if owner == image => Err(own_image(image, &followed.to_string())),
            Some(owner) => Ok(ParentOf::Image(owner.to_owned())),
            None if written != image && self.images.contains(written) => {
                Ok(ParentOf::Image(written.to_owned()))
            }
            None => Ok(ParentOf::NewUpstream(followed)),
        }
    }

    /// Returns the parent that a digest without a tag means: the only one of its repository that
    /// the spec or the same Dockerfile names, or else the tag `latest`.
    fn untagged(
        &self,
        image: &str,
        reference: &Reference,
        others: &[FoundParent],
    ) -> Result<ParentOf, Problem> {
        let repository = reference.repository();
        let upstreams = self.upstreams.iter().filter(|(known, _)| known.repository == repository);
        let mut candidates: Vec<ParentOf> =
            upstreams.map(|(_, name)| ParentOf::Upstream((*name).to_owned())).collect();
        let images = self.repositories.get(&repository).map_or(&[][..], Vec::as_slice);
        let others_of_family = images.iter().filter(|name| **name != image);
        candidates.extend(others_of_family.map(|name| ParentOf::Image((*name).to_owned())));
        for other in others {
            let is_of_repository = matches!(&other.of,
                ParentOf::NewUpstream(followed) if followed.repository == repository);
            if is_of_repository && !candidates.contains(&other.of) {
                candidates.push(other.of.clone());
            }
        }
        match candidates.as_slice() {
            [] if images.contains(&image) => Err(own_image(image, &repository)),
            [] => Ok(ParentOf::NewUpstream(FollowedTag { repository, tag: LATEST.into() })),
            [only] => Ok(only.clone()),
            _ => Err(mismatch(format!(
                "spec.images[{image}]: the Dockerfile names {repository} by a digest alone, and \
                 the family has several parents of this repository; write the tag before the \
                 digest"
            ))),
        }
    }

    /// Returns the reference by which a Dockerfile names a parent whose edge gives none.
    fn default_reference(&self, of: &ParentOf) -> Option<String> {
        match of {
            ParentOf::Upstream(name) => {
                let upstream = self.spec.upstreams.iter().find(|known| known.name == *name)?;
                Some(upstream.reference())
            }
            ParentOf::NewUpstream(followed) => Some(followed.to_string()),
            ParentOf::Image(name) => {
                let image = self.spec.images.iter().find(|known| known.name == *name)?;
                Some(format!("{}:{LATEST}", repository(self.spec, image)))
            }
        }
    }
}

fn own_image(image: &str, named: &str) -> Problem {
    let message = format!(
        "spec.images[{image}]: the Dockerfile names {named}, which is the image itself, so that \
         each build would cause the next; name another image"
    );
    Problem { reason: Reason::Cycle, message }
}

/// Returns the repository and tag of a reference, with `latest` if it has no tag.
fn followed(text: &str) -> Option<FollowedTag> {
    let reference: Reference = text.parse().ok()?;
    let tag = reference.tag().unwrap_or(LATEST).to_owned();
    Some(FollowedTag { repository: reference.repository(), tag })
}

fn has_tag(text: &str) -> bool {
    text.parse::<Reference>().is_ok_and(|reference| reference.tag().is_some())
}
