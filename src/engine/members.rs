//! Which of the running cascades each image belongs to.
//!
//! Several cascades of one family may run if they share no image. An image belongs to the newest
//! cascade that has planned, listed or built it, unless another one, which has ended, has built it
//! since. One that none of them knows belongs to the cascade of its parents: the spec has changed
//! meanwhile.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::{
    engine::input::{DecideInput, ObservedCascade, ObservedImage},
    identity::CascadeName,
    lineage::{ImageIndex, Parent},
};

/// The running cascade of each image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CascadeMembers {
    /// The names of the running cascades, the oldest first.
    names: Vec<CascadeName>,
    /// The position of each image's cascade in `names`, parallel to `spec.images`. Empty if no
    /// cascade runs.
    of: Vec<Option<usize>>,
}

impl CascadeMembers {
    /// Finds the running cascade of each image. O(images + edges) while a cascade runs, else O(1).
    #[must_use]
    pub fn find(input: &DecideInput<'_>) -> Self {
        if input.cascades.is_empty() {
            return Self::default();
        }
        let names = input.cascades.iter().map(|cascade| cascade.name.clone()).collect();
        let mut members = Self { names, of: vec![None; input.spec.images.len()] };
        let taken = members.taken_over(input);
        members.add_listed(input);
        members.add_worked_on(input);
        for (of, is_taken) in members.of.iter_mut().zip(&taken) {
            *of = of.filter(|cascade| *is_taken < Some(*cascade));
        }
        members.add_below(input, &taken);
        members
    }

    /// Returns for each image the newest running cascade after which a later one, which has ended,
    /// has worked on it. The result of the image is none of that cascade.
    fn taken_over(&self, input: &DecideInput<'_>) -> Vec<Option<usize>> {
        let finished: Vec<HashMap<&str, Timestamp>> = input
            .cascades
            .iter()
            .map(|cascade| {
                let results = cascade.status.images.iter();
                results.filter_map(|of| Some((of.name.as_str(), of.finished_at?))).collect()
            })
            .collect();
        let images = input.spec.images.iter().zip(&input.images);
        let taken = images.map(|(image, observed)| {
            let works_on = |cascade: &CascadeName| self.names.contains(cascade);
            let mut builds = observed.builds.iter().filter(|build| build.live);
            if builds.any(|build| works_on(&build.identity.cascade)) {
                return None;
            }
            let ended = self.ended_work(observed);
            finished.iter().zip(&self.names).rposition(|(finished, running)| {
                let finished_at = finished.get(image.name.as_str());
                finished_at.is_some_and(|finished_at| {
                    // The clock may have been set back since: names tell an earlier cascade.
                    ended
                        .iter()
                        .any(|(cascade, at)| at > finished_at && *cascade > running.as_str())
                })
            })
        });
        taken.collect()
    }

    /// Returns the cascades that have ended and worked on an image last, and when.
    fn ended_work<'r>(&self, observed: &ObservedImage<'r>) -> Vec<(&'r str, Timestamp)> {
        let Some(record) = observed.record else { return Vec::new() };
        let failed = record.failure.as_ref().map(|failure| (failure.cascade.as_str(), failure.at));
        let built = record.history.first().map(|build| (build.cascade.as_str(), build.finished_at));
        let ended = failed
            .into_iter()
            .chain(built)
            .filter(|(cascade, _)| self.names.iter().all(|running| *running != *cascade));
        ended.filter_map(|(cascade, at)| Some((cascade, at?))).collect()
    }

    /// Adds the images that a cascade has planned or lists in its record.
    fn add_listed(&mut self, input: &DecideInput<'_>) {
        let names = input.spec.images.iter().map(|image| image.name.as_str());
        let positions: HashMap<&str, usize> =
            names.enumerate().map(|(position, name)| (name, position)).collect();
        for (cascade, observed) in input.cascades.iter().enumerate() {
            let planned = observed.planned.iter().flatten();
            let listed = observed.status.images.iter().map(|image| &image.name);
            for name in planned.chain(listed) {
                let place = positions.get(name.as_str());
                if let Some(of) = place.and_then(|position| self.of.get_mut(*position)) {
                    *of = (*of).max(Some(cascade));
                }
            }
        }
    }

    /// Adds the images that a cascade has built. Its record is written later and less often.
    fn add_worked_on(&mut self, input: &DecideInput<'_>) {
        for (of, observed) in self.of.iter_mut().zip(&input.images) {
            let worked_on = self.names.iter().rposition(|name| is_built_for(name, observed));
            *of = (*of).max(worked_on);
        }
    }

    /// Adds the images below that no cascade knows.
    fn add_below(&mut self, input: &DecideInput<'_>, taken: &[Option<usize>]) {
        for &image in input.lineage().order() {
            let is_taken = taken.get(image.position()).is_some_and(Option::is_some);
            if is_taken || self.position_of(image).is_some() {
                continue;
            }
            let parents = input.lineage().parents(image).iter();
            let above = parents.filter_map(|parent| match parent {
                Parent::Image(parent) => self.position_of(*parent),
                Parent::Upstream(_) | Parent::Import(_) => None,
            });
            let above = above.max();
            if let Some(of) = self.of.get_mut(image.position()) {
                *of = above;
            }
        }
    }

    /// Returns the position of the image's cascade among the running ones, or `None` if it belongs
    /// to none.
    #[must_use]
    pub fn position_of(&self, image: ImageIndex) -> Option<usize> {
        self.of.get(image.position()).copied().flatten()
    }

    /// Returns the name of the image's cascade, or `None` if it belongs to none.
    #[must_use]
    pub fn name_of(&self, image: ImageIndex) -> Option<&CascadeName> {
        self.names.get(self.position_of(image)?)
    }

    /// Returns the image's cascade, or `None` if it belongs to none.
    #[must_use]
    pub(in crate::engine) fn cascade_of<'c, 'a>(
        &self,
        input: &'c DecideInput<'a>,
        image: ImageIndex,
    ) -> Option<&'c ObservedCascade<'a>> {
        input.cascades.get(self.position_of(image)?)
    }

    /// Returns the names of the running cascades, the oldest first.
    #[must_use]
    pub fn names(&self) -> &[CascadeName] {
        &self.names
    }

    /// Returns the entries of a list parallel to `spec.images` that are of images of the cascade at
    /// this position.
    pub(in crate::engine) fn of_cascade<'d, T>(
        &self,
        cascade: usize,
        images: &'d [T],
    ) -> impl Iterator<Item = (ImageIndex, &'d T)> {
        ImageIndex::enumerate(images)
            .filter(move |(image, _)| self.position_of(*image) == Some(cascade))
    }
}

/// Whether an image was built in this cascade last, or has failed or was cancelled in it.
fn is_built_for(cascade: &CascadeName, observed: &ObservedImage<'_>) -> bool {
    let record = observed.record;
    let failure = record.and_then(|record| record.failure.as_ref());
    let last = record.and_then(|record| record.history.first());
    observed.builds.iter().any(|build| build.identity.cascade == *cascade)
        || failure.is_some_and(|failure| *cascade == failure.cascade)
        || last.is_some_and(|build| *cascade == build.cascade)
}
