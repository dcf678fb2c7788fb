//! Which images belong to one family: those that are built on one another, and those of one folder.
//! A family has at most 1000 images and 64 upstreams, so that a larger group is divided by folders,
//! and then by the order of its builds.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::api::dns_label::to_label;
use petgraph::unionfind::UnionFind;
use sha2::{Digest as _, Sha256};

use crate::import::{analysis::ImportedImage, names::is_version, references::EdgeParent};

/// Maximum number of images of a family.
pub const MAX_IMAGES: usize = groundswell::engine::expansion::MAX_IMAGES;
/// Maximum number of upstreams of a family.
const MAX_UPSTREAMS: usize = 64;
/// Maximum length of the name of a family.
const MAX_NAME: usize = 47;
/// Length of the hash that keeps shortened names apart.
const HASH_LENGTH: usize = 8;

/// The families of the images, by name, each with the indices of its images in their order.
pub type FamilyGroups = BTreeMap<String, Vec<usize>>;

/// Groups the images. `root_name` names the family of images that have no folder in common.
pub fn group(images: &[ImportedImage], root_name: &str) -> FamilyGroups {
    let mut groups = FamilyGroups::new();
    let mut by_folder: BTreeMap<Vec<String>, Vec<usize>> = BTreeMap::new();
    for component in components(images) {
        let assigned: BTreeSet<&String> = component
            .iter()
            .filter_map(|position| images.get(*position)?.definition.mapped.family.as_ref())
            .collect();
        let only = assigned.first().filter(|_| assigned.len() == 1).map(|name| (*name).clone());
        let mut rest = Vec::new();
        for position in component {
            let own = images.get(position).and_then(|one| one.definition.mapped.family.clone());
            match own.or_else(|| only.clone()) {
                Some(family) => groups.entry(family).or_default().push(position),
                None => rest.push(position),
            }
        }
        if !rest.is_empty() {
            by_folder.entry(common_folder(images, &rest)).or_default().extend(rest);
        }
    }
    for (folder, positions) in by_folder {
        for (folder, positions) in divide(images, folder, positions) {
            let family = family_name(&folder, root_name);
            groups.entry(family).or_default().extend(positions);
        }
    }
    for positions in groups.values_mut() {
        positions.sort_unstable();
    }
    divide_assigned(images, groups)
}

/// Returns the connected components of the graph, in the order of their first images.
fn components(images: &[ImportedImage]) -> Vec<Vec<usize>> {
    let mut sets = UnionFind::<usize>::new(images.len());
    for (position, image) in images.iter().enumerate() {
        for edge in &image.edges {
            if let EdgeParent::Image(parent) = edge.parent {
                sets.union(position, parent);
            }
        }
    }
    let mut components: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut first: BTreeMap<usize, usize> = BTreeMap::new();
    for position in 0..images.len() {
        let set = sets.find(position);
        let first = *first.entry(set).or_insert(position);
        components.entry(first).or_default().push(position);
    }
    components.into_values().collect()
}

/// Returns the folders above an image, without its own and those of its version.
fn folders(image: &ImportedImage) -> Vec<String> {
    let parts = image.definition.context.split('/').filter(|part| !part.is_empty());
    let mut folders: Vec<String> =
        parts.take_while(|part| !is_version(part)).map(str::to_owned).collect();
    folders.pop();
    folders
}

fn common_folder(images: &[ImportedImage], positions: &[usize]) -> Vec<String> {
    let mut all = positions.iter().filter_map(|position| images.get(*position)).map(folders);
    let mut common = all.next().unwrap_or_default();
    for folders in all {
        let same = common.iter().zip(&folders).take_while(|(a, b)| a == b).count();
        common.truncate(same);
    }
    common
}

/// Divides a group until each part fits into a family.
fn divide(
    images: &[ImportedImage],
    folder: Vec<String>,
    positions: Vec<usize>,
) -> Vec<(Vec<String>, Vec<usize>)> {
    if fits(images, &positions) {
        return vec![(folder, positions)];
    }
    let mut below: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for position in &positions {
        let next = images.get(*position).and_then(|one| folders(one).get(folder.len()).cloned());
        below.entry(next).or_default().push(*position);
    }
    if below.len() < 2 && !below.contains_key(&None) {
        // All images are in one folder further down.
        let next = below.into_keys().next().flatten();
        let folder = folder.into_iter().chain(next).collect();
        return divide(images, folder, positions);
    }
    if below.len() < 2 {
        return chunks(images, &folder, &positions);
    }
    below
        .into_iter()
        .flat_map(|(next, positions)| {
            let folder: Vec<String> = folder.iter().cloned().chain(next).collect();
            divide(images, folder, positions)
        })
        .collect()
}

/// Divides the images of one folder in their order. The parts are numbered from 1.
fn chunks(
    images: &[ImportedImage],
    folder: &[String],
    positions: &[usize],
) -> Vec<(Vec<String>, Vec<usize>)> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for position in positions {
        if let Some(last) = parts.last_mut() {
            last.push(*position);
            if fits(images, last) {
                continue;
            }
            last.pop();
        }
        parts.push(vec![*position]);
    }
    let numbered = (1..).zip(parts).map(|(number, positions)| {
        let folder = folder.iter().cloned().chain([format!("part-{number}")]).collect();
        (folder, positions)
    });
    numbered.collect()
}

/// Divides families that the mapping or earlier manifests make too large. What is in the family
/// already stays, and the rest goes to families with a number that have room.
fn divide_assigned(images: &[ImportedImage], groups: FamilyGroups) -> FamilyGroups {
    let mut divided = FamilyGroups::new();
    let mut left = Vec::new();
    for (name, mut positions) in groups {
        if !fits(images, &positions) {
            let is_new = |position: &usize| {
                let family = images.get(*position).map(|one| &one.definition.mapped.family);
                family.is_none_or(|family| family.as_ref() != Some(&name))
            };
            positions.sort_by_key(is_new);
            let mut parts = chunks(images, &[], &positions).into_iter().map(|(_, part)| part);
            positions = parts.next().unwrap_or_default();
            positions.sort_unstable();
            left.extend(parts.map(|part| (name.clone(), part)));
        }
        divided.insert(name, positions);
    }
    for (name, part) in left {
        for number in 2.. {
            let name = shortened(format!("{name}-{number}"));
            let mut all = divided.get(&name).cloned().unwrap_or_default();
            all.extend(&part);
            if fits(images, &all) {
                all.sort_unstable();
                divided.insert(name, all);
                break;
            }
        }
    }
    divided
}

fn fits(images: &[ImportedImage], positions: &[usize]) -> bool {
    if positions.len() > MAX_IMAGES {
        return false;
    }
    let mut upstreams = BTreeSet::new();
    for image in positions.iter().filter_map(|position| images.get(*position)) {
        upstreams.extend(image.edges.iter().filter_map(|edge| match &edge.parent {
            EdgeParent::Upstream(reference) => Some(reference),
            EdgeParent::Image(_) => None,
        }));
    }
    upstreams.len() <= MAX_UPSTREAMS
}

fn family_name(folder: &[String], root_name: &str) -> String {
    let name = to_label(&folder.join("-"));
    let name = if name.is_empty() { to_label(root_name) } else { name };
    shortened(if name.is_empty() { "images".into() } else { name })
}

/// Returns a name of at most 47 characters. One that is shortened ends with a hash.
fn shortened(name: String) -> String {
    if name.len() <= MAX_NAME {
        return name;
    }
    let mut hash = hex::encode(Sha256::digest(&name));
    hash.truncate(HASH_LENGTH);
    let start: String = name.chars().take(MAX_NAME - HASH_LENGTH - 1).collect();
    format!("{}-{hash}", start.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::definition::BuildDefinition;

    fn image(name: String, family: &str) -> ImportedImage {
        let mut definition = BuildDefinition::of_dockerfile(&format!("images/{name}/Dockerfile"));
        definition.mapped.family = (!family.is_empty()).then(|| family.to_owned());
        ImportedImage {
            definition,
            name,
            path: None,
            tags: Vec::new(),
            has_known_tags: false,
            edges: Vec::new(),
        }
    }

    #[test]
    fn a_full_family_keeps_its_images_and_none_is_lost() {
        let mut images = vec![image("a".into(), ""), image("b".into(), "full")];
        images.extend((0..MAX_IMAGES).map(|number| image(format!("m{number}"), "full")));
        images.push(image("z".into(), "full-2"));
        // The first one has no family yet, and is built on one of it.
        images[0].edges.push(crate::import::references::ImportedEdge {
            parent: EdgeParent::Image(2),
            written: "m0".into(),
            usage: groundswell::api::EdgeUse::Base,
            is_of_trigger: false,
        });
        let groups = group(&images, "root");
        let sizes: Vec<_> = groups.iter().map(|(name, all)| (name.as_str(), all.len())).collect();
        assert_eq!(sizes, [("full", MAX_IMAGES), ("full-2", 3)]);
        assert!(groups["full-2"].contains(&0), "what is new goes to another family");
        assert!(groups["full-2"].contains(&(MAX_IMAGES + 2)), "what was there stays");
    }
}
