//! Reads images and the indexes of their repositories, and compares them.

use futures::{StreamExt as _, stream};
use globset::GlobSet;
use groundswell::{
    contents::{ContentsReader, Inventory, ReadImage},
    package_indexes::{
        AvailableIndex, ImageSources, IndexClient, IndexTrust, PackageUpdate, ReadIndex, updates,
    },
};
use jiff::Timestamp;

use crate::{
    outdated::{
        CheckedImage,
        attribution::{BaseReader, LayerOwner},
        report::{OutdatedImage, OutdatedPackage, OutdatedReport, OutdatedResult},
    },
    registry_images::MAX_CONCURRENT_IMAGES,
};

/// Reads images and what their repositories have.
pub struct OutdatedReader<'r> {
    contents: &'r ContentsReader,
    indexes: &'r IndexClient,
    exclude: &'r GlobSet,
    bases: BaseReader<'r>,
    now: Timestamp,
}

impl<'r> OutdatedReader<'r> {
    pub fn new(
        contents: &'r ContentsReader,
        indexes: &'r IndexClient,
        exclude: &'r GlobSet,
    ) -> Self {
        let bases = BaseReader::new(contents);
        Self { contents, indexes, exclude, bases, now: Timestamp::now() }
    }

    /// Checks images, a few at the same time. What cannot be read of one does not affect the
    /// others.
    pub async fn read(&self, images: Vec<CheckedImage<'_>>, report: &mut OutdatedReport) {
        let checked = stream::iter(images)
            .map(|image| async move { self.image(image).await })
            .buffer_unordered(MAX_CONCURRENT_IMAGES);
        let mut checked = std::pin::pin!(checked);
        while let Some(result) = checked.next().await {
            report.add(result);
        }
    }

    async fn image(&self, checked: CheckedImage<'_>) -> OutdatedResult {
        let name = checked.member.map_or_else(
            || checked.reference.to_string(),
            |member| format!("{}/{}", member.family.name, member.name()),
        );
        let mut result = OutdatedResult::new(name);
        let read = match self.contents.image(&checked.reference).await {
            Ok(image) => self.contents.inventory(&image).await.map(|inventory| (image, inventory)),
            Err(error) => Err(error),
        };
        let (image, inventory) = match read {
            Ok(read) => read,
            Err(error) => {
                result.problems.push(error.to_string());
                return result;
            }
        };
        result.problems.extend(inventory.packages.problems.iter().cloned());
        let sources = ImageSources::read(&inventory);
        result.problems.extend(sources.problems.iter().cloned());
        if inventory.packages.databases.is_empty() {
            if inventory.packages.problems.is_empty() {
                result.problems.push("it has no database of packages".into());
            }
        } else if sources.repositories.is_empty() && sources.problems.is_empty() {
            result.problems.push("it names no repository of its packages".into());
        }
        result.indexes = self.indexes(&inventory, &sources, &mut result.problems).await;
        let owners = match checked.member {
            Some(member) => self.bases.owners(member, &image).await,
            None => Vec::new(),
        };
        result.family = checked.member.map(|member| member.family.name.to_string());
        result.image = Some(self.compared(&result, &image, &inventory, &sources, &owners));
        result
    }

    async fn indexes(
        &self,
        inventory: &Inventory,
        sources: &ImageSources,
        problems: &mut Vec<String>,
    ) -> Vec<ReadIndex> {
        let mut indexes = Vec::new();
        for repository in &sources.repositories {
            let keyring = repository.keyring(&inventory.settings);
            let must_be_signed = repository.must_be_signed(&inventory.settings);
            let trust = IndexTrust { keyring: &keyring, must_be_signed, now: self.now };
            for read in self.indexes.read(repository, sources, trust).await {
                match read {
                    Ok(index) => indexes.push(index),
                    Err(error) => problems.push(error.to_string()),
                }
            }
        }
        indexes
    }

    fn compared(
        &self,
        result: &OutdatedResult,
        image: &ReadImage,
        inventory: &Inventory,
        sources: &ImageSources,
        owners: &[LayerOwner],
    ) -> OutdatedImage {
        let available: Vec<AvailableIndex> =
            result.indexes.iter().map(|index| index.available.clone()).collect();
        let found = updates(inventory, sources, &available, self.exclude);
        let package = |update: PackageUpdate<'_>| {
            let layer = inventory.layers.get(update.package);
            let owner = layer.and_then(|layer| owners.get(*layer)).cloned().unwrap_or_default();
            let index = result.indexes.get(update.index);
            OutdatedPackage {
                name: update.package.name.clone(),
                architecture: update.package.architecture.clone(),
                installed: update.package.version.clone(),
                available: update.available.to_owned(),
                security: update.advice,
                held: update.is_held,
                repository: index.map(|index| index.name.clone()).unwrap_or_default(),
                rebuild: (!owner.is_upstream && !owner.name.is_empty()).then(|| owner.name.clone()),
                from: owner.name,
            }
        };
        OutdatedImage {
            name: result.name.clone(),
            reference: image.reference.to_string(),
            platform: image.config.platform.to_string(),
            installed: inventory.packages.packages.len(),
            packages: found.into_iter().map(package).collect(),
        }
    }
}
