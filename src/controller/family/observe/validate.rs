//! Validation of the spec. No client is needed.

use std::sync::Arc;

use crate::{
    controller::{
        family::observe::Observer, reconcile_cache::CachedBlueprint,
        tag_owners::unresolved_conflict,
    },
    engine::{Blueprint, Problem, validate::validate},
};

impl Observer<'_> {
    /// Returns what follows from the family's spec.
    ///
    /// # Errors
    ///
    /// Returns the first problem of the spec: of the spec alone, or in conflict with other
    /// families.
    pub fn validate_spec(&mut self) -> Result<Arc<Blueprint>, Problem> {
        let generation = self.family.metadata.generation.unwrap_or_default();
        let known = self.cache.blueprint.take().filter(|known| {
            known.generation == generation && known.dockerfiles.same_as(&self.dockerfiles)
        });
        let cached = known.unwrap_or_else(|| CachedBlueprint {
            generation,
            dockerfiles: self.dockerfiles.clone(),
            result: validate(&self.family.spec)
                .map(|blueprint| Arc::new(self.dockerfiles.add_problems(blueprint))),
        });
        let result = cached.result.clone();
        self.cache.blueprint = Some(cached);
        let blueprint = result?;
        let conflict = self.context.tag_owners.conflict(&self.family, &self.context.stores);
        let unwatched = self.context.served().unwatched();
        let conflict = conflict.or_else(|| unresolved_conflict(&self.family, unwatched.keys()));
        if let Some(conflict) = conflict {
            return Err(conflict);
        }
        // Any other problem of an import concerns only the images that need it.
        let survey = self.survey_imports();
        let mut problems = survey.imports.iter().filter_map(|(_, problem)| problem.as_ref());
        match problems.find(|problem| problem.is_in_own_spec()) {
            Some(problem) => Err(problem.clone().into()),
            None => Ok(blueprint),
        }
    }
}
