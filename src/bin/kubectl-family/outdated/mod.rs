//! `kubectl family outdated`: which installed packages have a newer version in the repositories of
//! their image, which image brings them, and which of ours is the lowest to rebuild.

mod attribution;
mod reading;
pub mod report;

use std::str::FromStr;

use anyhow::bail;
use clap::Args;
use globset::{Glob, GlobSet, GlobSetBuilder};
use groundswell::{
    lineage::ImageIndex,
    package_indexes::{IndexClient, IndexMirror},
    registry::{Config, Reference, http_transport},
};
use url::Url;

use crate::{
    input::{Estate, EstateFamily, InputArguments, plural},
    outdated::{
        reading::OutdatedReader,
        report::{OutdatedReport, UpdateSelection},
    },
    output::{self, ListFormat, Outcome, note},
    registry_images::{DOWNLOAD_TIMEOUT, ImageArgument, RegistryArguments, current_reference},
};

/// Commands that the help shows.
const EXAMPLES: &str = "Examples:
  kubectl family outdated
  kubectl family outdated shop/web -o wide
  kubectl family outdated -f family.yaml --security
  kubectl family outdated registry.example.com/shop/web:latest
  kubectl family outdated --mirror http://debian.example.org=https://mirror.example.com";

/// The arguments of the command.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct OutdatedArguments {
    /// Images of families, as NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME, or references. Defaults
    /// to all images of the families
    #[arg(value_name = "IMAGE")]
    images: Vec<ImageArgument>,
    /// Only security updates
    #[arg(long)]
    security: bool,
    /// Packages to leave out, as a name with wildcards in quotes: 'linux-*'. May be repeated
    #[arg(long, value_name = "NAME")]
    exclude: Vec<String>,
    /// URL of repositories, and the one to request instead. May be repeated
    #[arg(long, value_name = "URL=URL")]
    mirror: Vec<MirrorArgument>,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
}

/// A mirror on the command line.
#[derive(Clone, Debug)]
struct MirrorArgument(IndexMirror);

impl FromStr for MirrorArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write http://debian.example.org=https://mirror.example.com";
        let (from, to) = text.split_once('=').ok_or(FORM)?;
        for url in [from, to] {
            let url = Url::parse(url).map_err(|_| FORM)?;
            if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() {
                return Err(FORM.into());
            }
        }
        let [from, to] = [from, to].map(|url| url.trim_end_matches('/').to_owned());
        Ok(Self(IndexMirror { from, to }))
    }
}

/// An image to check.
pub struct CheckedImage<'e> {
    pub reference: Reference,
    /// The image of a family. `None` if only a reference is known.
    pub member: Option<FamilyMember<'e>>,
}

/// An image of a family.
#[derive(Clone, Copy)]
pub struct FamilyMember<'e> {
    pub estate: &'e Estate,
    pub family: &'e EstateFamily,
    pub image: ImageIndex,
}

impl FamilyMember<'_> {
    /// Returns the name in its family.
    pub fn name(&self) -> &str {
        let spec = self.family.family.spec.images.get(self.image.position());
        spec.map_or("", |spec| spec.name.as_str())
    }
}

/// Runs the command.
pub async fn run(arguments: OutdatedArguments) -> anyhow::Result<Outcome> {
    let mirrors: Vec<IndexMirror> =
        arguments.mirror.iter().map(|mirror| mirror.0.clone()).collect();
    let exclude = excluded(&arguments.exclude)?;
    let contents = arguments.registry.reader()?;
    let mut config = Config { timeout: DOWNLOAD_TIMEOUT, ..arguments.registry.config()? };
    // Images name the repositories, and the user the mirrors: only these may be on this machine.
    let hosts = mirrors.iter().filter_map(|mirror| Url::parse(&mirror.to).ok());
    config.allowed_addresses = hosts.filter_map(|url| url.host_str().map(str::to_owned)).collect();
    let indexes = IndexClient::new(http_transport(&config)?, mirrors);
    let needs_families = arguments.images.is_empty()
        || arguments.images.iter().any(|image| matches!(image, ImageArgument::Name(_)));
    let estate =
        if needs_families { Some(Box::pin(Estate::read(&arguments.input)).await?) } else { None };
    let mut report = OutdatedReport::default();
    let images = arguments.checked(estate.as_ref(), &mut report)?;
    OutdatedReader::new(&contents, &indexes, &exclude).read(images, &mut report).await;
    let selection =
        if arguments.security { UpdateSelection::Security } else { UpdateSelection::All };
    report.finish(selection);
    for problem in &report.problems {
        note(&format!("incomplete: {problem}"));
    }
    output::write(&report.rendered(arguments.output)?)?;
    if report.is_behind() {
        return Ok(Outcome::Findings);
    }
    if let Some(count) = Some(report.problems.len()).filter(|count| *count > 0) {
        bail!("nothing was found, but the answer is incomplete: {count} problem{}", plural(count));
    }
    Ok(Outcome::Fine)
}

impl OutdatedArguments {
    fn checked<'e>(
        &self,
        estate: Option<&'e Estate>,
        report: &mut OutdatedReport,
    ) -> anyhow::Result<Vec<CheckedImage<'e>>> {
        let mut images = Vec::new();
        for image in &self.images {
            match (image, estate) {
                (ImageArgument::Reference(reference), _) => {
                    images.push(CheckedImage { reference: reference.clone(), member: None });
                }
                (ImageArgument::Name(name), Some(estate)) => {
                    let (family, image) = name.find_image(estate)?;
                    let reference = current_reference(family, image)?;
                    let member = Some(FamilyMember { estate, family, image });
                    images.push(CheckedImage { reference, member });
                }
                (ImageArgument::Name(_), None) => {}
            }
        }
        let Some(estate) = estate.filter(|_| self.images.is_empty()) else { return Ok(images) };
        for family in &estate.families {
            for (image, _) in ImageIndex::enumerate(&family.family.spec.images) {
                match current_reference(family, image) {
                    Ok(reference) => {
                        let member = Some(FamilyMember { estate, family, image });
                        images.push(CheckedImage { reference, member });
                    }
                    Err(error) => report.problems.push(error.to_string()),
                }
            }
        }
        Ok(images)
    }
}

fn excluded(names: &[String]) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for name in names {
        set.add(Glob::new(name)?);
    }
    Ok(set.build()?)
}
