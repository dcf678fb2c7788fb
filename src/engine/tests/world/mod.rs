//! A small model of cluster and registry, in which a family is driven pass by pass.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::super::*;
use crate::api::{
    BuildFailure, BuildRecord, CascadeStatus, Edge, EdgeUse, FailureClass, FamilyImageStatus, Follow, HandledRequest,
    Image, ImageFamilySpec, ImageFamilyStatus, ImageState, Request, RunningCascade, TagRecord, Upstream,
    condition::reason, handled_request::record,
};

/// The wave that runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wave {
    pub(super) name: String,
    pub(super) supersedes: Option<String>,
    /// The images that it was about to build when it began.
    pub(super) planned: Vec<Vec<String>>,
    pub(super) status: CascadeStatus,
}

/// A family, its records, and the world around it.
pub(super) struct World {
    pub(super) spec: ImageFamilySpec,
    pub(super) status: ImageFamilyStatus,
    pub(super) records: Vec<Option<FamilyImageStatus>>,
    pub(super) wave: Option<Wave>,
    /// The wave that ended last, and whether it was superseded.
    pub(super) last_wave: Option<(String, bool)>,
    pub(super) waves: Vec<CascadeStatus>,
    pub(super) imports: Vec<ImportSight>,
    pub(super) requests: Vec<RequestSight>,
    pub(super) budget: Budget,
    /// Checks that were started, per image.
    pub(super) checks: Vec<(usize, CheckSight)>,
    /// How each check ends, by name; the others pass.
    pub(super) failing_checks: HashMap<String, FailureClass>,
    /// What every build of an image comes to, if not something new each time.
    pub(super) content: HashMap<usize, String>,
    /// What the upstreams' tags stand on.
    pub(super) upstream_digests: Vec<String>,
    /// Pushed fingerprints per image, with digest and build number.
    pub(super) pushed: HashMap<(usize, String), (String, i64)>,
    /// What was asked of the registry, per image.
    pub(super) asked: HashMap<usize, Vec<Push>>,
    /// Tags in the registry.
    pub(super) tags: HashMap<(usize, String), String>,
    pub(super) jobs: Vec<(usize, BuildSight)>,
    /// Jobs of images that the family no longer has.
    pub(super) orphans: Vec<(usize, BuildSight)>,
    /// Builds started, per image, in all.
    pub(super) started: BTreeMap<usize, usize>,
    /// Images whose builds fail, and how.
    pub(super) failing: HashMap<usize, FailureClass>,
    /// What is known of every image's source.
    pub(super) source: Sight<String>,
    /// Whether the registry is away, so that it answers no question.
    pub(super) registry_away: bool,
    pub(super) most_at_once: usize,
    pub(super) now: Timestamp,
    pub(super) next_digest: usize,
}

fn edge(parent: &str) -> Edge {
    let (name, usage) = parent.strip_suffix('*').map_or((parent, EdgeUse::Base), |name| (name, EdgeUse::BuildStage));
    if name.starts_with("up") {
        Edge { upstream: Some(name.into()), usage, ..Edge::default() }
    } else {
        Edge { image: Some(name.into()), usage, ..Edge::default() }
    }
}

impl World {
    /// Images as `("name", "parent parent*")`; parents that begin with `up` are upstreams, `*` marks a build stage.
    pub(super) fn new(upstreams: &[&str], images: &[(&str, &str)]) -> Self {
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
            wave: None,
            last_wave: None,
            waves: Vec::new(),
            imports: Vec::new(),
            requests: Vec::new(),
            budget: Budget::default(),
            checks: Vec::new(),
            failing_checks: HashMap::new(),
            content: HashMap::new(),
            upstream_digests: upstreams.iter().map(|name| format!("sha256:{name}-0")).collect(),
            pushed: HashMap::new(),
            asked: HashMap::new(),
            tags: HashMap::new(),
            jobs: Vec::new(),
            orphans: Vec::new(),
            started: BTreeMap::new(),
            failing: HashMap::new(),
            source: Sight::Known("source".into()),
            registry_away: false,
            most_at_once: 0,
            now: Timestamp::from_second(1_800_000_000).expect("a time"),
            next_digest: 0,
            spec,
        }
    }

    pub(super) fn index(&self, name: &str) -> usize {
        self.spec.images.iter().position(|image| image.name == name).expect(name)
    }

    pub(super) fn record(&self, name: &str) -> &FamilyImageStatus {
        self.records[self.index(name)].as_ref().expect(name)
    }

    pub(super) fn builds(&self) -> Vec<usize> {
        (0..self.spec.images.len()).map(|image| self.started.get(&image).copied().unwrap_or(0)).collect()
    }

    pub(super) fn blueprint(&self) -> Blueprint {
        validate::validate(&self.spec).expect("a spec")
    }

    pub(super) fn decide(&self) -> Decision {
        let blueprint = self.blueprint();
        let seen = self.seen(&blueprint);
        decide(&seen, self.now)
    }

    pub(super) fn seen<'a>(&'a self, blueprint: &'a Blueprint) -> Observation<'a> {
        let first_seen = self.now;
        Observation {
            family: "family",
            generation: None,
            spec: &self.spec,
            blueprint,
            status: &self.status,
            upstreams: self
                .upstream_digests
                .iter()
                .map(|digest| UpstreamSight {
                    seen: Some(SeenDigest { digest: digest.clone(), first_seen, missing_platforms: vec![] }),
                    fault: None,
                })
                .collect(),
            images: (0..self.spec.images.len())
                .map(|image| ImageSight {
                    record: self.records[image].as_ref(),
                    good: self.records[image].as_ref().and_then(Good::of).map(Arc::new),
                    checks: self.checks.iter().filter(|(of, _)| *of == image).map(|(_, check)| check.clone()).collect(),
                    source: self.source.clone(),
                    strategy: Sight::Known("strategy".into()),
                    builds: self.jobs.iter().filter(|(of, _)| *of == image).map(|(_, job)| job.clone()).collect(),
                    pushes: self.asked.get(&image).cloned().unwrap_or_default(),
                    tags: self
                        .tags
                        .iter()
                        .filter(|((of, _), _)| *of == image)
                        .map(|((_, tag), digest)| (tag.clone(), TagSight::At(digest.clone())))
                        .collect(),
                })
                .collect(),
            imports: self.imports.clone(),
            orphans: self.orphans.iter().map(|(_, job)| job.clone()).collect(),
            wave: self.wave.as_ref().map(|wave| WaveSight {
                name: &wave.name,
                supersedes: wave.supersedes.as_deref(),
                planned: &wave.planned,
                status: &wave.status,
            }),
            last_wave: self.last_wave.as_ref().map(|(name, superseded)| LastWave { name, superseded: *superseded }),
            requests: self.requests.clone(),
            budget: self.budget.clone(),
        }
    }

    /// One pass: decides, carries out, records.
    pub(super) fn pass(&mut self) -> Decision {
        let mut decision = self.decide();
        for _ in 0..=self.spec.images.len() {
            let probes: Vec<(usize, String, Option<i32>)> = decision
                .actions
                .iter()
                .filter_map(|action| match action {
                    Action::Probe { image, fingerprint, after } => Some((*image, fingerprint.clone(), *after)),
                    _ => None,
                })
                .collect();
            if probes.is_empty() && !self.remember(&decision) {
                break;
            }
            for (image, fingerprint, after) in probes {
                let away = || Fault { reason: reason::REGISTRY_UNAVAILABLE, message: "away".into() };
                let result = match self.pushed.get(&(image, fingerprint.clone())) {
                    _ if self.registry_away => PushResult::Faulty(away(), self.now + SignedDuration::from_secs(10)),
                    Some((digest, build)) => PushResult::Present {
                        digest: digest.clone(),
                        build: *build,
                        size: 1,
                        content: Some(self.content.get(&image).unwrap_or(digest).clone()),
                        blobs: None,
                    },
                    None => PushResult::Absent { last_build: None, after },
                };
                let asked = self.asked.entry(image).or_default();
                asked.retain(|earlier| earlier.fingerprint != fingerprint);
                asked.push(Push { fingerprint, result });
            }
            decision = self.decide();
        }
        for action in decision.actions.clone() {
            self.carry_out(&action, decision.wave.name().unwrap_or_default());
        }
        self.keep(&decision);
        decision
    }

    /// Has the registry remember what came out the same, and answer so from now on. Whether there was anything.
    fn remember(&mut self, decision: &Decision) -> bool {
        let mut any = false;
        for action in &decision.actions {
            let Action::Remember { image, fingerprint, digest } = action else { continue };
            let build = self.pushed.values().find(|(known, _)| known == digest).map_or(0, |(_, build)| *build);
            self.pushed.insert((*image, fingerprint.clone()), (digest.clone(), build));
            self.asked.remove(image);
            any = true;
        }
        any
    }

    pub(super) fn carry_out(&mut self, action: &Action, wave: &str) {
        match action {
            Action::Probe { .. } | Action::Remember { .. } => panic!("a question was left open"),
            Action::Stop { job } => {
                for (_, of) in self.jobs.iter_mut().chain(&mut self.orphans).filter(|(_, of)| of.job == *job) {
                    of.live = false;
                    if of.outcome == BuildOutcome::Running {
                        of.outcome = BuildOutcome::Stopped;
                    }
                }
                // There is no verdict of a check that was ended before its end.
                self.checks.retain(|(_, of)| of.job != *job || of.outcome != CheckOutcome::Running);
            }
            Action::Check { image, check, digest, attempt } => {
                let of = &self.spec.images[*image].checks[*check];
                let sight = CheckSight {
                    job: format!("check-{image}-{check}-{digest}-{attempt}"),
                    check: of.name.clone(),
                    revision: fingerprint::check_revision(of),
                    digest: digest.clone(),
                    attempt: *attempt,
                    waits_for: None,
                    outcome: CheckOutcome::Running,
                    live: true,
                };
                self.checks.push((*image, sight));
            }
            Action::Build { image, fingerprint, attempt, build, own, user_caused, .. } => {
                *self.started.entry(*image).or_default() += 1;
                let live = self.jobs.iter().any(|(of, job)| of == image && job.fingerprint == *fingerprint && job.live);
                assert!(!live, "two live builds of one fingerprint");
                self.jobs.push((
                    *image,
                    BuildSight {
                        job: format!("{}-{fingerprint:.8}-{attempt}", self.spec.images[*image].name),
                        fingerprint: fingerprint.clone(),
                        attempt: *attempt,
                        build: *build,
                        cascade: wave.into(),
                        own: own.clone(),
                        user_caused: *user_caused,
                        started_at: Some(self.now),
                        outcome: BuildOutcome::Running,
                        waits_for: None,
                        live: true,
                    },
                ));
            }
            Action::Promote { image, digest, tags } => {
                for tag in tags {
                    self.tags.insert((*image, tag.tag.clone()), digest.clone());
                }
            }
        }
        let running = self.jobs.iter().filter(|(_, job)| job.outcome == BuildOutcome::Running).count();
        self.most_at_once = self.most_at_once.max(running);
    }

    pub(super) fn keep(&mut self, decision: &Decision) {
        let blueprint = self.blueprint();
        let wave_status = self.wave.as_ref().map(|wave| {
            let planned: BTreeSet<&str> = wave.planned.iter().flatten().map(String::as_str).collect();
            wave::record(&self.seen(&blueprint), decision, &wave.name, &planned, &wave.status, self.now)
        });
        self.status.upstreams.clone_from(&decision.upstreams);
        self.status.pending.clone_from(&decision.pending);
        self.status.window.clone_from(&decision.window);
        self.status.breaker.clone_from(&decision.breaker);
        for (target, handled) in &decision.handled {
            self.requests.retain(|request| request.target != *target);
            record(&mut self.status.requests, handled.clone());
        }
        if !matches!(decision.wave, WaveStep::Open { .. }) {
            for (index, image) in decision.images.iter().enumerate() {
                self.records[index] = Some(self.keep_image(index, image, decision.wave.name().unwrap_or_default()));
            }
        }
        match &decision.wave {
            WaveStep::Open { name, levels, supersedes, .. } => {
                let names =
                    |level: &Vec<usize>| level.iter().map(|image| self.spec.images[*image].name.clone()).collect();
                let planned = levels.iter().map(names).collect();
                let supersedes = supersedes.clone();
                self.wave = Some(Wave { name: name.clone(), supersedes, planned, status: CascadeStatus::default() });
                self.status.cascade = Some(RunningCascade { name: name.clone(), started_at: None });
            }
            WaveStep::Running { .. } => {
                if let (Some(wave), Some(status)) = (&mut self.wave, wave_status) {
                    wave.status = status;
                }
            }
            WaveStep::Close { name, superseded } => {
                self.wave = None;
                self.last_wave = Some((name.clone(), *superseded));
                self.waves.extend(wave_status);
            }
            WaveStep::None => {}
        }
    }

    fn keep_image(&self, index: usize, image: &ImageDecision, wave: &str) -> FamilyImageStatus {
        let old = self.records[index].clone().unwrap_or_default();
        let tags = self.tags.iter().filter(|((of, _), _)| *of == index);
        let good = image.good.as_deref().cloned();
        let mut history = old.history;
        if let Some(good) = good.as_ref().filter(|good| old.fingerprint.as_ref() != Some(&good.fingerprint)) {
            let cascade = wave.to_owned();
            let (digest, causes) = (good.digest.clone(), good.causes.clone());
            let finished_at = Some(self.now);
            let build =
                BuildRecord { build: Some(good.build), digest, cascade, causes, finished_at, ..BuildRecord::default() };
            history.insert(0, BuildRecord { spared: good.spared, ..build });
        }
        FamilyImageStatus {
            state: image.state,
            reason: image.reason.into(),
            message: image.message.clone(),
            digest: good.as_ref().map(|good| good.digest.clone()),
            fingerprint: good.as_ref().map(|good| good.fingerprint.clone()),
            build: good.as_ref().map(|good| good.build),
            last_build: old.last_build.max(image.running.as_ref().map(|running| running.build)),
            content: good.as_ref().and_then(|good| good.content.clone()),
            checked: good.as_ref().and_then(|good| good.checked.clone()),
            causes: good.as_ref().map(|good| good.causes.clone()).unwrap_or_default(),
            inputs: good.map(|good| good.inputs),
            failure: image.failure.clone(),
            checks: image.checks.clone(),
            promoted: image.promoted.clone(),
            hold: image.hold.clone(),
            nonce: image.nonce.clone(),
            starts: self.starts(index, &old.starts),
            history,
            tags: tags
                .map(|((_, tag), digest)| TagRecord {
                    tag: tag.clone(),
                    digest: digest.clone(),
                    immutable: tag.starts_with('r'),
                })
                .collect(),
            ..FamilyImageStatus::default()
        }
    }

    /// What is remembered of an image's starts.
    fn starts(&self, index: usize, known: &[Timestamp]) -> Vec<Timestamp> {
        let Some(storm) = &self.spec.policy.storm else { return Vec::new() };
        let jobs = self.jobs.iter().filter(|(of, job)| *of == index && !job.user_caused);
        budget::remembered(
            known,
            jobs.filter_map(|(_, job)| job.started_at),
            storm.starts,
            storm.per.signed(),
            self.now,
        )
    }

    /// Ends the checks that run.
    pub(super) fn finish_checks(&mut self) {
        for (_, check) in self.checks.iter_mut().filter(|(_, check)| check.outcome == CheckOutcome::Running) {
            check.live = false;
            check.outcome = match self.failing_checks.get(&check.check) {
                Some(class) => CheckOutcome::Failed(BuildFailure {
                    class: *class,
                    reason: "X".into(),
                    message: "it is not as it should be".into(),
                }),
                None => CheckOutcome::Passed("fine".into()),
            };
        }
    }

    /// Puts a request on the family.
    pub(super) fn ask(&mut self, value: &str) {
        let request = Request::parse(value).map_err(|error| HandledRequest::unreadable(value, &error, self.now));
        self.requests.push(RequestSight { target: Target::Family, request });
    }

    /// What came of the request with this id, in words.
    pub(super) fn answer(&self, id: &str) -> &str {
        self.status.requests.iter().find(|handled| handled.id == id).map_or("not handled", |handled| &handled.message)
    }

    /// Builds that were ended before their end.
    pub(super) fn stopped(&self) -> usize {
        self.jobs.iter().chain(&self.orphans).filter(|(_, job)| job.outcome == BuildOutcome::Stopped).count()
    }

    /// Gives an image another name, which makes another image of it.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let index = self.index(from);
        self.spec.images[index].name = to.into();
        self.records[index] = None;
        self.asked.remove(&index);
        let (gone, kept) = std::mem::take(&mut self.jobs).into_iter().partition(|(of, _)| *of == index);
        self.orphans = gone;
        self.jobs = kept;
        self.pushed.retain(|(of, _), _| *of != index);
    }

    /// Takes the last image out of the family.
    pub(super) fn remove_last(&mut self) {
        let index = self.spec.images.len() - 1;
        self.spec.images.pop();
        self.records.pop();
        self.asked.remove(&index);
        (self.orphans, self.jobs) = std::mem::take(&mut self.jobs).into_iter().partition(|(of, _)| *of == index);
    }

    /// Ends the build of one image with a push.
    pub(super) fn finish_only(&mut self, name: &str) {
        let index = self.index(name);
        let (mine, others) = std::mem::take(&mut self.jobs).into_iter().partition(|(of, _)| *of == index);
        self.jobs = mine;
        self.finish_builds();
        self.jobs.extend(others);
    }

    /// Ends the builds that run: with a push, or as `failing` says.
    pub(super) fn finish_builds(&mut self) {
        for (image, job) in &mut self.jobs {
            if job.outcome != BuildOutcome::Running {
                continue;
            }
            job.outcome = if let Some(class) = self.failing.get(image) {
                BuildOutcome::Failed(BuildFailure { class: *class, reason: "X".into(), message: "it broke".into() })
            } else {
                self.next_digest += 1;
                let digest = format!("sha256:built-{}", self.next_digest);
                self.pushed.insert((*image, job.fingerprint.clone()), (digest, job.build));
                job.live = false;
                BuildOutcome::Succeeded
            };
        }
    }

    /// Passes until nothing changes any more; time goes on to whatever is waited for, at most an hour.
    pub(super) fn settle(&mut self) {
        let end = self.now + SignedDuration::from_hours(1);
        for _ in 0..500 {
            let before = self.picture();
            let decision = self.pass();
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
        let world = (self.records.clone(), self.status.clone(), self.wave.clone(), self.tags.clone());
        (world, self.jobs.clone(), self.checks.clone())
    }

    /// Whether no build and no check runs.
    fn idle(&self) -> bool {
        self.jobs.iter().all(|(_, job)| job.outcome != BuildOutcome::Running)
            && self.checks.iter().all(|(_, check)| check.outcome != CheckOutcome::Running)
    }

    pub(super) fn states(&self) -> Vec<ImageState> {
        self.records.iter().map(|record| record.as_ref().map_or(ImageState::Waiting, |record| record.state)).collect()
    }
}
