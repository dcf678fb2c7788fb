//! Requests to a Git server over HTTPS, with the project's own TLS. Nothing is known about the
//! server: what it sends is bounded, and the credential goes to the source's own host only.

use std::{sync::Arc, time::Duration};

use reqwest::{
    Client, Method, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, LOCATION},
    redirect::Policy,
};
use url::Url;

use crate::{
    builds::git::{
        GitCredential, GitError,
        packet::{Packet, PacketBuffer},
        parse,
    },
    registry::{AddressPolicy, PermittedAddresses, RefusedAddress, with_causes},
};

/// Maximum number of redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum pause between two parts of a response.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum length of a message that the server sends, in characters.
const MAX_MESSAGE: usize = 200;
/// How the client names itself. Servers send the protocol of Git only to what claims to be Git.
const USER_AGENT: &str = "git/2.0 (groundswell)";

/// A Git server, and a repository on it.
pub(super) struct GitServer<'a> {
    client: Client,
    /// The URL of the source.
    url: &'a str,
    origin: Url,
    /// The URL of the repository, which a redirect of the first request may have changed.
    repository: String,
    credential: Option<&'a GitCredential>,
    addresses: Arc<AddressPolicy>,
}

impl<'a> GitServer<'a> {
    pub fn new(
        url: &'a str,
        credential: Option<&'a GitCredential>,
        addresses: Option<&AddressPolicy>,
    ) -> Result<Self, GitError> {
        let origin = parse(url)?;
        let addresses = Arc::new(addresses.cloned().unwrap_or_default());
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .dns_resolver(PermittedAddresses(Arc::clone(&addresses)))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|error| GitError::Unavailable {
                url: url.to_owned(),
                problem: with_causes(error),
            })?;
        let mut repository = origin.clone();
        repository.set_query(None);
        repository.set_fragment(None);
        let repository = repository.as_str().trim_end_matches('/').to_owned();
        Ok(Self { client, url, origin, repository, credential, addresses })
    }

    /// Returns an error of this repository.
    pub fn unavailable(&self, problem: impl Into<String>) -> GitError {
        GitError::Unavailable { url: self.url.to_owned(), problem: problem.into() }
    }

    fn refused(&self, refused: &RefusedAddress) -> GitError {
        GitError::Refused { url: self.url.to_owned(), problem: refused.to_string() }
    }

    /// Asks what the server can do. A redirect of this request counts for those that follow.
    pub async fn get_capabilities(&mut self, limit: usize) -> Result<Packets<'a>, GitError> {
        const PATH: &str = "/info/refs?service=git-upload-pack";
        let mut url = format!("{}{PATH}", self.repository);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::GET, &url, Vec::new()).await?;
            if !response.status().is_redirection() {
                return self.packets(response, limit);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let target = location
                .and_then(|location| response.url().join(location).ok())
                .ok_or_else(|| self.unavailable("the server redirects to no URL"))?;
            if target.scheme() != self.origin.scheme() {
                return Err(self.unavailable("the server redirects to another protocol"));
            }
            let repository = target.as_str().strip_suffix(PATH);
            let repository = repository
                .ok_or_else(|| self.unavailable("the server redirects to what is no repository"))?;
            repository.clone_into(&mut self.repository);
            url = target.into();
        }
        Err(self.unavailable(format!("the server redirects more than {MAX_REDIRECTS} times")))
    }

    /// Sends a request of the protocol.
    pub async fn post(&self, body: Vec<u8>, limit: usize) -> Result<Packets<'a>, GitError> {
        let url = format!("{}/git-upload-pack", self.repository);
        let response = self.send(Method::POST, &url, body).await?;
        self.packets(response, limit)
    }

    async fn send(&self, method: Method, url: &str, body: Vec<u8>) -> Result<Response, GitError> {
        let target = Url::parse(url).map_err(|error| self.unavailable(error.to_string()))?;
        self.addresses.check_url(&target).map_err(|refused| self.refused(&refused))?;
        let is_own_host = self.origin.origin() == target.origin();
        let mut request = self.client.request(method.clone(), target);
        request = request.header("Git-Protocol", "version=2");
        if method == Method::POST {
            request = request
                .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
                .header("Accept", "application/x-git-upload-pack-result")
                .body(body);
        }
        let authorization = self.credential.filter(|_| is_own_host);
        if let Some(value) = authorization.and_then(GitCredential::to_basic) {
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await.map_err(|error| match RefusedAddress::of(&error) {
            Some(refused) => self.refused(&refused),
            None => self.unavailable(with_causes(error)),
        })?;
        match (response.status(), self.credential) {
            (StatusCode::UNAUTHORIZED, None) => {
                Err(self
                    .unavailable("the server requires a credential; set `source.git.secretRef`"))
            }
            (StatusCode::UNAUTHORIZED, Some(_)) if !is_own_host => Err(self.unavailable(
                "the server redirects to another host, which asks for the credential",
            )),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(credential)) => {
                Err(GitError::Credential {
                    secret: credential.secret().to_owned(),
                    url: self.url.to_owned(),
                    problem: "the server rejects the credential".into(),
                })
            }
            (StatusCode::NOT_FOUND, _) => {
                Err(GitError::NotFound { url: self.url.to_owned(), what: "the repository".into() })
            }
            (status, _) if status.is_success() || status.is_redirection() => Ok(response),
            (status, _) => Err(self.unavailable(format!("the server answers with {status}"))),
        }
    }

    fn packets(&self, response: Response, limit: usize) -> Result<Packets<'a>, GitError> {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("application/x-git-upload-pack-")) {
            return Err(self.unavailable("the server does not answer as a Git server"));
        }
        let buffer = PacketBuffer::default();
        Ok(Packets { response, buffer, url: self.url, limit, left: limit })
    }
}

/// The packets of a response.
pub(super) struct Packets<'a> {
    response: Response,
    buffer: PacketBuffer,
    url: &'a str,
    limit: usize,
    /// How many bytes may still arrive.
    left: usize,
}

impl Packets<'_> {
    /// Returns the next packet; `None` at the end of the response.
    pub async fn next(&mut self) -> Result<Option<Packet>, GitError> {
        let url = self.url;
        let unavailable = |problem: String| GitError::Unavailable { url: url.to_owned(), problem };
        loop {
            let packet = self.buffer.next();
            let packet =
                packet.map_err(|_| unavailable("the server breaks the protocol".into()))?;
            if let Some(Packet::Data(data)) = &packet
                && let Some(message) = data.strip_prefix(b"ERR ")
            {
                return Err(unavailable(format!("the server says: {}", message_text(message))));
            }
            if packet.is_some() {
                return Ok(packet);
            }
            let chunk = self.response.chunk().await;
            let Some(chunk) = chunk.map_err(|error| unavailable(with_causes(error)))? else {
                return Ok(None);
            };
            self.left = self.left.checked_sub(chunk.len()).ok_or_else(|| GitError::TooLarge {
                url: url.to_owned(),
                limit: format!("it has more than {} MiB to receive", self.limit >> 20),
            })?;
            self.buffer.push(&chunk);
        }
    }
}

/// Returns a message of the server as one short line.
pub(super) fn message_text(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let text = text.trim().chars().filter(|character| !character.is_control());
    text.take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Config;

    #[tokio::test]
    async fn a_server_at_a_refused_address_is_not_called() {
        let addresses = Config::default().addresses(|_| None).expect("a policy");
        for (url, said) in [
            ("https://169.254.169.254/a.git", "169.254.169.254 is a link-local address"),
            ("https://localhost:1/a.git", "localhost has the address"),
            ("https://git.tools.svc/a.git", "the name of a service of the cluster"),
        ] {
            let mut server = GitServer::new(url, None, Some(&addresses)).expect("a server");
            let Err(error) = server.get_capabilities(1024).await.map(|_| ()) else {
                panic!("{url} is called");
            };
            assert!(matches!(error, GitError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
