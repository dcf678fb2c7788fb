//! The build strategies of a family's images: whether they can be used, their revisions, and the
//! platforms of their builds. No client is needed.

use std::sync::Arc;

use crate::{
    api::{BuildStrategy, EdgeUse, Image, ImageFamilySpec, StrategyRef, condition::Reason},
    builds::{
        parameters::serves_namespace,
        platform::named_platform,
        strategy::{StrategyError, validate},
        strategy_revision::{earlier_revision, pod_revision, strategy_revision},
    },
    controller::{
        family::observe::{Observer, platform::DefaultPlatform},
        object_cache::Key,
        stores::Stores,
    },
    engine::{Blueprint, Observed, Problem},
    lineage::{ImageIndex, Parent},
    registry::Platform,
};

/// A strategy, rendered with the parameters of a family for a platform: its revision, or why it
/// cannot be used.
pub struct RenderedStrategy {
    chosen: StrategyRef,
    strategy: Arc<BuildStrategy>,
    names_platform: bool,
    platform: Result<Arc<Platform>, Problem>,
    revisions: Result<StrategyRevisions, Problem>,
}

/// The revisions of a rendered strategy.
#[derive(Clone)]
struct StrategyRevisions {
    /// That of what can change the image.
    image: String,
    /// That of an image which was built before parameters without effect on the image counted as
    /// such, if it differs; see [`earlier_revision`].
    earlier: Option<String>,
    /// That of all that the pods are made of.
    pod: Arc<str>,
}

/// The strategies of all images, in the order of the spec.
pub struct ImageStrategies {
    /// The strategies; `None` for one that does not exist or cannot be used.
    pub strategies: Vec<Option<Arc<BuildStrategy>>>,
    /// Their revisions, or why there is none.
    pub revisions: Vec<Observed<String>>,
    /// The revisions of all that the pods of their builds are made of; empty if not known.
    pub pod_revisions: Vec<Arc<str>>,
    /// The platforms of their builds; `None` for one that is not known.
    pub platforms: Vec<Option<Arc<Platform>>>,
    /// Whether the strategies name no platform, in the order of the spec.
    pub use_default: Vec<bool>,
    /// The platforms that the images of each upstream are built for, in the order of
    /// `spec.upstreams`; see [`Observer::upstream_platforms`].
    pub upstream_platforms: Vec<Vec<Arc<Platform>>>,
}

/// The platforms of builds whose strategies name none.
pub struct UnnamedPlatforms<'a> {
    /// Those of the last verified builds, in the order of the spec.
    pub built: &'a [Option<Arc<Platform>>],
    /// That of images without a build.
    pub default: &'a DefaultPlatform,
}

/// The reasons that are about a strategy, whatever is wrong with it.
const OF_STRATEGY: [Reason; 3] =
    [Reason::InvalidStrategy, Reason::StrategyNotAllowed, Reason::StrategyNotFound];

/// What an image renders: images with an equal one share the strategy.
#[derive(Clone, PartialEq)]
struct StrategyUse<'a> {
    chosen: &'a StrategyRef,
    /// The platform of the image's last verified build.
    built: Option<Arc<Platform>>,
}

impl Observer<'_> {
    /// Returns the strategies of all images, their revisions and platforms.
    pub fn strategies(
        &mut self,
        blueprint: &Blueprint,
        platforms: &UnnamedPlatforms<'_>,
    ) -> ImageStrategies {
        let default = platforms.default;
        let known = KnownStrategies {
            stores: &self.context.stores,
            namespace: &self.family.metadata.namespace.clone().unwrap_or_default(),
            default,
        };
        let mut found =
            known.strategies(&self.family.spec, platforms.built, &mut self.cache.strategies);
        self.keep_earlier_revisions(blueprint, &mut found);
        reject_other_platforms(&self.family.spec, blueprint, &mut found);
        found.upstream_platforms =
            self.upstream_platforms(&blueprint.lineage, &found.platforms, default);
        found
    }

    /// Keeps the revisions of images that were built when the same strategy and parameters had
    /// another one, so that an upgrade rebuilds none of them.
    fn keep_earlier_revisions(&self, blueprint: &Blueprint, found: &mut ImageStrategies) {
        let rendered = &self.cache.strategies;
        if rendered.iter().all(|known| known.earlier().is_none()) {
            return;
        }
        let records = self.records_by_image();
        let images = self.family.spec.images.iter().zip(&blueprint.images);
        for ((image, known), revision) in images.zip(&mut found.revisions) {
            let chosen = strategy_ref(&self.family.spec, image);
            let record = records.get(&image.name);
            let record = record.filter(|record| record.spec.repository == known.repository);
            let built = record.and_then(|record| record.status.as_ref()?.inputs.as_ref());
            let (Some(built), Observed::Known(revision)) = (built, revision) else { continue };
            if rendered.iter().any(|known| known.had(chosen, revision, &built.strategy)) {
                revision.clone_from(&built.strategy);
            }
        }
    }
}

impl RenderedStrategy {
    /// Returns the earlier revision, if there is one.
    fn earlier(&self) -> Option<&String> {
        self.revisions.as_ref().ok()?.earlier.as_ref()
    }

    /// Whether this is the strategy with a revision, and had another one earlier.
    fn had(&self, chosen: &StrategyRef, revision: &str, earlier: &str) -> bool {
        let is_it = self.revisions.as_ref().is_ok_and(|known| known.image == revision);
        is_it && self.chosen == *chosen && self.earlier().is_some_and(|known| known == earlier)
    }
}

/// The strategies that families of a namespace may use.
struct KnownStrategies<'a> {
    stores: &'a Stores,
    namespace: &'a str,
    /// The platform of images without a build, if their strategies name none.
    default: &'a DefaultPlatform,
}

impl KnownStrategies<'_> {
    /// Returns the strategies of all images, their revisions and platforms. `built` are the
    /// platforms of the last verified builds, in the order of the spec.
    ///
    /// Each is rendered and hashed once, however many images use it, and again when it has changed:
    /// `cached` holds those of the last reconcile, and is replaced.
    fn strategies(
        &self,
        spec: &ImageFamilySpec,
        built: &[Option<Arc<Platform>>],
        cached: &mut Vec<RenderedStrategy>,
    ) -> ImageStrategies {
        let before = std::mem::take(cached);
        let mut known: Vec<(StrategyUse<'_>, Result<RenderedStrategy, Problem>)> = Vec::new();
        let mut found = ImageStrategies {
            strategies: Vec::with_capacity(spec.images.len()),
            revisions: Vec::with_capacity(spec.images.len()),
            pod_revisions: Vec::with_capacity(spec.images.len()),
            platforms: Vec::with_capacity(spec.images.len()),
            use_default: Vec::with_capacity(spec.images.len()),
            upstream_platforms: Vec::new(),
        };
        for (index, image) in ImageIndex::enumerate(&spec.images) {
            let chosen = strategy_ref(spec, image);
            let wanted =
                StrategyUse { chosen, built: built.get(index.position()).cloned().flatten() };
            let index = known.iter().position(|(of, _)| *of == wanted).unwrap_or_else(|| {
                let rendered = self.render(&wanted, &before);
                known.push((wanted, rendered));
                known.len() - 1
            });
            let Some((_, rendered)) = known.get(index) else { continue };
            let (strategy, revision, pod) = match rendered {
                Ok(RenderedStrategy { strategy, revisions: Ok(revisions), .. }) => {
                    let StrategyRevisions { image, pod, .. } = revisions;
                    (Some(Arc::clone(strategy)), Ok(image.clone()), Arc::clone(pod))
                }
                Ok(RenderedStrategy { revisions: Err(problem), .. }) | Err(problem) => {
                    (None, Err(problem.clone()), Arc::default())
                }
            };
            let rendered = rendered.as_ref().ok();
            found.strategies.push(strategy);
            found.pod_revisions.push(pod);
            found.revisions.push(observed(image, revision));
            found.platforms.push(rendered.and_then(|rendered| rendered.platform.clone().ok()));
            found.use_default.push(rendered.is_some_and(|rendered| !rendered.names_platform));
        }
        *cached = known.into_iter().filter_map(|(_, rendered)| rendered.ok()).collect();
        found
    }
    /// Returns the strategy, or why there is none that the family may use.
    fn render(
        &self,
        wanted: &StrategyUse<'_>,
        before: &[RenderedStrategy],
    ) -> Result<RenderedStrategy, Problem> {
        let chosen = wanted.chosen;
        let strategy = self.stores.strategies.get(&Key::new("", &chosen.name));
        let strategy = strategy.ok_or_else(|| strategy_not_found(chosen))?;
        if !serves_namespace(&strategy, self.namespace) {
            return Err(self.not_allowed(chosen));
        }
        let named = named_platform(&strategy, chosen);
        let names_platform = !matches!(named, Ok(None));
        let platform = match named {
            Ok(Some(named)) => Ok(Arc::new(named)),
            Ok(None) => wanted.built.clone().map_or_else(|| self.default.platform.clone(), Ok),
            Err(error) => Err(invalid(&error)),
        };
        let known = before.iter().find(|known| {
            known.chosen == *chosen
                && Arc::ptr_eq(&known.strategy, &strategy)
                && known.platform == platform
        });
        let revisions = match (known, &platform) {
            (Some(known), _) => known.revisions.clone(),
            (None, Ok(platform)) => revisions(&strategy, chosen, platform),
            (None, Err(problem)) => Err(problem.clone()),
        };
        let chosen = chosen.clone();
        Ok(RenderedStrategy { chosen, strategy, names_platform, platform, revisions })
    }

    fn not_allowed(&self, chosen: &StrategyRef) -> Problem {
        let message = format!(
            "BuildStrategy `{}` does not serve namespace {}: name another one, or ask an \
             administrator to list the namespace in its `spec.namespaces`",
            chosen.name, self.namespace
        );
        Problem { reason: Reason::StrategyNotAllowed, message }
    }
}

/// Rejects the strategies of images whose base is an image of the family for another platform.
fn reject_other_platforms(
    spec: &ImageFamilySpec,
    blueprint: &Blueprint,
    found: &mut ImageStrategies,
) {
    for (index, image) in ImageIndex::enumerate(&spec.images) {
        let edges = image.from.iter().zip(blueprint.lineage.parents(index));
        let base = edges.into_iter().find_map(|(edge, parent)| match parent {
            Parent::Image(parent) if edge.usage == EdgeUse::Base => Some(*parent),
            _ => None,
        });
        let platform = |index: ImageIndex| found.platforms.get(index.position())?.as_deref();
        let (Some(base), Some(own)) = (base, platform(index)) else { continue };
        let Some(other) = platform(base).filter(|other| *other != own) else { continue };
        let name = spec.images.get(base.position()).map_or("", |base| base.name.as_str());
        let message = format!(
            "the image is built for {own}, but its base {name} for {other}; give both the same \
             value of the parameter `platform`"
        );
        let problem = Problem { reason: Reason::InvalidStrategy, message };
        let rejected = observed(image, Err(problem));
        if let Some(revision) = found.revisions.get_mut(index.position()) {
            *revision = rejected;
        }
        if let Some(strategy) = found.strategies.get_mut(index.position()) {
            *strategy = None;
        }
    }
}

fn observed(image: &Image, revision: Result<String, Problem>) -> Observed<String> {
    match revision {
        Ok(revision) => Observed::Known(revision),
        Err(Problem { reason, message }) => {
            let is_of_strategy = OF_STRATEGY.contains(&reason);
            let message = if is_of_strategy {
                format!("spec.images[{}].strategy: {message}", image.name)
            } else {
                message
            };
            Observed::Failed(Problem { reason, message })
        }
    }
}

fn revisions(
    strategy: &BuildStrategy,
    chosen: &StrategyRef,
    platform: &Platform,
) -> Result<StrategyRevisions, Problem> {
    validate(strategy, chosen, platform).map_err(|error| invalid(&error))?;
    Ok(StrategyRevisions {
        image: strategy_revision(strategy, chosen, platform),
        earlier: earlier_revision(strategy, chosen, platform),
        pod: pod_revision(strategy, chosen).into(),
    })
}

fn invalid(error: &StrategyError) -> Problem {
    Problem { reason: Reason::InvalidStrategy, message: error.to_string() }
}

fn strategy_not_found(chosen: &StrategyRef) -> Problem {
    let message =
        format!("there is no BuildStrategy `{}`; see `kubectl get buildstrategies`", chosen.name);
    Problem { reason: Reason::StrategyNotFound, message }
}

/// Returns the strategy that an image names, or else the one that its family names.
#[must_use]
pub fn strategy_ref<'a>(spec: &'a ImageFamilySpec, image: &'a Image) -> &'a StrategyRef {
    image.strategy.as_ref().unwrap_or(&spec.strategy)
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::api::{BuildStrategySpec, Parameter};

    /// A strategy whose parameter only limits the pod, with the memory that a family sets.
    fn rendered(memory: &str) -> RenderedStrategy {
        let template = json!({"spec": {"hostUsers": false, "containers": [{
            "name": "build", "image": "i",
            "resources": {"limits": {"memory": "{{ parameters.memory }}"}},
        }]}});
        let parameter =
            Parameter { name: "memory".into(), default: "1Gi".into(), ..Parameter::default() };
        let parameters = vec![parameter];
        let spec = BuildStrategySpec { parameters, template, ..BuildStrategySpec::default() };
        let strategy = BuildStrategy::new("custom", spec);
        let parameters = [("memory".to_owned(), memory.to_owned())].into();
        let chosen = StrategyRef { name: "custom".into(), parameters };
        let platform = Platform::default();
        let revisions = revisions(&strategy, &chosen, &platform);
        RenderedStrategy {
            chosen,
            strategy: strategy.into(),
            names_platform: false,
            platform: Ok(platform.into()),
            revisions,
        }
    }

    #[test]
    fn a_strategy_is_for_the_namespaces_that_it_lists() {
        let stores = Stores::default();
        let RenderedStrategy { strategy, .. } = rendered("1Gi");
        let mut strategy = Arc::unwrap_or_clone(strategy);
        strategy.spec.namespaces = Some(vec!["team-*".into()]);
        stores.strategies.observe("", Event::Apply(strategy));
        let platform =
            DefaultPlatform { platform: Ok(Arc::default()), source: String::new(), retry_at: None };
        let mut spec = ImageFamilySpec { images: vec![Image::default()], ..Default::default() };
        spec.images[0].name = "base".into();
        spec.strategy.name = "custom".into();
        let of = |namespace| {
            let known = KnownStrategies { stores: &stores, namespace, default: &platform };
            known.strategies(&spec, &[], &mut Vec::new()).revisions.remove(0)
        };
        assert!(matches!(of("team-a"), Observed::Known(_)));
        let Observed::Failed(problem) = of("other") else { panic!("it is not for `other`") };
        assert_eq!(problem.reason, Reason::StrategyNotAllowed);
        let said =
            "spec.images[base].strategy: BuildStrategy `custom` does not serve namespace other";
        assert!(problem.message.starts_with(said), "{}", problem.message);
    }

    #[test]
    fn an_image_from_before_keeps_its_revision_until_the_parameter_changes() {
        let (before, after) = (rendered("2Gi"), rendered("4Gi"));
        let revision = before.revisions.as_ref().expect("valid").image.clone();
        let earlier = before.earlier().expect("another one").clone();
        assert!(before.had(&before.chosen, &revision, &earlier));
        assert!(!before.had(&before.chosen, &revision, &revision), "built since");
        assert!(!before.had(&before.chosen, "other", &earlier));
        assert!(!before.had(&after.chosen, &revision, &earlier));
        assert_eq!(after.revisions.as_ref().expect("valid").image, revision);
        assert!(!after.had(&after.chosen, &revision, &earlier));
        assert_eq!(rendered("1Gi").earlier(), None, "the default");
    }
}
