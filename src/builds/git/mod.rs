//! Git as a source: resolves a branch or tag to a commit, and fetches the files of a commit.
//!
//! Everything here blocks and is bounded in bytes, files and time. Nothing of a repository is
//! executed: no hook, no filter, no submodule, and no configuration except the operator's own. In
//! the controller it runs in a process of its own (see [`subprocess`]), for two reasons. libgit2
//! cannot time out a server that accepts a connection and then sends nothing. And C code that
//! parses untrusted bytes should not share memory with the controller. In a build's pod it runs in
//! `prepare`.

mod checkout;
mod credential;
pub mod selection;
pub mod subprocess;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use git2::{
    AutotagOption, CertificateCheckStatus, Direction, FetchOptions, Oid, ProxyOptions, Remote,
    RemoteCallbacks, Repository,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

pub use credential::GitCredential;

/// How often a server may ask for the credential in one connection. It asks again after it has
/// rejected the credential.
const MAX_CREDENTIAL_PROMPTS: u32 = 2;

/// The upper bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Maximum number of bytes received from the server.
    pub received: usize,
    /// Maximum size of one file in bytes.
    pub file: u64,
    /// Maximum size of all files together in bytes.
    pub written: u64,
    /// Maximum number of files, folders and symbolic links.
    pub entries: usize,
    /// Maximum duration of the fetch.
    pub time: Duration,
}

impl Default for FetchLimits {
    /// 256 MiB received, 128 MiB per file, 1 GiB in total, 50000 entries, 10 minutes.
    fn default() -> Self {
        Self {
            received: 256 << 20,
            file: 128 << 20,
            written: 1 << 30,
            entries: 50_000,
            time: Duration::from_mins(10),
        }
    }
}

/// Why a Git source cannot be used.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum GitError {
    /// The repository, the branch or tag, the commit, or the folder in it does not exist.
    #[error("Git source {url}: {what} does not exist; correct `source.git` or push it")]
    NotFound {
        /// The repository.
        url: String,
        /// What is missing.
        what: String,
    },
    /// The server is unreachable or too slow, does not answer as a Git server, or requires a
    /// credential.
    #[error("Git source {url} cannot be read: {problem}")]
    Unavailable {
        /// The repository.
        url: String,
        /// The cause.
        problem: String,
    },
    /// The Secret cannot be used for this repository.
    #[error("Secret `{secret}` cannot be used for the Git source {url}: {problem}")]
    Credential {
        /// The Secret's name.
        secret: String,
        /// The repository.
        url: String,
        /// What is wrong with the Secret.
        problem: String,
    },
    /// The source exceeds a limit.
    #[error(
        "Git source {url} is too large: {limit}; move the image's files into a smaller repository"
    )]
    TooLarge {
        /// The repository.
        url: String,
        /// The limit that the source exceeds.
        limit: String,
    },
    /// The source has an entry that is not safe to write.
    #[error("Git source {url}: {path} {problem}")]
    Unsafe {
        /// The repository.
        url: String,
        /// The path of the entry.
        path: String,
        /// What is wrong with the entry.
        problem: String,
    },
    /// The source cannot be written to the local disk.
    #[error("cannot write the Git source to {path}: {problem}")]
    Disk {
        /// The path.
        path: String,
        /// The cause.
        problem: String,
    },
}

/// Returns the commit that a branch or a tag points to: the branch of that name, or else the tag of
/// that name, peeled. A full commit id is returned as it is, without a request.
///
/// # Errors
/// Returns a [`GitError`] if the server cannot be read or has no such branch or tag.
pub fn resolve(
    url: &str,
    revision: &str,
    credential: Option<&GitCredential>,
) -> Result<String, GitError> {
    if is_commit(revision) {
        return Ok(revision.to_owned());
    }
    let parsed = parse(url)?;
    let unavailable = |error: &git2::Error| git_error(url, credential, error);
    let mut remote = Remote::create_detached(url).map_err(|error| unavailable(&error))?;
    let callbacks = callbacks(&parsed, credential);
    let connection = remote
        .connect_auth(Direction::Fetch, Some(callbacks), Some(proxy()))
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
        .map(|head| head.oid().to_string())
        .ok_or_else(|| GitError::NotFound {
            url: url.to_owned(),
            what: format!("a branch or tag `{revision}`"),
        })
}

/// A commit to fetch.
#[derive(Clone, Copy)]
pub struct WantedCommit<'a> {
    /// The URL of the repository.
    pub url: &'a str,
    /// The id of the commit.
    pub commit: &'a str,
    /// The only folder of it that is wanted.
    pub folder: Option<&'a str>,
    /// What the server requires.
    pub credential: Option<&'a GitCredential>,
}

/// A commit whose files were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchedCommit {
    /// When it was committed, according to whoever committed it.
    pub committed_at: Option<Timestamp>,
}

/// Writes the files of a commit, or of one folder of it, to `destination`, which must not exist.
/// `scratch` holds the repository meanwhile and must not exist either. It is removed afterwards.
///
/// # Errors
/// Returns a [`GitError`] if the server cannot be read, the commit or the folder does not exist,
/// the source exceeds the limits or has an unsafe entry, or the disk fails.
pub fn fetch(
    wanted: &WantedCommit<'_>,
    scratch: &Path,
    destination: &Path,
    limits: &FetchLimits,
) -> Result<FetchedCommit, GitError> {
    let WantedCommit { url, commit, folder, credential } = *wanted;
    let parsed = parse(url)?;
    let missing =
        || GitError::NotFound { url: url.to_owned(), what: format!("the commit {commit}") };
    let id = Oid::from_str(commit).map_err(|_| missing())?;
    let repository = Repository::init_bare(scratch).map_err(|error| GitError::Disk {
        path: scratch.display().to_string(),
        problem: error.message().to_owned(),
    })?;
    let deadline = Instant::now() + limits.time;
    let result = receive(&repository, &parsed, wanted, id, limits, deadline).and_then(|()| {
        let commit = repository.find_commit(id).map_err(|_| missing())?;
        let tree = commit.tree().map_err(|error| git_error(url, credential, &error))?;
        let tree = match folder {
            None => tree,
            Some(folder) => {
                let missing = || GitError::NotFound {
                    url: url.to_owned(),
                    what: format!("the folder `{folder}` in {id}"),
                };
                let entry = tree.get_path(Path::new(folder)).map_err(|_| missing())?;
                repository.find_tree(entry.id()).map_err(|_| missing())?
            }
        };
        checkout::write(&repository, &tree, url, destination, limits, deadline)?;
        let committed_at = Timestamp::from_second(commit.time().seconds()).ok();
        Ok(FetchedCommit { committed_at })
    });
    // Leftovers in scratch do no harm, because they are deleted with the pod.
    let _ = std::fs::remove_dir_all(scratch);
    result
}

/// Receives one commit without its history if the server serves single commits, or else everything
/// that branches and tags reach.
fn receive(
    repository: &Repository,
    parsed: &Url,
    wanted: &WantedCommit<'_>,
    id: Oid,
    limits: &FetchLimits,
    deadline: Instant,
) -> Result<(), GitError> {
    let WantedCommit { url, credential, .. } = *wanted;
    let one = format!("+{id}:refs/groundswell/source");
    let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
    for (refspecs, depth) in [(&[one.as_str()][..], 1), (&all[..], 0)] {
        let mut remote =
            repository.remote_anonymous(url).map_err(|error| git_error(url, credential, &error))?;
        let mut too_large = false;
        let mut timed_out = false;
        let mut callbacks = callbacks(parsed, credential);
        callbacks.transfer_progress(|progress| {
            too_large = progress.received_bytes() > limits.received;
            timed_out = Instant::now() > deadline;
            !too_large && !timed_out
        });
        let mut options = FetchOptions::new();
        options
            .depth(depth)
            .download_tags(AutotagOption::None)
            .remote_callbacks(callbacks)
            .proxy_options(proxy());
        let fetched = remote.fetch(refspecs, Some(&mut options), None);
        drop(options);
        if too_large {
            let limit = format!("it has more than {} MiB to receive", limits.received >> 20);
            return Err(GitError::TooLarge { url: url.to_owned(), limit });
        }
        if timed_out {
            let problem =
                format!("the fetch exceeded its time limit of {} s", limits.time.as_secs());
            return Err(GitError::Unavailable { url: url.to_owned(), problem });
        }
        match fetched {
            Ok(()) if repository.find_commit(id).is_ok() => return Ok(()),
            Err(error) if depth == 0 || is_final(&error) => {
                return Err(git_error(url, credential, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Err(GitError::NotFound {
        url: url.to_owned(),
        what: format!("the commit {id} on a branch or tag"),
    })
}

/// Returns the options to use the proxy that the environment names. libgit2 uses none by default.
fn proxy() -> ProxyOptions<'static> {
    let mut options = ProxyOptions::new();
    options.auto();
    options
}

/// Whether fetching everything instead of one commit would fail as well.
fn is_final(error: &git2::Error) -> bool {
    use git2::{ErrorClass, ErrorCode};
    matches!(
        error.code(),
        ErrorCode::Auth | ErrorCode::Certificate | ErrorCode::User | ErrorCode::NotFound
    ) || matches!(error.class(), ErrorClass::Ssl | ErrorClass::Os)
}

/// Returns the callbacks of one connection. The credential is sent only to the host, scheme and
/// port that the source names: after a redirect, libgit2 asks for it again with the new address.
fn callbacks<'a>(url: &'a Url, credential: Option<&'a GitCredential>) -> RemoteCallbacks<'a> {
    let mut callbacks = RemoteCallbacks::new();
    let mut prompts = 0;
    callbacks.credentials(move |asking, user, allowed| {
        prompts += 1;
        let same = Url::parse(asking).is_ok_and(|asking| {
            asking.scheme() == url.scheme()
                && asking.host_str() == url.host_str()
                && asking.port_or_known_default() == url.port_or_known_default()
        });
        let refuse =
            |why: &str| Err(git2::Error::new(git2::ErrorCode::Auth, git2::ErrorClass::Net, why));
        match credential {
            None => refuse("the server requires a credential; set `source.git.secretRef`"),
            Some(_) if !same && url.scheme() != "ssh" => {
                refuse("the server redirects to another host, which asks for the credential")
            }
            Some(_) if prompts > MAX_CREDENTIAL_PROMPTS => {
                refuse("the server rejects the credential")
            }
            Some(credential) => credential.to_git2(user, allowed),
        }
    });
    callbacks.certificate_check(move |certificate, host| {
        match (certificate.as_hostkey(), credential) {
            (None, _) => Ok(CertificateCheckStatus::CertificatePassthrough),
            (Some(key), Some(credential)) => credential
                .verify_host(host, url.port().unwrap_or(22), key.hostkey())
                .map(|()| CertificateCheckStatus::CertificateOk),
            (Some(_), None) => Err(git2::Error::new(
                git2::ErrorCode::Certificate,
                git2::ErrorClass::Ssh,
                "ssh requires a `secretRef` with the keys `identity` and `known_hosts`",
            )),
        }
    });
    callbacks
}

/// Converts an error of libgit2, which knows neither the source nor the Secret.
fn git_error(url: &str, credential: Option<&GitCredential>, error: &git2::Error) -> GitError {
    use git2::ErrorCode;
    let mut problem = error.message().trim().to_owned();
    if problem.contains("ssh hostkey") {
        // libgit2 replaces the message of our own host key check by this one.
        problem =
            "`known_hosts` does not contain the host key of the server; add all of its keys as \
             `ssh-keyscan` prints them (hashed host names are not supported)"
                .into();
    }
    match (error.code(), credential) {
        (ErrorCode::Auth | ErrorCode::Certificate, Some(credential)) => GitError::Credential {
            secret: credential.secret().to_owned(),
            url: url.to_owned(),
            problem,
        },
        (ErrorCode::NotFound, _) => {
            GitError::NotFound { url: url.to_owned(), what: format!("the repository ({problem})") }
        }
        _ if problem.contains("http status code: 404") => {
            GitError::NotFound { url: url.to_owned(), what: "the repository".into() }
        }
        _ => GitError::Unavailable { url: url.to_owned(), problem },
    }
}

fn parse(url: &str) -> Result<Url, GitError> {
    let wrong =
        |problem: &str| GitError::Unavailable { url: url.to_owned(), problem: problem.to_owned() };
    let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    let allowed = matches!(parsed.scheme(), "https" | "ssh") || is_local(&parsed);
    if allowed && parsed.password().is_none() {
        Ok(parsed)
    } else {
        Err(wrong("only https:// and ssh:// URLs without a password are allowed"))
    }
}

/// Whether a URL is plain HTTP on the loopback address, which the tests use. No host of a cluster
/// has this name.
fn is_local(url: &Url) -> bool {
    url.scheme() == "http" && url.host_str() == Some("127.0.0.1")
}

/// Whether a revision is a full commit id: 40 lower-case hexadecimal digits.
#[must_use]
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
