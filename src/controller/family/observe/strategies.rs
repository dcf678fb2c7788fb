//! Which strategies a family's images are built by: whether they can be used, and what they say of
//! a build.

use std::sync::Arc;

use crate::{
    api::{BuildStrategy, Image, ImageFamilySpec, StrategyRef, condition::reason},
    builds::strategy::{strategy_revision, validate},
    controller::{object_cache::Key, stores::Stores},
    engine::{Observed, Problem},
};

/// A strategy as it was looked at with the parameters of a family: its revision, or why it can't be
/// used.
pub struct Revised {
    chosen: StrategyRef,
    strategy: Arc<BuildStrategy>,
    revision: Result<String, Problem>,
}

/// The strategies of all images and their revisions. Each is rendered and hashed once, however many
/// images use it, and again when it has changed.
pub fn strategies(
    stores: &Stores,
    spec: &ImageFamilySpec,
    remembered: &mut Vec<Revised>,
) -> (Vec<Option<Arc<BuildStrategy>>>, Vec<Observed<String>>) {
    let before = std::mem::take(remembered);
    let mut known: Vec<(&StrategyRef, Option<Revised>)> = Vec::new();
    let mut found = (Vec::with_capacity(spec.images.len()), Vec::with_capacity(spec.images.len()));
    for image in &spec.images {
        let chosen = strategy_ref(spec, image);
        let index = known.iter().position(|(of, _)| *of == chosen).unwrap_or_else(|| {
            known.push((chosen, revised(stores, chosen, &before)));
            known.len() - 1
        });
        let (strategy, revision) = match known.get(index).and_then(|(_, revised)| revised.as_ref())
        {
            Some(Revised { strategy, revision: Ok(revision), .. }) => {
                (Some(Arc::clone(strategy)), Ok(revision.clone()))
            }
            Some(Revised { revision: Err(problem), .. }) => (None, Err(problem.clone())),
            None => (None, Err(missing(chosen))),
        };
        let revision = revision.map_or_else(
            |problem| {
                let message = format!("spec.images[{}].strategy: {}", image.name, problem.message);
                Observed::Failed(Problem { reason: problem.reason, message })
            },
            Observed::Known,
        );
        found.0.push(strategy);
        found.1.push(revision);
    }
    *remembered = known.into_iter().filter_map(|(_, revised)| revised).collect();
    found
}

/// A strategy, if there is one of the name.
fn revised(stores: &Stores, chosen: &StrategyRef, before: &[Revised]) -> Option<Revised> {
    let strategy = stores.strategies.get(&Key::new("", &chosen.name))?;
    let known = before
        .iter()
        .find(|known| known.chosen == *chosen && Arc::ptr_eq(&known.strategy, &strategy));
    let revision =
        known.map_or_else(|| revision(&strategy, chosen), |known| known.revision.clone());
    Some(Revised { chosen: chosen.clone(), strategy, revision })
}

fn revision(strategy: &BuildStrategy, chosen: &StrategyRef) -> Result<String, Problem> {
    validate(strategy, chosen).map_err(|error| Problem {
        reason: reason::INVALID_STRATEGY,
        message: error.to_string(),
    })?;
    Ok(strategy_revision(strategy, chosen))
}

fn missing(chosen: &StrategyRef) -> Problem {
    let message =
        format!("there is no BuildStrategy `{}`; see `kubectl get buildstrategies`", chosen.name);
    Problem { reason: reason::STRATEGY_NOT_FOUND, message }
}

/// The strategy that an image names, or its family for it.
#[must_use]
pub fn strategy_ref<'a>(spec: &'a ImageFamilySpec, image: &'a Image) -> &'a StrategyRef {
    image.strategy.as_ref().unwrap_or(&spec.strategy)
}
