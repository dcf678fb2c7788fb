//! Expands a spec as users write it into a plain one: each entry with a matrix becomes its images,
//! each source has its defaults, and no field but `tags` is a template.
//!
//! It comes before everything else. The stores, the pre-flight and whatever else reads a family
//! expand it first, so that engine, controller and status see plain images only. It is pure, and
//! depends on nothing but the spec. Edges that follow from Dockerfiles are none of its business.
//!
//! What is wrong with one image does not stop the others: the image is left out, with those that
//! are built on it, and [`ImageFamilySpec::left_out`] says why.

mod defaults;
mod fields;
mod matrix;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use crate::{
    api::{Edge, GitSource, Image, ImageFamilySpec, LeftOutImage, StrategyRef, condition::Reason},
    engine::{Problem, tags, templates::Templates},
};
use matrix::Combination;

/// Upper bound on the images of a family after expansion, as on the entries of `spec.images`.
pub const MAX_IMAGES: usize = 1000;

/// What is wrong with a field of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// The field, below `spec.images[]`.
    field: String,
    /// What is wrong, and what to do.
    why: String,
    reason: Reason,
}

impl FieldProblem {
    fn new(field: impl Into<String>, why: String) -> Self {
        Self { field: field.into(), why, reason: Reason::InvalidSpec }
    }

    /// Returns the problem of this image.
    fn of(self, image: &str) -> LeftOutImage {
        let message = format!("spec.images[{image}].{}: {}", self.field, self.why);
        LeftOutImage { image: image.into(), problem: Problem { reason: self.reason, message } }
    }
}

/// Expands a spec. A spec that is plain already stays as it is.
#[must_use]
pub fn expand(mut spec: ImageFamilySpec) -> ImageFamilySpec {
    let defaults = spec.source_defaults.take().and_then(|defaults| defaults.git);
    defaults::fill_family_strategy(&mut spec.strategy);
    let mut expansion = Expansion {
        templates: Templates::default(),
        defaults,
        strategy: spec.strategy.clone(),
        combinations_left: matrix::MAX_FAMILY_COMBINATIONS,
        images: Vec::new(),
        left_out: Vec::new(),
    };
    for entry in &std::mem::take(&mut spec.images) {
        expansion.add_entry(entry);
    }
    expansion.leave_out_equal_names();
    expansion.leave_out_invalid_tags(&spec);
    expansion.leave_out_orphans(&spec);
    let Expansion { images, left_out, .. } = expansion;
    if !left_out.is_empty() {
        // An export of a left out image has no other problem than the image.
        let names: HashSet<&str> = images.iter().map(|image| image.name.as_str()).collect();
        spec.exports.retain(|export| names.contains(export.image.as_str()));
    }
    ImageFamilySpec { images, left_out, ..spec }
}

/// An expansion in progress.
struct Expansion {
    templates: Templates,
    /// The defaults of Git sources.
    defaults: Option<GitSource>,
    /// The strategy of the family.
    strategy: StrategyRef,
    /// How many more combinations the matrices may have.
    combinations_left: usize,
    images: Vec<Image>,
    left_out: Vec<LeftOutImage>,
}

impl Expansion {
    /// Adds the images of an entry.
    fn add_entry(&mut self, entry: &Image) {
        let combinations = match matrix::combinations(entry, &mut self.combinations_left) {
            Ok(combinations) => combinations,
            Err(problem) => {
                self.left_out.push(problem.of(&entry.name));
                return;
            }
        };
        let total = self.images.len().saturating_add(combinations.len());
        if total > MAX_IMAGES {
            let why = format!(
                "with its {} images the family has {total}, and may have {MAX_IMAGES}; exclude \
                 some, or move them to another family",
                combinations.len()
            );
            self.left_out.push(FieldProblem::new("matrix", why).of(&entry.name));
            return;
        }
        for values in &combinations {
            match self.image(entry, values) {
                Ok(image) => self.images.push(image),
                Err(problem) => self.left_out.push(problem),
            }
        }
    }

    /// Returns the image of one combination of an entry.
    fn image(&self, entry: &Image, values: &Combination) -> Result<Image, LeftOutImage> {
        let name = fields::image_name(&self.templates, &entry.name, values)
            .map_err(|problem| problem.of(&entry.name))?;
        let mut image = Image {
            name,
            matrix: values.iter().map(|(key, value)| (key.clone(), vec![value.clone()])).collect(),
            exclude: Vec::new(),
            ..entry.clone()
        };
        defaults::fill_source(&mut image, self.defaults.as_ref());
        if image.source.is_empty() {
            let why = "set `inline`, `configMap` or `git`, or spec.sourceDefaults.git".into();
            return Err(FieldProblem::new("source", why).of(&image.name));
        }
        if let Err(problem) = fields::render_fields(&self.templates, &mut image, values) {
            return Err(problem.of(&image.name));
        }
        // The parameters of the family are no templates.
        defaults::fill_strategy(&mut image, &self.strategy);
        Ok(image)
    }

    /// Leaves out images whose names are equal: none of them is the right one.
    fn leave_out_equal_names(&mut self) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for image in &self.images {
            *counts.entry(&image.name).or_default() += 1;
        }
        let equal = counts.into_iter().filter(|(_, count)| *count > 1);
        let found = equal.map(|(name, count)| {
            let why = format!(
                "{count} images have this name after expansion; name every key of `matrix` in it, \
                 or rename one"
            );
            FieldProblem::new("name", why).of(name)
        });
        let found = found.collect();
        self.leave_out(found);
    }

    /// Leaves out images with a tag that cannot be rendered.
    fn leave_out_invalid_tags(&mut self, spec: &ImageFamilySpec) {
        let problem = |image: &Image| {
            let error = tags::claimed(spec, image).err()?;
            let reason = Reason::InvalidTagTemplate;
            let problem = FieldProblem { reason, ..FieldProblem::new("tags", error.to_string()) };
            Some(problem.of(&image.name))
        };
        let found = self.images.iter().filter_map(problem).collect();
        self.leave_out(found);
    }

    /// Leaves out images whose parents are left out or do not exist, level by level. In a family
    /// that leaves out nothing, only images with a matrix are concerned: another unknown parent is
    /// a problem of the whole family.
    fn leave_out_orphans(&mut self, spec: &ImageFamilySpec) {
        let upstreams: HashSet<&str> =
            spec.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        loop {
            let names: HashSet<&str> =
                self.images.iter().map(|image| image.name.as_str()).collect();
            let gone: HashSet<&str> =
                self.left_out.iter().map(|left_out| left_out.image.as_str()).collect();
            let is_missing = |edge: &&Edge| match (&edge.upstream, &edge.image) {
                (Some(upstream), _) => !upstreams.contains(upstream.as_str()),
                (None, Some(parent)) => edge.family.is_none() && !names.contains(parent.as_str()),
                (None, None) => false,
            };
            let problem = |image: &Image| {
                let is_concerned = !image.matrix.is_empty() || !gone.is_empty();
                let edge = image.from.iter().find(is_missing).filter(|_| is_concerned)?;
                Some(missing_parent(edge, &gone).of(&image.name))
            };
            let found: Vec<LeftOutImage> = self.images.iter().filter_map(problem).collect();
            if found.is_empty() {
                return;
            }
            self.leave_out(found);
        }
    }

    /// Leaves out these images.
    fn leave_out(&mut self, found: Vec<LeftOutImage>) {
        let names: HashSet<&str> = found.iter().map(|left_out| left_out.image.as_str()).collect();
        self.images.retain(|image| !names.contains(image.name.as_str()));
        self.left_out.extend(found);
    }
}

/// Returns the problem of an edge whose parent the plain spec does not have.
fn missing_parent(edge: &Edge, gone: &HashSet<&str>) -> FieldProblem {
    let parent = edge.parent();
    let why = if gone.contains(parent) {
        format!("the image `{parent}` is left out; correct that one first")
    } else {
        let kind = if edge.upstream.is_some() { "upstream" } else { "image" };
        format!(
            "the family has no {kind} `{parent}`; add it, correct the name, or exclude the \
             combination"
        )
    };
    FieldProblem { reason: Reason::UnknownParent, ..FieldProblem::new("from", why) }
}
