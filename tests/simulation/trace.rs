//! The trace of a simulation, in order: a hash of all lines, and the lines themselves if they are
//! printed or kept.

use std::{fmt, hash::Hasher, time::Duration};

/// Upper bound on the lines that are kept; the last ones are.
const MAX_LINES: usize = 4000;

/// Which lines of the trace are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceOutput {
    /// None, and no hash of them.
    None,
    /// None, but the hash of all lines.
    Hash,
    /// The last lines are kept.
    Tail,
    /// Every line is printed.
    Full,
}

/// The trace of one simulation.
#[derive(Debug)]
pub struct Trace {
    hash: std::collections::hash_map::DefaultHasher,
    lines: std::collections::VecDeque<String>,
    output: TraceOutput,
}

impl Trace {
    /// Creates an empty trace.
    pub fn new(output: TraceOutput) -> Self {
        Self {
            hash: std::collections::hash_map::DefaultHasher::new(),
            lines: std::collections::VecDeque::new(),
            output,
        }
    }

    /// Adds a line.
    pub fn note(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        if self.output == TraceOutput::None {
            return;
        }
        let line = format!("{:>11.3} {what}", at.as_secs_f64());
        self.hash.write(line.as_bytes());
        if self.output == TraceOutput::Full {
            println!("{line}");
        }
        if self.output == TraceOutput::Tail {
            if self.lines.len() == MAX_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// Returns the last lines, at most `limit`.
    pub fn tail(&self, limit: usize) -> Vec<String> {
        self.lines.iter().skip(self.lines.len().saturating_sub(limit)).cloned().collect()
    }
}
