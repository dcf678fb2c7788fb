//! Build records: signed statements about which digest a build of ours has pushed for which
//! fingerprint. The registry keeps them, and only the controller can make them.
//!
//! - [`keys`]: the keys, which no pod of a build can read
//! - [`statement`]: what a record says, as an in-toto Statement
//! - [`envelope`]: the statement with its signature, as a DSSE envelope
//! - [`artifact`]: the envelope in an OCI manifest
//!
//! This module does no I/O: `controller` reads the keys, and reads and writes records.

pub mod artifact;
pub mod envelope;
pub mod keys;
pub mod statement;

use clap::ValueEnum;

use self::keys::RecordKeys;
use crate::identity::{Fingerprint, ImageDigest};

/// Whether a build is believed without a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum RecordPolicy {
    /// What the registry has is a build of ours only if a record says so, or our own status or the
    /// pod of its build does.
    #[default]
    Required,
    /// What has the annotations of a build of ours is believed, and recorded from then on.
    Warn,
}

impl RecordPolicy {
    /// Returns the policy as settings write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "Required",
            Self::Warn => "Warn",
        }
    }
}

/// How records are made and required.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// The keys that sign and verify.
    pub keys: RecordKeys,
    /// Whether a build is believed without a record.
    pub policy: RecordPolicy,
}

/// A digest that has a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedBuild {
    /// The fingerprint that it is the result of.
    pub fingerprint: Fingerprint,
    /// The digest.
    pub digest: ImageDigest,
    /// The id of the key that has signed the record.
    pub key: String,
}

/// An image under one of our own tags that is not known to be a build of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnrecordedImage {
    /// The tag, with its repository.
    pub tag: String,
    /// What it points to.
    pub digest: ImageDigest,
}
