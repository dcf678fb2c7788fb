//! Reads images from registries.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use indexmap::IndexMap;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    contents::{
        ImagePackages, Inventory, LayerContent, LayerError, Stack, inventory::Inventories,
        received::ReceivedParts,
    },
    registry::{
        Client, Descriptor, Digest, ImageConfig, ImageManifest, Index, IndexEntry, Keychain,
        ManifestKind, Platform, Reference, RegistryError,
    },
};

/// Maximum number of layers of an image.
const MAX_IMAGE_LAYERS: usize = 512;
/// Maximum number of images of an index that are read.
const MAX_PLATFORMS: usize = 64;
/// Maximum size of the compressed layers of an image together in bytes.
const MAX_IMAGE_BYTES: u64 = 64 << 30;
/// Maximum size of the databases of layers that are kept for other images in bytes.
const MAX_KEPT_BYTES: usize = 256 << 20;
/// Maximum size of an image's configuration in bytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// The registry did not send what was asked for.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer is damaged or exceeds a bound.
    #[error("{image}: layer {digest} {problem}")]
    Layer {
        /// The image.
        image: String,
        /// The digest of the layer.
        digest: Digest,
        /// What is wrong with it.
        problem: LayerError,
    },
    /// What has the reference is no image that can be read.
    #[error("{image}: {problem}")]
    Image {
        /// The image.
        image: String,
        /// What is wrong with it: a sentence.
        problem: String,
    },
}

/// An image for one platform, without its layers' contents.
#[derive(Clone, Debug)]
pub struct ReadImage {
    /// The reference by digest.
    pub reference: Reference,
    /// The digest that the reference has: that of the index, if there is one.
    pub digest: Digest,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The configuration, as far as a cascade reads it.
    pub config: ImageConfig,
    /// The settings of containers: the part `config` of the configuration.
    pub settings: Value,
    /// The command of each layer, as the history has it. Empty if it does not have as many as
    /// there are layers, since nothing says which of them has none.
    pub commands: Vec<String>,
}

/// Reads images with one client. What several images share is read once.
pub struct ContentsReader {
    client: Client,
    keychain: Keychain,
    platform: Platform,
    kept: Mutex<KeptLayers>,
    reading: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct KeptLayers {
    /// The layers, the oldest first.
    layers: IndexMap<Digest, Arc<LayerContent>>,
    bytes: usize,
}

impl ContentsReader {
    /// Creates a reader of images for a platform.
    #[must_use]
    pub fn new(client: Client, keychain: Keychain, platform: Platform) -> Self {
        Self { client, keychain, platform, kept: Mutex::default(), reading: Mutex::default() }
    }

    /// Reads the manifest and the configuration of an image for the reader's platform.
    pub async fn image(&self, image: &Reference) -> Result<ReadImage, ContentsError> {
        let manifest = self.client.manifest(image, &self.keychain).await?;
        let digest = manifest.digest;
        match manifest.kind {
            ManifestKind::Image(found) => self.finish(image, digest.clone(), &digest, found).await,
            ManifestKind::Index(index) => {
                let entry = index.image_for(&self.platform);
                let entry = entry.ok_or_else(|| ContentsError::Image {
                    image: image.to_string(),
                    problem: missing_platform(&index, &self.platform),
                })?;
                self.entry(image, &digest, entry).await
            }
        }
    }

    /// Reads the manifests and the configurations of an image for every platform that its index
    /// lists. An entry that cannot be read does not affect the others.
    pub async fn images(
        &self,
        image: &Reference,
    ) -> Result<Vec<Result<ReadImage, ContentsError>>, ContentsError> {
        let manifest = self.client.manifest(image, &self.keychain).await?;
        let digest = manifest.digest;
        let index = match manifest.kind {
            ManifestKind::Image(found) => {
                return Ok(vec![self.finish(image, digest.clone(), &digest, found).await]);
            }
            ManifestKind::Index(index) => index,
        };
        let mut read: Vec<Result<ReadImage, ContentsError>> = Vec::new();
        let mut known = HashSet::new();
        // Signatures and other artifacts are no images.
        let entries = index.images().filter(|entry| entry.is_image() || entry.is_index());
        for entry in entries.filter(|entry| known.insert(&entry.descriptor.digest)) {
            if read.len() >= MAX_PLATFORMS {
                let problem = format!("its index lists more than {MAX_PLATFORMS} images");
                read.push(Err(ContentsError::Image { image: image.to_string(), problem }));
                break;
            }
            read.push(self.entry(image, &digest, entry).await);
        }
        if read.is_empty() {
            let problem = "its index lists no image".into();
            return Err(ContentsError::Image { image: image.to_string(), problem });
        }
        Ok(read)
    }

    /// Reads an image that an index lists.
    async fn entry(
        &self,
        image: &Reference,
        index: &Digest,
        entry: &IndexEntry,
    ) -> Result<ReadImage, ContentsError> {
        let digest = &entry.descriptor.digest;
        let reference = image.with_digest(digest);
        let manifest = self.client.manifest(&reference, &self.keychain).await?;
        match manifest.kind {
            ManifestKind::Image(found) => self.finish(image, index.clone(), digest, found).await,
            ManifestKind::Index(_) => Err(ContentsError::Image {
                image: reference.to_string(),
                problem: "it is an index in an index, which is not read; name one of its images"
                    .into(),
            }),
        }
    }

    /// Reads the configuration of an image whose manifest is read.
    async fn finish(
        &self,
        image: &Reference,
        digest: Digest,
        own: &Digest,
        manifest: ImageManifest,
    ) -> Result<ReadImage, ContentsError> {
        let reference = image.with_digest(own);
        let unreadable =
            |problem: String| ContentsError::Image { image: image.to_string(), problem };
        if manifest.layers.len() > MAX_IMAGE_LAYERS {
            return Err(unreadable(format!("it has more than {MAX_IMAGE_LAYERS} layers")));
        }
        let sizes = manifest.layers.iter().map(|layer| layer.size);
        if sizes.fold(0, u64::saturating_add) > MAX_IMAGE_BYTES {
            let max = MAX_IMAGE_BYTES >> 30;
            return Err(unreadable(format!("its layers have more than {max} GiB")));
        }
        let (config, shape) = self.config(&reference, &manifest.config).await?;
        let settings = shape.get("config").cloned().unwrap_or_default();
        let mut commands = commands(&shape);
        if commands.len() != manifest.layers.len() {
            commands.clear();
        }
        Ok(ReadImage { reference, digest, manifest, config, settings, commands })
    }

    /// Reads the configuration of an image: as far as a cascade reads it, and all of it.
    async fn config(
        &self,
        image: &Reference,
        config: &Descriptor,
    ) -> Result<(ImageConfig, Value), ContentsError> {
        let unreadable = |problem: &str| ContentsError::Image {
            image: image.to_string(),
            problem: format!("its configuration {problem}"),
        };
        if config.size > MAX_CONFIG_BYTES {
            return Err(unreadable("is too large"));
        }
        let bytes = self.client.blob_part(image, config, 0, &self.keychain).await?;
        if Digest::of(&bytes) != config.digest {
            return Err(unreadable("has another content than its digest says"));
        }
        let parsed = ImageConfig::parse(&bytes).map_err(|problem| ContentsError::Image {
            image: image.to_string(),
            problem: format!("the registry {problem}"),
        })?;
        let shape = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok((parsed, shape))
    }

    /// Reads the packages of an image from its layers.
    pub async fn packages(&self, image: &ReadImage) -> Result<ImagePackages, ContentsError> {
        let mut stack = Stack::default();
        for layer in &image.manifest.layers {
            let content = self.layer(&image.reference, layer).await?;
            stack.add(&content).map_err(|problem| ContentsError::Layer {
                image: image.reference.to_string(),
                digest: layer.digest.clone(),
                problem,
            })?;
        }
        let packages = tokio::task::spawn_blocking(move || stack.packages()).await;
        packages.map_err(|error| ContentsError::Image {
            image: image.reference.to_string(),
            problem: format!("its databases cannot be read: {error}"),
        })
    }

    /// Reads the packages of an image from its layers, with the layer that brings each, and the
    /// settings that say where they come from.
    pub async fn inventory(&self, image: &ReadImage) -> Result<Inventory, ContentsError> {
        let mut inventories = Inventories::default();
        for layer in &image.manifest.layers {
            let content = self.layer(&image.reference, layer).await?;
            inventories.add(content).map_err(|problem| ContentsError::Layer {
                image: image.reference.to_string(),
                digest: layer.digest.clone(),
                problem,
            })?;
        }
        let inventory = tokio::task::spawn_blocking(move || inventories.finish()).await;
        inventory.map_err(|error| ContentsError::Image {
            image: image.reference.to_string(),
            problem: format!("its databases cannot be read: {error}"),
        })
    }

    /// Reads a layer of an image. A layer that another image needs at the same time is read once.
    pub async fn layer(
        &self,
        image: &Reference,
        layer: &Descriptor,
    ) -> Result<Arc<LayerContent>, ContentsError> {
        let turn = {
            let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(reading.entry(layer.digest.clone()).or_default())
        };
        let _turn = turn.lock().await;
        if let Some(kept) = self.kept().layers.get(&layer.digest) {
            return Ok(Arc::clone(kept));
        }
        let content = Arc::new(self.read_layer(image, layer).await?);
        self.keep(layer.digest.clone(), &content);
        Ok(content)
    }

    /// Reads a layer while it is received.
    async fn read_layer(
        &self,
        image: &Reference,
        layer: &Descriptor,
    ) -> Result<LayerContent, ContentsError> {
        let damaged = |problem| ContentsError::Layer {
            image: image.to_string(),
            digest: layer.digest.clone(),
            problem,
        };
        let (sender, parts) = ReceivedParts::channel();
        let reading = tokio::task::spawn_blocking(move || LayerContent::read(parts));
        let (mut hash, mut start) = (Sha256::new(), 0);
        while start < layer.size {
            let part = self.client.blob_part(image, layer, start, &self.keychain).await?;
            start += part.len() as u64;
            hash.update(&part);
            // The reader stops early if the layer exceeds a bound.
            if sender.send(part).await.is_err() {
                break;
            }
        }
        drop(sender);
        let content = reading.await.map_err(|error| io::Error::other(error).into());
        let content = content.and_then(|read| read).map_err(damaged)?;
        if layer.digest.as_str() != format!("sha256:{}", hex::encode(hash.finalize())) {
            return Err(damaged("has another content than its digest says".into()));
        }
        Ok(content)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, KeptLayers> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a layer for other images, and drops the oldest ones if there are too many.
    fn keep(&self, digest: Digest, content: &Arc<LayerContent>) {
        let mut kept = self.kept();
        if kept.layers.insert(digest, Arc::clone(content)).is_none() {
            kept.bytes += content.kept_bytes();
        }
        while kept.bytes > MAX_KEPT_BYTES {
            let Some((_, dropped)) = kept.layers.shift_remove_index(0) else { break };
            kept.bytes -= dropped.kept_bytes();
        }
    }
}

/// Returns why an index has no image for a platform, and what to do.
fn missing_platform(index: &Index, wanted: &Platform) -> String {
    if index.nested_for(wanted).is_some() {
        return format!("its index lists another index for {wanted}, which is not read; name that");
    }
    let offered: Vec<_> = index.platforms().iter().map(ToString::to_string).collect();
    if offered.is_empty() {
        return "its index names no platform; name one of its images by digest".into();
    }
    let offered = offered.join(", ");
    format!("there is no image for {wanted}, only for {offered}; choose one with --platform")
}

/// Returns the command of each layer in the history of a configuration.
fn commands(config: &Value) -> Vec<String> {
    let history = config.get("history").and_then(Value::as_array).into_iter().flatten();
    let is_layer = |entry: &&Value| entry.get("empty_layer") != Some(&Value::Bool(true));
    let command = |entry: &Value| {
        let command = entry.get("created_by").and_then(Value::as_str);
        command.unwrap_or_default().to_owned()
    };
    history.filter(is_layer).map(command).collect()
}
