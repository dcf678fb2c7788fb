//! A layered family: N images on six levels, each built on one to three others, drawn from a seed.

use serde_json::{Value, json};

use super::draw::Draw;

/// The seed of the shape of the family. The shape is the same in every run, so that durations can
/// be compared.
const SHAPE_SEED: u64 = 20;
/// The share of the images on each level: a few bases, a broad middle, fewer at the bottom.
const LEVEL_WEIGHTS: [usize; 6] = [4, 12, 22, 28, 22, 12];
/// Minimum and maximum duration of a simulated build, in milliseconds.
const BUILD_MS: (usize, usize) = (200, 1500);

/// A family of images that descend from one upstream, level by level.
#[derive(Clone, Debug)]
pub struct Layered {
    /// The images, parents before children.
    pub images: Vec<Image>,
}

/// An image of a layered family.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name of the image, which begins with its level.
    pub name: String,
    /// The images that it depends on, the base first. Empty if it is built on the upstream.
    pub parents: Vec<usize>,
    /// The duration of its build, in milliseconds.
    pub build_ms: usize,
}

impl Layered {
    /// Returns a family of `count` images on six levels.
    pub fn new(count: usize) -> Self {
        let mut draw = Draw::new(SHAPE_SEED);
        let mut images: Vec<Image> = Vec::with_capacity(count);
        let (mut above, mut level_begins) = (0..0, 0);
        for (level, end) in level_ends(count).into_iter().enumerate() {
            while images.len() < end {
                let parents = parents(&mut draw, &above);
                let name = format!("l{}-{}", level + 1, images.len() - level_begins);
                images.push(Image {
                    name,
                    parents,
                    build_ms: draw.between(BUILD_MS.0, BUILD_MS.1),
                });
            }
            above = level_begins..end;
            level_begins = end;
        }
        Self { images }
    }

    /// Returns the image of a name.
    pub fn image(&self, name: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.name == name)
    }

    /// Returns the images of a family's spec, which are built on its upstream `alpine`.
    pub fn spec(&self) -> Vec<Value> {
        self.images.iter().map(|image| self.image_spec(image)).collect()
    }

    fn image_spec(&self, image: &Image) -> Value {
        let name = |parent: &usize| self.images[*parent].name.as_str();
        let mut lines = vec!["ARG BASE_IMAGE".to_owned()];
        let mut edges = Vec::new();
        if let Some((base, others)) = image.parents.split_first() {
            edges.push(json!({ "image": name(base), "arg": "BASE_IMAGE" }));
            for parent in others.iter().map(name) {
                edges.push(json!({ "image": parent, "as": parent, "use": "BuildStage" }));
                lines.push(format!("FROM {parent} AS of-{parent}"));
            }
            lines.push("FROM ${BASE_IMAGE}".into());
        } else {
            edges.push(json!({ "upstream": "alpine", "as": "alpine:3.20" }));
            lines.push("FROM alpine:3.20".into());
        }
        let dockerfile = lines.join("\n");
        json!({ "name": image.name, "from": edges, "source": { "inline": dockerfile },
            "tags": ["latest", "r{{ build }}"] })
    }
}

/// Returns where each level ends in a list of `count` images.
fn level_ends(count: usize) -> Vec<usize> {
    let total: usize = LEVEL_WEIGHTS.iter().sum();
    let shares = LEVEL_WEIGHTS.iter().scan(0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    });
    shares.map(|share| (count * share).div_ceil(total)).collect()
}

/// Draws one to three different images: the base from the level above, the others from any level
/// above.
fn parents(draw: &mut Draw, above: &std::ops::Range<usize>) -> Vec<usize> {
    let mut parents = Vec::new();
    if above.is_empty() {
        return parents;
    }
    parents.push(draw.between(above.start, above.end - 1));
    for _ in 1..draw.between(1, 3) {
        let parent = draw.between(0, above.end - 1);
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    parents
}
