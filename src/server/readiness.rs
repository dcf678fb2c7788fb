//! Readiness: what the controller needs and does not have yet, asked for when somebody asks.
//!
//! A standby that waits for the lease is ready: it does what it is there for.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Says in words what of a requirement is missing; nothing, once it is met.
type Probe = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the controller needs to work. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Readiness {
    probes: Arc<Mutex<Vec<(&'static str, Probe)>>>,
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

    /// Everything that is missing, each as `requirement: what of it`; empty when ready.
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
        f.debug_struct("Readiness").field("missing", &self.missing()).finish()
    }
}
