//! What builds need around them, which fails for all of them in an outage: the registries, the
//! nodes of a platform, and the builder of a strategy. Whether an outage lasts is decided from what
//! images in the same environment have become.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api::{FailureRecord, StrategyRef},
    engine::{image::failure, input::DecideInput},
    lineage::{ImageIndex, Parent},
};

/// The registry of a repository that names none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// What a build needs around it. Builds with an equal one fail together in an outage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedEnvironment<'a> {
    strategy: &'a StrategyRef,
    platform: Option<Arc<str>>,
    /// The registries of the image and of its parents, sorted.
    registries: Vec<&'a str>,
}

/// The last success of a build in an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery<'a> {
    environment: SharedEnvironment<'a>,
    at: Timestamp,
}

/// Returns the last success in each environment; none if nothing has failed because of its
/// environment.
#[must_use]
pub fn recoveries<'a>(input: &DecideInput<'a>) -> Vec<Recovery<'a>> {
    let failures = input.images.iter().filter_map(|image| image.record?.failure.as_ref());
    let mut recoveries: Vec<Recovery<'a>> = Vec::new();
    if !failures.into_iter().any(is_shared) {
        return recoveries;
    }
    for (index, image) in ImageIndex::enumerate(&input.images) {
        let history = image.record.map_or(&[][..], |record| &record.history);
        let last = history.iter().find(|build| !build.digest.is_empty());
        let Some(at) = last.and_then(|build| build.finished_at) else { continue };
        let environment = environment(input, index);
        match recoveries.iter_mut().find(|known| known.environment == environment) {
            Some(known) => known.at = known.at.max(at),
            None => recoveries.push(Recovery { environment, at }),
        }
    }
    recoveries
}

/// Whether an image failed of an outage that is over: a build in its environment has succeeded
/// since.
#[must_use]
pub fn is_over(
    record: &FailureRecord,
    recoveries: &[Recovery<'_>],
    input: &DecideInput<'_>,
    image: ImageIndex,
) -> bool {
    if recoveries.is_empty() || !is_shared(record) {
        return false;
    }
    let environment = environment(input, image);
    recoveries.iter().any(|recovery| {
        recovery.environment == environment && record.at.is_none_or(|at| at < recovery.at)
    })
}

/// Whether the last failure is one that the builds of other images may share.
#[must_use]
pub fn is_shared(record: &FailureRecord) -> bool {
    record.infrastructure > 0 && failure::is_of_environment(record)
}

/// Returns what the builds of an image need around them.
#[must_use]
pub fn environment<'a>(input: &DecideInput<'a>, image: ImageIndex) -> SharedEnvironment<'a> {
    let (spec, blueprint) = (input.spec, input.blueprint);
    let own_repository = |image: ImageIndex| {
        blueprint.images.get(image.position()).map(|image| image.repository.as_str())
    };
    let parents = input.lineage().parents(image).iter().filter_map(|parent| match *parent {
        Parent::Upstream(upstream) => {
            spec.upstreams.get(upstream.position()).map(|upstream| upstream.image.as_str())
        }
        Parent::Image(image) => own_repository(image),
        // An image of another family is nearly always in the registry of this one.
        Parent::Import(_) => None,
    });
    let mut registries: Vec<&str> = parents.chain(own_repository(image)).map(registry).collect();
    registries.sort_unstable();
    registries.dedup();
    let strategy = spec.images.get(image.position()).and_then(|image| image.strategy.as_ref());
    let observed = input.images.get(image.position());
    // Nothing is recorded before the first build.
    let platform = observed.and_then(|observed| {
        let recorded = || observed.record?.platform.as_deref().map(Arc::from);
        observed.platform.clone().or_else(recorded)
    });
    SharedEnvironment { strategy: strategy.unwrap_or(&spec.strategy), platform, registries }
}

/// Returns the registry of a repository.
fn registry(repository: &str) -> &str {
    let first = repository.split_once('/').map(|(first, _)| first);
    first
        .filter(|first| first.contains(['.', ':']) || *first == "localhost")
        .unwrap_or(DEFAULT_REGISTRY)
}
