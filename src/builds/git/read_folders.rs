//! Reads the revisions of folders at a branch or tag: from the trees alone where the server can
//! send them, or else from one whole commit.

use std::path::Path;

use git2::{Direction, Remote};
use serde::{Deserialize, Serialize};

use crate::{
    builds::git::{
        GitCredential, GitError, callbacks,
        folder::GitFolder,
        git_error,
        http::GitServer,
        is_commit, parse,
        partial::PartialClone,
        receive::ResolvedCommit,
        repository::ShallowRepository,
        revisions::{self, FolderResult},
        route::Route,
    },
    registry::AddressPolicy,
};

/// Returns the commit that a branch or a tag points to: the branch of that name, or else the tag of
/// that name, peeled. A full commit id is returned as it is, without a request.
///
/// # Errors
/// Returns a [`GitError`] if the server cannot be read or has no such branch or tag.
fn resolve(
    url: &str,
    route: &Route,
    revision: &str,
    credential: Option<&GitCredential>,
) -> Result<ResolvedCommit, GitError> {
    if is_commit(revision) {
        return Ok(ResolvedCommit { id: revision.to_owned(), reference: revision.to_owned() });
    }
    let parsed = parse(url)?;
    let unavailable = |error: &git2::Error| route.explain(url, git_error(url, credential, error));
    let mut remote = Remote::create_detached(route.url()).map_err(|error| unavailable(&error))?;
    let callbacks = callbacks(&parsed, credential);
    let connection = remote
        .connect_auth(Direction::Fetch, Some(callbacks), Some(route.proxy()))
        .map_err(|error| unavailable(&error))?;
    let heads = connection.list().map_err(|error| unavailable(&error))?;
    let names = [
        format!("refs/heads/{revision}"),
        format!("refs/tags/{revision}^{{}}"),
        format!("refs/tags/{revision}"),
    ];
    names
        .iter()
        .find_map(|name| heads.iter().find(|head| head.name() == name))
        .map(|head| ResolvedCommit {
            id: head.oid().to_string(),
            reference: head.name().trim_end_matches("^{}").to_owned(),
        })
        .ok_or_else(|| GitError::NotFound {
            url: url.to_owned(),
            what: format!("a branch or tag `{revision}`"),
        })
}

/// What is asked of a repository.
#[derive(Clone, Copy, Debug)]
pub struct WantedFolders<'a> {
    /// The URL of the repository.
    pub url: &'a str,
    /// The branch, tag or commit.
    pub revision: &'a str,
    /// What the server requires.
    pub credential: Option<&'a GitCredential>,
    /// The commit at which the folders are known already.
    pub known: Option<&'a str>,
    /// The folders.
    pub folders: &'a [GitFolder],
    /// Which addresses may be connected to; any without it.
    pub addresses: Option<&'a AddressPolicy>,
}

/// The answer to [`WantedFolders`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub enum FolderAnswer {
    /// The branch or tag is still at the known commit.
    Unmoved,
    /// The folders were read.
    Read {
        /// The commit.
        commit: String,
        /// The revisions, in the order of the folders.
        folders: Vec<FolderResult>,
    },
}

/// Returns the revisions of folders at a branch, tag or commit. `scratch` must not exist.
///
/// # Errors
/// Returns a [`GitError`] if the server cannot be read, or has no such branch, tag or commit. A
/// folder that cannot be used is an error of its own.
pub fn read_folders(wanted: &WantedFolders<'_>, scratch: &Path) -> Result<FolderAnswer, GitError> {
    let WantedFolders { url, revision, credential, known, folders, addresses } = *wanted;
    // ssh has no client here but that of libgit2, which cannot fetch trees alone.
    let parsed = parse(url)?;
    let is_http = parsed.scheme() != "ssh";
    if let Some(answer) = is_http.then(|| read_partial(wanted)).transpose()?.flatten() {
        return Ok(answer);
    }
    let route = Route::permitted(&parsed, addresses, |name| std::env::var(name).ok())?;
    let commit = resolve(url, &route, revision, credential)?;
    if known == Some(&commit.id) {
        return Ok(FolderAnswer::Unmoved);
    }
    let mut repository = ShallowRepository::fetch(url, &route, &commit, credential, scratch)?;
    let commit = commit.id;
    let folders = revisions::folder_revisions(&mut repository, url, &commit, folders)?;
    Ok(FolderAnswer::Read { commit, folders })
}

/// Returns the revisions of folders from their trees alone, or `None` if the server cannot send
/// them.
fn read_partial(wanted: &WantedFolders<'_>) -> Result<Option<FolderAnswer>, GitError> {
    let WantedFolders { url, revision, credential, known, folders, addresses } = *wanted;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| GitError::Unavailable {
        url: url.to_owned(),
        problem: format!("the process that reads from the server failed: {error}"),
    })?;
    let server = GitServer::new(url, credential, addresses)?;
    let Some(mut clone) = PartialClone::connect(server, url, &runtime)? else { return Ok(None) };
    let commit = if is_commit(revision) { revision.to_owned() } else { clone.resolve(revision)? };
    if known == Some(&commit) {
        return Ok(Some(FolderAnswer::Unmoved));
    }
    clone.fetch_trees(&commit)?;
    match revisions::folder_revisions(&mut clone, url, &commit, folders) {
        Ok(folders) => Ok(Some(FolderAnswer::Read { commit, folders })),
        // The server sends trees, but no single files.
        Err(GitError::Unavailable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
