//! Reads the revisions of folders in a child process, which is killed at its deadline. See
//! [`super`] for the reasons.
//!
//! The request goes to the child's standard input, because it contains the credential, and the
//! answer comes from its standard output. Both are JSON. Of the controller's environment, the child
//! inherits only the variables that TLS and proxies need.

use std::{
    io::Read as _,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::{
    builds::git::{
        FolderAnswer, GitCredential, GitError, GitFolder, WantedFolders,
        credential::ExposedCredential, read_folders,
    },
    registry::AddressPolicy,
};

/// The subcommand that the child runs; see [`answer`].
pub const SUBCOMMAND: &str = "resolve-git";

/// Maximum length of a request or an answer in bytes.
const MAX_LENGTH: u64 = 64 << 20;
/// Upper bound on the memory of the child in bytes: what it allocates, without its program. Hostile
/// repositories were measured to take a third of it. Several children run next to the controller.
const MAX_MEMORY: u64 = 192 << 20;
/// Begins the message of an error if the child process itself failed.
const CHILD_FAILED: &str = "the process that reads from the server failed";
/// The variables of the environment that the child inherits.
const INHERITED: [&str; 8] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Reads revisions in child processes. Whoever calls it bounds their number.
#[derive(Debug)]
pub struct Resolver {
    program: PathBuf,
    timeout: Duration,
    /// A file with the certificates that the child trusts, instead of those of the system.
    ca_file: Option<PathBuf>,
    /// The addresses that the child may connect to.
    addresses: AddressPolicy,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadRequest {
    url: String,
    revision: String,
    credential: Option<ExposedCredential>,
    known: Option<String>,
    folders: Vec<GitFolder>,
    addresses: AddressPolicy,
    /// A folder that does not exist, for what does not fit into memory. It is removed afterwards.
    scratch: PathBuf,
}

/// A folder for the child's files. It is removed when this is dropped, even if the child was
/// killed.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("groundswell-git-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Usually it does not exist. Otherwise it has a few files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Resolver {
    /// Returns a resolver that runs `program` (the operator's own binary) for at most `timeout` per
    /// request.
    #[must_use]
    pub fn new(program: PathBuf, timeout: Duration) -> Self {
        let addresses = AddressPolicy::unrestricted();
        Self { program, timeout, ca_file: None, addresses }
    }

    /// Returns a resolver whose children trust the certificates in this file.
    #[must_use]
    pub fn with_ca_file(self, ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, ..self }
    }

    /// Returns a resolver whose children connect to permitted addresses only.
    #[must_use]
    pub fn with_addresses(self, addresses: AddressPolicy) -> Self {
        Self { addresses, ..self }
    }

    /// Returns the revisions of folders, as [`read_folders`] does.
    ///
    /// # Errors
    /// Returns the errors of [`read_folders`], and [`GitError::Unavailable`] if the server does not
    /// answer in time or the process fails.
    pub async fn read(&self, query: &WantedFolders<'_>) -> Result<FolderAnswer, GitError> {
        let WantedFolders { url, revision, credential, known, folders, addresses: _ } = *query;
        if crate::builds::git::is_commit(revision) && known == Some(revision) {
            return Ok(FolderAnswer::Unmoved);
        }
        let unavailable = |problem: String| GitError::Unavailable { url: url.to_owned(), problem };
        let scratch = Scratch::new();
        let request = ReadRequest {
            url: url.to_owned(),
            revision: revision.to_owned(),
            credential: credential.map(GitCredential::expose),
            known: known.map(Into::into),
            folders: folders.to_vec(),
            addresses: self.addresses.clone(),
            scratch: scratch.0.clone(),
        };
        match tokio::time::timeout(self.timeout, self.run_child(&request)).await {
            Ok(Ok(answer)) => serde_json::from_slice(&answer)
                .unwrap_or_else(|error| Err(unavailable(format!("{CHILD_FAILED}: {error}")))),
            Ok(Err(error)) => Err(unavailable(format!("{CHILD_FAILED}: {error}"))),
            Err(_) => Err(unavailable(format!(
                "the server did not answer within {} s",
                self.timeout.as_secs()
            ))),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(SUBCOMMAND)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .envs(self.ca_file.iter().map(|file| ("SSL_CERT_FILE", file)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Sends a request to a child process and returns its answer: the JSON of what [`read_folders`]
    /// returned.
    async fn run_child(&self, request: &ReadRequest) -> std::io::Result<Vec<u8>> {
        let mut child = self.command().spawn()?;
        let mut input =
            child.stdin.take().ok_or_else(|| std::io::Error::other("no standard input"))?;
        let output =
            child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
        input.write_all(&serde_json::to_vec(request)?).await?;
        drop(input);
        let mut answer = Vec::new();
        output.take(MAX_LENGTH).read_to_end(&mut answer).await?;
        let status = child.wait().await?;
        if answer.is_empty() {
            let mebibytes = MAX_MEMORY >> 20;
            return Err(std::io::Error::other(format!(
                "it did not answer ({status}); it may use {mebibytes} MiB of memory"
            )));
        }
        Ok(answer)
    }
}

/// Runs in the child: reads a request from standard input and writes the answer to standard output.
///
/// # Errors
/// Returns an error if standard input contains no request, or if the answer cannot be written.
pub fn answer() -> std::io::Result<()> {
    bound_memory()?;
    let mut request = Vec::new();
    std::io::stdin().take(MAX_LENGTH).read_to_end(&mut request)?;
    let ReadRequest { url, revision, credential, known, folders, addresses, scratch } =
        serde_json::from_slice(&request)?;
    let credential = credential.map(GitCredential::from);
    let wanted = WantedFolders {
        url: &url,
        revision: &revision,
        credential: credential.as_ref(),
        known: known.as_deref(),
        folders: &folders,
        addresses: Some(&addresses),
    };
    let answer = read_folders(&wanted, &scratch);
    serde_json::to_writer(std::io::stdout().lock(), &answer)?;
    Ok(())
}

/// Lets allocations fail that exceed [`MAX_MEMORY`]. libgit2 then returns an error, and everything
/// else ends the process.
fn bound_memory() -> std::io::Result<()> {
    let limit = Some(MAX_MEMORY);
    setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn the_child_trusts_the_given_file_instead_of_the_systems() {
        let resolver = Resolver::new("groundswell".into(), Duration::from_secs(1));
        let resolver = resolver.with_ca_file(Some("/tmp/all.crt".into()));
        let command = resolver.command();
        let trusted = command.as_std().get_envs().filter(|(name, _)| *name == "SSL_CERT_FILE");
        assert_eq!(
            trusted.collect::<Vec<_>>(),
            [(OsStr::new("SSL_CERT_FILE"), Some(OsStr::new("/tmp/all.crt")))]
        );
    }
}
