//! stub
use crate::api::Breaker;
use jiff::Timestamp;
/// stub
#[derive(Debug)]
pub struct LastBuild<'a> {
    /** a */
    pub image: &'a str,
    /** a */
    pub cause: &'a str,
    /** a */
    pub failed_at: Option<Timestamp>,
    /** a */
    pub succeeded_at: Option<Timestamp>,
}
/// stub
#[derive(Debug, Clone)]
pub enum BreakerState {
    /** a */
    Closed,
    /** a */
    Open {
        /** a */
        since: Timestamp,
        /** a */
        cause: String,
        /** a */
        failures: Vec<String>,
        /** a */
        count: usize,
        /** a */
        probe_at: Timestamp,
    },
}
/// stub
pub fn state(_: &Breaker, _: &[LastBuild<'_>], _: Timestamp) -> BreakerState {
    BreakerState::Closed
}
