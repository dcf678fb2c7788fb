//! What was true when: versions of upstreams and of sources, and deleted families.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::script::Family;

/// When something was last true that is still true.
pub const STILL_TRUE: Duration = Duration::MAX;

/// The values of a leaf.
#[derive(Debug, Default)]
struct LeafTruth {
    /// The values that are true now.
    current: BTreeSet<String>,
    /// When other values were last true.
    past: BTreeMap<String, Duration>,
}

/// The past.
#[derive(Debug, Default)]
pub struct History {
    processes: u64,
    numbers: u64,
    /// Digests of each upstream's repository, in the order in which its tag pointed to them.
    upstreams: BTreeMap<String, Vec<String>>,
    /// Complete indexes that are scheduled, by repository.
    incomplete: BTreeMap<String, String>,
    /// Dockerfiles of each image, oldest first.
    texts: BTreeMap<String, Vec<String>>,
    graves: BTreeMap<String, Family>,
    recreated: BTreeSet<String>,
    request: Option<String>,
    cancelled: bool,
    forgotten: BTreeSet<String>,
    /// Families whose policy ever spared images whose rebuild did not change.
    sparing: BTreeSet<String>,
    /// When the tag of an upstream first offered what builds use of each digest.
    first_digests: BTreeMap<(String, String), Duration>,
    /// The digest that builds use of each upstream, and since when its tag has offered it.
    followed_since: BTreeMap<String, (String, Duration)>,
    /// The digests of upstreams on which nothing can be built, as `repository@digest`.
    bad_bases: BTreeSet<String>,
    /// The values of each leaf.
    truths: BTreeMap<String, LeafTruth>,
}

impl History {
    /// Returns the number of the next process, from 1.
    pub fn next_process(&mut self) -> u64 {
        self.processes += 1;
        self.processes
    }

    /// Returns a number that was not used before.
    pub fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Records that an upstream's tag points to a digest, of which builds use `built`.
    pub fn moved(&mut self, repository: &str, digest: &str, built: &str, now: Duration) {
        let followed = self.followed_since.entry(repository.into()).or_default();
        if followed.0 != built {
            *followed = (built.into(), now);
        }
        // A new index of the same image is no change for builds.
        let offered_since = followed.1;
        for (digest, since) in [(digest, offered_since), (built, now)] {
            self.first_digests.entry((repository.into(), digest.into())).or_insert(since);
        }
        self.upstreams.entry(repository.into()).or_default().push(digest.into());
    }

    /// Records that nothing can be built on `repository@digest`.
    pub fn record_bad_base(&mut self, pinned: &str) {
        self.bad_bases.insert(pinned.into());
    }

    /// Returns whether nothing can be built on `repository@digest`.
    pub fn is_bad_base(&self, pinned: &str) -> bool {
        self.bad_bases.contains(pinned)
    }

    /// Returns the digest that an upstream's tag pointed to before the current one.
    pub fn previous_digest(&self, repository: &str) -> Option<String> {
        let versions = self.upstreams.get(repository)?;
        versions.iter().rev().nth(1).cloned()
    }

    /// Records that an upstream will move to a complete index, unless it moves before.
    pub fn record_completion(&mut self, repository: &str, complete: &str) {
        self.incomplete.insert(repository.into(), complete.into());
    }

    /// Returns whether an upstream has not moved since its move to this complete index was
    /// scheduled.
    pub fn is_completion_due(&mut self, repository: &str, complete: &str) -> bool {
        self.incomplete.get(repository).is_some_and(|awaited| awaited == complete)
    }

    /// An upstream moves: a scheduled completion is obsolete.
    pub fn forget_incomplete(&mut self, repository: &str) {
        self.incomplete.remove(repository);
    }

    /// Records the new Dockerfile of an image.
    pub fn record_text(&mut self, image: &str, text: &str) {
        self.texts.entry(image.into()).or_default().push(text.into());
    }

    /// Returns the previous Dockerfile of an image.
    pub fn previous_text(&self, image: &str) -> Option<String> {
        let texts = self.texts.get(image)?;
        if texts.len() == 1 { Some("FROM x".into()) } else { texts.iter().rev().nth(1).cloned() }
    }

    /// Returns when the tag of an upstream first offered what builds use of a digest.
    pub fn first_observed(&self, repository: &str, digest: &str) -> Option<Duration> {
        self.first_digests.get(&(repository.to_owned(), digest.to_owned())).copied()
    }

    /// Returns since when the tag of an upstream has offered a digest, if it does.
    pub fn followed_since(&self, repository: &str, digest: &str) -> Option<Duration> {
        let (followed, since) = self.followed_since.get(repository)?;
        (followed == digest).then_some(*since)
    }

    /// Records that a user deleted a status or a record of a family.
    pub fn record_loss(&mut self, family: &str) {
        self.forgotten.insert(family.into());
    }

    /// Returns whether a user ever deleted a status or a record of a family.
    pub fn has_lost_records(&self, family: &str) -> bool {
        self.forgotten.contains(family)
    }

    /// Records that a family's policy spares images whose rebuild did not change.
    pub fn record_sparing(&mut self, family: &str) {
        self.sparing.insert(family.into());
    }

    /// Returns whether a family's policy ever spared images.
    pub fn has_spared(&self, family: &str) -> bool {
        self.sparing.contains(family)
    }

    /// Records that a user requested to cancel builds.
    pub fn record_cancel(&mut self) {
        self.cancelled = true;
    }

    /// Returns whether a user ever requested to cancel builds.
    pub fn has_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Returns the name of a new request.
    pub fn request_name(&mut self) -> String {
        let name = format!("request-{}", self.next_number());
        self.request = Some(name.clone());
        name
    }

    /// Returns the name of the last request.
    pub fn last_request(&self) -> Option<&str> {
        self.request.as_deref()
    }

    /// Keeps a deleted family.
    pub fn bury_family(&mut self, family: Family) {
        self.graves.insert(family.name.clone(), family);
    }

    /// Returns a deleted family, which is recreated.
    pub fn restore_family(&mut self, family: &str) -> Option<Family> {
        let family = self.graves.remove(family)?;
        self.recreated.insert(family.name.clone());
        Some(family)
    }

    /// Returns whether a family's build numbers may start again while older tags exist: a record of
    /// it, or the family itself, was deleted.
    pub fn may_count_again(&self, family: &str) -> bool {
        self.has_lost_records(family) || self.recreated.contains(family)
    }

    /// Records what is true now, as pairs of leaf and value.
    pub fn record_truths(&mut self, now_true: Vec<(String, String)>, now: Duration) {
        let mut news: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (leaf, value) in now_true {
            news.entry(leaf).or_default().insert(value);
        }
        for (leaf, values) in news {
            let LeafTruth { current: known, past: last } = self.truths.entry(leaf).or_default();
            for old in known.difference(&values) {
                last.insert(old.clone(), now);
            }
            *known = values;
        }
    }

    /// Returns when a leaf last had a value: [`STILL_TRUE`] if it has it now, zero if it never had.
    pub fn last_true(&self, leaf: &str, value: &str) -> Duration {
        let Some(LeafTruth { current: known, past: last }) = self.truths.get(leaf) else {
            return Duration::ZERO;
        };
        if known.contains(value) {
            STILL_TRUE
        } else {
            last.get(value).copied().unwrap_or_default()
        }
    }
}
