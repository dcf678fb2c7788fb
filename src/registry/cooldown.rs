//! Leaving a registry alone that has asked for it.
//!
//! A registry that limits us says for how long. Whoever polls it next would ask too early and make
//! it worse, so the client itself remembers, per registry and credential, because that is what
//! limits are counted by.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::registry::{config::Endpoint, credentials::CredentialIdentity};

/// The most registries and credentials that are remembered.
const MAX_COOLDOWNS: usize = 4096;

/// Registries that are not to be asked before a time.
#[derive(Default)]
pub(super) struct Cooldown(Mutex<HashMap<(String, CredentialIdentity), Instant>>);

impl Cooldown {
    /// Leaves the registry alone for so long.
    pub(super) fn begin(&self, endpoint: &Endpoint, identity: CredentialIdentity, pause: Duration) {
        let now = Instant::now();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_COOLDOWNS {
            kept.retain(|_, until| now < *until);
        }
        if kept.len() < MAX_COOLDOWNS {
            kept.insert((endpoint.base.clone(), identity), now + pause);
        }
    }

    /// For how long the registry is still to be left alone, if it is.
    pub(super) fn remaining(
        &self,
        endpoint: &Endpoint,
        identity: CredentialIdentity,
    ) -> Option<Duration> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = kept.get(&(endpoint.base.clone(), identity))?;
        Some(until.saturating_duration_since(Instant::now()))
            .filter(|remaining| !remaining.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Config, Keychain, config::Purpose};

    #[tokio::test(start_paused = true)]
    async fn it_ends() {
        let endpoints = Config::default().endpoints("r.example", Purpose::Pull);
        let endpoint = endpoints.first().expect("endpoint");
        let identity = Keychain::default().identity(["r.example"], "a");
        let cooldown = Cooldown::default();
        assert_eq!(cooldown.remaining(endpoint, identity), None);
        cooldown.begin(endpoint, identity, Duration::from_mins(2));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(cooldown.remaining(endpoint, identity), Some(Duration::from_mins(1)));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(cooldown.remaining(endpoint, identity), None);
    }
}
