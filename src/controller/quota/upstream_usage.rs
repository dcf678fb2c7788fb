//! How many builds count for each upstream, while the free places are divided.

use std::collections::{BTreeSet, HashMap};

use crate::engine::cascade::limits::QuotaUpstream;

/// How many builds use places for each upstream.
#[derive(Default)]
pub(super) struct UpstreamUsage<'a> {
    /// The operator's limit for each of them.
    limit: Option<usize>,
    indices: HashMap<&'a str, QuotaUpstream>,
    /// How many builds use places, parallel to the indices.
    used: Vec<usize>,
}

impl<'a> UpstreamUsage<'a> {
    /// Returns a count of no builds.
    pub fn new(limit: Option<usize>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Returns the indices of the upstreams that a build counts for; none without a limit.
    pub fn indices(&mut self, build: &'a [String]) -> Vec<QuotaUpstream> {
        if self.limit.is_none() {
            return Vec::new();
        }
        let indices = build.iter().map(|name| {
            *self.indices.entry(name).or_insert_with(|| {
                self.used.push(0);
                QuotaUpstream::new(self.used.len() - 1)
            })
        });
        indices.collect()
    }

    /// Counts a build that uses a place.
    pub fn count(&mut self, build: &'a [String]) {
        for index in self.indices(build) {
            if let Some(used) = self.used.get_mut(index.position()) {
                *used += 1;
            }
        }
    }

    /// Returns how many more builds each upstream may have, by index.
    pub fn free(&self) -> Vec<usize> {
        let limit = self.limit.unwrap_or(usize::MAX);
        self.used.iter().map(|used| limit.saturating_sub(*used)).collect()
    }

    /// Returns the upstreams that have reached the limit.
    pub fn limited(&self) -> BTreeSet<String> {
        let free = self.free();
        let limited =
            self.indices.iter().filter(|(_, index)| free.get(index.position()) == Some(&0));
        limited.map(|(name, _)| (*name).to_owned()).collect()
    }
}
