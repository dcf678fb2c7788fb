//! Texts that identify builds, images and Jobs, each a type of its own, and what is made of them.
//!
//! `engine`, `builds` and `controller` share them, so that a digest is never passed where a
//! fingerprint is meant. None of them is checked: they hold what was recorded, computed or
//! observed. Clones share one allocation.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::api::EdgeUse;

/// Defines a text as a type of its own.
macro_rules! text {
    ($(#[$doc:meta])* pub struct $name:ident;) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<&String> for $name {
            fn from(text: &String) -> Self {
                Self(text.as_str().into())
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.as_str().into()
            }
        }

        impl From<&$name> for String {
            fn from(text: &$name) -> Self {
                text.as_str().into()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, text: &str) -> bool {
                self.as_str() == text
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, text: &&str) -> bool {
                self.as_str() == *text
            }
        }

        impl PartialEq<String> for $name {
            fn eq(&self, text: &String) -> bool {
                self.as_str() == text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.as_str().fmt(f)
            }
        }
    };
}

text! {
    /// Digest of an image's index or manifest, as statuses record it: `sha256:` and 64 hexadecimal
    /// digits.
    ///
    /// Unlike `registry::Digest`, which is parsed, it holds whatever was recorded.
    pub struct ImageDigest;
}
text! {
    /// Hash of everything that determines a build: 40 hexadecimal digits.
    pub struct Fingerprint;
}
text! {
    /// Name of a Kubernetes Job in the family's namespace.
    pub struct JobName;
}
text! {
    /// Name of a `Cascade` in the family's namespace.
    pub struct CascadeName;
}
text! {
    /// Hash of an image's content as a user would notice it; see `policy.cutoff`.
    pub struct ContentHash;
}
text! {
    /// Hash of an image's configs and layers as they are stored.
    pub struct BlobsHash;
}
text! {
    /// Hash of the checks of an image, as a build has passed them or the spec lists them.
    pub struct ChecksHash;
}
text! {
    /// Hash of what an image itself contributes to a build: its source, spec, strategy and nonce,
    /// without its parents.
    pub struct OwnInputsHash;
}

/// Identifies one build, and says what it was started for.
///
/// The decision to build sets it, the Job carries it in labels and annotations, and the next
/// reconcile reads it back from there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildIdentity {
    /// The fingerprint that the build makes.
    pub fingerprint: Fingerprint,
    /// Which attempt at the fingerprint it is, counted from 0.
    pub attempt: i32,
    /// The number of the build, counted per image from 1. All attempts at a fingerprint share it.
    pub number: i64,
    /// The name of the `Cascade` that the build is part of.
    pub cascade: CascadeName,
    /// What the image itself contributes to the build.
    pub own_inputs: OwnInputsHash,
    /// Whether a user changed the image itself or asked for the build, rather than that something
    /// below the image or its strategy changed.
    pub user_caused: bool,
    /// The references of the family's upstreams that caused the build.
    pub upstreams: Vec<String>,
}

/// Maximum number of commits that a cause names.
pub const MAX_CAUSING_COMMITS: usize = 10;

/// A folder of a Git repository, as it was read at a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderRevision {
    /// Identifies the content. Every commit that leaves the folder as it is has the same revision.
    pub revision: String,
    /// The id of the commit at which the folder was read.
    pub commit: String,
    /// The commits of the recent history that have changed the folder, the newest first.
    pub touched_by: Vec<FolderCommit>,
    /// The Dockerfile; `None` if it is a link, or no text of at most 1 MiB.
    pub dockerfile: Option<Arc<str>>,
}

/// A commit that has changed a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderCommit {
    /// The id of the commit.
    pub id: String,
    /// The revision of the folder before this commit; `None` if it is not known, or if there was no
    /// such folder.
    pub before: Option<String>,
}

/// The commits that have changed a folder since an earlier revision of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CausingCommits {
    /// The ids of the commits, the newest first. At most [`MAX_CAUSING_COMMITS`] entries.
    pub ids: Vec<String>,
    /// Whether there may be more.
    pub has_more: bool,
}

impl FolderRevision {
    /// Returns the commits that have changed the folder since it had this revision. If the recent
    /// history does not have the revision, these are its newest commits that have changed the
    /// folder.
    #[must_use]
    pub fn touched_since(&self, revision: &str) -> CausingCommits {
        let is_after = |commit: &FolderCommit| commit.before.as_deref() == Some(revision);
        let since = self.touched_by.iter().position(is_after);
        let count = since.map_or(self.touched_by.len(), |oldest| oldest + 1);
        let newest = self.touched_by.iter().take(count.min(MAX_CAUSING_COMMITS));
        CausingCommits {
            ids: newest.map(|commit| commit.id.clone()).collect(),
            has_more: since.is_none() || count > MAX_CAUSING_COMMITS,
        }
    }

    /// Returns the id of the newest commit that has changed the folder, or, if it is not in the
    /// recent history, of the commit at which the folder was read.
    #[must_use]
    pub fn last_change(&self) -> &str {
        self.touched_by.first().map_or(&self.commit, |commit| &commit.id)
    }
}

/// A parent, pinned to the digest that a build is to use.
///
/// The decision to build pins it, and the Job passes it on unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedParent {
    /// The parent's name, as causes and messages show it.
    pub name: String,
    /// The parent's repository, with the registry's host and without a tag.
    pub repository: String,
    /// The digest of the parent.
    pub digest: ImageDigest,
    /// How the Dockerfile names the parent.
    pub naming: ParentNaming,
    /// What the Dockerfile does with the parent.
    pub usage: EdgeUse,
}

impl PinnedParent {
    /// The reference that the build uses instead of the one in the Dockerfile:
    /// `repository@sha256:...`.
    #[must_use]
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// How a Dockerfile names a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParentNaming {
    /// By this reference, with its default filled in.
    Reference(String),
    /// By this build argument.
    Arg(String),
}

impl Default for ParentNaming {
    fn default() -> Self {
        Self::Reference(String::new())
    }
}
