//! The image or upstream that a user names: `NAME`, `FAMILY/NAME` or `NAMESPACE/FAMILY/NAME`, each
//! with `upstream.` in front of it if only an upstream is meant, or a reference such as
//! `docker.io/library/alpine:3.24`.

use std::{collections::HashSet, fmt, str::FromStr};

use anyhow::{anyhow, bail};

use groundswell::{
    api::Upstream,
    lineage::{ImageIndex, UpstreamIndex},
    registry::Reference,
};

use crate::input::{Estate, EstateFamily};

/// Maximum number of names that an error lists.
const MAX_NAMED: usize = 8;
/// What is in front of the name of an upstream that is not to be confused with an image.
const UPSTREAM_PREFIX: &str = "upstream.";
/// What a user may write.
const FORMS: &str = "write NAME, FAMILY/NAME, NAMESPACE/FAMILY/NAME, upstream.NAME, or a reference \
                     such as docker.io/library/alpine:3.24";

/// A name on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetName {
    /// As the user has written it.
    text: String,
    form: TargetForm,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TargetForm {
    /// A name without a prefix. An image wins over an upstream of its family.
    Either(PathName),
    Upstream(PathName),
    Reference(WrittenReference),
}

/// A name with as much of its family as is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PathName {
    namespace: Option<String>,
    family: Option<String>,
    name: String,
}

/// The reference of an upstream, or of an image that is built.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WrittenReference {
    /// The full form.
    reference: Reference,
    /// The tag, if one is written. Without one, every tag matches.
    tag: Option<String>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedTarget {
    /// An image of a family.
    Image(ImageIndex),
    /// An upstream of a family.
    Upstream(UpstreamIndex),
}

/// A target with its family.
#[derive(Clone, Copy, Debug)]
pub struct FamilyTarget<'a> {
    /// The family.
    pub family: &'a EstateFamily,
    /// What the name stands for in it.
    pub target: NamedTarget,
}

impl FromStr for TargetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let after_prefix = text.strip_prefix(UPSTREAM_PREFIX);
        let form = if let Some(upstream) = after_prefix.filter(|rest| !rest.contains(['.', ':'])) {
            TargetForm::Upstream(upstream.parse()?)
        } else if is_reference(text) {
            TargetForm::Reference(text.parse()?)
        } else {
            TargetForm::Either(text.parse()?)
        };
        Ok(Self { text: text.to_owned(), form })
    }
}

/// Whether a text is a reference and no name: it has a tag, a host, or too many parts. Neither
/// namespaces nor families have dots.
fn is_reference(text: &str) -> bool {
    let host = text.split_once('/').map(|(host, _)| host);
    text.contains([':', '@'])
        || host.is_some_and(|host| host.contains('.'))
        || text.split('/').count() > 3
}

impl FromStr for PathName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(FORMS.into());
        }
        let owned = |part: &str| Some(part.to_owned());
        let (namespace, family, name) = match parts.as_slice() {
            [name] => (None, None, *name),
            [family, name] => (None, owned(family), *name),
            [namespace, family, name] => (owned(namespace), owned(family), *name),
            _ => return Err(FORMS.into()),
        };
        Ok(Self { namespace, family, name: name.to_owned() })
    }
}

impl FromStr for WrittenReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("name the tag that is followed, without a digest".into());
        }
        let reference: Reference = text.parse().map_err(|error| format!("{error}; or {FORMS}"))?;
        let last = text.rsplit('/').next().unwrap_or_default();
        let tag = last.split_once(':').map(|(_, tag)| tag.to_owned());
        Ok(Self { reference, tag })
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PathName {
    fn selects(&self, family: &EstateFamily) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| *wanted == family.name.namespace)
            && self.family.as_ref().is_none_or(|wanted| *wanted == family.name.name)
    }
}

impl WrittenReference {
    fn is_repository(&self, repository: &str) -> bool {
        let full = repository.parse::<Reference>();
        full.is_ok_and(|full| full.repository() == self.reference.repository())
    }

    /// Whether this is one of the tags of a repository. Without a tag, every one is meant.
    fn has_tag(&self, mut tags: impl Iterator<Item = impl AsRef<str>>) -> bool {
        self.tag.as_ref().is_none_or(|wanted| tags.any(|tag| tag.as_ref() == wanted))
    }
}

impl<'a> FamilyTarget<'a> {
    /// Returns the reference of an upstream; `None` for an image. Families that follow the same
    /// reference have the same target.
    fn reference(&self) -> Option<String> {
        match self.target {
            NamedTarget::Image(_) => None,
            NamedTarget::Upstream(index) => {
                Some(self.family.family.spec.upstreams.get(index.position())?.reference())
            }
        }
    }

    /// Returns the name that distinguishes the target from others of its name.
    fn full_name(&self) -> String {
        let spec = &self.family.family.spec;
        match self.target {
            NamedTarget::Image(index) => {
                let image = spec.images.get(index.position()).map(|image| image.name.as_str());
                format!("{}/{}", self.family.name, image.unwrap_or_default())
            }
            NamedTarget::Upstream(_) => self.reference().unwrap_or_default(),
        }
    }

    fn all(family: &'a EstateFamily) -> impl Iterator<Item = Self> {
        let spec = &family.family.spec;
        let images = ImageIndex::range(spec.images.len()).map(NamedTarget::Image);
        let upstreams = UpstreamIndex::enumerate(&spec.upstreams)
            .map(|(index, _)| NamedTarget::Upstream(index));
        images.chain(upstreams).map(move |target| Self { family, target })
    }
}

impl TargetName {
    /// Returns the namespace, if the name says it.
    pub fn namespace(&self) -> Option<&str> {
        match &self.form {
            TargetForm::Either(path) | TargetForm::Upstream(path) => path.namespace.as_deref(),
            TargetForm::Reference(_) => None,
        }
    }

    fn selects(&self, family: &EstateFamily) -> bool {
        match &self.form {
            TargetForm::Either(path) | TargetForm::Upstream(path) => path.selects(family),
            TargetForm::Reference(_) => true,
        }
    }

    fn matches(&self, target: &FamilyTarget<'_>) -> bool {
        let spec = &target.family.family.spec;
        match target.target {
            NamedTarget::Image(index) => {
                let Some(image) = spec.images.get(index.position()) else { return false };
                let blueprint = target.family.blueprint.images.get(index.position());
                match &self.form {
                    TargetForm::Either(path) => image.name == path.name,
                    TargetForm::Upstream(_) => false,
                    TargetForm::Reference(written) => {
                        blueprint.is_some_and(|image| written.is_repository(&image.repository))
                            && written.has_tag(image.tags.iter())
                    }
                }
            }
            NamedTarget::Upstream(index) => {
                let upstream = spec.upstreams.get(index.position());
                upstream.is_some_and(|upstream| self.matches_upstream(upstream))
            }
        }
    }

    fn matches_upstream(&self, upstream: &Upstream) -> bool {
        match &self.form {
            TargetForm::Either(path) | TargetForm::Upstream(path) => upstream.name == path.name,
            TargetForm::Reference(written) => {
                written.is_repository(&upstream.image)
                    && written.has_tag(std::iter::once(&upstream.follow.tag))
            }
        }
    }

    /// Returns everything in the estate that has this name, and of upstreams with the same
    /// reference the first.
    fn find_all<'a>(&self, estate: &'a Estate) -> Vec<FamilyTarget<'a>> {
        let families = estate.families.iter().filter(|family| self.selects(family));
        let mut references = HashSet::new();
        let mut found = Vec::new();
        for family in families {
            let mut targets: Vec<FamilyTarget<'_>> =
                FamilyTarget::all(family).filter(|one| self.matches(one)).collect();
            let is_image = |one: &FamilyTarget<'_>| matches!(one.target, NamedTarget::Image(_));
            // An image wins over an upstream of its own family.
            if targets.iter().any(is_image) {
                targets.retain(is_image);
            }
            let is_new = |one: &FamilyTarget<'_>| match one.reference() {
                Some(reference) => references.insert(reference),
                None => true,
            };
            found.extend(targets.into_iter().filter(is_new));
        }
        found
    }

    /// Returns the one image or upstream of this name. An image wins over an upstream of its own
    /// family, unless the name has the prefix `upstream.`. Upstreams of several families with the
    /// same reference are one: the result has the first of these families.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, with names that are similar, or if there are several,
    /// with the names that distinguish them.
    pub fn find<'a>(&self, estate: &'a Estate) -> anyhow::Result<FamilyTarget<'a>> {
        let found = self.find_all(estate);
        match found.as_slice() {
            [only] => Ok(*only),
            [] => Err(self.not_found(estate)),
            several => {
                let names = several.iter().take(MAX_NAMED);
                let names: Vec<String> = names.map(FamilyTarget::full_name).collect();
                bail!("{self} may be {}; name one of them", names.join(" or "))
            }
        }
    }

    /// Returns the upstreams of a family that have this name, whatever its images are called.
    pub fn upstreams_of<'a>(&self, family: &'a EstateFamily) -> impl Iterator<Item = &'a Upstream> {
        let upstreams = family.family.spec.upstreams.iter().filter(|_| self.selects(family));
        upstreams.filter(|upstream| self.matches_upstream(upstream))
    }

    /// Returns the one image of this name.
    ///
    /// # Errors
    ///
    /// As [`TargetName::find`], and if it is an upstream.
    pub fn find_image<'a>(
        &self,
        estate: &'a Estate,
    ) -> anyhow::Result<(&'a EstateFamily, ImageIndex)> {
        let found = self.find(estate)?;
        match found.target {
            NamedTarget::Image(image) => Ok((found.family, image)),
            NamedTarget::Upstream(_) => bail!("{self} is an upstream; name an image"),
        }
    }

    fn not_found(&self, estate: &Estate) -> anyhow::Error {
        let families: Vec<&EstateFamily> =
            estate.families.iter().filter(|family| self.selects(family)).collect();
        if families.is_empty() {
            let names = estate.families.iter().take(MAX_NAMED).map(|one| one.name.to_string());
            let names: Vec<String> = names.collect();
            return anyhow!("there is no such family for {self}; there is {}", names.join(", "));
        }
        let wanted = match &self.form {
            TargetForm::Either(path) | TargetForm::Upstream(path) => path.name.clone(),
            TargetForm::Reference(written) => written.reference.to_string(),
        };
        let names = families.iter().flat_map(|family| self.known_names(family));
        let mut similar: Vec<(usize, String)> =
            names.map(|name| (edit_distance(&name, &wanted), name)).collect();
        similar.sort_unstable();
        similar.dedup();
        let limit = wanted.len() / 2 + 1;
        let similar = similar.into_iter().filter(|(distance, _)| *distance <= limit);
        let names: Vec<String> = similar.map(|(_, name)| name).take(3).collect();
        if names.is_empty() {
            anyhow!("there is no image or upstream {self}; list all with kubectl family graph")
        } else {
            anyhow!("there is no image or upstream {self}; did you mean {}?", names.join(" or "))
        }
    }

    /// Returns what a user can write for the targets of a family, in the form that was written.
    fn known_names(&self, family: &EstateFamily) -> Vec<String> {
        let spec = &family.family.spec;
        let upstreams = spec.upstreams.iter();
        let images = spec.images.iter().map(|image| image.name.clone());
        match self.form {
            TargetForm::Either(_) => {
                images.chain(upstreams.map(|upstream| upstream.name.clone())).collect()
            }
            TargetForm::Upstream(_) => upstreams.map(|upstream| upstream.name.clone()).collect(),
            TargetForm::Reference(_) => upstreams.map(Upstream::reference).collect(),
        }
    }
}

/// Returns how many characters have to be inserted, removed or replaced to get from one name to
/// another.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, character) in from.chars().enumerate() {
        let mut above_left = index;
        let mut left = index + 1;
        for (below, other) in row.iter_mut().skip(1).zip(&to) {
            let replaced = above_left + usize::from(character != *other);
            above_left = *below;
            left = replaced.min(above_left + 1).min(left + 1);
            *below = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::fixtures::estate;

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (from, to, expected) in
            [("", "abc", 3), ("kitten", "sitting", 3), ("flask", "flask", 0), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(from, to), expected, "{from} {to}");
            assert_eq!(edit_distance(to, from), expected, "{to} {from}");
        }
    }

    const TWO_FAMILIES: &str = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: one}
spec:
  repository: registry.example.com/one
  upstreams:
  - {name: alpine, image: docker.io/library/alpine, follow: {tag: '3.24'}}
  - {name: go, image: docker.io/library/golang}
  - {name: base, image: docker.io/library/busybox}
  images:
  - {name: base, from: [{upstream: alpine}], source: {inline: FROM x}, tags: [stable]}
---
apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: two}
spec:
  repository: registry.example.com/two
  upstreams:
  - {name: alpine, image: docker.io/library/alpine, follow: {tag: '3.24'}}
  - {name: go, image: docker.io/library/golang, follow: {tag: '1.26'}}
  images:
  - {name: base, from: [{upstream: alpine}], source: {inline: FROM x}}
";

    /// Returns the full name of what a name stands for, or the error.
    fn found(name: &str) -> String {
        let estate = estate(TWO_FAMILIES);
        let name: TargetName = name.parse().expect("a name");
        match name.find(&estate) {
            Ok(target) => target.full_name(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn upstreams_with_the_same_reference_are_one() {
        for name in ["alpine", "two/alpine", "docker.io/library/alpine:3.24", "alpine:3.24"] {
            assert_eq!(found(name), "docker.io/library/alpine:3.24", "{name}");
        }
        assert_eq!(found("docker.io/library/alpine"), "docker.io/library/alpine:3.24");
        let error = found("go");
        let both = "docker.io/library/golang:latest or docker.io/library/golang:1.26";
        assert!(error.contains(both), "{error}");
        assert_eq!(found("docker.io/library/golang:1.26"), "docker.io/library/golang:1.26");
        let error = found("alpine:3.25");
        assert!(error.contains("did you mean docker.io/library/alpine:3.24"), "{error}");
    }

    #[test]
    fn an_image_of_several_families_needs_its_family() {
        let error = found("base");
        assert!(error.contains("default/one/base or default/two/base"), "{error}");
        assert_eq!(found("two/base"), "default/two/base");
        assert_eq!(found("registry.example.com/one/base"), "default/one/base");
        assert_eq!(found("registry.example.com/one/base:stable"), "default/one/base");
        assert!(found("registry.example.com/one/base:1").contains("there is no image"));
        assert!(found("three/base").contains("there is no such family"));
    }

    #[test]
    fn a_prefix_names_the_upstream_that_an_image_hides() {
        assert_eq!(found("one/base"), "default/one/base");
        for name in ["upstream.base", "upstream.one/base", "upstream.default/one/base"] {
            assert_eq!(found(name), "docker.io/library/busybox:latest", "{name}");
        }
        assert!(found("upstream.two/base").contains("there is no image or upstream"));
    }

    #[test]
    fn names_have_up_to_three_parts() {
        for text in ["a", "f/a", "n/f/a", "upstream.a", "r.example/a/b/c", "localhost:5000/a"] {
            assert_eq!(text.parse::<TargetName>().expect("a name").to_string(), text);
        }
        for wrong in ["", "/", "a/", "/a", "a//b", "upstream.", "a/b/c/D", "a@sha256:0", "a:b:c"] {
            assert!(wrong.parse::<TargetName>().is_err(), "{wrong}");
        }
    }
}
