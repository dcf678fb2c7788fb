//! The image or upstream that a user names: `NAME`, `FAMILY/NAME` or `NAMESPACE/FAMILY/NAME`.

use std::{fmt, str::FromStr};

use anyhow::{anyhow, bail};

use groundswell::{
    api::Upstream,
    lineage::{ImageIndex, UpstreamIndex},
};

use crate::input::{Estate, EstateFamily};

/// Maximum number of names that an error lists.
const MAX_NAMED: usize = 8;

/// A name on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetName {
    namespace: Option<String>,
    family: Option<String>,
    name: String,
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
    /// The position of the family in [`Estate::families`].
    pub position: usize,
    /// The family.
    pub family: &'a EstateFamily,
    /// What the name stands for in it.
    pub target: NamedTarget,
}

impl FromStr for TargetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err("write NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME".into());
        }
        let owned = |part: &str| Some(part.to_owned());
        match parts.as_slice() {
            [name] => Ok(Self { namespace: None, family: None, name: (*name).into() }),
            [family, name] => {
                Ok(Self { namespace: None, family: owned(family), name: (*name).into() })
            }
            [namespace, family, name] => Ok(Self {
                namespace: owned(namespace),
                family: owned(family),
                name: (*name).into(),
            }),
            _ => Err("write NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME".into()),
        }
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.namespace.iter().chain(&self.family) {
            write!(f, "{part}/")?;
        }
        f.write_str(&self.name)
    }
}

impl TargetName {
    fn selects(&self, family: &EstateFamily) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| *wanted == family.name.namespace)
            && self.family.as_ref().is_none_or(|wanted| *wanted == family.name.name)
    }

    /// Returns everything in the estate that has this name.
    fn find_all<'a>(&self, estate: &'a Estate) -> Vec<FamilyTarget<'a>> {
        let families = estate.families.iter().enumerate().filter(|(_, one)| self.selects(one));
        families
            .flat_map(|(position, family)| {
                let spec = &family.family.spec;
                let images = ImageIndex::enumerate(&spec.images)
                    .filter(|(_, image)| image.name == self.name)
                    .map(|(index, _)| NamedTarget::Image(index));
                let upstreams = UpstreamIndex::enumerate(&spec.upstreams)
                    .filter(|(_, upstream)| upstream.name == self.name)
                    .map(|(index, _)| NamedTarget::Upstream(index));
                images.chain(upstreams).map(move |target| FamilyTarget { position, family, target })
            })
            .collect()
    }

    /// Returns the one image or upstream of this name. An image wins over an upstream of its own
    /// family.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, with names that are similar, or if several families have
    /// one, with their names.
    pub fn find<'a>(&self, estate: &'a Estate) -> anyhow::Result<FamilyTarget<'a>> {
        let mut found = self.find_all(estate);
        found.dedup_by_key(|target| target.position);
        match found.as_slice() {
            [only] => Ok(*only),
            [] => Err(self.not_found(estate)),
            several => {
                let names = several.iter().take(MAX_NAMED);
                let names: Vec<String> =
                    names.map(|one| format!("{}/{}", one.family.name, self.name)).collect();
                bail!("{self} may be {}; name the family, too", names.join(" or "))
            }
        }
    }

    /// Returns the upstreams of a family that have this name, whatever its images are called.
    pub fn upstreams_of<'a>(&self, family: &'a EstateFamily) -> impl Iterator<Item = &'a Upstream> {
        let upstreams = family.family.spec.upstreams.iter().filter(|_| self.selects(family));
        upstreams.filter(|upstream| upstream.name == self.name)
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
        let names = families.iter().flat_map(|family| {
            let spec = &family.family.spec;
            let images = spec.images.iter().map(|image| image.name.as_str());
            images.chain(spec.upstreams.iter().map(|upstream| upstream.name.as_str()))
        });
        let mut similar: Vec<(usize, &str)> =
            names.map(|name| (edit_distance(name, &self.name), name)).collect();
        similar.sort_unstable();
        similar.dedup();
        let limit = self.name.len() / 2 + 1;
        let similar = similar.into_iter().filter(|(distance, _)| *distance <= limit);
        let names: Vec<&str> = similar.map(|(_, name)| name).take(3).collect();
        if names.is_empty() {
            anyhow!("there is no image or upstream {self}; list all with kubectl family graph")
        } else {
            anyhow!("there is no image or upstream {self}; did you mean {}?", names.join(" or "))
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
    use crate::input::fixtures::{estate, layered_family};

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (from, to, expected) in
            [("", "abc", 3), ("kitten", "sitting", 3), ("flask", "flask", 0), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(from, to), expected, "{from} {to}");
            assert_eq!(edit_distance(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn a_name_in_several_families_needs_its_family() {
        let family =
            |name: &str| layered_family(1).replace("name: layered", &format!("name: {name}"));
        let text = format!("{}---\n{}", family("one"), family("two"));
        let estate = estate(&text.replace("base-000", "debian"));
        let find = |name: &str| name.parse::<TargetName>().expect("a name").find(&estate);
        let error = find("debian").expect_err("two families").to_string();
        assert!(error.contains("default/one/debian or default/two/debian"), "{error}");
        let found = find("two/debian").expect("one family");
        assert_eq!(found.family.name.name, "two");
        assert!(matches!(found.target, NamedTarget::Image(_)), "not the upstream of that name");
        assert!(find("three/debian").is_err());
    }

    #[test]
    fn names_have_up_to_three_parts() {
        for text in ["a", "f/a", "n/f/a"] {
            assert_eq!(text.parse::<TargetName>().expect("a name").to_string(), text);
        }
        for wrong in ["", "/", "a/", "/a", "a//b", "a/b/c/d"] {
            assert!(wrong.parse::<TargetName>().is_err(), "{wrong}");
        }
    }
}
