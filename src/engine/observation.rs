//! What one pass has seen: the whole input of the decision, beside the time.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::{
    api::{BuildFailure, CascadeStatus, FamilyImageStatus, ImageFamilySpec, ImageFamilyStatus, condition::Fault},
    lineage::Lineage,
};

/// Everything that one pass over a family has seen. Lists run parallel to those of the spec.
#[derive(Debug)]
pub struct Observation<'a> {
    /// The family's name.
    pub family: &'a str,
    /// What the person wants.
    pub spec: &'a ImageFamilySpec,
    /// Its checked graph.
    pub lineage: &'a Lineage,
    /// What was recorded of the family.
    pub status: &'a ImageFamilyStatus,
    /// The upstreams, as `spec.upstreams`.
    pub upstreams: Vec<UpstreamSight>,
    /// The images, as `spec.images`.
    pub images: Vec<ImageSight<'a>>,
    /// The name and the record of the wave that runs.
    pub wave: Option<(&'a str, &'a CascadeStatus)>,
}

/// Something that has to be looked up before a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight<T> {
    /// Not looked up yet.
    Pending,
    /// Found.
    Known(T),
    /// Not there, or of no use.
    Faulty(Fault),
}

/// What the registry says of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamSight {
    /// The newest digest.
    pub seen: Option<SeenDigest>,
    /// Why the last poll failed, if it did.
    pub fault: Option<Fault>,
}

/// A digest of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenDigest {
    /// The digest; of the index, where the tag names one.
    pub digest: String,
    /// When it was first seen by this process.
    pub first_seen: Timestamp,
    /// The platforms asked for that it does not offer.
    pub missing_platforms: Vec<String>,
}

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct ImageSight<'a> {
    /// What was recorded.
    pub record: Option<&'a FamilyImageStatus>,
    /// The source's revision.
    pub source: Sight<String>,
    /// The strategy's revision.
    pub strategy: Sight<String>,
    /// Its builds that the cluster still knows, of any fingerprint.
    pub builds: Vec<BuildSight>,
    /// The last answer of the registry to whether a fingerprint was pushed.
    pub push: Option<Push>,
    /// Where its tags were last seen.
    pub tags: HashMap<String, TagSight>,
}

/// A tag as the registry shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagSight {
    /// It stands on this digest.
    At(String),
    /// An immutable tag that stands on another digest than ours, and is left there.
    Taken(String),
    /// It was to be moved and could not be; tried again at the time.
    Faulty(Fault, Timestamp),
}

/// A Job of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildSight {
    /// The Job's name.
    pub job: String,
    /// The fingerprint that it makes.
    pub fingerprint: String,
    /// Which attempt at the fingerprint it is, from 0.
    pub attempt: i32,
    /// The number that the build has.
    pub build: i64,
    /// The wave that it was started for.
    pub cascade: String,
    /// When it was made.
    pub started_at: Option<Timestamp>,
    /// How far it is.
    pub outcome: BuildOutcome,
    /// What its pod waits for, if it has not started.
    pub waits_for: Option<String>,
    /// Whether its Job has not ended, so that pods of it may run or come up, whatever the outcome counts as.
    pub live: bool,
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
}

/// The registry's answer to whether a fingerprint was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The fingerprint that was asked for.
    pub fingerprint: String,
    /// The answer.
    pub result: PushResult,
}

/// Whether a fingerprint was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushResult {
    /// It stands in the registry.
    Present {
        /// Its digest.
        digest: String,
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
        /// The highest build number that the registry shows for the image; asked only where no record has it.
        last_build: Option<i64>,
        /// The highest attempt that had succeeded when the registry was asked.
        after: Option<i32>,
    },
    /// It stands there and is not what it says: for example it does not stand on the parent that it was to be built from.
    /// Asked again at the time, for somebody may delete it.
    Rejected(Fault, Timestamp),
    /// The registry could not say; it is asked again at the time.
    Faulty(Fault, Timestamp),
}
