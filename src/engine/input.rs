//! The input of the decision: everything that a reconcile has read. Only the time is passed
//! separately.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    api::{
        AdoptionRecord, BuildFailure, CascadeStatus, Cause, ImageFamilySpec, ImageFamilyStatus,
        Inputs, LabelRecord, ManagedImageStatus, PlatformDigest, RememberedUpstream, Request,
        RequestError, RequestState, TagContent,
        condition::{Problem, Reason},
    },
    engine::blueprint::Blueprint,
    identity::{
        BlobsHash, BuildIdentity, CascadeName, ChecksHash, ContentHash, Fingerprint,
        FolderRevision, ImageDigest, JobName,
    },
    lineage::Lineage,
};

/// Everything that a reconcile of a family has read. Lists are parallel to those of the spec.
#[derive(Debug)]
pub struct DecideInput<'a> {
    /// The family's name.
    pub family: &'a str,
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// The spec.
    pub spec: &'a ImageFamilySpec,
    /// What follows from the spec alone.
    pub blueprint: &'a Blueprint,
    /// The recorded status of the family.
    pub status: &'a ImageFamilyStatus,
    /// The upstreams, parallel to `spec.upstreams`.
    pub upstreams: Vec<ObservedUpstream>,
    /// The images of other families, parallel to [`Lineage::imports`].
    pub imports: Vec<ObservedImport>,
    /// The images, parallel to `spec.images`.
    pub images: Vec<ObservedImage<'a>>,
    /// Builds of images that the family no longer has.
    pub orphans: Vec<ObservedBuild>,
    /// The running cascades, the oldest first.
    pub cascades: Vec<ObservedCascade<'a>>,
    /// The cascades that have ended and still exist as objects, the last that ended last.
    pub ended: Vec<EndedCascade>,
    /// The requests that have not ended, the earliest first.
    pub requests: Vec<ObservedRequest>,
    /// How many builds the operator's limits allow this family to start.
    pub allowance: BuildAllowance,
}

impl<'a> DecideInput<'a> {
    /// Returns the checked graph.
    #[must_use]
    pub fn lineage(&self) -> &'a Lineage {
        &self.blueprint.lineage
    }

    /// Whether this is the name of a cascade that was superseded.
    #[must_use]
    pub fn is_superseded(&self, cascade: &CascadeName) -> bool {
        self.ended.iter().any(|ended| ended.superseded && ended.name == *cascade)
    }

    /// Returns the name of the superseded cascade that the next one replaces, or `None` if another
    /// one replaces it already.
    #[must_use]
    pub fn superseded(&self) -> Option<&CascadeName> {
        let last = self.ended.iter().rfind(|cascade| cascade.superseded)?;
        let running = self.cascades.iter().map(|cascade| cascade.supersedes);
        let ended = self.ended.iter().map(|cascade| cascade.supersedes.as_ref());
        let is_replaced = running.chain(ended).any(|replaced| replaced == Some(&last.name));
        (!is_replaced).then_some(&last.name)
    }
}

/// A running cascade.
#[derive(Clone, Copy, Debug)]
pub struct ObservedCascade<'a> {
    /// The name of the cascade.
    pub name: &'a CascadeName,
    /// The name of the cascade that it has replaced.
    pub supersedes: Option<&'a CascadeName>,
    /// The names of the images that it planned to build when it started, level by level.
    pub planned: &'a [Vec<String>],
    /// The recorded status of the cascade.
    pub status: &'a CascadeStatus,
}

/// A cascade that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedCascade {
    /// The name of the cascade.
    pub name: CascadeName,
    /// Whether it ended early so that another one replaces it.
    pub superseded: bool,
    /// The name of the cascade that it has replaced.
    pub supersedes: Option<CascadeName>,
}

/// How many builds the operator's limits allow this family to start now. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildAllowance {
    /// The family's share of the free builds of its namespace and of the cluster.
    pub family: Option<usize>,
    /// How many builds that an upstream caused may start, by the reference of the upstream. An
    /// upstream without an entry has no limit.
    pub upstreams: BTreeMap<String, usize>,
}

/// A value that is looked up before a build, for example the revision of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// The lookup has not finished.
    Pending,
    /// The value is known.
    Known(T),
    /// The value does not exist, or can't be used.
    Failed(Problem),
}

/// What the registry has answered about an upstream.
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
    /// The digest that the tag itself points to.
    pub digest: ImageDigest,
    /// The digests of its images for the platforms that are built. If neither these nor
    /// `unoffered` are given, builds use `digest`.
    pub platforms: Vec<PlatformDigest>,
    /// The built platforms that the tag does not offer, although it says what it offers.
    pub unoffered: Vec<String>,
    /// The platforms of the spec that the tag does not offer.
    pub missing_platforms: Vec<String>,
    /// When this process first observed the digest.
    pub first_observed: Timestamp,
    /// When the last poll that did not fail has found the tag at it.
    pub confirmed_at: Timestamp,
    /// When polls have found the tag at it again after the last time for which nothing is known.
    pub resumed_at: Option<Timestamp>,
}

impl ObservedDigest {
    /// Returns what the tag points to.
    #[must_use]
    pub fn content(&self) -> TagContent<'_> {
        TagContent { digest: self.digest.as_str(), platforms: &self.platforms }
    }

    /// Whether the tag says what it offers, and that is nothing that is built.
    #[must_use]
    pub const fn offers_none(&self) -> bool {
        self.platforms.is_empty() && !self.unoffered.is_empty()
    }
}

/// An image of another family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedImport {
    /// Why the image can't be used, if so.
    pub problem: Option<Problem>,
    /// The last verified build of the image.
    pub verified: Option<ImportedBuild>,
    /// Whether the verified build is about to change.
    pub state: ImportState,
}

/// Whether the digest of an image of another family is about to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportState {
    /// No change is known.
    Settled,
    /// The image is being rebuilt, or is about to be.
    InProgress,
    /// The image or an ancestor of it has failed.
    Failed {
        /// The image that failed: `namespace/family.image`.
        by: String,
    },
}

/// The last verified build of an image of another family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedBuild {
    /// The digest of the build.
    pub digest: ImageDigest,
    /// The repository that holds it.
    pub repository: String,
    /// When the oldest upstream digest below it was first observed.
    pub base_observed: Option<Timestamp>,
    /// Why the build was started.
    pub causes: Vec<Cause>,
}

/// What a reconcile has read about an image.
#[derive(Clone, Debug)]
pub struct ObservedImage<'a> {
    /// The recorded status.
    pub record: Option<&'a ManagedImageStatus>,
    /// What the record remembers of upstreams outside of its status.
    pub remembered: &'a [RememberedUpstream],
    /// The verified build of `record`.
    pub verified: Option<Arc<VerifiedBuild>>,
    /// The revision of the source.
    pub source: Observed<String>,
    /// The folder that has this revision, if the source is a Git repository.
    pub folder: Option<Arc<FolderRevision>>,
    /// The revision of the build strategy.
    pub strategy: Observed<String>,
    /// The platform of the builds; `None` if it is not known.
    pub platform: Option<Arc<str>>,
    /// The builds whose Jobs still exist, of any fingerprint.
    pub builds: Vec<ObservedBuild>,
    /// The checks whose Jobs still exist, of any digest.
    pub checks: Vec<ObservedCheck>,
    /// The Jobs of the image that are not admitted now.
    pub deferred: Vec<DeferredJob>,
    /// Versions of the spec and of the strategy that the image's Jobs are made of.
    pub job_version: String,
    /// Version of what the pods of the image's builds are made of.
    pub pod_version: String,
    /// The registry's last answers to whether a fingerprint was pushed, one for each of the last
    /// few fingerprints. One reconcile may need two of them: the fingerprint from the adopted
    /// digests, and the one from the digests that are about to be adopted.
    pub lookups: Vec<Lookup>,
    /// What each tag of the image points to, as last observed.
    pub tags: HashMap<String, ObservedTag>,
    /// The last attempt to mark the result of a requested rebuild in the registry.
    pub rebuild_mark: Option<RebuildMark>,
    /// The registry's last answer about labels of a digest.
    pub labels: Option<LabelAnswer>,
    /// The tags of the image's repository that belong to other families, each with its family.
    /// Known only for an image whose tags name labels.
    pub foreign_tags: Arc<BTreeMap<String, String>>,
}

/// An attempt to mark a digest in the registry as the newest build of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildMark {
    /// The fingerprint of the inputs without the request.
    pub fingerprint: Fingerprint,
    /// The digest.
    pub digest: ImageDigest,
    /// When to try again, if the registry could not answer.
    pub retry_at: Option<Timestamp>,
}

/// The registry's answer about labels of a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelAnswer {
    /// The labels that were asked for.
    Read {
        /// The digest.
        digest: ImageDigest,
        /// Its labels.
        labels: Vec<LabelRecord>,
    },
    /// They could not be read. They are read again at the given time.
    Unread {
        /// The digest.
        digest: ImageDigest,
        /// Why.
        problem: Problem,
        /// When to ask again.
        ask_at: Timestamp,
    },
}

/// A Job that a quota, a policy or a node has rejected. It is created again, and no attempt is
/// spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeferredJob {
    /// What the Job is for.
    pub work: DeferredWork,
    /// Why it was rejected.
    pub problem: Problem,
    /// When it was first rejected, of the rejections in a row.
    pub since: Timestamp,
    /// When it is created again.
    pub retry_at: Timestamp,
}

/// What a Job that was rejected is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeferredWork {
    /// A build of a fingerprint.
    Build(Fingerprint),
    /// A check of a digest.
    Check {
        /// The digest.
        digest: ImageDigest,
        /// Hash of the check's spec.
        revision: String,
    },
}

/// A build that is pushed and has passed its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedBuild {
    /// The digest of the build.
    pub digest: ImageDigest,
    /// The fingerprint that the build is verified for.
    pub fingerprint: Fingerprint,
    /// The number of the build.
    pub build: i64,
    /// Size of the configs and layers in bytes.
    pub size: i64,
    /// The inputs of the build. For a spared build, the inputs of the rebuild that gave the same
    /// content.
    pub inputs: Inputs,
    /// When the oldest upstream digest below it was first observed.
    pub base_observed: Option<Timestamp>,
    /// Its content.
    pub content: Option<ContentHash>,
    /// Its configs and layers.
    pub blobs: Option<BlobsHash>,
    /// The checks that it has passed.
    pub checked: Option<ChecksHash>,
    /// Why the build was started, including what changed first.
    pub causes: Vec<Cause>,
    /// Whether a rebuild gave the same content, so that this digest stayed.
    pub spared: bool,
    /// How the digest was adopted from the registry, if it was not built.
    pub adopted: Option<AdoptionRecord>,
    /// The labels of the digest that templates of tags name, as far as they were read.
    pub labels: Vec<LabelRecord>,
}

impl VerifiedBuild {
    /// Returns the verified build of a recorded status.
    #[must_use]
    pub fn of(record: &ManagedImageStatus) -> Option<Self> {
        let digest = record.digest.as_ref()?;
        Some(Self {
            digest: digest.into(),
            fingerprint: record.fingerprint.as_ref()?.into(),
            build: record.build?,
            size: record.size.unwrap_or_default(),
            inputs: record.inputs.clone().unwrap_or_default(),
            base_observed: record.base_observed,
            content: record.content.as_ref().map(ContentHash::from),
            blobs: record.blobs.as_ref().map(BlobsHash::from),
            checked: record.checked.as_ref().map(ChecksHash::from),
            causes: record.causes.clone(),
            spared: false,
            adopted: record
                .adopted
                .clone()
                // An earlier version has recorded no digest.
                .filter(|adopted| adopted.digest.is_empty() || adopted.digest == *digest),
            labels: record.labels.clone(),
        })
    }

    /// Returns why an adopted digest is not known to be built on its base, if so.
    #[must_use]
    pub fn mismatch(&self) -> Option<&str> {
        self.adopted.as_ref()?.mismatch.as_deref()
    }
}

/// What a tag points to in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedTag {
    /// The tag points to this digest.
    At(ImageDigest),
    /// The tag is immutable and points to a digest that is not ours. It is left as it is.
    Taken(ImageDigest),
    /// The tag could not be set. It is tried again at the given time.
    Failed(Problem, Timestamp),
}

/// A build as its Job shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBuild {
    /// The name of the Job.
    pub job: JobName,
    /// Identifies the build, and says what it was started for.
    pub identity: BuildIdentity,
    /// When the Job was created.
    pub started_at: Option<Timestamp>,
    /// The outcome so far.
    pub outcome: BuildOutcome,
    /// What the pod waits for, if it has not started.
    pub waits_for: Option<String>,
    /// The reason for what the pod waits for.
    pub wait_reason: Option<Reason>,
    /// Whether a container of ours has started, or may have.
    pub has_started: bool,
    /// The repository that the build pushes to; `None` if its Job does not say so, because an
    /// earlier version has created it.
    pub repository: Option<String>,
    /// Whether the Job has not ended, so that its pods may run or start, whatever `outcome` says.
    pub live: bool,
}

impl ObservedBuild {
    /// Whether the build pushes to this repository, as far as its Job says.
    #[must_use]
    pub fn pushes_to(&self, repository: &str) -> bool {
        self.repository.as_ref().is_none_or(|known| known == repository)
    }

    /// Ignores how the build has ended if it does not push to the repository that its image has
    /// now. It is then neither a success nor a failure.
    pub fn ignore_other_repository(&mut self, wanted: &str) {
        if !self.pushes_to(wanted) && self.outcome != BuildOutcome::Running {
            self.outcome = BuildOutcome::Stopped;
        }
    }

    /// Returns when the build was started, unless a user caused it or it was not admitted.
    /// `policy.rateLimit` counts these starts only.
    #[must_use]
    pub fn rate_limited_start(&self) -> Option<Timestamp> {
        self.started_at.filter(|_| !self.identity.user_caused && !self.is_rejected())
    }

    /// Whether the Job has no pod that may run, because the pod was rejected.
    #[must_use]
    pub const fn is_rejected(&self) -> bool {
        matches!(self.outcome, BuildOutcome::NotAdmitted(_))
    }
}

/// The outcome of a build so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildOutcome {
    /// The build has not ended.
    Running,
    /// The build has succeeded. Only the registry says what was pushed.
    Succeeded,
    /// The build has failed.
    Failed(BuildFailure),
    /// The Job's pod was rejected, so that nothing has run. This is not a failure.
    NotAdmitted(Problem),
    /// The Job is being deleted on purpose, or was. It counts neither as a success nor as a
    /// failure.
    Stopped,
}

/// A check as its Job shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedCheck {
    /// The Job's name.
    pub job: JobName,
    /// The name of the check.
    pub check: String,
    /// Hash of the check's spec.
    pub revision: String,
    /// The digest that is checked.
    pub digest: ImageDigest,
    /// The image that the check runs in, with its digest, if that is not the new image.
    pub image: Option<String>,
    /// Which attempt it is, counted from 0.
    pub attempt: i32,
    /// What its pod waits for, if it has not started.
    pub waits_for: Option<String>,
    /// The outcome so far.
    pub outcome: CheckOutcome,
    /// Whether the Job has not ended. A stopped check runs until its pod is gone.
    pub live: bool,
}

/// The outcome of a check so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The check has not ended.
    Running,
    /// The exit code was 0. Holds the end of its output.
    Passed(String),
    /// The exit code was not 0, or the infrastructure failed. The class says which.
    Failed(BuildFailure),
    /// The Job's pod was rejected, so that nothing has run. There is no result.
    NotAdmitted(Problem),
    /// The Job was deleted before it ended, so that there is no result.
    Stopped,
}

/// The registry's answer to whether a fingerprint was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The fingerprint that was looked up.
    pub fingerprint: Fingerprint,
    /// The answer.
    pub result: LookupResult,
}

/// Whether a fingerprint was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// The registry has the fingerprint.
    Present {
        /// The digest that was pushed.
        digest: ImageDigest,
        /// The number of the build that pushed it.
        build: i64,
        /// Size of the configs and layers in bytes.
        size: i64,
        /// Its content; `None` if it is unknown.
        content: Option<ContentHash>,
        /// Its configs and layers; `None` if they are unknown.
        blobs: Option<BlobsHash>,
        /// The id of the request that has rebuilt these inputs, if the build is the result. The
        /// build then has the fingerprint of these inputs with the id.
        request: Option<String>,
    },
    /// The registry does not have the fingerprint.
    Absent {
        /// The highest build number that the registry has for the image; looked up only where no
        /// record has a number.
        last_build: Option<i64>,
        /// The highest attempt that had succeeded when the registry was asked.
        after: Option<i32>,
    },
    /// The registry does not have the fingerprint, and the family may adopt what the tags of the
    /// image point to.
    Existing(ExistingImage),
    /// The registry has an image that is not what its tag claims, for example one that is not built
    /// on the pinned parent. It is asked again at the given time, because a user may delete the
    /// tag.
    Rejected(Problem, Timestamp),
    /// The registry could not answer. It is asked again at the given time.
    Failed(Problem, Timestamp),
}

/// What the floating tags of an image point to that has no build yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingImage {
    /// What each of them points to, of those that were read.
    pub tags: BTreeMap<String, ImageDigest>,
    /// The image that all of them point to, or `None` if there is none.
    pub found: Option<FoundImage>,
    /// Why there is none, or why it is not adopted as current.
    pub mismatch: Option<String>,
    /// The platforms of the image that the family does not build.
    pub lost_platforms: Vec<String>,
    /// The highest build number that the registry has for the image.
    pub last_build: Option<i64>,
    /// When the tags were read.
    pub read_at: Timestamp,
    /// When to ask again if there is none.
    pub ask_at: Timestamp,
}

/// An image that the registry has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundImage {
    /// The digest.
    pub digest: ImageDigest,
    /// Size of the configs and layers in bytes.
    pub size: i64,
    /// Its content.
    pub content: Option<ContentHash>,
    /// Its configs and layers.
    pub blobs: Option<BlobsHash>,
}

/// A request that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRequest {
    /// The name of its object.
    pub name: String,
    /// The request, or why the object is none.
    pub request: Result<Request, RequestError>,
    /// The recorded state; `None` if the request is new.
    pub state: Option<RequestState>,
    /// The recorded digest that it holds an upstream at.
    pub digest: Option<String>,
    /// The recorded image and tag of the upstream that it holds.
    pub reference: Option<String>,
}
