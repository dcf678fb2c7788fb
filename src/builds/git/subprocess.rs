//! Asking a Git server from a process of its own, which is killed at its deadline. See [`super`]
//! for why.
//!
//! The question goes to the child's standard input, because it holds the credential, and the answer
//! comes from its standard output; both are JSON. The child gets nothing of the controller's
//! environment but what TLS and proxies need.

use std::{io::Read as _, path::PathBuf, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::Semaphore,
};

use crate::builds::git::{GitCredential, GitError, credential::ExposedCredential, resolve};

/// The subcommand that answers; see [`answer`].
pub const SUBCOMMAND: &str = "resolve-git";

/// The most bytes of a question or an answer.
const MAX_LENGTH: u64 = 1 << 20;
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

/// Resolves revisions, a few at a time.
#[derive(Debug)]
pub struct Resolver {
    program: PathBuf,
    timeout: Duration,
    permits: Semaphore,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveRequest {
    url: String,
    revision: String,
    credential: Option<ExposedCredential>,
}

impl Resolver {
    /// A resolver that runs `program` (the operator's own binary) for at most `timeout` a question,
    /// and at most `concurrency` of them at once.
    #[must_use]
    pub fn new(program: PathBuf, timeout: Duration, concurrency: usize) -> Self {
        Self { program, timeout, permits: Semaphore::new(concurrency) }
    }

    /// The commit that a branch or a tag stands on, as [`resolve`] tells it.
    ///
    /// # Errors
    /// As [`resolve`]; [`GitError::Unavailable`] when the server did not answer in time.
    pub async fn resolve(
        &self,
        url: &str,
        revision: &str,
        credential: Option<&GitCredential>,
    ) -> Result<String, GitError> {
        if crate::builds::git::is_commit(revision) {
            return Ok(revision.to_owned());
        }
        let question = ResolveRequest {
            url: url.to_owned(),
            revision: revision.to_owned(),
            credential: credential.map(GitCredential::expose),
        };
        let unavailable = |problem: String| GitError::Unavailable { url: url.to_owned(), problem };
        let _permit =
            self.permits.acquire().await.map_err(|error| unavailable(error.to_string()))?;
        match tokio::time::timeout(self.timeout, self.ask(&question)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                Err(unavailable(format!("the process that asks the server failed: {error}")))
            }
            Err(_) => Err(unavailable(format!(
                "the server did not answer within {} s",
                self.timeout.as_secs()
            ))),
        }
    }

    async fn ask(&self, question: &ResolveRequest) -> std::io::Result<Result<String, GitError>> {
        let mut child = Command::new(&self.program)
            .arg(SUBCOMMAND)
            .env_clear()
            .envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut input =
            child.stdin.take().ok_or_else(|| std::io::Error::other("no standard input"))?;
        let output =
            child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
        input.write_all(&serde_json::to_vec(question)?).await?;
        drop(input);
        let mut answer = Vec::new();
        output.take(MAX_LENGTH).read_to_end(&mut answer).await?;
        let status = child.wait().await?;
        if answer.is_empty() {
            return Err(std::io::Error::other(format!("it said nothing ({status})")));
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// The child's side: reads a question from standard input and writes the answer to standard output.
///
/// # Errors
/// There is no question, or the answer can't be written.
pub fn answer() -> std::io::Result<()> {
    let mut question = Vec::new();
    std::io::stdin().take(MAX_LENGTH).read_to_end(&mut question)?;
    let ResolveRequest { url, revision, credential } = serde_json::from_slice(&question)?;
    let credential = credential.map(GitCredential::from);
    let answer = resolve(&url, &revision, credential.as_ref());
    serde_json::to_writer(std::io::stdout().lock(), &answer)?;
    Ok(())
}
