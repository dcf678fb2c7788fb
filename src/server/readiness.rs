//! Readiness: what the controller needs and does not have yet, evaluated at each request.
//!
//! A standby that waits for the lease is ready.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Returns what a requirement lacks, or nothing once it is met.
type ReadinessProbe = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Requirements of the controller. Clones are cheap and share their requirements.
#[derive(Clone, Default)]
pub struct Readiness {
    probes: Arc<Mutex<Vec<(&'static str, ReadinessProbe)>>>,
    notes: Arc<Mutex<Vec<ReadinessProbe>>>,
}

impl Readiness {
    /// Adds a requirement. `probe` is called on every request, so it must be quick and must not
    /// wait.
    pub fn require(
        &self,
        what: &'static str,
        probe: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).push((what, Arc::new(probe)));
    }

    /// Adds something that a user should know of and that does not affect readiness. `probe` is
    /// called on every request, like that of a requirement.
    pub fn note(&self, probe: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(probe));
    }

    /// Returns what a user should know of.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        notes.into_iter().flat_map(|probe| probe()).collect()
    }

    /// Returns everything that is missing, as `requirement: what it lacks`. The list is empty when
    /// ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        probes
            .into_iter()
            .flat_map(|(what, probe)| {
                probe().into_iter().map(move |missing| format!("{what}: {missing}"))
            })
            .collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("missing", &self.missing()).finish_non_exhaustive()
    }
}
