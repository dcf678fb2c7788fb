//! Promotion: moving tags to a checked digest by a manifest PUT. No layers are copied.

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use crate::{
    api::{ImageState, condition::reason},
    controller::{
        context::{Context, ReconcileCache},
        family::{
            observe::snapshot::Snapshot,
            record::events::{self, Tone},
        },
    },
    engine::{Action, Decision, ObservedTag, Problem, TagMove, causes::short, tags},
    identity::ImageDigest,
    registry::{Manifest, Reference},
};

/// How many images' tags are moved at once.
const AT_ONCE: usize = 8;
/// Until a tag that could not be moved is tried again.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// Moves the tags that the decision names. What comes of it is remembered, and completes the
/// decision: an image of which a tag could not be set says so.
pub async fn move_tags(
    context: &Context,
    snapshot: &Snapshot,
    decision: &mut Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) {
    let moves = decision.actions.iter().filter_map(|action| {
        let Action::Promote { image, digest, tags } = action else { return None };
        let name = &snapshot.family.spec.images.get(image.position())?.name;
        Some(move_all(context, snapshot, snapshot.repository(*image), name, digest, tags, now))
    });
    let moved: Vec<_> =
        stream::iter(moves.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
    for (image, tag, observed, at) in moved.into_iter().flatten() {
        cache.tags.entry(image).or_default().insert(tag, (observed, at));
    }
    complete(snapshot, decision, cache);
}

/// Moves the tags of one image, one after the other: the image, each tag, where it stands now, and
/// since when that is known.
async fn move_all(
    context: &Context,
    snapshot: &Snapshot,
    repository: String,
    image: &str,
    digest: &ImageDigest,
    tags: &[TagMove],
    now: Timestamp,
) -> Vec<(String, String, ObservedTag, Timestamp)> {
    let (mut manifest, mut moved) = (None, Vec::with_capacity(tags.len()));
    for tag in tags {
        let observed = match set(context, snapshot, &repository, digest, tag, &mut manifest).await {
            Ok(observed) => observed,
            Err(Problem { reason, message }) => {
                warn!(image, tag = %tag.tag, message, "a tag could not be moved");
                let problem = Problem { reason, message: format!("tag {}: {message}", tag.tag) };
                ObservedTag::Failed(
                    problem,
                    now.saturating_add(TRY_AGAIN).unwrap_or(Timestamp::MAX),
                )
            }
        };
        tell(context, snapshot, &repository, tag, &observed, digest).await;
        moved.push((image.to_owned(), tag.tag.clone(), observed, context.clock.now()));
    }
    moved
}

/// Says of each current image which tag could not be set, and forgets tags that no template of now
/// gives.
fn complete(snapshot: &Snapshot, decision: &mut Decision, cache: &mut ReconcileCache) {
    for (image, decided) in snapshot.family.spec.images.iter().zip(&mut decision.images) {
        let (Some(verified), ImageState::Current) = (&decided.verified, decided.state) else {
            continue;
        };
        let Some(observations) = cache.tags.get_mut(&image.name) else { continue };
        let wanted =
            tags::render(&snapshot.family.spec, image, verified.build, &verified.fingerprint)
                .unwrap_or_default();
        observations.retain(|name, _| wanted.iter().any(|tag| tag.name == *name));
        let unset = wanted.iter().find_map(|tag| match &observations.get(&tag.name)?.0 {
            ObservedTag::At(_) => None,
            ObservedTag::Failed(problem, _) => Some(problem.clone()),
            ObservedTag::Taken(digest) => Some(Problem {
                reason: reason::TAG_IMMUTABLE,
                message: format!(
                    "the tag {} names this build and already stands on {}, which is not ours; it \
                     is never moved: delete it in the registry, or use another template",
                    tag.name,
                    short(digest)
                ),
            }),
        });
        if let Some(problem) = unset {
            decided.reason = problem.reason;
            decided.message = problem.message.into();
        }
    }
}

/// The earliest time to come at which a tag that could not be moved is tried again.
#[must_use]
pub fn retry_at(cache: &ReconcileCache, now: Timestamp) -> Option<Timestamp> {
    let observations = cache.tags.values().flat_map(std::collections::HashMap::values);
    observations
        .filter_map(|(observed, _)| match observed {
            ObservedTag::Failed(_, at) if *at > now => Some(*at),
            ObservedTag::Failed(..) | ObservedTag::At(_) | ObservedTag::Taken(_) => None,
        })
        .min()
}

async fn set(
    context: &Context,
    snapshot: &Snapshot,
    repository: &str,
    digest: &ImageDigest,
    tag: &TagMove,
    manifest: &mut Option<Manifest>,
) -> Result<ObservedTag, Problem> {
    let reference = format!("{repository}:{}", tag.tag).parse::<Reference>()?;
    let standing = context
        .registry
        .head(&reference, &snapshot.keychain)
        .await?
        .map(|descriptor| ImageDigest::from(descriptor.digest.as_str()));
    match standing {
        Some(standing) if standing == *digest => return Ok(ObservedTag::At(standing)),
        Some(standing) if tag.immutable => return Ok(ObservedTag::Taken(standing)),
        _ => {}
    }
    let manifest = if let Some(manifest) = manifest {
        manifest
    } else {
        let by_digest = format!("{repository}@{digest}").parse::<Reference>()?;
        manifest.insert(context.registry.manifest(&by_digest, &snapshot.keychain).await?)
    };
    context.registry.set_tag(&reference, manifest, &snapshot.keychain).await?;
    Ok(ObservedTag::At(digest.clone()))
}

async fn tell(
    context: &Context,
    snapshot: &Snapshot,
    repository: &str,
    tag: &TagMove,
    observed: &ObservedTag,
    digest: &ImageDigest,
) {
    match (observed, &tag.moved_to) {
        (ObservedTag::At(_), Some(elsewhere)) => {
            let note = format!(
                "somebody moved {repository}:{} to {}; it was put back to {}. To keep an image \
                 where it is, pin it where it is used",
                tag.tag,
                short(elsewhere),
                short(digest)
            );
            events::publish(
                context,
                &snapshot.family,
                Tone::Warning,
                reason::TAG_MOVED,
                "Promote",
                &note,
            )
            .await;
        }
        (ObservedTag::Taken(elsewhere), _) => {
            let note = format!(
                "{repository}:{} names a build and already stands on {}; it is left there, and {} \
                 goes without it",
                tag.tag,
                short(elsewhere),
                short(digest)
            );
            events::publish(
                context,
                &snapshot.family,
                Tone::Warning,
                reason::TAG_IMMUTABLE,
                "Promote",
                &note,
            )
            .await;
        }
        (ObservedTag::At(_), None) => info!(repository, tag = %tag.tag, %digest, "tag set"),
        (ObservedTag::Failed(..), _) => {}
    }
}
