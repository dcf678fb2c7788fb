//! What follows from a spec alone: made once per generation, so that a pass neither hashes nor
//! resolves it again.

use crate::{
    api::{Edge, Image, ImageFamilySpec},
    engine::{
        cascade::windows::Windows,
        fingerprint::{check_revision, checks_hash, inline_revision, spec_hash},
    },
    lineage::{ImageIndex, Lineage, Parent},
};

/// What follows from a spec alone.
#[derive(Debug)]
pub struct Blueprint {
    /// The checked graph.
    pub lineage: Lineage,
    /// The names of [`Lineage::imports`], as causes and messages tell them.
    pub import_names: Vec<String>,
    /// When builds may start.
    pub windows: Windows,
    /// The images, as `spec.images`.
    pub images: Vec<ImageBlueprint>,
}

/// What follows from the spec of one image.
#[derive(Clone, Debug)]
pub struct ImageBlueprint {
    /// The repository that it is pushed to.
    pub repository: String,
    /// What [`Inputs::spec`](crate::api::Inputs::spec) is for it.
    pub spec_hash: String,
    /// The revision of a Dockerfile that stands in the spec.
    pub inline: Option<String>,
    /// The references by which its Dockerfile names the parents, in the order of `from`.
    pub references: Vec<String>,
    /// The hash of its checks; `None` if it has none.
    pub checks: Option<String>,
    /// The hash of each check, in the order of `checks`.
    pub check_revisions: Vec<String>,
}

impl Blueprint {
    /// What follows from a spec with this graph and these windows.
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
            repository: repository(spec, image),
            spec_hash: spec_hash(image, &references),
            inline: image.source.inline.as_deref().map(inline_revision),
            checks: checks_hash(&image.checks),
            check_revisions: image.checks.iter().map(check_revision).collect(),
            references,
        }
    }
}

/// The repository that an image is pushed to.
#[must_use]
pub fn repository(spec: &ImageFamilySpec, image: &Image) -> String {
    format!("{}/{}", spec.repository, image.path.as_deref().unwrap_or(&image.name))
}

/// The reference by which a Dockerfile names a parent, if the edge does not say: see
/// [`Edge::reference`]. Where another family pushes to is not in this spec, so that the name of its
/// image stands for the reference.
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
