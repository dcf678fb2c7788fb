//! The time that a call may take. It does not pass while the call waits for its turn.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// When a call ends, whatever happens.
#[derive(Debug)]
pub(super) struct Deadline {
    /// The time that the call may take.
    pub limit: Duration,
    ends_at: Mutex<Instant>,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { limit, ends_at: Mutex::new(Instant::now() + limit) }
    }

    /// Returns when the call ends.
    pub(super) fn ends_at(&self) -> Instant {
        *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extends the call by the time that it has waited for its turn.
    pub(super) fn extend(&self, waited: Duration) {
        *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner) += waited;
    }
}
