//! What the model remembers of what was true when: versions of upstreams and of sources, families
//! that are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::script::Family;

/// When something was last true that is true now.
pub const LASTING: Duration = Duration::MAX;

/// The past.
#[derive(Debug, Default)]
pub struct History {
    processes: u64,
    numbers: u64,
    /// Digests of each upstream's repository, in the order in which its tag stood on them.
    upstreams: BTreeMap<String, Vec<String>>,
    /// Whole indexes that are still to come.
    incomplete: BTreeMap<String, String>,
    /// Dockerfiles of each image, in order.
    texts: BTreeMap<String, Vec<String>>,
    graves: BTreeMap<String, Family>,
    made_again: BTreeSet<String>,
    request: Option<String>,
    cancelled: bool,
    forgotten: BTreeSet<String>,
    /// Families whose policy was ever to spare images whose rebuild comes out the same.
    sparing: BTreeSet<String>,
    /// When each digest of an upstream first was what its tag stood on.
    seen: BTreeMap<(String, String), Duration>,
    /// Each leaf's values: those of now, and when others were last true.
    truths: BTreeMap<String, (BTreeSet<String>, BTreeMap<String, Duration>)>,
}

impl History {
    /// The number of the next process, from 1.
    pub fn next_process(&mut self) -> u64 {
        self.processes += 1;
        self.processes
    }

    /// A number that was not used before.
    pub fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// An upstream's tag stands on a digest.
    pub fn moved(&mut self, repository: &str, digest: &str, now: Duration) {
        self.seen.entry((repository.into(), digest.into())).or_insert(now);
        self.upstreams.entry(repository.into()).or_default().push(digest.into());
    }

    /// The digest before the one on which an upstream's tag stands.
    pub fn before(&self, repository: &str) -> Option<String> {
        let versions = self.upstreams.get(repository)?;
        versions.iter().rev().nth(1).cloned()
    }

    /// An upstream's newest digest will be this one, unless it moves again.
    pub fn completes(&mut self, repository: &str, whole: &str) {
        self.incomplete.insert(repository.into(), whole.into());
    }

    /// Whether an upstream has not moved again since it was announced to become this.
    pub fn is_newest(&mut self, repository: &str, whole: &str) -> bool {
        self.incomplete.get(repository).is_some_and(|awaited| awaited == whole)
    }

    /// An upstream moves: what was announced before is out of date.
    pub fn forget_incomplete(&mut self, repository: &str) {
        self.incomplete.remove(repository);
    }

    /// An image's Dockerfile becomes this.
    pub fn text(&mut self, image: &str, text: &str) {
        self.texts.entry(image.into()).or_default().push(text.into());
    }

    /// The Dockerfile of an image before the one of now.
    pub fn text_before(&self, image: &str) -> Option<String> {
        let texts = self.texts.get(image)?;
        if texts.len() == 1 { Some("FROM x".into()) } else { texts.iter().rev().nth(1).cloned() }
    }

    /// When a digest of an upstream first was what its tag stood on.
    pub fn first_seen(&self, repository: &str, digest: &str) -> Option<Duration> {
        self.seen.get(&(repository.to_owned(), digest.to_owned())).copied()
    }

    /// A person has deleted something of what is recorded of a family.
    pub fn forgets(&mut self, family: &str) {
        self.forgotten.insert(family.into());
    }

    /// Whether a person ever did.
    pub fn was_forgotten(&self, family: &str) -> bool {
        self.forgotten.contains(family)
    }

    /// A family's policy is to spare images whose rebuild comes out the same.
    pub fn spares(&mut self, family: &str) {
        self.sparing.insert(family.into());
    }

    /// Whether that was ever a family's policy.
    pub fn ever_spares(&self, family: &str) -> bool {
        self.sparing.contains(family)
    }

    /// A person asks for builds to be cancelled.
    pub fn cancels(&mut self) {
        self.cancelled = true;
    }

    /// Whether a person ever did.
    pub fn has_cancelled(&self) -> bool {
        self.cancelled
    }

    /// The id of a request: a new one, or one that was used before.
    pub fn request_id(&mut self, again: bool) -> String {
        match self.request.clone().filter(|_| again) {
            Some(before) => before,
            None => {
                let id = format!("request-{}", self.next_number());
                self.request = Some(id.clone());
                id
            }
        }
    }

    pub fn bury(&mut self, family: Family) {
        self.graves.insert(family.name.clone(), family);
    }

    pub fn unbury(&mut self, family: &str) -> Option<Family> {
        let family = self.graves.remove(family)?;
        self.made_again.insert(family.name.clone());
        Some(family)
    }

    /// Whether a family's builds are counted anew beside tags of before: something recorded of it
    /// was deleted, or all of it.
    pub fn counts_anew(&self, family: &str) -> bool {
        self.was_forgotten(family) || self.made_again.contains(family)
    }

    /// Notes what is true now.
    pub fn truths(&mut self, now_true: Vec<(String, String)>, now: Duration) {
        let mut news: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (leaf, value) in now_true {
            news.entry(leaf).or_default().insert(value);
        }
        for (leaf, values) in news {
            let (known, last) = self.truths.entry(leaf).or_default();
            for old in known.difference(&values) {
                last.insert(old.clone(), now);
            }
            *known = values;
        }
    }

    /// When a leaf last had a value.
    pub fn last_true(&self, leaf: &str, value: &str) -> Duration {
        let Some((known, last)) = self.truths.get(leaf) else { return Duration::ZERO };
        if known.contains(value) { LASTING } else { last.get(value).copied().unwrap_or_default() }
    }
}
