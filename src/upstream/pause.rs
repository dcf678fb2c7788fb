//! The pauses between two polls of a key. Pure.

use std::time::Duration;

/// Upper bound on the pause after failures, as a multiple of the interval.
const MAX_BACKOFF_FACTOR: u32 = 8;
/// Upper bound on the pause after failures, unless the interval is longer.
const MAX_BACKOFF: Duration = Duration::from_mins(30);
/// By how many thousandths a pause may differ from the interval.
const MAX_JITTER: u32 = 100;
/// The shortest pause before a poll is repeated, whatever a registry asks for.
const MIN_WANTED_PAUSE: Duration = Duration::from_secs(5);

/// Returns the pause until the next poll: 90 % to 110 % of the interval depending on `jitter`,
/// doubled for each consecutive failure after the first. It grows up to [`MAX_BACKOFF_FACTOR`]
/// times the interval, and in any case up to `longest`.
pub(super) fn next_pause(
    interval: Duration,
    failures: u32,
    longest: Duration,
    jitter: u64,
) -> Duration {
    let jitter = u32::try_from(jitter % (2 * u64::from(MAX_JITTER) + 1)).unwrap_or(MAX_JITTER);
    let longest = interval.saturating_mul(MAX_BACKOFF_FACTOR).max(longest);
    let longest = longest.min(MAX_BACKOFF.max(interval));
    let doubled = interval.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(longest) * (1000 - MAX_JITTER + jitter) / 1000
}

/// Returns the longest pause without failures.
pub(super) fn longest_pause(interval: Duration) -> Duration {
    interval.saturating_mul(1000 + MAX_JITTER) / 1000
}

/// Returns the pause after which a poll is repeated whose registry asked for a pause. Many polls
/// may have been asked for the same one, so up to as much is added depending on `jitter`.
pub(super) fn wanted_pause(wanted: Duration, jitter: u64) -> Duration {
    let wanted = wanted.max(MIN_WANTED_PAUSE);
    let jitter = u32::try_from(jitter % 1001).unwrap_or(1000);
    wanted + wanted * jitter / 1000
}
