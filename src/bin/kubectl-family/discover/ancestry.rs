//! Which image is built on which, as far as a registry shows it. Pure.
//!
//! An annotation that names the base decides. Otherwise an image is built on the one whose layers
//! are its own lowest layers, and on the longest such one. Where several images fit equally well,
//! or where the commands of the history name another base than the layers, the result is ambiguous.
//! Build stages leave no trace in an image.

use std::collections::{BTreeMap, HashMap};

use groundswell::registry::{Digest, HistoryStep, Reference};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

/// Maximum number of images that an ambiguous result names.
const MAX_CANDIDATES: usize = 8;

/// A layer as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLayer {
    pub digest: Digest,
    /// Size in bytes, compressed.
    pub size: u64,
}

/// What annotations say about the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnotatedBase {
    pub name: Option<Reference>,
    pub digest: Option<Digest>,
}

/// An image of a registry, with all the names that it has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredImage {
    /// The references by tag, sorted.
    pub names: Vec<Reference>,
    /// The digest that the tags point to.
    pub digest: Digest,
    /// The digest of the image for the platform; the same if the tags point to no index.
    pub image_digest: Digest,
    /// The digests of the images for all platforms; empty if the tags point to no index.
    pub platform_digests: Vec<Digest>,
    pub created: Option<Timestamp>,
    pub base: AnnotatedBase,
    pub layers: Vec<StoredLayer>,
    pub diff_ids: Vec<Digest>,
    pub history: Vec<HistoryStep>,
    /// The annotations and labels that the scan has kept.
    pub labels: BTreeMap<String, String>,
}

/// What shows that an image is built on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseEvidence {
    Annotation,
    Layers,
}

/// What an image is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundBase {
    /// The image with this index.
    Image {
        index: usize,
        evidence: BaseEvidence,
        /// Whether it is built on an earlier build of that image.
        is_outdated: bool,
    },
    /// An image that is not among those that were read.
    Elsewhere(Reference),
    /// One of these images.
    Ambiguous(Vec<usize>),
    Unknown(UnknownBase),
}

/// Why a base is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownBase {
    /// The image has at most one layer: it is squashed, or built from nothing.
    SingleLayer,
    /// None of the images has its lowest layers.
    NoSuchLayers,
    /// Annotations name images that are built on one another.
    Cycle,
}

/// Returns what each image is built on.
pub fn bases(images: &[DiscoveredImage]) -> Vec<FoundBase> {
    let index = ChainIndex::new(images);
    let mut bases: Vec<FoundBase> = (0..images.len()).map(|at| index.base(at)).collect();
    break_cycles(&mut bases);
    bases
}

/// The images by what identifies them: digests, names and chains of layers.
struct ChainIndex<'a> {
    images: &'a [DiscoveredImage],
    digests: HashMap<&'a Digest, usize>,
    names: BTreeMap<String, usize>,
    /// The images whose layers, all together, have this hash.
    chains: HashMap<[u8; 32], Vec<usize>>,
    /// The images whose history, as a whole, has this hash.
    histories: HashMap<[u8; 32], Vec<usize>>,
}

impl<'a> ChainIndex<'a> {
    fn new(images: &'a [DiscoveredImage]) -> Self {
        let mut index = Self {
            images,
            digests: HashMap::new(),
            names: BTreeMap::new(),
            chains: HashMap::new(),
            histories: HashMap::new(),
        };
        for (at, image) in images.iter().enumerate() {
            index.digests.extend(image.platform_digests.iter().map(|digest| (digest, at)));
            index.digests.insert(&image.digest, at);
            index.digests.insert(&image.image_digest, at);
            index.names.extend(image.names.iter().map(|name| (name.to_string(), at)));
            if let Some(chain) = layer_hashes(image).pop() {
                index.chains.entry(chain).or_default().push(at);
            }
            if let Some(history) = history_hashes(image).pop() {
                index.histories.entry(history).or_default().push(at);
            }
        }
        index
    }

    fn base(&self, at: usize) -> FoundBase {
        let Some(image) = self.images.get(at) else {
            return FoundBase::Unknown(UnknownBase::NoSuchLayers);
        };
        self.annotated(at, image).unwrap_or_else(|| self.by_layers(at, image))
    }

    fn annotated(&self, at: usize, image: &DiscoveredImage) -> Option<FoundBase> {
        let AnnotatedBase { name, digest } = &image.base;
        let evidence = BaseEvidence::Annotation;
        let by_digest = digest.as_ref().and_then(|digest| self.digests.get(digest)).copied();
        // Another tag may still point to the digest, for example one that names the build.
        let by_name = name.as_ref().and_then(|name| self.names.get(&without_digest(name)));
        let is_moved = by_name.is_some_and(|named| *named != at && by_digest != Some(*named));
        if let Some(index) = by_digest.filter(|index| *index != at && !is_moved) {
            return Some(FoundBase::Image { index, evidence, is_outdated: false });
        }
        let name = name.as_ref()?;
        if name.tag().is_none() && name.digest().is_some() {
            return Some(FoundBase::Elsewhere(name.clone()));
        }
        match self.names.get(&without_digest(name)).copied() {
            Some(index) if index != at => {
                // The tag has moved on since, if the digest is another one.
                let is_outdated = digest.is_some();
                Some(FoundBase::Image { index, evidence, is_outdated })
            }
            Some(_) => None,
            None => Some(FoundBase::Elsewhere(name.clone())),
        }
    }

    fn by_layers(&self, at: usize, image: &DiscoveredImage) -> FoundBase {
        let (by_layers, of_history) = self.longest_chain(at, image);
        let by_history = self.longest_history(at, image, of_history);
        let mut candidates = by_layers;
        // An earlier build of an image leaves its commands, but other layers. The same commands may
        // also have been written twice.
        candidates.extend(by_history);
        candidates.dedup();
        match candidates.as_slice() {
            [] if image.diff_ids.len() <= 1 => FoundBase::Unknown(UnknownBase::SingleLayer),
            [] => FoundBase::Unknown(UnknownBase::NoSuchLayers),
            [index] if self.is_below(*index, image) => FoundBase::Image {
                index: *index,
                evidence: BaseEvidence::Layers,
                is_outdated: false,
            },
            all => FoundBase::Ambiguous(all.iter().copied().take(MAX_CANDIDATES).collect()),
        }
    }

    /// Returns the images with the most of the lowest layers of an image, and how many steps of the
    /// history they explain.
    fn longest_chain(&self, at: usize, image: &DiscoveredImage) -> (Vec<usize>, usize) {
        let steps = history_hashes(image);
        // A history that is whole begins with that of the base. Two images on one base that was not
        // read may have its layers in common, and each its own commands.
        let is_disproved = |other: usize| {
            let own = self.images.get(other).map(history_hashes).unwrap_or_default();
            let last = own.len().checked_sub(1);
            let is_prefix = last.and_then(|last| steps.get(last)) == own.last();
            !own.is_empty() && !steps.is_empty() && !is_prefix
        };
        let known = |other: usize| {
            let history = self.images.get(other).map_or(0, |other| other.history.len());
            let is_prefix = history > 0
                && history < image.history.len()
                && steps.get(history - 1).is_some_and(|hash| {
                    self.histories.get(hash).is_some_and(|all| all.contains(&other))
                });
            if is_prefix { history } else { 0 }
        };
        for (position, hash) in layer_hashes(image).iter().enumerate().rev() {
            let is_whole = position + 1 == image.diff_ids.len();
            let others = self.chains.get(hash).into_iter().flatten().copied();
            let explained: Vec<(usize, usize)> = others
                .filter(|other| *other != at && !is_disproved(*other))
                .map(|other| (known(other), other))
                // All layers in common: what has the longer history is built on the other.
                .filter(|(history, _)| !is_whole || *history > 0)
                .collect();
            let Some(most) = explained.iter().map(|(history, _)| *history).max() else { continue };
            let best = explained.into_iter().filter(|(history, _)| *history == most);
            return (best.map(|(_, other)| other).collect(), most);
        }
        (Vec::new(), 0)
    }

    /// Returns the images whose commands are the first ones of an image, and more of them than its
    /// layers explain.
    fn longest_history(&self, at: usize, image: &DiscoveredImage, explained: usize) -> Vec<usize> {
        let hashes = history_hashes(image);
        for (position, hash) in hashes.iter().enumerate().rev() {
            let length = position + 1;
            if length == image.history.len() {
                continue;
            }
            if length <= explained {
                break;
            }
            let others = self.histories.get(hash).into_iter().flatten().copied();
            let others: Vec<usize> =
                others.filter(|other| *other != at && self.has_layers(*other)).collect();
            if !others.is_empty() {
                return others;
            }
        }
        Vec::new()
    }

    fn has_layers(&self, index: usize) -> bool {
        self.images.get(index).is_some_and(|image| !image.diff_ids.is_empty())
    }

    /// Whether the layers of an image are the lowest ones of another.
    fn is_below(&self, index: usize, image: &DiscoveredImage) -> bool {
        self.images.get(index).is_some_and(|base| image.diff_ids.starts_with(&base.diff_ids))
    }
}

/// Returns a reference by its tag alone.
fn without_digest(reference: &Reference) -> String {
    format!("{}:{}", reference.repository(), reference.tag().unwrap_or("latest"))
}

/// Returns the hash of the lowest layer, of the lowest two, and so on.
fn layer_hashes(image: &DiscoveredImage) -> Vec<[u8; 32]> {
    hashes(image.diff_ids.iter().map(|layer| layer.as_str().as_bytes().to_vec()))
}

/// Returns the hash of the first step, of the first two, and so on. Without a step that has made a
/// layer, there is none.
fn history_hashes(image: &DiscoveredImage) -> Vec<[u8; 32]> {
    let made = image.history.iter().filter(|step| !step.is_empty_layer).count();
    if made == 0 || made != image.diff_ids.len() {
        return Vec::new();
    }
    hashes(image.history.iter().map(|step| {
        let mut bytes = step.command.as_str().as_bytes().to_vec();
        bytes.push(u8::from(step.is_empty_layer));
        bytes
    }))
}

fn hashes(parts: impl Iterator<Item = Vec<u8>>) -> Vec<[u8; 32]> {
    let mut hasher = Sha256::new();
    parts
        .map(|part| {
            hasher.update(part);
            hasher.clone().finalize().into()
        })
        .collect()
}

/// Marks the images whose annotations name each other.
fn break_cycles(bases: &mut [FoundBase]) {
    let mut is_done = vec![false; bases.len()];
    for start in 0..bases.len() {
        let mut path = Vec::new();
        let mut at = start;
        while is_done.get(at) == Some(&false) {
            if path.contains(&at) {
                for member in path.iter().skip_while(|member| **member != at) {
                    if let Some(base) = bases.get_mut(*member) {
                        *base = FoundBase::Unknown(UnknownBase::Cycle);
                    }
                }
                break;
            }
            path.push(at);
            match bases.get(at) {
                Some(FoundBase::Image { index, .. }) => at = *index,
                _ => break,
            }
        }
        for member in path {
            if let Some(done) = is_done.get_mut(member) {
                *done = true;
            }
        }
    }
}

#[cfg(test)]
#[path = "ancestry_tests.rs"]
mod tests;
