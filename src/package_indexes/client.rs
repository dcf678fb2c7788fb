//! Indexes over HTTP: each is requested once, however many images and families need it.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Method, Response, header};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    contents::{Ecosystem, ReceivedParts},
    package_indexes::{
        Advice, AvailableIndex, ImageSources, IndexError, IndexPriority, Keyring, Location,
        PackageRepository, PackageTable, SignatureState,
        apk_index::ApkIndex,
        deb_suite::{DebFolder, DebSuite, SignedRelease, without_signature},
        packages_file::read_packages,
        release::ListedFile,
        rpm_metadata::{RepositoryMetadata, read_primary, read_security_advisories},
    },
    registry::{OutgoingRequest, ResponseBody, Transport, TransportError},
};

/// Maximum size of a file that is held: a release, an index of Alpine.
const MAX_HELD_BYTES: u64 = 64 << 20;
/// Maximum size of a compressed index that is read as a stream.
const MAX_STREAM_BYTES: u64 = 2 << 30;
/// Maximum number of redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Maximum number of components and architectures of one suite that are read.
const MAX_FOLDERS: usize = 64;

/// The URLs that begin with a prefix, and what to request instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexMirror {
    /// The prefix of URLs, as images have it, without a slash at its end.
    pub from: String,
    /// What replaces it, without a slash at its end.
    pub to: String,
}

impl IndexMirror {
    /// Returns what is requested instead of a URL, if it is one of the mirror's.
    fn applied(&self, url: &str) -> Option<String> {
        let rest = url.strip_prefix(&self.from)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| format!("{}{rest}", self.to))
    }
}

/// An index that has been read, for one architecture.
#[derive(Clone, Debug)]
pub struct ReadIndex {
    /// What it is: the repository, and its component.
    pub name: String,
    /// When the repository has made it. `None` if it does not say so.
    pub date: Option<Timestamp>,
    /// Whether it is what the repository has signed.
    pub signature: SignatureState,
    /// Its packages.
    pub available: AvailableIndex,
}

/// Which keys a repository needs, and the time that it must be valid at.
#[derive(Clone, Copy, Debug)]
pub struct IndexTrust<'k> {
    /// The keys of the image.
    pub keyring: &'k Keyring,
    /// Whether a key of the image must have signed it.
    pub must_be_signed: bool,
    /// The current time.
    pub now: Timestamp,
}

/// What several repositories have in common is requested once, while or after the first of them
/// needs it.
type SharedResults<T> = Mutex<HashMap<String, Arc<OnceCell<Result<T, IndexError>>>>>;

/// Reads indexes.
pub struct IndexClient {
    transport: Arc<dyn Transport>,
    mirrors: Vec<IndexMirror>,
    files: SharedResults<Bytes>,
    tables: SharedResults<Arc<PackageTable>>,
}

impl IndexClient {
    /// Creates a client that requests from the first mirror that fits, instead of the repository.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, mirrors: Vec<IndexMirror>) -> Self {
        Self {
            transport,
            mirrors,
            files: SharedResults::default(),
            tables: SharedResults::default(),
        }
    }

    /// Reads the indexes of a repository. One that cannot be read does not affect the others.
    pub async fn read(
        &self,
        repository: &PackageRepository,
        sources: &ImageSources,
        trust: IndexTrust<'_>,
    ) -> Vec<Result<ReadIndex, IndexError>> {
        match &repository.location {
            Location::Deb { uri, suite, components, architectures } => {
                let suite = DebSuite { uri, suite, components, architectures };
                let release = self.release(&suite, trust).await;
                match release {
                    Ok(release) => self.deb(&suite, &release).await,
                    Err(error) => vec![Err(error)],
                }
            }
            Location::Apk { uri, architecture } => {
                let tag = repository.tag.clone();
                vec![self.apk(uri, architecture, trust).await.map(|mut index| {
                    index.available.tag = tag;
                    index
                })]
            }
            Location::Rpm { uri } => vec![self.rpm(uri, &sources.architecture).await],
        }
    }

    async fn release(
        &self,
        suite: &DebSuite<'_>,
        trust: IndexTrust<'_>,
    ) -> Result<SignedRelease, IndexError> {
        let url = suite.url("InRelease");
        let in_release = self.file(&url).await;
        if let Err(IndexError::Status { status: 404, .. }) = in_release {
            return self.old_release(suite, trust).await;
        }
        let bytes = in_release?;
        let text = String::from_utf8_lossy(&bytes);
        let (text, signature) = if trust.must_be_signed {
            let text = trust.keyring.signed_text(&url, &text, trust.now)?;
            (text, SignatureState::Verified)
        } else {
            (without_signature(&text), SignatureState::NotVerified)
        };
        SignedRelease::parse(&url, &text, signature, trust.now)
    }

    /// Reads a release whose signature is a file of its own.
    async fn old_release(
        &self,
        suite: &DebSuite<'_>,
        trust: IndexTrust<'_>,
    ) -> Result<SignedRelease, IndexError> {
        let url = suite.url("Release");
        let bytes = self.file(&url).await?;
        let signature = if trust.must_be_signed {
            let signatures = match self.file(&suite.url("Release.gpg")).await {
                Err(IndexError::Status { status: 404, .. }) => {
                    return Err(IndexError::Unsigned { url });
                }
                signatures => signatures?,
            };
            trust.keyring.verify_detached(&url, &bytes, &signatures, trust.now)?;
            SignatureState::Verified
        } else {
            SignatureState::NotVerified
        };
        SignedRelease::parse(&url, &String::from_utf8_lossy(&bytes), signature, trust.now)
    }

    async fn deb(
        &self,
        suite: &DebSuite<'_>,
        signed: &SignedRelease,
    ) -> Vec<Result<ReadIndex, IndexError>> {
        let mut read = Vec::new();
        for folder in suite.folders(&signed.release).into_iter().take(MAX_FOLDERS) {
            read.push(self.deb_folder(suite, signed, &folder).await);
        }
        read
    }

    async fn deb_folder(
        &self,
        suite: &DebSuite<'_>,
        signed: &SignedRelease,
        folder: &DebFolder,
    ) -> Result<ReadIndex, IndexError> {
        let SignedRelease { release, signature, .. } = signed;
        let file = release.packages(&folder.path).ok_or_else(|| {
            let problem = format!("lists no packages of {}", folder.path);
            IndexError::malformed(&signed.url, problem)
        })?;
        let url = match file.path.rsplit_once('/') {
            _ if !release.by_hash => suite.url(&file.path),
            Some((folder, _)) => suite.url(&format!("{folder}/by-hash/SHA256/{}", file.sha256)),
            None => suite.url(&format!("by-hash/SHA256/{}", file.sha256)),
        };
        let table = self.table(&url, file, read_packages).await?;
        let advice =
            if release.is_security(suite.suite) { Advice::Security } else { Advice::Other };
        Ok(ReadIndex {
            name: format!("{} {} {}", suite.uri, suite.suite, folder.path),
            date: release.date,
            signature: *signature,
            available: AvailableIndex {
                ecosystem: Ecosystem::Deb,
                architecture: folder.architecture.clone(),
                tag: None,
                priority: release.priority,
                advice,
                table,
                advisories: None,
            },
        })
    }

    async fn apk(
        &self,
        uri: &str,
        architecture: &str,
        trust: IndexTrust<'_>,
    ) -> Result<ReadIndex, IndexError> {
        let url = format!("{uri}/{architecture}/APKINDEX.tar.gz");
        let file = self.file(&url).await?;
        let keyring = trust.must_be_signed.then(|| trust.keyring.clone());
        let signature = match keyring {
            Some(_) => SignatureState::Verified,
            None => SignatureState::NotVerified,
        };
        let key = format!("{url} {architecture}");
        let verified = url.clone();
        let reading = move || {
            let problem = |error: io::Error| IndexError::malformed(&verified, error.to_string());
            let index = ApkIndex::split(&file).map_err(problem)?;
            if let Some(keyring) = keyring {
                keyring.verify_apk(&verified, &index)?;
            }
            index.packages().map(Arc::new).map_err(problem)
        };
        // What one image's keys verify is not verified for another one's.
        let key = if trust.must_be_signed { None } else { Some(key) };
        let table = match key {
            None => blocking(&url, reading).await?,
            Some(key) => shared(&self.tables, &key, blocking(&url, reading)).await?,
        };
        Ok(ReadIndex {
            name: format!("{uri} {architecture}"),
            date: None,
            signature,
            available: AvailableIndex {
                ecosystem: Ecosystem::Apk,
                architecture: architecture.to_owned(),
                tag: None,
                priority: IndexPriority::Default,
                advice: Advice::Unknown,
                table,
                advisories: None,
            },
        })
    }

    async fn rpm(&self, uri: &str, architecture: &str) -> Result<ReadIndex, IndexError> {
        let url = format!("{uri}/repodata/repomd.xml");
        let metadata = RepositoryMetadata::parse(&url, &self.file(&url).await?)?;
        let listed = |kind: &str| {
            let file = metadata.file(kind)?;
            let is_inside = !file.path.split('/').any(|part| part.is_empty() || part == "..");
            (is_inside && file.sha256.len() == 64).then(|| ListedFile {
                path: file.path.clone(),
                sha256: file.sha256.clone(),
                size: file.size,
            })
        };
        let primary = listed("primary").ok_or_else(|| {
            IndexError::malformed(&url, "lists no primary metadata with a SHA-256")
        })?;
        let path = |file: &ListedFile| format!("{uri}/{}", file.path);
        let table = self.table(&path(&primary), &primary, read_primary).await?;
        let advisories = match listed("updateinfo") {
            Some(file) => Some(self.table(&path(&file), &file, read_security_advisories).await?),
            None => None,
        };
        Ok(ReadIndex {
            name: uri.to_owned(),
            date: None,
            signature: SignatureState::NotVerified,
            available: AvailableIndex {
                ecosystem: Ecosystem::Rpm,
                architecture: architecture.to_owned(),
                tag: None,
                priority: IndexPriority::Default,
                advice: if advisories.is_some() { Advice::Other } else { Advice::Unknown },
                table,
                advisories,
            },
        })
    }

    /// Returns a small file, which is held for other repositories.
    async fn file(&self, url: &str) -> Result<Bytes, IndexError> {
        shared(&self.files, url, self.request_file(url)).await
    }

    async fn request_file(&self, url: &str) -> Result<Bytes, IndexError> {
        let mut body = self.request(url).await?;
        let mut bytes = Vec::new();
        while let Some(part) = body.next().await {
            bytes.extend_from_slice(&part.map_err(|problem| unreachable_index(url, problem))?);
            if bytes.len() as u64 > MAX_HELD_BYTES {
                let max = MAX_HELD_BYTES >> 20;
                return Err(IndexError::malformed(url, format!("is larger than {max} MiB")));
            }
        }
        Ok(bytes.into())
    }

    /// Reads an index while it is received, and verifies its hash.
    async fn table(
        &self,
        url: &str,
        file: &ListedFile,
        read: fn(ReceivedParts) -> io::Result<PackageTable>,
    ) -> Result<Arc<PackageTable>, IndexError> {
        shared(&self.tables, &file.sha256, self.request_table(url, file, read)).await
    }

    async fn request_table(
        &self,
        url: &str,
        file: &ListedFile,
        read: fn(ReceivedParts) -> io::Result<PackageTable>,
    ) -> Result<Arc<PackageTable>, IndexError> {
        let max = if file.size > 0 { file.size.min(MAX_STREAM_BYTES) } else { MAX_STREAM_BYTES };
        let mut body = self.request(url).await?;
        let (sender, parts) = ReceivedParts::channel();
        let reading = tokio::task::spawn_blocking(move || read(parts));
        let (mut hash, mut received) = (Sha256::new(), 0);
        while let Some(part) = body.next().await {
            let part = part.map_err(|problem| unreachable_index(url, problem))?;
            received += part.len() as u64;
            if received > max {
                return Err(IndexError::mismatch(url, format!("it has more than {max} bytes")));
            }
            hash.update(&part);
            // The reader stops early if the index is malformed or exceeds a bound.
            if sender.send(part).await.is_err() {
                break;
            }
        }
        drop(sender);
        let table = reading.await.map_err(io::Error::other).and_then(|read| read);
        let is_short = received < file.size;
        if is_short && table.is_ok() {
            let problem = format!("it ends after {received} of {} bytes", file.size);
            return Err(IndexError::mismatch(url, problem));
        }
        let table = table.map_err(|problem| IndexError::malformed(url, problem.to_string()))?;
        let found = hex::encode(hash.finalize());
        if found != file.sha256 {
            let problem = format!("its SHA-256 is {found} instead of {}", file.sha256);
            return Err(IndexError::mismatch(url, problem));
        }
        Ok(Arc::new(table))
    }

    /// Requests a URL, or that of its mirror, through redirects.
    async fn request(&self, url: &str) -> Result<ResponseBody, IndexError> {
        let mirror = self.mirrors.iter().find_map(|mirror| mirror.applied(url));
        let mut next = mirror.as_deref().unwrap_or(url).parse::<Url>();
        for _ in 0..=MAX_REDIRECTS {
            let target =
                next.map_err(|_| unreachable_index(url, "its URL cannot be requested".into()))?;
            let response = self.send(url, target.clone()).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response.into_body());
            }
            if !status.is_redirection() {
                return Err(IndexError::Status { url: url.to_owned(), status: status.as_u16() });
            }
            next = redirected(&target, response.headers()).ok_or(url::ParseError::EmptyHost);
        }
        Err(unreachable_index(url, format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    async fn send(&self, url: &str, target: Url) -> Result<Response<ResponseBody>, IndexError> {
        let request = OutgoingRequest {
            method: Method::GET,
            url: target,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        self.transport.send(request).await.map_err(|error| {
            unreachable_index(
                url,
                match error {
                    TransportError::Refused(refused) => refused.to_string(),
                    TransportError::Failed(problem) => problem,
                },
            )
        })
    }
}

/// Returns where a response leads: never from HTTPS to HTTP, and never to another scheme.
fn redirected(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let location = headers.get(header::LOCATION)?.to_str().ok()?;
    let target = from.join(location).ok()?;
    let is_allowed = target.scheme() == "https" || from.scheme() == target.scheme();
    is_allowed.then_some(target)
}

fn unreachable_index(url: &str, problem: String) -> IndexError {
    IndexError::Unreachable { url: url.to_owned(), problem }
}

/// Runs what takes long outside of the runtime's threads.
async fn blocking<T: Send + 'static>(
    url: &str,
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(IndexError::malformed(url, error.to_string())))
}

/// Returns what is known by a key, or else makes it known.
async fn shared<T: Clone>(
    known: &SharedResults<T>,
    key: &str,
    value: impl Future<Output = Result<T, IndexError>>,
) -> Result<T, IndexError> {
    let cell = {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(key.to_owned()).or_default())
    };
    cell.get_or_init(|| value).await.clone()
}
