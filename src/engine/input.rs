//! What one pass has seen: the whole input of the decision, beside the time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    api::{
        BuildFailure, CascadeStatus, Cause, HandledRequest, ImageFamilySpec, ImageFamilyStatus,
        Inputs, ManagedImageStatus, Request, condition::Problem,
    },
    engine::blueprint::Blueprint,
    identity::{BuildIdentity, Fingerprint, ImageDigest, JobName},
    lineage::{ImageIndex, Lineage},
};

/// Everything that one pass over a family has seen. Lists run parallel to those of the spec.
#[derive(Debug)]
pub struct DecideInput<'a> {
    /// The family's name.
    pub family: &'a str,
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// What the person wants.
    pub spec: &'a ImageFamilySpec,
    /// What follows from the spec alone.
    pub blueprint: &'a Blueprint,
    /// What was recorded of the family.
    pub status: &'a ImageFamilyStatus,
    /// The upstreams, as `spec.upstreams`.
    pub upstreams: Vec<ObservedUpstream>,
    /// The images of other families, as [`Lineage::imports`].
    pub imports: Vec<ObservedImport>,
    /// The images, as `spec.images`.
    pub images: Vec<ObservedImage<'a>>,
    /// Builds of images that the family no longer has.
    pub orphans: Vec<ObservedBuild>,
    /// The cascade that runs.
    pub cascade: Option<ObservedCascade<'a>>,
    /// The cascades that have ended and are still on record, the newest last.
    pub ended: Vec<EndedCascade<'a>>,
    /// Requests that are not handled yet.
    pub requests: Vec<ObservedRequest>,
    /// What the operator's limits leave to this family.
    pub budget: Budget,
}

impl<'a> DecideInput<'a> {
    /// The checked graph.
    #[must_use]
    pub fn lineage(&self) -> &'a Lineage {
        &self.blueprint.lineage
    }

    /// The superseded cascade whose place the next one takes.
    #[must_use]
    pub fn superseded(&self) -> Option<&'a str> {
        self.ended.last().filter(|cascade| cascade.superseded).map(|cascade| cascade.name)
    }
}

/// The cascade that runs.
#[derive(Clone, Copy, Debug)]
pub struct ObservedCascade<'a> {
    /// Its name.
    pub name: &'a str,
    /// The cascade that it has taken the place of.
    pub supersedes: Option<&'a str>,
    /// The images that it was about to build when it began.
    pub planned: &'a [Vec<String>],
    /// Its record.
    pub status: &'a CascadeStatus,
}

/// A cascade that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedCascade<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it ended early, for another to take its place.
    pub superseded: bool,
}

/// How many builds the operator's limits allow this family to start now; `None` where there is no
/// limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Its share of what is free in its namespace and in the cluster.
    pub family: Option<usize>,
    /// What is free for builds that an upstream has set off, by the upstream's reference. One that
    /// is not named has no limit.
    pub upstreams: BTreeMap<String, usize>,
}

/// Something that has to be looked up before a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// Not looked up yet.
    Pending,
    /// Found.
    Known(T),
    /// Not there, or of no use.
    Failed(Problem),
}

/// What the registry says of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedUpstream {
    /// The newest digest.
    pub newest: Option<ObservedDigest>,
    /// Why the last poll failed, if it did.
    pub problem: Option<Problem>,
}

/// A digest of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDigest {
    /// The digest; of the index, where the tag names one.
    pub digest: ImageDigest,
    /// When it was first seen by this process.
    pub first_seen: Timestamp,
    /// The platforms asked for that it does not offer.
    pub missing_platforms: Vec<String>,
}

/// An image of another family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedImport {
    /// Why it can't be used, if it can't.
    pub problem: Option<Problem>,
    /// Its last good build.
    pub verified: Option<ImportedBuild>,
    /// Whether that is about to change.
    pub state: ImportState,
}

/// Whether the digest of an image of another family is about to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportState {
    /// No, as far as can be seen.
    Settled,
    /// Yes: it is being rebuilt, or is about to be.
    OnItsWay,
    /// It has failed, or an ancestor of it has.
    Failed {
        /// The image that failed: `namespace/family.image`.
        by: String,
    },
}

/// The last good build of an image of another family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedBuild {
    /// Its digest.
    pub digest: ImageDigest,
    /// Its repository.
    pub repository: String,
    /// When the oldest upstream digest below it was first seen.
    pub base_seen: Option<Timestamp>,
    /// Why it was made.
    pub causes: Vec<Cause>,
}

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct ObservedImage<'a> {
    /// What was recorded.
    pub record: Option<&'a ManagedImageStatus>,
    /// The last good build of the record.
    pub verified: Option<Arc<VerifiedBuild>>,
    /// The source's revision.
    pub source: Observed<String>,
    /// The strategy's revision.
    pub strategy: Observed<String>,
    /// Its builds that the cluster still knows, of any fingerprint.
    pub builds: Vec<ObservedBuild>,
    /// Its checks that the cluster still knows, of any digest.
    pub checks: Vec<ObservedCheck>,
    /// What the registry last answered to whether a fingerprint was pushed, once for each of the
    /// last few fingerprints: one pass may want to know of the one from the adopted digests and of
    /// the one from those that are about to be.
    pub lookups: Vec<Lookup>,
    /// Where its tags were last seen.
    pub tags: HashMap<String, ObservedTag>,
}

/// A build that is pushed and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedBuild {
    /// Its digest.
    pub digest: ImageDigest,
    /// The fingerprint that it is verified for.
    pub fingerprint: Fingerprint,
    /// Its number.
    pub build: i64,
    /// Bytes of its config and layers.
    pub size: i64,
    /// What it was made from; for a spared build, what it would have been made from.
    pub inputs: Inputs,
    /// When the oldest upstream digest below it was first seen.
    pub base_seen: Option<Timestamp>,
    /// Hash of what a user would notice of it; see `policy.cutoff`.
    pub content: Option<String>,
    /// Hash of its config and layers as they are stored.
    pub blobs: Option<String>,
    /// Hash of the checks that it has passed.
    pub checked: Option<String>,
    /// Why it was made, down to what changed first.
    pub causes: Vec<Cause>,
    /// Whether a rebuild came out the same, so that this digest stayed.
    pub spared: bool,
}

impl VerifiedBuild {
    /// The last good build of a record, if it has one.
    #[must_use]
    pub fn of(record: &ManagedImageStatus) -> Option<Self> {
        Some(Self {
            digest: record.digest.as_ref()?.into(),
            fingerprint: record.fingerprint.as_ref()?.into(),
            build: record.build?,
            size: record.size.unwrap_or_default(),
            inputs: record.inputs.clone().unwrap_or_default(),
            base_seen: record.base_seen,
            content: record.content.clone(),
            blobs: record.blobs.clone(),
            checked: record.checked.clone(),
            causes: record.causes.clone(),
            spared: false,
        })
    }
}

/// A tag as the registry shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedTag {
    /// It stands on this digest.
    At(ImageDigest),
    /// An immutable tag that stands on another digest than ours, and is left there.
    Taken(ImageDigest),
    /// It was to be moved and could not be; tried again at the time.
    Failed(Problem, Timestamp),
}

/// A Job of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBuild {
    /// The Job's name.
    pub job: JobName,
    /// Which build it is, and what it was started for.
    pub identity: BuildIdentity,
    /// When it was made.
    pub started_at: Option<Timestamp>,
    /// How far it is.
    pub outcome: BuildOutcome,
    /// What its pod waits for, if it has not started.
    pub waits_for: Option<String>,
    /// Whether its Job has not ended, so that pods of it may run or come up, whatever the outcome
    /// counts as.
    pub live: bool,
}

impl ObservedBuild {
    /// When it was started, if no person caused it: such starts are slowed down in a storm.
    #[must_use]
    pub fn uncaused_start(&self) -> Option<Timestamp> {
        self.started_at.filter(|_| !self.identity.user_caused)
    }
}

/// How far a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildOutcome {
    /// Not ended.
    Running,
    /// Its pod has succeeded. What was pushed is for the registry to say.
    Succeeded,
    /// It has failed.
    Failed(BuildFailure),
    /// It is being ended on purpose, or was: it counts as nothing.
    Stopped,
}

/// A Job of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedCheck {
    /// The Job's name.
    pub job: JobName,
    /// The check's name.
    pub check: String,
    /// Hash of what the spec said of the check.
    pub revision: String,
    /// The digest that it checks.
    pub digest: ImageDigest,
    /// Which attempt it is, from 0.
    pub attempt: i32,
    /// What its pod waits for, if it has not started.
    pub waits_for: Option<String>,
    /// How far it is.
    pub outcome: CheckOutcome,
    /// Whether its Job has not ended: what was stopped goes on until its pod is gone.
    pub live: bool,
}

/// How far a check is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Not ended.
    Running,
    /// Its exit code was 0. With its last words.
    Passed(String),
    /// Its exit code was not 0, or what is around it failed: the class says.
    Failed(BuildFailure),
    /// Its Job was deleted before its end, so that there is no verdict.
    Stopped,
}

/// The registry's answer to whether a fingerprint was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The fingerprint that was asked for.
    pub fingerprint: Fingerprint,
    /// The answer.
    pub result: LookupResult,
}

/// Whether a fingerprint was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// It stands in the registry.
    Present {
        /// Its digest.
        digest: ImageDigest,
        /// The number of the build that pushed it.
        build: i64,
        /// Bytes of its config and layers.
        size: i64,
        /// Hash of what a user would notice of it; `None` where that can't be told.
        content: Option<String>,
        /// Hash of its config and layers as they are stored.
        blobs: Option<String>,
    },
    /// It does not.
    Absent {
        /// The highest build number that the registry shows for the image; asked only where no
        /// record has it.
        last_build: Option<i64>,
        /// The highest attempt that had succeeded when the registry was asked.
        after: Option<i32>,
    },
    /// It stands there and is not what it says: for example it does not stand on the parent that it
    /// was to be built from. Asked again at the time, for somebody may delete it.
    Rejected(Problem, Timestamp),
    /// The registry could not say; it is asked again at the time.
    Failed(Problem, Timestamp),
}

/// A request that is not handled yet, and the object whose annotation it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRequest {
    /// Where it stands, and where its outcome is recorded.
    pub target: Target,
    /// The request, or the record of one that can't be read.
    pub request: Result<Request, HandledRequest>,
}

/// The object on which a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The `ImageFamily`.
    Family,
    /// The `ManagedImage` of this image.
    Image(ImageIndex),
}
