//! Folds images that differ only in a version into one entry with a `matrix`. An entry is folded
//! only if it expands to exactly the images that it stands for.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::{
    api::{Image, ImageFamilySpec, dns_label::to_label},
    engine::expansion::expand,
};
use serde_json::Value;

use crate::import::names::is_version;

/// The key of the matrix.
const KEY: &str = "version";
/// What stands for the version in a template.
const TEMPLATE: &str = "{{ matrix.version }}";
/// Maximum number of values of a key.
const MAX_VALUES: usize = 64;
/// Maximum number of versions of one image that are tried.
const MAX_CANDIDATES: usize = 8;

/// An image written with a template in place of one of its versions.
struct VersionedImage {
    version: String,
    position: usize,
}

/// Returns the entries for these images, in the order of the first image of each. `plain` names the
/// images that stay entries of their own, and `folded` the entries that have a matrix already, even
/// if only one version is left.
pub fn fold(images: &[Image], plain: &BTreeSet<String>, folded: &BTreeSet<String>) -> Vec<Image> {
    let mut by_shape: BTreeMap<String, Vec<VersionedImage>> = BTreeMap::new();
    for (position, image) in images.iter().enumerate().filter(|(_, one)| !plain.contains(&one.name))
    {
        for version in versions(image) {
            if let Some(shape) = shape(image, &version) {
                let of_shape = by_shape.entry(shape).or_default();
                of_shape.push(VersionedImage { version, position });
            }
        }
    }
    let mut shapes: Vec<(String, Vec<VersionedImage>)> = by_shape.into_iter().collect();
    // The largest first; equal ones in the order of their templates.
    shapes.sort_by_key(|(_, of_shape)| std::cmp::Reverse(of_shape.len()));
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    let mut entries: BTreeMap<usize, Image> = BTreeMap::new();
    for (shape, of_shape) in shapes {
        let free: Vec<&VersionedImage> =
            of_shape.iter().filter(|one| !taken.contains(&one.position)).collect();
        let Some(entry) = entry(&shape, &free) else { continue };
        if free.len() < 2 && !folded.contains(&entry.name) {
            continue;
        }
        let members: Vec<&Image> = free.iter().filter_map(|one| images.get(one.position)).collect();
        if !stands_for(&entry, &members) {
            continue;
        }
        let first = free.iter().map(|one| one.position).min().unwrap_or_default();
        taken.extend(free.iter().map(|one| one.position));
        entries.insert(first, entry);
    }
    for (position, image) in images.iter().enumerate() {
        if !taken.contains(&position) {
            entries.insert(position, image.clone());
        }
    }
    entries.into_values().collect()
}

/// Returns the versions that an image may be folded by: those in the path of its source, then those
/// of its arguments and tags.
fn versions(image: &Image) -> Vec<String> {
    let path = image.source.git.as_ref().and_then(|git| git.path.as_deref()).unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    let parts = path.split('/').map(str::to_owned);
    for version in parts.chain(image.args.values().cloned()).chain(image.tags.iter().cloned()) {
        if is_version(&version) && version.len() <= 64 && !found.contains(&version) {
            found.push(version);
        }
    }
    found.truncate(MAX_CANDIDATES);
    found
}

/// Returns an image as JSON, with a template in place of the version; `None` if its name does not
/// contain the version, or if it has a template already.
fn shape(image: &Image, version: &str) -> Option<String> {
    let mut value = serde_json::to_value(image).ok()?;
    if value.to_string().contains("{{") {
        return None;
    }
    let name = replaced(&image.name, &to_label(version))?;
    replace_all(&mut value, version);
    for edge in value.get_mut("from").and_then(Value::as_array_mut).into_iter().flatten() {
        for key in ["image", "upstream"] {
            if let Some(Value::String(text)) = edge.get_mut(key)
                && let Some(template) = replaced(text, &to_label(version))
            {
                *text = template;
            }
        }
    }
    value.as_object_mut()?.insert("name".into(), name.into());
    Some(value.to_string())
}

fn replace_all(value: &mut Value, version: &str) {
    match value {
        Value::String(text) => {
            if let Some(template) = replaced(text, version) {
                *text = template;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| replace_all(value, version)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| replace_all(value, version));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces a version where it is not a part of another one: `3.1` is not in `3.12` or `13.1`.
fn replaced(text: &str, version: &str) -> Option<String> {
    if version.is_empty() {
        return None;
    }
    let mut result = String::new();
    let mut rest = text;
    let mut before: Option<char> = None;
    let mut is_found = false;
    while let Some(at) = rest.find(version) {
        let (head, tail) = rest.split_at(at);
        let after = tail.get(version.len()..).unwrap_or_default();
        let last = head.chars().next_back().or(before);
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
        result.push_str(head);
        if is_part(last) || is_part(after.chars().next()) {
            result.push_str(version);
        } else {
            result.push_str(TEMPLATE);
            is_found = true;
        }
        before = version.chars().next_back();
        rest = after;
    }
    result.push_str(rest);
    is_found.then_some(result)
}

/// Returns the entry of a shape with the versions of these images.
fn entry(shape: &str, images: &[&VersionedImage]) -> Option<Image> {
    let mut entry: Image = serde_json::from_str(shape).ok()?;
    let versions: Vec<String> = images.iter().map(|one| one.version.clone()).collect();
    if versions.is_empty() || versions.len() > MAX_VALUES {
        return None;
    }
    entry.matrix = BTreeMap::from([(KEY.to_owned(), versions)]);
    Some(entry)
}

/// Whether an entry expands to exactly these images, their edges apart: parents are not known here.
fn stands_for(entry: &Image, images: &[&Image]) -> bool {
    let expanded = |images: &[&Image]| {
        let alone = |image: &&Image| Image { from: Vec::new(), ..with_repository(image) };
        let images = images.iter().map(alone).collect();
        let spec = expand(ImageFamilySpec { images, ..ImageFamilySpec::default() });
        let plain = |image: Image| Image { matrix: BTreeMap::new(), ..image };
        spec.images.into_iter().map(plain).collect::<Vec<_>>()
    };
    let plain = expanded(images);
    plain.len() == images.len() && expanded(&[entry]) == plain
}

/// Returns an image whose source says its repository, which is a default of the family.
fn with_repository(image: &Image) -> Image {
    let mut image = image.clone();
    if let Some(git) = &mut image.source.git {
        git.url = "https://git.example.com/images.git".into();
        git.revision = "main".into();
    }
    image
}
