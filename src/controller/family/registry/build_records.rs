//! Records of builds in the registry: reading those that count, and writing them. No client of the
//! API server is needed.
//!
//! Anyone who may push to a repository decides what its tags point to. So what the tag of a
//! fingerprint points to is a build of ours only if a record says so that only the controller can
//! sign, or our own status does, or the pod of the build.

use futures::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{info, warn};

use crate::{
    api::condition::Reason,
    build_records::{
        RecordPolicy, RecordSettings, RecordedBuild,
        artifact::{self, EMPTY_BLOB, RecordedImage},
        envelope,
        statement::{BuildStatement, RecordedInputs, StatementKind},
    },
    controller::{
        family::{
            reconcile::Reconcile,
            registry::{lookup::MAX_CONCURRENT_LOOKUPS, pushed_image::Repository},
        },
        object_cache::Key,
    },
    engine::{Problem, causes::short, tags},
    identity::{Fingerprint, ImageDigest},
    lineage::ImageIndex,
    registry::{Manifest, RegistryError},
};

/// The most records of current builds that one reconcile writes.
const MAX_WRITES: usize = 64;

/// The records of one family in a repository.
pub struct RecordStore<'a> {
    repository: &'a Repository<'a>,
    settings: &'a RecordSettings,
    family: String,
}

impl<'a> RecordStore<'a> {
    /// Returns the records of a family in a repository.
    #[must_use]
    pub fn new(
        repository: &'a Repository<'a>,
        settings: &'a RecordSettings,
        family: &Key,
    ) -> Self {
        Self { repository, settings, family: recorded_family(family) }
    }

    /// Returns the repository.
    #[must_use]
    pub const fn repository(&self) -> &'a Repository<'a> {
        self.repository
    }

    /// Whether a build counts only if it has a record.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.settings.policy == RecordPolicy::Required
    }

    /// Returns the id of the key that signs.
    #[must_use]
    pub fn signer(&self) -> &'a str {
        self.settings.keys.signer().id()
    }

    /// Returns the id of the key that has signed the record of `tag`, if the record says that the
    /// digest is the result of the fingerprint.
    pub async fn find(
        &self,
        tag: &str,
        fingerprint: &Fingerprint,
        digest: &ImageDigest,
    ) -> Result<Option<String>, Problem> {
        let Some(record) = self.repository.tagged(&tags::recorded_as(tag)).await? else {
            return Ok(None);
        };
        let annotation = record.annotations().get(crate::api::labels::OCI_RECORD);
        let envelope = annotation.and_then(|annotation| artifact::envelope(annotation));
        let verified = envelope.and_then(|bytes| envelope::verify(&bytes, &self.settings.keys));
        let is_of_mark = tag == tags::rebuilt_as(fingerprint);
        let found = verified.filter(|verified| {
            let statement = &verified.statement;
            (statement.kind == StatementKind::Rebuild) == is_of_mark
                && statement.is_about(
                    &self.family,
                    &self.repository.full_name(),
                    fingerprint,
                    digest,
                )
        });
        Ok(found.map(|verified| verified.key))
    }

    /// Writes the record of `tag`. `image` is the manifest of the first digest of the statement.
    pub async fn write(
        &self,
        tag: &str,
        statement: &BuildStatement,
        image: &Manifest,
    ) -> Result<(), RecordError> {
        let envelope =
            envelope::sign(statement, &self.settings.keys).map_err(|error| RecordError {
                problem: Problem { reason: Reason::InvalidSecret, message: error.to_string() },
                is_transient: false,
            })?;
        let subject = RecordedImage {
            media_type: &image.media_type,
            digest: image.digest.as_str(),
            size: image.bytes.len(),
        };
        let manifest = artifact::manifest(&envelope, subject);
        let tag = self.repository.tag(&tags::recorded_as(tag)).map_err(RecordError::from)?;
        self.repository.push_artifact(&tag, manifest, EMPTY_BLOB).await?;
        info!(record = %tag, digest = short(image.digest.as_str()), "recorded a build");
        Ok(())
    }

    /// Writes the record of `tag` unless the registry keeps an earlier one that says the same and
    /// lets nobody replace it. Returns the id of the key that has signed the record.
    pub async fn ensure(
        &self,
        tag: &str,
        statement: &BuildStatement,
        image: &Manifest,
    ) -> Result<String, RecordError> {
        let refused = match self.write(tag, statement, image).await {
            Ok(()) => return Ok(self.signer().to_owned()),
            Err(error) if error.is_transient => return Err(error),
            Err(error) => error,
        };
        let digest = image.digest.as_str().into();
        let found = self.find(tag, &statement.fingerprint, &digest).await;
        found.map_err(RecordError::from)?.ok_or(refused)
    }
}

/// Why a record was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// What is wrong.
    pub problem: Problem,
    /// Whether another attempt may succeed without anybody changing anything.
    pub is_transient: bool,
}

impl From<RegistryError> for RecordError {
    fn from(error: RegistryError) -> Self {
        Self { is_transient: error.is_transient(), problem: error.into() }
    }
}

impl From<Problem> for RecordError {
    fn from(problem: Problem) -> Self {
        Self { problem, is_transient: false }
    }
}

/// A current build whose record is to be written.
struct UnwrittenRecord<'a> {
    image: &'a str,
    repository: Repository<'a>,
    statement: BuildStatement,
}

/// The result of an attempt to write the record of a current build.
struct AttemptedRecord {
    image: String,
    result: Result<RecordedBuild, Problem>,
}

impl Reconcile<'_> {
    /// Returns a statement about the build of an image.
    #[must_use]
    pub(super) fn statement(
        &self,
        image: ImageIndex,
        repository: &Repository<'_>,
        kind: StatementKind,
        result: &RecordedResult<'_>,
    ) -> BuildStatement {
        let decided = self.decision.images.get(image.position());
        let inputs = decided.and_then(|decided| {
            let of_verified = decided.verified.as_ref().map(|verified| &verified.inputs);
            decided.inputs.as_deref().or(of_verified)
        });
        BuildStatement {
            kind,
            family: recorded_family(&self.snapshot.key),
            repository: repository.full_name(),
            fingerprint: result.fingerprint.clone(),
            digests: result.digests.to_vec(),
            inputs: RecordedInputs {
                build: Some(result.build),
                request: inputs.map(|inputs| inputs.nonce.clone()).filter(|id| !id.is_empty()),
                platform: self.snapshot.platform(image).map(ToString::to_string),
                parents: inputs.map(|inputs| inputs.parents.clone()).unwrap_or_default(),
            },
        }
    }

    /// Writes the records of current builds that have none of the newest key: those of an earlier
    /// version, and all of them after the key has changed. Our own status is proof enough that they
    /// are builds of ours. Returns when this is continued.
    pub async fn record_current_builds(&mut self) -> Option<Timestamp> {
        if self.snapshot.family.spec.suspend {
            return None;
        }
        if let Some(at) = self.cache.record_retry_at.filter(|at| *at > self.now) {
            return Some(at);
        }
        let reconcile = &*self;
        let unwritten: Vec<_> = ImageIndex::enumerate(&reconcile.snapshot.family.spec.images)
            .filter_map(|(index, _)| reconcile.unwritten_record(index))
            .take(MAX_WRITES)
            .collect();
        let is_more = unwritten.len() == MAX_WRITES;
        let writes: Vec<_> =
            unwritten.into_iter().map(|record| reconcile.write_record(record)).collect();
        let attempted: Vec<AttemptedRecord> =
            stream::iter(writes).buffer_unordered(MAX_CONCURRENT_LOOKUPS).collect().await;
        let mut has_failed = false;
        for AttemptedRecord { image, result } in attempted {
            match result {
                Ok(recorded) => {
                    self.cache.build_records.insert(image, recorded);
                }
                Err(problem) => {
                    warn!(image, message = %problem.message, "could not record a current build");
                    has_failed = true;
                }
            }
        }
        self.cache.failed_records =
            if has_failed { self.cache.failed_records.saturating_add(1) } else { 0 };
        self.cache.record_retry_at =
            has_failed.then(|| self.lookup_retry_at(self.cache.failed_records));
        self.cache.record_retry_at.or_else(|| is_more.then_some(self.now))
    }

    /// Returns the record of a current build that is to be written.
    fn unwritten_record(&self, index: ImageIndex) -> Option<UnwrittenRecord<'_>> {
        let image = &self.image(index)?.name;
        let decided = self.decision.images.get(index.position())?;
        let verified = decided.verified.as_deref().filter(|build| build.adopted.is_none())?;
        let record = self.snapshot.records.get(index.position())?.as_ref()?;
        let status = record.status.as_ref()?;
        // What our own status does not say yet is recorded when the registry is asked for it.
        if status.digest.as_deref() != Some(verified.digest.as_str())
            || status.fingerprint.as_deref() != Some(verified.fingerprint.as_str())
        {
            return None;
        }
        let signer = self.context.records.keys.signer().id();
        let cached = self.cache.build_records.get(image).filter(|recorded| {
            recorded.digest == verified.digest && recorded.fingerprint == verified.fingerprint
        });
        let known = cached.map(|recorded| recorded.key.as_str()).or(status.recorded.as_deref());
        if known == Some(signer) {
            return None;
        }
        let name = self.snapshot.repository(index);
        let (registry, keychain) = (&self.context.registry, &self.snapshot.keychain);
        let repository = Repository::new(registry, keychain, &name).ok()?;
        let result = RecordedResult {
            fingerprint: &verified.fingerprint,
            digests: std::slice::from_ref(&verified.digest),
            build: verified.build,
        };
        let mut statement = self.statement(index, &repository, StatementKind::Build, &result);
        statement.inputs.parents.clone_from(&verified.inputs.parents);
        Some(UnwrittenRecord { image, repository, statement })
    }

    async fn write_record(&self, record: UnwrittenRecord<'_>) -> AttemptedRecord {
        let UnwrittenRecord { image, repository, statement } = record;
        let store = RecordStore::new(&repository, &self.context.records, &self.snapshot.key);
        let tag = tags::pushed_as(&statement.fingerprint);
        let written = async {
            let Some(digest) = statement.digests.first() else { return Ok(String::new()) };
            let manifest = repository.known_manifest(&digest.as_str().parse()?).await?;
            store.ensure(&tag, &statement, &manifest).await.map_err(|error| error.problem)
        };
        let result = written.await.map(|key| RecordedBuild {
            fingerprint: statement.fingerprint.clone(),
            digest: statement.digests.first().cloned().unwrap_or_default(),
            key,
        });
        AttemptedRecord { image: image.to_owned(), result }
    }
}

/// Returns what records call a family.
pub(super) fn recorded_family(family: &Key) -> String {
    format!("{}/{}", family.namespace, family.name)
}

/// What a statement says about a fingerprint.
pub(super) struct RecordedResult<'a> {
    /// The fingerprint.
    pub fingerprint: &'a Fingerprint,
    /// Its digests, the one that counts first.
    pub digests: &'a [ImageDigest],
    /// The number of the build.
    pub build: i64,
}
