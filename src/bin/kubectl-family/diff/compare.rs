//! Compares two images: base, layers, size, settings and packages.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use groundswell::contents::{Ecosystem, Package, ReadImage, compare_versions};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::diff::ComparedImage;

/// The annotations that name an image's base.
const BASE_NAME: &str = "org.opencontainers.image.base.name";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// What differs between two images, as `-o json` writes it.
#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageDiff {
    /// The first image, by digest.
    pub from: String,
    /// The second image, by digest.
    pub to: String,
    /// The base that the annotations name, if it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseChange>,
    /// Size of all layers in bytes, compressed.
    pub size: SizeChange,
    /// Number of layers at the bottom that both have.
    pub shared_layers: usize,
    /// The layers above those that only the first image has.
    pub removed_layers: Vec<DiffLayer>,
    /// The layers above those that only the second image has.
    pub added_layers: Vec<DiffLayer>,
    /// Settings that differ.
    pub settings: Vec<SettingChange>,
    /// Packages that differ.
    pub packages: Vec<PackageChange>,
    /// What could not be read, so that packages may be missing.
    pub problems: Vec<String>,
}

#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct BaseChange {
    pub from: String,
    pub to: String,
}

#[derive(JsonSchema, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeChange {
    pub from: u64,
    pub to: u64,
}

#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct DiffLayer {
    pub digest: String,
    pub size: u64,
    pub command: String,
}

#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// The name, such as `User` or `Env PATH`.
    pub setting: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct PackageChange {
    pub name: String,
    pub architecture: String,
    pub ecosystem: Ecosystem,
    pub change: PackageChangeKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

#[derive(JsonSchema, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageChangeKind {
    Added,
    Removed,
    Upgraded,
    Downgraded,
    /// The versions differ, but do not compare.
    Changed,
}

impl ImageDiff {
    pub fn new(from: &ComparedImage, to: &ComparedImage) -> Self {
        let (old, new) = (&from.image.manifest.layers, &to.image.manifest.layers);
        let both = old.iter().zip(new).take_while(|(old, new)| old.digest == new.digest).count();
        Self {
            from: from.image.reference.to_string(),
            to: to.image.reference.to_string(),
            base: base_change(&from.image, &to.image),
            size: SizeChange { from: size(&from.image), to: size(&to.image) },
            shared_layers: both,
            removed_layers: layers_above(&from.image, both),
            added_layers: layers_above(&to.image, both),
            settings: setting_changes(&from.image.settings, &to.image.settings),
            packages: package_changes(&from.packages.packages, &to.packages.packages),
            problems: problems(from, to),
        }
    }

    /// Whether a user of the images notices no difference.
    pub fn is_empty(&self) -> bool {
        self.base.is_none()
            && self.removed_layers.is_empty()
            && self.added_layers.is_empty()
            && self.settings.is_empty()
            && self.packages.is_empty()
    }
}

fn size(image: &ReadImage) -> u64 {
    image.manifest.layers.iter().map(|layer| layer.size).sum()
}

fn base_change(from: &ReadImage, to: &ReadImage) -> Option<BaseChange> {
    let base = |image: &ReadImage| {
        let annotations = &image.manifest.annotations;
        let name = annotations.get(BASE_NAME).cloned().unwrap_or_default();
        match annotations.get(BASE_DIGEST) {
            Some(digest) => format!("{name}@{digest}"),
            None => name,
        }
    };
    let (from, to) = (base(from), base(to));
    (from != to).then_some(BaseChange { from, to })
}

fn layers_above(image: &ReadImage, shared: usize) -> Vec<DiffLayer> {
    let layers = image.manifest.layers.iter().enumerate().skip(shared);
    let layer = |(index, layer): (usize, &groundswell::registry::Descriptor)| DiffLayer {
        digest: layer.digest.to_string(),
        size: layer.size,
        command: image.commands.get(index).cloned().unwrap_or_default(),
    };
    layers.map(layer).collect()
}

fn problems(from: &ComparedImage, to: &ComparedImage) -> Vec<String> {
    let mut problems = Vec::new();
    for compared in [from, to] {
        let reference = &compared.image.reference;
        let of_image = compared.packages.problems.iter();
        problems.extend(of_image.map(|problem| format!("{reference}: {problem}")));
        if compared.packages.databases.is_empty() && compared.packages.problems.is_empty() {
            problems.push(format!("{reference}: it has no database of packages"));
        }
    }
    problems.dedup();
    problems
}

fn setting_changes(from: &Value, to: &Value) -> Vec<SettingChange> {
    let (from, to) = (settings(from), settings(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let changed = names.into_iter().filter(|name| from.get(*name) != to.get(*name));
    changed
        .map(|name| SettingChange {
            setting: name.clone(),
            from: from.get(name).cloned(),
            to: to.get(name).cloned(),
        })
        .collect()
}

/// Returns the settings by name. A variable and a label are a setting each.
fn settings(config: &Value) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("Env", Value::Array(variables)) => {
                for variable in variables.iter().filter_map(Value::as_str) {
                    let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
                    settings.insert(format!("Env {name}"), value.to_owned());
                }
            }
            (_, Value::Object(fields)) => {
                for (name, value) in fields {
                    settings.insert(format!("{key} {name}"), text(value));
                }
            }
            _ => _ = settings.insert(key.clone(), text(value)),
        }
    }
    settings
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns what has changed. If more than one version of a package differs, as with kernels, each
/// is added or removed.
fn package_changes(from: &BTreeSet<Package>, to: &BTreeSet<Package>) -> Vec<PackageChange> {
    let mut changes: BTreeMap<(Ecosystem, &str, &str), [Vec<&str>; 2]> = BTreeMap::new();
    for (side, only) in [from.difference(to), to.difference(from)].into_iter().enumerate() {
        for package in only {
            let key = (package.ecosystem, package.name.as_str(), package.architecture.as_str());
            if let Some(versions) = changes.entry(key).or_default().get_mut(side) {
                versions.push(&package.version);
            }
        }
    }
    let change = |((ecosystem, name, architecture), versions): (_, [Vec<&str>; 2])| {
        let change = |change, from: Option<&str>, to: Option<&str>| PackageChange {
            name: str::to_owned(name),
            architecture: str::to_owned(architecture),
            ecosystem,
            change,
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let [old, new] = versions;
        if let ([from], [to]) = (old.as_slice(), new.as_slice()) {
            let kind = match compare_versions(ecosystem, from, to) {
                Some(Ordering::Less) => PackageChangeKind::Upgraded,
                Some(Ordering::Greater) => PackageChangeKind::Downgraded,
                Some(Ordering::Equal) | None => PackageChangeKind::Changed,
            };
            return vec![change(kind, Some(from), Some(to))];
        }
        let removed = old.iter().map(|from| change(PackageChangeKind::Removed, Some(from), None));
        let added = new.iter().map(|to| change(PackageChangeKind::Added, None, Some(to)));
        removed.chain(added).collect()
    };
    changes.into_iter().flat_map(change).collect()
}
