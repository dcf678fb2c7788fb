//! The time of day, from one source for the whole process, so that a simulation can replace it.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

/// Source of the time of day. Clones are cheap and share their source.
///
/// Use it for times that are recorded or compared with recorded ones. To wait, use the timers of
/// the runtime.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// Returns a clock that reads the time from `now`.
    #[must_use]
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Returns a clock that reads the machine's clock.
    #[must_use]
    pub fn wall() -> Self {
        Self::new(Timestamp::now)
    }

    /// Returns the current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
