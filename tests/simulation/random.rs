//! Random numbers from one seed. Each subject draws from a stream of its own, so that removing a
//! step from a script changes as little as possible for the others.

use std::{ops::Range, time::Duration};

/// A stream of random numbers: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the stream of a subject: equal for equal seeds and subjects.
    pub fn of(seed: u64, subject: &str) -> Self {
        let folded = subject.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut random = Self(folded);
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).expect("below usize")
    }

    /// Returns a number in the range, which must not be empty.
    pub fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.end - range.start)
    }

    /// Returns a whole number of seconds in the range.
    pub fn seconds(&mut self, range: Range<u32>) -> u32 {
        range.start
            + u32::try_from(self.below((range.end - range.start) as usize)).expect("below u32")
    }

    /// Returns true with a probability of `per_mille` in 1000.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.next() % 1000 < u64::from(per_mille)
    }

    /// Returns a duration in the range of milliseconds. Each decade is equally likely, so that
    /// short durations are as frequent as long ones.
    pub fn pause(&mut self, millis: Range<u64>) -> Duration {
        let span = millis.end.saturating_sub(millis.start).max(1);
        let max = match self.next() % 3 {
            0 => (span / 100).max(1),
            1 => (span / 10).max(1),
            _ => span,
        };
        Duration::from_millis(millis.start + self.next() % max)
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() { None } else { list.get(self.below(list.len())) }
    }
}
