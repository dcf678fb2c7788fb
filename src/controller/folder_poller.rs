//! Polls the folders of Git repositories: one poll per repository and revision, for the folders of
//! all families together. No client is needed.
//!
//! The [`Poller`] knows keys only. This adds the folders that are wanted of each key. Whether a
//! folder is missing in the last answer is checked at every reconcile, so that a new one is read
//! without waiting for the interval, whatever happened in between.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::Stream;

use crate::{
    api::{
        condition::{Problem, shorten},
        late_source::{LateSource, MAX_LATE_SOURCE_MESSAGE, MAX_LATE_SOURCES},
    },
    builds::git::{FolderError, GitFolder},
    clock::Clock,
    controller::git_poll::GitKey,
    identity::FolderRevision,
    upstream::{Interest, PollPurpose, PollSettings, PolledValue, Poller},
};

/// The folders of a repository at a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitAnswer {
    /// The commit.
    pub commit: String,
    /// The wanted folders, each with its revision or why it has none.
    pub folders: HashMap<GitFolder, Result<Arc<FolderRevision>, FolderError>>,
}

/// What one poll asks of a repository.
#[derive(Clone, Debug)]
pub struct GitPoll {
    /// The repository, and the revision of it.
    pub key: GitKey,
    /// The folders that any family wants.
    pub folders: Vec<GitFolder>,
    /// The last answer, if it has all of these folders.
    pub last: Option<Arc<GitAnswer>>,
}

/// A folder that an owner is interested in, and how often it is polled.
#[derive(Clone, Debug)]
pub struct FolderInterest {
    /// The repository, and the revision of it.
    pub key: GitKey,
    /// The folder.
    pub folder: GitFolder,
    /// The interval between polls. The shortest interval of all owners applies.
    pub interval: Duration,
}

/// Polls folders on behalf of owners of type `O`. Polling ends when it is dropped.
pub struct FolderPoller<O> {
    poller: Poller<GitKey, Arc<GitAnswer>, O>,
    wanted: Arc<Mutex<WantedByOwner<O>>>,
}

/// The folders that each owner wants.
type WantedByOwner<O> = HashMap<GitKey, HashMap<O, HashSet<GitFolder>>>;

impl<O: Clone + Eq + Hash + Send + Sync + 'static> FolderPoller<O> {
    /// Starts polling.
    pub fn start<F>(
        settings: PollSettings<GitKey, O>,
        clock: Clock,
        fetch: impl Fn(GitPoll) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Arc<GitAnswer>, Problem>> + Send + 'static,
    {
        let wanted: Arc<Mutex<WantedByOwner<O>>> = Arc::default();
        let of_polls = Arc::clone(&wanted);
        let poller = Poller::start(settings, clock, move |key: GitKey, last| {
            let folders: HashSet<GitFolder> = lock(&of_polls)
                .get(&key)
                .into_iter()
                .flat_map(HashMap::values)
                .flatten()
                .cloned()
                .collect();
            let last = last
                .and_then(|last: Arc<PolledValue<Arc<GitAnswer>>>| last.value.clone())
                .filter(|last| folders.iter().all(|folder| last.folders.contains_key(folder)));
            fetch(GitPoll { key, folders: folders.into_iter().collect(), last })
        });
        Self { poller, wanted }
    }

    /// Replaces the interests of an owner. A folder that is not in the last answer is read
    /// immediately.
    pub fn set_interests(&self, owner: &O, interests: Vec<FolderInterest>) {
        let mut folders: HashMap<GitKey, HashSet<GitFolder>> = HashMap::new();
        let mut polls = Vec::with_capacity(interests.len());
        for FolderInterest { key, folder, interval } in interests {
            folders.entry(key.clone()).or_default().insert(folder);
            polls.push(Interest { key, interval, purpose: PollPurpose::Follow });
        }
        self.replace_wanted(owner, &folders);
        self.poller.set_interests(owner, polls);
        for (key, folders) in &folders {
            let answer = self.poller.latest(key).and_then(|polled| polled.value.clone());
            let is_read =
                |folder| answer.as_ref().is_none_or(|answer| answer.folders.contains_key(folder));
            if !folders.iter().all(is_read) {
                self.poller.reread(key);
            }
        }
    }

    fn replace_wanted(&self, owner: &O, folders: &HashMap<GitKey, HashSet<GitFolder>>) {
        let mut wanted = lock(&self.wanted);
        wanted.retain(|key, owners| {
            if !folders.contains_key(key) {
                owners.remove(owner);
            }
            !owners.is_empty()
        });
        for (key, folders) in folders {
            wanted.entry(key.clone()).or_default().insert(owner.clone(), folders.clone());
        }
    }

    /// Removes an owner with all its interests.
    pub fn remove(&self, owner: &O) {
        self.replace_wanted(owner, &HashMap::new());
        self.poller.remove(owner);
    }

    /// Returns the latest result of a key, or `None` before its first poll has completed.
    #[must_use]
    pub fn latest(&self, key: &GitKey) -> Option<Arc<PolledValue<Arc<GitAnswer>>>> {
        self.poller.latest(key)
    }

    /// Returns which of these repositories are polled later than their intervals ask for, in the
    /// order given. Lists at most [`MAX_LATE_SOURCES`].
    pub fn late_sources(&self, keys: impl IntoIterator<Item = GitKey>) -> Vec<LateSource> {
        let mut listed = HashSet::new();
        let keys = keys.into_iter().filter(|key| listed.insert(key.clone()));
        let late = keys.filter_map(|key| {
            let next_poll = Some(self.poller.late_until(&key)?);
            let problem = self.latest(&key).and_then(|polled| polled.problem.clone());
            let message = |problem: &Problem| shorten(&problem.message, MAX_LATE_SOURCE_MESSAGE);
            Some(LateSource {
                next_poll,
                reason: problem.as_ref().map(|problem| problem.reason.into()),
                message: problem.as_ref().map(message),
                url: key.url,
                revision: key.revision,
            })
        });
        late.take(MAX_LATE_SOURCES).collect()
    }

    /// Returns the owners of keys whose answer or problem has changed. The stream has a single
    /// consumer.
    pub fn changes(&self) -> impl Stream<Item = O> + Send + use<O> {
        self.poller.changes()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::{api::condition::Reason, upstream::PollLimits};

    fn key() -> GitKey {
        GitKey { url: "https://git.test/a".into(), revision: "main".into(), secret: None }
    }

    fn want(paths: &[&str]) -> Vec<FolderInterest> {
        let interest = |path: &&str| FolderInterest {
            key: key(),
            folder: GitFolder { path: (*path).into(), ..GitFolder::default() },
            interval: Duration::from_mins(5),
        };
        paths.iter().map(interest).collect()
    }

    fn paths(poll: &GitPoll) -> Vec<String> {
        let mut paths: Vec<_> = poll.folders.iter().map(|folder| folder.path.clone()).collect();
        paths.sort_unstable();
        paths
    }

    fn settings() -> PollSettings<GitKey, &'static str> {
        PollSettings {
            timeout: Duration::from_secs(5),
            limits: PollLimits::of_each_host(4, 4, 600),
            host_of: GitKey::host,
            namespace_of: |owner| (*owner).to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_poll_reads_the_folders_of_all_owners_and_a_new_one_at_once() {
        let polls: Arc<Mutex<Vec<GitPoll>>> = Arc::default();
        let polled = Arc::clone(&polls);
        let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
        let poller = FolderPoller::start(settings(), clock, move |poll: GitPoll| {
            let folders = poll.folders.iter().map(|folder| (folder.clone(), Ok(Arc::default())));
            let answer = GitAnswer { commit: "c".into(), folders: folders.collect() };
            lock(&polled).push(poll);
            async { Ok(Arc::new(answer)) }
        });
        let mut changes = Box::pin(poller.changes());
        poller.set_interests(&"a", want(&["x", "y"]));
        poller.set_interests(&"b", want(&["y", "z"]));
        for _ in 0..2 {
            changes.next().await;
        }
        assert_eq!(lock(&polls).len(), 1, "the families share a poll");
        assert_eq!(paths(&lock(&polls)[0]), ["x", "y", "z"]);

        // Far below the interval of 5 minutes.
        poller.set_interests(&"a", want(&["x", "new"]));
        let added = tokio::time::timeout(Duration::from_secs(1), changes.next()).await;
        assert!(added.is_ok(), "a new folder is read at once");
        assert_eq!(paths(&lock(&polls)[1]), ["new", "x", "y", "z"]);

        poller.remove(&"b");
        tokio::time::sleep(Duration::from_mins(6)).await;
        assert_eq!(lock(&polls).len(), 3);
        assert_eq!(paths(&lock(&polls)[2]), ["new", "x"], "a vanished folder is dropped");
        assert!(lock(&polls)[2].last.is_some(), "the last answer has all folders");
        assert_eq!(
            poller.latest(&key()).expect("polled").value.clone().expect("value").folders.len(),
            2
        );
        poller.remove(&"a");
        assert!(lock(&poller.wanted).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn repositories_whose_polls_fail_are_late_and_say_why() {
        let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
        let poller = FolderPoller::start(settings(), clock, |poll: GitPoll| async move {
            if poll.key != key() {
                return Ok(Arc::default());
            }
            let message = "away ".repeat(MAX_LATE_SOURCE_MESSAGE);
            Err(Problem { reason: Reason::SourceUnavailable, message })
        });
        let well = GitKey { url: "https://git.test/well".into(), ..key() };
        let [mut late] = want(&["x"]).try_into().expect("one");
        late.interval = Duration::from_secs(5);
        let of_well = FolderInterest { key: well.clone(), ..late.clone() };
        poller.set_interests(&"a", vec![late, of_well]);
        let keys = || [key(), well.clone(), key()];
        assert_eq!(poller.late_sources(keys()), [], "nothing is late at first");
        // The pauses double until they are longer than the interval by more than a minute.
        tokio::time::sleep(Duration::from_mins(10)).await;
        let [known] = <[_; 1]>::try_from(poller.late_sources(keys())).expect("one is late");
        assert_eq!((known.url.as_str(), known.revision.as_str()), ("https://git.test/a", "main"));
        assert_eq!(known.reason.as_deref(), Some("SourceUnavailable"));
        assert_eq!(known.message.expect("why").chars().count(), MAX_LATE_SOURCE_MESSAGE);
        let pause = known.next_poll.expect("a time").duration_since(Timestamp::UNIX_EPOCH);
        assert!(pause > SignedDuration::from_mins(1), "{pause:?}");
    }
}
