//! A layered family and everything that a pass sees of it, owned: brought to where nothing is to be done, and then changed.

use std::{collections::HashMap, sync::Arc};

use groundswell::{
    api::{FamilyImageStatus, ImageFamilySpec, ImageFamilyStatus, TagRecord, cascade::CascadeStatus},
    engine::{
        Action, Blueprint, Budget, Decision, Good, ImageSight, Observation, Push, PushResult, SeenDigest, Sight,
        TagSight, UpstreamSight, WaveSight, WaveStep, decide, validate::validate,
    },
};
use jiff::Timestamp;
use serde_json::json;

use super::layered::Layered;

/// How many upstreams the family follows.
const UPSTREAMS: usize = 8;
/// The generation of its spec.
const GENERATION: i64 = 1;

/// A family and its surroundings.
pub struct World {
    spec: ImageFamilySpec,
    blueprint: Blueprint,
    status: ImageFamilyStatus,
    images: Vec<Surroundings>,
    /// How often the tag of each upstream has moved.
    moves: Vec<u32>,
    /// The revision of the strategy.
    strategy: &'static str,
    wave: Option<Wave>,
    now: Timestamp,
}

/// What is known of one image.
#[derive(Default)]
struct Surroundings {
    record: Option<FamilyImageStatus>,
    good: Option<Arc<Good>>,
    push: Option<Push>,
    tags: HashMap<String, TagSight>,
}

struct Wave {
    name: String,
    planned: Vec<Vec<String>>,
    status: CascadeStatus,
}

impl World {
    /// A family of `count` images in which nothing is to be done.
    pub fn at_rest(count: usize) -> Self {
        let mut world = Self::new(count);
        world.learn(true);
        world.record();
        assert_eq!(world.decide().actions, [], "nothing is to be done");
        world
    }

    fn new(count: usize) -> Self {
        let upstream = |index| {
            let image = format!("docker.io/library/up{index}");
            json!({ "name": format!("up{index}"), "image": image, "follow": { "tag": "3.20" } })
        };
        let mut images = Layered::new(count).spec();
        let bases = images.iter_mut().filter_map(|image| image["from"][0].get_mut("upstream"));
        bases.enumerate().for_each(|(index, base)| *base = json!(format!("up{}", index % UPSTREAMS)));
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
            wave: None,
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
            (image.record, image.good) = (None, None);
        }
        self.learn(true);
    }

    /// The tag of one upstream moves; the wave is not recorded yet. Returns how many images stand on it.
    pub fn move_upstream(&mut self) -> usize {
        self.moves[0] += 1;
        let lineage = &self.blueprint.lineage;
        lineage.with_descendants(lineage.upstream_children(0).iter().copied()).iter().filter(|below| **below).count()
    }

    /// The strategy changes, so that every image needs another build.
    pub fn change_strategy(&mut self) {
        self.strategy = "strategy-2";
    }

    /// The wave is opened and recorded, and the registry has none of its builds.
    pub fn begin_wave(&mut self) {
        self.learn(false);
        let decision = self.decide();
        let WaveStep::Open { name, levels, .. } = decision.wave else { panic!("no wave begins: {:?}", decision.wave) };
        let names = |level: Vec<usize>| level.into_iter().map(|image| self.spec.images[image].name.clone()).collect();
        let planned = levels.into_iter().map(names).collect();
        self.wave = Some(Wave { name, planned, status: CascadeStatus::default() });
        self.status.upstreams = decision.upstreams;
        self.learn(false);
    }

    /// Answers what a pass asks of the registry until it asks nothing more: every build is there, or none.
    fn learn(&mut self, there: bool) {
        loop {
            let decision = self.decide();
            if there {
                self.status.upstreams.clone_from(&decision.upstreams);
            }
            let mut asked = false;
            for action in decision.actions {
                let Action::Probe { image, fingerprint, after } = action else { continue };
                asked = true;
                let result = if there { present(&fingerprint) } else { PushResult::Absent { last_build: None, after } };
                self.images[image].push = Some(Push { fingerprint, result });
            }
            if !asked {
                return;
            }
        }
    }

    /// Records what the pass has come to, and the tags as set.
    fn record(&mut self) {
        let decisions = self.decide().images;
        for (image, decision) in self.images.iter_mut().zip(decisions) {
            let good = decision.good.clone().expect("a good build");
            let tags = ["latest".to_owned(), format!("r{}", good.build)];
            image.tags = tags.iter().map(|tag| (tag.clone(), TagSight::At(good.digest.clone()))).collect();
            let record =
                |tag: &String| TagRecord { tag: tag.clone(), digest: good.digest.clone(), immutable: tag != "latest" };
            image.record = Some(FamilyImageStatus {
                observed_generation: Some(GENERATION),
                state: decision.state,
                reason: decision.reason.into(),
                message: decision.message.to_string(),
                digest: Some(good.digest.clone()),
                fingerprint: Some(good.fingerprint.clone()),
                build: Some(good.build),
                size: Some(good.size),
                inputs: Some(good.inputs.clone()),
                base_seen: good.base_seen,
                content: good.content.clone(),
                causes: good.causes.clone(),
                promoted: decision.promoted().map(str::to_owned),
                tags: tags.iter().map(record).collect(),
                ..FamilyImageStatus::default()
            });
            image.good = image.record.as_ref().and_then(Good::of).map(Arc::new);
            image.push = None;
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.seen(), self.now)
    }

    /// When the pass takes place.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// What a pass sees.
    pub fn seen(&self) -> Observation<'_> {
        Observation {
            family: "family",
            generation: Some(GENERATION),
            spec: &self.spec,
            blueprint: &self.blueprint,
            status: &self.status,
            upstreams: self.moves.iter().enumerate().map(|(index, moves)| self.upstream(index, *moves)).collect(),
            imports: Vec::new(),
            images: self.images.iter().map(|image| self.sight(image)).collect(),
            orphans: Vec::new(),
            wave: self.wave.as_ref().map(|wave| WaveSight {
                name: &wave.name,
                supersedes: None,
                planned: &wave.planned,
                status: &wave.status,
            }),
            ended: Vec::new(),
            requests: Vec::new(),
            budget: Budget::default(),
        }
    }

    fn upstream(&self, index: usize, moves: u32) -> UpstreamSight {
        let digest = format!("sha256:{index:032x}{moves:032x}");
        let seen = SeenDigest { digest, first_seen: self.now, missing_platforms: Vec::new() };
        UpstreamSight { seen: Some(seen), fault: None }
    }

    fn sight<'a>(&self, image: &'a Surroundings) -> ImageSight<'a> {
        ImageSight {
            record: image.record.as_ref(),
            good: image.good.clone(),
            source: Sight::Known("0123456789abcdef0123456789abcdef01234567".into()),
            strategy: Sight::Known(self.strategy.into()),
            builds: Vec::new(),
            checks: Vec::new(),
            pushes: image.push.iter().cloned().collect(),
            tags: image.tags.clone(),
        }
    }
}

/// The answer of a registry that has the first build of an image under this fingerprint.
fn present(fingerprint: &str) -> PushResult {
    PushResult::Present {
        digest: format!("sha256:{fingerprint:0>64}"),
        build: 1,
        size: 30_000_000,
        content: Some(format!("{fingerprint:0>64}")),
        blobs: None,
    }
}
