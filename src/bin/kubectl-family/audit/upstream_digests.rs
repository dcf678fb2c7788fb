//! The upstream digests that the builds of images depend on, directly or through other images.
//!
//! The inputs of an image's last verified build are recorded. If an image is built on an earlier
//! build of its parent, what that one depended on follows from the causes of the parent's later
//! builds, which say from which digest an upstream has moved.

use std::collections::{BTreeMap, HashMap, HashSet};

use groundswell::{
    api::{
        BuildRecord, CauseType, ManagedImageStatus, ParentDigest, managed_image::MAX_BUILD_CAUSES,
    },
    lineage::{ImageIndex, Parent, families::FamilyName},
};

use crate::input::{Estate, EstateFamily};

/// Maximum number of images between an image and its upstreams.
const MAX_DEPTH: usize = 1_000;

/// An upstream, by its family and its name there.
pub type UpstreamKey = (FamilyName, String);
/// The digest of each upstream below a build; `None` if it does not follow from the records.
pub type UpstreamDigests = BTreeMap<UpstreamKey, Option<String>>;

/// Finds the upstream digests that builds depend on.
pub struct UpstreamDigestFinder<'a> {
    estate: &'a Estate,
    known: HashMap<(&'a FamilyName, ImageIndex), UpstreamDigests>,
    /// The images whose digests are being found: families may build on each other in a circle.
    open: HashSet<(&'a FamilyName, ImageIndex)>,
}

impl<'a> UpstreamDigestFinder<'a> {
    pub fn new(estate: &'a Estate) -> Self {
        Self { estate, known: HashMap::new(), open: HashSet::new() }
    }

    /// Returns the upstream digests below the last verified build of an image.
    pub fn of(&mut self, family: &'a EstateFamily, image: ImageIndex) -> UpstreamDigests {
        let key = (&family.name, image);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        if self.open.len() >= MAX_DEPTH || !self.open.insert(key) {
            return UpstreamDigests::new();
        }
        let inputs = family.recorded(image).and_then(|status| status.inputs.as_ref());
        let pinned = inputs.map(|inputs| inputs.parents.as_slice()).unwrap_or_default();
        let found = self.below(family, image, pinned);
        self.open.remove(&key);
        self.known.insert(key, found.clone());
        found
    }

    /// Returns the upstream digests below the build that the floating tags of an image point to:
    /// the last verified one, or the one to which a user has rolled back.
    pub fn of_tagged(&mut self, family: &'a EstateFamily, image: ImageIndex) -> UpstreamDigests {
        match family.recorded(image).filter(|status| status.rollback.is_some()) {
            Some(status) => self.below(family, image, tagged_parents(status)),
            None => self.of(family, image),
        }
    }

    fn below(
        &mut self,
        family: &'a EstateFamily,
        image: ImageIndex,
        pinned: &[ParentDigest],
    ) -> UpstreamDigests {
        let mut found = UpstreamDigests::new();
        let parents = family.blueprint.lineage.parents(image);
        for (parent, pinned) in parents.iter().zip(pinned) {
            if let Parent::Upstream(index) = parent {
                let upstream = family.family.spec.upstreams.get(index.position());
                let Some(upstream) = upstream.filter(|known| known.name == pinned.name) else {
                    continue;
                };
                let key = (family.name.clone(), upstream.name.clone());
                found.insert(key, Some(pinned.digest.clone()));
            } else if let Some((family, parent)) = self.image(family, *parent) {
                for (key, digest) in self.of_build(family, parent, &pinned.digest) {
                    merge(&mut found, key, digest);
                }
            }
        }
        found
    }

    /// Returns the upstream digests below a build of an image.
    fn of_build(
        &mut self,
        family: &'a EstateFamily,
        image: ImageIndex,
        digest: &str,
    ) -> UpstreamDigests {
        let mut found = self.of(family, image);
        let Some(status) = family.recorded(image) else { return found };
        if status.digest.as_deref() == Some(digest) {
            return found;
        }
        let later = later_builds(status, digest);
        for ((of, name), value) in &mut found {
            // Names in causes are those of the image's own family.
            let later = later.filter(|_| *of == family.name);
            *value = later.and_then(|later| before(status, later, name, value.take()));
        }
        found
    }

    /// Returns the image of a parent, also in another family of the estate.
    fn image(
        &self,
        family: &'a EstateFamily,
        parent: Parent,
    ) -> Option<(&'a EstateFamily, ImageIndex)> {
        match parent {
            Parent::Image(index) => Some((family, index)),
            Parent::Upstream(_) => None,
            Parent::Import(import) => {
                let import = family.blueprint.lineage.imports().get(import.position())?;
                let namespace = import.namespace.as_ref().unwrap_or(&family.name.namespace);
                let name = FamilyName { namespace: namespace.clone(), name: import.family.clone() };
                let family = self.estate.family(&name)?;
                let mut images = ImageIndex::enumerate(&family.family.spec.images);
                let (index, _) = images.find(|(_, image)| image.name == import.image)?;
                Some((family, index))
            }
        }
    }
}

/// Returns the parents of the build that the floating tags of an image point to, as far as they are
/// recorded.
pub fn tagged_parents(status: &ManagedImageStatus) -> &[ParentDigest] {
    let Some(rollback) = &status.rollback else {
        return status.inputs.as_ref().map(|inputs| inputs.parents.as_slice()).unwrap_or_default();
    };
    let build = status.history.iter().find(|build| build.digest == rollback.digest);
    build.map(|build| build.parents.as_slice()).unwrap_or_default()
}

/// Adds what a parent depends on. Parents that depend on different digests of an upstream make it
/// unknown.
fn merge(found: &mut UpstreamDigests, key: UpstreamKey, digest: Option<String>) {
    let known = found.entry(key).or_insert_with(|| digest.clone());
    if *known != digest {
        *known = None;
    }
}

/// Returns the builds that came after that of a digest, newest first; `None` if its build is not
/// recorded.
fn later_builds<'a>(status: &'a ManagedImageStatus, digest: &str) -> Option<&'a [BuildRecord]> {
    let position = status.history.iter().position(|build| build.digest == digest)?;
    status.history.get(..position)
}

/// Returns the digest of an upstream before the later builds of an image, of which the newest one
/// depends on `current`; `None` if what they record does not show it.
fn before(
    status: &ManagedImageStatus,
    later: &[BuildRecord],
    upstream: &str,
    current: Option<String>,
) -> Option<String> {
    let mut digest = current?;
    for build in later.iter().filter(|build| !build.digest.is_empty()) {
        let is_last = build.causes.is_empty() && build.build == status.build;
        let causes = if is_last { &status.causes } else { &build.causes };
        let moved = causes.iter().find(|cause| {
            cause.type_ == CauseType::Upstream
                && cause.name == upstream
                && cause.via.iter().all(|via| !via.contains('/'))
        });
        // With other edges, the digest before may be that of another upstream.
        let has_new_spec = causes.iter().any(|cause| cause.type_ == CauseType::Spec);
        match moved {
            Some(moved) if !moved.from.is_empty() && !has_new_spec => {
                digest.clone_from(&moved.from);
            }
            None if !causes.is_empty() && causes.len() < MAX_BUILD_CAUSES => {}
            _ => return None,
        }
    }
    Some(digest)
}
