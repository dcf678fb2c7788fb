//! What polls remember of tags, so that a registry whose `HEAD` says too little is not sent a
//! counted `GET` at every poll, and a mirror that lags behind does not take a tag back.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::header;
use indexmap::IndexMap;
use tokio::time::Instant;

use crate::registry::{ManifestHead, credentials::CredentialIdentity, http::HttpResponse};

/// How long a `GET` is relied on while `HEAD` says the same, and has no `ETag`.
const MIN_GET_INTERVAL: Duration = Duration::from_hours(1);
/// Maximum number of tags that are remembered.
const MAX_TAGS: usize = 8192;

/// Maximum length of a header that is remembered. A longer one is none.
const MAX_HINT: usize = 256;

/// A tag, and who reads it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TagKey {
    /// The full reference.
    pub image: String,
    pub identity: CredentialIdentity,
}

/// What a `HEAD` said that did not name the digest. Equal hints mean that nothing shows a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeadHint {
    /// The status, or 0 if the request was denied in another way.
    pub status: u16,
    pub etag: Option<String>,
    pub length: Option<String>,
}

impl HeadHint {
    pub(super) fn of(response: &HttpResponse) -> Self {
        let short = |value: &&str| value.len() <= MAX_HINT;
        let header = |name| response.header(name).filter(short).map(ToOwned::to_owned);
        Self {
            status: response.status.as_u16(),
            etag: header(header::ETAG),
            length: header(header::CONTENT_LENGTH),
        }
    }
}

/// What is remembered of a tag.
#[derive(Default)]
struct RememberedTag {
    /// The last `GET`, if one was necessary.
    read: Option<ReadTag>,
    /// What the registry itself has said last, if it has a mirror.
    word: Option<ManifestHead>,
}

struct ReadTag {
    hint: HeadHint,
    head: ManifestHead,
    at: Instant,
}

/// What is remembered of tags, the oldest first.
#[derive(Default)]
pub(super) struct TagMemory(Mutex<IndexMap<TagKey, RememberedTag>>);

impl TagMemory {
    /// Returns what a tag points to according to an earlier `GET`, if this hint shows no change.
    pub(super) fn read_before(&self, key: &TagKey, hint: &HeadHint) -> Option<ManifestHead> {
        let tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = tags.get(key)?.read.as_ref().filter(|read| read.hint == *hint)?;
        let is_recent = read.at.elapsed() < MIN_GET_INTERVAL;
        (hint.etag.is_some() || is_recent).then(|| read.head.clone())
    }

    /// Remembers what a `GET` has found after this hint.
    pub(super) fn note_read(&self, key: TagKey, hint: HeadHint, head: ManifestHead) {
        let read = ReadTag { hint, head, at: Instant::now() };
        self.update(key, |known| known.read = Some(read));
    }

    /// Forgets a tag that does not exist.
    pub(super) fn forget(&self, key: &TagKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).shift_remove(key);
    }

    /// Returns what the registry itself has said last.
    pub(super) fn word(&self, key: &TagKey) -> Option<ManifestHead> {
        let tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tags.get(key)?.word.clone()
    }

    /// Remembers what the registry itself says.
    pub(super) fn note_word(&self, key: TagKey, head: ManifestHead) {
        self.update(key, |known| known.word = Some(head));
    }

    fn update(&self, key: TagKey, change: impl FnOnce(&mut RememberedTag)) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.len() >= MAX_TAGS && !tags.contains_key(&key) {
            tags.shift_remove_index(0);
        }
        change(tags.entry(key).or_default());
    }
}
