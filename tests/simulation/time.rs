//! Virtual time: the runtime's paused clock as a time of day, true and as the controller reads it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use groundswell::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// When every simulation starts, in seconds since 1970: a Tuesday morning.
const START_SECOND: i64 = 1_767_690_000;

/// The time. Clones share the skew of the controller's clock.
#[derive(Clone, Debug)]
pub struct Time {
    start: Instant,
    /// How many milliseconds the controller's clock is ahead.
    skew: Arc<AtomicI64>,
    /// Whether the controller's clock was ever wrong.
    skewed: Arc<AtomicBool>,
}

impl Time {
    pub fn start() -> Self {
        Self { start: Instant::now(), skew: Arc::default(), skewed: Arc::default() }
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> std::time::Duration {
        self.start.elapsed()
    }

    /// Returns the instant at this time since the start.
    pub fn at(&self, elapsed: std::time::Duration) -> Instant {
        self.start + elapsed
    }

    /// Returns the true time of day.
    pub fn truth(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.start.elapsed()).expect("a short simulation");
        Timestamp::from_second(START_SECOND)
            .expect("a time")
            .saturating_add(since)
            .expect("a short simulation")
    }

    /// Returns how long after the start a time of day is; zero if it is before.
    pub fn since_start(&self, at: Timestamp) -> std::time::Duration {
        let start = Timestamp::from_second(START_SECOND).expect("a time");
        std::time::Duration::try_from(at.duration_since(start)).unwrap_or_default()
    }

    /// Returns the time of day as the controller reads it.
    pub fn controller_time(&self) -> Timestamp {
        self.truth()
            .saturating_add(SignedDuration::from_millis(self.skew.load(Ordering::Relaxed)))
            .expect("near enough")
    }

    /// Sets how far the controller's clock is ahead.
    pub fn skew(&self, by: SignedDuration) {
        self.skewed.store(true, Ordering::Relaxed);
        self.skew.store(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns whether the controller's clock was ever wrong.
    pub fn was_skewed(&self) -> bool {
        self.skewed.load(Ordering::Relaxed)
    }

    pub fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.controller_time())
    }
}
