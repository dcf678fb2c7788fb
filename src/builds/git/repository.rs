//! The objects of one commit with all of its files: what is read from servers that cannot send
//! trees alone, and over ssh.

use std::{
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use git2::{ObjectType, Oid, Repository};

use crate::builds::git::{
    FetchLimits, GitCredential, GitError,
    object::{ObjectId, ObjectKind, Objects},
    parse,
    receive::{ReceivedCommit, ResolvedCommit},
    revisions::MAX_FILE,
    route::Route,
};

/// Maximum number of bytes received. The controller's disk has this for each of the servers that
/// are asked at once.
const MAX_RECEIVED: usize = 64 << 20;
/// Maximum size of a commit or a tree in bytes.
const MAX_OBJECT: usize = 16 << 20;
/// Maximum duration of the fetch.
const MAX_TIME: Duration = Duration::from_secs(40);

/// A repository with one commit.
pub(super) struct ShallowRepository<'a> {
    repository: Repository,
    url: &'a str,
}

impl<'a> ShallowRepository<'a> {
    /// Fetches one commit without its history.
    pub fn fetch(
        url: &'a str,
        route: &Route,
        commit: &ResolvedCommit,
        credential: Option<&GitCredential>,
        scratch: &Path,
    ) -> Result<Self, GitError> {
        let parsed = parse(url)?;
        let ResolvedCommit { id: commit, reference } = commit;
        let id = Oid::from_str(commit).map_err(|_| GitError::NotFound {
            url: url.to_owned(),
            what: format!("the commit {commit}"),
        })?;
        let repository = Repository::init_bare(scratch).map_err(|error| GitError::Disk {
            path: scratch.display().to_string(),
            problem: error.message().to_owned(),
        })?;
        let limits =
            FetchLimits { received: MAX_RECEIVED, time: MAX_TIME, ..FetchLimits::default() };
        let commit = ReceivedCommit {
            repository: &repository,
            url: &parsed,
            route,
            label: url,
            credential,
            id,
            reference,
            received: 0,
            limits: &limits,
            deadline: Instant::now() + limits.time,
        };
        commit.receive()?;
        Ok(Self { repository, url })
    }
}

impl Objects for ShallowRepository<'_> {
    fn read(&self, id: ObjectId, kind: ObjectKind) -> Result<Option<Rc<[u8]>>, GitError> {
        let broken = |error: &git2::Error| GitError::Unavailable {
            url: self.url.to_owned(),
            problem: format!("the repository has a broken object: {}", error.message()),
        };
        let id = Oid::from_bytes(&id.0).map_err(|error| broken(&error))?;
        let odb = self.repository.odb().map_err(|error| broken(&error))?;
        if !odb.exists(id) {
            return Ok(None);
        }
        let (size, found) = odb.read_header(id).map_err(|error| broken(&error))?;
        let (wanted, limit) = match kind {
            ObjectKind::Commit => (ObjectType::Commit, MAX_OBJECT),
            ObjectKind::Tree => (ObjectType::Tree, MAX_OBJECT),
            ObjectKind::Blob => (ObjectType::Blob, MAX_FILE),
        };
        if found != wanted || size > limit {
            return Ok(None);
        }
        let object = odb.read(id).map_err(|error| broken(&error))?;
        Ok(Some(object.data().into()))
    }

    fn fetch_files(&mut self, _: &[ObjectId]) -> Result<(), GitError> {
        Ok(())
    }
}
