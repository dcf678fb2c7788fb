//! Remembering a spared build: the tag of its fingerprint is put on the digest that the image keeps, so that the registry alone
//! can tell it, whatever becomes of our records.

use futures::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    super::context::{Context, Memory},
    observe::World,
    probe::{AT_ONCE, again},
    pushed::{Repository, present},
};
use crate::engine::{Action, Decision, Fault, Push, PushResult, causes::short, tags};

/// Lets the registry remember what the decision spares. Whether there was anything: then the decision is to be made anew, from
/// what the registry holds now.
pub async fn remember(
    context: &Context,
    world: &World,
    decision: &Decision,
    memory: &mut Memory,
    now: Timestamp,
) -> bool {
    let spared: Vec<(String, Repository<'_>, Push, &str)> = decision
        .actions
        .iter()
        .filter_map(|action| {
            let Action::Remember { image, fingerprint, digest } = action else { return None };
            let name = &world.family.spec.images.get(*image)?.name;
            let repository = Repository::new(&context.registry, &world.keychain, &world.repository(*image)).ok()?;
            let push = memory.pushes.of(name).iter().find(|push| push.fingerprint == *fingerprint)?;
            let differs = matches!(&push.result, PushResult::Present { digest: pushed, .. } if pushed != digest);
            differs.then(|| (name.clone(), repository, push.clone(), digest.as_str()))
        })
        .collect();
    let any = !spared.is_empty();
    let keeping: Vec<_> = spared
        .into_iter()
        .map(|(name, repository, push, digest)| async move {
            let kept = keep(&repository, &push, digest).await;
            (name, push.fingerprint, kept)
        })
        .collect();
    let kept: Vec<_> = stream::iter(keeping).buffer_unordered(AT_ONCE).collect().await;
    for (name, fingerprint, kept) in kept {
        let result = kept.unwrap_or_else(|fault| {
            warn!(image = %name, message = %fault.message, "a spared build could not be remembered; it is tried again");
            memory.useless_answers = memory.useless_answers.saturating_add(1);
            PushResult::Faulty(fault, again(memory.useless_answers, now))
        });
        memory.pushes.answered(&name, Push { fingerprint, result });
    }
    any
}

/// Puts the tag of a pushed fingerprint on the digest that stays, and says what stands there then.
///
/// Where that can't be, because the digest is gone or the registry lets no tag be moved, what was pushed stands as it is, and
/// counts as not comparable: the image moves to it, as without cutoff. An error is one that passes.
pub async fn keep(repository: &Repository<'_>, push: &Push, digest: &str) -> Result<PushResult, Fault> {
    let tag = repository.tag(&tags::pushed_as(&push.fingerprint))?;
    let stays = match repository.retag(&tag, &digest.parse()?).await {
        Ok(stays) => stays,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => {
            warn!(%error, fingerprint = %push.fingerprint, "a spared build can't be remembered; its own digest is used");
            let mut result = push.result.clone();
            if let PushResult::Present { content, blobs, .. } = &mut result {
                (*content, *blobs) = (None, None);
            }
            return Ok(result);
        }
    };
    info!(fingerprint = %push.fingerprint, digest = short(digest), "spared build remembered");
    Ok(present(&stays, &repository.images(&stays).await?))
}
