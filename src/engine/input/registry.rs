//! What the registry has answered about an image: whether fingerprints are pushed, what tags point
//! to, and which labels a digest has.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    api::{LabelRecord, condition::Problem},
    identity::{BlobsHash, ContentHash, Fingerprint, ImageDigest},
};

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

/// The registry's answer to whether it has a digest that an image is to be rolled back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestAnswer {
    /// The digest.
    pub digest: ImageDigest,
    /// The answer.
    pub result: DigestResult,
}

/// Whether the registry has a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestResult {
    /// The registry has it.
    Present,
    /// The registry does not have it.
    Absent,
    /// The registry could not answer. It is asked again at the given time.
    Failed(Problem, Timestamp),
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
        /// When the registry was asked.
        asked_at: Timestamp,
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
