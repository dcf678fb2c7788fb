//! What a reconcile reads of the model.

use std::sync::Arc;

use crate::{
    api::{PlatformDigest, condition::Reason},
    engine::{tests::model::FamilyModel, *},
    lineage::UpstreamIndex,
};

impl FamilyModel {
    pub(in crate::engine) fn input<'a>(&'a self, blueprint: &'a Blueprint) -> DecideInput<'a> {
        DecideInput {
            family: "family",
            spec: &self.spec,
            blueprint,
            status: &self.status,
            upstreams: self.observed_upstreams(blueprint),
            images: (0..self.spec.images.len())
                .map(|image| ObservedImage {
                    record: self.records[image].as_ref(),
                    remembered: self.remembered.get(image).map_or(&[], Vec::as_slice),
                    verified: self.records[image]
                        .as_ref()
                        .and_then(VerifiedBuild::of)
                        .map(Arc::new),
                    checks: self
                        .checks
                        .iter()
                        .filter(|(of, _)| *of == image)
                        .map(|(_, check)| check.clone())
                        .collect(),
                    source: match self.unreadable_sources.get(&image) {
                        Some(problem) => Observed::Failed(problem.clone()),
                        None => self.source.clone(),
                    },
                    folder: self.folder.clone(),
                    strategy: self.observed_strategy(image),
                    platform: self.platform(image).map(Into::into),
                    builds: self
                        .jobs
                        .iter()
                        .filter(|(of, _)| *of == image)
                        .map(|(_, job)| job.clone())
                        .collect(),
                    deferred: self.deferred.get(&image).cloned().unwrap_or_default(),
                    job_version: self.job_version.clone(),
                    pod_version: self.pod_version.clone(),
                    credentials_version: Arc::clone(&self.credentials_version),
                    lookups: self.asked.get(&image).cloned().unwrap_or_default(),
                    tags: self
                        .tags
                        .iter()
                        .filter(|((of, _), _)| *of == image)
                        .map(|((_, tag), digest)| (tag.clone(), ObservedTag::At(digest.into())))
                        .collect(),
                    rebuild_mark: self.rebuild_marks.get(&image).cloned(),
                    rollback_target: self.rollback_targets.get(&image).cloned(),
                    labels: self.read_labels.get(&image).cloned(),
                    foreign_tags: Arc::new(self.foreign_tags.clone()),
                })
                .collect(),
            imports: self.imports.clone(),
            orphans: self.orphans.iter().map(|(_, job)| job.clone()).collect(),
            orphan_checks: self
                .checks
                .iter()
                .filter(|(of, _)| *of >= self.spec.images.len())
                .map(|(_, check)| check.clone())
                .collect(),
            cascades: self
                .running
                .iter()
                .map(|cascade| ObservedCascade {
                    name: &cascade.name,
                    supersedes: cascade.supersedes.as_ref(),
                    planned: &cascade.planned,
                    status: &cascade.status,
                })
                .collect(),
            ended: self
                .ended
                .iter()
                .map(|(name, superseded)| EndedCascade {
                    name: name.clone(),
                    superseded: *superseded,
                    supersedes: self.superseded_by.get(name).cloned(),
                })
                .collect(),
            requests: self.requests.clone(),
            allowance: self.allowance.clone(),
        }
    }

    pub(super) fn platform(&self, image: usize) -> Option<&'static str> {
        self.platforms.get(&image).copied().unwrap_or(Some("linux/amd64"))
    }

    /// The platform is a part of the revision.
    fn observed_strategy(&self, image: usize) -> Observed<String> {
        if self.strategy.is_empty() {
            let message = "it serves another namespace".into();
            return Observed::Failed(Problem { reason: Reason::StrategyNotAllowed, message });
        }
        match self.platform(image) {
            Some("linux/amd64") => Observed::Known(self.strategy.clone()),
            Some(platform) => Observed::Known(format!("{} {platform}", self.strategy)),
            None => Observed::Failed(Problem {
                reason: Reason::StrategyNotFound,
                message: "there is none".into(),
            }),
        }
    }

    /// Returns the upstreams as the poller shows them for the platforms that are built.
    fn observed_upstreams(&self, blueprint: &Blueprint) -> Vec<ObservedUpstream> {
        let upstreams = UpstreamIndex::enumerate(&self.spec.upstreams);
        let observed = upstreams.map(|(index, upstream)| {
            let (digest, images) =
                (&self.upstream_digests[index.position()], &self.upstream_images[index.position()]);
            let children = blueprint.lineage.upstream_children(index).iter();
            let built: Vec<Option<&str>> =
                children.map(|child| self.platform(child.position())).collect();
            let recorded = self.status.upstreams.iter().find(|known| known.name == upstream.name);
            let adopted = recorded.and_then(|recorded| recorded.adopted.as_ref());
            let kept = adopted.filter(|_| built.contains(&None)).into_iter();
            let kept = kept.flat_map(|adopted| &adopted.platforms);
            let mut built: Vec<&str> = built.iter().copied().flatten().collect();
            built.extend(kept.map(|image| image.platform.as_str()));
            built.sort_unstable();
            built.dedup();
            let (mut platforms, mut unoffered) = (Vec::new(), Vec::new());
            for platform in built.iter().filter(|_| !images.is_empty()) {
                match images.iter().find(|(of, _)| of == platform) {
                    Some((of, digest)) => platforms
                        .push(PlatformDigest { platform: (*of).into(), digest: (*digest).into() }),
                    None => unoffered.push((*platform).to_owned()),
                }
            }
            let newest = (!built.is_empty()).then(|| ObservedDigest {
                digest: digest.into(),
                platforms,
                unoffered,
                missing_platforms: vec![],
                first_observed: self.now,
                confirmed_at: self.confirmed_at.unwrap_or(self.now),
                resumed_at: self.resumed_at,
            });
            ObservedUpstream {
                newest,
                pulls_resume_at: self.pulls_resume_at,
                ..ObservedUpstream::default()
            }
        });
        observed.collect()
    }
}
