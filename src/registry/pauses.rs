//! The hosts that are not called for a while, for whoever watches the controller.

use std::{collections::HashMap, time::Duration};

use url::Url;

use crate::{
    api::CredentialUse,
    registry::{
        Client, Keychain, Reference,
        config::{Endpoint, Purpose, authority},
        credentials::CredentialIdentity,
        rate_limits::LimitClass,
    },
};

/// Why a host is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PauseCause {
    /// It has not responded to several requests.
    Unresponsive,
    /// It limits the rate of requests, or has asked for a pause.
    Limited,
}

/// A host that is not called for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PausedHost {
    /// The host, with its port if it has one.
    pub host: String,
    /// Why it is not called.
    pub cause: PauseCause,
    /// How much of the longest pause remains. Other credentials or kinds of requests may have none.
    pub pause: Duration,
}

impl Client {
    /// Returns for how long pulls of an image, given as `host/repository:tag`, are limited at its
    /// registry and at each of its mirrors. `None` if one of them serves pulls to one of the
    /// credentials, as far as is known.
    #[must_use]
    pub fn pull_pause(&self, reference: &str, keychain: &Keychain) -> Option<Duration> {
        if self.0.limits.is_empty() {
            return None;
        }
        let image: Reference = reference.parse().ok()?;
        let endpoints = self.0.config.endpoints(image.registry(), Purpose::Pull);
        let pauses =
            endpoints.iter().map(|endpoint| self.endpoint_pause(endpoint, &image, keychain));
        pauses.min_by_key(|pause| pause.unwrap_or_default()).flatten()
    }

    fn endpoint_pause(
        &self,
        endpoint: &Endpoint,
        image: &Reference,
        keychain: &Keychain,
    ) -> Option<Duration> {
        let path = endpoint.repository(image.path());
        let candidates = keychain.candidates(&endpoint.registry, &path, CredentialUse::Pull);
        let anonymous = candidates.is_empty().then_some(None);
        let credentials = candidates.into_iter().map(Some).chain(anonymous);
        let pauses = credentials.map(|credential| {
            let identity = CredentialIdentity::of(credential);
            let remaining = self.0.limits.remaining(&endpoint.base, identity, LimitClass::Pull);
            remaining.map(|remaining| remaining.pause)
        });
        pauses.min_by_key(|pause| pause.unwrap_or_default()).flatten()
    }

    /// Returns the hosts that are not called now, each once for each cause.
    #[must_use]
    pub fn paused_hosts(&self) -> Vec<PausedHost> {
        let mut longest: HashMap<(String, PauseCause), Duration> = HashMap::new();
        let unresponsive = self.0.http.unresponsive().into_iter();
        let unresponsive = unresponsive.map(|(url, pause)| (url, PauseCause::Unresponsive, pause));
        let limited = self.0.limits.paused().into_iter();
        let limited = limited.map(|(url, pause)| (url, PauseCause::Limited, pause));
        for (url, cause, pause) in unresponsive.chain(limited) {
            let host = Url::parse(&url).map_or(url, |url| authority(&url));
            let known = longest.entry((host, cause)).or_default();
            *known = pause.max(*known);
        }
        let paused = longest.into_iter();
        paused.map(|((host, cause), pause)| PausedHost { host, cause, pause }).collect()
    }
}
