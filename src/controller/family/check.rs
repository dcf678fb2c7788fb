//! Is the spec one that can be built? No client is needed.

use std::sync::Arc;

use super::super::context::{Context, Memory};
use crate::{
    api::ImageFamily,
    engine::{Fault, validate::validate},
    lineage::Lineage,
};

/// The checked graph of a family, or the first thing that is wrong with it: with its spec alone, or beside the other families.
pub fn check(context: &Context, family: &ImageFamily, memory: &mut Memory) -> Result<Arc<Lineage>, Fault> {
    let generation = family.metadata.generation.unwrap_or_default();
    let known = memory.lineage.take().filter(|(of, _)| *of == generation);
    let (_, lineage) = known.unwrap_or_else(|| (generation, validate(&family.spec).map(Arc::new)));
    memory.lineage = Some((generation, lineage.clone()));
    let lineage = lineage?;
    match context.claims.conflict(family, &context.caches.families) {
        Some(conflict) => Err(conflict),
        None => Ok(lineage),
    }
}
