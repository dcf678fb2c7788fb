//! A small model of cluster and registry, in which a family is reconciled step by step.
//!
//! This file creates and reconciles the family. [`observe`] reads what a reconcile decides on.
//! [`cluster`] applies a decision to the Jobs and the registry, [`records`] to what the controller
//! records.

mod cluster;
mod observe;
mod records;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        CascadeStatus, Edge, EdgeUse, FailureClass, FamilyRequestSpec, Follow, Image,
        ImageFamilySpec, ImageFamilyStatus, ImageState, ManagedImageStatus, RememberedUpstream,
        Request, RequestState, RequestedAction, Upstream, condition::Reason,
    },
    engine::*,
    identity::{CascadeName, Fingerprint, FolderRevision, ImageDigest},
};

/// A cascade that runs.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) struct RunningModelCascade {
    pub(in crate::engine) name: CascadeName,
    pub(in crate::engine) supersedes: Option<CascadeName>,
    /// The images that it was about to build when it began.
    pub(in crate::engine) planned: Vec<Vec<String>>,
    pub(in crate::engine) status: CascadeStatus,
}

/// A family, its records, and the model around it.
pub(in crate::engine) struct FamilyModel {
    pub(in crate::engine) spec: ImageFamilySpec,
    pub(in crate::engine) status: ImageFamilyStatus,
    pub(in crate::engine) records: Vec<Option<ManagedImageStatus>>,
    /// What the records remember outside of their statuses.
    pub(in crate::engine) remembered: Vec<Vec<RememberedUpstream>>,
    /// The cascades that run, the oldest first.
    pub(in crate::engine) running: Vec<RunningModelCascade>,
    /// The cascades that have ended, and whether each was superseded.
    pub(in crate::engine) ended: Vec<(CascadeName, bool)>,
    /// The cascades that others have replaced, by the name of the later one.
    pub(in crate::engine) superseded_by: HashMap<CascadeName, CascadeName>,
    pub(in crate::engine) cascades: Vec<CascadeStatus>,
    pub(in crate::engine) imports: Vec<ObservedImport>,
    pub(in crate::engine) requests: Vec<ObservedRequest>,
    /// What happens to requests, by name.
    pub(in crate::engine) answers: HashMap<String, RequestDecision>,
    pub(in crate::engine) allowance: BuildAllowance,
    /// Checks that were started, per image.
    pub(in crate::engine) checks: Vec<(usize, ObservedCheck)>,
    /// How each failing check ends, by name. The others pass.
    pub(in crate::engine) failing_checks: HashMap<String, FailureClass>,
    /// What every build of an image comes to, if not something new each time.
    pub(in crate::engine) content: HashMap<usize, String>,
    /// What the tags of the upstreams point to.
    pub(in crate::engine) upstream_digests: Vec<String>,
    /// The images of the upstreams' indexes by platform; empty for a tag without an index.
    pub(in crate::engine) upstream_images: Vec<Vec<(&'static str, &'static str)>>,
    /// When the registry has last answered a poll, if not now.
    pub(in crate::engine) confirmed_at: Option<Timestamp>,
    /// When the registries of all upstreams serve pulls again.
    pub(in crate::engine) pulls_resume_at: Option<Timestamp>,
    /// When the registry has answered again after a break, if there was one.
    pub(in crate::engine) resumed_at: Option<Timestamp>,
    /// The platforms of the images' builds; that of an image without an entry is `linux/amd64`.
    pub(in crate::engine) platforms: HashMap<usize, Option<&'static str>>,
    /// Pushed fingerprints per image, with digest and build number.
    pub(in crate::engine) pushed: HashMap<(usize, Fingerprint), (ImageDigest, i64)>,
    /// Jobs that are not admitted now, per image.
    pub(in crate::engine) deferred: HashMap<usize, Vec<DeferredJob>>,
    /// What every Job is made of, apart from what is part of fingerprints.
    pub(in crate::engine) job_version: String,
    pub(in crate::engine) pod_version: String,
    /// The version of the registry credentials.
    pub(in crate::engine) credentials_version: Arc<str>,
    /// What was asked of the registry, per image.
    pub(in crate::engine) asked: HashMap<usize, Vec<Lookup>>,
    /// Images that others have pushed under the tags of an image.
    pub(in crate::engine) existing: HashMap<usize, ExistingImage>,
    /// What the registry has marked as the newest build of a fingerprint's inputs, and the request.
    pub(in crate::engine) marks: HashMap<(usize, Fingerprint), (ImageDigest, String)>,
    /// The last attempts to mark rebuilds, per image.
    pub(in crate::engine) rebuild_marks: HashMap<usize, RebuildMark>,
    /// The labels of an image's further builds.
    pub(in crate::engine) labels: HashMap<usize, Vec<(&'static str, &'static str)>>,
    /// The labels of each digest that was pushed.
    pub(in crate::engine) pushed_labels: HashMap<ImageDigest, Vec<(&'static str, &'static str)>>,
    /// The labels that were read, per image.
    pub(in crate::engine) read_labels: HashMap<usize, LabelAnswer>,
    /// Whether the registry has the digests that images are to be rolled back to, per image.
    pub(in crate::engine) rollback_targets: HashMap<usize, DigestAnswer>,
    /// Digests that somebody has deleted from the registry.
    pub(in crate::engine) deleted_digests: Vec<ImageDigest>,
    /// How often labels were read.
    pub(in crate::engine) label_reads: usize,
    /// Tags of other families in an image's repository.
    pub(in crate::engine) foreign_tags: BTreeMap<String, String>,
    /// Tags in the registry.
    pub(in crate::engine) tags: HashMap<(usize, String), String>,
    pub(in crate::engine) jobs: Vec<(usize, ObservedBuild)>,
    /// Jobs of images that the family no longer has.
    pub(in crate::engine) orphans: Vec<(usize, ObservedBuild)>,
    /// Builds started, per image, in all.
    pub(in crate::engine) started: BTreeMap<usize, usize>,
    /// Images whose builds fail, and how.
    pub(in crate::engine) failing: HashMap<usize, FailureClass>,
    /// The reason of each failure.
    pub(in crate::engine) failure_reason: Reason,
    /// What is known of every image's source.
    pub(in crate::engine) source: Observed<String>,
    /// Why the sources of these images cannot be read.
    pub(in crate::engine) unreadable_sources: HashMap<usize, Problem>,
    pub(in crate::engine) folder: Option<Arc<FolderRevision>>,
    /// The revision of every image's strategy; empty if no family of the namespace may use it.
    pub(in crate::engine) strategy: String,
    /// Whether the registry is unreachable, so that it answers no lookup.
    pub(in crate::engine) registry_unreachable: bool,
    pub(in crate::engine) most_at_once: usize,
    pub(in crate::engine) now: Timestamp,
    pub(in crate::engine) next_digest: usize,
}

fn edge(parent: &str) -> Edge {
    let (name, usage) = parent
        .strip_suffix('*')
        .map_or((parent, EdgeUse::Base), |name| (name, EdgeUse::BuildStage));
    if name.starts_with("up") {
        Edge { upstream: Some(name.into()), usage, ..Edge::default() }
    } else {
        Edge { image: Some(name.into()), usage, ..Edge::default() }
    }
}

impl FamilyModel {
    /// Images as `("name", "parent parent*")`; parents that begin with `up` are upstreams, `*`
    /// marks a build stage.
    pub(in crate::engine) fn new(upstreams: &[&str], images: &[(&str, &str)]) -> Self {
        let spec = ImageFamilySpec {
            repository: "registry.example.com/platform".into(),
            upstreams: upstreams
                .iter()
                .map(|name| Upstream {
                    name: (*name).into(),
                    image: format!("docker.io/library/{name}"),
                    follow: Follow { tag: "1".into() },
                    ..Upstream::default()
                })
                .collect(),
            images: images
                .iter()
                .map(|(name, parents)| Image {
                    name: (*name).into(),
                    from: parents.split_whitespace().map(edge).collect(),
                    tags: vec!["latest".into(), "r{{ build }}".into()],
                    ..Image::default()
                })
                .collect(),
            ..ImageFamilySpec::default()
        };
        Self {
            status: ImageFamilyStatus::default(),
            records: vec![None; images.len()],
            remembered: Vec::new(),
            running: Vec::new(),
            ended: Vec::new(),
            superseded_by: HashMap::new(),
            cascades: Vec::new(),
            imports: Vec::new(),
            requests: Vec::new(),
            answers: HashMap::new(),
            allowance: BuildAllowance::default(),
            checks: Vec::new(),
            failing_checks: HashMap::new(),
            content: HashMap::new(),
            upstream_digests: upstreams.iter().map(|name| format!("sha256:{name}-0")).collect(),
            upstream_images: vec![Vec::new(); upstreams.len()],
            confirmed_at: None,
            pulls_resume_at: None,
            resumed_at: None,
            platforms: HashMap::new(),
            pushed: HashMap::new(),
            deferred: HashMap::new(),
            job_version: "1".into(),
            pod_version: "small".into(),
            credentials_version: "1".into(),
            asked: HashMap::new(),
            existing: HashMap::new(),
            marks: HashMap::new(),
            rebuild_marks: HashMap::new(),
            labels: HashMap::new(),
            pushed_labels: HashMap::new(),
            read_labels: HashMap::new(),
            rollback_targets: HashMap::new(),
            deleted_digests: Vec::new(),
            label_reads: 0,
            foreign_tags: BTreeMap::new(),
            tags: HashMap::new(),
            jobs: Vec::new(),
            orphans: Vec::new(),
            started: BTreeMap::new(),
            failing: HashMap::new(),
            failure_reason: Reason::InfrastructureFailed,
            source: Observed::Known("source".into()),
            unreadable_sources: HashMap::new(),
            folder: None,
            strategy: "strategy".into(),
            registry_unreachable: false,
            most_at_once: 0,
            now: Timestamp::from_second(1_800_000_000).expect("a time"),
            next_digest: 0,
            spec,
        }
    }

    /// Images that are built on the first of two upstreams.
    pub(in crate::engine) fn fan(images: usize) -> Self {
        let names: Vec<String> = (0..images).map(|image| format!("image{image}")).collect();
        let images: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "up")).collect();
        Self::new(&["up", "up2"], &images)
    }

    pub(in crate::engine) fn index(&self, name: &str) -> usize {
        self.spec.images.iter().position(|image| image.name == name).expect(name)
    }

    pub(in crate::engine) fn record(&self, name: &str) -> &ManagedImageStatus {
        self.records[self.index(name)].as_ref().expect(name)
    }

    pub(in crate::engine) fn builds(&self) -> Vec<usize> {
        (0..self.spec.images.len())
            .map(|image| self.started.get(&image).copied().unwrap_or(0))
            .collect()
    }

    pub(in crate::engine) fn blueprint(&self) -> Blueprint {
        validate::validate(&self.spec).expect("a spec")
    }

    pub(in crate::engine) fn decide(&self) -> Decision {
        let blueprint = self.blueprint();
        let input = self.input(&blueprint);
        decide(&input, self.now)
    }

    /// Reconciles once: decides, carries out, records.
    pub(in crate::engine) fn reconcile(&mut self) -> Decision {
        let mut decision = self.decide();
        for _ in 0..=self.spec.images.len() + 1 {
            let lookups: Vec<Effect> = decision
                .effects
                .iter()
                .filter(|effect| {
                    matches!(
                        effect,
                        Effect::LookUp { .. }
                            | Effect::ReadLabels { .. }
                            | Effect::FindDigest { .. }
                    )
                })
                .cloned()
                .collect();
            let is_remembered = self.remember(&decision) | self.mark_rebuilds(&decision);
            if lookups.is_empty() && !is_remembered {
                break;
            }
            for lookup in &lookups {
                self.probe(lookup);
            }
            decision = self.decide();
        }
        for effect in decision.effects.clone() {
            self.carry_out(&effect);
        }
        self.keep(&decision);
        decision
    }

    /// Creates a request: the fields of its spec, and its name as `id`.
    pub(in crate::engine) fn ask(&mut self, value: &str) {
        let mut fields: serde_json::Value = serde_json::from_str(value).expect("JSON");
        fields["family"] = "family".into();
        let name = fields["id"].as_str().expect("an id").to_owned();
        let spec: FamilyRequestSpec = serde_json::from_value(fields).expect("a request");
        let request = RequestedAction::of(&spec).map(|action| Request {
            name: name.clone(),
            created: self.now,
            by: spec.by,
            reason: spec.reason,
            action,
        });
        let observed = ObservedRequest {
            name,
            request,
            state: None,
            digest: None,
            reference: None,
            rollbacks: Vec::new(),
        };
        self.requests.push(observed);
        self.requests.sort_by_key(|observed| {
            (observed.request.as_ref().ok().map(|known| known.created), observed.name.clone())
        });
    }

    /// Returns the message of the request with this name, once it is done or has effect.
    pub(in crate::engine) fn answer(&self, name: &str) -> &str {
        match self.answers.get(name) {
            Some(known) if known.state != RequestState::Waiting => &known.message,
            _ => "not handled",
        }
    }

    /// Returns the state of the request with this name.
    pub(in crate::engine) fn request_state(&self, name: &str) -> Option<RequestState> {
        self.answers.get(name).map(|known| known.state)
    }

    /// Builds that were ended before their end.
    pub(in crate::engine) fn stopped(&self) -> usize {
        self.jobs
            .iter()
            .chain(&self.orphans)
            .filter(|(_, job)| job.outcome == BuildOutcome::Stopped)
            .count()
    }

    /// Gives an image another name, which makes another image of it.
    pub(in crate::engine) fn rename(&mut self, from: &str, to: &str) {
        let index = self.index(from);
        self.spec.images[index].name = to.into();
        self.records[index] = None;
        self.asked.remove(&index);
        let (gone, kept) =
            std::mem::take(&mut self.jobs).into_iter().partition(|(of, _)| *of == index);
        self.orphans = gone;
        self.jobs = kept;
        self.pushed.retain(|(of, _), _| *of != index);
    }

    /// Takes the last image out of the family.
    pub(in crate::engine) fn remove_last(&mut self) {
        let index = self.spec.images.len() - 1;
        self.spec.images.pop();
        self.records.pop();
        self.asked.remove(&index);
        (self.orphans, self.jobs) =
            std::mem::take(&mut self.jobs).into_iter().partition(|(of, _)| *of == index);
    }

    /// Until the cascade for what has changed runs and its first builds do: after the quiet time,
    /// and a reconcile that starts it.
    pub(in crate::engine) fn begin(&mut self) -> Decision {
        self.reconcile();
        self.now += SignedDuration::from_secs(30);
        self.reconcile();
        self.reconcile()
    }

    /// Reconciles until nothing changes any more; time advances to whatever is waited for, at most
    /// an hour.
    pub(in crate::engine) fn settle(&mut self) {
        let end = self.now + SignedDuration::from_hours(1);
        for _ in 0..500 {
            let before = self.picture();
            let decision = self.reconcile();
            self.finish_builds();
            self.finish_checks();
            let after = self.picture();
            if before == after && self.idle() {
                match decision.wake_at {
                    Some(at) if at < end => self.now = self.now.max(at),
                    _ => return,
                }
            }
        }
        panic!("no fixpoint: {:#?}", self.records);
    }

    /// Everything that may still change.
    fn picture(&self) -> impl PartialEq + use<> {
        let model =
            (self.records.clone(), self.status.clone(), self.running.clone(), self.tags.clone());
        (model, self.jobs.clone(), self.checks.clone())
    }

    /// Whether no build and no check runs.
    fn idle(&self) -> bool {
        self.jobs.iter().all(|(_, job)| job.outcome != BuildOutcome::Running)
            && self.checks.iter().all(|(_, check)| check.outcome != CheckOutcome::Running)
    }

    pub(in crate::engine) fn states(&self) -> Vec<ImageState> {
        self.records
            .iter()
            .map(|record| record.as_ref().map_or(ImageState::Waiting, |record| record.state))
            .collect()
    }
}
