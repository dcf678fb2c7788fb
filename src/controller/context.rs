//! What every pass shares: clients, caches, pollers, and the little that is remembered between two
//! passes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Client,
    runtime::{events::Recorder, reflector::ObjectRef},
};

use crate::{
    api::ImageFamily,
    builds::job::BuildEnvironment,
    clock::Clock,
    controller::{
        backoff::ReconcileBackoff,
        dependents::Dependents,
        family::observe::{image_keys::ImageKeys, strategies::Revised},
        git_poll::GitKey,
        quota::BuildQuota,
        rollouts::Rollouts,
        stores::Stores,
        tag_owners::TagOwners,
        watch::Scopes,
    },
    engine::{Blueprint, Lookup, LookupResult, Observed, ObservedTag, Problem},
    identity::Fingerprint,
    lineage::families::{SpecVersion, Survey},
    registry::{self, Keychain},
    rollout,
    server::Metrics,
    upstream::{ImageKey, Poller, UpstreamDigest},
};

/// The most fingerprints of an image of which the registry's answer is remembered.
pub const MAX_PUSHES: usize = 4;

/// What every pass shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// The namespaces that are watched.
    pub scopes: Scopes,
    /// What the watches have shown.
    pub stores: Stores,
    /// Workloads and Namespaces, for rollouts.
    pub workloads: rollout::WorkloadStore,
    /// Which images roll out where.
    pub rollouts: Rollouts,
    /// Registries.
    pub registry: registry::Client,
    /// Tags of upstreams, and our own tags, as the registries show them.
    pub tags: Poller<ImageKey, UpstreamDigest, ObjectRef<ImageFamily>>,
    /// Branches and tags of Git repositories.
    pub revisions: Poller<GitKey, String, ObjectRef<ImageFamily>>,
    /// How builds are run by this operator.
    pub environment: BuildEnvironment,
    /// How often our own tags are looked at, for somebody else may have moved them.
    pub audit: crate::api::Duration,
    /// Which families stand on which others.
    pub dependents: Dependents,
    /// The operator's limits, and who runs and waits within them.
    pub quota: BuildQuota,
    /// Who claimed which tag first.
    pub tag_owners: TagOwners,
    /// Events.
    pub recorder: Recorder,
    /// Metrics.
    pub metrics: Metrics,
    /// Failed passes in a row.
    pub failures: ReconcileBackoff,
    /// What is remembered of each family.
    pub reconcile_caches: ReconcileCaches,
}

/// What is remembered of each family between two passes. Losing it costs some calls to registries,
/// and nothing else.
#[derive(Default)]
pub struct ReconcileCaches(Mutex<HashMap<String, Arc<tokio::sync::Mutex<ReconcileCache>>>>);

/// Names of Secrets with the versions in which they were read.
pub type SecretVersions = Vec<(String, String)>;

/// A running cascade's record, and a family's counts, are written at most this often.
const COALESCE: SignedDuration = SignedDuration::from_secs(1);

/// What is remembered of one family.
#[derive(Default)]
pub struct ReconcileCache {
    /// What follows from a generation of the spec, or what is wrong with it.
    pub blueprint: Option<(i64, Result<Arc<Blueprint>, Problem>)>,
    /// What is known of the images of other families that a version of the spec names.
    pub survey: Option<(SpecVersion, Arc<Survey>)>,
    /// The credentials, with the versions of the Secrets that they were read from.
    pub keychain: Option<(SecretVersions, Arc<Keychain>)>,
    /// Its strategies, as they were last looked at.
    pub strategies: Vec<Revised>,
    /// How registries are asked for its tags.
    pub image_keys: ImageKeys,
    /// Revisions of `ConfigMap` sources per image, with the version that they were read from.
    pub config_maps: HashMap<String, (String, Observed<String>)>,
    /// What the registry has answered to whether fingerprints were pushed.
    pub lookups: Lookups,
    /// Tags per image, and when we last looked or moved them.
    pub tags: HashMap<String, HashMap<String, (ObservedTag, Timestamp)>>,
    /// How often in a row a registry's answer to that was of no use.
    pub useless_answers: u32,
    /// Kinds of Jobs for which the API server was seen to keep what they need: strategies by name
    /// and revision, and checks.
    pub accepted_jobs: HashSet<String>,
    /// Jobs that were asked for, and of which it is not known whether they were made.
    pub unanswered: BTreeSet<String>,
    /// A cascade that was asked for, and of which it is not known whether it was made.
    pub unanswered_cascade: Option<String>,
    /// Whether the family's status may be another one than is known: a write of it got no answer.
    pub unsure: bool,
    /// When records that change often were last written.
    written: HashMap<&'static str, Timestamp>,
    /// When the last pass began.
    began: Option<Timestamp>,
}

/// What the registry has answered to whether fingerprints were pushed: per image, for the last few
/// fingerprints that it was asked for.
///
/// One answer would not do: a pass that opens a cascade decides over the digests of before and over
/// those that it adopts, and could ask for the one and the other in turn for ever.
#[derive(Debug, Default)]
pub struct Lookups(HashMap<String, Vec<Lookup>>);

impl Lookups {
    /// The answers of an image, the newest last.
    #[must_use]
    pub fn of(&self, image: &str) -> &[Lookup] {
        self.0.get(image).map_or(&[], Vec::as_slice)
    }

    /// Keeps an answer instead of an earlier one for the same fingerprint.
    pub fn answered(&mut self, image: &str, lookup: Lookup) {
        let known = self.0.entry(image.into()).or_default();
        known.retain(|earlier| earlier.fingerprint != lookup.fingerprint);
        if known.len() >= MAX_PUSHES {
            known.remove(0);
        }
        known.push(lookup);
    }

    /// A build may have pushed this fingerprint; it is known to have succeeded, if `attempt` names
    /// it. That nothing stood there when the registry was asked before that is of no use any more:
    /// the Job that would tell of it may be gone by the time that somebody wants to know.
    pub fn built(&mut self, image: &str, fingerprint: &Fingerprint, attempt: Option<i32>) {
        let before = |after: &Option<i32>| attempt.is_none() || *after < attempt;
        let outdated = |lookup: &Lookup| {
            lookup.fingerprint == *fingerprint
                && matches!(&lookup.result, LookupResult::Absent { after, .. } if before(after))
        };
        if let Some(known) = self.0.get_mut(image) {
            known.retain(|lookup| !outdated(lookup));
        }
    }

    /// Forgets the answers of an image.
    pub fn forget(&mut self, image: &str) {
        self.0.remove(image);
    }

    /// Forgets all answers.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl ReconcileCache {
    /// A pass begins. Where the clock was set back since the one before, nothing is put off to a
    /// time that was near by it.
    pub fn begins(&mut self, now: Timestamp) {
        if self.began.replace(now).is_some_and(|last| now < last) {
            self.written.clear();
            self.lookups.clear();
            for observations in self.tags.values_mut() {
                observations
                    .retain(|_, (observed, _)| !matches!(observed, ObservedTag::Failed(..)));
            }
        }
    }

    /// When a record that changes often may be written again; `None` is at once.
    #[must_use]
    pub fn held_back(&self, record: &'static str, now: Timestamp) -> Option<Timestamp> {
        let last = self.written.get(record)?;
        last.saturating_add(COALESCE).ok().filter(|due| *due > now)
    }

    /// A record that changes often is written.
    pub fn writes(&mut self, record: &'static str, now: Timestamp) {
        self.written.insert(record, now);
    }

    /// Forgets what belongs to images that the family no longer has.
    pub fn retain_images(&mut self, wanted: &HashSet<&str>) {
        self.config_maps.retain(|image, _| wanted.contains(image.as_str()));
        self.lookups.0.retain(|image, _| wanted.contains(image.as_str()));
        self.tags.retain(|image, _| wanted.contains(image.as_str()));
    }
}

impl ReconcileCaches {
    /// What is remembered of the family with this uid.
    pub fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<ReconcileCache>> {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.into()).or_default())
    }

    /// Forgets a family that is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_record_is_held_back_for_a_moment() {
        let mut cache = ReconcileCache::default();
        assert_eq!(cache.held_back("family", second(100)), None);
        cache.writes("family", second(100));
        assert_eq!(cache.held_back("family", second(100)), Some(second(101)));
        assert_eq!(cache.held_back("cascade", second(100)), None);
        assert_eq!(cache.held_back("family", second(101)), None);
    }

    #[test]
    fn nothing_waits_for_a_clock_that_was_set_back() {
        let problem = Problem { reason: "X", message: String::new() };
        let after_passes = |passes: &[i64]| {
            let mut cache = ReconcileCache::default();
            cache.begins(second(100));
            cache.writes("cascade", second(100));
            let result = LookupResult::Failed(problem.clone(), second(105));
            cache.lookups.answered("app", Lookup { fingerprint: "f".into(), result });
            let (faulty, set) = (
                ObservedTag::Failed(problem.clone(), second(130)),
                ObservedTag::At("sha256:1".into()),
            );
            let tags = [
                ("latest".to_owned(), (faulty, second(100))),
                ("r1".to_owned(), (set, second(100))),
            ];
            cache.tags.insert("app".into(), tags.into());
            for pass in passes {
                cache.begins(second(*pass));
            }
            (
                cache.held_back("cascade", second(0)).is_some(),
                cache.lookups.of("app").len(),
                cache.tags["app"].len(),
            )
        };
        assert_eq!(after_passes(&[100, 101]), (true, 1, 2));
        assert_eq!(after_passes(&[101, 99]), (false, 0, 1));
    }

    #[test]
    fn an_answer_that_nothing_stands_there_is_of_no_use_after_a_build() {
        let absent = |after| LookupResult::Absent { last_build: None, after };
        let after_builds = |result: LookupResult, built: &[(&str, Option<i32>)]| {
            let mut lookups = Lookups::default();
            lookups.answered("app", Lookup { fingerprint: "f".into(), result });
            for (fingerprint, attempt) in built {
                lookups.built("app", &(*fingerprint).into(), *attempt);
            }
            lookups.of("app").len()
        };
        assert_eq!(after_builds(absent(None), &[("f", Some(0))]), 0);
        assert_eq!(after_builds(absent(Some(0)), &[("f", Some(1))]), 0);
        assert_eq!(
            after_builds(absent(Some(0)), &[("f", None)]),
            0,
            "how its build ended is not \
            known"
        );
        assert_eq!(
            after_builds(absent(Some(1)), &[("f", Some(1)), ("f", Some(0))]),
            1,
            "asked \
            after it had ended"
        );
        assert_eq!(after_builds(absent(None), &[("g", Some(0))]), 1);
        let problem = Problem { reason: "X", message: String::new() };
        assert_eq!(
            after_builds(LookupResult::Failed(problem, Timestamp::UNIX_EPOCH), &[("f", None)]),
            1
        );
    }
}
