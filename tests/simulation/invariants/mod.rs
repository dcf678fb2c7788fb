//! What must hold at every step, checked as each effect reaches the world, against what the model
//! knows and the controller does not.
//!
//! [`builds`]: when a Job may be made; [`tags`]: where a tag may stand; [`records`]: what may be recorded.

pub mod builds;
pub mod records;
pub mod tags;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use groundswell::{
    api::{Cutoff, Edge, Image, ImageFamilySpec},
    controller::{
        context::{Context, MAX_PUSHES},
        object_cache::Key,
    },
    engine::fingerprint::check_revision,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    history::History,
    objects::{Kind, uid},
    scene::{repository, text_of},
    script::FOLLOWED,
};

/// The most questions to registries between the beginnings of two passes: some thousands of polls,
/// at rest.
const MAX_QUESTIONS: usize = 5000;

/// What the model remembers of the past, to tell what must not be.
#[derive(Debug, Default)]
pub struct Invariants {
    pub history: History,
    /// What the last pass over each family has seen when it began.
    passes: BTreeMap<Key, Pass>,
    /// How many Jobs there were of each image, by the family's uid.
    jobs: BTreeMap<(String, String), usize>,
    /// The leaves that each `repository@digest` stands on.
    leaves: BTreeMap<String, BTreeMap<String, Values>>,
    /// What was built from each `repository@digest`.
    children: BTreeMap<String, BTreeSet<String>>,
    /// Where the controller has set each floating tag last, by `repository:tag`.
    set: BTreeMap<String, String>,
    /// What floating tags were rightly promoted to, as `repository@digest`.
    promoted: BTreeSet<String>,
    /// Checks that were passed: `repository@digest`, the check's name and its revision; and whether
    /// the controller is sure to be told.
    passed: BTreeMap<(String, String, String), bool>,
    /// Digests that a person has agreed to, by family and upstream.
    approved: BTreeSet<(String, String, String)>,
    /// Since when changes wait, as each family's status last told, by its uid.
    waiting: BTreeMap<String, Timestamp>,
    /// Builds that succeeded, by uid of the family, cascade, image and own inputs, and when.
    built: BTreeMap<[String; 4], Duration>,
    /// Starts that no person caused, by the family's uid.
    starts: BTreeMap<String, Vec<Timestamp>>,
    /// Builds that were cancelled for a newer cascade, by their cascade and image.
    cancelled: BTreeMap<(String, String), usize>,
    /// How often registries were asked for something since the last pass began.
    asked: usize,
    /// How many effects there were: writes, and moved tags.
    pub effects: u64,
    /// Those among them that only tell a family's status.
    pub told: u64,
    /// How many passes there were.
    pub passes_begun: u64,
}

/// The values of a leaf that a digest stands for, each with when it was last true before the build,
/// or before a floating tag was set to the digest. There are several where builds came out the
/// same.
type Values = BTreeMap<String, Duration>;

/// What a pass has seen when it began.
#[derive(Clone, Copy, Debug)]
struct Pass {
    generation: i64,
    /// The time that it was told.
    at: Timestamp,
    begun: Duration,
    /// When the last one began that came to its end.
    whole: Option<Duration>,
}

impl Invariants {
    /// How many Jobs there were.
    pub fn builds(&self) -> usize {
        self.jobs.values().sum()
    }

    /// How many Jobs there were of an image before this one.
    pub fn jobs_of(&mut self, family: &str, image: &str) -> usize {
        let count = self.jobs.entry((family.into(), image.into())).or_default();
        *count += 1;
        *count - 1
    }

    /// A check was passed. Nobody may be told what a check says whose Job is being deleted.
    pub fn passed(&mut self, pinned: &str, check: &str, revision: &str, is_told: bool) {
        *self.passed.entry((pinned.into(), check.into(), revision.into())).or_default() |= is_told;
    }

    /// A person agrees to a digest.
    pub fn approved(&mut self, family: &str, upstream: &str, digest: String) {
        self.approved.insert((family.into(), upstream.into(), digest));
    }

    /// Whether `repository@digest` is of a build that has passed what the image requires.
    pub fn is_checked(&self, image: &Image, pinned: &str) -> bool {
        self.checked(image, pinned).is_some()
    }

    /// Whether that is so, and the controller is sure to be told.
    pub fn is_told_checked(&self, image: &Image, pinned: &str) -> bool {
        self.checked(image, pinned) == Some(true)
    }

    fn checked(&self, image: &Image, pinned: &str) -> Option<bool> {
        let mut required = image.checks.iter().filter(|check| check.required);
        required.try_fold(true, |told, check| {
            Some(
                told & *self.passed.get(&(
                    pinned.to_owned(),
                    check.name.clone(),
                    check_revision(check),
                ))?,
            )
        })
    }
}

/// The spec of a family as the pass under way has seen it, and when that pass began, as it was
/// told.
fn seen(cluster: &Cluster, key: &Key) -> Option<(Arc<ImageFamilySpec>, Timestamp)> {
    let family = cluster.objects.get(Kind::Family, key)?;
    let pass = cluster.invariants.passes.get(key);
    let generation = pass.map_or(0, |pass| pass.generation);
    let spec = cluster.spec_at(uid(family), generation)?;
    Some((spec, pass.map_or(cluster.time.told(), |pass| pass.at)))
}

/// A registry is asked for something. Whether that is so often since the last pass began that no
/// pass will ever end.
pub fn asks_too_much(cluster: &mut Cluster) -> bool {
    cluster.invariants.asked += 1;
    let too_much = cluster.invariants.asked > MAX_QUESTIONS;
    if too_much {
        cluster.violated(
            "passes end",
            format!("{MAX_QUESTIONS} questions to registries since one began"),
        );
    }
    too_much
}

/// A pass over a family begins, and sees this spec.
pub fn pass_begins(cluster: &mut Cluster, key: &Key, generation: i64) {
    let (at, begun) = (cluster.time.told(), cluster.elapsed());
    let invariants = &mut cluster.invariants;
    invariants.asked = 0;
    invariants.passes_begun += 1;
    let whole = invariants.passes.get(key).and_then(|last| last.whole);
    invariants.passes.insert(key.clone(), Pass { generation, at, begun, whole });
}

/// A pass over a family comes to its end.
pub fn pass_ends(cluster: &mut Cluster, key: &Key) {
    if let Some(pass) = cluster.invariants.passes.get_mut(key) {
        pass.whole = Some(pass.begun);
    }
}

/// Notes what every source says now, and which digests of upstreams families use.
pub fn remember_truth(cluster: &mut Cluster) {
    let now = cluster.elapsed();
    let mut truths: Vec<(String, String)> = Vec::new();
    let families: Vec<Key> =
        cluster.objects.all(Kind::Family).map(|(key, _)| key.clone()).collect();
    for key in families {
        let Some(spec) = cluster.spec(&key) else { continue };
        if spec.policy.cutoff != Cutoff::Never {
            cluster.invariants.history.spares(&key.name);
        }
        let family = cluster.objects.get(Kind::Family, &key);
        for upstream in &spec.upstreams {
            let pinned = upstream.hold_at(cluster.time.told()).and_then(|hold| hold.digest.clone());
            let rows = family
                .and_then(|family| family["status"]["upstreams"].as_array())
                .into_iter()
                .flatten();
            let mut rows = rows.filter(|row| row["name"] == upstream.name.as_str());
            let adopted = rows.find_map(|row| row["adopted"]["digest"].as_str().map(str::to_owned));
            let standing = cluster.registry.tag(&upstream.image, FOLLOWED).map(str::to_owned);
            let digest = pinned.or(adopted).or(standing);
            let leaf =
                |image: &Image| tags::upstream_of(&repository(&spec, image), &upstream.image);
            truths.extend(
                digest.zip(spec.images.first()).map(|(digest, image)| (leaf(image), digest)),
            );
        }
        for image in &spec.images {
            let text = text_of(cluster, &image.source);
            truths
                .extend(text.map(|text| (format!("source of {}", repository(&spec, image)), text)));
            let parents: Option<Vec<String>> =
                image.from.iter().map(|edge| parent(cluster, &key, &spec, edge)).collect();
            truths.extend(parents.map(|parents| {
                (format!("parents of {}", repository(&spec, image)), parents.join(" "))
            }));
        }
    }
    cluster.invariants.history.truths(truths, now);
}

/// The repository of what an edge names, if there is such a thing.
fn parent(
    cluster: &mut Cluster,
    family: &Key,
    spec: &ImageFamilySpec,
    edge: &Edge,
) -> Option<String> {
    if let Some(name) = &edge.upstream {
        return spec
            .upstreams
            .iter()
            .find(|upstream| upstream.name == *name)
            .map(|upstream| upstream.image.clone());
    }
    let of = |spec: &ImageFamilySpec| {
        spec.images
            .iter()
            .find(|image| Some(&image.name) == edge.image.as_ref())
            .map(|image| repository(spec, image))
    };
    match &edge.family {
        None => of(spec),
        Some(other) => of(&*cluster.spec(&Key::new(&family.namespace, &other.name))?),
    }
}

/// What a person reads of a digest or a text.
pub fn short(value: &str) -> &str {
    let value = value.strip_prefix("sha256:").unwrap_or(value);
    value.get(..12).unwrap_or(value)
}

/// The controller's memory must not grow with time: called when everything is at rest.
pub fn memory_is_bounded(cluster: &mut Cluster, context: &Context) {
    let named = |family: &Value| {
        let images = family["spec"]["images"].as_array().into_iter().flatten();
        images.filter_map(|image| image["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let families = cluster.objects.all(Kind::Family);
    let families: Vec<(Key, String, Vec<String>)> = families
        .map(|(key, family)| (key.clone(), uid(family).to_owned(), named(family)))
        .collect();
    for (key, uid, images) in families {
        let memory = context.reconcile_caches.of(&uid);
        let Ok(memory) = memory.try_lock() else { continue };
        let asked =
            images.iter().map(|image| memory.lookups.of(image).len()).max().unwrap_or_default();
        let lengths = [
            ("answers", asked, MAX_PUSHES),
            ("tags", memory.tags.len(), images.len()),
            ("configMaps", memory.config_maps.len(), images.len()),
        ];
        for (name, length, most) in lengths {
            if length > most {
                let message = format!(
                    "{}: {length} {name} are remembered, and at most {most} may be",
                    key.name
                );
                cluster.violated("memory is bounded", message);
            }
        }
    }
}
