//! The seed of a run.

use std::time::{SystemTime, UNIX_EPOCH};

/// The environment variable that sets the seed.
const SEED: &str = "GROUNDSWELL_SEED";

/// Returns and prints the seed of this run: the one in `GROUNDSWELL_SEED`, or a new one for each
/// run.
pub fn seed() -> u64 {
    let named =
        std::env::var(SEED).ok().map(|seed| seed.parse().expect("GROUNDSWELL_SEED is a number"));
    let seed = named.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
        now.as_secs() % 1_000_000
    });
    println!("{SEED}={seed}");
    seed
}
