//! Tags whose templates name labels of the built image. What they are is known only after the
//! build, and so is what is wrong with them: such a tag is not set, and its image says why. Its
//! other tags are set, and the other images of the family are not affected.

use std::collections::HashMap;

use crate::{
    api::condition::reason,
    engine::{
        Problem,
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
    image: ImageIndex,
    /// The tag; `None` if the labels give none.
    tag: Option<String>,
    problem: Problem,
}

/// The tags that are not set because of labels.
#[derive(Debug, Default)]
pub(in crate::engine) struct LabelTagProblems(Vec<UnsetTag>);

impl LabelTagProblems {
    /// Returns the tags that must not be set, or cannot be, because of the labels of the verified
    /// builds.
    pub(in crate::engine) fn of(input: &DecideInput<'_>, images: &[ImageDecision]) -> Self {
        let mut found = Self::default();
        let labelled: Vec<ImageIndex> = ImageIndex::enumerate(&input.blueprint.images)
            .filter(|(_, known)| !known.labels.is_empty())
            .map(|(index, _)| index)
            .collect();
        let mut claimants = Claimants { input, images, repositories: HashMap::new() };
        for index in labelled {
            let Some(build) = build_tags(input, images, index) else { continue };
            if build.is_unread {
                found.0.extend(unread(input, images, index));
            }
            for tag in build.tags.iter().filter(|tag| tag.names_label) {
                found.0.extend(foreign(input, index, tag));
                found.0.extend(followed(input, index, tag));
                found.0.extend(claimants.collisions(index, tag));
            }
            found.0.extend(build.errors.iter().map(|error| invalid(input, index, error)));
        }
        found
    }

    /// Whether a tag of an image must not be set.
    pub(in crate::engine) fn withholds(&self, image: ImageIndex, tag: &str) -> bool {
        self.0.iter().any(|unset| unset.image == image && unset.tag.as_deref() == Some(tag))
    }

    /// Adds the first problem of each current image to the decision about it.
    pub(in crate::engine) fn report(self, images: &mut [ImageDecision]) {
        for UnsetTag { image, problem, .. } in self.0 {
            if let Some(decision) = images.get_mut(image.position())
                && decision.reason == reason::CURRENT
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
) -> Option<BuildTags> {
    let image = input.spec.images.get(index.position())?;
    let verified = images.get(index.position())?.verified.as_deref()?;
    Some(tags::of_build(input.spec, image, verified))
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
    UnsetTag { image, tag: None, problem: Problem { reason: reason::INVALID_TAG_LABEL, message } }
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
    (*digest == verified.digest).then_some(UnsetTag { image, tag: None, problem })
}

/// Returns the problem of a tag that belongs to another family.
fn foreign(input: &DecideInput<'_>, image: ImageIndex, tag: &Tag) -> Option<UnsetTag> {
    let owner = input.images.get(image.position())?.foreign_tags.get(&tag.name)?;
    let message = format!(
        "spec.images[{}].tags: a label of the built image gives {}, which is a tag of the family \
         {owner}; it is not set: use another label, `path` or `repository`",
        image_name(input, image),
        reference(input, image, &tag.name)
    );
    let problem = Problem { reason: reason::TAG_COLLISION, message };
    Some(UnsetTag { image, tag: Some(tag.name.clone()), problem })
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
    let problem = Problem { reason: reason::INVALID_TAG_LABEL, message };
    Some(UnsetTag { image, tag: Some(tag.name.clone()), problem })
}

/// The images that claim each tag of a repository.
type TagsOfRepository = HashMap<String, Vec<ImageIndex>>;

/// Which images of the family claim the tags of a repository.
struct Claimants<'a> {
    input: &'a DecideInput<'a>,
    images: &'a [ImageDecision],
    repositories: HashMap<&'a str, TagsOfRepository>,
}

impl Claimants<'_> {
    /// Returns the problems of all images that claim a tag, if there is more than one: none of them
    /// gets it, as with tags that collide before a build.
    fn collisions(&mut self, index: ImageIndex, tag: &Tag) -> Vec<UnsetTag> {
        let Some(known) = self.input.blueprint.images.get(index.position()) else {
            return Vec::new();
        };
        let (input, images) = (self.input, self.images);
        let repository = known.repository.as_str();
        let tags = self
            .repositories
            .entry(repository)
            .or_insert_with(|| tags_of_repository(input, images, repository));
        let claimants = tags.get(&tag.name).map_or(&[][..], Vec::as_slice);
        if claimants.len() < 2 {
            return Vec::new();
        }
        let problem = |image: &ImageIndex| {
            let others = claimants.iter().filter(|other| *other != image).take(MAX_CLAIMANTS);
            let others: Vec<String> =
                others.map(|other| format!("`{}`", image_name(input, *other))).collect();
            let message = format!(
                "spec.images[{}].tags: by a label of a built image, {} is also a tag of {}; none \
                 of them gets it: give each image its own tag or `path`",
                image_name(input, *image),
                reference(input, *image, &tag.name),
                others.join(", ")
            );
            let problem = Problem { reason: reason::TAG_COLLISION, message };
            UnsetTag { image: *image, tag: Some(tag.name.clone()), problem }
        };
        claimants.iter().map(problem).collect()
    }
}

/// Returns the tags that the images of a repository claim: those of their verified builds, and for
/// an image without a build those that its spec says.
fn tags_of_repository(
    input: &DecideInput<'_>,
    images: &[ImageDecision],
    repository: &str,
) -> TagsOfRepository {
    let mut tags = TagsOfRepository::new();
    let known = ImageIndex::enumerate(&input.blueprint.images);
    for (index, _) in known.filter(|(_, known)| known.repository == repository) {
        let of_build = build_tags(input, images, index).map(|build| build.tags);
        let claimed = || {
            let image = input.spec.images.get(index.position())?;
            tags::claimed(input.spec, image).ok()
        };
        for tag in of_build.or_else(claimed).unwrap_or_default() {
            let claimants = tags.entry(tag.name).or_default();
            if !claimants.contains(&index) {
                claimants.push(index);
            }
        }
    }
    tags
}
