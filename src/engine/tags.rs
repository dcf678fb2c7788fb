//! Tags: their templates, and which tags to set.

use std::collections::BTreeMap;

use jiff::Timestamp;
use minijinja::context;

use crate::{
    api::{Image, ImageFamilySpec, ImageState, TagRecord, Upstream, condition::reason},
    engine::{
        causes::short,
        decision::{Effect, ImageDecision, TagMove},
        input::{DecideInput, ObservedImage, ObservedTag, VerifiedBuild},
        templates::{self, Templates},
    },
    identity::{Fingerprint, ImageDigest},
    lineage::ImageIndex,
};

/// Placeholder for any build number in a claim. Real numbers count from 1.
const ANY_BUILD: i64 = 0;
/// Placeholder for any fingerprint in a claim.
const ANY_FINGERPRINT: &str = "000000000000";
/// Prefix of the operator's own tags.
const RESERVED_PREFIX: &str = "gs-";

/// Why a tag's template can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TagError {
    /// It does not parse, or names an unknown variable.
    #[error(
        "`{template}`: {why}; known are build, fingerprint, upstream.NAME.tag, args.NAME, \
             matrix.KEY and name"
    )]
    Template {
        /// The template.
        template: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its result is not a tag.
    #[error(
        "`{template}` gives `{tag}`, which is not a tag: write at most 128 letters, digits, `_`, \
         `.` and `-`, not beginning with `.`, `-` or `gs-`"
    )]
    NotATag {
        /// The template.
        template: String,
        /// Its result.
        tag: String,
    },
}

/// A rendered tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The tag.
    pub name: String,
    /// Whether its template names the build or the fingerprint, so that it is never moved.
    pub immutable: bool,
}

/// Returns the tag under which a build of this fingerprint is pushed.
#[must_use]
pub fn pushed_as(fingerprint: &Fingerprint) -> String {
    format!("{RESERVED_PREFIX}{fingerprint}")
}

/// Renders the tags that an image claims. One that names the build or the fingerprint stands for
/// those of all builds.
///
/// # Errors
///
/// Returns an error for a template that can't be rendered, or whose result is not a tag.
pub fn claimed(spec: &ImageFamilySpec, image: &Image) -> Result<Vec<Tag>, TagError> {
    render(spec, image, ANY_BUILD, &ANY_FINGERPRINT.into())
}

/// Renders the tags of an image for one build.
///
/// # Errors
///
/// Returns an error for a template that can't be rendered, or whose result is not a tag.
pub fn render(
    spec: &ImageFamilySpec,
    image: &Image,
    build: i64,
    fingerprint: &Fingerprint,
) -> Result<Vec<Tag>, TagError> {
    let followed = |upstream: &Upstream| {
        (upstream.name.clone(), context! { tag => upstream.follow.tag.as_str() })
    };
    let upstream: BTreeMap<String, minijinja::Value> =
        spec.upstreams.iter().map(followed).collect();
    // In a plain spec, each key has one value.
    let matrix = image.matrix.iter().filter_map(|(key, values)| Some((key, values.first()?)));
    let fingerprint = short(fingerprint);
    let values = context! {
        build => build, fingerprint => fingerprint, upstream => upstream,
        args => templates::object(&image.args), matrix => templates::object(matrix),
        name => image.name.as_str(),
    };
    let templates = Templates::default();
    image.tags.iter().map(|template| one(&templates, template, &values)).collect()
}

fn one(templates: &Templates, template: &str, values: &minijinja::Value) -> Result<Tag, TagError> {
    let rendered = templates.render(template, values).map_err(|error| TagError::Template {
        template: template.into(),
        why: error.to_string(),
    })?;
    let (name, variables) = (rendered.text, rendered.variables);
    if is_tag(&name) && !name.starts_with(RESERVED_PREFIX) {
        Ok(Tag {
            name,
            immutable: variables.contains("build") || variables.contains("fingerprint"),
        })
    } else {
        Err(TagError::NotATag { template: template.into(), tag: name.chars().take(130).collect() })
    }
}

/// Whether a text is a tag as the OCI distribution spec defines it.
fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// Adds the tag moves that images need: new tags, tags that point to an older digest, and tags that
/// somebody else has moved. Tags that name the build point to the digest of a current image. The
/// others point to the digest that the image is promoted to, whatever its state is.
pub fn promote(
    input: &DecideInput<'_>,
    images: &[ImageDecision],
    now: Timestamp,
    effects: &mut Vec<Effect>,
    wake_at: &mut Option<Timestamp>,
) {
    for (index, decision) in ImageIndex::enumerate(images) {
        let (Some(verified), Some(observed)) =
            (&decision.verified, input.images.get(index.position()))
        else {
            continue;
        };
        if collides(input, index) || at_rest(input, index, observed, decision) {
            continue;
        }
        let mut moves: Vec<(&ImageDigest, Vec<TagMove>)> = Vec::new();
        for (tag, digest) in wanted(input, index, decision, verified) {
            let Some(moved) = needed_move(observed, tag, digest, now, wake_at) else { continue };
            match moves.iter_mut().find(|(to, _)| *to == digest) {
                Some((_, tags)) => tags.push(moved),
                None => moves.push((digest, vec![moved])),
            }
        }
        let moves = moves.into_iter();
        effects.extend(moves.map(|(digest, tags)| Effect::Promote {
            image: index,
            digest: digest.clone(),
            tags,
        }));
    }
}

/// A floating tag that does not point to the digest that its image was adopted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrayTag {
    /// The name of the tag.
    pub name: String,
    /// What it points to, if it was read.
    pub digest: Option<ImageDigest>,
}

/// Returns a floating tag of an adopted image that points to another digest, or that was not read
/// yet. The tags of such an image are read again.
#[must_use]
pub fn stray_tag(
    input: &DecideInput<'_>,
    index: ImageIndex,
    observed: &ObservedImage<'_>,
    verified: &VerifiedBuild,
) -> Option<StrayTag> {
    let image = input.spec.images.get(index.position())?;
    let recorded = observed.record.map_or(&[][..], |record| &record.tags);
    let points_to = |name: &str| match observed.tags.get(name) {
        Some(ObservedTag::At(digest)) => Some(digest.clone()),
        Some(ObservedTag::Taken(_) | ObservedTag::Failed(..)) | None => {
            let record = recorded.iter().find(|record| record.tag == name);
            record.map(|record| ImageDigest::from(&record.digest))
        }
    };
    // Without a change of the templates, no template is rendered.
    let is_of_spec = input.generation.is_some()
        && observed.record.is_some_and(|record| record.observed_generation == input.generation);
    let at_rest = |record: &TagRecord| points_to(&record.tag).as_ref() == Some(&verified.digest);
    if is_of_spec && !recorded.is_empty() && recorded.iter().all(at_rest) {
        return None;
    }
    let tags = render(input.spec, image, verified.build, &verified.fingerprint).unwrap_or_default();
    let floating = tags.into_iter().filter(|tag| !tag.immutable);
    let mut read = floating.map(|tag| StrayTag { digest: points_to(&tag.name), name: tag.name });
    read.find(|tag| tag.digest.as_ref() != Some(&verified.digest))
}

/// Whether another image claims a tag of this one. Moving it would start a contest.
fn collides(input: &DecideInput<'_>, index: ImageIndex) -> bool {
    let problem = input.blueprint.images.get(index.position());
    let problem = problem.and_then(|image| image.problem.as_ref());
    problem.is_some_and(|problem| problem.reason == reason::TAG_COLLISION)
}

/// Whether all tags of an image are known to point to the right digests. No template is rendered
/// for this: in most reconciles nothing else is done for most images.
fn at_rest(
    input: &DecideInput<'_>,
    index: ImageIndex,
    observed: &ObservedImage<'_>,
    decision: &ImageDecision,
) -> bool {
    let (Some(record), Some(image), Some(verified)) =
        (observed.record, input.spec.images.get(index.position()), &decision.verified)
    else {
        return false;
    };
    let target = |tag: &TagRecord| {
        if tag.immutable { Some(&verified.digest) } else { decision.promoted_digest() }
    };
    input.generation.is_some()
        && record.observed_generation == input.generation
        && record.build == Some(verified.build)
        && record.fingerprint.as_deref() == Some(verified.fingerprint.as_str())
        && record.tags.len() == image.tags.len()
        && record.tags.iter().all(|tag| target(tag).is_some_and(|digest| *digest == tag.digest))
        && observed.tags.iter().all(|(name, observed)| {
            let record = record.tags.iter().find(|record| record.tag == *name);
            let ObservedTag::At(digest) = observed else { return false };
            record.is_none_or(|record| *digest == record.digest)
        })
}

/// Returns the tags of an image with the digests that they should point to.
fn wanted<'d>(
    input: &DecideInput<'_>,
    index: ImageIndex,
    decision: &'d ImageDecision,
    verified: &'d VerifiedBuild,
) -> Vec<(Tag, &'d ImageDigest)> {
    let Some(image) = input.spec.images.get(index.position()) else { return Vec::new() };
    // Templates are validated before; one that fails nevertheless moves nothing.
    let tags = render(input.spec, image, verified.build, &verified.fingerprint).unwrap_or_default();
    let current = decision.state == ImageState::Current;
    let record = input.images.get(index.position()).and_then(|observed| observed.record);
    let earlier = record.and_then(|record| record.adopted.as_ref());
    // No build of ours has made an adopted digest. No tag names it as one, and no tag is moved to
    // it: its tags pointed to it when it was adopted, and whoever has moved them since goes first.
    let is_adopted = |digest: &ImageDigest| {
        verified.adopted.is_some() && verified.digest == *digest
            || earlier.is_some_and(|adopted| *digest == adopted.digest)
    };
    let target = |tag: Tag| {
        let digest = if tag.immutable {
            current.then_some(&verified.digest)
        } else {
            decision.promoted_digest()
        };
        Some((tag, digest.filter(|digest| !is_adopted(digest))?))
    };
    tags.into_iter().filter_map(target).collect()
}

/// Returns the move that a tag needs, if any. A tag that could not be set is retried later.
fn needed_move(
    observed: &ObservedImage<'_>,
    tag: Tag,
    digest: &ImageDigest,
    now: Timestamp,
    wake_at: &mut Option<Timestamp>,
) -> Option<TagMove> {
    let record = observed
        .record
        .into_iter()
        .flat_map(|record| &record.tags)
        .find(|record| record.tag == tag.name);
    let recorded = record.is_some_and(|record| *digest == record.digest);
    let moved_to = match observed.tags.get(&tag.name) {
        Some(ObservedTag::Failed(_, retry_at)) if *retry_at > now => {
            *wake_at = Some(wake_at.map_or(*retry_at, |at| at.min(*retry_at)));
            return None;
        }
        // Whatever is recorded: only another attempt shows what the tag points to.
        Some(ObservedTag::Failed(..)) => None,
        Some(ObservedTag::Taken(_)) if tag.immutable => return None,
        Some(ObservedTag::At(at)) if at == digest => {
            if recorded {
                return None;
            }
            None
        }
        Some(ObservedTag::At(at)) if recorded && !tag.immutable => Some(at.clone()),
        _ if recorded => return None,
        _ => None,
    };
    Some(TagMove { tag: tag.name, immutable: tag.immutable, moved_to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Follow;

    fn rendered(template: &str) -> Result<Tag, TagError> {
        let upstream = |name: &str, tag: &str| Upstream {
            name: name.into(),
            follow: Follow { tag: tag.into() },
            ..Upstream::default()
        };
        let spec = ImageFamilySpec {
            upstreams: vec![upstream("alpine", "3.20"), upstream("my-base", "12")],
            ..ImageFamilySpec::default()
        };
        let image = Image { tags: vec![template.into()], ..Image::default() };
        render(&spec, &image, 7, &"0123456789abcdef".into()).map(|mut tags| tags.remove(0))
    }

    #[test]
    fn templates_render_and_say_whether_they_float() {
        for (template, name, immutable) in [
            ("latest", "latest", false),
            ("1.2.14", "1.2.14", false),
            ("{{ upstream.alpine.tag }}", "3.20", false),
            ("{{ upstream['my-base'].tag }}-r{{ build }}", "12-r7", true),
            ("x-{{ fingerprint }}", "x-0123456789ab", true),
        ] {
            assert_eq!(rendered(template), Ok(Tag { name: name.into(), immutable }), "{template}");
        }
    }

    #[test]
    fn bad_templates_are_reported() {
        for (template, part) in [
            ("{{ bild }}", "known are build"),
            ("{{ upstream.debian.tag }}", "known are build"),
            ("{{ build", "known are build"),
            ("a b", "not a tag"),
            ("gs-{{ build }}", "not a tag"),
            ("-x", "not a tag"),
            ("", "not a tag"),
            ("{% for i in range(100000) %}x{% endfor %}", "known are build"),
        ] {
            let error = rendered(template).expect_err(template).to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
    }
}
