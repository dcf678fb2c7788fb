//! What the rules check: families, and what the Dockerfiles of their images say.

use groundswell::{
    api::{EdgeUse, Image, SourceKind},
    lineage::{ImageIndex, Parent},
};

use crate::{
    input::{Estate, EstateFamily},
    lint::{
        checkout::Checkout,
        dockerfile::FinalStage,
        rules::{RuleReport, RuleReports},
    },
};

/// The families of an estate with their Dockerfiles.
pub struct LintedEstate<'e> {
    pub families: Vec<LintedFamily<'e>>,
    /// The day on which the ends of support are judged.
    pub now: jiff::Timestamp,
}

/// A family with the Dockerfiles of its images.
pub struct LintedFamily<'e> {
    pub family: &'e EstateFamily,
    /// Parallel to the images of the spec.
    pub dockerfiles: Vec<LintedDockerfile>,
}

/// The Dockerfile of an image.
#[derive(Default)]
pub struct LintedDockerfile {
    /// Its path in the checkout; `None` if it is inline.
    pub file: Option<String>,
    /// Its text; `None` if it is not here, or cannot be read.
    pub text: Option<String>,
    /// What its final stage does; `None` if it cannot be interpreted, too.
    pub stage: Option<FinalStage>,
    /// Why it cannot be read or interpreted.
    pub problem: Option<String>,
}

/// An image with its family.
#[derive(Clone, Copy)]
pub struct LintedImage<'f> {
    pub family: &'f LintedFamily<'f>,
    pub index: ImageIndex,
    pub spec: &'f Image,
    pub dockerfile: &'f LintedDockerfile,
}

impl<'e> LintedEstate<'e> {
    /// Reads the Dockerfiles of all images that are here.
    pub fn read(estate: &'e Estate, checkout: Option<&Checkout>, now: jiff::Timestamp) -> Self {
        let families = estate.families.iter().map(|family| LintedFamily {
            family,
            dockerfiles: family
                .family
                .spec
                .images
                .iter()
                .map(|image| LintedDockerfile::read(family, image, checkout))
                .collect(),
        });
        Self { families: families.collect(), now }
    }

    /// Returns the file and the line that declare what a finding names; `None` in a cluster.
    pub fn manifest_line(&self, subject: &str) -> Option<(String, u64)> {
        let (family, name) = subject.rsplit_once('/')?;
        let mut families = self.families.iter().map(|linted| linted.family);
        families.find(|known| known.name.to_string() == family)?.manifest_line(name)
    }

    /// Returns all images.
    pub fn images(&self) -> impl Iterator<Item = LintedImage<'_>> {
        self.families.iter().flat_map(LintedFamily::images)
    }
}

/// Returns the Dockerfile of an image that is in a checkout, if it can be read.
pub fn checked_out_text(image: &Image, checkout: Option<&Checkout>) -> Option<String> {
    let (Some(SourceKind::Git(git)), Some(checkout)) = (image.source.kind(), checkout) else {
        return None;
    };
    checkout.read(&Checkout::path(git)).ok().filter(|_| checkout.is_of(git))
}

impl LintedDockerfile {
    /// Reads the Dockerfile of an image, if it is here: in a `ConfigMap` that was read, and in Git
    /// with a checkout of its repository.
    fn read(family: &EstateFamily, image: &Image, checkout: Option<&Checkout>) -> Self {
        let mut read = Self::default();
        let text = match image.source.kind() {
            Some(SourceKind::Git(git)) => {
                let Some(checkout) = checkout.filter(|checkout| checkout.is_of(git)) else {
                    return read;
                };
                let file = Checkout::path(git);
                let text = checkout.read(&file);
                read.file = Some(file);
                text
            }
            _ => match family.dockerfile(image) {
                Some(text) => Ok(text),
                None => return read,
            },
        };
        let stage = text.and_then(|text| {
            let stage = FinalStage::parse(&text, image.target.as_deref());
            read.text = Some(text);
            stage
        });
        match stage {
            Ok(stage) => read.stage = Some(stage),
            Err(error) => read.problem = Some(format!("{error:#}")),
        }
        read
    }
}

impl LintedFamily<'_> {
    /// Returns the images.
    pub fn images(&self) -> impl Iterator<Item = LintedImage<'_>> {
        let images = ImageIndex::enumerate(&self.family.family.spec.images);
        images.filter_map(|(index, spec)| {
            let dockerfile = self.dockerfiles.get(index.position())?;
            Some(LintedImage { family: self, index, spec, dockerfile })
        })
    }

    /// Returns an image.
    pub fn image(&self, index: ImageIndex) -> Option<LintedImage<'_>> {
        self.images().find(|image| image.index == index)
    }

    /// Returns how a finding names something of the family.
    pub fn subject(&self, name: &str) -> String {
        format!("{}/{name}", self.family.name)
    }
}

impl<'f> LintedImage<'f> {
    /// Returns the image of the family that this one is built on by `use: Base`.
    pub fn base(&self) -> Option<LintedImage<'f>> {
        let parents = self.family.family.blueprint.lineage.parents(self.index);
        let base = self.spec.from.iter().zip(parents).find(|(edge, _)| edge.usage == EdgeUse::Base);
        match base?.1 {
            Parent::Image(base) => self.family.image(*base),
            Parent::Upstream(_) | Parent::Import(_) => None,
        }
    }

    /// Returns the images of the family below this one, the nearest first.
    pub fn bases(&self) -> impl Iterator<Item = LintedImage<'f>> {
        // A lineage has no cycles.
        std::iter::successors(self.base(), Self::base)
    }

    /// Returns what the final stage does, if that is known.
    pub fn stage(&self) -> Option<&'f FinalStage> {
        self.dockerfile.stage.as_ref()
    }

    /// Adds a report about this image.
    pub fn report(&self, reports: &mut RuleReports, line: Option<usize>, message: String) {
        let file = self.dockerfile.file.clone();
        let subject = self.family.subject(&self.spec.name);
        reports.0.push(RuleReport { subject, file, line, message });
    }
}
