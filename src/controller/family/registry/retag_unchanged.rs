//! Retags of builds that changed nothing: the tag of the new fingerprint is pointed to the digest
//! that the image keeps. Then the registry alone shows that the build was cut off, even if our
//! records are lost. No client of the API server is needed.

use futures::{StreamExt, stream};
use tracing::{info, warn};

use crate::{
    controller::family::{
        reconcile::Reconcile,
        registry::{
            DecisionValidity,
            lookup::MAX_CONCURRENT_LOOKUPS,
            pushed_image::{Repository, present},
        },
    },
    engine::{Effect, Lookup, LookupResult, Problem, causes::short, tags},
    identity::{Fingerprint, ImageDigest},
};

/// A retag that the decision asks for.
struct Retag<'a> {
    image: &'a str,
    repository: Repository<'a>,
    /// The answer of the registry about the fingerprint.
    lookup: Lookup,
    /// The digest that the image keeps.
    digest: &'a ImageDigest,
}

/// The result of a retag.
struct Retagged {
    image: String,
    fingerprint: Fingerprint,
    result: Result<LookupResult, Problem>,
}

impl Reconcile<'_> {
    /// Makes the retags that the decision asks for.
    pub async fn retag_unchanged(&mut self) -> DecisionValidity {
        let reconcile = &*self;
        let retags = reconcile.decision.effects.iter().filter_map(|effect| reconcile.retag(effect));
        let retags: Vec<_> = retags.map(carry_out).collect();
        let retagged: Vec<Retagged> =
            stream::iter(retags).buffer_unordered(MAX_CONCURRENT_LOOKUPS).collect().await;
        if retagged.is_empty() {
            return DecisionValidity::Current;
        }
        for Retagged { image, fingerprint, result } in retagged {
            let result = result.unwrap_or_else(|problem| {
                warn!(
                    image, message = %problem.message,
                    "could not retag a build that changed nothing; the retag is retried"
                );
                self.cache.failed_lookups = self.cache.failed_lookups.saturating_add(1);
                LookupResult::Failed(problem, self.lookup_retry_at(self.cache.failed_lookups))
            });
            self.cache.lookups.record(&image, Lookup { fingerprint, result });
        }
        DecisionValidity::Outdated
    }

    /// Returns the retag that an effect asks for, unless the tag already points to the digest.
    fn retag<'a>(&'a self, effect: &'a Effect) -> Option<Retag<'a>> {
        let Effect::RetagUnchanged { image, fingerprint, digest } = effect else { return None };
        let name = &self.image(*image)?.name;
        let repository = self.snapshot.repository(*image);
        let (registry, keychain) = (&self.context.registry, &self.snapshot.keychain);
        let repository = Repository::new(registry, keychain, &repository).ok()?;
        let mut lookups = self.cache.lookups.of(name).iter();
        let lookup = lookups.find(|lookup| lookup.fingerprint == *fingerprint)?;
        let differs = matches!(
            &lookup.result, LookupResult::Present { digest: pushed, .. } if pushed != digest
        );
        differs.then(|| Retag { image: name, repository, lookup: lookup.clone(), digest })
    }
}

async fn carry_out(retag: Retag<'_>) -> Retagged {
    let Retag { image, repository, lookup, digest } = retag;
    let result = keep_digest(&repository, &lookup, digest).await;
    Retagged { image: image.to_owned(), fingerprint: lookup.fingerprint, result }
}

/// Points the tag of a pushed fingerprint to the digest that the image keeps, and returns what the
/// tag points to then.
///
/// That is impossible if the digest is gone, or if the registry allows no tag to be moved. Then the
/// pushed image stays as it is and counts as not comparable: the image moves to it, as without
/// cutoff.
///
/// # Errors
///
/// Returns an error if it is transient.
pub async fn keep_digest(
    repository: &Repository<'_>,
    lookup: &Lookup,
    digest: &ImageDigest,
) -> Result<LookupResult, Problem> {
    let tag = repository.tag(&tags::pushed_as(&lookup.fingerprint))?;
    let kept = match repository.retag(&tag, &digest.as_str().parse()?).await {
        Ok(kept) => kept,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => {
            warn!(
                %error, fingerprint = %lookup.fingerprint,
                "cannot retag a build that changed nothing; its own digest is used"
            );
            let mut result = lookup.result.clone();
            if let LookupResult::Present { content, blobs, .. } = &mut result {
                (*content, *blobs) = (None, None);
            }
            return Ok(result);
        }
    };
    info!(
        fingerprint = %lookup.fingerprint, digest = short(digest),
        "retagged a build that changed nothing"
    );
    Ok(present(&kept, &repository.images(&kept).await?))
}
