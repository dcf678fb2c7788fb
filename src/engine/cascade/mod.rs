//! Decisions about all images together: when a cascade starts, which builds it starts, and what its
//! record says.
//!
//! - [`gates`]: whether a cascade may start: quiet time, suspension, windows
//! - [`admission`]: which ready builds start
//! - [`windows`], [`breaker`], [`limits`]: the rules that admission applies
//! - [`promotion`]: the digest that floating tags should point to
//! - [`status`]: the status of the `Cascade` object
//! - [`truncate`]: keeps the status of a large cascade below the size limit of the API server

pub mod admission;
pub mod breaker;
pub mod gates;
pub mod limits;
pub mod promotion;
pub mod status;
pub mod truncate;
pub mod windows;

use jiff::Timestamp;

use crate::engine::{
    cascade::{breaker::BreakerState, windows::WindowState},
    input::DecideInput,
    requests::RequestEffects,
};

/// What the decision about a cascade depends on, apart from its images and upstreams.
#[derive(Clone, Copy, Debug)]
pub struct CascadeContext<'a> {
    /// The input of the decision.
    pub input: &'a DecideInput<'a>,
    /// What requests change.
    pub effects: &'a RequestEffects,
    /// Whether a window is open.
    pub window: WindowState,
    /// Whether the breaker is open.
    pub breaker: &'a BreakerState,
    /// The time of the decision.
    pub now: Timestamp,
}
