//! stub
use jiff::{SignedDuration, Timestamp};
/// stub
#[derive(Debug)]
pub struct Storm {
    /** a */
    pub free: usize,
    /** a */
    pub next: Option<Timestamp>,
}
/// stub
pub fn storm(_: &[Timestamp], _: i32, _: SignedDuration, _: Timestamp) -> Storm {
    Storm { free: 1000, next: None }
}
