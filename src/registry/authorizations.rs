//! Authorizations that have been granted, and which credential a registry has accepted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use http::HeaderValue;
use indexmap::IndexMap;
use tokio::time::Instant;

use crate::registry::{
    challenge::Challenge,
    config::{Endpoint, Purpose},
    credentials::CredentialIdentity,
    token::Authorization,
};

/// Maximum number of cached authorizations.
const MAX_CACHED_AUTHORIZATIONS: usize = 4096;
/// Maximum length of all cached authorizations together, in bytes.
const MAX_CACHED_BYTES: usize = 8 * 1024 * 1024;
/// Maximum number of remembered preferences.
const MAX_PREFERENCES: usize = 4096;
/// Maximum number of remembered challenges.
const MAX_CHALLENGES: usize = 1024;
/// Upper bound on how long an authorization is cached.
pub(super) const MAX_AUTHORIZATION_LIFETIME: Duration = Duration::from_hours(1);
/// How long the challenge of a registry's root is remembered.
const CHALLENGE_LIFETIME: Duration = Duration::from_mins(10);

/// What an authorization is valid for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct AuthorizationKey {
    pub base: String,
    pub path: String,
    pub purpose: Purpose,
    pub identity: CredentialIdentity,
}

impl AuthorizationKey {
    pub(super) fn new(
        endpoint: &Endpoint,
        path: &str,
        purpose: Purpose,
        identity: CredentialIdentity,
    ) -> Self {
        let path = endpoint.repository(path);
        Self { base: endpoint.base.clone(), path, purpose, identity }
    }

    /// Returns the scope to request if the challenge names none.
    pub(super) fn default_scope(&self) -> String {
        let actions = match self.purpose {
            Purpose::Pull => "pull",
            Purpose::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.path)
    }
}

/// A cached authorization.
#[derive(Clone)]
pub(super) struct CachedAuthorization {
    pub value: HeaderValue,
    /// Whether the registry has denied access right after it was granted, so that a later denial is
    /// no sign that it has expired.
    pub is_insufficient: bool,
    until: Instant,
}

/// Cache of authorizations that have been granted and have not expired.
#[derive(Default)]
pub(super) struct AuthorizationCache {
    granted: Mutex<GrantedAuthorizations>,
    /// The requests of authorizations in progress.
    requests: Mutex<HashMap<AuthorizationKey, Weak<tokio::sync::Mutex<()>>>>,
    /// The position of the credential that a registry has accepted last, where several match.
    preferences: Mutex<IndexMap<AuthorizationKey, usize>>,
    /// What the roots of registries require.
    challenges: Mutex<IndexMap<String, RootChallenge>>,
}

/// The authorizations, the oldest first, and how long they are together.
#[derive(Default)]
struct GrantedAuthorizations {
    cached: IndexMap<AuthorizationKey, CachedAuthorization>,
    bytes: usize,
}

impl GrantedAuthorizations {
    fn remove(&mut self, key: &AuthorizationKey) {
        if let Some(removed) = self.cached.shift_remove(key) {
            self.bytes -= removed.value.len();
        }
    }

    /// Drops those that have expired, and then the oldest, until there are not too many.
    fn make_room(&mut self, now: Instant) {
        if self.bytes <= MAX_CACHED_BYTES && self.cached.len() <= MAX_CACHED_AUTHORIZATIONS {
            return;
        }
        self.cached.retain(|_, cached| now < cached.until);
        self.bytes = self.cached.values().map(|cached| cached.value.len()).sum();
        let mut dropped = 0;
        for cached in self.cached.values() {
            let left = self.cached.len() - dropped;
            if self.bytes <= MAX_CACHED_BYTES && left <= MAX_CACHED_AUTHORIZATIONS {
                break;
            }
            self.bytes -= cached.value.len();
            dropped += 1;
        }
        self.cached.drain(..dropped);
    }
}

struct RootChallenge {
    challenge: Option<Challenge>,
    until: Instant,
}

impl AuthorizationCache {
    pub(super) fn get(&self, key: &AuthorizationKey) -> Option<CachedAuthorization> {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.cached.get(key).filter(|cached| Instant::now() < cached.until).cloned()
    }

    /// Keeps an authorization until it expires. If there are too many, those that have expired are
    /// dropped, and then the oldest.
    pub(super) fn insert(&self, key: AuthorizationKey, authorization: &Authorization) {
        let lifetime = authorization.lifetime.min(MAX_AUTHORIZATION_LIFETIME);
        if lifetime.is_zero() {
            return;
        }
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, is_insufficient) = (authorization.value.clone(), false);
        let now = Instant::now();
        granted.remove(&key);
        granted.bytes += value.len();
        let cached = CachedAuthorization { value, is_insufficient, until: now + lifetime };
        granted.cached.insert(key, cached);
        granted.make_room(now);
    }

    /// Notes that the registry has denied access right after this authorization was granted.
    pub(super) fn mark_insufficient(&self, key: &AuthorizationKey) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = granted.cached.get_mut(key) {
            cached.is_insufficient = true;
        }
    }

    pub(super) fn remove(&self, key: &AuthorizationKey) {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Returns the lock under which this authorization is requested, so that calls that need it at
    /// the same time request it once.
    pub(super) fn request_lock(&self, key: &AuthorizationKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = requests.get(key).and_then(Weak::upgrade) {
            return known;
        }
        requests.retain(|_, known| known.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        requests.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }

    /// Returns the position of the credential to try first. The key has the identity of all that
    /// match.
    pub(super) fn preferred(&self, key: &AuthorizationKey) -> usize {
        let preferences = self.preferences.lock().unwrap_or_else(PoisonError::into_inner);
        preferences.get(key).copied().unwrap_or(0)
    }

    /// Remembers which credential the registry has accepted.
    pub(super) fn prefer(&self, key: AuthorizationKey, position: usize) {
        let mut preferences = self.preferences.lock().unwrap_or_else(PoisonError::into_inner);
        insert_bounded(&mut preferences, key, position, MAX_PREFERENCES);
    }

    /// Returns what the root of a registry requires, if that is known.
    pub(super) fn root_challenge(&self, base: &str) -> KnownRoot {
        let challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        match challenges.get(base).filter(|known| Instant::now() < known.until) {
            Some(known) => KnownRoot::Known(known.challenge.clone()),
            None => KnownRoot::Unknown,
        }
    }

    /// Remembers what the root of a registry requires.
    pub(super) fn note_root_challenge(&self, base: &str, challenge: Option<Challenge>) {
        let mut challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        let known = RootChallenge { challenge, until: Instant::now() + CHALLENGE_LIFETIME };
        insert_bounded(&mut challenges, base.to_owned(), known, MAX_CHALLENGES);
    }
}

/// What is known of the root of a registry.
pub(super) enum KnownRoot {
    Unknown,
    /// It requires this, or nothing.
    Known(Option<Challenge>),
}

/// Inserts a value, and drops the oldest one if there are too many.
fn insert_bounded<K: std::hash::Hash + Eq, V>(
    map: &mut IndexMap<K, V>,
    key: K,
    value: V,
    limit: usize,
) {
    if map.len() >= limit && !map.contains_key(&key) {
        map.shift_remove_index(0);
    }
    map.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::CredentialUse, registry::Keychain};

    fn key(path: &str, purpose: Purpose) -> AuthorizationKey {
        let identity = Keychain::default().identity(["r"], "a", CredentialUse::Pull);
        AuthorizationKey { base: "https://r".into(), path: path.into(), purpose, identity }
    }

    fn authorization(lifetime: Duration) -> Authorization {
        Authorization { value: HeaderValue::from_static("Bearer t"), lifetime }
    }

    #[tokio::test(start_paused = true)]
    async fn authorizations_expire_and_are_separate_per_purpose() {
        let cache = AuthorizationCache::default();
        let minute = authorization(Duration::from_mins(1));
        cache.insert(key("a", Purpose::Pull), &minute);
        assert!(cache.get(&key("a", Purpose::Pull)).is_some());
        assert!(cache.get(&key("a", Purpose::Push)).is_none());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(cache.get(&key("a", Purpose::Pull)).is_none());
        cache.insert(key("a", Purpose::Pull), &authorization(Duration::ZERO));
        assert!(cache.get(&key("a", Purpose::Pull)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn large_tokens_do_not_fill_the_memory() {
        let cache = AuthorizationCache::default();
        let token = |lifetime| Authorization {
            value: HeaderValue::from_str(&"t".repeat(60_000)).expect("a value"),
            lifetime,
        };
        let number_of_cached = |cache: &AuthorizationCache| {
            let granted = cache.granted.lock().expect("lock");
            let bytes: usize = granted.cached.values().map(|cached| cached.value.len()).sum();
            assert_eq!(granted.bytes, bytes);
            assert!(bytes <= MAX_CACHED_BYTES);
            granted.cached.len()
        };
        cache.insert(key("small", Purpose::Pull), &authorization(Duration::from_mins(30)));
        for number in 0..130 {
            cache.insert(key(&number.to_string(), Purpose::Pull), &token(Duration::from_mins(1)));
        }
        tokio::time::advance(Duration::from_mins(2)).await;
        for number in 200..220 {
            cache.insert(key(&number.to_string(), Purpose::Pull), &token(Duration::from_mins(1)));
        }
        assert!(cache.get(&key("small", Purpose::Pull)).is_some(), "what has expired goes first");
        for number in 300..1000 {
            cache.insert(key(&number.to_string(), Purpose::Pull), &token(Duration::from_mins(1)));
        }
        assert_eq!(number_of_cached(&cache), MAX_CACHED_BYTES / 60_000);
        assert!(cache.get(&key("999", Purpose::Pull)).is_some());
        cache.remove(&key("999", Purpose::Pull));
        assert_eq!(number_of_cached(&cache), MAX_CACHED_BYTES / 60_000 - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_authorization_gives_way() {
        let cache = AuthorizationCache::default();
        let minute = authorization(Duration::from_mins(1));
        for number in 0..=MAX_CACHED_AUTHORIZATIONS {
            cache.insert(key(&number.to_string(), Purpose::Pull), &minute);
        }
        assert!(cache.get(&key("0", Purpose::Pull)).is_none());
        assert!(cache.get(&key(&MAX_CACHED_AUTHORIZATIONS.to_string(), Purpose::Pull)).is_some());
    }
}
