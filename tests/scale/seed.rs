//! The seed of a run.

use std::time::{SystemTime, UNIX_EPOCH};

/// Sets the seed, as a number.
const SEED: &str = "GROUNDSWELL_SEED";

/// The seed of this run: the one that `GROUNDSWELL_SEED` names, or another one each time. It is
/// printed.
pub fn seed() -> u64 {
    let named = std::env::var(SEED).ok().map(|seed| {
        seed.parse().expect(
            "GROUNDSWELL_SEED is a \
        number",
        )
    });
    let seed = named.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
        now.as_secs() % 1_000_000
    });
    println!("{SEED}={seed}");
    seed
}
