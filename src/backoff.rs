//! Exponential backoff with a cap and jitter. Pure, so that the engine may use it.

use jiff::SignedDuration;

/// Returns the pause after the `failures`-th consecutive failure, counted from 1.
///
/// The pause is `base`, doubled with each further failure up to `cap`, and then multiplied by a
/// factor from 75 % to 100 % that `seed` chooses. The jitter keeps what failed at the same time
/// from being retried at the same time.
#[must_use]
pub fn pause(
    failures: u32,
    base: SignedDuration,
    cap: SignedDuration,
    seed: u64,
) -> SignedDuration {
    let doublings = failures.saturating_sub(1).min(20);
    let full = base.saturating_mul(1 << doublings).min(cap);
    let quarter = full.as_millis() / 4;
    let jitter = i128::from(seed % 1024) * quarter / 1024;
    let millis = full.as_millis() - jitter;
    SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

/// Returns a seed for the jitter of a pause that belongs to what these names identify: namespace
/// and name of an object, for example. What differs in a name gets other pauses, so that what
/// failed together is not retried together.
#[must_use]
pub fn jitter_seed(names: &[&str]) -> u64 {
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(7, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_depends_on_each_name() {
        assert_ne!(jitter_seed(&["a", "bc"]), jitter_seed(&["ab", "c"]));
        assert_ne!(jitter_seed(&["a"]), jitter_seed(&["b"]));
    }

    #[test]
    fn doubles_up_to_the_cap_and_jitters_below() {
        let (base, cap) = (SignedDuration::from_secs(10), SignedDuration::from_secs(60));
        let plain: Vec<i64> = (1..6).map(|n| pause(n, base, cap, 0).as_secs()).collect();
        assert_eq!(plain, [10, 20, 40, 60, 60]);
        assert_eq!(pause(u32::MAX, base, cap, 0), cap);
        for seed in 0..2000 {
            let jittered = pause(2, base, cap, seed);
            assert!(
                jittered >= SignedDuration::from_secs(15)
                    && jittered <= SignedDuration::from_secs(20),
                "{jittered}"
            );
        }
    }
}
