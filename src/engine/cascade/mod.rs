//! What becomes of all images together: when a cascade starts, which builds it starts, and what is
//! recorded of it.
//!
//! - [`gates`]: whether a cascade begins: settle, suspend, windows
//! - [`admission`]: which ready builds start
//! - [`windows`], [`breaker`], [`limits`]: the rules that admission applies
//! - [`promotion`]: the digest that floating tags are to be on
//! - [`record`]: the `Cascade` object; [`truncate`]: how a large one is kept below the object limit

pub mod admission;
pub mod breaker;
pub mod gates;
pub mod limits;
pub mod promotion;
pub mod record;
pub mod truncate;
pub mod windows;
