//! Is the spec one that can be built? No client is needed.

use std::sync::Arc;

use crate::{
    api::ImageFamily,
    controller::{
        context::{Context, ReconcileCache},
        family::observe::imports,
    },
    engine::{Blueprint, Problem, validate::validate},
};

/// What follows from a family's spec, or the first thing that is wrong with it: with its spec
/// alone, or beside the other families.
pub fn validated(
    context: &Context,
    family: &ImageFamily,
    cache: &mut ReconcileCache,
) -> Result<Arc<Blueprint>, Problem> {
    let generation = family.metadata.generation.unwrap_or_default();
    let known = cache.blueprint.take().filter(|(of, _)| *of == generation);
    let (_, blueprint) =
        known.unwrap_or_else(|| (generation, validate(&family.spec).map(Arc::new)));
    cache.blueprint = Some((generation, blueprint.clone()));
    let blueprint = blueprint?;
    if let Some(conflict) = context.tag_owners.conflict(family, &context.stores.families) {
        return Err(conflict);
    }
    // Whatever else is wrong with an import is wrong with the images that need it, and with no
    // others.
    let survey = imports::survey(context, family, cache);
    match survey
        .imports
        .iter()
        .find_map(|(_, problem)| problem.as_ref().filter(|problem| problem.is_in_own_spec()))
    {
        Some(problem) => Err(problem.clone().into()),
        None => Ok(blueprint),
    }
}
