//! The engine against a small model of cluster and registry: what a family comes to, pass by pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{
    api::{
        BuildFailure, CascadePhase, CascadeStatus, Edge, EdgeUse, FailureClass, FamilyImageStatus, Follow, Hold, Image,
        ImageFamilySpec, ImageFamilyStatus, ImageState, RunningCascade, TagRecord, Upstream, condition::reason,
    },
    lineage::Lineage,
};

/// A family, its records, and the world around it.
struct World {
    spec: ImageFamilySpec,
    status: ImageFamilyStatus,
    records: Vec<Option<FamilyImageStatus>>,
    wave: Option<(String, CascadeStatus)>,
    /// The images that the wave was about to build when it began.
    planned: Vec<String>,
    waves: Vec<CascadeStatus>,
    /// What the upstreams' tags stand on.
    upstream_digests: Vec<String>,
    /// Pushed fingerprints per image, with digest and build number.
    pushed: HashMap<(usize, String), (String, i64)>,
    /// What was last asked of the registry, per image.
    asked: HashMap<usize, Push>,
    /// Tags in the registry.
    tags: HashMap<(usize, String), String>,
    jobs: Vec<(usize, BuildSight)>,
    /// Builds started, per image, in all.
    started: BTreeMap<usize, usize>,
    /// Images whose builds fail, and how.
    failing: HashMap<usize, FailureClass>,
    /// What is known of every image's source.
    source: Sight<String>,
    most_at_once: usize,
    now: Timestamp,
    next_digest: usize,
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
    fn new(upstreams: &[&str], images: &[(&str, &str)]) -> Self {
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

    fn index(&self, name: &str) -> usize {
        self.spec.images.iter().position(|image| image.name == name).expect(name)
    }

    fn record(&self, name: &str) -> &FamilyImageStatus {
        self.records[self.index(name)].as_ref().expect(name)
    }

    fn builds(&self) -> Vec<usize> {
        (0..self.spec.images.len()).map(|image| self.started.get(&image).copied().unwrap_or(0)).collect()
    }

    fn decide(&self) -> Decision {
        let lineage = Lineage::new(&self.spec).expect("a graph");
        let seen = self.seen(&lineage);
        decide(&seen, self.now)
    }

    fn seen<'a>(&'a self, lineage: &'a Lineage) -> Observation<'a> {
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
    fn pass(&mut self) -> Decision {
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
                    Some((digest, build)) => PushResult::Present { digest: digest.clone(), build: *build, size: 1 },
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

    fn carry_out(&mut self, action: &Action, wave: &str) {
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
            Action::Promote { image, digest, tags } => {
                for tag in tags {
                    self.tags.insert((*image, tag.tag.clone()), digest.clone());
                }
            }
        }
        let running = self.jobs.iter().filter(|(_, job)| job.outcome == BuildOutcome::Running).count();
        self.most_at_once = self.most_at_once.max(running);
    }

    fn keep(&mut self, decision: &Decision) {
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
    fn finish_builds(&mut self) {
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
    fn settle(&mut self) {
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

    fn states(&self) -> Vec<ImageState> {
        self.records.iter().map(|record| record.as_ref().map_or(ImageState::Waiting, |record| record.state)).collect()
    }
}

const CURRENT: ImageState = ImageState::Current;

#[test]
fn a_chain_is_built_once_parents_first_and_tagged() {
    let mut world = World::new(&["up"], &[("app", "lib"), ("lib", "base"), ("base", "up")]);
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [0, 0, 1], "a child never starts before its parent is current");
    world.settle();
    assert_eq!(world.states(), [CURRENT; 3]);
    assert_eq!(world.builds(), [1, 1, 1]);
    let tags: Vec<&str> = world.record("app").tags.iter().map(|tag| tag.tag.as_str()).collect();
    assert_eq!(tags.len(), 2);
    assert_eq!(world.waves.len(), 1);
    assert_eq!(world.waves[0].phase, CascadePhase::Complete);
    assert_eq!(world.waves[0].critical_path, ["base", "lib", "app"]);
}

#[test]
fn moves_that_come_together_build_each_image_once() {
    let mut world = World::new(
        &["up1", "up2"],
        &[("base", "up1"), ("left", "base"), ("right", "base up2*"), ("join", "left right*")],
    );
    world.settle();
    assert_eq!(world.builds(), [1; 4]);
    world.upstream_digests[0] = "sha256:up1-1".into();
    let decision = world.pass();
    assert_eq!(decision.wave, WaveStep::None, "the quiet time has not passed");
    assert!(decision.wake_at.is_some_and(|at| at == world.now + SignedDuration::from_secs(30)));
    world.now += SignedDuration::from_secs(20);
    world.upstream_digests[1] = "sha256:up2-1".into();
    let decision = world.pass();
    assert!(decision.wake_at.is_some_and(|at| at == world.now + SignedDuration::from_secs(30)), "it begins anew");
    world.settle();
    assert_eq!(world.builds(), [2; 4]);
    assert_eq!(world.states(), [CURRENT; 4]);
    assert_eq!(world.waves.len(), 2);
}

#[test]
fn changes_that_keep_coming_put_a_wave_off_only_so_long() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    let start = world.now;
    let opened = (1..).find_map(|round| {
        world.upstream_digests[0] = format!("sha256:up-{round}");
        let decision = world.pass();
        world.now += SignedDuration::from_secs(20);
        matches!(decision.wave, WaveStep::Open { .. }).then_some(world.now)
    });
    let waited = opened.expect("a wave").duration_since(start).as_secs();
    assert!((600..=640).contains(&waited), "{waited}");
}

#[test]
fn an_upstream_that_moves_mid_wave_is_adopted_by_the_next() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.pass();
    world.pass();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.finish_builds();
    world.pass();
    assert_eq!(world.builds(), [1, 1], "the wave goes on with what it began with");
    world.settle();
    assert_eq!(world.builds(), [2, 2]);
    assert_eq!(world.waves.len(), 2);
}

#[test]
fn losing_every_record_builds_nothing() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    let before: Vec<_> = world.records.iter().flatten().map(|record| (record.digest.clone(), record.build)).collect();
    world.records = vec![None; 2];
    world.status = ImageFamilyStatus::default();
    world.asked.clear();
    world.jobs.clear();
    world.settle();
    assert_eq!(world.builds(), [1, 1]);
    let after: Vec<_> = world.records.iter().flatten().map(|record| (record.digest.clone(), record.build)).collect();
    assert_eq!(before, after);
    assert_eq!(world.waves.len(), 1, "no wave is recorded for builds that were only found");
}

#[test]
fn a_failure_blocks_its_descendants_and_nobody_else() {
    let mut world = World::new(&["up"], &[("base", "up"), ("bad", "base"), ("below", "bad"), ("sibling", "base")]);
    let bad = world.index("bad");
    world.failing.insert(bad, FailureClass::Build);
    world.settle();
    assert_eq!(world.states(), [CURRENT, ImageState::Failed, ImageState::Blocked, CURRENT]);
    assert_eq!(world.builds(), [1, 2, 0, 1], "retries.build is 1");
    assert_eq!(world.record("below").message, "blocked by bad, which failed");
    assert_eq!(world.waves[0].phase, CascadePhase::Incomplete);
    assert!(
        world.waves[0].outcome.contains("failed: bad") && world.waves[0].outcome.contains("blocked: below"),
        "{}",
        world.waves[0].outcome
    );

    world.failing.clear();
    world.settle();
    assert_eq!(world.builds(), [1, 2, 0, 1], "nothing is tried again while no input changes");
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.states(), [CURRENT; 4], "a base update after a failure is not swallowed");
    assert_eq!(world.builds(), [2, 3, 1, 2]);
}

#[test]
fn infrastructure_has_a_budget_of_its_own() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.failing.insert(0, FailureClass::Infrastructure);
    world.settle();
    assert_eq!(world.builds(), [6], "retries.infrastructure is 5");
    assert_eq!(world.record("base").reason, reason::INFRASTRUCTURE_FAILED);
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.failing.insert(0, FailureClass::Input);
    world.settle();
    assert_eq!(world.builds(), [1], "what is certain to fail again is not tried again");
}

#[test]
fn a_build_whose_push_is_not_there_is_tried_again() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.pass();
    world.pass();
    for (_, job) in &mut world.jobs {
        (job.outcome, job.live) = (BuildOutcome::Succeeded, false);
    }
    world.pass();
    assert_eq!(world.record("base").reason, reason::RETRYING);
    world.settle();
    assert_eq!(world.builds(), [2]);
    assert_eq!(world.states(), [CURRENT]);
}

#[test]
fn holds_keep_an_upstream_where_it_is() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    let until = world.now + SignedDuration::from_secs(600);
    world.spec.upstreams[0].hold = Some(Hold { digest: None, until: Some(until), reason: Some("freeze".into()) });
    world.upstream_digests[0] = "sha256:up-1".into();
    let decision = world.pass();
    assert_eq!(decision.upstreams[0].reason.as_deref(), Some(reason::HELD));
    assert!(decision.upstreams[0].message.as_deref().is_some_and(|message| message.contains("freeze")));
    assert_eq!(decision.wake_at, Some(until));
    world.settle();
    assert_eq!(world.builds(), [2], "the hold has ended by itself");
    world.spec.upstreams[0].hold = Some(Hold { digest: Some("sha256:up-0".into()), until: None, reason: None });
    world.settle();
    assert_eq!(world.builds(), [2], "what was built before is found in the registry");
    assert_eq!(world.status.upstreams[0].adopted.as_ref().map(|adopted| adopted.digest.as_str()), Some("sha256:up-0"));
}

#[test]
fn a_suspended_family_starts_nothing_and_moves_no_tag() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.spec.suspend = true;
    world.settle();
    assert_eq!((world.builds(), world.tags.len()), (vec![0], 0));
    assert_eq!(world.record("base").reason, reason::SUSPENDED);
    world.spec.suspend = false;
    world.settle();
    assert_eq!((world.builds(), world.tags.len()), (vec![1], 2));
}

#[test]
fn no_more_builds_run_than_parallelism_allows() {
    let images: Vec<(String, String)> = (0..12).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> = images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut world = World::new(&["up"], &images);
    world.spec.policy.parallelism = 3;
    world.settle();
    assert_eq!(world.states(), [CURRENT; 12]);
    assert_eq!(world.most_at_once, 3);
}

#[test]
fn the_longest_remaining_path_starts_first() {
    let mut world = World::new(&["up"], &[("leaf", "up"), ("deep", "up"), ("below", "deep"), ("bottom", "below")]);
    world.spec.policy.parallelism = 1;
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [0, 1, 0, 0]);
}

#[test]
fn a_tag_that_somebody_moved_is_put_back_and_an_immutable_one_is_not() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    let digest = world.record("base").digest.clone().expect("a digest");
    world.tags.insert((0, "latest".into()), "sha256:elsewhere".into());
    let records = world.records.clone();
    let decision = world.decide();
    assert_eq!(world.records, records);
    // The record still says what we have set: that is how a foreign move is told from one of ours.
    world.records[0].as_mut().expect("base").tags.iter_mut().for_each(|tag| tag.digest.clone_from(&digest));
    let moved = |decision: &Decision| {
        decision.actions.iter().any(|action| {
            matches!(action, Action::Promote { tags, .. }
            if tags[0].tag == "latest" && tags[0].moved_to.as_deref() == Some("sha256:elsewhere"))
        })
    };
    assert!(moved(&decision) && moved(&world.decide()));
    world.pass();
    assert_eq!(world.tags[&(0, "latest".to_owned())], digest);

    world.tags.insert((0, "r1".into()), "sha256:elsewhere".into());
    assert!(!world.decide().actions.iter().any(|action| matches!(action, Action::Promote { .. })));
}

#[test]
fn an_upstream_without_its_platforms_waits() {
    let world = World::new(&["up"], &[("base", "up")]);
    let lineage = Lineage::new(&world.spec).expect("a graph");
    let mut seen = world.seen(&lineage);
    seen.upstreams[0].seen.as_mut().expect("seen").missing_platforms = vec!["linux/arm64".into()];
    let decision = decide(&seen, world.now);
    assert!(decision.upstreams[0].adopted.is_none());
    assert!(decision.actions.is_empty());
}

#[test]
fn deciding_is_pure() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.pass();
    assert_eq!(world.decide(), world.decide());
}

#[test]
fn a_source_that_is_asked_for_again_makes_nothing_stale() {
    let mut world = World::new(&["up"], &[("base", "up"), ("app", "base")]);
    world.settle();
    world.source = Sight::Pending;
    world.pass();
    assert_eq!(world.states(), [CURRENT; 2], "what is remembered of the source is enough to be current");
    world.upstream_digests[0] = "sha256:up-1".into();
    world.settle();
    assert_eq!(world.builds(), [1, 1], "and not enough to build");
    assert!(world.wave.is_some(), "the wave waits for it");
    world.source = Sight::Known("source".into());
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![2, 2], vec![CURRENT; 2]));
}

#[test]
fn a_recorded_candidate_is_looked_at_again_before_it_is_used() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    world.upstream_digests[0] = "sha256:up-1".into();
    world.pass();
    world.now += SignedDuration::from_secs(3600);
    let lineage = Lineage::new(&world.spec).expect("a graph");
    let mut seen = world.seen(&lineage);
    seen.upstreams[0].seen = None;
    let decision = decide(&seen, world.now);
    assert_eq!(decision.wave, WaveStep::None);
    assert_eq!(decision.upstreams[0].reason.as_deref(), Some(reason::RESOLVING));
}

#[test]
fn a_build_number_names_one_build_for_ever() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.settle();
    for digest in ["sha256:up-1", "sha256:up-0", "sha256:up-2"] {
        world.upstream_digests[0] = digest.into();
        world.settle();
    }
    assert_eq!(world.builds(), [3], "the way back is found in the registry");
    assert_eq!(world.record("base").build, Some(3), "2 was given before the way back");
}

#[test]
fn failures_are_remembered_while_an_input_is_away() {
    let mut world = World::new(&["up"], &[("base", "up")]);
    world.failing.insert(0, FailureClass::Build);
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![2], vec![ImageState::Failed]));
    world.jobs.clear();
    world.source = Sight::Faulty(Fault { reason: reason::SOURCE_NOT_FOUND, message: "away".into() });
    world.settle();
    world.source = Sight::Known("source".into());
    world.settle();
    assert_eq!((world.builds(), world.states()), (vec![2], vec![ImageState::Failed]));
}
