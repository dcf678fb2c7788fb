//! The upstream that an image is built on: its digest for the platform of the image's builds, or
//! why there is none.

use crate::{
    api::{AdoptedDigest, UpstreamStatus, condition::Reason, family_status::MAX_PLATFORM_DIGESTS},
    engine::{
        Problem,
        causes::short,
        decision::WaitProgress,
        image::{
            evaluation::ImageEval,
            inputs::{NotReady, ParentResolution, ResolvedParent},
        },
        input::Observed,
    },
    lineage::UpstreamIndex,
};

impl<'a> ImageEval<'a> {
    /// Returns what is known about a parent that is an upstream.
    pub(super) fn resolve_upstream<'w>(
        &self,
        index: UpstreamIndex,
    ) -> Result<ParentResolution<'w>, NotReady>
    where
        'a: 'w,
    {
        let followed = self.context.followed;
        let status = followed.upstreams.get(index.position());
        if let Some((status, adopted)) =
            status.and_then(|status| Some((status, status.adopted.as_ref()?)))
        {
            return Ok(ParentResolution::Ready(ResolvedParent {
                digest: self.adopted_image(index, status, adopted)?,
                causes: &[],
                base_observed: adopted.first_observed,
                rolled_back_to: None,
            }));
        }
        let upstream = self.context.input.spec.upstreams.get(index.position());
        let name = upstream.map_or("", |upstream| upstream.name.as_str());
        let problem = followed.problems.get(index.position()).and_then(Option::as_ref);
        // Without a strategy the platform is unknown, and without a platform no tag is polled.
        if let (None, Observed::Failed(problem)) = (problem, &self.observed.strategy) {
            self.source()?;
            return Err(NotReady::Waiting(problem.clone(), WaitProgress::AtRest));
        }
        let (reason, message, progress) = match problem {
            None => (Reason::Resolving, "its digest is being looked up", WaitProgress::InProgress),
            Some(Problem { reason, message }) => {
                (*reason, message.as_str(), WaitProgress::of_lookup(*reason))
            }
        };
        let problem = Problem { reason, message: format!("upstream {name}: {message}") };
        Err(NotReady::Waiting(problem, progress))
    }

    /// Returns the digest of an adopted upstream for the platform of the image's builds.
    fn adopted_image<'w>(
        &self,
        index: UpstreamIndex,
        status: &'w UpstreamStatus,
        adopted: &'w AdoptedDigest,
    ) -> Result<&'w str, NotReady> {
        // Without a strategy the platform is unknown: that is reported for the strategy.
        let Some(platform) = self.observed.platform.as_deref() else { return Ok(&adopted.digest) };
        let observed = self.context.input.upstreams.get(index.position());
        let newest = observed.and_then(|observed| observed.newest.as_ref());
        let is_unoffered =
            newest.is_some_and(|newest| newest.unoffered.iter().any(|known| known == platform));
        let is_newest = newest.is_some_and(|newest| newest.digest == adopted.digest);
        let image = adopted.content().for_platform(platform);
        if let Some(image) = image.filter(|_| !(is_newest && is_unoffered)) {
            return Ok(image);
        }
        let (name, reference) = (&status.name, &status.reference);
        let problem = self.context.followed.problems.get(index.position());
        let problem = problem.and_then(Option::as_ref);
        if is_unoffered {
            let message = format!(
                "upstream {name}: {reference} has no image for {platform}; use another tag or \
                 image, or correct the parameter `platform` of the strategy"
            );
            let problem = Problem { reason: Reason::PlatformMissing, message };
            return Err(NotReady::Waiting(problem, WaitProgress::AtRest));
        }
        if is_newest {
            let message = format!(
                "upstream {name}: at most {MAX_PLATFORM_DIGESTS} platforms are built on one \
                 upstream; give the same image and tag a second entry of another name for further \
                 ones, such as {platform}"
            );
            let problem = Problem { reason: Reason::PlatformMissing, message };
            return Err(NotReady::Waiting(problem, WaitProgress::AtRest));
        }
        let Some(candidate) = &status.candidate else {
            let (reason, message, progress) = match problem {
                Some(problem) => (problem.reason, problem.message.as_str(), WaitProgress::AtRest),
                None => {
                    (Reason::Resolving, "its digest is being looked up", WaitProgress::InProgress)
                }
            };
            let message = format!("upstream {name}: for {platform}: {message}");
            return Err(NotReady::Waiting(Problem { reason, message }, progress));
        };
        let why = problem.map_or_else(String::new, |problem| format!(": {}", problem.message));
        let message = format!(
            "upstream {name}: the tag has moved on from {}, whose image for {platform} is not \
             known; the image is built as soon as {} is adopted{why}",
            short(&adopted.digest),
            short(&candidate.digest)
        );
        let reason = problem.map_or(Reason::Settling, |problem| problem.reason);
        Err(NotReady::Waiting(Problem { reason, message }, WaitProgress::AtRest))
    }
}
