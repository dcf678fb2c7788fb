//! The upstreams of a family, as the poller has found them. No client is needed.

use std::sync::Arc;

use crate::{
    api::{
        AdoptedDigest, ImageFamily, PlatformDigest, Upstream, UpstreamStatus,
        family_status::MAX_PLATFORM_DIGESTS,
    },
    controller::family::observe::{Observer, platform::DefaultPlatform, snapshot::Snapshot},
    engine::{ObservedDigest, ObservedUpstream, Problem},
    lineage::{ImageIndex, Lineage, UpstreamIndex},
    registry::{Keychain, Platform},
    upstream::{PolledValue, TagNeeds, UpstreamDigest},
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
    /// Returns the platforms that the images of each upstream are built for, in the order of the
    /// spec. As long as one of them is unknown, the recorded ones stay, so that nothing changes.
    #[must_use]
    pub fn upstream_platforms(
        &self,
        lineage: &Lineage,
        platforms: &[Option<Arc<Platform>>],
        default: &DefaultPlatform,
    ) -> Vec<Vec<Arc<Platform>>> {
        let upstreams = UpstreamIndex::enumerate(&self.family.spec.upstreams);
        let status = self.family.status.as_ref();
        let recorded = status.map_or(&[][..], |status| &status.upstreams);
        upstreams
            .map(|(index, upstream)| {
                let children = lineage.upstream_children(index);
                let known = |child: &ImageIndex| platforms.get(child.position()).cloned().flatten();
                let built = match children {
                    [] => vec![default.platform.as_ref().ok().cloned()],
                    children => children.iter().map(known).collect(),
                };
                let reference = upstream.reference();
                let recorded = recorded.iter().find(|known| known.reference == reference);
                built_platforms(built, recorded)
            })
            .collect()
    }

    /// Returns the family's upstreams, in the order of the spec.
    pub(super) fn upstreams(
        &mut self,
        keychain: &Arc<Keychain>,
        platforms: &[Vec<Arc<Platform>>],
    ) -> Vec<ObservedUpstream> {
        let family = Arc::clone(&self.family);
        let upstreams = family.spec.upstreams.iter().zip(platforms);
        upstreams
            .map(|(upstream, platforms)| self.upstream(upstream, keychain, platforms))
            .collect()
    }

    fn upstream(
        &mut self,
        upstream: &Upstream,
        keychain: &Arc<Keychain>,
        platforms: &[Arc<Platform>],
    ) -> ObservedUpstream {
        // What is not known to be built cannot be adopted.
        if platforms.is_empty() {
            return ObservedUpstream::default();
        }
        let (registry, reference) = (&self.context.registry, upstream.reference());
        let pause = registry.pull_pause(&reference, keychain);
        let pulls_resume_at = pause.and_then(|pause| self.now.checked_add(pause).ok());
        let needs = upstream_needs(upstream);
        let key = self.cache.image_keys.key(registry, reference, &needs, keychain);
        let next_poll = self.context.tags.late_until(&key);
        let unknown =
            ObservedUpstream { pulls_resume_at, next_poll, ..ObservedUpstream::default() };
        let Some(polled) = self.context.tags.latest(&key) else { return unknown };
        let lacks_one = |value: &UpstreamDigest| {
            value.is_partial && platforms.iter().any(|platform| value.image_for(platform).is_none())
        };
        if polled.value.as_ref().is_some_and(lacks_one) {
            self.context.tags.reread(&key);
            return ObservedUpstream { problem: polled.problem.clone(), ..unknown };
        }
        let newest = polled.value.as_ref().map(|value| observed_digest(&polled, value, platforms));
        ObservedUpstream { newest, problem: polled.problem.clone(), ..unknown }
    }
}

/// Returns what is recorded of the tag of an upstream that its next poll is likely to find.
#[must_use]
pub fn recorded_digest(upstream: &Upstream, family: &ImageFamily) -> Option<UpstreamDigest> {
    let reference = upstream.reference();
    let mut recorded = family.status.as_ref()?.upstreams.iter();
    let recorded = recorded.find(|known| known.reference == reference)?;
    let observed = recorded.observed().first().map(|candidate| candidate.content());
    let newest = observed.or_else(|| recorded.adopted.as_ref().map(AdoptedDigest::content))?;
    // The record does not say which of the required platforms are missing.
    UpstreamDigest::recorded(newest).filter(|_| upstream.platforms.is_empty())
}

/// Returns what a family needs to know of the tag of an upstream.
#[must_use]
pub fn upstream_needs(upstream: &Upstream) -> TagNeeds {
    TagNeeds::Images { required: upstream.platforms.clone() }
}

/// Returns the platforms that are built, at most [`MAX_PLATFORM_DIGESTS`].
fn built_platforms(
    built: Vec<Option<Arc<Platform>>>,
    recorded: Option<&UpstreamStatus>,
) -> Vec<Arc<Platform>> {
    let is_any_unknown = built.iter().any(Option::is_none);
    let mut platforms: Vec<Arc<Platform>> = built.into_iter().flatten().collect();
    let adopted = recorded.and_then(|recorded| recorded.adopted.as_ref());
    if let Some(adopted) = adopted.filter(|_| is_any_unknown) {
        let recorded = adopted.platforms.iter();
        platforms.extend(
            recorded.filter_map(|image| Platform::from_user(&image.platform)).map(Arc::new),
        );
    }
    platforms.sort();
    platforms.dedup();
    platforms.truncate(MAX_PLATFORM_DIGESTS);
    platforms
}

/// Returns what a poll has found, as far as it concerns the platforms that are built.
fn observed_digest(
    polled: &PolledValue<UpstreamDigest>,
    found: &UpstreamDigest,
    built: &[Arc<Platform>],
) -> ObservedDigest {
    let (mut platforms, mut unoffered) = (Vec::new(), Vec::new());
    // What names no platforms is left to the builder.
    for platform in built.iter().filter(|_| !found.images.is_empty()) {
        match found.image_for(platform) {
            Some(digest) => platforms
                .push(PlatformDigest { platform: platform.to_string(), digest: digest.into() }),
            None => unoffered.push(platform.to_string()),
        }
    }
    ObservedDigest {
        digest: found.tagged.as_str().into(),
        platforms,
        unoffered,
        missing_platforms: found.missing_platforms.clone(),
        first_observed: polled.first_observed,
        confirmed_at: polled.confirmed_at,
        resumed_at: polled.resumed_at,
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
