//! What is kept of each family between two reconciles. Losing it costs some calls to registries and
//! to the API server, and nothing else. No client is needed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use crate::{
    api::RegistryCredential,
    build_records::{RecordedBuild, UnrecordedImage},
    controller::{
        check_images::CheckImages,
        deferred_jobs::DeferredJobs,
        deferred_statuses::DeferredStatuses,
        family::observe::{
            dockerfiles::DockerfileEffects, final_pods::FinalPods, image_keys::ImageKeys,
            job::EndedJobs, platform::DefaultPlatform, pod_events::PodEventCache,
            strategies::RenderedStrategy,
        },
        record_schedule::RecordSchedule,
        tag_owners::ClaimProblems,
    },
    engine::{
        Blueprint, DigestAnswer, LabelAnswer, Lookup, LookupResult, Observed, ObservedTag, Problem,
        RebuildMark,
    },
    found_edges::{EdgeExpansion, KnownParents, dockerfile::ReadDockerfile},
    identity::{Fingerprint, ImageDigest},
    lineage::families::{SpecVersion, Survey},
    registry::Keychain,
};

/// The most fingerprints per image whose registry answers are kept.
pub const MAX_LOOKUPS_PER_IMAGE: usize = 4;
/// A running cascade's record, and a family's counts, are written at most once per this time.
const MIN_WRITE_INTERVAL: SignedDuration = SignedDuration::from_secs(1);

/// A [`ReconcileCache`] per family, by the family's uid.
#[derive(Default)]
pub struct ReconcileCaches(Mutex<HashMap<String, Arc<tokio::sync::Mutex<ReconcileCache>>>>);

impl ReconcileCaches {
    /// Returns the cache of the family with this uid, an empty one if there is none yet.
    pub fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<ReconcileCache>> {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(caches.entry(uid.into()).or_default())
    }

    /// Forgets a deleted family.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// What is kept of one family.
#[derive(Default)]
pub struct ReconcileCache {
    /// What follows from a generation of the spec, or what is wrong with it.
    pub blueprint: Option<CachedBlueprint>,
    /// What is known of the images of other families that the spec names.
    pub survey: Option<CachedSurvey>,
    /// The registry credentials.
    pub keychain: Option<CachedKeychain>,
    /// The platform of builds whose strategies name none, until it is recorded.
    pub default_platform: Option<DefaultPlatform>,
    /// The family's strategies, as they were last rendered.
    pub strategies: Vec<RenderedStrategy>,
    /// The keys by which the pollers are asked for the family's tags.
    pub image_keys: ImageKeys,
    /// The revisions of `ConfigMap` sources, by image.
    pub config_maps: HashMap<String, CachedRevision>,
    /// What the Dockerfiles of images say, by image.
    pub dockerfiles: HashMap<String, CachedDockerfile>,
    /// The spec with the edges that Dockerfiles name.
    pub expansion: Option<CachedEdgeExpansion>,
    /// What the registry has answered to lookups of fingerprints.
    pub lookups: Lookups,
    /// The rebuilds that the registry has marked, by image.
    pub rebuild_marks: HashMap<String, RebuildMark>,
    /// The records of builds that the registry is known to have, by image.
    pub build_records: HashMap<String, RecordedBuild>,
    /// When the records of current builds are written.
    pub record_schedule: RecordSchedule,
    /// The images under our own tags that are no builds of ours, by image.
    unrecorded: HashMap<String, ReportedImage>,
    /// Whether the registry has the digests that images are to be rolled back to, by image.
    pub rollback_targets: HashMap<String, DigestAnswer>,
    /// What the registry has answered about labels, by image.
    pub labels: HashMap<String, LabelAnswer>,
    /// What registries have answered about the images that checks run in.
    pub check_images: CheckImages,
    /// What we last read or set of each tag, by image and tag.
    pub tags: HashMap<String, HashMap<String, TimedTag>>,
    /// The Events of pods that their nodes do not start, and of Jobs without a pod.
    pub pod_events: PodEventCache,
    /// What the Jobs that have ended have come to.
    pub ended_jobs: EndedJobs,
    /// The Jobs that have completed and whose pods were read.
    pub final_pods: FinalPods,
    /// The Jobs that are not admitted now.
    pub deferred_jobs: DeferredJobs,
    /// The statuses of images that are not written yet.
    pub deferred_statuses: DeferredStatuses,
    /// How many lookups in a row have failed or were rejected.
    pub failed_lookups: u32,
    /// Kinds of Jobs of which the API server is known to keep every field that they need:
    /// strategies by name and revision, and checks.
    pub accepted_jobs: HashSet<String>,
    /// Jobs whose creation got no answer: they may exist or not.
    pub unanswered: BTreeSet<String>,
    /// A cascade whose creation got no answer: it may exist or not.
    pub unanswered_cascade: Option<String>,
    /// Requests whose statuses were written without an answer: the statuses may differ from those
    /// in the store.
    pub unanswered_requests: BTreeSet<String>,
    /// Whether a write of the family's status got no answer, so that the status may differ from the
    /// one in the store.
    pub status_unknown: bool,
    /// The last rejection of the spec that was logged, so that each is logged once.
    logged_rejection: Option<LoggedRejection>,
    /// When records that change often were last written.
    written: HashMap<String, Timestamp>,
    /// When a gate of the spec was last known to keep the whole family from building. Losing it
    /// lets a metric count the time before the gate opened.
    pub gated_until: Option<Timestamp>,
    /// When the last reconcile began.
    began: Option<Timestamp>,
}

/// The result of validating one generation of a spec.
pub struct CachedBlueprint {
    /// The generation.
    pub generation: i64,
    /// What Dockerfiles say of it.
    pub dockerfiles: DockerfileEffects,
    /// Which of its images name what other families own, or what the operator does not allow.
    pub claims: ClaimProblems,
    /// What follows from it, or what is wrong with it.
    pub result: Result<Arc<Blueprint>, Problem>,
}

/// What is known of the images of other families that one version of a spec names.
pub struct CachedSurvey {
    /// The version of the family's spec.
    pub version: SpecVersion,
    /// What is known.
    pub survey: Arc<Survey>,
}

/// Registry credentials, with the Secrets that they were read from.
pub struct CachedKeychain {
    /// The Secrets.
    pub secrets: Vec<SecretVersion>,
    /// The credentials.
    pub keychain: Arc<Keychain>,
    /// What cannot be used of the Secrets.
    pub problems: Vec<Problem>,
}

/// A Secret in the version in which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// The Secret, and what it is used for.
    pub credential: RegistryCredential,
    /// The Secret's resource version; `None` if it does not exist.
    pub resource_version: Option<String>,
}

/// What the Dockerfile of an image says.
pub struct CachedDockerfile {
    /// The versions of its text, of the family's spec and of the platform.
    pub version: String,
    /// What it says.
    pub dockerfile: Arc<ReadDockerfile>,
}

/// The expansion of one generation of a spec.
pub struct CachedEdgeExpansion {
    /// The generation.
    pub generation: i64,
    /// What was known of the Dockerfiles.
    pub known: Vec<KnownParents>,
    /// The expanded spec.
    pub expansion: Arc<EdgeExpansion>,
}

/// The revision of a `ConfigMap` source.
pub struct CachedRevision {
    /// The version of the `ConfigMap`, and the items of it that are read.
    pub version: String,
    /// The revision, or why there is none.
    pub revision: Observed<String>,
}

impl CachedRevision {
    /// Whether the `ConfigMap` cannot be used.
    #[must_use]
    pub const fn is_invalid(&self) -> bool {
        matches!(self.revision, Observed::Failed(_))
    }
}

/// What a tag was found to point to, or was set to.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedTag {
    /// What the tag points to.
    pub tag: ObservedTag,
    /// When it was read or set.
    pub at: Timestamp,
}

/// An image that is no build of ours.
struct ReportedImage {
    unrecorded: UnrecordedImage,
    /// Whether an Event was published about it.
    is_published: bool,
}

/// A rejection of a spec that was logged.
#[derive(PartialEq, Eq)]
struct LoggedRejection {
    generation: Option<i64>,
    problem: Problem,
}

/// What the registry has answered to lookups: per image, for the last few fingerprints.
///
/// One answer per image would not do: a reconcile that opens a cascade decides first over the
/// current digests and then over the adopted ones, and could look up the two fingerprints in turn
/// for ever.
#[derive(Debug, Default)]
pub struct Lookups(HashMap<String, Vec<Lookup>>);

impl Lookups {
    /// Returns the answers for an image, the newest last.
    #[must_use]
    pub fn of(&self, image: &str) -> &[Lookup] {
        self.0.get(image).map_or(&[], Vec::as_slice)
    }

    /// Keeps an answer, in place of an earlier one for the same fingerprint.
    pub fn record(&mut self, image: &str, lookup: Lookup) {
        let known = self.0.entry(image.into()).or_default();
        known.retain(|earlier| earlier.fingerprint != lookup.fingerprint);
        if known.len() >= MAX_LOOKUPS_PER_IMAGE {
            known.remove(0);
        }
        known.push(lookup);
    }

    /// Drops an answer that a build has outdated.
    ///
    /// A build may have pushed this fingerprint since the registry answered that it has none. With
    /// an `attempt`, that attempt is known to have succeeded. An outdated answer must not stay: the
    /// Job that shows the success may be deleted before the answer is needed again.
    pub fn invalidate_absent(
        &mut self,
        image: &str,
        fingerprint: &Fingerprint,
        attempt: Option<i32>,
    ) {
        let before = |after: &Option<i32>| attempt.is_none() || *after < attempt;
        let outdated = |lookup: &Lookup| {
            lookup.fingerprint == *fingerprint
                && match &lookup.result {
                    LookupResult::Absent { after, .. } => before(after),
                    LookupResult::Existing(_) => true,
                    _ => false,
                }
        };
        if let Some(known) = self.0.get_mut(image) {
            known.retain(|lookup| !outdated(lookup));
        }
    }

    /// Forgets the answer for a fingerprint.
    pub fn forget_fingerprint(&mut self, image: &str, fingerprint: &Fingerprint) {
        if let Some(known) = self.0.get_mut(image) {
            known.retain(|lookup| lookup.fingerprint != *fingerprint);
        }
    }

    /// Forgets the answers for an image.
    pub fn forget(&mut self, image: &str) {
        self.0.remove(image);
    }

    /// Forgets all answers.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl ReconcileCache {
    /// Begins a reconcile. If the clock was set back since the last one, every time that was due by
    /// the old clock is dropped, so that nothing waits for it.
    pub fn begin_reconcile(&mut self, now: Timestamp) {
        if self.began.replace(now).is_some_and(|last| now < last) {
            self.written.clear();
            self.lookups.clear();
            self.deferred_jobs.clear();
            self.deferred_statuses.clear();
            self.check_images.clear();
            self.labels.clear();
            self.rollback_targets.clear();
            self.rebuild_marks.clear();
            self.record_schedule = RecordSchedule::default();
            self.forget_failed_tags();
        }
    }

    /// Forgets the tags that could not be moved, so that they are tried again.
    pub fn forget_failed_tags(&mut self) {
        for known_tags in self.tags.values_mut() {
            known_tags.retain(|_, known_tag| !matches!(known_tag.tag, ObservedTag::Failed(..)));
        }
    }

    /// Returns when a record that changes often may be written again; `None` if it may be written
    /// now.
    #[must_use]
    pub fn write_deferred_until(&self, record: &str, now: Timestamp) -> Option<Timestamp> {
        let last = self.written.get(record)?;
        last.saturating_add(MIN_WRITE_INTERVAL).ok().filter(|due| *due > now)
    }

    /// Notes what the floating tags of an image were found to point to.
    pub fn note_read_tags(
        &mut self,
        image: &str,
        tags: &BTreeMap<String, ImageDigest>,
        at: Timestamp,
    ) {
        let known_tags = self.tags.entry(image.into()).or_default();
        for (tag, digest) in tags {
            let tag_read = TimedTag { tag: ObservedTag::At(digest.clone()), at };
            known_tags.insert(tag.clone(), tag_read);
        }
    }

    /// Notes that one of our own tags points to an image that is no build of ours. It is logged
    /// once.
    pub fn note_unrecorded(&mut self, image: &str, unrecorded: UnrecordedImage) {
        let known = self.unrecorded.get(image);
        if known.is_some_and(|known| known.unrecorded == unrecorded) {
            return;
        }
        warn!(
            image, tag = unrecorded.tag, digest = %unrecorded.digest,
            "an image that no build of ours is recorded to have pushed is not used"
        );
        let reported = ReportedImage { unrecorded, is_published: false };
        self.unrecorded.insert(image.into(), reported);
    }

    /// Returns the images under our own tags that are no builds of ours and about which no Event
    /// was published yet, each with the name of the image that it is in the place of.
    pub fn take_unpublished(&mut self) -> Vec<(String, UnrecordedImage)> {
        let unpublished = self.unrecorded.iter_mut().filter(|(_, known)| !known.is_published);
        let published = unpublished.map(|(image, known)| {
            known.is_published = true;
            (image.clone(), known.unrecorded.clone())
        });
        published.collect()
    }

    /// Notes that a record that changes often is written now.
    pub fn note_write(&mut self, record: &str, now: Timestamp) {
        let is_recent = |at: Timestamp| now.duration_since(at) < MIN_WRITE_INTERVAL;
        self.written.retain(|_, at| is_recent(*at));
        self.written.insert(record.into(), now);
    }

    /// Returns whether this rejection of the spec is to be logged: once per generation and problem.
    pub fn should_log_rejection(&mut self, generation: Option<i64>, problem: &Problem) -> bool {
        let rejection = LoggedRejection { generation, problem: problem.clone() };
        self.logged_rejection.replace(rejection)
            != Some(LoggedRejection { generation, problem: problem.clone() })
    }

    /// Notes that the spec is accepted, so that the next rejection is logged even if it is the same
    /// as the last.
    pub fn note_accepted_spec(&mut self) {
        self.logged_rejection = None;
    }

    /// Forgets what belongs to images that the family no longer has.
    pub fn retain_images(&mut self, wanted: &HashSet<&str>) {
        self.config_maps.retain(|image, _| wanted.contains(image.as_str()));
        self.dockerfiles.retain(|image, _| wanted.contains(image.as_str()));
        self.deferred_jobs.retain(|image| wanted.contains(image));
        self.deferred_statuses.retain_images(wanted);
        self.lookups.0.retain(|image, _| wanted.contains(image.as_str()));
        self.tags.retain(|image, _| wanted.contains(image.as_str()));
        self.labels.retain(|image, _| wanted.contains(image.as_str()));
        self.rollback_targets.retain(|image, _| wanted.contains(image.as_str()));
        self.rebuild_marks.retain(|image, _| wanted.contains(image.as_str()));
        self.build_records.retain(|image, _| wanted.contains(image.as_str()));
        self.record_schedule.retain_images(wanted);
        self.unrecorded.retain(|image, _| wanted.contains(image.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::Reason;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn problem(reason: Reason) -> Problem {
        Problem { reason, message: String::new() }
    }

    #[test]
    fn a_record_is_written_at_most_once_per_interval() {
        let mut cache = ReconcileCache::default();
        assert_eq!(cache.write_deferred_until("family", second(100)), None);
        cache.note_write("family", second(100));
        assert_eq!(cache.write_deferred_until("family", second(100)), Some(second(101)));
        assert_eq!(cache.write_deferred_until("cascade", second(100)), None);
        assert_eq!(cache.write_deferred_until("family", second(101)), None);
    }

    #[test]
    fn a_rejection_is_logged_once_per_generation_and_problem() {
        let mut cache = ReconcileCache::default();
        assert!(cache.should_log_rejection(Some(1), &problem(Reason::Cycle)));
        assert!(!cache.should_log_rejection(Some(1), &problem(Reason::Cycle)));
        assert!(cache.should_log_rejection(Some(1), &problem(Reason::InvalidSpec)));
        assert!(cache.should_log_rejection(Some(2), &problem(Reason::InvalidSpec)));
        cache.note_accepted_spec();
        assert!(cache.should_log_rejection(Some(2), &problem(Reason::InvalidSpec)), "it came back");
    }

    #[test]
    fn nothing_waits_for_a_clock_that_was_set_back() {
        let after_reconciles = |times: &[i64]| {
            let mut cache = ReconcileCache::default();
            cache.begin_reconcile(second(100));
            cache.note_write("cascade", second(100));
            let result = LookupResult::Failed(problem(Reason::Cycle), second(105));
            cache.lookups.record("app", Lookup { fingerprint: "f".into(), result });
            let observed = |tag| TimedTag { tag, at: second(100) };
            let tags = [
                (
                    "latest".to_owned(),
                    observed(ObservedTag::Failed(problem(Reason::Cycle), second(130))),
                ),
                ("r1".to_owned(), observed(ObservedTag::At("sha256:1".into()))),
            ];
            cache.tags.insert("app".into(), tags.into());
            for time in times {
                cache.begin_reconcile(second(*time));
            }
            (
                cache.write_deferred_until("cascade", second(0)).is_some(),
                cache.lookups.of("app").len(),
                cache.tags["app"].len(),
            )
        };
        assert_eq!(after_reconciles(&[100, 101]), (true, 1, 2));
        assert_eq!(after_reconciles(&[101, 99]), (false, 0, 1));
    }

    #[test]
    fn a_build_outdates_the_answer_that_a_fingerprint_is_absent() {
        let asked_at = Timestamp::UNIX_EPOCH;
        let absent = |after| LookupResult::Absent { last_build: None, after, asked_at };
        let after_builds = |result: LookupResult, built: &[(&str, Option<i32>)]| {
            let mut lookups = Lookups::default();
            lookups.record("app", Lookup { fingerprint: "f".into(), result });
            for (fingerprint, attempt) in built {
                lookups.invalidate_absent("app", &(*fingerprint).into(), *attempt);
            }
            lookups.of("app").len()
        };
        assert_eq!(after_builds(absent(None), &[("f", Some(0))]), 0);
        assert_eq!(after_builds(absent(Some(0)), &[("f", Some(1))]), 0);
        assert_eq!(
            after_builds(absent(Some(0)), &[("f", None)]),
            0,
            "the outcome of the build is not known"
        );
        assert_eq!(
            after_builds(absent(Some(1)), &[("f", Some(1)), ("f", Some(0))]),
            1,
            "the registry was asked after the build had ended"
        );
        assert_eq!(after_builds(absent(None), &[("g", Some(0))]), 1);
        let failed = LookupResult::Failed(problem(Reason::Cycle), Timestamp::UNIX_EPOCH);
        assert_eq!(after_builds(failed, &[("f", None)]), 1);
    }
}
