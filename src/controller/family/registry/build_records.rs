//! Records of builds in the registry: reading those that count, and writing them. No client of the
//! API server is needed.
//!
//! Anyone who may push to a repository decides what its tags point to. So what the tag of a
//! fingerprint points to is a build of ours only if a record says so that only the controller can
//! sign, or our own status does, or the pod of the build.

use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::ResourceExt;
use tracing::{info, warn};

use crate::{
    api::{ManagedImageStatus, condition::Reason},
    backoff::jitter_seed,
    build_records::{
        RecordPolicy, RecordSettings, RecordedBuild,
        artifact::{self, EMPTY_BLOB, RecordedImage},
        envelope::{self, VerifiedStatement},
        statement::{BuildStatement, RecordedInputs, StatementKind},
    },
    controller::{
        family::{
            reconcile::Reconcile,
            registry::{MAX_CONCURRENT_REQUESTS, pushed_image::Repository},
        },
        object_cache::Key,
        record_schedule::{RecordAttempt, UnrecordedBuild},
    },
    engine::{Problem, VerifiedBuild, causes::short, tags},
    identity::{Fingerprint, ImageDigest},
    lineage::ImageIndex,
    registry::{Manifest, RegistryError},
};

/// The records of one family in a repository.
pub struct RecordStore<'a> {
    repository: &'a Repository<'a>,
    settings: &'a RecordSettings,
    family: String,
}

impl<'a> RecordStore<'a> {
    /// Returns the records of a family in a repository.
    #[must_use]
    pub fn new(repository: &'a Repository<'a>, settings: &'a RecordSettings, family: &Key) -> Self {
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

    /// Returns the id of the key that has signed a record of `tag`, if the record says that the
    /// digest is the result of the fingerprint. If there are several, it is the newest key.
    pub async fn find(
        &self,
        tag: &str,
        fingerprint: &Fingerprint,
        digest: &ImageDigest,
    ) -> Result<Option<String>, Problem> {
        let mut found = None;
        for place in self.places(tag) {
            let Some(statement) = self.read(&place).await? else { continue };
            let is_valid = self.is_about(&statement.statement, tag, fingerprint, digest);
            if is_valid && statement.key == self.signer() {
                return Ok(Some(statement.key));
            }
            found = found.or(is_valid.then_some(statement.key));
        }
        Ok(found)
    }

    /// Returns the tags that a record of `tag` can have: that of all records, and those where a
    /// registry lets nobody replace an earlier record.
    fn places(&self, tag: &str) -> impl Iterator<Item = String> {
        let ids = self.settings.keys.ids();
        let of_keys = ids.map(|signer| tags::recorded_by(tag, signer, &self.family));
        std::iter::once(tags::recorded_as(tag)).chain(of_keys)
    }

    /// Returns what the record under a tag says, if one of the keys has signed it.
    async fn read(&self, place: &str) -> Result<Option<VerifiedStatement>, Problem> {
        let Some(record) = self.repository.tagged(place).await? else { return Ok(None) };
        let annotation = record.annotations().get(crate::api::labels::OCI_RECORD);
        let envelope = annotation.and_then(|annotation| artifact::envelope(annotation));
        Ok(envelope.and_then(|bytes| envelope::verify(&bytes, &self.settings.keys)))
    }

    /// Whether a statement says of `tag` that a digest is the result of a fingerprint.
    fn is_about(
        &self,
        statement: &BuildStatement,
        tag: &str,
        fingerprint: &Fingerprint,
        digest: &ImageDigest,
    ) -> bool {
        let is_of_mark = tag == tags::rebuilt_as(fingerprint);
        let repository = self.repository.full_name();
        (statement.kind == StatementKind::Rebuild) == is_of_mark
            && statement.is_about(&self.family, &repository, fingerprint, digest)
    }

    /// Writes the record of `tag`. `image` is the manifest of the first digest of the statement.
    pub async fn write(
        &self,
        tag: &str,
        statement: &BuildStatement,
        image: &Manifest,
    ) -> Result<(), RecordError> {
        self.write_to(&tags::recorded_as(tag), statement, image).await
    }

    async fn write_to(
        &self,
        place: &str,
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
        let tag = self.repository.tag(place).map_err(RecordError::from)?;
        self.repository.push_artifact(&tag, manifest, EMPTY_BLOB).await?;
        info!(record = %tag, digest = short(image.digest.as_str()), "recorded a build");
        Ok(())
    }

    /// Writes the record of `tag`. If the registry keeps another one there and lets nobody replace
    /// it, the record gets a tag of its own. Returns the id of the key that has signed the record:
    /// an earlier one if only its record says the same, and the registry takes no other.
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
        let found = self.find(tag, &statement.fingerprint, &digest).await?;
        if found.as_deref() == Some(self.signer()) {
            return found.ok_or(refused);
        }
        let own = tags::recorded_by(tag, self.signer(), &self.family);
        match self.write_to(&own, statement, image).await {
            Ok(()) => Ok(self.signer().to_owned()),
            Err(error) if error.is_transient => Err(error),
            Err(_) => found.ok_or(refused),
        }
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

/// The record of a current build that is to be written.
struct UnwrittenRecord<'a> {
    build: UnrecordedBuild,
    repository: Repository<'a>,
    statement: BuildStatement,
}

/// The result of an attempt to write the record of a current build.
struct AttemptedRecord {
    build: UnrecordedBuild,
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
        if let Some(at) = self.cache.record_schedule.paused_until(self.now) {
            return Some(at);
        }
        let reconcile = &*self;
        let unwritten: Vec<_> = ImageIndex::enumerate(&reconcile.snapshot.family.spec.images)
            .filter_map(|(index, _)| reconcile.unwritten_record(index))
            .collect();
        let schedule = &reconcile.cache.record_schedule;
        let due = schedule.due(unwritten, |record| &record.build, reconcile.now);
        let more_at = due.is_more.then_some(self.now);
        let writes: Vec<_> =
            due.records.into_iter().map(|record| reconcile.write_record(record)).collect();
        let attempted: Vec<AttemptedRecord> =
            stream::iter(writes).buffer_unordered(MAX_CONCURRENT_REQUESTS).collect().await;
        let mut has_failed = false;
        for attempt in attempted {
            has_failed |= self.note_record(attempt) == RecordAttempt::Failed;
        }
        let failures = self.cache.record_schedule.failures().saturating_add(1);
        let retry_at = has_failed.then(|| self.lookup_retry_at(failures));
        let schedule = &mut self.cache.record_schedule;
        schedule.end_attempts(retry_at);
        retry_at.or(more_at).or_else(|| schedule.next_at(self.now))
    }

    /// Notes the result of an attempt to write a record.
    fn note_record(&mut self, attempted: AttemptedRecord) -> RecordAttempt {
        let AttemptedRecord { build, result } = attempted;
        let image = &build.image;
        let attempt = match result {
            Ok(recorded) if recorded.key == self.context.records.keys.signer().id() => {
                self.cache.build_records.insert(image.clone(), recorded);
                RecordAttempt::Written
            }
            Ok(recorded) => {
                warn!(
                    image,
                    key = recorded.key,
                    "the registry takes no record of the newest key; keep the key that has signed \
                     the one that it has"
                );
                self.cache.build_records.insert(image.clone(), recorded);
                RecordAttempt::Kept
            }
            Err(problem) => {
                warn!(image, message = %problem.message, "could not record a current build");
                RecordAttempt::Failed
            }
        };
        let seed = jitter_seed(&[&self.snapshot.family.uid().unwrap_or_default()]);
        self.cache.record_schedule.note(build, attempt, self.now, seed);
        attempt
    }

    /// Returns the record of a current build that is to be written.
    fn unwritten_record(&self, index: ImageIndex) -> Option<UnwrittenRecord<'_>> {
        let image = &self.image(index)?.name;
        let decided = self.decision.images.get(index.position())?;
        let verified = decided.verified.as_deref().filter(|build| build.adopted.is_none())?;
        let record = self.snapshot.records.get(index.position())?.as_ref()?;
        let status = record.status.as_ref()?;
        let cached = self.cache.build_records.get(image);
        if !lacks_record(status, cached, verified, self.context.records.keys.signer().id()) {
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
        let build =
            UnrecordedBuild { image: image.clone(), fingerprint: verified.fingerprint.clone() };
        Some(UnwrittenRecord { build, repository, statement })
    }

    async fn write_record(&self, record: UnwrittenRecord<'_>) -> AttemptedRecord {
        let UnwrittenRecord { build, repository, statement } = record;
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
        AttemptedRecord { build, result }
    }
}

/// Whether our status says that the last verified build is the current one, but neither it nor what
/// was learned since that the key with the id `signer` has recorded it. What our status does not
/// say yet is recorded when the registry is asked for it.
fn lacks_record(
    status: &ManagedImageStatus,
    cached: Option<&RecordedBuild>,
    verified: &VerifiedBuild,
    signer: &str,
) -> bool {
    let is_current = status.digest.as_deref() == Some(verified.digest.as_str())
        && status.fingerprint.as_deref() == Some(verified.fingerprint.as_str());
    let cached = cached.filter(|recorded| {
        recorded.digest == verified.digest && recorded.fingerprint == verified.fingerprint
    });
    let known = cached.map(|recorded| recorded.key.as_str()).or(status.recorded.as_deref());
    is_current && known != Some(signer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_builds_are_recorded_again_when_a_key_is_added() {
        let verified = VerifiedBuild {
            fingerprint: "f1".into(),
            digest: "d1".into(),
            ..VerifiedBuild::default()
        };
        let status = |fingerprint: &str, digest: &str, recorded: Option<&str>| ManagedImageStatus {
            fingerprint: Some(fingerprint.into()),
            digest: Some(digest.into()),
            recorded: recorded.map(Into::into),
            ..ManagedImageStatus::default()
        };
        let cached = |fingerprint: &str, key: &str| RecordedBuild {
            fingerprint: fingerprint.into(),
            digest: "d1".into(),
            key: key.into(),
        };
        for (status, cached, is_lacking) in [
            (status("f1", "d1", None), None, true),
            (status("f1", "d1", Some("old")), None, true),
            (status("f1", "d1", Some("new")), None, false),
            (status("f1", "d1", Some("old")), Some(cached("f1", "new")), false),
            (status("f1", "d1", Some("old")), Some(cached("f1", "old")), true),
            (status("f1", "d1", Some("old")), Some(cached("f0", "new")), true),
            (status("f0", "d1", Some("old")), None, false),
            (status("f1", "d0", Some("old")), None, false),
            (ManagedImageStatus::default(), None, false),
        ] {
            let found = lacks_record(&status, cached.as_ref(), &verified, "new");
            assert_eq!(found, is_lacking, "{status:?} {cached:?}");
        }
    }
}
