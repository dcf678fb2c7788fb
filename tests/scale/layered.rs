//! A layered family: so many images on so many levels, each on one to three others, drawn from a
//! seed.

use serde_json::{Value, json};

use super::draw::Draw;

/// The seed of the families' shapes. The shape is the same in every run, so that times can be
/// compared.
const SHAPE: u64 = 20;
/// How the images spread over the levels: a few bases, a broad middle, fewer at the bottom.
const WEIGHTS: [usize; 6] = [4, 12, 22, 28, 22, 12];
/// How long a simulated build takes, in milliseconds.
const TAKES: (usize, usize) = (200, 1500);

/// A family of images that stand on one upstream, level by level.
#[derive(Clone, Debug)]
pub struct Layered {
    /// The images, parents before children.
    pub images: Vec<Image>,
}

/// An image of a layered family.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name, which begins with its level.
    pub name: String,
    /// The images that it stands on, the base first; none for one that stands on the upstream.
    pub parents: Vec<usize>,
    /// How long its build takes, in milliseconds.
    pub takes: usize,
}

impl Layered {
    /// A family of `count` images on six levels.
    pub fn new(count: usize) -> Self {
        let mut draw = Draw::new(SHAPE);
        let mut images: Vec<Image> = Vec::with_capacity(count);
        let (mut above, mut level_begins) = (0..0, 0);
        for (level, end) in ends(count).into_iter().enumerate() {
            while images.len() < end {
                let parents = parents(&mut draw, &above);
                let name = format!("l{}-{}", level + 1, images.len() - level_begins);
                images.push(Image { name, parents, takes: draw.between(TAKES.0, TAKES.1) });
            }
            above = level_begins..end;
            level_begins = end;
        }
        Self { images }
    }

    /// The image of a name.
    pub fn image(&self, name: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.name == name)
    }

    /// The images of a family's spec, on its upstream `alpine`.
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
        json!({ "name": image.name, "from": edges, "source": { "inline": dockerfile }, "tags": ["latest", "r{{ build }}"] })
    }
}

/// Where each level ends, in a list of `count` images.
fn ends(count: usize) -> Vec<usize> {
    let total: usize = WEIGHTS.iter().sum();
    let shares = WEIGHTS.iter().scan(0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    });
    shares.map(|share| (count * share).div_ceil(total)).collect()
}

/// One to three different images: the base from the level above, the others from anywhere above.
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
