//! What follows from a spec alone. It is computed once per generation, so that a reconcile neither
//! hashes nor resolves it again.

use crate::{
    api::{Edge, Image, ImageFamilySpec},
    engine::{
        Problem,
        cascade::windows::Windows,
        fingerprint::{Hasher, check_revision, checks_hash, inline_revision, spec_hash},
        tag_cache::TagCache,
        tag_labels::labels_of_tags,
    },
    identity::ChecksHash,
    lineage::{ImageIndex, Lineage, Parent},
};

/// The number of different delays of refreshes.
pub const REFRESH_SHARES: u32 = 1 << 16;

/// What follows from a spec alone.
#[derive(Debug)]
pub struct Blueprint {
    /// The checked graph.
    pub lineage: Lineage,
    /// The names of [`Lineage::imports`], as causes and messages show them.
    pub import_names: Vec<String>,
    /// When builds may start.
    pub windows: Windows,
    /// The images, parallel to `spec.images`.
    pub images: Vec<ImageBlueprint>,
}

/// What follows from the spec of one image.
#[derive(Clone, Debug)]
pub struct ImageBlueprint {
    /// The repository that the image is pushed to.
    pub repository: String,
    /// The value of [`Inputs::spec`](crate::api::Inputs::spec) for the image.
    pub spec_hash: String,
    /// The revision of an inline Dockerfile; `None` for other sources.
    pub inline: Option<String>,
    /// The references by which the Dockerfile names the parents, in the order of `from`.
    pub references: Vec<String>,
    /// The labels of the built image that its tags name, sorted.
    pub labels: Vec<String>,
    /// The tags of its last verified build.
    pub tags: TagCache,
    /// The hash of the checks; `None` if the image has none.
    pub checks: Option<ChecksHash>,
    /// The hash of each check, in the order of `checks`.
    pub check_revisions: Vec<String>,
    /// By which share of the spread the refreshes of the image are delayed.
    pub refresh_share: u32,
    /// Why the image is not built, whatever its inputs are. The other images of the family are not
    /// affected, except for its descendants.
    pub problem: Option<Problem>,
}

impl Blueprint {
    /// Computes what follows from a spec with this graph and these windows.
    #[must_use]
    pub fn new(spec: &ImageFamilySpec, lineage: Lineage, windows: Windows) -> Self {
        let images = ImageIndex::enumerate(&spec.images)
            .map(|(index, image)| ImageBlueprint::new(spec, &lineage, index, image))
            .collect();
        let import_names = lineage.imports().iter().map(ToString::to_string).collect();
        Self { lineage, import_names, windows, images }
    }
}

impl ImageBlueprint {
    fn new(spec: &ImageFamilySpec, lineage: &Lineage, index: ImageIndex, image: &Image) -> Self {
        let edges = image.from.iter().zip(lineage.parents(index));
        let references: Vec<String> =
            edges.map(|(edge, parent)| reference(spec, lineage, edge, *parent)).collect();
        Self {
            refresh_share: refresh_share(&repository(spec, image)),
            repository: repository(spec, image),
            spec_hash: spec_hash(image, &references),
            inline: image.source.inline.as_deref().map(inline_revision),
            labels: labels_of_tags(&image.tags),
            tags: TagCache::default(),
            checks: checks_hash(&image.checks),
            check_revisions: image.checks.iter().map(check_revision).collect(),
            references,
            problem: None,
        }
    }
}

/// Returns the repository that an image is pushed to.
#[must_use]
pub fn repository(spec: &ImageFamilySpec, image: &Image) -> String {
    format!("{}/{}", spec.repository, image.path.as_deref().unwrap_or(&image.name))
}

/// Returns the share of the spread by which the refreshes of an image are delayed, from 0 to
/// [`REFRESH_SHARES`] - 1. It follows from the repository of the image alone.
fn refresh_share(repository: &str) -> u32 {
    let hash = Hasher::new("refresh").text(repository).hex();
    let first = hash.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    first.unwrap_or_default() % REFRESH_SHARES
}

/// Returns the reference by which a Dockerfile names a parent: [`Edge::reference`], or its default.
/// The repository of another family is not in this spec, so that the name of its image is used in
/// place of the reference.
fn reference(spec: &ImageFamilySpec, lineage: &Lineage, edge: &Edge, parent: Parent) -> String {
    edge.reference.clone().unwrap_or_else(|| match parent {
        Parent::Upstream(upstream) => spec
            .upstreams
            .get(upstream.position())
            .map(crate::api::Upstream::reference)
            .unwrap_or_default(),
        Parent::Image(image) => spec
            .images
            .get(image.position())
            .map(|image| format!("{}:latest", repository(spec, image)))
            .unwrap_or_default(),
        Parent::Import(import) => {
            lineage.imports().get(import.position()).map(ToString::to_string).unwrap_or_default()
        }
    })
}
