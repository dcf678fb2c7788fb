//! Decisions about all images together: when a cascade starts, which builds it starts, and what its
//! record says.
//!
//! - [`advance`]: what happens to the cascades: one starts, some end, or all continue
//! - [`changes`]: what may start a cascade, and what waits for a running one
//! - [`gates`]: whether a cascade may start: quiet time, suspension, windows
//! - [`admission`]: which ready builds and checks start
//! - [`start_gates`]: the gates that each of them passes
//! - [`windows`], [`breaker`], [`outages`], [`limits`]: the rules of these gates
//! - [`promotion`]: the digest that floating tags should point to
//! - [`status`]: the status of the `Cascade` object
//! - [`truncate`]: keeps the status of a large cascade below the size limit of the API server

pub mod admission;
pub mod advance;
pub mod breaker;
pub mod breaker_gates;
pub mod changes;
pub mod gates;
pub mod limits;
pub mod outages;
pub mod promotion;
pub(in crate::engine) mod start_gates;
pub mod status;
pub mod truncate;
pub mod windows;

use jiff::Timestamp;

use crate::{
    engine::{
        cascade::{breaker::OpenBreaker, windows::WindowState},
        decision::ImageDecision,
        input::{DecideInput, ObservedImage},
        members::CascadeMembers,
        requests::RequestEffects,
    },
    identity::CascadeName,
};

/// What the decision about a cascade depends on, apart from its images and upstreams.
#[derive(Clone, Copy, Debug)]
pub struct CascadeContext<'a> {
    /// The input of the decision.
    pub input: &'a DecideInput<'a>,
    /// What requests change.
    pub request_effects: &'a RequestEffects,
    /// The running cascade of each image.
    pub members: &'a CascadeMembers,
    /// Whether a window is open.
    pub window: WindowState,
    /// The causes for which the breaker is open.
    pub breakers: &'a [OpenBreaker],
    /// The time of the decision.
    pub now: Timestamp,
}

/// Whether an image has builds of a cascade, or failed or was cancelled in it.
///
/// The status of the cascade may not list the image yet: it is written after the decision that
/// starts the build, and less often than images are decided.
#[must_use]
pub fn is_worked_on(
    cascade: &CascadeName,
    observed: Option<&ObservedImage<'_>>,
    decided: &ImageDecision,
) -> bool {
    observed
        .is_some_and(|image| image.builds.iter().any(|build| build.identity.cascade == *cascade))
        || decided.failure.as_ref().is_some_and(|failure| *cascade == failure.cascade)
}
