//! Which image of the tree, or which upstream, a reference in a Dockerfile means. A reference that
//! may mean either is a problem, and is never decided by a guess.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::{
    api::{EdgeUse, dns_label::to_label},
    builds::dockerfile::NeededImage,
    registry::Reference,
};

use crate::import::{
    definition::{BuildContext, BuildDefinition},
    mapping::ImportMapping,
    official_images::is_official,
};

/// The tag of an image without one.
const LATEST: &str = "latest";

/// What an edge leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeParent {
    /// The image of the tree with this index.
    Image(usize),
    /// An image in a registry, as `repository:tag`.
    Upstream(String),
}

/// An edge that a Dockerfile says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedEdge {
    pub parent: EdgeParent,
    /// The reference as the Dockerfile writes it, after its arguments are substituted.
    pub written: String,
    pub usage: EdgeUse,
    /// Whether an `ONBUILD` trigger of a parent names it, and not the Dockerfile itself.
    pub is_of_trigger: bool,
}

/// An image of the tree, as references name it.
#[derive(Clone, Debug, Default)]
pub struct ImageIdentity {
    pub name: String,
    /// The repository to which the family pushes it.
    pub repository: String,
    /// The tags that a file or the mapping says; empty if none does.
    pub tags: Vec<String>,
    /// Further references under which files push it.
    pub aliases: Vec<Reference>,
}

/// A repository and a tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TaggedName {
    repository: String,
    tag: String,
}

/// The images of the tree, by everything that can name them.
pub struct ReferenceIndex<'a> {
    mapping: &'a ImportMapping,
    /// The references of the mapping that mean somebody else's image, in full form.
    external: BTreeSet<String>,
    /// The images that the mapping names for a reference, by its full form.
    local: BTreeMap<String, &'a str>,
    tagged: BTreeMap<TaggedName, BTreeSet<usize>>,
    repositories: BTreeMap<String, BTreeSet<usize>>,
    names: BTreeMap<&'a str, usize>,
    /// The images of each Bake or Compose file, by target or service.
    labels: BTreeMap<(&'a str, &'a str), usize>,
    identities: &'a [ImageIdentity],
    /// The prefix of the repositories of all images.
    prefix: &'a str,
}

impl<'a> ReferenceIndex<'a> {
    pub fn new(
        definitions: &'a [BuildDefinition],
        identities: &'a [ImageIdentity],
        mapping: &'a ImportMapping,
        prefix: &'a str,
    ) -> Self {
        let mut index = Self {
            mapping,
            external: mapping.external.iter().map(|text| full(text)).collect(),
            local: mapping.local.iter().map(|(text, name)| (full(text), name.as_str())).collect(),
            tagged: BTreeMap::new(),
            repositories: BTreeMap::new(),
            names: BTreeMap::new(),
            labels: BTreeMap::new(),
            identities,
            prefix,
        };
        for (position, identity) in identities.iter().enumerate() {
            index.names.insert(&identity.name, position);
            let own = index.repositories.entry(identity.repository.clone()).or_default();
            own.insert(position);
            let own = identity.tags.iter().map(|tag| (identity.repository.clone(), tag.clone()));
            let aliases = identity
                .aliases
                .iter()
                .map(|alias| (alias.repository(), alias.tag().unwrap_or(LATEST).to_owned()));
            for (repository, tag) in own.chain(aliases) {
                let named = TaggedName { repository, tag };
                index.tagged.entry(named).or_default().insert(position);
            }
        }
        for (position, definition) in definitions.iter().enumerate() {
            if let Some(label) = &definition.label {
                index.labels.insert((&definition.defined_in, label), position);
            }
        }
        index
    }

    /// Returns the edge of an image that the build of `image` needs.
    ///
    /// # Errors
    /// Returns why the reference cannot be resolved, and what to do.
    pub fn edge(
        &self,
        image: usize,
        definition: &BuildDefinition,
        needed: &NeededImage,
    ) -> Result<ImportedEdge, String> {
        let written = needed.image.name.clone();
        let parent = match named_context(definition, &written) {
            Some(BuildContext::Target(label)) => {
                let key = (definition.defined_in.as_str(), label.as_str());
                let position = self.labels.get(&key).ok_or_else(|| {
                    format!("the context `{written}` names `{label}`, which is not built")
                })?;
                EdgeParent::Image(*position)
            }
            Some(BuildContext::Image(reference)) => self.resolve(image, reference)?,
            Some(BuildContext::Files(path)) => {
                return Err(format!(
                    "the context `{written}` is the folder `{path}`; a family has images as \
                     parents and no folders: copy from an image, or from the build context"
                ));
            }
            None => self.resolve(image, &written)?,
        };
        if parent == EdgeParent::Image(image) {
            return Err(format!("`{written}` is the image itself; name another one"));
        }
        Ok(ImportedEdge {
            parent,
            written,
            usage: needed.usage,
            is_of_trigger: needed.image.trigger_of.is_some(),
        })
    }

    fn resolve(&self, image: usize, written: &str) -> Result<EdgeParent, String> {
        let reference: Reference = written.parse().map_err(|error| format!("it names {error}"))?;
        let full_text = full(written);
        if let Some(name) = self.local.get(&full_text) {
            let position = self.names.get(name).ok_or_else(|| {
                format!("the mapping says that `{written}` is `{name}`, and no image has this name")
            })?;
            return Ok(EdgeParent::Image(*position));
        }
        let tag = reference.tag();
        let repository = reference.repository();
        let upstream = format!("{repository}:{}", tag.unwrap_or(LATEST));
        if self.external.contains(&full_text) {
            return Ok(EdgeParent::Upstream(upstream));
        }
        if let Some(found) = self.tagged(&repository, tag)? {
            return Ok(EdgeParent::Image(found));
        }
        let is_external = self.is_external_repository(written);
        if let Some(below) = self.below_prefix(&repository).filter(|_| !is_external) {
            return self.versioned(below, tag).map(EdgeParent::Image).ok_or_else(|| {
                format!(
                    "`{written}` is below {}, and no image of this tree has this name and tag; say \
                     what it is in the mapping, with `local` or `external`, or give the image this \
                     tag",
                    self.prefix
                )
            });
        }
        if let Some(position) = self.names.get(written).filter(|position| **position != image)
            && !is_official(written)
            && !is_external
        {
            return Ok(EdgeParent::Image(*position));
        }
        if let Some(name) = self.maybe_meant(image, written, &reference) {
            return Err(format!(
                "`{written}` may be the image `{name}` of this tree or one of a registry; say \
                 which in the mapping, with `local` or `external`"
            ));
        }
        Ok(EdgeParent::Upstream(upstream))
    }

    /// Returns the end of a repository below the prefix of all images.
    fn below_prefix<'r>(&self, repository: &'r str) -> Option<&'r str> {
        repository.strip_prefix(self.prefix)?.strip_prefix('/')
    }

    /// Returns the image that is named by the end of its repository and its version:
    /// `python-3-12` for `python:3.12`.
    fn versioned(&self, repository: &str, tag: Option<&str>) -> Option<usize> {
        let name = to_label(&format!("{repository}-{}", tag?));
        self.names.get(name.as_str()).copied()
    }

    /// Returns the image of this repository and tag.
    fn tagged(&self, repository: &str, tag: Option<&str>) -> Result<Option<usize>, String> {
        let of_repository = self.repositories.get(repository);
        let Some(tag) = tag else {
            return match of_repository.map(|all| (all.len(), all.first())) {
                None => Ok(None),
                Some((1, only)) => Ok(only.copied()),
                Some((count, _)) => Err(format!(
                    "{repository} is named by a digest alone, and {count} images have this \
                     repository; write the tag before the digest"
                )),
            };
        };
        let named = TaggedName { repository: repository.to_owned(), tag: tag.to_owned() };
        let claimed = self.tagged.get(&named);
        match (claimed.map(|all| (all.len(), all.first())), of_repository) {
            (Some((1, only)), _) => Ok(only.copied()),
            (Some((count, _)), _) => {
                Err(format!("{count} images have the tag {repository}:{tag}; give each its own"))
            }
            // A repository whose only image has no known tags: the tag must be its own.
            (None, Some(all)) if all.len() == 1 => Ok(all.first().copied().filter(|position| {
                tag == LATEST || self.identities.get(*position).is_some_and(|i| i.tags.is_empty())
            })),
            (None, Some(all)) if tag == LATEST => Err(format!(
                "{repository}:{tag} may be any of {} images of this repository; name one of their \
                 tags",
                all.len()
            )),
            (None, _) => Ok(None),
        }
    }

    /// Returns the name of an image of the tree that a reference without a registry may mean.
    fn maybe_meant(&self, image: usize, written: &str, reference: &Reference) -> Option<&'a str> {
        let first = written.split('/').next().unwrap_or_default();
        let has_registry =
            written.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        if has_registry {
            return None;
        }
        let last = reference.path().rsplit('/').next().unwrap_or_default();
        let version = to_label(&format!("{last}-{}", reference.tag().unwrap_or(LATEST)));
        let found = self.names.get_key_value(last);
        let (name, position) = found.or_else(|| self.names.get_key_value(version.as_str()))?;
        (*position != image && !self.is_external_repository(written)).then_some(name)
    }

    /// Whether the mapping says that a repository is somebody else's, with any tag.
    fn is_external_repository(&self, written: &str) -> bool {
        let repository = full(written);
        let repository = repository.rsplit_once(':').map_or("", |(repository, _)| repository);
        self.mapping.external.iter().any(|text| {
            !text.contains([':', '@'])
                && text.parse::<Reference>().is_ok_and(|known| known.repository() == repository)
        })
    }
}

/// Returns what the build uses in place of an image that the Dockerfile names.
fn named_context<'a>(definition: &'a BuildDefinition, written: &str) -> Option<&'a BuildContext> {
    let exact = definition.contexts.get(written);
    exact.or_else(|| {
        let wanted = full(written);
        definition.contexts.iter().find(|(name, _)| full(name) == wanted).map(|(_, to)| to)
    })
}

/// Returns a reference in full form without its digest, or the text itself if it is none.
fn full(text: &str) -> String {
    text.parse::<Reference>().map_or_else(
        |_| text.to_owned(),
        |reference| format!("{}:{}", reference.repository(), reference.tag().unwrap_or(LATEST)),
    )
}

/// Returns the tags by which Dockerfiles name an image whose tags no file says: the only one, or
/// none if there are several.
///
/// # Errors
/// Returns the tags if there are several: which of them the image has is not known.
pub fn learned_tag(written: &BTreeSet<String>) -> Result<Option<&str>, String> {
    let mut tags = written.iter().map(String::as_str);
    match (tags.next(), tags.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => Ok(Some(only)),
        (Some(_), Some(_)) => {
            let all: Vec<&str> = written.iter().map(String::as_str).take(8).collect();
            Err(format!(
                "Dockerfiles name it with the tags {}, and no file says which it has; list its \
                 tags in the mapping",
                all.join(", ")
            ))
        }
    }
}
