//! The client on files that the test serves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::Response;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    contents::{Ecosystem, Inventory, Package},
    package_indexes::{
        Advice, ImageSources, IndexClient, IndexError, IndexMirror, IndexTrust, Keyring, ReadIndex,
        SignatureState,
    },
    registry::{OutgoingRequest, ResponseBody, Transport, TransportError, full_body},
};

const PACKAGES: &[u8] = b"Package: a\nVersion: 2\nArchitecture: amd64\n\n";

/// Serves files by URL and counts the requests for them.
#[derive(Clone, Default)]
struct PlayedFiles {
    files: Arc<BTreeMap<String, Vec<u8>>>,
    requests: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl PlayedFiles {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(url, bytes)| ((*url).to_owned(), bytes.clone()));
        Self { files: Arc::new(files.collect()), ..Self::default() }
    }

    fn client(&self) -> IndexClient {
        IndexClient::new(Arc::new(self.clone()), Vec::new())
    }

    fn requests(&self) -> BTreeMap<String, usize> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

impl Transport for PlayedFiles {
    fn send(
        &self,
        request: OutgoingRequest,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
        let url = request.url.to_string();
        *self.requests.lock().expect("not poisoned").entry(url.clone()).or_default() += 1;
        let response = match self.files.get(&url) {
            Some(bytes) if bytes.starts_with(b"-> ") => {
                let target = String::from_utf8_lossy(&bytes[3..]).into_owned();
                Response::builder().status(302).header("Location", target).body(Bytes::new())
            }
            Some(bytes) if bytes == b"broken" => {
                return futures::future::ready(Err(TransportError::Failed("reset".into()))).boxed();
            }
            Some(bytes) => Response::builder().body(Bytes::from(bytes.clone())),
            None => Response::builder().status(404).body(Bytes::new()),
        };
        let response = response.expect("a response").map(full_body);
        futures::future::ready(Ok(response)).boxed()
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A release that lists one index, without a signature.
fn release(fields: &str, packages: &[u8]) -> Vec<u8> {
    let (hash, size) = (sha256(packages), packages.len());
    format!("{fields}SHA256:\n {hash} {size} main/binary-amd64/Packages\n").into_bytes()
}

/// An image of Debian that names this repository.
fn image(line: &str) -> Inventory {
    let package = Package {
        name: "a".into(),
        version: "1".into(),
        architecture: "amd64".into(),
        ecosystem: Ecosystem::Deb,
        source: String::new(),
    };
    let mut inventory = Inventory::default();
    inventory.packages.packages.insert(package);
    let line = line.as_bytes().to_vec();
    inventory.settings.files.insert("etc/apt/sources.list".into(), line.into());
    inventory
}

async fn read(client: &IndexClient, image: &Inventory) -> Vec<Result<ReadIndex, IndexError>> {
    let sources = ImageSources::read(image);
    let now: Timestamp = "2025-06-01T00:00:00Z".parse().expect("a time");
    let mut read = Vec::new();
    for repository in &sources.repositories {
        let keyring: Keyring = repository.keyring(&image.settings);
        let must_be_signed = repository.must_be_signed(&image.settings);
        let trust = IndexTrust { keyring: &keyring, must_be_signed, now };
        read.extend(client.read(repository, &sources, trust).await);
    }
    read
}

/// The only error of a repository with these files.
async fn problem(files: &[(&str, Vec<u8>)]) -> String {
    let image = image("deb http://r.example/debian s main");
    let mut read = read(&PlayedFiles::new(files).client(), &image).await;
    assert_eq!(read.len(), 1);
    read.pop().expect("one").expect_err("an error").to_string()
}

const IN_RELEASE: &str = "http://r.example/debian/dists/s/InRelease";
const INDEX: &str = "http://r.example/debian/dists/s/main/binary-amd64/Packages";

#[tokio::test]
async fn an_index_is_requested_once_for_all_images() {
    let fields = "Suite: s-security\nAcquire-By-Hash: yes\n";
    let by_hash = format!(
        "http://r.example/debian/dists/s/main/binary-amd64/by-hash/SHA256/{}",
        sha256(PACKAGES)
    );
    let files = PlayedFiles::new(&[
        (IN_RELEASE, release(fields, PACKAGES)),
        (&by_hash, b"-> /moved".to_vec()),
        ("http://r.example/moved", PACKAGES.to_vec()),
    ]);
    let (client, image) = (files.client(), image("deb http://r.example/debian/ s main"));
    let (first, second) = tokio::join!(read(&client, &image), read(&client, &image));
    for mut read in [first, second, read(&client, &image).await] {
        let index = read.pop().expect("one").expect("an index");
        assert_eq!(index.available.table.len(), 1);
        assert_eq!(index.available.advice, Advice::Security);
        assert_eq!(index.signature, SignatureState::NotVerified);
    }
    assert!(files.requests().values().all(|count| *count == 1), "{:?}", files.requests());
    assert_eq!(files.requests().len(), 3);
}

#[tokio::test]
async fn an_index_that_is_not_there_or_not_complete_is_an_error() {
    let valid = || release("", PACKAGES);
    let expired = release("Valid-Until: Sat, 24 May 2025 09:21:53 UTC\n", PACKAGES);
    let other = release("", b"other");
    for (files, said) in [
        (vec![], "Release cannot be read: the server responds with 404"),
        (vec![(IN_RELEASE, b"broken".to_vec())], "InRelease cannot be read: reset"),
        (vec![(IN_RELEASE, b"<html>".to_vec())], "lists no file with a SHA-256"),
        (vec![(IN_RELEASE, expired)], "has expired"),
        (vec![(IN_RELEASE, valid())], "Packages cannot be read: the server responds with 404"),
        (vec![(IN_RELEASE, valid()), (INDEX, PACKAGES[..9].to_vec())], "it ends after 9 of"),
        (vec![(IN_RELEASE, other), (INDEX, PACKAGES.to_vec())], "it has more than 5 bytes"),
        (
            vec![(IN_RELEASE, valid()), (INDEX, PACKAGES.to_ascii_uppercase())],
            "is not what its repository lists: its SHA-256 is",
        ),
        (vec![(IN_RELEASE, b"-> http://r.example/debian/dists/s/InRelease".to_vec())], "redirects"),
        (vec![(IN_RELEASE, b"-> ftp://r.example/".to_vec())], "cannot be read"),
        (
            vec![(IN_RELEASE, b"SHA256:\n".to_vec()), (INDEX, PACKAGES.to_vec())],
            "lists no file with a SHA-256",
        ),
    ] {
        let problem = problem(&files).await;
        assert!(problem.contains(said), "{said} is not in {problem}");
        assert!(problem.starts_with("http://r.example/debian/dists/s/"), "{problem}");
    }
}

#[tokio::test]
async fn other_components_are_read_nevertheless() {
    let files =
        PlayedFiles::new(&[(IN_RELEASE, release("", PACKAGES)), (INDEX, PACKAGES.to_vec())]);
    let image = image("deb http://r.example/debian s contrib main");
    let read = read(&files.client(), &image).await;
    let problem = read[0].as_ref().expect_err("it is not listed").to_string();
    assert!(problem.contains("lists no packages of contrib/binary-amd64"), "{problem}");
    assert_eq!(read[1].as_ref().expect("an index").available.table.len(), 1);
}

#[tokio::test]
async fn mirrors_replace_what_they_mirror_alone() {
    let files = PlayedFiles::new(&[
        ("https://m.example/a/dists/s/InRelease", release("", PACKAGES)),
        ("https://m.example/a/dists/s/main/binary-amd64/Packages", PACKAGES.to_vec()),
    ]);
    let mirror = |from: &str| {
        let to = "https://m.example/a".to_owned();
        IndexClient::new(Arc::new(files.clone()), vec![IndexMirror { from: from.into(), to }])
    };
    let image = image("deb http://r.example/debian s main");
    assert!(read(&mirror("http://r.example/debian"), &image).await[0].is_ok());
    assert!(read(&mirror("http://r.example/deb"), &image).await[0].is_err());
}

/// An image with keys trusts what they have signed, and nothing else.
#[tokio::test]
async fn the_keys_of_the_image_decide() {
    let signed = include_bytes!("fixtures/InRelease").to_vec();
    let by_hash = "http://r.example/debian/dists/s/main/binary-amd64/by-hash/SHA256/\
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let serve = |release: Vec<u8>| {
        PlayedFiles::new(&[(IN_RELEASE, release), (by_hash, Vec::new())]).client()
    };
    let mut image =
        image("deb [signed-by=/usr/share/keyrings/a.gpg] http://r.example/debian s main");
    let unsigned = || include_bytes!("fixtures/Release").to_vec();
    let without = read(&serve(signed.clone()), &image).await.pop().expect("one");
    assert!(matches!(without, Err(IndexError::OtherKey { .. })), "{without:?}");
    let key = include_bytes!("fixtures/archive.gpg").to_vec();
    image.settings.files.insert("usr/share/keyrings/a.pgp".into(), key.into());
    let index = read(&serve(signed), &image).await.pop().expect("one").expect("an index");
    assert_eq!(index.signature, SignatureState::Verified);
    let index = read(&serve(unsigned()), &image).await.pop().expect("one");
    assert!(matches!(index, Err(IndexError::Unsigned { .. })), "{index:?}");
}
