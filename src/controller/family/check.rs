//! Is the spec one that can be built? No client is needed.

use std::sync::Arc;

use super::super::context::{Context, Memory};
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
    match context.claims.conflict(family, &context.caches.families) {
        Some(conflict) => Err(conflict),
        None => Ok(blueprint),
    }
}
