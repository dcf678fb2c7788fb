//! A layered family and the whole input of its decision, owned: brought to where nothing is to be
//! done, and then changed.

use std::{collections::HashMap, sync::Arc};

use groundswell::{
    api::{
        ImageFamilySpec, ImageFamilyStatus, ManagedImageStatus, TagRecord, cascade::CascadeStatus,
    },
    engine::{
        Blueprint, BuildAllowance, CascadeDecision, DecideInput, Decision, Effect, Lookup,
        LookupResult, Observed, ObservedCascade, ObservedDigest, ObservedImage, ObservedTag,
        ObservedUpstream, VerifiedBuild, decide, validate::validate,
    },
    identity::{CascadeName, Fingerprint},
    lineage::{ImageIndex, UpstreamIndex},
};
use jiff::Timestamp;
use serde_json::json;

use super::layered::Layered;

/// How many upstreams the family follows.
const UPSTREAMS: usize = 8;

/// A family and its surroundings.
pub struct BenchFamily {
    spec: ImageFamilySpec,
    blueprint: Blueprint,
    status: ImageFamilyStatus,
    images: Vec<Surroundings>,
    /// How often the tag of each upstream has moved.
    moves: Vec<u32>,
    /// The revision of the strategy.
    strategy: &'static str,
    cascade: Option<Cascade>,
    now: Timestamp,
}

/// What is known of one image.
#[derive(Default)]
struct Surroundings {
    record: Option<ManagedImageStatus>,
    verified: Option<Arc<VerifiedBuild>>,
    lookup: Option<Lookup>,
    tags: HashMap<String, ObservedTag>,
}

struct Cascade {
    name: CascadeName,
    planned: Vec<Vec<String>>,
    status: CascadeStatus,
}

impl BenchFamily {
    /// A family of `count` images in which nothing is to be done.
    pub fn at_rest(count: usize) -> Self {
        let mut family = Self::new(count);
        family.learn(true);
        family.record();
        assert_eq!(family.decide().effects, [], "nothing is to be done");
        family
    }

    fn new(count: usize) -> Self {
        let upstream = |index| {
            let image = format!("docker.io/library/up{index}");
            json!({ "name": format!("up{index}"), "image": image, "follow": { "tag": "3.20" } })
        };
        let mut images = Layered::new(count).spec();
        let bases = images.iter_mut().filter_map(|image| image["from"][0].get_mut("upstream"));
        bases
            .enumerate()
            .for_each(|(index, base)| *base = json!(format!("up{}", index % UPSTREAMS)));
        let spec = json!({
            "repository": "registry.example.com/platform",
            "strategy": { "name": "buildkit" },
            "upstreams": (0..UPSTREAMS).map(upstream).collect::<Vec<_>>(),
            "images": images,
            "policy": { "settle": "0s", "parallelism": 100 },
        });
        let spec: ImageFamilySpec = serde_json::from_value(spec).expect("a spec");
        Self {
            blueprint: validate(&spec).expect("a valid spec"),
            images: spec.images.iter().map(|_| Surroundings::default()).collect(),
            status: ImageFamilyStatus::default(),
            moves: vec![0; UPSTREAMS],
            strategy: "strategy-1",
            cascade: None,
            now: Timestamp::from_second(1_800_000_000).expect("a time"),
            spec,
        }
    }

    /// How many images and edges the family has.
    pub fn size(&self) -> (usize, usize) {
        (self.spec.images.len(), self.spec.images.iter().map(|image| image.from.len()).sum())
    }

    /// Every record and the family's status are lost; the registry has every build.
    pub fn lose_records(&mut self) {
        self.status = ImageFamilyStatus::default();
        for image in &mut self.images {
            (image.record, image.verified) = (None, None);
        }
        self.learn(true);
    }

    /// The tag of one upstream moves; the cascade is not recorded yet. Returns how many images are
    /// built on it.
    pub fn move_upstream(&mut self) -> usize {
        self.moves[0] += 1;
        let lineage = &self.blueprint.lineage;
        lineage
            .with_descendants(lineage.upstream_children(UpstreamIndex::new(0)).iter().copied())
            .iter()
            .filter(|below| **below)
            .count()
    }

    /// The strategy changes, so that every image needs another build.
    pub fn change_strategy(&mut self) {
        self.strategy = "strategy-2";
    }

    /// The cascade is opened and recorded, and the registry has none of its builds.
    pub fn begin_cascade(&mut self) {
        self.learn(false);
        let decision = self.decide();
        let CascadeDecision::Start { name, levels, .. } = decision.cascade else {
            panic!("no cascade begins: {:?}", decision.cascade)
        };
        let names = |level: Vec<ImageIndex>| {
            level.iter().map(|image| self.spec.images[image.position()].name.clone()).collect()
        };
        let planned = levels.into_iter().map(names).collect();
        self.cascade = Some(Cascade { name, planned, status: CascadeStatus::default() });
        self.status.upstreams = decision.upstreams;
        self.learn(false);
    }

    /// Answers what a decision asks of the registry until it asks nothing more: every build is
    /// there, or none.
    fn learn(&mut self, there: bool) {
        loop {
            let decision = self.decide();
            if there {
                self.status.upstreams.clone_from(&decision.upstreams);
            }
            let mut asked = false;
            for effect in decision.effects {
                let Effect::LookUp { image, fingerprint, after, .. } = effect else { continue };
                asked = true;
                let result = if there {
                    present(&fingerprint)
                } else {
                    LookupResult::Absent { last_build: None, after, asked_at: self.now }
                };
                self.images[image.position()].lookup = Some(Lookup { fingerprint, result });
            }
            if !asked {
                return;
            }
        }
    }

    /// Records the decision, and the tags as set.
    fn record(&mut self) {
        let decisions = self.decide().images;
        for (image, decision) in self.images.iter_mut().zip(decisions) {
            let verified = decision.verified.clone().expect("a verified build");
            let tags = ["latest".to_owned(), format!("r{}", verified.build)];
            image.tags = tags
                .iter()
                .map(|tag| (tag.clone(), ObservedTag::At(verified.digest.clone())))
                .collect();
            let record = |tag: &String| TagRecord {
                tag: tag.clone(),
                digest: verified.digest.to_string(),
                immutable: tag != "latest",
            };
            image.record = Some(ManagedImageStatus {
                observed_generation: Some(1),
                state: decision.state,
                reason: decision.reason.into(),
                message: decision.message.to_string(),
                digest: Some(verified.digest.to_string()),
                fingerprint: Some(verified.fingerprint.to_string()),
                build: Some(verified.build),
                size: Some(verified.size),
                inputs: Some(verified.inputs.clone()),
                base_observed: verified.base_observed,
                content: verified.content.as_ref().map(String::from),
                causes: verified.causes.clone(),
                promoted: decision.promoted_digest().map(String::from),
                tags: tags.iter().map(record).collect(),
                ..ManagedImageStatus::default()
            });
            image.verified = image.record.as_ref().and_then(VerifiedBuild::of).map(Arc::new);
            image.lookup = None;
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.input(), self.now)
    }

    /// The time of the decision.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The input of the decision.
    pub fn input(&self) -> DecideInput<'_> {
        DecideInput {
            family: "family",
            spec: &self.spec,
            blueprint: &self.blueprint,
            status: &self.status,
            upstreams: self
                .moves
                .iter()
                .enumerate()
                .map(|(index, moves)| self.upstream(index, *moves))
                .collect(),
            imports: Vec::new(),
            images: self.images.iter().map(|image| self.observed(image)).collect(),
            orphans: Vec::new(),
            orphan_checks: Vec::new(),
            cascades: self
                .cascade
                .iter()
                .map(|cascade| ObservedCascade {
                    name: &cascade.name,
                    supersedes: None,
                    planned: &cascade.planned,
                    status: &cascade.status,
                })
                .collect(),
            ended: Vec::new(),
            requests: Vec::new(),
            allowance: BuildAllowance::default(),
        }
    }

    fn upstream(&self, index: usize, moves: u32) -> ObservedUpstream {
        let digest = format!("sha256:{index:032x}{moves:032x}").into();
        let newest = ObservedDigest {
            digest,
            platforms: Vec::new(),
            unoffered: Vec::new(),
            missing_platforms: Vec::new(),
            first_observed: self.now,
            confirmed_at: self.now,
            resumed_at: None,
        };
        ObservedUpstream { newest: Some(newest), ..ObservedUpstream::default() }
    }

    fn observed<'a>(&self, image: &'a Surroundings) -> ObservedImage<'a> {
        ObservedImage {
            record: image.record.as_ref(),
            verified: image.verified.clone(),
            source: Observed::Known("0123456789abcdef0123456789abcdef01234567".into()),
            folder: None,
            strategy: Observed::Known(self.strategy.into()),
            platform: Some("linux/amd64".into()),
            builds: Vec::new(),
            checks: Vec::new(),
            deferred: Vec::new(),
            job_version: String::new(),
            pod_version: String::new(),
            credentials_version: Arc::default(),
            lookups: image.lookup.iter().cloned().collect(),
            tags: image.tags.clone(),
            remembered: &[],
            labels: None,
            rebuild_mark: None,
            rollback_target: None,
            foreign_tags: Arc::default(),
        }
    }
}

/// The answer of a registry that has the first build of an image under this fingerprint.
fn present(fingerprint: &Fingerprint) -> LookupResult {
    LookupResult::Present {
        digest: format!("sha256:{fingerprint:0>64}").into(),
        build: 1,
        size: 30_000_000,
        content: Some(format!("{fingerprint:0>64}").into()),
        blobs: None,
        request: None,
    }
}
