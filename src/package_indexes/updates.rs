//! Which installed packages have a newer version in the indexes of their image's repositories, by
//! the rules of each distribution. Pure.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use globset::GlobSet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    contents::{Ecosystem, Inventory, Package, compare_versions},
    package_indexes::{ImageSources, PackageTable},
};

/// What a repository says of when its packages replace installed ones: the priorities of apt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexPriority {
    /// Never without a request (`NotAutomatic`): 1.
    Manual,
    /// Only packages that come from it (`ButAutomaticUpgrades`), as backports: 100.
    Upgrades,
    /// Always: 500.
    #[default]
    Default,
}

/// Whether a newer version is a security update.
#[derive(
    JsonSchema, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum Advice {
    /// A security suite has it, or an advisory of the repository is about it.
    Security,
    /// The repositories that say so do not name it.
    Other,
    /// The repositories do not distinguish security updates.
    #[default]
    Unknown,
}

/// An index that the packages of an image may come from.
#[derive(Clone, Debug)]
pub struct AvailableIndex {
    /// The package manager.
    pub ecosystem: Ecosystem,
    /// The architecture that it is for. Empty if it has those of all its packages (RPM).
    pub architecture: String,
    /// The tag that packages have to ask for (apk).
    pub tag: Option<String>,
    /// When it replaces installed packages.
    pub priority: IndexPriority,
    /// Whether all of it is about security (Debian), or nothing is known.
    pub advice: Advice,
    /// Its packages.
    pub table: Arc<PackageTable>,
    /// The newest version of each package that its security advisories name (RPM).
    pub advisories: Option<Arc<PackageTable>>,
}

/// An installed package with a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageUpdate<'i> {
    /// The installed package.
    pub package: &'i Package,
    /// The version that the package manager would install.
    pub available: &'i str,
    /// The position of the index that has it.
    pub index: usize,
    /// Whether the installed version lacks a security update.
    pub advice: Advice,
    /// Whether the image prevents it: it is on hold (dpkg), or pinned to a version (apk).
    pub is_held: bool,
}

/// Compares the packages of an image with the indexes of its repositories.
///
/// Packages whose name `exclude` matches are left out. A version that is none by the rules of its
/// package manager does not compare, and is no update.
#[must_use]
pub fn updates<'i>(
    inventory: &'i Inventory,
    sources: &ImageSources,
    indexes: &'i [AvailableIndex],
    exclude: &GlobSet,
) -> Vec<PackageUpdate<'i>> {
    let comparison = Comparison { inventory, sources, indexes };
    let installed = newest_installed(inventory);
    let installed = installed.into_iter().filter(|package| !exclude.is_match(&package.name));
    installed.filter_map(|package| comparison.update(package)).collect()
}

/// Returns the packages, of which RPM may have several versions: only the newest counts.
fn newest_installed(inventory: &Inventory) -> Vec<&Package> {
    let mut newest: Vec<&Package> = Vec::with_capacity(inventory.packages.packages.len());
    // They are sorted by name and architecture.
    for package in &inventory.packages.packages {
        let is_same = |last: &&mut &Package| {
            (&last.name, &last.architecture) == (&package.name, &package.architecture)
        };
        match newest.last_mut().filter(is_same) {
            Some(last) if is_newer(package.ecosystem, &package.version, &last.version) => {
                *last = package;
            }
            Some(_) => {}
            None => newest.push(package),
        }
    }
    newest
}

struct Comparison<'i, 's> {
    inventory: &'i Inventory,
    sources: &'s ImageSources,
    indexes: &'i [AvailableIndex],
}

/// A version of an index that is newer than the installed one.
#[derive(Clone, Copy)]
struct NewerVersion<'i> {
    version: &'i str,
    index: usize,
    priority: IndexPriority,
}

impl<'i> Comparison<'i, '_> {
    fn update(&self, package: &'i Package) -> Option<PackageUpdate<'i>> {
        let Package { ecosystem, version: installed, .. } = package;
        // As apt has it: that of what is installed is that of its repository, or 100.
        let mut threshold = IndexPriority::Upgrades;
        let mut newest: BTreeMap<IndexPriority, NewerVersion<'i>> = BTreeMap::new();
        let mut advice = Advice::Unknown;
        for (position, index) in self.indexes.iter().enumerate() {
            if !self.is_for(index, package) {
                continue;
            }
            if index.advice == Advice::Other && advice == Advice::Unknown {
                advice = Advice::Other;
            }
            for version in self.versions(&index.table, package) {
                let order = compare_versions(*ecosystem, version, installed);
                match order {
                    Some(Ordering::Equal) => threshold = threshold.max(index.priority),
                    Some(Ordering::Greater) => {
                        if index.advice == Advice::Security {
                            advice = Advice::Security;
                        }
                        let priority = index.priority;
                        let found = NewerVersion { version, index: position, priority };
                        let known = newest.entry(priority).or_insert(found);
                        if is_newer(*ecosystem, version, known.version) {
                            *known = found;
                        }
                    }
                    _ => {}
                }
            }
            if let Some(advisories) = &index.advisories {
                let mut versions = self.versions(advisories, package);
                if versions.any(|version| is_newer(*ecosystem, version, installed)) {
                    advice = Advice::Security;
                }
            }
        }
        let (_, chosen) = newest.pop_last()?;
        (chosen.priority >= threshold).then(|| PackageUpdate {
            package,
            available: chosen.version,
            index: chosen.index,
            advice,
            is_held: self.is_held(package),
        })
    }

    /// Whether packages like this one may come from an index.
    fn is_for(&self, index: &AvailableIndex, package: &Package) -> bool {
        let is_tagged = match &index.tag {
            Some(tag) => self.sources.tagged.get(&package.name) == Some(tag),
            None => true,
        };
        let native = &self.sources.architecture;
        let is_architecture = match package.ecosystem {
            Ecosystem::Deb if package.architecture == "all" => index.architecture == *native,
            Ecosystem::Deb => index.architecture == package.architecture,
            Ecosystem::Apk | Ecosystem::Rpm => true,
        };
        index.ecosystem == package.ecosystem && is_tagged && is_architecture
    }

    /// Returns the versions of a package in a table.
    fn versions<'t>(
        &self,
        table: &'t PackageTable,
        package: &'t Package,
    ) -> impl Iterator<Item = &'t str> {
        let native = self.sources.architecture.clone();
        let found = table.packages(&package.name);
        let fits = found.filter(move |found| {
            let (old, new) = (package.architecture.as_str(), found.architecture);
            match package.ecosystem {
                Ecosystem::Apk => true,
                // A package may become one for all architectures, or one for the image's own.
                Ecosystem::Deb | Ecosystem::Rpm => {
                    let own = [native.as_str(), "all", "noarch"];
                    old == new || own.contains(&old) && own.contains(&new)
                }
            }
        });
        fits.map(|found| found.version)
    }

    fn is_held(&self, package: &Package) -> bool {
        match package.ecosystem {
            Ecosystem::Deb => {
                let name = format!("{}:{}", package.name, package.architecture);
                self.inventory.held.contains(&name)
            }
            Ecosystem::Apk => self.sources.pinned.contains(&package.name),
            Ecosystem::Rpm => false,
        }
    }
}

fn is_newer(ecosystem: Ecosystem, a: &str, b: &str) -> bool {
    compare_versions(ecosystem, a, b) == Some(Ordering::Greater)
}
