//! Git as a source: reads the revisions of folders at a branch or tag, and fetches the files of a
//! commit.
//!
//! Everything here blocks and is bounded in bytes, files and time. Nothing of a repository is
//! executed: no hook, no filter, and no configuration except the operator's own. In
//! the controller it runs in a process of its own (see [`subprocess`]), for two reasons. libgit2
//! cannot time out a server that accepts a connection and then sends nothing. And C code that
//! parses untrusted bytes should not share memory with the controller. In a build's pod it runs in
//! `prepare`.

mod checkout;
mod config_file;
mod counted_files;
mod credential;
mod docker_ignore;
mod fetch;
mod folder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod http;
mod lfs;
mod object;
mod pack;
mod packet;
mod partial;
mod read_folders;
mod receive;
mod repository;
mod revisions;
mod route;
pub mod selection;
mod submodules;
pub mod subprocess;

use std::time::Duration;

use git2::{CertificateCheckStatus, RemoteCallbacks};
use serde::{Deserialize, Serialize};
use url::Url;

pub use credential::{GitCredential, SourceSecret};
pub use fetch::{FetchedCommit, WantedCommit, fetch};
pub use folder::{FolderError, GitFolder};
pub use read_folders::{FolderAnswer, WantedFolders, read_folders};
pub use revisions::FolderResult;

/// How often a server may ask for the credential in one connection. It asks again after it has
/// rejected the credential.
const MAX_CREDENTIAL_PROMPTS: u32 = 2;
/// The error for a server that is asked without a credential.
const CREDENTIAL_REQUIRED: &str = "the server requires a credential; set `source.git.secretRef`";

/// The upper bounds of one fetch, with its submodules and files of Git LFS.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Maximum number of bytes received from Git servers.
    pub received: usize,
    /// Maximum size of one file in bytes, unless Git LFS has it.
    pub file: u64,
    /// Maximum size of all files together in bytes.
    pub written: u64,
    /// Maximum number of files, folders and symbolic links.
    pub entries: usize,
    /// Maximum number of submodules, including those of submodules.
    pub submodules: usize,
    /// Maximum number of files of Git LFS.
    pub lfs_files: usize,
    /// Maximum duration of the fetch.
    pub time: Duration,
}

impl Default for FetchLimits {
    /// 256 MiB received, 128 MiB per file, 1 GiB in total, 50000 entries, 64 submodules, 1000 files
    /// of Git LFS, 10 minutes.
    fn default() -> Self {
        Self {
            received: 256 << 20,
            file: 128 << 20,
            written: 1 << 30,
            entries: 50_000,
            submodules: 64,
            lfs_files: 1000,
            time: Duration::from_mins(10),
        }
    }
}

impl FetchLimits {
    /// Returns the problem of a fetch that takes too long.
    fn exceeded_time(&self) -> String {
        format!("the fetch exceeded its time limit of {} s", self.time.as_secs())
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
    /// The address of the server is not one that the operator's configuration allows.
    #[error("Git source {url} is not read: {problem}")]
    Refused {
        /// The repository.
        url: String,
        /// Which address is refused, and what to do.
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
    /// The source has an entry that cannot be part of a build context: it is not safe to write, or
    /// its content is elsewhere and is not to be fetched.
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
            None => refuse(CREDENTIAL_REQUIRED),
            Some(_) if !same && url.scheme() != "ssh" => {
                refuse("the server redirects to another host, which asks for the credential")
            }
            Some(_) if prompts > MAX_CREDENTIAL_PROMPTS => {
                refuse("the server rejects the credential")
            }
            Some(credential) => credential.to_git2(user, allowed),
        }
    });
    callbacks.certificate_check(move |certificate, _| {
        // libgit2 may have been given the address of the host instead of its name.
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
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

/// Whether a URL is plain HTTP on the loopback address, which the tests use. The shipped program
/// refuses it: in a pod, the address is that of the pod's other containers.
fn is_local(url: &Url) -> bool {
    cfg!(any(test, feature = "needs-git"))
        && url.scheme() == "http"
        && url.host_str() == Some("127.0.0.1")
}

/// Whether a revision is a full commit id: 40 lower-case hexadecimal digits.
#[must_use]
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
