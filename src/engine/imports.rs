//! Whether an image of another family is about to change, from what is recorded of it and of
//! everything that it stands on.
//!
//! A cascade that crosses families is settled and ordered as one: a family waits for an image of
//! another one that is on its way, and also for one that does not know yet that it is, because
//! something further up has only just moved. What stands still until somebody does something is not
//! waited for.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::{
        Edge, Image, ImageFamily, ImageState, ManagedImage, ManagedImageStatus, OnParentFailure,
        ParentDigest,
        condition::{self, RECONCILING, STALLED, reason},
    },
    engine::{
        input::{ImportState, ImportedBuild},
        upstreams::eligible,
    },
    lineage::families::{FamilyName, ImageName, import},
};

/// The most images whose records a pass looks at. What is above counts as settled: at worst
/// something is built twice.
pub const MAX_RECORDS: usize = 10_000;

/// Reasons for which an image stays where it is until a person or the clock does something.
const CLOSED_GATES: [&str; 7] = [
    reason::SUSPENDED,
    reason::WINDOW_CLOSED,
    reason::BREAKER_OPEN,
    reason::HELD,
    reason::AWAITING_APPROVAL,
    reason::MINIMUM_AGE,
    reason::CANCELLED,
];

/// Reasons for which a family as a whole is not looked at any further: its images' records stay
/// what they were before.
const CAN_NOT_BE_BUILT: [&str; 7] = [
    reason::INVALID_SPEC,
    reason::CYCLE,
    reason::UNKNOWN_PARENT,
    reason::TAG_COLLISION,
    reason::INVALID_TAG_TEMPLATE,
    reason::SECRET_NOT_FOUND,
    reason::INVALID_SECRET,
];

/// What is recorded of families and of their images.
pub trait Records {
    /// The family of this name.
    fn family(&self, name: &FamilyName) -> Option<Arc<ImageFamily>>;
    /// The record of an image.
    fn image(&self, name: &ImageName) -> Option<Arc<ManagedImage>>;
}

/// Images of other families, each looked at once.
pub struct Imports<'a, R> {
    records: &'a R,
    families: HashMap<FamilyName, Option<Arc<Known>>>,
    states: HashMap<ImageName, ImportState>,
}

/// A family, and where its images stand in its spec.
struct Known {
    family: Arc<ImageFamily>,
    images: HashMap<String, usize>,
    /// Whether nothing new is started in it, whatever moves.
    at_rest: bool,
    /// Whether not even what runs is taken notice of.
    stalled: bool,
    /// Whether its spec was found wanting as it is now, so that records of an older one are not
    /// followed by newer ones.
    found_wanting: bool,
}

/// What an image's own record comes to.
enum Own {
    /// It says all.
    Decided(ImportState),
    /// What the image stands on comes first.
    Parents(Frame),
}

/// An image whose parents are looked at.
struct Frame {
    name: ImageName,
    parents: Vec<ImageName>,
    next: usize,
    /// Whether it does not go on without a parent that has failed.
    blocks: bool,
    /// What the parents that were looked at come to, if that decides it.
    found: Option<ImportState>,
    /// What it is if they do not.
    otherwise: ImportState,
}

impl<'a, R: Records> Imports<'a, R> {
    /// Images as these records tell of them.
    #[must_use]
    pub fn new(records: &'a R) -> Self {
        Self { records, families: HashMap::new(), states: HashMap::new() }
    }

    /// The last good build of an image.
    #[must_use]
    pub fn verified(&self, name: &ImageName) -> Option<ImportedBuild> {
        let record = self.records.image(name)?;
        let status = record.status.as_ref()?;
        Some(ImportedBuild {
            digest: status.digest.clone()?,
            repository: record.spec.repository.clone(),
            base_seen: status.base_seen,
            causes: status.causes.clone(),
        })
    }

    /// Whether that is about to change. O(images + edges) above it; what was looked at once is not
    /// looked at again.
    pub fn state(&mut self, name: &ImageName) -> ImportState {
        let mut stack: Vec<Frame> = self.enter(name).into_iter().collect();
        while let Some(frame) = stack.last_mut() {
            let Some(parent) = frame.parents.get(frame.next) else {
                if let Some(Frame { name, found, otherwise, .. }) = stack.pop() {
                    self.states.insert(name, found.unwrap_or(otherwise));
                }
                continue;
            };
            if let Some(state) = self.states.get(parent) {
                frame.take(state);
            } else {
                let parent = parent.clone();
                stack.extend(self.enter(&parent));
            }
        }
        self.states.get(name).cloned().unwrap_or(ImportState::Settled)
    }

    /// Decides an image by its own record, or says that its parents come first.
    fn enter(&mut self, name: &ImageName) -> Option<Frame> {
        if self.states.contains_key(name) {
            return None;
        }
        let too_many = self.states.len() >= MAX_RECORDS;
        // Until it is decided, so that a circle ends.
        self.states.insert(name.clone(), ImportState::Settled);
        if too_many {
            return None;
        }
        match self.own(name) {
            Own::Decided(state) => {
                self.states.insert(name.clone(), state);
                None
            }
            Own::Parents(frame) => Some(frame),
        }
    }

    fn own(&mut self, name: &ImageName) -> Own {
        let settled = Own::Decided(ImportState::Settled);
        let Some(family) = self.family(&name.family) else { return settled };
        let place = family.images.get(&name.image);
        let Some(image) = place.and_then(|place| family.family.spec.images.get(*place)) else {
            return settled;
        };
        let moving = |moves: bool| if moves { ImportState::OnItsWay } else { ImportState::Settled };
        let record = self.records.image(name);
        let Some(status) = record.as_ref().and_then(|record| record.status.as_ref()) else {
            return Own::Decided(moving(!family.at_rest && !family.stalled));
        };
        let parents: Vec<ImageName> =
            image.from.iter().filter_map(|edge| parent(name, edge)).collect();
        let frame = |otherwise: ImportState, parents: Vec<ImageName>| {
            let blocks = image.on_parent_failure == OnParentFailure::Block
                || status.state == ImageState::Blocked;
            Own::Parents(Frame {
                name: name.clone(),
                parents,
                next: 0,
                blocks,
                found: None,
                otherwise,
            })
        };
        let failed = || ImportState::Failed { by: name.to_string() };
        if status.observed_generation < family.family.metadata.generation
            && !family.stalled
            && !family.found_wanting
        {
            // It speaks of an older spec.
            return Own::Decided(moving(true));
        }
        let in_progress = condition::is_true(&status.conditions, RECONCILING)
            && !CLOSED_GATES.contains(&status.reason.as_str())
            && !family.stalled;
        match status.state {
            ImageState::Failed => Own::Decided(failed()),
            ImageState::Building | ImageState::Checking => Own::Decided(moving(in_progress)),
            ImageState::Held => settled,
            ImageState::Blocked if family.at_rest || family.stalled => frame(failed(), parents),
            _ if family.at_rest || family.stalled => settled,
            ImageState::Current if self.is_behind(&family, name, image, status) => {
                Own::Decided(moving(true))
            }
            ImageState::Current => frame(ImportState::Settled, parents),
            // What it waits for says whether it comes; if that has come, its own record is about to
            // follow.
            ImageState::Blocked if self.all_stand(&parents) => frame(moving(true), parents),
            ImageState::Blocked => frame(failed(), parents),
            ImageState::Waiting if status.reason == reason::WAITING_FOR_PARENT => {
                frame(moving(self.all_stand(&parents)), parents)
            }
            ImageState::Waiting | ImageState::Queued => Own::Decided(moving(in_progress)),
        }
    }

    /// Whether something that a current image stands on is another already than when it was built,
    /// or is about to be.
    fn is_behind(
        &self,
        family: &Known,
        name: &ImageName,
        image: &Image,
        status: &ManagedImageStatus,
    ) -> bool {
        let Some(inputs) = &status.inputs else { return false };
        let upstreams = family.family.status.as_ref().map_or(&[][..], |status| &status.upstreams);
        let moved = |(edge, taken): (&Edge, &ParentDigest)| {
            let now = if let Some(name) = &edge.upstream {
                let upstream = upstreams.iter().find(|upstream| upstream.name == *name);
                if upstream.is_some_and(eligible) {
                    return true;
                }
                upstream.and_then(|upstream| Some(upstream.adopted.as_ref()?.digest.clone()))
            } else {
                parent(name, edge)
                    .and_then(|parent| self.records.image(&parent)?.status.as_ref()?.digest.clone())
            };
            now.is_some_and(|now| now != taken.digest)
        };
        image.from.len() != inputs.parents.len()
            || image.from.iter().zip(&inputs.parents).any(moved)
    }

    /// Whether every one of these images has a digest to be built from.
    fn all_stand(&self, parents: &[ImageName]) -> bool {
        parents.iter().all(|parent| {
            let record = self.records.image(parent);
            let status = record.as_ref().and_then(|record| record.status.as_ref());
            status.is_some_and(|status| {
                status.digest.is_some()
                    && matches!(status.state, ImageState::Current | ImageState::Held)
            })
        })
    }

    fn family(&mut self, name: &FamilyName) -> Option<Arc<Known>> {
        let records = self.records;
        let family = self
            .families
            .entry(name.clone())
            .or_insert_with(|| records.family(name).map(|family| Arc::new(Known::new(family))));
        family.clone()
    }
}

impl Frame {
    /// Goes on to the next parent after one that is in this state. A failure counts for more than
    /// what is on its way, as it does within a family.
    fn take(&mut self, state: &ImportState) {
        self.next += 1;
        match (state, &self.found) {
            (ImportState::Failed { .. }, None | Some(ImportState::OnItsWay)) if self.blocks => {
                self.found = Some(state.clone());
            }
            (ImportState::OnItsWay, None) => self.found = Some(ImportState::OnItsWay),
            _ => {}
        }
    }
}

impl Known {
    fn new(family: Arc<ImageFamily>) -> Self {
        let images = family
            .spec
            .images
            .iter()
            .enumerate()
            .map(|(place, image)| (image.name.clone(), place))
            .collect();
        let status = family.status.as_ref();
        let closed =
            status.and_then(|status| status.window.as_ref()).is_some_and(|window| !window.open);
        let broken = status.is_some_and(|status| status.breaker.is_some());
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        let stalls = conditions.iter().find(|condition| {
            condition.type_ == STALLED
                && condition.status == "True"
                && condition.observed_generation == family.metadata.generation
        });
        let stalled = stalls
            .is_some_and(|condition| CAN_NOT_BE_BUILT.contains(&condition.reason.as_str()))
            || family.metadata.deletion_timestamp.is_some();
        let at_rest = family.spec.suspend || closed || broken;
        Self { at_rest, stalled, found_wanting: stalls.is_some(), images, family }
    }
}

/// The image that an edge names: of its family, or of another.
fn parent(of: &ImageName, edge: &Edge) -> Option<ImageName> {
    let own = || Some(ImageName { family: of.family.clone(), image: edge.image.clone()? });
    import(&of.family, edge).or_else(own)
}
