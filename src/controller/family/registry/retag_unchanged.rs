//! Remembering a spared build: the tag of its fingerprint is put on the digest that the image
//! keeps, so that the registry alone can tell it, whatever becomes of our records.

use futures::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{info, warn};

use crate::{
    controller::{
        context::{Context, ReconcileCache},
        family::{
            observe::snapshot::Snapshot,
            registry::{
                lookup::{AT_ONCE, again},
                pushed_image::{Repository, present},
            },
        },
    },
    engine::{Action, Decision, Lookup, LookupResult, Problem, causes::short, tags},
    identity::ImageDigest,
};

/// Lets the registry remember what the decision spares. Whether there was anything: then the
/// decision is to be made anew, from what the registry holds now.
pub async fn retag_unchanged(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> bool {
    let spared: Vec<(String, Repository<'_>, Lookup, &ImageDigest)> = decision
        .actions
        .iter()
        .filter_map(|action| {
            let Action::Remember { image, fingerprint, digest } = action else { return None };
            let name = &snapshot.family.spec.images.get(image.position())?.name;
            let repository =
                Repository::new(&context.registry, &snapshot.keychain, &snapshot.repository(*image)).ok()?;
            let lookup = cache.lookups.of(name).iter().find(|lookup| lookup.fingerprint == *fingerprint)?;
            let differs = matches!(&lookup.result, LookupResult::Present { digest: pushed, .. } if pushed != digest);
            differs.then(|| (name.clone(), repository, lookup.clone(), digest))
        })
        .collect();
    let any = !spared.is_empty();
    let keeping: Vec<_> = spared
        .into_iter()
        .map(|(name, repository, lookup, digest)| async move {
            let kept = keep(&repository, &lookup, digest).await;
            (name, lookup.fingerprint, kept)
        })
        .collect();
    let kept: Vec<_> = stream::iter(keeping).buffer_unordered(AT_ONCE).collect().await;
    for (name, fingerprint, kept) in kept {
        let result = kept.unwrap_or_else(|problem| {
            warn!(image = %name, message = %problem.message, "a spared build could not be \
                remembered; it is tried again");
            cache.useless_answers = cache.useless_answers.saturating_add(1);
            LookupResult::Failed(problem, again(cache.useless_answers, now))
        });
        cache.lookups.answered(&name, Lookup { fingerprint, result });
    }
    any
}

/// Puts the tag of a pushed fingerprint on the digest that stays, and says what stands there then.
///
/// Where that can't be, because the digest is gone or the registry lets no tag be moved, what was
/// pushed stands as it is, and counts as not comparable: the image moves to it, as without cutoff.
/// An error is one that passes.
pub async fn keep(
    repository: &Repository<'_>,
    lookup: &Lookup,
    digest: &ImageDigest,
) -> Result<LookupResult, Problem> {
    let tag = repository.tag(&tags::pushed_as(&lookup.fingerprint))?;
    let stays = match repository.retag(&tag, &digest.as_str().parse()?).await {
        Ok(stays) => stays,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => {
            warn!(%error, fingerprint = %lookup.fingerprint, "a spared build can't be remembered; \
                its own digest is used");
            let mut result = lookup.result.clone();
            if let LookupResult::Present { content, blobs, .. } = &mut result {
                (*content, *blobs) = (None, None);
            }
            return Ok(result);
        }
    };
    info!(fingerprint = %lookup.fingerprint, digest = short(digest), "spared build remembered");
    Ok(present(&stays, &repository.images(&stays).await?))
}
