//! Promotion: moving tags to a checked digest by a manifest PUT. No layers are copied.

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::{
    super::context::{Context, Memory},
    events::{self, Tone},
    observe::World,
};
use crate::{
    api::{ImageState, condition::reason},
    engine::{Action, Decision, Fault, TagMove, TagSight, causes::short, tags},
    registry::{Manifest, Reference},
};

/// How many images' tags are moved at once.
const AT_ONCE: usize = 8;
/// Until a tag that could not be moved is tried again.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// Moves the tags that the decision names. What comes of it is remembered, and completes the decision: an image of which a
/// tag could not be set says so.
pub async fn move_tags(context: &Context, world: &World, decision: &mut Decision, memory: &mut Memory, now: Timestamp) {
    let moves = decision.actions.iter().filter_map(|action| {
        let Action::Promote { image, digest, tags } = action else { return None };
        let name = &world.family.spec.images.get(*image)?.name;
        Some(move_all(context, world, world.repository(*image), name, digest, tags, now))
    });
    let moved: Vec<_> = stream::iter(moves.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
    for (image, tag, sight, at) in moved.into_iter().flatten() {
        memory.tags.entry(image).or_default().insert(tag, (sight, at));
    }
    complete(world, decision, memory);
}

/// Moves the tags of one image, one after the other: the image, each tag, where it stands now, and since when that is known.
async fn move_all(
    context: &Context,
    world: &World,
    repository: String,
    image: &str,
    digest: &str,
    tags: &[TagMove],
    now: Timestamp,
) -> Vec<(String, String, TagSight, Timestamp)> {
    let (mut manifest, mut moved) = (None, Vec::with_capacity(tags.len()));
    for tag in tags {
        let sight = match set(context, world, &repository, digest, tag, &mut manifest).await {
            Ok(sight) => sight,
            Err(Fault { reason, message }) => {
                warn!(image, tag = %tag.tag, message, "a tag could not be moved");
                let fault = Fault { reason, message: format!("tag {}: {message}", tag.tag) };
                TagSight::Faulty(fault, now.saturating_add(TRY_AGAIN).unwrap_or(Timestamp::MAX))
            }
        };
        tell(context, world, &repository, tag, &sight, digest).await;
        moved.push((image.to_owned(), tag.tag.clone(), sight, context.clock.now()));
    }
    moved
}

/// Says of each current image which tag could not be set, and forgets tags that no template of now gives.
fn complete(world: &World, decision: &mut Decision, memory: &mut Memory) {
    for (image, decided) in world.family.spec.images.iter().zip(&mut decision.images) {
        let (Some(good), ImageState::Current) = (&decided.good, decided.state) else { continue };
        let Some(sights) = memory.tags.get_mut(&image.name) else { continue };
        let wanted = tags::render(&world.family.spec, image, good.build, &good.fingerprint).unwrap_or_default();
        sights.retain(|name, _| wanted.iter().any(|tag| tag.name == *name));
        let unset = wanted.iter().find_map(|tag| match &sights.get(&tag.name)?.0 {
            TagSight::At(_) => None,
            TagSight::Faulty(fault, _) => Some(fault.clone()),
            TagSight::Taken(digest) => Some(Fault {
                reason: reason::TAG_IMMUTABLE,
                message: format!(
                    "the tag {} names this build and already stands on {}, which is not ours; it is never moved: delete it in the registry, or use another template",
                    tag.name,
                    short(digest)
                ),
            }),
        });
        if let Some(fault) = unset {
            decided.reason = fault.reason;
            decided.message = fault.message.into();
        }
    }
}

/// The earliest time to come at which a tag that could not be moved is tried again.
#[must_use]
pub fn retry_at(memory: &Memory, now: Timestamp) -> Option<Timestamp> {
    let sights = memory.tags.values().flat_map(std::collections::HashMap::values);
    sights
        .filter_map(|(sight, _)| match sight {
            TagSight::Faulty(_, at) if *at > now => Some(*at),
            TagSight::Faulty(..) | TagSight::At(_) | TagSight::Taken(_) => None,
        })
        .min()
}

async fn set(
    context: &Context,
    world: &World,
    repository: &str,
    digest: &str,
    tag: &TagMove,
    manifest: &mut Option<Manifest>,
) -> Result<TagSight, Fault> {
    let reference = format!("{repository}:{}", tag.tag).parse::<Reference>()?;
    let standing =
        context.registry.head(&reference, &world.keychain).await?.map(|descriptor| descriptor.digest.to_string());
    match standing {
        Some(standing) if standing == *digest => return Ok(TagSight::At(standing)),
        Some(standing) if tag.immutable => return Ok(TagSight::Taken(standing)),
        _ => {}
    }
    let manifest = if let Some(manifest) = manifest {
        manifest
    } else {
        let by_digest = format!("{repository}@{digest}").parse::<Reference>()?;
        manifest.insert(context.registry.manifest(&by_digest, &world.keychain).await?)
    };
    context.registry.tag(&reference, manifest, &world.keychain).await?;
    Ok(TagSight::At(digest.into()))
}

async fn tell(context: &Context, world: &World, repository: &str, tag: &TagMove, sight: &TagSight, digest: &str) {
    match (sight, &tag.moved_to) {
        (TagSight::At(_), Some(elsewhere)) => {
            let note = format!(
                "somebody moved {repository}:{} to {}; it was put back to {}. To keep an image where it is, pin it where it is used",
                tag.tag,
                short(elsewhere),
                short(digest)
            );
            events::publish(context, &world.family, Tone::Warning, reason::TAG_MOVED, "Promote", &note).await;
        }
        (TagSight::Taken(elsewhere), _) => {
            let note = format!(
                "{repository}:{} names a build and already stands on {}; it is left there, and {} goes without it",
                tag.tag,
                short(elsewhere),
                short(digest)
            );
            events::publish(context, &world.family, Tone::Warning, reason::TAG_IMMUTABLE, "Promote", &note).await;
        }
        (TagSight::At(_), None) => info!(repository, tag = %tag.tag, digest, "tag set"),
        (TagSight::Faulty(..), _) => {}
    }
}
