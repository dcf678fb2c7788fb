//! Is the spec one that can be built? No client is needed.

use std::sync::Arc;

use super::{
    super::context::{Context, Memory},
    imports,
};
use crate::{
    api::ImageFamily,
    engine::{Blueprint, Fault, validate::validate},
};

/// What follows from a family's spec, or the first thing that is wrong with it: with its spec alone, or beside the other families.
pub fn check(context: &Context, family: &ImageFamily, memory: &mut Memory) -> Result<Arc<Blueprint>, Fault> {
    let generation = family.metadata.generation.unwrap_or_default();
    let known = memory.blueprint.take().filter(|(of, _)| *of == generation);
    let (_, blueprint) = known.unwrap_or_else(|| (generation, validate(&family.spec).map(Arc::new)));
    memory.blueprint = Some((generation, blueprint.clone()));
    let blueprint = blueprint?;
    if let Some(conflict) = context.claims.conflict(family, &context.caches.families) {
        return Err(conflict);
    }
    // Whatever else is wrong with an import is wrong with the images that need it, and with no others.
    let survey = imports::survey(context, family, memory);
    match survey.imports.iter().find_map(|(_, fault)| fault.as_ref().filter(|fault| fault.is_of_spec_alone())) {
        Some(fault) => Err(fault.clone().into()),
        None => Ok(blueprint),
    }
}
