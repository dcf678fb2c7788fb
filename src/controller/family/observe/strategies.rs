//! The build strategies of a family's images: whether they can be used, and their revisions. No
//! client is needed.

use std::sync::Arc;

use crate::{
    api::{BuildStrategy, Image, ImageFamilySpec, StrategyRef, condition::reason},
    builds::{strategy::validate, strategy_revision::strategy_revision},
    controller::{object_cache::Key, stores::Stores},
    engine::{Observed, Problem},
};

/// A strategy, rendered with the parameters of a family: its revision, or why it cannot be used.
pub struct RenderedStrategy {
    chosen: StrategyRef,
    strategy: Arc<BuildStrategy>,
    revision: Result<String, Problem>,
}

/// The strategies of all images, in the order of the spec.
pub struct ImageStrategies {
    /// The strategies; `None` for one that does not exist or cannot be used.
    pub strategies: Vec<Option<Arc<BuildStrategy>>>,
    /// Their revisions, or why there is none.
    pub revisions: Vec<Observed<String>>,
}

/// Returns the strategies of all images and their revisions.
///
/// Each is rendered and hashed once, however many images use it, and again when it has changed:
/// `cached` holds those of the last reconcile, and is replaced.
pub fn strategies(
    stores: &Stores,
    spec: &ImageFamilySpec,
    cached: &mut Vec<RenderedStrategy>,
) -> ImageStrategies {
    let before = std::mem::take(cached);
    let mut known: Vec<(&StrategyRef, Option<RenderedStrategy>)> = Vec::new();
    let mut found = ImageStrategies {
        strategies: Vec::with_capacity(spec.images.len()),
        revisions: Vec::with_capacity(spec.images.len()),
    };
    for image in &spec.images {
        let chosen = strategy_ref(spec, image);
        let index = known.iter().position(|(of, _)| *of == chosen).unwrap_or_else(|| {
            known.push((chosen, render(stores, chosen, &before)));
            known.len() - 1
        });
        let (strategy, revision) = match known
            .get(index)
            .and_then(|(_, rendered)| rendered.as_ref())
        {
            Some(RenderedStrategy { strategy, revision: Ok(revision), .. }) => {
                (Some(Arc::clone(strategy)), Ok(revision.clone()))
            }
            Some(RenderedStrategy { revision: Err(problem), .. }) => (None, Err(problem.clone())),
            None => (None, Err(strategy_not_found(chosen))),
        };
        let revision = revision.map_or_else(
            |problem| {
                let message = format!("spec.images[{}].strategy: {}", image.name, problem.message);
                Observed::Failed(Problem { reason: problem.reason, message })
            },
            Observed::Known,
        );
        found.strategies.push(strategy);
        found.revisions.push(revision);
    }
    *cached = known.into_iter().filter_map(|(_, rendered)| rendered).collect();
    found
}

/// Returns the strategy, or `None` if it does not exist.
fn render(
    stores: &Stores,
    chosen: &StrategyRef,
    before: &[RenderedStrategy],
) -> Option<RenderedStrategy> {
    let strategy = stores.strategies.get(&Key::new("", &chosen.name))?;
    let known = before
        .iter()
        .find(|known| known.chosen == *chosen && Arc::ptr_eq(&known.strategy, &strategy));
    let revision =
        known.map_or_else(|| revision(&strategy, chosen), |known| known.revision.clone());
    Some(RenderedStrategy { chosen: chosen.clone(), strategy, revision })
}

fn revision(strategy: &BuildStrategy, chosen: &StrategyRef) -> Result<String, Problem> {
    validate(strategy, chosen).map_err(|error| Problem {
        reason: reason::INVALID_STRATEGY,
        message: error.to_string(),
    })?;
    Ok(strategy_revision(strategy, chosen))
}

fn strategy_not_found(chosen: &StrategyRef) -> Problem {
    let message =
        format!("there is no BuildStrategy `{}`; see `kubectl get buildstrategies`", chosen.name);
    Problem { reason: reason::STRATEGY_NOT_FOUND, message }
}

/// Returns the strategy that an image names, or else the one that its family names.
#[must_use]
pub fn strategy_ref<'a>(spec: &'a ImageFamilySpec, image: &'a Image) -> &'a StrategyRef {
    image.strategy.as_ref().unwrap_or(&spec.strategy)
}
