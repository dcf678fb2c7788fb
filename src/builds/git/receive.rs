//! Receives one commit of a repository with libgit2.

use std::time::Instant;

use git2::{AutotagOption, FetchOptions, Oid, Repository};
use url::Url;

use crate::builds::git::{
    FetchLimits, GitCredential, GitError, callbacks, git_error, route::Route,
};

/// A commit, and the name under which a server has it.
pub(super) struct ResolvedCommit {
    pub id: String,
    pub reference: String,
}

/// A commit to receive.
pub(super) struct ReceivedCommit<'a> {
    pub repository: &'a Repository,
    pub url: &'a Url,
    pub route: &'a Route,
    /// The repository in messages.
    pub label: &'a str,
    pub credential: Option<&'a GitCredential>,
    pub id: Oid,
    /// What the server is asked for: a branch, a tag or the commit.
    pub reference: &'a str,
    /// How many bytes were received before, which count for the limit.
    pub received: usize,
    pub limits: &'a FetchLimits,
    pub deadline: Instant,
}

impl ReceivedCommit<'_> {
    /// Receives the commit without its history if the server serves single commits, or else
    /// everything that branches and tags reach. Returns how many bytes were received in all.
    pub fn receive(&self) -> Result<usize, GitError> {
        let one = format!("+{}:refs/groundswell/source", self.reference);
        let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        let mut before = self.received;
        for (refspecs, depth) in [(&[one.as_str()][..], 1), (&all[..], 0)] {
            let mut remote = self
                .repository
                .remote_anonymous(self.route.url())
                .map_err(|error| self.error(&error))?;
            let (mut received, mut timed_out) = (before, false);
            let mut callbacks = callbacks(self.url, self.credential);
            callbacks.transfer_progress(|progress| {
                received = before.saturating_add(progress.received_bytes());
                timed_out = Instant::now() > self.deadline;
                received <= self.limits.received && !timed_out
            });
            let mut options = FetchOptions::new();
            options
                .depth(depth)
                .download_tags(AutotagOption::None)
                .remote_callbacks(callbacks)
                .proxy_options(self.route.proxy());
            let fetched = remote.fetch(refspecs, Some(&mut options), None);
            drop(options);
            before = received;
            if received > self.limits.received {
                let limit =
                    format!("it has more than {} MiB to receive", self.limits.received >> 20);
                return Err(GitError::TooLarge { url: self.label.to_owned(), limit });
            }
            if timed_out {
                let problem = self.limits.exceeded_time();
                return Err(GitError::Unavailable { url: self.label.to_owned(), problem });
            }
            match fetched {
                Ok(()) if self.repository.find_commit(self.id).is_ok() => return Ok(received),
                Err(error) if depth == 0 || is_final(&error) => return Err(self.error(&error)),
                Ok(()) | Err(_) => {}
            }
        }
        let what = format!("the commit {} on a branch or tag", self.id);
        Err(GitError::NotFound { url: self.label.to_owned(), what })
    }

    fn error(&self, error: &git2::Error) -> GitError {
        self.route.explain(self.label, git_error(self.label, self.credential, error))
    }
}

/// Whether fetching everything instead of one commit would fail as well.
fn is_final(error: &git2::Error) -> bool {
    use git2::{ErrorClass, ErrorCode};
    matches!(
        error.code(),
        ErrorCode::Auth | ErrorCode::Certificate | ErrorCode::User | ErrorCode::NotFound
    ) || matches!(error.class(), ErrorClass::Ssl | ErrorClass::Os)
}
