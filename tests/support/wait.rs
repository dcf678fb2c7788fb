//! Waiting for a condition with a deadline. If it is not met, the message holds the last state.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls `attempt` until it succeeds. Its error is the current state.
///
/// # Panics
/// When there is no result within `seconds`. The message holds `what` and the last state.
pub async fn wait_for<T, E: Display>(
    what: impl Display,
    seconds: u64,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match attempt().await {
            Ok(found) => return found,
            Err(state) if Instant::now() > deadline => {
                panic!("waited {seconds} s for: {what}\nlast state:\n{state}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
