//! Whether what the tag of a fingerprint points to is a build of ours. No client of the API server
//! is needed.

use tracing::warn;

use crate::{
    api::ManagedImageStatus,
    build_records::{
        RecordedBuild,
        statement::{BuildStatement, StatementKind},
    },
    controller::family::{
        reconcile::Reconcile,
        registry::{
            build_records::{RecordStore, RecordedResult},
            lookup::FingerprintQuery,
        },
    },
    engine::{LookupResult, Problem, causes::short, tags},
    identity::{Fingerprint, ImageDigest},
    registry::Manifest,
};

/// Why a digest is taken for a build of ours, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recognition {
    /// A record says so, which the key with this id has signed.
    Recorded(String),
    /// Our own status or the pod of its build says so. It gets a record.
    Own,
    /// Nothing says so, and the settings require no record. It gets one if it has the annotations
    /// of a build of ours.
    Unrecorded,
    /// Nothing says so. It counts as absent, and the next build replaces it.
    Unknown,
}

impl FingerprintQuery<'_> {
    /// Returns whether the manifest under the tag of a fingerprint is a build of ours.
    pub(super) async fn recognize(
        &self,
        fingerprint: &Fingerprint,
        manifest: &Manifest,
    ) -> Result<Recognition, Problem> {
        let digest = ImageDigest::from(manifest.digest.as_str());
        let snapshot = &self.reconcile.snapshot;
        let record = snapshot.records.get(self.image.position()).and_then(Option::as_ref);
        let status = record.and_then(|record| record.status.as_ref());
        if let Some(key) = status.and_then(|status| recorded_by(status, fingerprint, &digest)) {
            return Ok(Recognition::Recorded(key.to_owned()));
        }
        let is_reported = snapshot.builds_of(self.image).iter().any(|build| {
            build.identity.fingerprint == *fingerprint && build.pushed.as_ref() == Some(&digest)
        });
        if is_reported || status.is_some_and(|status| is_known(status, fingerprint, &digest)) {
            return Ok(Recognition::Own);
        }
        recognize_by_record(&self.records(), fingerprint, &digest).await
    }

    /// Writes the record of a build that has none. A build whose record cannot be written is not
    /// used where records are required.
    pub(super) async fn ensure_record(
        &self,
        fingerprint: &Fingerprint,
        manifest: &Manifest,
        recognition: Recognition,
        result: &LookupResult,
    ) -> Result<Option<RecordedBuild>, Problem> {
        let digest = ImageDigest::from(manifest.digest.as_str());
        if let Recognition::Recorded(key) = recognition {
            return Ok(Some(RecordedBuild { fingerprint: fingerprint.clone(), digest, key }));
        }
        let build = match result {
            LookupResult::Present { build, .. } => *build,
            _ => 0,
        };
        let about = RecordedResult { fingerprint, digests: std::slice::from_ref(&digest), build };
        let statement =
            self.reconcile.statement(self.image, &self.repository, StatementKind::Build, &about);
        let image = self.reconcile.image_name(self.image);
        record_build(&self.records(), image, &statement, manifest).await
    }

    /// Returns the records in the repository of the image.
    pub(super) fn records(&self) -> RecordStore<'_> {
        let Reconcile { context, snapshot, .. } = self.reconcile;
        RecordStore::new(&self.repository, &context.records, &snapshot.key)
    }
}

/// Returns whether a digest is a build of ours, if nothing but a record can say so.
pub(super) async fn recognize_by_record(
    store: &RecordStore<'_>,
    fingerprint: &Fingerprint,
    digest: &ImageDigest,
) -> Result<Recognition, Problem> {
    let found = store.find(&tags::pushed_as(fingerprint), fingerprint, digest).await?;
    Ok(match found {
        Some(key) => Recognition::Recorded(key),
        None if store.is_required() => Recognition::Unknown,
        None => Recognition::Unrecorded,
    })
}

/// Writes the record of a build of this image. Where records are not required, the build is used
/// without one if it cannot be written.
pub(super) async fn record_build(
    store: &RecordStore<'_>,
    image: &str,
    statement: &BuildStatement,
    manifest: &Manifest,
) -> Result<Option<RecordedBuild>, Problem> {
    let digest = ImageDigest::from(manifest.digest.as_str());
    let fingerprint = statement.fingerprint.clone();
    match store.ensure(&tags::pushed_as(&fingerprint), statement, manifest).await {
        Ok(key) => Ok(Some(RecordedBuild { fingerprint, digest, key })),
        Err(error) => {
            let Problem { reason, message } = error.problem;
            let message = format!(
                "{image} was pushed as {}, but its record cannot be written: {message}",
                short(&digest)
            );
            if store.is_required() {
                return Err(Problem { reason, message });
            }
            warn!(image, message, "a build has no record");
            Ok(None)
        }
    }
}

/// Returns the id of the key that has signed the record of a digest, if our status says that the
/// digest is the result of the fingerprint.
fn recorded_by<'a>(
    status: &'a ManagedImageStatus,
    fingerprint: &Fingerprint,
    digest: &ImageDigest,
) -> Option<&'a str> {
    let is_current = status.digest.as_deref() == Some(digest.as_str())
        && status.fingerprint.as_deref() == Some(fingerprint.as_str());
    status.recorded.as_deref().filter(|_| is_current)
}

/// Whether our status says that a digest is the result of a fingerprint. What was adopted was not
/// built by us.
fn is_known(status: &ManagedImageStatus, fingerprint: &Fingerprint, digest: &ImageDigest) -> bool {
    let is_current = status.adopted.is_none()
        && status.digest.as_deref() == Some(digest.as_str())
        && status.fingerprint.as_deref() == Some(fingerprint.as_str());
    let is_reported = status
        .reported
        .as_ref()
        .is_some_and(|it| *digest == it.digest && *fingerprint == it.fingerprint);
    is_current
        || is_reported
        || status
            .history
            .iter()
            .any(|build| *digest == build.digest && *fingerprint == build.fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AdoptionRecord, BuildRecord, ReportedPush};

    #[test]
    fn our_status_knows_the_current_build_and_those_before() {
        let build = |fingerprint: &str, digest: &str| BuildRecord {
            fingerprint: fingerprint.into(),
            digest: digest.into(),
            ..BuildRecord::default()
        };
        let status = ManagedImageStatus {
            fingerprint: Some("f3".into()),
            digest: Some("d3".into()),
            recorded: Some("key".into()),
            history: vec![build("f2", "d2"), build("f1", "")],
            reported: Some(ReportedPush { fingerprint: "f4".into(), digest: "d4".into() }),
            ..ManagedImageStatus::default()
        };
        let adopted =
            ManagedImageStatus { adopted: Some(AdoptionRecord::default()), ..status.clone() };
        for (fingerprint, digest, is_of_ours) in [
            ("f3", "d3", true),
            ("f2", "d2", true),
            ("f3", "d2", false),
            ("f2", "d3", false),
            ("f1", "d1", false),
            ("f4", "d4", true),
            ("f4", "d3", false),
        ] {
            let (fingerprint, digest) = (fingerprint.into(), digest.into());
            assert_eq!(is_known(&status, &fingerprint, &digest), is_of_ours, "{fingerprint}");
        }
        assert!(!is_known(&adopted, &"f3".into(), &"d3".into()), "not built by us");
        assert_eq!(recorded_by(&status, &"f3".into(), &"d3".into()), Some("key"));
        assert_eq!(recorded_by(&status, &"f2".into(), &"d2".into()), None);
    }
}
