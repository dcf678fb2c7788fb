//! Decisions about all images together: when a cascade starts, which builds it starts, and what its
//! record says.
//!
//! - [`gates`]: whether a cascade may start: quiet time, suspension, windows
//! - [`admission`]: which ready builds start
//! - [`windows`], [`breaker`], [`limits`]: the rules that admission applies
//! - [`promotion`]: the digest that floating tags should point to
//! - [`record`]: the status of the `Cascade` object
//! - [`truncate`]: keeps the status of a large cascade below the size limit of the API server

pub mod admission;
pub mod breaker;
pub mod gates;
pub mod limits;
pub mod promotion;
pub mod record;
pub mod truncate;
pub mod windows;
