//! Tags whose templates name labels of the built image. What they are is known only after the
//! build, and so is what is wrong with them: such a tag is not set, and its image says why. Its
//! other tags are set, and the other images of the family are not affected.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    api::condition::Reason,
    engine::{
        Blueprint, Problem,
        decision::ImageDecision,
        input::{DecideInput, LabelAnswer},
        tags::{self, BuildTags, Tag, TagError},
    },
    lineage::{ImageIndex, UpstreamIndex},
};

/// Maximum number of images that the message about a tag names.
const MAX_CLAIMANTS: usize = 3;

/// Why a tag is not set.
#[derive(Debug)]
struct UnsetTag {
    /// The tag; `None` if the labels give none.
    tag: Option<String>,
    problem: Problem,
}

/// What is wrong with the tags of an image.
#[derive(Debug)]
struct UnsetTags {
    /// The first problem.
    problem: Problem,
    /// The tags that must not be set.
    tags: HashSet<String>,
}

/// The tags that are not set because of labels, by image.
#[derive(Debug, Default)]
pub(in crate::engine) struct LabelTagProblems(HashMap<ImageIndex, UnsetTags>);

impl LabelTagProblems {
    /// Returns the tags that must not be set, or cannot be, because of the labels of the verified
    /// builds.
    pub(in crate::engine) fn of(input: &DecideInput<'_>, images: &[ImageDecision]) -> Self {
        let mut found = Self::default();
        let tags = tags_of_images(input, images);
        let claimants = Claimants::of(&tags);
        for ImageTags { image, repository, build } in &tags {
            let image = *image;
            if build.is_unread {
                found.add(image, unread(input, images, image));
            }
            for tag in &build.tags {
                if tag.names_label {
                    found.add(image, foreign(input, image, tag));
                    found.add(image, followed(input, image, tag));
                }
                found.add(image, claimants.collision(input, image, (repository, &tag.name)));
            }
            for error in &build.errors {
                found.add(image, Some(invalid(input, image, error)));
            }
        }
        found
    }

    fn add(&mut self, image: ImageIndex, unset: Option<UnsetTag>) {
        let Some(UnsetTag { tag, problem }) = unset else { return };
        let first = || UnsetTags { problem, tags: HashSet::new() };
        self.0.entry(image).or_insert_with(first).tags.extend(tag);
    }

    /// Whether a tag of an image must not be set.
    pub(in crate::engine) fn withholds(&self, image: ImageIndex, tag: &str) -> bool {
        self.0.get(&image).is_some_and(|unset| unset.tags.contains(tag))
    }

    /// Adds the first problem of each current image to the decision about it.
    pub(in crate::engine) fn report(self, images: &mut [ImageDecision]) {
        for (image, UnsetTags { problem, .. }) in self.0 {
            if let Some(decision) = images.get_mut(image.position())
                && decision.reason == Reason::Current
            {
                decision.reason = problem.reason;
                decision.message = problem.message.into();
            }
        }
    }
}

/// Returns the tags of the verified build of an image.
fn build_tags(
    input: &DecideInput<'_>,
    images: &[ImageDecision],
    index: ImageIndex,
) -> Option<Arc<BuildTags>> {
    let image = input.spec.images.get(index.position())?;
    let known = input.blueprint.images.get(index.position())?;
    let verified = images.get(index.position())?.verified.as_deref()?;
    Some(known.tags.of_build(input.spec, image, verified))
}

fn image_name<'a>(input: &DecideInput<'a>, index: ImageIndex) -> &'a str {
    input.spec.images.get(index.position()).map_or("", |image| image.name.as_str())
}

/// Returns `repository:tag` of a tag.
fn reference(input: &DecideInput<'_>, index: ImageIndex, tag: &str) -> String {
    let known = input.blueprint.images.get(index.position());
    format!("{}:{tag}", known.map_or("", |known| known.repository.as_str()))
}

/// Returns the problem of a tag that the labels do not give.
fn invalid(input: &DecideInput<'_>, image: ImageIndex, error: &TagError) -> UnsetTag {
    let message = format!("spec.images[{}].tags: {error}", image_name(input, image));
    UnsetTag { tag: None, problem: Problem { reason: Reason::InvalidTagLabel, message } }
}

/// Returns why the labels of an image are not known, if the registry could not answer.
fn unread(
    input: &DecideInput<'_>,
    images: &[ImageDecision],
    image: ImageIndex,
) -> Option<UnsetTag> {
    let verified = images.get(image.position())?.verified.as_deref()?;
    let Some(LabelAnswer::Unread { digest, problem, .. }) =
        &input.images.get(image.position())?.labels
    else {
        return None;
    };
    let message = format!("the labels that its tags name could not be read: {}", problem.message);
    let problem = Problem { reason: problem.reason, message };
    (*digest == verified.digest).then_some(UnsetTag { tag: None, problem })
}

/// Returns the problem of a tag that belongs to another family.
fn foreign(input: &DecideInput<'_>, image: ImageIndex, tag: &Tag) -> Option<UnsetTag> {
    let owner = input.images.get(image.position())?.foreign_tags.get(&tag.name)?;
    let message = format!(
        "spec.images[{}].tags: a label of the built image gives {}, which is a tag of \
         {owner}; it is not set: use another label, `path` or `repository`",
        image_name(input, image),
        reference(input, image, &tag.name)
    );
    let problem = Problem { reason: Reason::TagCollision, message };
    Some(UnsetTag { tag: Some(tag.name.clone()), problem })
}

/// Returns the problem of a tag that an upstream of the image follows: each build would cause the
/// next.
fn followed(input: &DecideInput<'_>, image: ImageIndex, tag: &Tag) -> Option<UnsetTag> {
    let given = reference(input, image, &tag.name);
    let (_, upstream) = UpstreamIndex::enumerate(&input.spec.upstreams)
        .filter(|(_, upstream)| upstream.reference() == given)
        .find(|(index, _)| {
            let children = input.lineage().upstream_children(*index).iter().copied();
            input.lineage().with_descendants(children).get(image.position()) == Some(&true)
        })?;
    let message = format!(
        "spec.images[{}].tags: a label of the built image gives {given}, which \
         spec.upstreams[{}] follows, so that each build would cause the next; it is not set: let \
         the upstream follow another tag",
        image_name(input, image),
        upstream.name
    );
    let problem = Problem { reason: Reason::InvalidTagLabel, message };
    Some(UnsetTag { tag: Some(tag.name.clone()), problem })
}

/// The tags of an image in a repository where labels give tags.
struct ImageTags<'a> {
    image: ImageIndex,
    repository: &'a str,
    /// The tags of its verified build; without one, those that its spec says.
    build: Arc<BuildTags>,
}

/// Returns the tags of the images in the repositories where labels give tags.
fn tags_of_images<'a>(input: &DecideInput<'a>, images: &[ImageDecision]) -> Vec<ImageTags<'a>> {
    let blueprint: &'a Blueprint = input.blueprint;
    let labelled = blueprint.images.iter().filter(|known| !known.labels.is_empty());
    let repositories: HashSet<&str> = labelled.map(|known| known.repository.as_str()).collect();
    let claimed = |index: ImageIndex| {
        let image = input.spec.images.get(index.position())?;
        let tags = tags::claimed(input.spec, image).ok()?;
        Some(Arc::new(BuildTags { tags, ..BuildTags::default() }))
    };
    ImageIndex::enumerate(&blueprint.images)
        .filter(|(_, known)| repositories.contains(known.repository.as_str()))
        .filter_map(|(image, known)| {
            let build = build_tags(input, images, image).or_else(|| claimed(image))?;
            Some(ImageTags { image, repository: &known.repository, build })
        })
        .collect()
}

/// The images that claim a tag.
#[derive(Default)]
struct Claimed {
    /// The first of them: as many as the message about another one names.
    first: Vec<ImageIndex>,
    last: Option<ImageIndex>,
    count: usize,
    /// Whether a label gives the tag.
    by_label: bool,
}

/// Which images of the family claim the tags of each repository.
struct Claimants<'a>(HashMap<(&'a str, &'a str), Claimed>);

impl<'a> Claimants<'a> {
    fn of(tags: &'a [ImageTags<'_>]) -> Self {
        let mut known: HashMap<_, Claimed> = HashMap::new();
        for ImageTags { image, repository, build } in tags {
            for tag in &build.tags {
                let claimed = known.entry((*repository, tag.name.as_str())).or_default();
                claimed.by_label |= tag.names_label;
                if claimed.last.replace(*image) == Some(*image) {
                    continue;
                }
                claimed.count += 1;
                if claimed.first.len() <= MAX_CLAIMANTS {
                    claimed.first.push(*image);
                }
            }
        }
        Self(known)
    }

    /// Returns the problem of a tag that other images claim, too, if a label gives it: none of them
    /// gets it, as with tags that collide before a build.
    fn collision(
        &self,
        input: &DecideInput<'_>,
        image: ImageIndex,
        tag: (&str, &str),
    ) -> Option<UnsetTag> {
        let claimed = self.0.get(&tag).filter(|known| known.by_label && known.count > 1)?;
        let others = claimed.first.iter().filter(|other| **other != image).take(MAX_CLAIMANTS);
        let others: Vec<String> =
            others.map(|other| format!("`{}`", image_name(input, *other))).collect();
        let more = match claimed.count.saturating_sub(others.len() + 1) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (repository, tag) = tag;
        let message = format!(
            "spec.images[{}].tags: by a label of a built image, {repository}:{tag} is also a tag \
             of {}{more}; none of them gets it: give each image its own tag or `path`",
            image_name(input, image),
            others.join(", ")
        );
        let problem = Problem { reason: Reason::TagCollision, message };
        Some(UnsetTag { tag: Some(tag.to_owned()), problem })
    }
}
