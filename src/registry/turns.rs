//! The time that several calls may take together. It does not pass while one of them waits for its
//! turn at a host, because that says nothing about the host.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The shortest time after which it is checked again whether the calls still wait.
const MIN_CHECK_PAUSE: Duration = Duration::from_millis(100);

tokio::task_local! {
    /// The waits of what is limited together.
    static WAITS: Arc<Waits>;
}

/// How long calls have waited for their turns.
#[derive(Debug, Default)]
struct Waits(Mutex<WaitCount>);

#[derive(Debug, Default)]
struct WaitCount {
    /// How many calls wait.
    calls: usize,
    /// Since when at least one does.
    since: Option<Instant>,
    /// For how long at least one has waited before.
    before: Duration,
}

/// A call that waits for its turn, until this is dropped.
pub(super) struct WaitingCall(Option<Arc<Waits>>);

impl Waits {
    fn begin(&self) {
        let mut count = self.lock();
        count.calls += 1;
        count.since.get_or_insert_with(Instant::now);
    }

    fn end(&self) {
        let mut count = self.lock();
        count.calls = count.calls.saturating_sub(1);
        if count.calls == 0
            && let Some(since) = count.since.take()
        {
            count.before += since.elapsed();
        }
    }

    /// Returns for how long at least one call has waited.
    fn total(&self) -> Duration {
        let count = self.lock();
        count.before + count.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, WaitCount> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingCall {
    /// Notes that a call begins to wait.
    pub(super) fn begin() -> Self {
        let waits = WAITS.try_with(Arc::clone).ok();
        if let Some(waits) = &waits {
            waits.begin();
        }
        Self(waits)
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        if let Some(waits) = &self.0 {
            waits.end();
        }
    }
}

/// Returns the result of calls, or `None` if they take longer than `limit`. The time in which one
/// of them waits for its turn at a host does not count; each such wait is limited by the call
/// itself.
pub async fn within<F: Future>(limit: Duration, calls: F) -> Option<F::Output> {
    let waits = Arc::new(Waits::default());
    let mut calls = pin!(WAITS.scope(Arc::clone(&waits), calls));
    let began = Instant::now();
    loop {
        let ends_at = began + limit + waits.total();
        let checked_at = ends_at.max(Instant::now() + MIN_CHECK_PAUSE);
        tokio::select! {
            biased;
            result = &mut calls => return Some(result),
            () = sleep_until(checked_at) => {
                if began + limit + waits.total() <= Instant::now() {
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{FutureExt, future::BoxFuture, stream, stream::StreamExt};
    use http::Response;
    use jiff::Timestamp;
    use tokio::time::sleep;

    use super::*;
    use crate::{
        clock::Clock,
        registry::{
            Client, Config, Keychain, OutgoingRequest, Reference, ResponseBody, Transport,
            TransportError, full_body,
        },
    };

    /// Answers each request after some seconds.
    struct SlowServer(u64);

    impl Transport for SlowServer {
        fn send(
            &self,
            _request: OutgoingRequest,
        ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
            let time = Duration::from_secs(self.0);
            async move {
                sleep(time).await;
                Ok(Response::builder().status(404).body(full_body(Bytes::new())).expect("response"))
            }
            .boxed()
        }
    }

    /// Returns how many of some calls at a host with two slots end within 30 s.
    async fn ended_within(calls: usize, seconds: u64) -> usize {
        let config = Config { concurrent_requests_per_host: 2, ..Config::default() };
        let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
        let client = Client::with_transport(config, Arc::new(SlowServer(seconds)), clock);
        let image: Reference = "r.test/a:1".parse().expect("a reference");
        let keychain = Keychain::default();
        let call = || within(Duration::from_secs(30), client.manifest(&image, &keychain));
        let ended = stream::iter((0..calls).map(|_| call())).buffer_unordered(calls);
        ended.filter(|result| std::future::ready(result.is_some())).count().await
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_turn_does_not_count() {
        assert_eq!(ended_within(20, 5).await, 20, "the last one waits for 45 s");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_take_longer_end() {
        let began = Instant::now();
        assert_eq!(ended_within(2, 40).await, 0);
        assert_eq!(began.elapsed(), Duration::from_secs(30));
        let mixed = async {
            let waiting = WaitingCall::begin();
            sleep(Duration::from_secs(50)).await;
            drop(waiting);
            sleep(Duration::from_secs(29)).await;
        };
        assert!(within(Duration::from_secs(30), mixed).await.is_some());
        let began = Instant::now();
        let slow = async {
            drop(WaitingCall::begin());
            let waiting = [WaitingCall::begin(), WaitingCall::begin()];
            sleep(Duration::from_secs(50)).await;
            drop(waiting);
            sleep(Duration::from_secs(31)).await;
        };
        assert!(within(Duration::from_secs(30), slow).await.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(80));
    }
}
