//! Pauses that registries ask for.
//!
//! A registry that limits the rate of requests reports for how long. The next caller would send a
//! request too early and prolong the limit, so the client itself remembers the pause. It does so
//! per registry and credential, because registries count requests per credential.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::registry::{config::Endpoint, credentials::CredentialIdentity};

/// Maximum number of pauses that are remembered, one per registry and credential.
const MAX_COOLDOWNS: usize = 4096;

/// Registries that must not be called before a point in time.
#[derive(Default)]
pub(super) struct Cooldown(Mutex<HashMap<(String, CredentialIdentity), Instant>>);

impl Cooldown {
    /// Starts a pause for the registry and this credential.
    pub(super) fn begin(&self, endpoint: &Endpoint, identity: CredentialIdentity, pause: Duration) {
        let now = Instant::now();
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pauses.len() >= MAX_COOLDOWNS {
            pauses.retain(|_, until| now < *until);
        }
        if pauses.len() < MAX_COOLDOWNS {
            pauses.insert((endpoint.base.clone(), identity), now + pause);
        }
    }

    /// Returns how much of the pause remains, or `None` if there is none.
    pub(super) fn remaining(
        &self,
        endpoint: &Endpoint,
        identity: CredentialIdentity,
    ) -> Option<Duration> {
        let pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = pauses.get(&(endpoint.base.clone(), identity))?;
        Some(until.saturating_duration_since(Instant::now()))
            .filter(|remaining| !remaining.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::CredentialUse,
        registry::{Config, Keychain, config::Purpose},
    };

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends() {
        let endpoints = Config::default().endpoints("r.example", Purpose::Pull);
        let endpoint = endpoints.first().expect("endpoint");
        let identity = Keychain::default().identity(["r.example"], "a", CredentialUse::Pull);
        let cooldown = Cooldown::default();
        assert_eq!(cooldown.remaining(endpoint, identity), None);
        cooldown.begin(endpoint, identity, Duration::from_mins(2));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(cooldown.remaining(endpoint, identity), Some(Duration::from_mins(1)));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(cooldown.remaining(endpoint, identity), None);
    }
}
