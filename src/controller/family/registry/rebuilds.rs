//! Marks of requested rebuilds: the tag of the newest build from the same inputs. The fingerprint
//! of such a build contains the id of the request, which is lost with the record of the image. No
//! client of the API server is needed.

use jiff::Timestamp;
use tracing::{info, warn};

use crate::{
    api::Inputs,
    build_records::statement::{BuildStatement, StatementKind},
    controller::family::{
        reconcile::Reconcile,
        registry::{
            DecisionValidity,
            build_records::{RecordError, RecordStore, RecordedResult},
            lookup::FingerprintQuery,
            pushed_image::{Repository, present, rebuild_request},
        },
    },
    engine::{
        Effect, LookupResult, Problem, RebuildMark, causes::short, fingerprint::fingerprint, tags,
    },
    identity::{Fingerprint, ImageDigest},
    lineage::ImageIndex,
    registry::Manifest,
};

/// A mark that the decision asks for.
struct WantedMark<'a> {
    image: ImageIndex,
    fingerprint: &'a Fingerprint,
    digest: &'a ImageDigest,
}

/// The result of an attempt to set a mark.
struct AttemptedMark {
    image: String,
    mark: RebuildMark,
}

impl Reconcile<'_> {
    /// Sets the marks that the decision asks for.
    pub async fn mark_rebuilds(&mut self) -> DecisionValidity {
        let reconcile = &*self;
        let retry_at = reconcile.lookup_retry_at(self.cache.failed_lookups.saturating_add(1));
        let wanted = reconcile.decision.effects.iter().filter_map(|effect| match effect {
            Effect::MarkRebuild { image, fingerprint, digest } => {
                Some(WantedMark { image: *image, fingerprint, digest })
            }
            _ => None,
        });
        let marks: Vec<_> = wanted.map(|wanted| reconcile.mark(wanted, retry_at)).collect();
        let attempted: Vec<AttemptedMark> = reconcile.registry_time.run(marks).await;
        if attempted.is_empty() {
            return DecisionValidity::Current;
        }
        if attempted.iter().any(|attempted| attempted.mark.retry_at.is_some()) {
            self.cache.failed_lookups = self.cache.failed_lookups.saturating_add(1);
        }
        for AttemptedMark { image, mark } in attempted {
            // The answer may be from before the rebuild.
            self.cache.lookups.forget_fingerprint(&image, &mark.fingerprint);
            self.cache.rebuild_marks.insert(image, mark);
        }
        DecisionValidity::Outdated
    }

    /// Sets one mark. A registry that forbids it is not asked again: the image then goes back to
    /// the build before if its record is lost.
    async fn mark(&self, wanted: WantedMark<'_>, retry_at: Timestamp) -> AttemptedMark {
        let image = self.image_name(wanted.image).to_owned();
        let mut mark = RebuildMark {
            fingerprint: wanted.fingerprint.clone(),
            digest: wanted.digest.clone(),
            retry_at: None,
        };
        match self.set_mark(&wanted).await {
            Ok(()) => info!(image, digest = short(wanted.digest), "marked a requested rebuild"),
            Err(MarkError { problem, is_transient }) => {
                warn!(image, message = %problem.message, "could not mark a requested rebuild");
                mark.retry_at = is_transient.then_some(retry_at);
            }
        }
        AttemptedMark { image, mark }
    }

    async fn set_mark(&self, wanted: &WantedMark<'_>) -> Result<(), MarkError> {
        let name = self.snapshot.repository(wanted.image);
        let repository = Repository::new(&self.context.registry, &self.snapshot.keychain, &name)?;
        let decided = self.decision.images.get(wanted.image.position());
        let verified = decided.and_then(|decided| decided.verified.as_ref());
        let result = RecordedResult {
            fingerprint: wanted.fingerprint,
            digests: std::slice::from_ref(wanted.digest),
            build: verified.map_or(0, |verified| verified.build),
        };
        let kind = StatementKind::Rebuild;
        let statement = self.statement(wanted.image, &repository, kind, &result);
        let store = RecordStore::new(&repository, &self.context.records, &self.snapshot.key);
        set_rebuild_mark(&store, wanted.digest, &statement).await
    }
}

/// Why a mark was not set.
#[derive(Debug)]
pub struct MarkError {
    problem: Problem,
    /// Whether another attempt may succeed.
    pub is_transient: bool,
}

impl From<Problem> for MarkError {
    fn from(problem: Problem) -> Self {
        Self { problem, is_transient: false }
    }
}

impl From<RecordError> for MarkError {
    fn from(error: RecordError) -> Self {
        let RecordError { problem, is_transient } = error;
        Self { problem, is_transient }
    }
}

/// Points the tag of the newest build from the same inputs to a digest, and records that. Without a
/// record, a mark does not count where records are required.
///
/// # Errors
///
/// Returns an error if the registry cannot answer, or forbids it.
pub async fn set_rebuild_mark(
    store: &RecordStore<'_>,
    digest: &ImageDigest,
    statement: &BuildStatement,
) -> Result<(), MarkError> {
    let repository = store.repository();
    let name = tags::rebuilt_as(&statement.fingerprint);
    let tag = repository.tag(&name)?;
    let parsed = digest.as_str().parse().map_err(Problem::from)?;
    if store.find(&name, &statement.fingerprint, digest).await?.is_none() {
        let image = repository.known_manifest(&parsed).await.map_err(RecordError::from)?;
        match store.ensure(&name, statement, &image).await {
            Err(error) if store.is_required() || error.is_transient => return Err(error.into()),
            _ => {}
        }
    }
    Ok(repository.point_to(&tag, &parsed).await.map_err(RecordError::from)?)
}

impl FingerprintQuery<'_> {
    /// Returns the newest build of inputs that a request has rebuilt. It is asked for only if the
    /// image has no recorded build: otherwise the record has the request.
    pub(super) async fn rebuilt(
        &self,
        wanted: &Fingerprint,
    ) -> Result<Option<LookupResult>, Problem> {
        let snapshot = &self.reconcile.snapshot;
        let recorded = snapshot.records.get(self.image.position()).and_then(Option::as_ref);
        let decided = self.reconcile.decision.images.get(self.image.position());
        let inputs = decided.and_then(|decided| decided.inputs.as_deref());
        match inputs {
            Some(inputs)
                if inputs.nonce.is_empty()
                    && recorded
                        .and_then(|record| record.status.as_ref()?.digest.as_ref())
                        .is_none() =>
            {
                find_rebuild(&self.records(), wanted, inputs).await
            }
            _ => Ok(None),
        }
    }
}

/// Returns the build that the mark of a fingerprint points to, if a record says that it is one of
/// ours. The id of its request is known only if it makes the fingerprint of the build from the
/// inputs.
///
/// # Errors
///
/// Returns an error if the registry cannot answer.
pub async fn find_rebuild(
    store: &RecordStore<'_>,
    wanted: &Fingerprint,
    inputs: &Inputs,
) -> Result<Option<LookupResult>, Problem> {
    let repository = store.repository();
    let mark = tags::rebuilt_as(wanted);
    let Some(manifest) = repository.tagged(&mark).await? else {
        return Ok(None);
    };
    let digest = manifest.digest.as_str().into();
    let is_recorded = store.find(&mark, wanted, &digest).await?.is_some();
    if store.is_required() && !is_recorded {
        warn!(digest = %manifest.digest, "a mark of a rebuild has no record, and is ignored");
        return Ok(None);
    }
    if !repository.has_fingerprint(&manifest, wanted).await? {
        warn!(digest = %manifest.digest, "a mark of a rebuild points to no build of ours");
        return Ok(None);
    }
    let id = request_of(repository, &manifest, inputs).await?;
    let mut found = present(&manifest, &repository.images(&manifest).await?);
    if let LookupResult::Present { request, .. } = &mut found {
        *request = id;
    }
    Ok(Some(found))
}

/// Returns the id of the request that has rebuilt these inputs as this manifest.
async fn request_of(
    repository: &Repository<'_>,
    manifest: &Manifest,
    inputs: &Inputs,
) -> Result<Option<String>, Problem> {
    let Some(id) = rebuild_request(manifest) else { return Ok(None) };
    let requested = fingerprint(&Inputs { nonce: id.to_owned(), ..inputs.clone() });
    let pushed = repository.digest_of(&tags::pushed_as(&requested)).await?;
    Ok((pushed.as_ref() == Some(&manifest.digest)).then(|| id.to_owned()))
}
