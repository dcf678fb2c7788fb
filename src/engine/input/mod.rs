//! The input of the decision: everything that a reconcile has read. Only the time is passed
//! separately.

mod jobs;
mod registry;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use kube::ResourceExt as _;

use crate::{
    api::{
        AdoptionRecord, CascadeStatus, Cause, FamilyRequest, ImageFamilySpec, ImageFamilyStatus,
        Inputs, LabelRecord, ManagedImageStatus, PlatformDigest, RememberedUpstream, Request,
        RequestError, RequestState, RolledBackImage, TagContent, condition::Problem,
    },
    engine::blueprint::Blueprint,
    identity::{
        BlobsHash, CascadeName, ChecksHash, ContentHash, Fingerprint, FolderRevision, ImageDigest,
    },
    lineage::Lineage,
};

pub use jobs::{
    BuildOutcome, CheckOutcome, DeferredJob, DeferredWork, ObservedBuild, ObservedCheck,
};
pub use registry::{
    DigestAnswer, DigestResult, ExistingImage, FoundImage, LabelAnswer, Lookup, LookupResult,
    ObservedTag, RebuildMark,
};

/// Everything that a reconcile of a family has read. Lists are parallel to those of the spec.
#[derive(Debug)]
pub struct DecideInput<'a> {
    /// The family's name.
    pub family: &'a str,
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
    /// Checks of images that the family no longer has.
    pub orphan_checks: Vec<ObservedCheck>,
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
    /// When the registry may serve pulls again. `None` if it does, as far as is known.
    pub pulls_resume_at: Option<Timestamp>,
    /// When the tag is polled next, if that is late.
    pub next_poll: Option<Timestamp>,
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
    /// The digest of the earlier build that the image is rolled back to, if it is.
    pub rolled_back_to: Option<ImageDigest>,
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
    /// Version of the Secrets with the family's registry credentials.
    pub credentials_version: Arc<str>,
    /// The registry's last answers to whether a fingerprint was pushed, one for each of the last
    /// few fingerprints. One reconcile may need two of them: the fingerprint from the adopted
    /// digests, and the one from the digests that are about to be adopted.
    pub lookups: Vec<Lookup>,
    /// What each tag of the image points to, as last observed.
    pub tags: HashMap<String, ObservedTag>,
    /// The last attempt to mark the result of a requested rebuild in the registry.
    pub rebuild_mark: Option<RebuildMark>,
    /// Whether the registry has the digest that the image is to be rolled back to, as last asked.
    pub rollback_target: Option<DigestAnswer>,
    /// The registry's last answer about labels of a digest.
    pub labels: Option<LabelAnswer>,
    /// The tags of the image's repository that belong to other families, each with its family.
    /// Known only for an image whose tags name labels.
    pub foreign_tags: Arc<BTreeMap<String, String>>,
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
    /// The recorded images that it holds at earlier builds.
    pub rollbacks: Vec<RolledBackImage>,
}

impl ObservedRequest {
    /// Reads a request from its object.
    #[must_use]
    pub fn of(object: &FamilyRequest) -> Self {
        let status = object.status.as_ref();
        Self {
            name: object.name_any(),
            request: Request::of(object),
            state: object.state(),
            digest: status.and_then(|status| status.digest.clone()),
            reference: status.and_then(|status| status.reference.clone()),
            rollbacks: status.map(|status| status.rollbacks.clone()).unwrap_or_default(),
        }
    }
}
