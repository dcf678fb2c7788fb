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
    contents::{ContentsReader, Package, ReadImage},
    lineage::ImageIndex,
    registry::{Digest, Reference},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    contains::{
        query::{PackageMatch, PackageQuery},
        workloads::{RunningImages, running_images},
    },
    input::{Estate, InputArguments, plural},
    missing_rights::check_rights,
    output::{self, Document, ListFormat, Outcome, Terminal, note, table},
    registry_images::{ImageArgument, MAX_CONCURRENT_IMAGES, RegistryArguments, current_reference},
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
    /// The platform that it is for, such as `linux/amd64`.
    platform: String,
    /// The images of families that it is, as `namespace/family/image`.
    names: BTreeSet<String>,
    /// The workloads that run it, as `Kind namespace/name`.
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

/// Which platforms of an image are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchedPlatforms {
    /// All that its index lists: a workload may run any of them.
    All,
    /// That of the reader, which the user has chosen.
    Chosen,
}

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
    let platforms = match &arguments.registry.platform {
        Some(_) => SearchedPlatforms::Chosen,
        None => SearchedPlatforms::All,
    };
    report.search(&reader, &arguments.package, images, platforms).await;
    for problem in &report.problems {
        note(&format!("incomplete: {problem}"));
    }
    output::write(&report.rendered(arguments.output)?)?;
    if !report.images.is_empty() {
        return Ok(Outcome::Findings);
    }
    if let Some(count) = Some(report.problems.len()).filter(|count| *count > 0) {
        bail!("nothing was found, but the answer is incomplete: {count} problem{}", plural(count));
    }
    Ok(Outcome::Fine)
}

impl ContainsArguments {
    /// Returns the images to search. What is in several families and workloads is searched once.
    async fn images(&self, problems: &mut Vec<String>) -> anyhow::Result<SearchedImages> {
        let mut images = SearchedImages::default();
        for reference in &self.references {
            match reference.parse::<ImageArgument>().map_err(anyhow::Error::msg)? {
                ImageArgument::Reference(reference) => _ = images.entry(reference),
                ImageArgument::Name(_) => bail!(
                    "`{reference}` names no registry or tag; write a reference such as \
                     registry.example.com/shop/web:latest, or leave --image out to search the \
                     images of families"
                ),
            }
        }
        if !self.references.is_empty() {
            return Ok(images);
        }
        let (estate, running) = Box::pin(self.estate_and_pods()).await?;
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
        problems.extend(running.problems);
        for running in running.images {
            images.entry(running.reference).workloads.insert(running.workload);
        }
        Ok(images)
    }

    /// Reads the families, and in a cluster what its pods run.
    async fn estate_and_pods(&self) -> anyhow::Result<(Estate, RunningImages)> {
        if !self.input.filenames.is_empty() {
            return Ok((Box::pin(Estate::read(&self.input)).await?, RunningImages::default()));
        }
        let estate = async {
            // Pods run images whether a family has them or not.
            match self.input.selector {
                None => Estate::read_if_any(&self.input).await,
                Some(_) => Estate::read(&self.input).await,
            }
        };
        let (estate, running) = tokio::join!(estate, running_images(&self.input));
        check_rights([estate.as_ref().err(), running.as_ref().err()])?;
        Ok((estate?, running?))
    }
}

/// The images that references stand for, each once although a family names its tag and a pod its
/// digest.
#[derive(Default)]
struct FoundImages(BTreeMap<Digest, (ReadImage, SearchedImage)>);

impl FoundImages {
    fn add(&mut self, image: ReadImage, searched: &SearchedImage) {
        let digest = image.reference.digest().unwrap_or_else(|| image.digest.clone());
        let (_, known) = self.0.entry(digest).or_insert((image, SearchedImage::default()));
        known.names.extend(searched.names.iter().cloned());
        known.workloads.extend(searched.workloads.iter().cloned());
    }
}

impl PackageReport {
    async fn search(
        &mut self,
        reader: &ContentsReader,
        query: &PackageQuery,
        images: SearchedImages,
        platforms: SearchedPlatforms,
    ) {
        let found = self.find(reader, images, platforms).await;
        let searched = stream::iter(found.0.into_values())
            .map(
                |(image, searched)| async move { (reader.packages(&image).await, image, searched) },
            )
            .buffer_unordered(MAX_CONCURRENT_IMAGES);
        let mut searched = std::pin::pin!(searched);
        let mut of_source = BTreeSet::new();
        while let Some((read, image, searched)) = searched.next().await {
            let packages = match read {
                Ok(packages) => packages,
                Err(error) => {
                    self.problems.push(error.to_string());
                    continue;
                }
            };
            self.read += 1;
            let reference = &image.reference;
            let of_image = packages.problems.iter();
            self.problems.extend(of_image.map(|problem| format!("{reference}: {problem}")));
            if packages.databases.is_empty() && packages.problems.is_empty() {
                self.problems.push(format!("{reference}: it has no database of packages"));
            }
            let built = packages.packages.iter().filter(|package| query.is_source_of(package));
            of_source.extend(built.map(|package| package.name.clone()));
            self.add(query, &image, packages.packages, searched);
        }
        if self.images.is_empty() && !of_source.is_empty() {
            self.problems.push(source_problem(query.name(), &of_source));
        }
        self.images.sort_by(|a, b| {
            (&a.names, &a.platform, &a.reference).cmp(&(&b.names, &b.platform, &b.reference))
        });
        self.problems.sort();
    }

    /// Finds the images that references stand for.
    async fn find(
        &mut self,
        reader: &ContentsReader,
        images: SearchedImages,
        platforms: SearchedPlatforms,
    ) -> FoundImages {
        let read = stream::iter(images.0.into_values())
            .filter_map(|(reference, searched)| async move { Some((reference?, searched)) })
            .map(|(reference, searched)| async move {
                let read = match platforms {
                    SearchedPlatforms::All => reader.images(&reference).await,
                    SearchedPlatforms::Chosen => Ok(vec![reader.image(&reference).await]),
                };
                (read, searched)
            })
            .buffer_unordered(MAX_CONCURRENT_IMAGES);
        let mut read = std::pin::pin!(read);
        let mut found = FoundImages::default();
        while let Some((read, searched)) = read.next().await {
            for image in read.unwrap_or_else(|error| vec![Err(error)]) {
                match image {
                    Ok(image) => found.add(image, &searched),
                    Err(error) => self.problems.push(error.to_string()),
                }
            }
        }
        found
    }

    fn add(
        &mut self,
        query: &PackageQuery,
        image: &ReadImage,
        packages: BTreeSet<Package>,
        searched: SearchedImage,
    ) {
        let (mut found, reference) = (Vec::new(), image.reference.to_string());
        for package in packages {
            let Package { name, version, .. } = &package;
            match query.matches(&package) {
                PackageMatch::Yes => found.push(package),
                PackageMatch::No => {}
                PackageMatch::Unknown => self.problems.push(format!(
                    "{reference}: {name} {version} does not compare with the version of the \
                     question"
                )),
                PackageMatch::NeedsEpoch => self.problems.push(format!(
                    "{reference}: {name} {version} has an epoch, and the version of the question \
                     has none; write it with the part before the colon"
                )),
            }
        }
        if !found.is_empty() {
            let SearchedImage { names, workloads } = searched;
            let platform = image.config.platform.to_string();
            let packages = found;
            self.images.push(ContainingImage { reference, platform, names, workloads, packages });
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
                    image.platform.clone().into(),
                    workloads.clone().into(),
                ]
            })
        });
        let rows: Vec<_> = rows.collect();
        let (found, read) = (self.images.len(), self.read);
        let verb = if found == 1 { "contains" } else { "contain" };
        let summary = format!("{found} of {read} image{} {verb} it\n", plural(read));
        if rows.is_empty() {
            return summary;
        }
        let header = ["IMAGE", "PACKAGE", "VERSION", "PLATFORM", "WORKLOADS"];
        table::render(&header, rows, width) + "\n" + &summary
    }
}

/// Returns which packages are meant by the name of their source.
fn source_problem(source: &str, packages: &BTreeSet<String>) -> String {
    const MAX_LISTED: usize = 10;
    let listed: Vec<&str> = packages.iter().take(MAX_LISTED).map(String::as_str).collect();
    let more = packages.len().saturating_sub(MAX_LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "no package is called {source}, but {}{more} {} built from a source of that name; ask for \
         packages",
        listed.join(", "),
        if packages.len() == 1 { "is" } else { "are" }
    )
}
