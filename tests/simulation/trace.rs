//! What happened, in order: a hash of all of it, and the lines themselves where somebody will read
//! them.

use std::{fmt, hash::Hasher, time::Duration};

/// The most lines that are kept: the last ones.
const MAX_LINES: usize = 4000;

/// The record of one simulation.
#[derive(Debug)]
pub struct Trace {
    hash: std::collections::hash_map::DefaultHasher,
    lines: std::collections::VecDeque<String>,
    keep: bool,
    shown: bool,
}

impl Trace {
    /// An empty trace. `keep` keeps the last lines, `shown` prints each as it comes.
    pub fn new(keep: bool, shown: bool) -> Self {
        Self {
            hash: std::collections::hash_map::DefaultHasher::new(),
            lines: std::collections::VecDeque::new(),
            keep,
            shown,
        }
    }

    /// Notes that something happened.
    pub fn note(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        let line = format!("{:>11.3} {what}", at.as_secs_f64());
        self.hash.write(line.as_bytes());
        if self.shown {
            println!("{line}");
        }
        if self.keep {
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The last lines, at most so many.
    pub fn tail(&self, most: usize) -> Vec<String> {
        self.lines.iter().skip(self.lines.len().saturating_sub(most)).cloned().collect()
    }
}
