//! `kubectl family layers`: the layers of an image, which of them other images have too, and what a
//! node pulls when one of the images below is rebuilt.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use clap::Args;
use futures::{StreamExt as _, stream};
use groundswell::{
    contents::{ContentsReader, ReadImage},
    lineage::ImageIndex,
    registry::{Digest, Reference},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    input::{Estate, EstateFamily, InputArguments, plural},
    output::{self, Document, ListFormat, Outcome, Terminal, note, table},
    registry_images::{
        Ancestor, ImageArgument, MAX_CONCURRENT_IMAGES, RegistryArguments, base_chain,
        current_reference, human_size,
    },
};

/// Commands that the help shows.
const EXAMPLES: &str = "Examples:
  kubectl family layers shop/web
  kubectl family layers web -f family.yaml -o wide
  kubectl family layers registry.example.com/shop/web:latest";

/// The arguments of the command.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct LayersArguments {
    /// Image of a family, as NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME, or a reference
    image: ImageArgument,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
}

/// The layers of an image, as `-o json` writes them.
#[derive(JsonSchema, Serialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImageLayers {
    /// The reference by digest.
    reference: String,
    /// Size of all layers in bytes, compressed.
    size: u64,
    /// The layers, the lowest first.
    layers: Vec<LayerRow>,
    /// What a node that has the image pulls after a rebuild, from the least to the most.
    pulls: Vec<Pull>,
    /// What the image's family takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<FamilySize>,
}

#[derive(JsonSchema, Serialize, Debug, PartialEq, Eq)]
struct LayerRow {
    digest: String,
    size: u64,
    /// The image that brings the layer: an ancestor, or the image itself. Empty if it is unknown.
    from: String,
    /// Number of the family's images that have the layer.
    images: usize,
    /// The command that has made it.
    command: String,
}

#[derive(JsonSchema, Serialize, Debug, PartialEq, Eq)]
struct Pull {
    /// The image that is rebuilt, with all that are built on it.
    rebuilt: String,
    bytes: u64,
}

#[derive(JsonSchema, Serialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct FamilySize {
    images: usize,
    /// Number of images that could not be read, and are not counted.
    unread: usize,
    /// Size in bytes if no two images had a layer in common.
    unshared: u64,
    /// Size in bytes with each layer once: what a registry stores.
    stored: u64,
}

/// Runs the command.
pub async fn run(arguments: LayersArguments) -> anyhow::Result<Outcome> {
    let reader = arguments.registry.reader()?;
    let layers = match &arguments.image {
        ImageArgument::Reference(reference) => {
            ImageLayers::new("", &reader.image(reference).await?, &[], None)
        }
        ImageArgument::Name(name) => {
            let estate = Box::pin(Estate::read(&arguments.input)).await?;
            let (family, image) = name.find_image(&estate)?;
            layers_in_family(&reader, &estate, family, image).await?
        }
    };
    output::write(&layers.rendered(arguments.output)?)?;
    Ok(Outcome::Fine)
}

/// Reads the layers of an image and of its family from the registry.
///
/// # Errors
///
/// Returns an error if the image itself cannot be read. What is missing of the others is noted.
pub async fn layers_in_family(
    reader: &ContentsReader,
    estate: &Estate,
    family: &EstateFamily,
    image: ImageIndex,
) -> anyhow::Result<ImageLayers> {
    let spec = &family.family.spec;
    let read = reader.image(&current_reference(family, image)?).await?;
    let mut ancestors = Vec::new();
    for Ancestor { name, reference, .. } in base_chain(estate, family, image) {
        let found = match &reference {
            Some(reference) => reader.image(reference).await.map(Some),
            None => Ok(None),
        };
        let found = found.unwrap_or_else(|error| {
            note(&format!("the layers of {name} are unknown: {error:#}"));
            None
        });
        ancestors.push((name, found));
    }
    let references: Vec<Option<Reference>> = ImageIndex::range(spec.images.len())
        .map(|image| current_reference(family, image).ok())
        .collect();
    let size = FamilyLayers::read(reader, references).await;
    let name = spec.images.get(image.position()).map_or("", |image| image.name.as_str());
    Ok(ImageLayers::new(name, &read, &ancestors, Some(size)))
}

/// The layers of a family's images.
#[derive(Debug, Default)]
struct FamilyLayers {
    images: usize,
    unread: usize,
    /// Size and number of images of each layer.
    layers: BTreeMap<String, (u64, usize)>,
}

impl FamilyLayers {
    async fn read(reader: &ContentsReader, references: Vec<Option<Reference>>) -> Self {
        let mut family = Self::default();
        let read = stream::iter(references)
            .map(|reference| async move { reader.image(reference.as_ref()?).await.ok() })
            .buffer_unordered(MAX_CONCURRENT_IMAGES);
        let mut read = std::pin::pin!(read);
        while let Some(image) = read.next().await {
            match image {
                Some(image) => family.add(&image),
                None => family.unread += 1,
            }
        }
        family
    }

    fn add(&mut self, image: &ReadImage) {
        self.images += 1;
        let distinct: BTreeMap<_, _> =
            image.manifest.layers.iter().map(|layer| (&layer.digest, layer.size)).collect();
        for (digest, size) in distinct {
            self.layers.entry(digest.to_string()).or_insert((size, 0)).1 += 1;
        }
    }

    fn size(&self) -> FamilySize {
        let sizes = self.layers.values();
        FamilySize {
            images: self.images,
            unread: self.unread,
            unshared: sizes.clone().map(|(size, images)| size * *images as u64).sum(),
            stored: sizes.map(|(size, _)| size).sum(),
        }
    }
}

impl ImageLayers {
    /// Compares the layers of an image with those of its ancestors, the lowest first. An ancestor
    /// that is not known is `None`.
    fn new(
        name: &str,
        image: &ReadImage,
        ancestors: &[(String, Option<ReadImage>)],
        family: Option<FamilyLayers>,
    ) -> Self {
        let owner = owners(name, image, ancestors);
        let layers: Vec<LayerRow> = (image.manifest.layers.iter().zip(owner).enumerate())
            .map(|(index, (layer, from))| LayerRow {
                digest: layer.digest.to_string(),
                size: layer.size,
                from,
                images: family.as_ref().map_or(0, |family| {
                    family.layers.get(layer.digest.as_str()).map_or(0, |(_, images)| *images)
                }),
                command: image.commands.get(index).cloned().unwrap_or_default(),
            })
            .collect();
        Self {
            reference: image.reference.to_string(),
            size: layers.iter().map(|layer| layer.size).sum(),
            pulls: pulls(&layers),
            layers,
            family: family.map(|family| family.size()),
        }
    }

    fn rendered(&self, format: ListFormat) -> anyhow::Result<String> {
        let document = Document::new("ImageLayers", self);
        Ok(match format {
            ListFormat::Json => document.json()?,
            ListFormat::Yaml => document.yaml()?,
            ListFormat::Name => {
                self.layers.iter().fold(String::new(), |text, layer| text + &layer.digest + "\n")
            }
            ListFormat::Table => self.table(Terminal::of_stdout().width, Columns::Short),
            ListFormat::Wide => self.table(None, Columns::All),
        })
    }

    fn table(&self, width: Option<u16>, columns: Columns) -> String {
        let mut header = vec!["SIZE", "FROM", "IMAGES", "COMMAND"];
        if columns == Columns::All {
            header.insert(0, "DIGEST");
        }
        let rows = self.layers.iter().map(|layer| {
            let images = if layer.images == 0 { String::new() } else { layer.images.to_string() };
            let mut row = vec![human_size(layer.size), layer.from.clone(), images];
            row.push(layer.command.clone());
            if columns == Columns::All {
                row.insert(0, layer.digest.clone());
            }
            row.into_iter().map(Into::into).collect()
        });
        table::render(&header, rows.collect(), width) + &self.summary()
    }

    fn summary(&self) -> String {
        let count = self.layers.len();
        let mut text = format!("\n{} in {count} layer{}\n", human_size(self.size), plural(count));
        for Pull { rebuilt, bytes } in &self.pulls {
            let bytes = human_size(*bytes);
            _ = writeln!(text, "a node pulls {bytes} of it when {rebuilt} is rebuilt");
        }
        if let Some(FamilySize { images, unread, unshared, stored }) = &self.family {
            let (stored, unshared) = (human_size(*stored), human_size(*unshared));
            _ = writeln!(
                text,
                "the {images} image{} of the family take {stored} in the registry, and would take \
                 {unshared} if they shared no layer",
                plural(*images)
            );
            if *unread > 0 {
                _ = writeln!(text, "{unread} more could not be read and are not counted");
            }
        }
        text
    }
}

/// Which columns a table has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    Short,
    All,
}

/// Returns the name of the image that brings each layer: the lowest of those that begin with it. It
/// is empty if an ancestor below that one is not known, which may bring the layer, too.
pub fn owners(
    name: &str,
    image: &ReadImage,
    ancestors: &[(String, Option<ReadImage>)],
) -> Vec<String> {
    let digests: Vec<&Digest> = image.manifest.layers.iter().map(|layer| &layer.digest).collect();
    let shared = |ancestor: &ReadImage| {
        let layers = ancestor.manifest.layers.iter().map(|layer| &layer.digest);
        digests.iter().zip(layers).take_while(|(own, other)| **own == *other).count()
    };
    let ancestors =
        ancestors.iter().map(|(name, ancestor)| (name.as_str(), ancestor.as_ref().map(shared)));
    let (mut owners, mut is_gap) = (Vec::new(), false);
    for (name, layers) in ancestors.chain([(name, Some(digests.len()))]) {
        match layers {
            Some(layers) if layers > owners.len() => {
                owners.resize(layers, if is_gap { "" } else { name }.to_owned());
                is_gap = false;
            }
            Some(_) => {}
            None => is_gap = true,
        }
    }
    owners
}

/// Returns what is pulled if each of the images below is rebuilt: its layers, and all above them.
fn pulls(layers: &[LayerRow]) -> Vec<Pull> {
    let (mut pulls, mut named) = (Vec::new(), BTreeSet::new());
    let mut bytes: u64 = layers.iter().map(|layer| layer.size).sum();
    for layer in layers {
        if !layer.from.is_empty() && named.insert(&layer.from) {
            pulls.push(Pull { rebuilt: layer.from.clone(), bytes });
        }
        bytes -= layer.size;
    }
    pulls.reverse();
    pulls
}
