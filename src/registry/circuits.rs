//! Circuits per host: a host that does not respond is left alone for a while, so that calls to it
//! fail at once instead of holding what calls to other hosts need.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Number of requests in a row without a response after which a host is left alone.
const MAX_FAILURES: u32 = 4;
/// The first pause. It doubles each time the request that follows it gets no response.
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// Upper bound on the pause.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// Maximum number of hosts that are remembered.
const MAX_HOSTS: usize = 1024;

/// The hosts that have not responded.
#[derive(Default)]
pub(super) struct Circuits(Mutex<HashMap<String, FailingHost>>);

struct FailingHost {
    /// Number of requests in a row without a response.
    failures: u32,
    /// When the next request may be sent, once there are too many failures.
    closed_until: Instant,
    pause: Duration,
    /// Whether a request has been admitted after the pause.
    is_probed: bool,
}

impl Circuits {
    /// Whether a request would be admitted now. The error is the time until one may be.
    pub(super) fn check(&self, host: &str) -> Result<(), Duration> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = hosts.get(host).filter(|known| known.failures >= MAX_FAILURES);
        let pause = known.map(|known| known.closed_until.duration_since(Instant::now()));
        pause.filter(|pause| !pause.is_zero()).map_or(Ok(()), Err)
    }

    /// Whether a request may be sent to this host now. The error is the time until the next one may
    /// be. After a pause, a single request is admitted; if it gets no response, the next pause is
    /// longer.
    pub(super) fn admit(&self, host: &str) -> Result<(), Duration> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = hosts.get_mut(host).filter(|known| known.failures >= MAX_FAILURES) else {
            return Ok(());
        };
        let now = Instant::now();
        if now < known.closed_until {
            return Err(known.closed_until - now);
        }
        // Whoever is admitted may give up without a result, so the others wait only for a pause.
        known.closed_until = now + known.pause;
        known.is_probed = true;
        Ok(())
    }

    /// Returns the hosts that are left alone, and for how long.
    pub(super) fn open(&self) -> Vec<(String, Duration)> {
        let (now, hosts) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let left_alone = hosts.iter().filter(|(_, known)| known.failures >= MAX_FAILURES);
        left_alone
            .map(|(host, known)| (host.clone(), known.closed_until.duration_since(now)))
            .filter(|(_, pause)| !pause.is_zero())
            .collect()
    }

    /// Notes that the host has responded.
    pub(super) fn note_response(&self, host: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// Notes that the host has not responded.
    pub(super) fn note_failure(&self, host: &str) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(host) {
            hosts.retain(|_, known| now < known.closed_until);
            if hosts.len() >= MAX_HOSTS {
                return;
            }
        }
        let known = hosts.entry(host.to_owned()).or_insert(FailingHost {
            failures: 0,
            closed_until: now,
            pause: MIN_PAUSE,
            is_probed: false,
        });
        known.failures = known.failures.saturating_add(1);
        if std::mem::take(&mut known.is_probed) {
            known.pause = (known.pause * 2).min(MAX_PAUSE);
            known.closed_until = now + known.pause;
        } else if known.failures == MAX_FAILURES {
            // Requests that ran at the same time say nothing more than these.
            known.closed_until = now + known.pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_host_is_left_alone_and_probed_by_one_request() {
        let circuits = Circuits::default();
        for _ in 0..MAX_FAILURES {
            assert_eq!(circuits.admit("r"), Ok(()));
            circuits.note_failure("r");
        }
        assert_eq!(circuits.admit("r"), Err(MIN_PAUSE));
        assert_eq!(circuits.admit("other"), Ok(()));
        assert_eq!(circuits.check("r"), Err(MIN_PAUSE));
        tokio::time::advance(MIN_PAUSE).await;
        assert_eq!(
            [circuits.check("r"), circuits.check("r")],
            [Ok(()), Ok(())],
            "none is sent yet"
        );
        assert_eq!(circuits.admit("r"), Ok(()), "the probe");
        assert_eq!(circuits.admit("r"), Err(MIN_PAUSE), "only one");
        tokio::time::advance(Duration::from_secs(1)).await;
        circuits.note_failure("r");
        assert_eq!(circuits.admit("r"), Err(MIN_PAUSE * 2));
        tokio::time::advance(MIN_PAUSE * 2).await;
        assert_eq!(circuits.admit("r"), Ok(()));
        circuits.note_response("r");
        assert_eq!([circuits.admit("r"), circuits.admit("r")], [Ok(()), Ok(())]);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_fail_together_do_not_prolong_the_pause() {
        let circuits = Circuits::default();
        for _ in 0..64 {
            circuits.note_failure("r");
        }
        assert_eq!(circuits.admit("r"), Err(MIN_PAUSE));
        for _ in 0..100 {
            tokio::time::advance(MAX_PAUSE).await;
            assert_eq!(circuits.admit("r"), Ok(()));
            tokio::time::advance(Duration::from_secs(1)).await;
            circuits.note_failure("r");
        }
        assert!(circuits.admit("r").is_err_and(|pause| pause <= MAX_PAUSE));
    }
}
