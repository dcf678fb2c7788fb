//! Whether an image of another family is about to change, according to its own record and the
//! records of all its ancestors.
//!
//! A cascade across families behaves like one cascade. A family waits for an imported image that is
//! being rebuilt. It also waits for one whose own record does not show this yet, because an
//! ancestor has only just moved. It does not wait for an image that stays as it is until a user
//! acts.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::{
        Edge, Image, ImageFamily, ImageState, ManagedImage, ManagedImageStatus, OnParentFailure,
        ParentDigest,
        condition::{self, RECONCILING, Reason, ReasonClass, ReasonTrait, STALLED},
    },
    engine::{
        input::{ImportState, ImportedBuild},
        upstreams::eligible,
    },
    lineage::families::{FamilyName, ImageName, import},
};

/// Upper bound on the images whose records one reconcile reads. Ancestors beyond it count as
/// settled: at worst an image is built twice.
pub const MAX_VISITED_IMAGES: usize = 10_000;

/// Reads the objects of families and of their images.
pub trait Records {
    /// Returns the family of this name, if it exists.
    fn family(&self, name: &FamilyName) -> Option<Arc<ImageFamily>>;
    /// Returns the record of an image, if it exists.
    fn image(&self, name: &ImageName) -> Option<Arc<ManagedImage>>;
}

/// The states of images of other families, each determined once.
pub struct ImportStates<'a, R> {
    records: &'a R,
    families: HashMap<FamilyName, Option<Arc<ImportedFamily>>>,
    states: HashMap<ImageName, ImportState>,
}

/// A family that images are imported from.
struct ImportedFamily {
    family: Arc<ImageFamily>,
    /// The index of each image in the spec, by name.
    images: HashMap<String, usize>,
    /// Whether the family starts no build, whatever moves: it is suspended, or no window is open.
    is_paused: bool,
    /// Whether not even running builds change its records: the family is not evaluated, or is being
    /// deleted.
    is_unevaluated: bool,
    /// Whether the records of its images are older than its spec, and are about to be written. They
    /// are not while the spec is invalid.
    is_unrecorded: bool,
}

/// What the record of an image says about its state.
enum RecordedState {
    /// The record is sufficient.
    Decided(ImportState),
    /// The state depends on the parents.
    DependsOnParents(ImportVisit),
}

/// An image whose parents are being visited.
struct ImportVisit {
    name: ImageName,
    parents: Vec<ImageName>,
    /// The index of the next parent to visit.
    next: usize,
    /// Whether a failed parent blocks this image.
    is_blocked_by_failure: bool,
    /// The state that follows from the parents visited so far, if they decide it.
    from_parents: Option<ImportState>,
    /// The state if the parents do not decide it.
    otherwise: ImportState,
}

impl<'a, R: Records> ImportStates<'a, R> {
    /// Determines states from these records.
    #[must_use]
    pub fn new(records: &'a R) -> Self {
        Self { records, families: HashMap::new(), states: HashMap::new() }
    }

    /// Returns the verified build of an image.
    #[must_use]
    pub fn verified(&self, name: &ImageName) -> Option<ImportedBuild> {
        let record = self.records.image(name)?;
        let status = record.status.as_ref()?;
        Some(ImportedBuild {
            digest: status.digest.as_ref()?.into(),
            repository: record.spec.repository.clone(),
            base_observed: status.base_observed,
            causes: status.causes.clone(),
            rolled_back_to: status.rollback.as_ref().map(|earlier| (&earlier.digest).into()),
        })
    }

    /// Returns whether the verified build of an image is about to change.
    ///
    /// Costs O(images + edges) of its ancestors. Each image is visited once, over all calls.
    pub fn state(&mut self, name: &ImageName) -> ImportState {
        let mut stack: Vec<ImportVisit> = self.visit(name).into_iter().collect();
        while let Some(visit) = stack.last_mut() {
            let Some(parent) = visit.parents.get(visit.next) else {
                if let Some(ImportVisit { name, from_parents, otherwise, .. }) = stack.pop() {
                    self.states.insert(name, from_parents.unwrap_or(otherwise));
                }
                continue;
            };
            if let Some(state) = self.states.get(parent) {
                visit.add_parent(state);
            } else {
                let parent = parent.clone();
                stack.extend(self.visit(&parent));
            }
        }
        self.states.get(name).cloned().unwrap_or(ImportState::Settled)
    }

    /// Determines the state of an image from its own record, or returns the visit of its parents
    /// that has to come first.
    fn visit(&mut self, name: &ImageName) -> Option<ImportVisit> {
        if self.states.contains_key(name) {
            return None;
        }
        let limit_reached = self.states.len() >= MAX_VISITED_IMAGES;
        // A preliminary state, so that a cycle ends.
        self.states.insert(name.clone(), ImportState::Settled);
        if limit_reached {
            return None;
        }
        match self.recorded_state(name) {
            RecordedState::Decided(state) => {
                self.states.insert(name.clone(), state);
                None
            }
            RecordedState::DependsOnParents(visit) => Some(visit),
        }
    }

    fn recorded_state(&mut self, name: &ImageName) -> RecordedState {
        let settled = RecordedState::Decided(ImportState::Settled);
        let in_progress = RecordedState::Decided(ImportState::InProgress);
        let Some(family) = self.family(&name.family) else { return settled };
        let index = family.images.get(&name.image);
        let Some(image) = index.and_then(|index| family.family.spec.images.get(*index)) else {
            return settled;
        };
        let record = self.records.image(name);
        let Some(status) = record.as_ref().and_then(|record| record.status.as_ref()) else {
            return if family.is_idle() { settled } else { in_progress };
        };
        if family.is_unrecorded {
            // The record describes an older spec.
            return in_progress;
        }
        let parents: Vec<ImageName> =
            image.from.iter().filter_map(|edge| parent(name, edge)).collect();
        let after_parents = |otherwise: ImportState, parents: Vec<ImageName>| {
            let is_blocked_by_failure = image.on_parent_failure == OnParentFailure::Block
                || status.state == ImageState::Blocked;
            RecordedState::DependsOnParents(ImportVisit {
                name: name.clone(),
                parents,
                next: 0,
                is_blocked_by_failure,
                from_parents: None,
                otherwise,
            })
        };
        let failed = || ImportState::Failed { by: name.to_string() };
        let is_in_progress = condition::is_true(&status.conditions, RECONCILING)
            && status.known_reason().is_some_and(|reason| reason.class() == ReasonClass::Expected)
            && !family.is_unevaluated;
        match status.state {
            ImageState::Failed => RecordedState::Decided(failed()),
            ImageState::Building | ImageState::Checking if is_in_progress => in_progress,
            ImageState::Building | ImageState::Checking | ImageState::Held => settled,
            ImageState::Blocked if family.is_idle() => after_parents(failed(), parents),
            _ if family.is_idle() => settled,
            ImageState::Current if self.has_newer_inputs(&family, name, image, status) => {
                in_progress
            }
            ImageState::Current => after_parents(ImportState::Settled, parents),
            // If all parents have come, this record is about to follow. Otherwise the parents that
            // the image waits for decide.
            ImageState::Blocked if self.all_have_digests(&parents) => {
                after_parents(ImportState::InProgress, parents)
            }
            ImageState::Blocked => after_parents(failed(), parents),
            ImageState::Waiting if status.reason == Reason::WaitingForParent => {
                let otherwise = if self.all_have_digests(&parents) {
                    ImportState::InProgress
                } else {
                    ImportState::Settled
                };
                after_parents(otherwise, parents)
            }
            ImageState::Waiting | ImageState::Queued if is_in_progress => in_progress,
            ImageState::Waiting | ImageState::Queued => settled,
        }
    }

    /// Returns whether an input of a current image differs from the one that it was built from, or
    /// is about to.
    fn has_newer_inputs(
        &self,
        family: &ImportedFamily,
        name: &ImageName,
        image: &Image,
        status: &ManagedImageStatus,
    ) -> bool {
        let Some(inputs) = &status.inputs else { return false };
        let upstreams = family.family.status.as_ref().map_or(&[][..], |status| &status.upstreams);
        let has_moved = |(edge, built_from): (&Edge, &ParentDigest)| {
            if let Some(name) = &edge.upstream {
                let upstream = upstreams.iter().find(|upstream| upstream.name == *name);
                let adopted = upstream.and_then(|upstream| upstream.adopted.as_ref());
                // The platform of the other family's image is not known here.
                return upstream.is_some_and(eligible)
                    || adopted.is_some_and(|adopted| !adopted.content().names(&built_from.digest));
            }
            let record = parent(name, edge).and_then(|parent| self.records.image(&parent));
            let parent = record.as_ref().and_then(|record| record.status.as_ref());
            // What a rolled back parent was before and is now makes no image stale.
            let parent = parent.filter(|parent| parent.rollback.is_none());
            let now = parent.and_then(|parent| parent.digest.as_ref());
            now.is_some_and(|now| *now != built_from.digest)
        };
        image.from.len() != inputs.parents.len()
            || image.from.iter().zip(&inputs.parents).any(has_moved)
    }

    /// Returns whether each of these images has a digest to build from.
    fn all_have_digests(&self, images: &[ImageName]) -> bool {
        images.iter().all(|image| {
            let record = self.records.image(image);
            let status = record.as_ref().and_then(|record| record.status.as_ref());
            status.is_some_and(|status| {
                status.digest.is_some()
                    && matches!(status.state, ImageState::Current | ImageState::Held)
            })
        })
    }

    fn family(&mut self, name: &FamilyName) -> Option<Arc<ImportedFamily>> {
        let records = self.records;
        let family = self.families.entry(name.clone()).or_insert_with(|| {
            records.family(name).map(|family| Arc::new(ImportedFamily::new(family)))
        });
        family.clone()
    }
}

impl ImportVisit {
    /// Adds the state of the next parent. A failure takes precedence over a change, as it does
    /// within a family.
    fn add_parent(&mut self, state: &ImportState) {
        self.next += 1;
        match (state, &self.from_parents) {
            (ImportState::Failed { .. }, None | Some(ImportState::InProgress))
                if self.is_blocked_by_failure =>
            {
                self.from_parents = Some(state.clone());
            }
            (ImportState::InProgress, None) => self.from_parents = Some(ImportState::InProgress),
            _ => {}
        }
    }
}

impl ImportedFamily {
    fn new(family: Arc<ImageFamily>) -> Self {
        let images = family
            .spec
            .images
            .iter()
            .enumerate()
            .map(|(index, image)| (image.name.clone(), index))
            .collect();
        let status = family.status.as_ref();
        let window_closed =
            status.and_then(|status| status.window.as_ref()).is_some_and(|window| !window.open);
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        let stalled = conditions.iter().find(|condition| {
            condition.type_ == STALLED
                && condition.status == "True"
                && condition.observed_generation == family.metadata.generation
        });
        let is_unevaluated = stalled
            .and_then(|condition| Reason::parse(&condition.reason))
            .is_some_and(|reason| reason.has(ReasonTrait::StopsEvaluation))
            || family.metadata.deletion_timestamp.is_some();
        let is_paused = family.spec.suspend || window_closed;
        // The status of the family is written after the records of its images.
        let is_older =
            status.and_then(|status| status.observed_generation) < family.metadata.generation;
        let is_unrecorded = is_older && stalled.is_none() && !is_unevaluated;
        Self { family, images, is_paused, is_unevaluated, is_unrecorded }
    }

    /// Returns whether the family starts no build, whatever moves.
    const fn is_idle(&self) -> bool {
        self.is_paused || self.is_unevaluated
    }
}

/// Returns the parent image that an edge names, in the same family or in another.
fn parent(child: &ImageName, edge: &Edge) -> Option<ImageName> {
    let own = || Some(ImageName { family: child.family.clone(), image: edge.image.clone()? });
    import(&child.family, edge).or_else(own)
}
