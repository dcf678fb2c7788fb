//! Contents of registries by digest, which never change. What was read once serves all callers
//! that may read it: they are kept per repository and credential.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use indexmap::IndexMap;

use crate::registry::{Digest, credentials::CredentialIdentity};

/// Maximum size of a content that is kept, in bytes.
const MAX_CONTENT_BYTES: usize = 256 * 1024;
/// Maximum size of all contents together, in bytes.
const MAX_TOTAL_BYTES: usize = 16 * 1024 * 1024;
/// Maximum number of contents.
const MAX_CONTENTS: usize = 4096;

/// Where a content is, and who reads it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ContentKey {
    pub repository: String,
    pub identity: CredentialIdentity,
    pub digest: Digest,
}

/// A content as a registry has sent it.
#[derive(Clone)]
pub(super) struct CachedContent {
    pub content_type: Option<String>,
    pub bytes: Bytes,
}

/// The contents that were read last.
#[derive(Default)]
pub(super) struct ContentCache(Mutex<CachedContents>);

#[derive(Default)]
struct CachedContents {
    /// The contents, the oldest first.
    contents: IndexMap<ContentKey, CachedContent>,
    total: usize,
}

impl ContentCache {
    pub(super) fn get(&self, key: &ContentKey) -> Option<CachedContent> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.contents.get(key).cloned()
    }

    /// Keeps a content, and drops the oldest ones if there are too many.
    pub(super) fn insert(&self, key: ContentKey, content: CachedContent) {
        let size = content.bytes.len();
        if size > MAX_CONTENT_BYTES {
            return;
        }
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = cached.contents.insert(key, content);
        cached.total += size;
        cached.total -= replaced.map_or(0, |replaced| replaced.bytes.len());
        while cached.total > MAX_TOTAL_BYTES || cached.contents.len() > MAX_CONTENTS {
            let Some((_, dropped)) = cached.contents.shift_remove_index(0) else { break };
            cached.total -= dropped.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::CredentialUse, registry::Keychain};

    fn key(repository: &str, number: usize) -> ContentKey {
        let identity = Keychain::default().identity(["r"], "a", CredentialUse::Pull);
        let digest = Digest::of(number.to_string().as_bytes());
        ContentKey { repository: repository.into(), identity, digest }
    }

    fn content(size: usize) -> CachedContent {
        CachedContent { content_type: None, bytes: Bytes::from(vec![b' '; size]) }
    }

    #[test]
    fn contents_are_kept_per_repository_and_bounded() {
        let cache = ContentCache::default();
        for number in 0..100 {
            cache.insert(key("r/a", number), content(MAX_CONTENT_BYTES));
        }
        assert!(cache.get(&key("r/a", 99)).is_some());
        assert!(cache.get(&key("r/b", 99)).is_none());
        let kept = (0..100).filter(|number| cache.get(&key("r/a", *number)).is_some()).count();
        assert_eq!(kept, MAX_TOTAL_BYTES / MAX_CONTENT_BYTES);
        cache.insert(key("r/a", 100), content(MAX_CONTENT_BYTES + 1));
        assert!(cache.get(&key("r/a", 100)).is_none());
        for number in 0..2 * MAX_CONTENTS {
            cache.insert(key("r/c", number), content(1));
        }
        assert_eq!(cache.0.lock().expect("contents").contents.len(), MAX_CONTENTS);
    }
}
