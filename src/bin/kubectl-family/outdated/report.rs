//! What is outdated: the document, and the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use groundswell::package_indexes::{Advice, ReadIndex, SignatureState};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    input::plural,
    output::{Document, ListFormat, Terminal, table},
};

/// The outdated packages of images, as `-o json` writes them.
#[derive(JsonSchema, Serialize, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OutdatedReport {
    /// The images that were read, by name.
    pub images: Vec<OutdatedImage>,
    /// The families that they belong to.
    families: Vec<OutdatedFamily>,
    /// The indexes that they were compared with.
    indexes: Vec<IndexSummary>,
    /// What could not be read or is not applied: the answer may be incomplete.
    pub problems: Vec<String>,
    #[serde(skip)]
    family_of: BTreeMap<String, String>,
    #[serde(skip)]
    problems_of: BTreeMap<String, BTreeSet<String>>,
}

/// An image with its outdated packages.
#[derive(JsonSchema, Serialize, Debug, PartialEq, Eq)]
pub struct OutdatedImage {
    /// `namespace/family/image`, or the reference that was named.
    pub name: String,
    /// The reference by digest.
    pub reference: String,
    /// The platform that it is for, such as `linux/amd64`.
    pub platform: String,
    /// Number of installed packages.
    pub installed: usize,
    /// The packages with a newer version, security updates first.
    pub packages: Vec<OutdatedPackage>,
}

/// An installed package with a newer version.
#[derive(JsonSchema, Serialize, Debug, PartialEq, Eq)]
pub struct OutdatedPackage {
    /// The name.
    pub name: String,
    /// The architecture.
    pub architecture: String,
    /// The installed version.
    pub installed: String,
    /// The version that the package manager of the image would install.
    pub available: String,
    /// Whether the installed version lacks a security update.
    pub security: Advice,
    /// Whether the image prevents the update: the package is on hold, or pinned to a version.
    pub held: bool,
    /// The repository that has the newer version.
    pub repository: String,
    /// The image or upstream whose layer brings the installed version. Empty if it is unknown.
    pub from: String,
    /// The lowest image of a family to rebuild. Missing if an upstream brings the package, or if it
    /// is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<String>,
}

/// A family in numbers.
#[derive(JsonSchema, Serialize, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct OutdatedFamily {
    /// `namespace/family`.
    name: String,
    /// Number of images that were read.
    images: usize,
    /// Number of images with an outdated package.
    outdated: usize,
    /// Number of images that lack a security update.
    lack_security: usize,
    /// The lowest images to rebuild, so that all of the family get what is newer.
    rebuild: BTreeSet<String>,
    /// The upstreams that bring outdated packages.
    upstreams: BTreeSet<String>,
}

/// An index that packages were compared with.
#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
struct IndexSummary {
    /// The repository, and its component.
    name: String,
    /// When the repository has made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
    /// Whether a key of the image has signed it.
    is_verified: bool,
    /// Number of packages.
    packages: usize,
}

/// Which updates are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateSelection {
    /// All.
    All,
    /// Only security updates.
    Security,
}

/// What is known of an image.
pub struct OutdatedResult {
    pub name: String,
    pub family: Option<String>,
    /// `None` if it could not be read.
    pub image: Option<OutdatedImage>,
    pub indexes: Vec<ReadIndex>,
    pub problems: Vec<String>,
}

impl OutdatedResult {
    pub fn new(name: String) -> Self {
        Self { name, family: None, image: None, indexes: Vec::new(), problems: Vec::new() }
    }
}

impl OutdatedReport {
    /// Adds an image.
    pub fn add(&mut self, result: OutdatedResult) {
        let OutdatedResult { name, family, image, indexes, problems } = result;
        for problem in problems {
            self.problems_of.entry(problem).or_default().insert(name.clone());
        }
        if let Some(family) = family {
            self.family_of.insert(name, family);
        }
        self.indexes.extend(indexes.iter().map(IndexSummary::of));
        self.images.extend(image);
    }

    /// Sorts and counts what has been added, without the updates that are not selected.
    pub fn finish(&mut self, selection: UpdateSelection) {
        self.images.sort_by(|a, b| a.name.cmp(&b.name));
        for image in &mut self.images {
            let packages = &mut image.packages;
            packages.retain(|package| {
                selection == UpdateSelection::All || package.security == Advice::Security
            });
            packages.sort_by(|a, b| (a.security, &a.name).cmp(&(b.security, &b.name)));
        }
        self.indexes.sort();
        self.indexes.dedup();
        for (problem, images) in std::mem::take(&mut self.problems_of) {
            let first = images.first().cloned().unwrap_or_default();
            self.problems.push(match images.len() {
                1 => format!("{first}: {problem}"),
                count => format!("{problem} ({count} images, such as {first})"),
            });
        }
        self.summarize();
    }

    fn summarize(&mut self) {
        let mut families: BTreeMap<&String, OutdatedFamily> = BTreeMap::new();
        for image in &self.images {
            let Some(family) = self.family_of.get(&image.name) else { continue };
            let summary = families.entry(family).or_default();
            family.clone_into(&mut summary.name);
            summary.images += 1;
            let movable: Vec<_> = image.movable().collect();
            summary.outdated += usize::from(!movable.is_empty());
            let lacks = movable.iter().any(|package| package.security == Advice::Security);
            summary.lack_security += usize::from(lacks);
            for package in movable {
                match &package.rebuild {
                    Some(image) => _ = summary.rebuild.insert(image.clone()),
                    None if package.from.is_empty() => {}
                    None => _ = summary.upstreams.insert(package.from.clone()),
                }
            }
        }
        self.families = families.into_values().collect();
    }

    /// Whether a package has a newer version that its image does not prevent.
    pub fn is_behind(&self) -> bool {
        self.images.iter().any(|image| image.movable().next().is_some())
    }

    /// Writes the report in a format.
    pub fn rendered(&self, format: ListFormat) -> anyhow::Result<String> {
        let document = Document::new("OutdatedPackages", self);
        Ok(match format {
            ListFormat::Json => document.json()?,
            ListFormat::Yaml => document.yaml()?,
            ListFormat::Name => {
                let behind = self.images.iter().filter(|image| image.movable().next().is_some());
                behind.map(|image| table::one_line(&image.name) + "\n").collect()
            }
            ListFormat::Table => self.table(Terminal::of_stdout().width, OutdatedColumns::Short),
            ListFormat::Wide => self.table(None, OutdatedColumns::All),
        })
    }

    fn table(&self, width: Option<u16>, columns: OutdatedColumns) -> String {
        let mut header = vec!["IMAGE", "PACKAGE", "INSTALLED", "AVAILABLE", "SECURITY", "FROM"];
        if columns == OutdatedColumns::All {
            header.extend(["REBUILD", "REPOSITORY"]);
        }
        let rows = self.images.iter().flat_map(|image| {
            image.packages.iter().map(move |package| package.row(&image.name, columns))
        });
        let rows: Vec<_> = rows.collect();
        let mut text = String::new();
        if !rows.is_empty() {
            text = table::render(&header, rows, width) + "\n";
        }
        text + &self.summary()
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        for family in &self.families {
            let OutdatedFamily { name, images, outdated, lack_security, rebuild, upstreams } =
                family;
            _ = write!(
                text,
                "{name}: {outdated} of {images} image{} {} outdated packages",
                plural(*images),
                if *outdated == 1 { "has" } else { "have" }
            );
            if *lack_security > 0 {
                let verb = if *lack_security == 1 { "lacks" } else { "lack" };
                _ = write!(text, ", {lack_security} {verb} security updates");
            }
            let joined =
                |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
            if !rebuild.is_empty() {
                _ = write!(text, "; rebuild {}", joined(rebuild));
            }
            if !upstreams.is_empty() {
                _ = write!(text, "; of upstreams: {}", joined(upstreams));
            }
            text.push('\n');
        }
        if self.families.is_empty() {
            let outdated = self.images.iter().filter(|image| image.movable().next().is_some());
            let (outdated, images) = (outdated.count(), self.images.len());
            let verb = if outdated == 1 { "has" } else { "have" };
            _ = writeln!(
                text,
                "{outdated} of {images} image{} {verb} outdated packages",
                plural(images)
            );
        }
        groundswell::terminal::printable(&text)
    }
}

/// Which columns a table has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutdatedColumns {
    Short,
    All,
}

impl OutdatedImage {
    /// Returns the outdated packages that the image does not hold at their version.
    fn movable(&self) -> impl Iterator<Item = &OutdatedPackage> {
        self.packages.iter().filter(|package| !package.held)
    }
}

impl OutdatedPackage {
    fn row(&self, image: &str, columns: OutdatedColumns) -> Vec<table::StyledText> {
        let security = match self.security {
            Advice::Security => "yes",
            Advice::Other => "no",
            Advice::Unknown => "unknown",
        };
        let held = if self.held { " (held)" } else { "" };
        let available = format!("{}{held}", self.available);
        let mut row = vec![
            image.to_owned(),
            self.name.clone(),
            self.installed.clone(),
            available,
            security.to_owned(),
            self.from.clone(),
        ];
        if columns == OutdatedColumns::All {
            row.extend([self.rebuild.clone().unwrap_or_default(), self.repository.clone()]);
        }
        row.into_iter().map(Into::into).collect()
    }
}

impl IndexSummary {
    fn of(index: &ReadIndex) -> Self {
        Self {
            name: index.name.clone(),
            date: index.date.map(|date| date.to_string()),
            is_verified: index.signature == SignatureState::Verified,
            packages: index.available.table.len(),
        }
    }
}
