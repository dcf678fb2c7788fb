//! Runs the controller's own `decide` on what is recorded of a family, without carrying anything
//! out. The registry's answers are assumed: nothing is built already. Time passes as fast as gates
//! need it, so that the plan also says when a cascade would start.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use groundswell::{
    api::{
        CascadePhase, CascadeStatus, CheckRecord, CheckState, Image, ImageFamilyStatus,
        ManagedImageStatus, Request, Upstream,
    },
    engine::{
        BuildAllowance, BuildOutcome, CascadeDecision, DecideInput, Decision, Effect, EndedCascade,
        ImportState, ImportedBuild, Lookup, LookupResult, Observed, ObservedBuild, ObservedCascade,
        ObservedDigest, ObservedImage, ObservedImport, ObservedRequest, ObservedUpstream,
        VerifiedBuild, blueprint::ImageBlueprint, decide,
    },
    identity::{BuildIdentity, CascadeName},
    lineage::ImageIndex,
};

use crate::input::EstateFamily;

/// Maximum number of decisions of a plan: a family has at most 1000 levels, each of which needs a
/// lookup, and some gates open after another.
const MAX_DECISIONS: usize = 1_200;
/// How far into the future a plan waits for gates: a window may open once a month.
const HORIZON: SignedDuration = SignedDuration::from_hours(24 * 62);
/// The platform of builds, if none is recorded.
const PLATFORM: &str = "linux/amd64";

/// What the registry is assumed to answer about builds that nothing records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssumedRegistry {
    /// It has them all: the family is current.
    HasAll,
    /// It has none of them.
    HasNone,
}

/// The digests that a plan assumes in place of what is recorded.
#[derive(Clone, Debug, Default)]
pub struct AssumedDigests {
    /// The newest digest of upstreams, by reference.
    pub upstreams: BTreeMap<String, String>,
    /// Images of other families that are rebuilt, by `namespace/family.image`.
    pub rebuilt_imports: Vec<String>,
}

/// The state of a family during a dry run.
pub struct DryRun<'a> {
    family: &'a EstateFamily,
    assumed: &'a AssumedDigests,
    status: ImageFamilyStatus,
    images: Vec<DryImage>,
    cascades: Vec<DryCascade>,
    ended: Vec<EndedCascade>,
    now: Timestamp,
}

/// What is known of an image.
#[derive(Clone, Default)]
struct DryImage {
    record: Option<ManagedImageStatus>,
    verified: Option<Arc<VerifiedBuild>>,
    lookups: Vec<Lookup>,
    builds: Vec<ObservedBuild>,
    /// Whether the spec names another source than at the last build.
    has_new_source: bool,
    /// Whether the spec names another strategy than at the last build.
    has_new_strategy: bool,
}

struct DryCascade {
    name: CascadeName,
    supersedes: Option<CascadeName>,
    planned: Vec<Vec<String>>,
    status: CascadeStatus,
}

/// The end of a dry run: the decision at which a cascade would start, or the last one.
pub struct DryRunEnd {
    /// The decision.
    pub decision: Decision,
    /// The decision of the first moment, before any gate has opened.
    pub first: Decision,
    /// When the last decision is made.
    pub at: Timestamp,
}

impl<'a> DryRun<'a> {
    /// Creates the dry run of a family from what is recorded of it.
    pub fn new(family: &'a EstateFamily, assumed: &'a AssumedDigests, now: Timestamp) -> Self {
        let images = family.family.spec.images.iter().map(|image| {
            let record = family.images.get(&image.name).and_then(|image| image.status.clone());
            let verified = record.as_ref().and_then(VerifiedBuild::of).map(Arc::new);
            let builds = record.as_ref().and_then(running_build).into_iter().collect();
            DryImage { record, verified, builds, ..DryImage::default() }
        });
        let images = images.collect();
        let status = family.family.status.clone().unwrap_or_default();
        let mut run =
            Self { family, assumed, status, images, cascades: Vec::new(), ended: Vec::new(), now };
        for cascade in &family.cascades {
            let status = cascade.status.clone().unwrap_or_default();
            let name = CascadeName::from(cascade.name_any());
            let supersedes = cascade.spec.supersedes.as_ref().map(CascadeName::from);
            if status.phase == CascadePhase::Running {
                let planned = cascade.spec.levels.clone();
                run.cascades.push(DryCascade { name, supersedes, planned, status });
            } else {
                let superseded = status.phase == CascadePhase::Superseded;
                run.ended.push(EndedCascade { name, superseded, supersedes });
            }
        }
        run
    }

    /// Continues with another spec of the family, and what this run has found of its images.
    pub fn with_spec<'b>(
        self,
        family: &'b EstateFamily,
        assumed: &'b AssumedDigests,
    ) -> DryRun<'b> {
        let before = self.family.family.spec.images.iter();
        let mut known: HashMap<&str, (&Image, DryImage)> = before
            .zip(self.images)
            .map(|(image, known)| (image.name.as_str(), (image, known)))
            .collect();
        let after = family.family.spec.images.iter().map(|image| {
            let Some((before, known)) = known.remove(image.name.as_str()) else {
                return DryImage::default();
            };
            DryImage {
                has_new_source: before.source != image.source,
                has_new_strategy: before.strategy != image.strategy,
                ..known
            }
        });
        let images = after.collect();
        let (status, cascades, ended) = (self.status, self.cascades, self.ended);
        DryRun { family, assumed, status, images, cascades, ended, now: self.now }
    }

    /// Assumes that the registry has everything that nothing records, until the family is current.
    pub fn make_current(&mut self) {
        for _ in 0..MAX_DECISIONS {
            let decision = self.decide();
            if !self.answer(&decision, AssumedRegistry::HasAll) {
                self.keep(&decision);
                return;
            }
            self.keep(&decision);
        }
    }

    /// Returns the decision of this moment, with every image evaluated as far as its parents allow.
    pub fn first_decision(mut self) -> Decision {
        let mut decision = self.decide();
        for _ in 0..MAX_DECISIONS {
            if !self.answer(&decision, AssumedRegistry::HasNone) {
                break;
            }
            decision = self.decide();
        }
        decision
    }

    /// Decides until a cascade starts or nothing changes by itself any more.
    pub fn run(mut self) -> DryRunEnd {
        let begun = self.now;
        let mut decision = self.decide();
        let mut first = decision.clone();
        for _ in 0..MAX_DECISIONS {
            let is_answered = self.answer(&decision, AssumedRegistry::HasNone);
            let is_start = matches!(decision.cascade, CascadeDecision::Start { .. });
            let wake_at = decision.wake_at.filter(|at| at.duration_since(begun) <= HORIZON);
            if is_start || !is_answered && wake_at.is_none() {
                break;
            }
            self.keep(&decision);
            if let Some(at) = wake_at.filter(|_| !is_answered) {
                self.now = at;
            }
            decision = self.decide();
            if self.now == begun {
                first = decision.clone();
            }
        }
        DryRunEnd { decision, first, at: self.now }
    }

    fn decide(&self) -> Decision {
        decide(&self.input(), self.now)
    }

    /// Answers what a decision asks the registry. Returns whether it has asked something.
    fn answer(&mut self, decision: &Decision, registry: AssumedRegistry) -> bool {
        let mut is_asked = false;
        for effect in &decision.effects {
            let Effect::LookUp { image, fingerprint, after, .. } = effect else { continue };
            let Some(known) = self.images.get_mut(image.position()) else { continue };
            let result = match registry {
                AssumedRegistry::HasAll => {
                    let digest = digest_of(fingerprint.as_ref());
                    let spec = self.family.family.spec.images.get(image.position());
                    let revisions = self.family.blueprint.images.get(image.position());
                    let record = known.record.get_or_insert_default();
                    record.checks = passed_checks(spec.zip(revisions), &digest);
                    LookupResult::Present {
                        digest: digest.into(),
                        build: 1,
                        size: 0,
                        content: None,
                        blobs: None,
                        request: None,
                    }
                }
                AssumedRegistry::HasNone => {
                    LookupResult::Absent { last_build: None, after: *after, asked_at: self.now }
                }
            };
            known.lookups.retain(|lookup| lookup.fingerprint != *fingerprint);
            known.lookups.push(Lookup { fingerprint: fingerprint.clone(), result });
            is_asked = true;
        }
        is_asked
    }

    /// Keeps of a decision what the controller records.
    fn keep(&mut self, decision: &Decision) {
        self.status.upstreams.clone_from(&decision.upstreams);
        self.status.pending.clone_from(&decision.pending);
        self.status.window.clone_from(&decision.window);
        self.status.breaker.clone_from(&decision.breaker);
        let blueprints = &self.family.blueprint.images;
        for ((known, decided), blueprint) in
            self.images.iter_mut().zip(&decision.images).zip(blueprints)
        {
            let Some(verified) = &decided.verified else { continue };
            if known
                .verified
                .as_ref()
                .is_some_and(|known| known.fingerprint == verified.fingerprint)
            {
                continue;
            }
            // Its checks have passed before it was pushed as far as a dry run knows.
            let checked = blueprint.checks.clone();
            let verified = VerifiedBuild { checked, ..VerifiedBuild::clone(verified) };
            let record = known.record.get_or_insert_default();
            record.digest = Some(verified.digest.to_string());
            record.fingerprint = Some(verified.fingerprint.to_string());
            record.build = Some(verified.build);
            record.last_build = record.last_build.max(Some(verified.build));
            record.inputs = Some(verified.inputs.clone());
            record.checked = verified.checked.as_ref().map(ToString::to_string);
            known.verified = Some(Arc::new(verified));
        }
    }

    fn input(&self) -> DecideInput<'_> {
        let spec = &self.family.family.spec;
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
            cascades: self.cascades.iter().map(DryCascade::observed).collect(),
            ended: self.ended.clone(),
            requests: self.observed_requests(),
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
            let namespace = import.namespace.as_ref().unwrap_or(&self.family.name.namespace);
            let name = format!("{namespace}/{}.{}", import.family, import.image);
            let moved = self.assumed.rebuilt_imports.contains(&name);
            let recorded = self.recorded_import(import.image.as_str(), &import.to_string());
            let digest = match (moved, recorded) {
                (false, Some(digest)) => digest,
                (true, _) => digest_of(&format!("{name} moved")),
                (false, None) => digest_of(&name),
            };
            let build = ImportedBuild {
                digest: digest.into(),
                repository: format!("{}/{}", import.family, import.image),
                base_observed: None,
                causes: Vec::new(),
            };
            ObservedImport { problem: None, verified: Some(build), state: ImportState::Settled }
        });
        observed.collect()
    }

    /// Returns the digest of an imported image that the builds of this family record.
    fn recorded_import(&self, image: &str, import: &str) -> Option<String> {
        let inputs = self.images.iter().filter_map(|known| known.verified.as_ref());
        let mut parents = inputs.flat_map(|verified| &verified.inputs.parents);
        let parent = parents.find(|parent| parent.name == import || parent.name == image)?;
        Some(parent.digest.clone())
    }

    fn observed_image(&self, index: ImageIndex) -> Option<ObservedImage<'_>> {
        let image = self.family.family.spec.images.get(index.position())?;
        let blueprint = self.family.blueprint.images.get(index.position())?;
        let known = self.images.get(index.position())?;
        let object = self.family.images.get(&image.name);
        let inputs = known.verified.as_ref().map(|verified| &verified.inputs);
        let recorded = inputs.map(|inputs| &inputs.source).filter(|_| !known.has_new_source);
        let source = blueprint.inline.clone();
        let source = source.unwrap_or_else(|| revision(&image.source, recorded));
        let strategy = image.strategy.as_ref().unwrap_or(&self.family.family.spec.strategy);
        let recorded = inputs.map(|inputs| &inputs.strategy);
        let strategy = revision(strategy, recorded.filter(|_| !known.has_new_strategy));
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
            foreign_tags: Arc::default(),
        })
    }

    fn observed_requests(&self) -> Vec<ObservedRequest> {
        let open = self.family.requests.iter().filter(|request| !request.has_ended());
        let observed = open.map(|request| {
            let status = request.status.as_ref();
            ObservedRequest {
                name: request.name_any(),
                request: Request::of(request),
                state: request.state(),
                digest: status.and_then(|status| status.digest.clone()),
                reference: status.and_then(|status| status.reference.clone()),
            }
        });
        observed.collect()
    }
}

impl DryCascade {
    fn observed(&self) -> ObservedCascade<'_> {
        ObservedCascade {
            name: &self.name,
            supersedes: self.supersedes.as_ref(),
            planned: &self.planned,
            status: &self.status,
        }
    }
}

/// Returns the Job of a running build as its record shows it.
fn running_build(record: &ManagedImageStatus) -> Option<ObservedBuild> {
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

/// Returns the records of the checks of an image, all of which a digest has passed.
fn passed_checks(image: Option<(&Image, &ImageBlueprint)>, digest: &str) -> Vec<CheckRecord> {
    let checks = image
        .into_iter()
        .flat_map(|(image, blueprint)| image.checks.iter().zip(&blueprint.check_revisions));
    let records = checks.map(|(check, revision)| CheckRecord {
        name: check.name.clone(),
        digest: digest.to_owned(),
        revision: revision.clone(),
        state: CheckState::Passed,
        ..CheckRecord::default()
    });
    records.collect()
}

/// Returns the revision of a source or a strategy: the recorded one of a build, or else one that
/// follows from the spec.
fn revision<T: Serialize>(spec: &T, recorded: Option<&String>) -> String {
    match recorded.filter(|recorded| !recorded.is_empty()) {
        Some(recorded) => recorded.clone(),
        None => digest_of(&serde_json::to_string(spec).unwrap_or_default()),
    }
}

/// Returns a digest that stands for a text.
pub fn digest_of(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
#[path = "dry_run_tests.rs"]
mod tests;
