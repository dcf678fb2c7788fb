//! Validation of the spec. No client is needed.

use std::sync::Arc;

use crate::{
    api::ImageFamilySpec,
    controller::{
        family::observe::Observer,
        reconcile_cache::CachedBlueprint,
        tag_owners::{ClaimProblems, unresolved_conflicts},
    },
    engine::{Blueprint, Problem, validate::validate},
};

impl Observer<'_> {
    /// Returns what follows from the family's spec.
    ///
    /// # Errors
    ///
    /// Returns the first problem of the spec: of the spec alone, or of all images with what other
    /// families own or the operator allows.
    pub fn validate_spec(&mut self) -> Result<Arc<Blueprint>, Problem> {
        let generation = self.family.metadata.generation.unwrap_or_default();
        let claims = self.claim_problems();
        let known = self.cache.blueprint.take().filter(|known| {
            known.generation == generation
                && known.dockerfiles.same_as(&self.dockerfiles)
                && known.claims == claims
        });
        let cached = known.unwrap_or_else(|| {
            let result = validate(&self.family.spec).map(|blueprint| {
                let blueprint = with_claim_problems(blueprint, &self.family.spec, &claims);
                Arc::new(self.dockerfiles.add_problems(blueprint))
            });
            CachedBlueprint { generation, dockerfiles: self.dockerfiles.clone(), claims, result }
        });
        let result = cached.result.clone();
        let claims = self.cache.blueprint.insert(cached).claims.values();
        let blueprint = result?;
        // With no other image, there is nothing to evaluate, look up or push.
        if claims.len() == self.family.spec.images.len()
            && let Some(first) = claims.into_iter().next()
        {
            return Err(first.clone());
        }
        // Any other problem of an import concerns only the images that need it.
        let survey = self.survey_imports();
        let mut problems = survey.imports.iter().filter_map(|(_, problem)| problem.as_ref());
        match problems.find(|problem| problem.is_in_own_spec()) {
            Some(problem) => Err(problem.clone().into()),
            None => Ok(blueprint),
        }
    }
    /// Returns the problems of the images that name a repository or a tag which is not theirs.
    fn claim_problems(&self) -> ClaimProblems {
        let context = self.context;
        let mut problems = context.tag_owners.problems(&self.family, &context.stores, self.now);
        if !context.served().unwatched().is_empty() {
            let records = self.records_by_image();
            let records = records.values().map(|record| &**record);
            for (image, problem) in unresolved_conflicts(&self.family, records) {
                problems.entry(image).or_insert(problem);
            }
        }
        problems
    }
}

/// Returns a blueprint with these problems, which come before any other problem of an image: until
/// they are solved, no tag of the image may move.
fn with_claim_problems(
    mut blueprint: Blueprint,
    spec: &ImageFamilySpec,
    claims: &ClaimProblems,
) -> Blueprint {
    for (known, image) in blueprint.images.iter_mut().zip(&spec.images) {
        if let Some(problem) = claims.get(&image.name) {
            known.problem = Some(problem.clone());
        }
    }
    blueprint
}
