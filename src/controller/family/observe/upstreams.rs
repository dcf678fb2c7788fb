//! The upstreams of a family, as the poller has found them. No client is needed.

use std::sync::Arc;

use crate::{
    api::Upstream,
    controller::family::observe::{Observer, snapshot::Snapshot},
    engine::{ObservedDigest, ObservedUpstream, Problem},
    registry::Keychain,
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
    /// Returns the family's upstreams, in the order of the spec.
    pub(super) fn upstreams(&mut self, keychain: &Arc<Keychain>) -> Vec<ObservedUpstream> {
        let family = Arc::clone(&self.family);
        let upstreams = family.spec.upstreams.iter();
        upstreams.map(|upstream| self.upstream(upstream, keychain)).collect()
    }

    fn upstream(&mut self, upstream: &Upstream, keychain: &Arc<Keychain>) -> ObservedUpstream {
        let (registry, reference) = (&self.context.registry, upstream.reference());
        let key = self.cache.image_keys.key(registry, reference, &upstream.platforms, keychain);
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
