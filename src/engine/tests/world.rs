//! A small model of cluster and registry, in which a family is driven pass by pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::super::*;
use crate::{
    api::{
        BuildFailure, CascadeStatus, Edge, EdgeUse, FailureClass, FamilyImageStatus, Follow, Image, ImageFamilySpec,
        ImageFamilyStatus, ImageState, RunningCascade, TagRecord, Upstream,
    },
    lineage::Lineage,
};

/// A family, its records, and the world around it.
pub(super) struct World {
    pub(super) spec: ImageFamilySpec,
    pub(super) status: ImageFamilyStatus,
    pub(super) records: Vec<Option<FamilyImageStatus>>,
    pub(super) wave: Option<(String, CascadeStatus)>,
    /// The images that the wave was about to build when it began.
    pub(super) planned: Vec<String>,
    pub(super) waves: Vec<CascadeStatus>,
    /// What the upstreams' tags stand on.
    pub(super) upstream_digests: Vec<String>,
    /// Pushed fingerprints per image, with digest and build number.
    pub(super) pushed: HashMap<(usize, String), (String, i64)>,
    /// What was last asked of the registry, per image.
    pub(super) asked: HashMap<usize, Push>,
    /// Tags in the registry.
    pub(super) tags: HashMap<(usize, String), String>,
    pub(super) jobs: Vec<(usize, BuildSight)>,
    /// Builds started, per image, in all.
    pub(super) started: BTreeMap<usize, usize>,
    /// Images whose builds fail, and how.
    pub(super) failing: HashMap<usize, FailureClass>,
    /// What is known of every image's source.
    pub(super) source: Sight<String>,
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
            planned: Vec::new(),
            waves: Vec::new(),
            upstream_digests: upstreams.iter().map(|name| format!("sha256:{name}-0")).collect(),
            pushed: HashMap::new(),
            asked: HashMap::new(),
            tags: HashMap::new(),
            jobs: Vec::new(),
            started: BTreeMap::new(),
            failing: HashMap::new(),
            source: Sight::Known("source".into()),
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

    pub(super) fn decide(&self) -> Decision {
        let lineage = Lineage::new(&self.spec).expect("a graph");
        let seen = self.seen(&lineage);
        decide(&seen, self.now)
    }

    pub(super) fn seen<'a>(&'a self, lineage: &'a Lineage) -> Observation<'a> {
        let first_seen = self.now;
        Observation {
            family: "family",
            spec: &self.spec,
            lineage,
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
                    source: self.source.clone(),
                    strategy: Sight::Known("strategy".into()),
                    builds: self.jobs.iter().filter(|(of, _)| *of == image).map(|(_, job)| job.clone()).collect(),
                    push: self.asked.get(&image).cloned(),
                    tags: self
                        .tags
                        .iter()
                        .filter(|((of, _), _)| *of == image)
                        .map(|((_, tag), digest)| (tag.clone(), TagSight::At(digest.clone())))
                        .collect(),
                })
                .collect(),
            wave: self.wave.as_ref().map(|(name, status)| (name.as_str(), status)),
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
            if probes.is_empty() {
                break;
            }
            for (image, fingerprint, after) in probes {
                let result = match self.pushed.get(&(image, fingerprint.clone())) {
                    Some((digest, build)) => PushResult::Present {
                        digest: digest.clone(),
                        build: *build,
                        size: 1,
                        content: None,
                        blobs: None,
                    },
                    None => PushResult::Absent { last_build: None, after },
                };
                self.asked.insert(image, Push { fingerprint, result });
            }
            decision = self.decide();
        }
        for action in decision.actions.clone() {
            self.carry_out(&action, decision.wave.name().unwrap_or_default());
        }
        self.keep(&decision);
        decision
    }

    pub(super) fn carry_out(&mut self, action: &Action, wave: &str) {
        match action {
            Action::Probe { .. } => panic!("a question was left open"),
            Action::Stop { job } => {
                self.jobs.iter_mut().filter(|(_, of)| of.job == *job).for_each(|(_, of)| of.live = false);
            }
            Action::Build { image, fingerprint, attempt, build, .. } => {
                *self.started.entry(*image).or_default() += 1;
                let live = self.jobs.iter().any(|(of, job)| of == image && job.fingerprint == *fingerprint && job.live);
                assert!(!live, "two live builds of one fingerprint");
                self.jobs.push((
                    *image,
                    BuildSight {
                        job: format!("job-{image}-{fingerprint:.8}-{attempt}"),
                        fingerprint: fingerprint.clone(),
                        attempt: *attempt,
                        build: *build,
                        cascade: wave.into(),
                        started_at: Some(self.now),
                        outcome: BuildOutcome::Running,
                        waits_for: None,
                        live: true,
                    },
                ));
            }
            Action::Remember { image, fingerprint, digest } => {
                let build = self.pushed.get(&(*image, fingerprint.clone())).map_or(1, |(_, build)| *build);
                self.pushed.insert((*image, fingerprint.clone()), (digest.clone(), build));
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
        let lineage = Lineage::new(&self.spec).expect("a graph");
        let planned: BTreeSet<&str> = self.planned.iter().map(String::as_str).collect();
        let wave_status = self.wave.as_ref().map(|(name, previous)| {
            (name.clone(), wave::record(&self.seen(&lineage), decision, name, &planned, previous, self.now))
        });
        self.status.upstreams.clone_from(&decision.upstreams);
        self.status.pending.clone_from(&decision.pending);
        for (index, image) in decision.images.iter().enumerate() {
            let tags = self.tags.iter().filter(|((of, _), _)| *of == index);
            let good = image.good.clone();
            self.records[index] = Some(FamilyImageStatus {
                state: image.state,
                reason: image.reason.into(),
                message: image.message.clone(),
                digest: good.as_ref().map(|good| good.digest.clone()),
                fingerprint: good.as_ref().map(|good| good.fingerprint.clone()),
                build: good.as_ref().map(|good| good.build),
                inputs: good.map(|good| good.inputs),
                failure: image.failure.clone(),
                tags: tags
                    .map(|((_, tag), digest)| TagRecord {
                        tag: tag.clone(),
                        digest: digest.clone(),
                        immutable: tag.starts_with('r'),
                    })
                    .collect(),
                ..FamilyImageStatus::default()
            });
        }
        match &decision.wave {
            WaveStep::Open { name, levels, .. } => {
                let names = levels.iter().flatten().map(|image| self.spec.images[*image].name.clone());
                self.planned = names.collect();
                self.wave = Some((name.clone(), CascadeStatus::default()));
                self.status.cascade = Some(RunningCascade { name: name.clone(), started_at: None });
            }
            WaveStep::Running { .. } => self.wave = wave_status,
            WaveStep::Close { .. } => {
                self.wave = None;
                self.waves.extend(wave_status.map(|(_, status)| status));
            }
            WaveStep::None => {}
        }
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
                BuildOutcome::Succeeded
            };
        }
    }

    /// Passes until nothing changes any more; time goes on to whatever is waited for, at most an hour.
    pub(super) fn settle(&mut self) {
        let end = self.now + SignedDuration::from_hours(1);
        for _ in 0..500 {
            let before =
                (self.records.clone(), self.status.clone(), self.wave.clone(), self.jobs.len(), self.tags.clone());
            let decision = self.pass();
            self.finish_builds();
            let after =
                (self.records.clone(), self.status.clone(), self.wave.clone(), self.jobs.len(), self.tags.clone());
            if before == after && self.jobs.iter().all(|(_, job)| job.outcome != BuildOutcome::Running) {
                match decision.wake_at {
                    Some(at) if at < end => self.now = self.now.max(at),
                    _ => return,
                }
            }
        }
        panic!("no fixpoint: {:#?}", self.records);
    }

    pub(super) fn states(&self) -> Vec<ImageState> {
        self.records.iter().map(|record| record.as_ref().map_or(ImageState::Waiting, |record| record.state)).collect()
    }
}
