//! What a reconcile records.
//!
//! - [`status`]: the status of the family; [`image`]: of each image; [`history`]: of its builds;
//!   [`cascade`]: of the cascade
//! - [`requests`]: the outcome of requests
//! - [`counting`]: what the metrics count
//! - [`events`]: the Events that are published

pub mod cascade;
pub mod counting;
pub mod events;
pub mod history;
pub mod image;
pub mod requests;
pub mod status;
