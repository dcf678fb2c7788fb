//! What time it is: one answer for everything that a process does, so that a simulation can give
//! another.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

/// Tells the time of day. Cheap to clone; all clones tell the same.
///
/// For times that are recorded or compared with recorded ones. Whoever only waits uses the
/// runtime's own timers.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that tells what `now` says.
    #[must_use]
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time by the machine's own clock.
    #[must_use]
    pub fn wall() -> Self {
        Self::new(Timestamp::now)
    }

    /// The time.
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
