//! `kubectl family contains`: which images, and which running workloads, contain a package.

mod query;
#[cfg(test)]
mod tests;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use clap::Args;
use futures::{StreamExt as _, stream};
use groundswell::{
    contents::{ContentsReader, Package},
    lineage::ImageIndex,
    registry::Reference,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    contains::{
        query::{PackageMatch, PackageQuery},
        workloads::running_images,
    },
    input::{Estate, InputArguments, plural},
    output::{self, Document, ListFormat, Outcome, Terminal, note, table},
    registry_images::{MAX_CONCURRENT_IMAGES, RegistryArguments, current_reference},
};

/// Commands that the help shows.
const EXAMPLES: &str = "Examples:
  kubectl family contains libssl3 -A
  kubectl family contains 'libssl3<3.0.15-1~deb12u1'
  kubectl family contains openssl --image registry.example.com/shop/web:latest";

/// The arguments of the command.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ContainsArguments {
    /// Package, or its versions in quotes: 'libssl3<3.0.15-1'. Versions compare by the rules of the
    /// distribution
    #[arg(value_name = "PACKAGE[<VERSION]")]
    package: PackageQuery,
    /// Reference to search, instead of the images of families and of workloads. May be repeated
    #[arg(long = "image", value_name = "REFERENCE", conflicts_with_all = ["filenames", "selector"])]
    references: Vec<String>,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
}

/// What contains a package, as `-o json` writes it.
#[derive(JsonSchema, Serialize, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PackageReport {
    images: Vec<ContainingImage>,
    /// Number of images that were read.
    read: usize,
    /// What could not be read or compared: the answer may be incomplete.
    problems: Vec<String>,
}

#[derive(JsonSchema, Serialize, Debug, PartialEq, Eq)]
struct ContainingImage {
    /// The reference by digest.
    reference: String,
    /// The images of families that it is, as `namespace/family/image`.
    names: BTreeSet<String>,
    /// The workloads that run it, as `namespace/kind/name`.
    workloads: BTreeSet<String>,
    /// The packages.
    packages: Vec<Package>,
}

/// An image to search, and where it is used.
#[derive(Clone, Debug, Default)]
struct SearchedImage {
    names: BTreeSet<String>,
    workloads: BTreeSet<String>,
}

/// The images to search, by reference.
#[derive(Debug, Default)]
struct SearchedImages(BTreeMap<String, (Option<Reference>, SearchedImage)>);

impl SearchedImages {
    fn entry(&mut self, reference: Reference) -> &mut SearchedImage {
        let entry = self.0.entry(reference.to_string()).or_default();
        entry.0.get_or_insert(reference);
        &mut entry.1
    }
}

/// Runs the command.
pub async fn run(arguments: ContainsArguments) -> anyhow::Result<Outcome> {
    let reader = arguments.registry.reader()?;
    let mut report = PackageReport::default();
    let images = Box::pin(arguments.images(&mut report.problems)).await?;
    report.search(&reader, &arguments.package, images).await;
    for problem in &report.problems {
        note(&format!("not searched: {problem}"));
    }
    output::write(&report.rendered(arguments.output)?)?;
    if !report.images.is_empty() {
        return Ok(Outcome::Findings);
    }
    if let Some(count) = Some(report.problems.len()).filter(|count| *count > 0) {
        bail!("nothing was found, but {count} problem{} left images unsearched", plural(count));
    }
    Ok(Outcome::Fine)
}

impl ContainsArguments {
    /// Returns the images to search. What is in several families and workloads is searched once.
    async fn images(&self, problems: &mut Vec<String>) -> anyhow::Result<SearchedImages> {
        let mut images = SearchedImages::default();
        for reference in &self.references {
            images.entry(reference.parse()?);
        }
        if !self.references.is_empty() {
            return Ok(images);
        }
        let estate = Box::pin(Estate::read(&self.input)).await?;
        for family in &estate.families {
            for (index, image) in ImageIndex::enumerate(&family.family.spec.images) {
                match current_reference(family, index) {
                    Ok(reference) => {
                        let name = format!("{}/{}", family.name, image.name);
                        images.entry(reference).names.insert(name);
                    }
                    Err(error) => problems.push(error.to_string()),
                }
            }
        }
        if self.input.filenames.is_empty() {
            for running in running_images(&self.input).await? {
                images.entry(running.reference).workloads.insert(running.workload);
            }
        }
        Ok(images)
    }
}

impl PackageReport {
    async fn search(
        &mut self,
        reader: &ContentsReader,
        query: &PackageQuery,
        images: SearchedImages,
    ) {
        let searched = stream::iter(images.0)
            .filter_map(|(_, (reference, searched))| async move { Some((reference?, searched)) })
            .map(|(reference, searched)| async move {
                let packages = async {
                    let image = reader.image(&reference).await?;
                    let packages = reader.packages(&image).await?;
                    anyhow::Ok((image.reference.to_string(), packages))
                };
                (packages.await, searched)
            })
            .buffer_unordered(MAX_CONCURRENT_IMAGES);
        let mut searched = std::pin::pin!(searched);
        while let Some((read, searched)) = searched.next().await {
            let (reference, packages) = match read {
                Ok(read) => read,
                Err(error) => {
                    self.problems.push(format!("{error:#}"));
                    continue;
                }
            };
            self.read += 1;
            let of_image = packages.problems.iter();
            self.problems.extend(of_image.map(|problem| format!("{reference}: {problem}")));
            if packages.databases.is_empty() && packages.problems.is_empty() {
                self.problems.push(format!("{reference}: it has no database of packages"));
            }
            self.add(query, reference, packages.packages, searched);
        }
        self.images.sort_by(|a, b| (&a.names, &a.reference).cmp(&(&b.names, &b.reference)));
        self.problems.sort();
    }

    fn add(
        &mut self,
        query: &PackageQuery,
        reference: String,
        packages: BTreeSet<Package>,
        searched: SearchedImage,
    ) {
        let mut found = Vec::new();
        for package in packages {
            match query.matches(&package) {
                PackageMatch::Yes => found.push(package),
                PackageMatch::No => {}
                PackageMatch::Unknown => {
                    let Package { name, version, .. } = package;
                    let problem = "does not compare with the version of the question";
                    self.problems.push(format!("{reference}: {name} {version} {problem}"));
                }
            }
        }
        if !found.is_empty() {
            let SearchedImage { names, workloads } = searched;
            self.images.push(ContainingImage { reference, names, workloads, packages: found });
        }
    }

    fn rendered(&self, format: ListFormat) -> anyhow::Result<String> {
        let document = Document::new("PackageReport", self);
        Ok(match format {
            ListFormat::Json => document.json()?,
            ListFormat::Yaml => document.yaml()?,
            ListFormat::Name => {
                let names =
                    self.images.iter().map(|image| table::one_line(&image.reference) + "\n");
                names.collect()
            }
            ListFormat::Table => self.table(Terminal::of_stdout().width),
            ListFormat::Wide => self.table(None),
        })
    }

    fn table(&self, width: Option<u16>) -> String {
        let joined = |names: &BTreeSet<String>| {
            names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        let rows = self.images.iter().flat_map(|image| {
            let name =
                if image.names.is_empty() { image.reference.clone() } else { joined(&image.names) };
            let workloads = joined(&image.workloads);
            image.packages.iter().map(move |package| {
                vec![
                    name.clone().into(),
                    package.name.clone().into(),
                    package.version.clone().into(),
                    workloads.clone().into(),
                ]
            })
        });
        let rows: Vec<_> = rows.collect();
        let (found, read) = (self.images.len(), self.read);
        let summary = format!("{found} of {read} image{} contain it\n", plural(read));
        if rows.is_empty() {
            return summary;
        }
        table::render(&["IMAGE", "PACKAGE", "VERSION", "WORKLOADS"], rows, width) + "\n" + &summary
    }
}
