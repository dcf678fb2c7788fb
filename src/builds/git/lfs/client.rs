//! The requests to a Git LFS server. Nothing that it answers is trusted: what is downloaded has the
//! size and the SHA-256 that the pointer in Git names, or the source is rejected.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::{Client, RequestBuilder, Response, redirect::Policy};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::{
    builds::git::{
        CREDENTIAL_REQUIRED, GitCredential, GitError, is_local,
        lfs::{
            LfsFile,
            batch::{BatchRequest, BatchResponse, DownloadAction, MEDIA_TYPE, OfferedObject},
            is_same_origin,
            pointer::Pointer,
        },
    },
    registry::with_causes,
};

/// How many objects one request asks for.
const BATCH_SIZE: usize = 100;
/// Maximum size of the response to such a request in bytes.
const MAX_RESPONSE: usize = 4 << 20;
/// How many redirects a download may have.
const MAX_REDIRECTS: usize = 3;
/// How many headers a server may ask for in a download.
const MAX_HEADERS: usize = 32;
/// Maximum length of a text of the server in a message.
const MAX_QUOTED: usize = 200;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// Headers that the connection decides, and not the server's answer.
const RESERVED_HEADERS: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
];

/// A Git LFS server.
pub(in crate::builds::git) struct LfsServer<'a> {
    /// The URL of its API.
    pub endpoint: Url,
    /// The URL of the repository, for messages.
    pub url: &'a str,
    /// What the server gets with each request, and other servers never.
    pub credential: Option<&'a GitCredential>,
}

/// Downloads files. Blocks until all of them are written.
///
/// # Errors
/// Returns a [`GitError`] if the server cannot be read, has no such object, or sends something
/// else.
pub(in crate::builds::git) fn download(
    server: LfsServer<'_>,
    files: &[LfsFile],
    deadline: Instant,
) -> Result<(), GitError> {
    let unavailable = |problem: String| GitError::Unavailable {
        url: server.url.to_owned(),
        problem: format!("Git LFS: {problem}"),
    };
    let http = Client::builder()
        .user_agent(concat!("groundswell/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(|error| unavailable(with_causes(error)))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| unavailable(error.to_string()))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let late = unavailable("the files were not downloaded in time".into());
    let download = LfsDownload { server, http };
    runtime.block_on(async {
        tokio::time::timeout(left, download.all(files)).await.unwrap_or(Err(late))
    })
}

/// The download of files from one server.
struct LfsDownload<'a> {
    server: LfsServer<'a>,
    http: Client,
}

impl LfsDownload<'_> {
    async fn all(&self, files: &[LfsFile]) -> Result<(), GitError> {
        let mut by_pointer: BTreeMap<&Pointer, Vec<&LfsFile>> = BTreeMap::new();
        for file in files {
            by_pointer.entry(&file.pointer).or_default().push(file);
        }
        let objects: Vec<Vec<&LfsFile>> = by_pointer.into_values().collect();
        for batch in objects.chunks(BATCH_SIZE) {
            let offered = self.offers(batch).await?;
            for files in batch {
                self.object(files, &offered).await?;
            }
        }
        Ok(())
    }

    /// Asks where the objects are.
    async fn offers(
        &self,
        batch: &[Vec<&LfsFile>],
    ) -> Result<BTreeMap<String, OfferedObject>, GitError> {
        let pointers = batch.iter().filter_map(|files| files.first()).map(|file| &file.pointer);
        let body = serde_json::to_vec(&BatchRequest::download(pointers))
            .map_err(|error| self.unavailable(error.to_string()))?;
        let url = format!("{}/objects/batch", self.server.endpoint);
        let mut request = self
            .http
            .post(url)
            .header(header::ACCEPT, MEDIA_TYPE)
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .body(body);
        if let Some(value) = self.authorization() {
            request = request.header(header::AUTHORIZATION, value);
        }
        let response = self.send(request).await?;
        self.verify_batch_status(&response)?;
        let body = self.body(response).await?;
        let response: BatchResponse = serde_json::from_slice(&body).map_err(|_| {
            self.unavailable("the server does not answer as a Git LFS server".into())
        })?;
        if response.transfer.as_deref().is_some_and(|transfer| transfer != "basic") {
            return Err(self.unavailable("the server does not offer the transfer `basic`".into()));
        }
        Ok(response.objects.into_iter().map(|object| (object.oid.clone(), object)).collect())
    }

    fn verify_batch_status(&self, response: &Response) -> Result<(), GitError> {
        let endpoint = &self.server.endpoint;
        match response.status() {
            StatusCode::OK => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(match self.server.credential.filter(|_| self.authorization().is_some()) {
                    Some(credential) => GitError::Credential {
                        secret: credential.secret().to_owned(),
                        url: self.server.url.to_owned(),
                        problem: "the Git LFS server rejects the credential".into(),
                    },
                    None => self.unavailable(CREDENTIAL_REQUIRED.into()),
                })
            }
            StatusCode::NOT_FOUND => Err(GitError::NotFound {
                url: self.server.url.to_owned(),
                what: format!("the Git LFS server {endpoint}, which may need a credential,"),
            }),
            status if status.is_redirection() => Err(self.unavailable(format!(
                "{endpoint} redirects, which is not followed because of the credential; write the \
                 URL in `source.git.url` to which the server redirects"
            ))),
            status => Err(self.unavailable(format!("{endpoint} answers with status {status}"))),
        }
    }

    /// Downloads one object into each of its files.
    async fn object(
        &self,
        files: &[&LfsFile],
        offered: &BTreeMap<String, OfferedObject>,
    ) -> Result<(), GitError> {
        let Some((first, others)) = files.split_first() else { return Ok(()) };
        let action = self.action(first, offered.get(&first.pointer.oid))?;
        let response = self.request_object(first, action).await?;
        self.write(first, response).await?;
        for other in others {
            fs::copy(&first.path, &other.path).map_err(|error| disk_error(&other.path, &error))?;
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(other.mode);
            fs::set_permissions(&other.path, permissions)
                .map_err(|error| disk_error(&other.path, &error))?;
        }
        Ok(())
    }

    fn action(
        &self,
        file: &LfsFile,
        offered: Option<&OfferedObject>,
    ) -> Result<OfferedDownload, GitError> {
        let lost = || self.wrong(file, "is not in the response of the server");
        let offered = offered.ok_or_else(lost)?;
        if let Some(error) = &offered.error {
            return Err(match error.code {
                404 | 410 | 422 => self.missing(file),
                code => self.wrong(
                    file,
                    &format!("cannot be read: error {code}: {}", quoted(&error.message)),
                ),
            });
        }
        let size = file.pointer.size;
        if let Some(other) = offered.size.filter(|other| *other != size) {
            let problem = format!("has {other} bytes on the server, and {size} in its pointer");
            return Err(self.wrong(file, &problem));
        }
        let action = offered.actions.as_ref().and_then(|actions| actions.download.as_ref());
        let action = action.ok_or_else(|| self.missing(file))?;
        let url = Url::parse(&action.href)
            .ok()
            .filter(is_allowed)
            .ok_or_else(|| self.wrong(file, "is offered at an address that is not `https://`"))?;
        let headers = self.headers(file, action)?;
        Ok(OfferedDownload { url, headers, is_authenticated: offered.authenticated })
    }

    /// Returns the headers that the server asks for.
    fn headers(&self, file: &LfsFile, action: &DownloadAction) -> Result<HeaderMap, GitError> {
        let wrong = || self.wrong(file, "is offered with headers that are not allowed");
        if action.header.len() > MAX_HEADERS {
            return Err(wrong());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &action.header {
            let name = HeaderName::try_from(name).map_err(|_| wrong())?;
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            if !RESERVED_HEADERS.contains(&name) {
                headers.insert(name, value);
            }
        }
        Ok(headers)
    }

    /// Requests an object and follows redirects. What the server wants to be sent goes to the
    /// address that it names, and to no other origin.
    async fn request_object(
        &self,
        file: &LfsFile,
        action: OfferedDownload,
    ) -> Result<Response, GitError> {
        let OfferedDownload { mut url, mut headers, is_authenticated } = action;
        let needs_credential = !is_authenticated
            && !headers.contains_key(header::AUTHORIZATION)
            && is_same_origin(&url, &self.server.endpoint);
        if let Some(value) = self.authorization().filter(|_| needs_credential) {
            headers.insert(header::AUTHORIZATION, value);
        }
        for _ in 0..=MAX_REDIRECTS {
            let request = self.http.get(url.clone()).headers(headers.clone());
            let response = self.send(request).await?;
            match response.status() {
                StatusCode::OK => return Ok(response),
                StatusCode::NOT_FOUND | StatusCode::GONE => return Err(self.missing(file)),
                status if status.is_redirection() => {
                    let target = location(&response, &url).ok_or_else(|| {
                        self.wrong(file, "is redirected to an address that is not `https://`")
                    })?;
                    if !is_same_origin(&target, &url) {
                        headers.clear();
                    }
                    url = target;
                }
                status => {
                    return Err(self.wrong(file, &format!("is answered with status {status}")));
                }
            }
        }
        Err(self.wrong(file, &format!("is redirected more than {MAX_REDIRECTS} times")))
    }

    /// Writes a body to a file, and verifies it while it arrives.
    async fn write(&self, file: &LfsFile, mut response: Response) -> Result<(), GitError> {
        let mut target = create(file)?;
        let mut hash = Sha256::new();
        let mut size = 0_u64;
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.unavailable(with_causes(error)))?
        {
            size = size.saturating_add(chunk.len() as u64);
            if size > file.pointer.size {
                let problem =
                    format!("is longer than the {} bytes of its pointer", file.pointer.size);
                return Err(self.wrong(file, &problem));
            }
            hash.update(&chunk);
            target.write_all(&chunk).map_err(|error| disk_error(&file.path, &error))?;
        }
        if size != file.pointer.size {
            let problem = format!("has {size} bytes, and {} in its pointer", file.pointer.size);
            return Err(self.wrong(file, &problem));
        }
        if hex::encode(hash.finalize()) != file.pointer.oid {
            return Err(self.wrong(file, "has other content than its pointer names"));
        }
        Ok(())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, GitError> {
        request.send().await.map_err(|error| self.unavailable(with_causes(error)))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, GitError> {
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.unavailable(with_causes(error)))?
        {
            if body.len() + chunk.len() > MAX_RESPONSE {
                let problem = format!("the response is larger than {} MiB", MAX_RESPONSE >> 20);
                return Err(self.unavailable(problem));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.server.credential.and_then(GitCredential::authorization)
    }

    fn unavailable(&self, problem: String) -> GitError {
        GitError::Unavailable {
            url: self.server.url.to_owned(),
            problem: format!("Git LFS: {problem}"),
        }
    }

    /// An error of the server about one file. The server may be repaired, so it is tried again.
    fn wrong(&self, file: &LfsFile, problem: &str) -> GitError {
        self.unavailable(format!("the object of {} {problem}", file.inside.display()))
    }

    fn missing(&self, file: &LfsFile) -> GitError {
        GitError::NotFound {
            url: self.server.url.to_owned(),
            what: format!("the Git LFS object {} of {}", &file.pointer.oid, file.inside.display()),
        }
    }
}

/// A download that a server offers.
struct OfferedDownload {
    url: Url,
    headers: HeaderMap,
    /// Whether the server needs no credential of ours in addition to the headers.
    is_authenticated: bool,
}

/// Whether an address may be asked: https, and plain HTTP only in tests.
fn is_allowed(url: &Url) -> bool {
    (url.scheme() == "https" || is_local(url))
        && url.username().is_empty()
        && url.password().is_none()
}

fn location(response: &Response, from: &Url) -> Option<Url> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    from.join(location).ok().filter(is_allowed)
}

fn create(file: &LfsFile) -> Result<File, GitError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(file.mode)
        .open(&file.path)
        .map_err(|error| disk_error(&file.path, &error))
}

fn disk_error(path: &Path, error: &std::io::Error) -> GitError {
    GitError::Disk { path: path.display().to_string(), problem: error.to_string() }
}

/// Returns the beginning of a text of the server, without control characters.
fn quoted(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_QUOTED).collect()
}
