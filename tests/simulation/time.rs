//! Virtual time: the runtime's paused clock, as a time of day, and as the controller is told it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use groundswell::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// When every simulation begins: a Tuesday, in the morning.
const BEGINNING: i64 = 1_767_690_000;

/// What time it is. Clones share what the controller is told.
#[derive(Clone, Debug)]
pub struct Time {
    start: Instant,
    /// By how many milliseconds the controller's clock is wrong.
    skew: Arc<AtomicI64>,
    /// Whether it ever was.
    skewed: Arc<AtomicBool>,
}

impl Time {
    pub fn start() -> Self {
        Self { start: Instant::now(), skew: Arc::default(), skewed: Arc::default() }
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> std::time::Duration {
        self.start.elapsed()
    }

    /// The instant so long after the beginning.
    pub fn at(&self, elapsed: std::time::Duration) -> Instant {
        self.start + elapsed
    }

    /// The true time of day.
    pub fn truth(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.start.elapsed()).expect("a short simulation");
        Timestamp::from_second(BEGINNING).expect("a time").saturating_add(since).expect(
            "a short \
            simulation",
        )
    }

    /// The time of day as the controller is told it.
    pub fn told(&self) -> Timestamp {
        self.truth()
            .saturating_add(SignedDuration::from_millis(self.skew.load(Ordering::Relaxed)))
            .expect("near enough")
    }

    /// Makes the controller's clock wrong by so much.
    pub fn skew(&self, by: SignedDuration) {
        self.skewed.store(true, Ordering::Relaxed);
        self.skew.store(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether the controller's clock ever was wrong.
    pub fn was_skewed(&self) -> bool {
        self.skewed.load(Ordering::Relaxed)
    }

    pub fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.told())
    }
}
