//! Waiting for a condition, with a deadline, and with the last state in the message when it does
//! not come.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks until there is a result. An error is the state as it is.
///
/// # Panics
/// When there is no result within `seconds`: with what was waited for, and the last state.
pub async fn wait_for<T, E: Display>(
    what: impl Display,
    seconds: u64,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match look().await {
            Ok(found) => return found,
            Err(state) if Instant::now() > deadline => {
                panic!("waited {seconds} s for: {what}\nlast state:\n{state}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
