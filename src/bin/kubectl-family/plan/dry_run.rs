//! Runs the controller's own `decide` on what is recorded of a family, without carrying anything
//! out, until the family is at rest. Every build and every check is assumed to succeed at once, and
//! the registry is assumed to have nothing that is not recorded. Time passes as fast as gates need
//! it, so that the plan also says when a build would start.
//!
//! - `observed`: what each decision reads
//! - `records`: what the controller would record of a decision

mod observed;
mod records;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};

use groundswell::{
    api::{
        CascadePhase, CascadeStatus, Cause, Image, ImageFamilySpec, ImageFamilyStatus, ImageState,
        ManagedImageStatus, StrategyRef, condition::Reason,
    },
    engine::{
        CascadeDecision, Decision, Effect, EndedCascade, Lookup, ObservedBuild, ObservedCascade,
        ObservedRequest, RequestDecision, VerifiedBuild, decide,
    },
    identity::CascadeName,
    lineage::{ImageIndex, Parent, families::ImageName},
};

use crate::{
    input::EstateFamily,
    plan::{
        gates::{closed_gates, waits_for_time},
        imports::AssumedImport,
    },
};

/// Maximum number of decisions of a plan: a family has at most 1000 levels, each of which needs a
/// lookup and a build, and some gates open after another.
const MAX_DECISIONS: usize = 4_000;
/// How far into the future a plan waits for gates: a window may open once a month.
const HORIZON: SignedDuration = SignedDuration::from_hours(24 * 62);

/// What the registry is assumed to answer about builds that nothing records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AssumedRegistry {
    /// It has them all: the family is current.
    HasAll,
    /// It has none of them.
    HasNone,
}

/// The digests that a plan assumes in place of what is recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AssumedDigests {
    /// The newest digest of upstreams, by reference.
    pub upstreams: BTreeMap<String, String>,
    /// Images of other families. An image without an entry is assumed to stay at the digest that
    /// the builds of the family record.
    pub imports: HashMap<ImageName, AssumedImport>,
}

/// The state of a family during a dry run.
pub struct DryRun<'a> {
    family: &'a EstateFamily,
    assumed: &'a AssumedDigests,
    /// The spec of the family, with places for all builds at once: a plan does not know how long
    /// builds take.
    spec: ImageFamilySpec,
    status: ImageFamilyStatus,
    images: Vec<DryImage>,
    cascades: Vec<DryCascade>,
    ended: Vec<EndedCascade>,
    requests: Vec<ObservedRequest>,
    now: Timestamp,
}

/// What is known of an image.
#[derive(Clone, Default)]
struct DryImage {
    record: Option<ManagedImageStatus>,
    verified: Option<Arc<VerifiedBuild>>,
    lookups: Vec<Lookup>,
    builds: Vec<ObservedBuild>,
    /// Whether its first build runs. Nothing records yet of which source that is, so that a plan
    /// cannot tell its fingerprint from another one: it is the build that the plan starts first.
    first_build_runs: bool,
    /// Whether the spec names another source than at the last build.
    has_new_source: bool,
    /// Whether the spec names another strategy than at the last build.
    has_new_strategy: bool,
    /// The revision of a source that no build records.
    own_source: OnceCell<String>,
    /// The revision of a strategy that no build records.
    own_strategy: OnceCell<String>,
}

struct DryCascade {
    name: CascadeName,
    supersedes: Option<CascadeName>,
    planned: Vec<Vec<String>>,
    status: CascadeStatus,
}

/// A build that a dry run has started.
#[derive(Clone, Debug)]
pub struct DryBuild {
    /// The image.
    pub image: ImageIndex,
    /// When it starts.
    pub at: Timestamp,
    /// Why it is needed.
    pub causes: Vec<Cause>,
}

/// Gates that were closed until a build started.
#[derive(Clone, Debug)]
pub struct OpenedGates {
    /// When the build starts.
    pub at: Timestamp,
    /// What the gates are.
    pub gates: Vec<String>,
}

/// The end of a dry run: the family is at rest, or the bounds of the plan are reached.
pub struct DryRunEnd {
    /// The decision of the first moment, before any gate has opened.
    pub first: Decision,
    /// The last decision.
    pub last: Decision,
    /// The first build of each image, in the order in which they start.
    pub builds: Vec<DryBuild>,
    /// The images whose first builds run already.
    pub first_builds: HashSet<ImageIndex>,
    /// The causes of the cascades that start.
    pub causes: Vec<Cause>,
    /// What has delayed builds, the first first.
    pub opened: Vec<OpenedGates>,
    /// When each image gets another digest, and which, parallel to the images of the spec. `None`
    /// for an image that keeps its digest.
    pub new_digests: Vec<Option<(Timestamp, String)>>,
    /// What happens to each request first, by its name.
    pub requests: BTreeMap<String, RequestDecision>,
    /// The time up to which the plan goes, if something waits for a later one.
    pub cut_at: Option<Timestamp>,
}

impl<'a> DryRun<'a> {
    /// Creates the dry run of a family from what is recorded of it.
    pub fn new(family: &'a EstateFamily, assumed: &'a AssumedDigests, now: Timestamp) -> Self {
        let images = family.family.spec.images.iter().map(|image| {
            let record = family.images.get(&image.name).and_then(|image| image.status.clone());
            let verified = record.as_ref().and_then(VerifiedBuild::of).map(Arc::new);
            let running = record.as_ref().and_then(observed::running_build);
            let first_build_runs = running.is_some() && verified.is_none();
            let builds = running.filter(|_| verified.is_some()).into_iter().collect();
            DryImage { record, verified, builds, first_build_runs, ..DryImage::default() }
        });
        let images = images.collect();
        let mut run = Self {
            family,
            assumed,
            spec: unlimited(&family.family.spec),
            status: family.family.status.clone().unwrap_or_default(),
            images,
            cascades: Vec::new(),
            ended: Vec::new(),
            requests: observed::open_requests(family),
            now,
        };
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
        let (old, new) = (&self.family.family.spec, &family.family.spec);
        let mut known: HashMap<&str, (&Image, DryImage)> = before
            .zip(self.images)
            .map(|(image, known)| (image.name.as_str(), (image, known)))
            .collect();
        let after = family.family.spec.images.iter().map(|image| {
            let Some((before, known)) = known.remove(image.name.as_str()) else {
                return DryImage::default();
            };
            let mut known = DryImage {
                has_new_source: before.source != image.source,
                has_new_strategy: strategy_of(old, before) != strategy_of(new, image),
                ..known
            };
            known.first_build_runs &= !known.has_new_source && !known.has_new_strategy;
            if known.has_new_source {
                known.own_source.take();
            }
            if known.has_new_strategy {
                known.own_strategy.take();
            }
            known
        });
        let images = after.collect();
        let Self { status, cascades, ended, requests, now, .. } = self;
        let spec = unlimited(&family.family.spec);
        DryRun { family, assumed, spec, status, images, cascades, ended, requests, now }
    }

    /// Assumes that the registry has everything that nothing records, until the family is current.
    pub fn make_current(&mut self) {
        // A hold keeps an upstream at the digest that it has, and it has none yet.
        for upstream in &mut self.spec.upstreams {
            upstream.hold = upstream.hold.take().filter(|hold| hold.digest.is_some());
        }
        self.settle_current();
        self.spec = unlimited(&self.family.family.spec);
    }

    /// Returns what is recorded of the images.
    #[cfg(test)]
    pub fn image_records(&self) -> Vec<Option<ManagedImageStatus>> {
        self.images.iter().map(|image| image.record.clone()).collect()
    }

    fn settle_current(&mut self) {
        for _ in 0..MAX_DECISIONS {
            let decision = self.decide();
            let is_answered = self.answer(&decision, AssumedRegistry::HasAll);
            self.keep(&decision);
            if !is_answered {
                return;
            }
        }
    }

    /// Returns the decision of this moment, with every image evaluated as far as its parents allow.
    pub fn first_decision(mut self) -> Decision {
        self.answered_decision(&mut 0)
    }

    /// Decides until nothing changes by itself any more.
    pub fn run(mut self) -> DryRunEnd {
        let begun = self.now;
        let mut count = 0;
        let mut decision = self.answered_decision(&mut count);
        let mut end = DryRunEnd::new(&decision);
        let mut gates: Vec<String> = Vec::new();
        while count < MAX_DECISIONS {
            let is_changed = self.carry_out(&decision, &mut end, &mut gates);
            let is_recorded = self.record(&decision, &mut end);
            if !is_changed && !is_recorded && !self.finish_running() {
                let Some(at) = self.next_event(&decision) else { break };
                if at.duration_since(begun) > HORIZON {
                    end.cut_at = begun.checked_add(HORIZON).ok();
                    break;
                }
                let closed = closed_gates(self.family, self.assumed, &decision, at);
                self.now = at;
                let next = self.answered_decision(&mut count);
                if Situation::of(&next) != Situation::of(&decision) {
                    gates.retain(|gate| !closed.contains(gate));
                    gates.extend(closed);
                }
                decision = next;
                continue;
            }
            decision = self.answered_decision(&mut count);
        }
        if count >= MAX_DECISIONS {
            end.cut_at = Some(self.now);
        }
        DryRunEnd { last: decision, ..end }
    }

    fn decide(&self) -> Decision {
        decide(&self.input(), self.now)
    }

    /// Returns the decision of this moment, after the registry has answered that it has nothing.
    /// Counts the decisions.
    fn answered_decision(&mut self, count: &mut usize) -> Decision {
        let mut decision = self.decide();
        *count += 1;
        while *count < MAX_DECISIONS && self.answer(&decision, AssumedRegistry::HasNone) {
            decision = self.decide();
            *count += 1;
        }
        decision
    }

    /// Returns when something happens next, if something waits for a time.
    fn next_event(&self, decision: &Decision) -> Option<Timestamp> {
        let imports = self.assumed.imports.values();
        let built = imports
            .filter_map(super::imports::AssumedImport::rebuilt_at)
            .filter(|at| *at > self.now);
        let wake_at = decision.wake_at.filter(|_| waits_for_time(self.family, decision));
        built.chain(wake_at).min()
    }

    /// Carries out what a decision starts and ends. Returns whether that is anything.
    fn carry_out(
        &mut self,
        decision: &Decision,
        end: &mut DryRunEnd,
        gates: &mut Vec<String>,
    ) -> bool {
        let mut is_changed = self.advance_cascades(decision);
        if let CascadeDecision::Start { causes, .. } = &decision.cascade {
            let known = &end.causes;
            let new: Vec<Cause> =
                causes.iter().filter(|cause| !known.contains(cause)).cloned().collect();
            end.causes.extend(new);
        }
        for decided in &decision.requests {
            end.requests.entry(decided.name.clone()).or_insert_with(|| decided.clone());
        }
        let begun = end.builds.len();
        let mut started: HashSet<ImageIndex> = end.builds.iter().map(|one| one.image).collect();
        for effect in &decision.effects {
            match effect {
                Effect::Build(build) => {
                    let decided = decision.images.get(build.image.position());
                    let causes = decided.map(|decided| decided.causes.clone()).unwrap_or_default();
                    if self.is_first_build(build.image) {
                        end.first_builds.insert(build.image);
                    } else if started.insert(build.image) {
                        end.builds.push(DryBuild { image: build.image, at: self.now, causes });
                    }
                    self.build(build);
                    is_changed = true;
                }
                Effect::Check { image, digest, .. } => {
                    is_changed |= self.pass_checks(*image, digest);
                }
                Effect::Stop { job } => is_changed |= self.stop(job),
                _ => {}
            }
        }
        // What starts later is built on what these builds give.
        if decision.effects.iter().any(|effect| matches!(effect, Effect::Build(_))) {
            self.images.iter_mut().for_each(|image| image.first_build_runs = false);
        }
        if end.builds.len() > begun && !gates.is_empty() {
            end.opened.push(OpenedGates { at: self.now, gates: std::mem::take(gates) });
        }
        is_changed | self.keep_requests(decision)
    }

    /// Whether a build of an image is its first one, which runs already: it is not, if the plan
    /// assumes another digest of an upstream that the image is built on.
    fn is_first_build(&self, image: ImageIndex) -> bool {
        let runs = self.images.get(image.position()).is_some_and(|known| known.first_build_runs);
        let parents = self.family.blueprint.lineage.parents(image);
        let is_moved = |parent: &Parent| {
            let Parent::Upstream(upstream) = parent else { return false };
            let upstream = self.spec.upstreams.get(upstream.position());
            upstream.is_some_and(|one| self.assumed.upstreams.contains_key(&one.reference()))
        };
        runs && !parents.iter().any(is_moved)
    }

    /// Keeps what the controller records of a decision, and notes new digests. Returns whether
    /// there is anything new.
    fn record(&mut self, decision: &Decision, end: &mut DryRunEnd) -> bool {
        let digest = |image: &DryImage| image.verified.as_ref().map(|known| known.digest.clone());
        let before: Vec<_> = self.images.iter().map(digest).collect();
        let is_changed = self.keep(decision);
        for ((image, before), new) in self.images.iter().zip(before).zip(&mut end.new_digests) {
            let after = digest(image);
            if let Some(digest) = after.filter(|after| Some(after) != before.as_ref()) {
                *new = Some((self.now, digest.to_string()));
            }
        }
        is_changed
    }
}

impl DryRunEnd {
    fn new(first: &Decision) -> Self {
        Self {
            first: first.clone(),
            last: first.clone(),
            builds: Vec::new(),
            first_builds: HashSet::new(),
            causes: Vec::new(),
            opened: Vec::new(),
            new_digests: vec![None; first.images.len()],
            requests: BTreeMap::new(),
            cut_at: None,
        }
    }
}

/// What a user sees of a decision, to tell whether a gate that has opened has changed anything.
#[derive(PartialEq)]
struct Situation<'a> {
    pending: Option<&'a str>,
    upstreams: Vec<Option<&'a str>>,
    images: Vec<(ImageState, Reason)>,
    is_start: bool,
}

impl<'a> Situation<'a> {
    fn of(decision: &'a Decision) -> Self {
        Self {
            pending: decision.pending.as_ref().map(|pending| pending.change.as_str()),
            upstreams: decision.upstreams.iter().map(|known| known.reason.as_deref()).collect(),
            images: decision.images.iter().map(|image| (image.state, image.reason)).collect(),
            is_start: matches!(decision.cascade, CascadeDecision::Start { .. }),
        }
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

/// Returns the strategy that an image of a family is built with.
pub fn strategy_of<'s>(spec: &'s ImageFamilySpec, image: &'s Image) -> &'s StrategyRef {
    image.strategy.as_ref().unwrap_or(&spec.strategy)
}

/// Returns a spec that lets all builds run at once.
fn unlimited(spec: &ImageFamilySpec) -> ImageFamilySpec {
    let mut spec = spec.clone();
    spec.policy.parallelism = i32::MAX;
    spec
}

/// Returns a digest that stands for a text.
pub fn digest_of(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
#[path = "dry_run_tests.rs"]
mod tests;
