//! Numbers drawn from a seed: the same on every machine, so that what went wrong can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

/// Sets the seed of a run, as a number.
const SEED: &str = "GROUNDSWELL_SEED";

/// A sequence of numbers that follows from a seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        let span = (to - from + 1) as u64;
        from + usize::try_from(self.next() % span).expect("at most the span")
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// The seed of this run: the one that `GROUNDSWELL_SEED` names, or another one each time. It is printed.
pub fn seed() -> u64 {
    let named = std::env::var(SEED).ok().map(|seed| seed.parse().expect("GROUNDSWELL_SEED is a number"));
    let seed = named.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
        now.as_secs() % 1_000_000
    });
    println!("{SEED}={seed}");
    seed
}
