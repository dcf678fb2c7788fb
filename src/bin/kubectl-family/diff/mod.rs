//! `kubectl family diff`: what a rebuild has changed.

pub mod compare;
mod render;
#[cfg(test)]
mod tests;

use anyhow::{anyhow, bail};
use clap::Args;
use groundswell::{
    contents::{ContentsReader, ImagePackages, ReadImage},
    lineage::ImageIndex,
    registry::Reference,
};

use crate::{
    diff::compare::ImageDiff,
    input::{Estate, EstateFamily, InputArguments},
    output::{self, ListFormat, Outcome},
    registry_images::{ImageArgument, RegistryArguments, build_reference},
};

/// Commands that the help shows.
const EXAMPLES: &str = "Examples:
  kubectl family diff shop/web
  kubectl family diff shop/web 3 7
  kubectl family diff registry.example.com/shop/web:1 registry.example.com/shop/web:2";

/// The arguments of the command.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct DiffArguments {
    /// Image of a family, as NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME, or a reference
    image: ImageArgument,
    /// Numbers of the builds to compare, or the reference to compare with. One number is compared
    /// with the build before. Defaults to the last build
    #[arg(value_name = "BUILD|REFERENCE", num_args = 0..=2)]
    builds: Vec<String>,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
}

/// An image with its packages.
pub struct ComparedImage {
    pub image: ReadImage,
    pub packages: ImagePackages,
}

/// Runs the command.
pub async fn run(arguments: DiffArguments) -> anyhow::Result<Outcome> {
    let (from, to) = match &arguments.image {
        ImageArgument::Reference(reference) => {
            let [other] = arguments.builds.as_slice() else {
                bail!("name the reference to compare {reference} with");
            };
            (reference.clone(), other.parse()?)
        }
        ImageArgument::Name(name) => {
            let numbers: Vec<i64> =
                arguments.builds.iter().map(|text| number(text)).collect::<anyhow::Result<_>>()?;
            let estate = Box::pin(Estate::read(&arguments.input)).await?;
            let (family, image) = name.find_image(&estate)?;
            let history = Builds::of(family, image)?;
            let (from, to) = history.choose(&numbers)?;
            (build_reference(family, image, from)?, build_reference(family, image, to)?)
        }
    };
    let reader = arguments.registry.reader()?;
    let (from, to) = (read(&reader, &from).await?, read(&reader, &to).await?);
    let diff = ImageDiff::new(&from, &to);
    output::write(&diff.rendered(arguments.output)?)?;
    Ok(if diff.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

fn number(text: &str) -> anyhow::Result<i64> {
    let number = text.parse().ok();
    number.ok_or_else(|| {
        anyhow!(
            "`{text}` is no number of a build; both images of a comparison \
                                  are references, or both are builds"
        )
    })
}

async fn read(reader: &ContentsReader, reference: &Reference) -> anyhow::Result<ComparedImage> {
    let image = reader.image(reference).await?;
    let packages = reader.packages(&image).await?;
    Ok(ComparedImage { image, packages })
}

/// The builds of an image whose results are recorded, the newest first: number and digest.
struct Builds {
    image: String,
    builds: Vec<(i64, String)>,
}

impl Builds {
    fn of(family: &EstateFamily, image: ImageIndex) -> anyhow::Result<Self> {
        let spec = family.family.spec.images.get(image.position());
        let name = spec.map(|image| image.name.as_str()).unwrap_or_default();
        let status = family.images.get(name).and_then(|image| image.status.as_ref());
        let status = status.ok_or_else(|| {
            anyhow!(
                "nothing is recorded of the builds of {}/{name}; compare two references",
                family.name
            )
        })?;
        let builds = status.history.iter().filter(|build| !build.digest.is_empty());
        let builds = builds.filter_map(|build| Some((build.build?, build.digest.clone())));
        Ok(Self { image: format!("{}/{name}", family.name), builds: builds.collect() })
    }

    /// Returns the digests to compare. Without numbers they are those of the last build, and of the
    /// last one before it with another digest.
    fn choose(&self, numbers: &[i64]) -> anyhow::Result<(&str, &str)> {
        let (to, from) = match numbers {
            [from, to] => (self.position(*to)?, Some(self.position(*from)?)),
            [to] => {
                let to = self.position(*to)?;
                (to, self.before(to))
            }
            _ => (0, self.before(0)),
        };
        let digest = |position: usize| self.builds.get(position).map(|(_, digest)| digest.as_str());
        match (from.and_then(digest), digest(to)) {
            (Some(from), Some(to)) => Ok((from, to)),
            _ if self.builds.is_empty() => bail!("{} was not built yet", self.image),
            _ => {
                bail!("{} has no other build to compare with; it has {}", self.image, self.listed())
            }
        }
    }

    fn position(&self, number: i64) -> anyhow::Result<usize> {
        let position = self.builds.iter().position(|(build, _)| *build == number);
        position.ok_or_else(|| {
            anyhow!("{} has no recorded build {number}; it has {}", self.image, self.listed())
        })
    }

    /// Returns the newest build before this one with another digest.
    fn before(&self, position: usize) -> Option<usize> {
        let (_, digest) = self.builds.get(position)?;
        let older = self.builds.iter().enumerate().skip(position + 1);
        older.filter(|(_, (_, other))| other != digest).map(|(position, _)| position).next()
    }

    fn listed(&self) -> String {
        if self.builds.is_empty() {
            return "none".into();
        }
        let numbers: Vec<_> = self.builds.iter().map(|(number, _)| number.to_string()).collect();
        numbers.join(", ")
    }
}
