//! The upstreams of a family, as the poller has found them. No client is needed.

use std::sync::Arc;

use crate::{
    api::Upstream,
    controller::family::observe::{Observer, platform::DefaultPlatform, snapshot::Snapshot},
    engine::{ObservedDigest, ObservedUpstream, Problem},
    lineage::{Lineage, UpstreamIndex},
    registry::{Keychain, Platform},
    upstream::TagNeeds,
};

/// An upstream whose last poll failed.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamProblem<'a> {
    /// The upstream's name.
    pub upstream: &'a str,
    /// Why its last poll failed.
    pub problem: &'a Problem,
}

impl Observer<'_> {
    /// Returns what the images of each upstream need of its tag, in the order of the spec. `None`
    /// is not known: a wrong guess would move the upstream to another platform.
    #[must_use]
    pub fn upstream_needs(
        &self,
        lineage: &Lineage,
        platforms: &[Option<Arc<Platform>>],
        default: &DefaultPlatform,
    ) -> Vec<Option<TagNeeds>> {
        let upstreams = UpstreamIndex::enumerate(&self.family.spec.upstreams);
        upstreams
            .map(|(index, upstream)| {
                let children = lineage.upstream_children(index);
                let built = children.iter().map(|child| platforms.get(child.position())?.as_ref());
                let mut known: Vec<&Arc<Platform>> = built.flatten().collect();
                if children.is_empty() {
                    known.extend(default.platform.as_ref().ok());
                }
                let first = known.first()?;
                let built_for =
                    known.iter().all(|other| other == first).then(|| (***first).clone());
                Some(TagNeeds { built_for, required: upstream.platforms.clone() })
            })
            .collect()
    }

    /// Returns the family's upstreams, in the order of the spec.
    pub(super) fn upstreams(
        &mut self,
        keychain: &Arc<Keychain>,
        needs: &[Option<TagNeeds>],
    ) -> Vec<ObservedUpstream> {
        let family = Arc::clone(&self.family);
        let upstreams = family.spec.upstreams.iter().zip(needs);
        upstreams
            .map(|(upstream, needs)| self.upstream(upstream, keychain, needs.as_ref()))
            .collect()
    }

    fn upstream(
        &mut self,
        upstream: &Upstream,
        keychain: &Arc<Keychain>,
        needs: Option<&TagNeeds>,
    ) -> ObservedUpstream {
        let Some(needs) = needs else { return ObservedUpstream::default() };
        let (registry, reference) = (&self.context.registry, upstream.reference());
        let key = self.cache.image_keys.key(registry, reference, needs, keychain);
        let Some(polled) = self.context.tags.latest(&key) else {
            return ObservedUpstream::default();
        };
        let newest = polled.value.as_ref().map(|value| ObservedDigest {
            digest: value.digest.as_str().into(),
            first_observed: polled.first_observed,
            missing_platforms: value.missing_platforms.clone(),
        });
        ObservedUpstream { newest, problem: polled.problem.clone() }
    }
}

impl Snapshot {
    /// Returns the first upstream whose last poll failed.
    #[must_use]
    pub fn first_upstream_problem(&self) -> Option<UpstreamProblem<'_>> {
        let names = self.family.spec.upstreams.iter().map(|upstream| upstream.name.as_str());
        names.zip(&self.upstreams).find_map(|(upstream, observed)| {
            Some(UpstreamProblem { upstream, problem: observed.problem.as_ref()? })
        })
    }
}
