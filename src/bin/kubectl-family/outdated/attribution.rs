//! Which image of the chain of bases brings a layer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use groundswell::{contents::ContentsReader, contents::ReadImage, registry::Reference};
use tokio::sync::OnceCell;

use crate::{
    layers::owners,
    outdated::FamilyMember,
    registry_images::{Ancestor, base_chain},
};

/// The image that brings a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerOwner {
    /// Its name in its family, or that of the upstream. Empty if it is unknown.
    pub name: String,
    /// Whether it is an upstream, which no family builds.
    pub is_upstream: bool,
}

/// Reads the bases of images. What several images are built on is read once.
pub struct BaseReader<'c> {
    contents: &'c ContentsReader,
    known: Mutex<HashMap<String, Arc<OnceCell<Option<ReadImage>>>>>,
}

impl<'c> BaseReader<'c> {
    pub fn new(contents: &'c ContentsReader) -> Self {
        Self { contents, known: Mutex::default() }
    }

    /// Returns which image brings each layer of an image, the lowest first.
    pub async fn owners(&self, member: FamilyMember<'_>, image: &ReadImage) -> Vec<LayerOwner> {
        let mut ancestors = Vec::new();
        let mut upstream = None;
        for ancestor in base_chain(member.estate, member.family, member.image) {
            let Ancestor { name, reference, is_upstream } = ancestor;
            if is_upstream {
                upstream = Some(name.clone());
            }
            let read = match &reference {
                Some(reference) => self.image(reference).await,
                None => None,
            };
            ancestors.push((name, read));
        }
        let names = owners(member.name(), image, &ancestors);
        let owner = |(position, name): (usize, String)| LayerOwner {
            // An image of the family may have the name of the upstream that it is built on.
            is_upstream: upstream.as_ref() == Some(&name)
                && ancestors
                    .first()
                    .and_then(|(_, read)| read.as_ref())
                    .is_some_and(|read| position < read.manifest.layers.len()),
            name,
        };
        names.into_iter().enumerate().map(owner).collect()
    }

    async fn image(&self, reference: &Reference) -> Option<ReadImage> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(reference.to_string()).or_default())
        };
        let read = cell.get_or_init(|| async { self.contents.image(reference).await.ok() });
        read.await.clone()
    }
}
