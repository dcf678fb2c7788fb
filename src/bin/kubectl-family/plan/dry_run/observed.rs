//! What each decision of a dry run reads: the records, and what is assumed of the rest.

use std::{cell::OnceCell, collections::HashMap, sync::Arc};

use serde::Serialize;

use groundswell::{
    api::{Cause, CauseType, ImageState, ManagedImageStatus, Upstream},
    engine::{
        BuildAllowance, BuildOutcome, DecideInput, Observed, ObservedBuild, ObservedDigest,
        ObservedImage, ObservedImport, ObservedRequest, ObservedUpstream,
    },
    identity::BuildIdentity,
    lineage::ImageIndex,
};

use super::{DryCascade, DryRun, digest_of, strategy_of};
use crate::{
    input::EstateFamily,
    plan::imports::{AssumedImport, image_of},
};

/// The platform of builds, if none is recorded.
const PLATFORM: &str = "linux/amd64";

impl DryRun<'_> {
    pub(super) fn input(&self) -> DecideInput<'_> {
        let spec = &self.spec;
        DecideInput {
            family: &self.family.name.name,
            spec,
            blueprint: &self.family.blueprint,
            status: &self.status,
            upstreams: spec.upstreams.iter().map(|one| self.observed_upstream(one)).collect(),
            imports: self.observed_imports(),
            images: ImageIndex::range(spec.images.len())
                .filter_map(|index| self.observed_image(index))
                .collect(),
            orphans: Vec::new(),
            orphan_checks: Vec::new(),
            cascades: self.cascades.iter().map(DryCascade::observed).collect(),
            ended: self.ended.clone(),
            requests: self.requests.clone(),
            allowance: BuildAllowance::default(),
        }
    }

    /// Returns what a poll of an upstream is assumed to find: the digest that the plan sets, or
    /// else the newest one that is recorded.
    fn observed_upstream(&self, upstream: &Upstream) -> ObservedUpstream {
        let recorded = self.status.upstreams.iter().find(|known| known.name == upstream.name);
        let set = self.assumed.upstreams.get(&upstream.reference());
        let newest = recorded.and_then(|known| {
            known.observed().into_iter().max_by_key(|candidate| candidate.first_observed)
        });
        let adopted = recorded.and_then(|known| known.adopted.as_ref());
        let (digest, platforms, first_observed) = match (set, newest, adopted) {
            (Some(digest), _, _) => (digest.clone(), Vec::new(), None),
            (None, Some(newest), _) => {
                (newest.digest.clone(), newest.platforms.clone(), newest.first_observed)
            }
            (None, None, Some(adopted)) => {
                (adopted.digest.clone(), adopted.platforms.clone(), adopted.first_observed)
            }
            (None, None, None) => (digest_of(&upstream.reference()), Vec::new(), None),
        };
        let newest = ObservedDigest {
            digest: digest.into(),
            platforms,
            unoffered: Vec::new(),
            missing_platforms: Vec::new(),
            first_observed: first_observed.unwrap_or(self.now),
            confirmed_at: self.now,
            resumed_at: None,
        };
        ObservedUpstream { newest: Some(newest), ..ObservedUpstream::default() }
    }

    fn observed_imports(&self) -> Vec<ObservedImport> {
        let imports = self.family.blueprint.lineage.imports().iter();
        let observed = imports.map(|import| {
            let name = image_of(&self.family.name, import);
            match self.assumed.imports.get(&name) {
                Some(assumed) => assumed.at(self.now),
                None => AssumedImport::unknown(self.family, import).at(self.now),
            }
        });
        observed.collect()
    }

    fn observed_image(&self, index: ImageIndex) -> Option<ObservedImage<'_>> {
        let image = self.family.family.spec.images.get(index.position())?;
        let blueprint = self.family.blueprint.images.get(index.position())?;
        let known = self.images.get(index.position())?;
        let object = self.family.images.get(&image.name);
        let inputs = known.verified.as_ref().map(|verified| &verified.inputs);
        let moved = known.record.as_ref().and_then(|record| moved_source(record, &image.name));
        let recorded = moved.or(inputs.map(|inputs| &inputs.source));
        let recorded = recorded.filter(|_| !known.has_new_source);
        let source = blueprint.inline.clone();
        let source = source.unwrap_or_else(|| revision(&known.own_source, &image.source, recorded));
        let strategy = strategy_of(&self.family.family.spec, image);
        let recorded = inputs.map(|inputs| &inputs.strategy);
        let recorded = recorded.filter(|_| !known.has_new_strategy);
        let strategy = revision(&known.own_strategy, strategy, recorded);
        let failure = known.record.as_ref().and_then(|record| record.failure.as_ref());
        let job_version = failure.and_then(|failure| failure.job_version.clone());
        let job_version = job_version.unwrap_or_default();
        let platform = known.record.as_ref().and_then(|record| record.platform.as_deref());
        Some(ObservedImage {
            record: known.record.as_ref(),
            remembered: object.map_or(&[], |object| object.spec.upstreams.as_slice()),
            verified: known.verified.clone(),
            source: Observed::Known(source),
            folder: None,
            strategy: Observed::Known(strategy),
            platform: Some(platform.unwrap_or(PLATFORM).into()),
            builds: known.builds.clone(),
            checks: Vec::new(),
            deferred: Vec::new(),
            // What a failed Job was made of is assumed to be unchanged.
            job_version: job_version.clone(),
            pod_version: job_version.clone(),
            credentials_version: job_version.into(),
            lookups: known.lookups.clone(),
            tags: HashMap::new(),
            rebuild_mark: None,
            labels: None,
            rollback_target: None,
            foreign_tags: Arc::default(),
        })
    }
}

/// Returns the requests of a family that have not ended.
pub(super) fn open_requests(family: &EstateFamily) -> Vec<ObservedRequest> {
    let open = family.requests.iter().filter(|request| !request.has_ended());
    open.map(ObservedRequest::of).collect()
}

/// Returns the Job of a running build as its record shows it.
pub(super) fn running_build(record: &ManagedImageStatus) -> Option<ObservedBuild> {
    let running = record.running.as_ref()?;
    Some(ObservedBuild {
        job: running.job.clone().into(),
        identity: BuildIdentity {
            fingerprint: running.fingerprint.clone().into(),
            attempt: running.attempt,
            number: running.build,
            ..BuildIdentity::default()
        },
        started_at: running.started_at,
        ended_at: None,
        outcome: BuildOutcome::Running,
        pushed: None,
        waits_for: None,
        wait_reason: None,
        has_started: true,
        repository: None,
        live: true,
    })
}

/// Returns the revision to which the source of an image has moved since its last verified build, if
/// the causes of a later build that has failed say so.
fn moved_source<'a>(record: &'a ManagedImageStatus, image: &str) -> Option<&'a String> {
    let failed = record.history.first().filter(|build| build.digest.is_empty())?;
    let causes = Some(&failed.causes).filter(|_| record.state != ImageState::Current)?;
    let is_source = |cause: &&Cause| {
        cause.type_ == CauseType::Source && cause.name == image && cause.via.is_empty()
    };
    causes.iter().find(is_source).map(|cause| &cause.to).filter(|to| !to.is_empty())
}

/// Returns the revision of a source or a strategy: the recorded one of a build, or else one that
/// follows from the spec, which `own` keeps for the next decision.
fn revision<T: Serialize>(own: &OnceCell<String>, spec: &T, recorded: Option<&String>) -> String {
    let own = || own.get_or_init(|| digest_of(&serde_json::to_string(spec).unwrap_or_default()));
    recorded.filter(|recorded| !recorded.is_empty()).unwrap_or_else(own).clone()
}
