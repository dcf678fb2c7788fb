//! Retags of builds that changed nothing: the tag of the new fingerprint is pointed to the digest
//! that the image keeps. Then the registry alone shows that the build was cut off, even if our
//! records are lost. No client of the API server is needed.

use tracing::{info, warn};

use crate::{
    build_records::{
        RecordedBuild,
        statement::{BuildStatement, StatementKind},
    },
    controller::family::{
        reconcile::Reconcile,
        registry::{
            DecisionValidity,
            build_records::{RecordError, RecordStore, RecordedResult},
            pushed_image::{Repository, present},
        },
    },
    engine::{Effect, Lookup, LookupResult, Problem, causes::short, tags},
    identity::Fingerprint,
};

/// A retag that the decision asks for.
struct Retag<'a> {
    image: &'a str,
    repository: Repository<'a>,
    /// The answer of the registry about the fingerprint.
    lookup: Lookup,
    /// What is recorded about it: the digest that the image keeps comes first.
    statement: BuildStatement,
}

/// The result of a retag.
struct Retagged {
    image: String,
    fingerprint: Fingerprint,
    result: Result<KeptDigest, Problem>,
}

/// What the tag of a fingerprint points to after a retag.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptDigest {
    /// The answer to a lookup from now on.
    pub result: LookupResult,
    /// Its record, if it was written.
    pub recorded: Option<RecordedBuild>,
}

impl Reconcile<'_> {
    /// Makes the retags that the decision asks for.
    pub async fn retag_unchanged(&mut self) -> DecisionValidity {
        let reconcile = &*self;
        let retags = reconcile.decision.effects.iter().filter_map(|effect| reconcile.retag(effect));
        let retags: Vec<_> = retags.map(|retag| reconcile.carry_out(retag)).collect();
        let retagged: Vec<Retagged> = reconcile.registry_time.run(retags).await;
        if retagged.is_empty() {
            return DecisionValidity::Current;
        }
        for Retagged { image, fingerprint, result } in retagged {
            let kept = result.unwrap_or_else(|problem| {
                warn!(
                    image, message = %problem.message,
                    "could not retag a build that changed nothing; the retag is retried"
                );
                self.cache.failed_lookups = self.cache.failed_lookups.saturating_add(1);
                let retry_at = self.lookup_retry_at(self.cache.failed_lookups);
                KeptDigest { result: LookupResult::Failed(problem, retry_at), recorded: None }
            });
            if let Some(recorded) = kept.recorded {
                self.cache.build_records.insert(image.clone(), recorded);
            }
            self.cache.lookups.record(&image, Lookup { fingerprint, result: kept.result });
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
        let LookupResult::Present { digest: pushed, build, .. } = &lookup.result else {
            return None;
        };
        if pushed == digest {
            return None;
        }
        let digests = [digest.clone(), pushed.clone()];
        let result = RecordedResult { fingerprint, digests: &digests, build: *build };
        let statement = self.statement(*image, &repository, StatementKind::Unchanged, &result);
        Some(Retag { image: name, repository, lookup: lookup.clone(), statement })
    }

    async fn carry_out(&self, retag: Retag<'_>) -> Retagged {
        let Retag { image, repository, lookup, statement } = retag;
        let store = RecordStore::new(&repository, &self.context.records, &self.snapshot.key);
        let result = keep_digest(&store, &lookup, &statement).await;
        Retagged { image: image.to_owned(), fingerprint: lookup.fingerprint, result }
    }
}

/// Points the tag of a pushed fingerprint to the digest that the image keeps, the first one of the
/// statement, and returns what the tag points to then. The record is written first and is about
/// both digests, so that the tag has a record before and after it moves.
///
/// That is impossible if the digest is gone, or if the registry allows no tag to be moved. Then the
/// pushed image stays as it is and counts as not comparable: the image moves to it, as without
/// cutoff.
///
/// # Errors
///
/// Returns an error if it is transient.
pub async fn keep_digest(
    store: &RecordStore<'_>,
    lookup: &Lookup,
    statement: &BuildStatement,
) -> Result<KeptDigest, Problem> {
    let repository = store.repository();
    let name = tags::pushed_as(&lookup.fingerprint);
    let tag = repository.tag(&name)?;
    let digest = statement.digests.first().cloned().unwrap_or_default();
    let parsed = digest.as_str().parse()?;
    let attempt = async {
        let kept = repository.manifest(&parsed).await?;
        let recorded = match store.ensure(&name, statement, &kept).await {
            Ok(key) => Some(key),
            Err(error) if store.is_required() || error.is_transient => return Err(error),
            Err(_) => None,
        };
        repository.set_tag(&tag, &kept).await?;
        Ok::<_, RecordError>((kept, recorded))
    };
    let (kept, key) = match attempt.await {
        Ok(kept) => kept,
        Err(error) if error.is_transient => return Err(error.problem),
        Err(error) => {
            warn!(
                message = %error.problem.message, fingerprint = %lookup.fingerprint,
                "cannot retag a build that changed nothing; its own digest is used"
            );
            let mut result = lookup.result.clone();
            if let LookupResult::Present { content, blobs, .. } = &mut result {
                (*content, *blobs) = (None, None);
            }
            return Ok(KeptDigest { result, recorded: None });
        }
    };
    info!(
        fingerprint = %lookup.fingerprint, digest = short(&digest),
        "retagged a build that changed nothing"
    );
    let fingerprint = lookup.fingerprint.clone();
    Ok(KeptDigest {
        result: present(&kept, &repository.images(&kept).await?),
        recorded: key.map(|key| RecordedBuild { fingerprint, digest, key }),
    })
}
