//! Git sources against a real Git server: `git http-backend` behind a small HTTP front, on this
//! machine.
//!
//! Needs Git: `cargo test --features needs-git --test git`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports an error by failing")]

mod context;
mod folders;
mod hostile;
mod lfs;
mod lfs_server;
mod submodules;

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Response, StatusCode, header},
};
use groundswell::{
    api::GitSource,
    builds::git::{
        self, FetchLimits, FetchedCommit, FolderAnswer, GitCredential, GitError, SourceSecret,
        WantedCommit, WantedFolders, selection::Selection, subprocess::Resolver,
    },
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

/// What a server does with a request before Git handles it.
#[derive(Clone, Default)]
struct Rules {
    /// The value of `Authorization` that it requires.
    authorization: Option<String>,
    /// The server to which it redirects every request.
    redirect: Option<String>,
    /// What it answers as a Git LFS server.
    lfs: Option<lfs_server::Lfs>,
}

struct Front {
    root: PathBuf,
    rules: Rules,
    authorizations: Mutex<Vec<Option<String>>>,
    paths: Mutex<Vec<String>>,
    traffic: Mutex<Traffic>,
}

/// What a server has received and sent.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    requests: usize,
    received: usize,
    sent: usize,
}

/// A server for a folder of repositories.
struct Server {
    front: Arc<Front>,
    address: String,
}

impl Server {
    async fn start(root: &Path, rules: Rules) -> Self {
        let front = Arc::new(Front {
            root: root.to_owned(),
            rules,
            authorizations: Mutex::default(),
            paths: Mutex::default(),
            traffic: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address").to_string();
        let router = Router::new().fallback(serve).with_state(front.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { front, address }
    }

    fn url(&self) -> String {
        format!("http://{}/images", self.address)
    }

    /// Returns the path of each request.
    fn paths(&self) -> Vec<String> {
        self.front.paths.lock().expect("paths").clone()
    }

    /// Returns the traffic since the last call.
    fn take_traffic(&self) -> Traffic {
        std::mem::take(&mut *self.front.traffic.lock().expect("traffic"))
    }

    /// Returns the value of `Authorization` of each request.
    fn authorizations(&self) -> Vec<Option<String>> {
        self.front.authorizations.lock().expect("authorizations").clone()
    }
}

async fn serve(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let given = parts
        .headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().expect("text").to_owned());
    front.authorizations.lock().expect("authorizations").push(given.clone());
    front.paths.lock().expect("paths").push(parts.uri.path().to_owned());
    if let Some(target) = &front.rules.redirect {
        let location = format!("{target}{}", parts.uri);
        return Response::builder()
            .status(StatusCode::FOUND)
            .header(header::LOCATION, location)
            .body(Body::empty())
            .expect("response");
    }
    if front.rules.authorization.is_some() && front.rules.authorization != given {
        let answer = Response::builder().status(StatusCode::UNAUTHORIZED);
        return answer
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")
            .body(Body::empty())
            .expect("response");
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("body");
    let is_lfs = lfs_server::Lfs::serves(parts.uri.path());
    if let Some(lfs) = front.rules.lfs.as_ref().filter(|_| is_lfs) {
        return lfs.answer(&parts, &body);
    }
    let received = body.len();
    let response = backend(
        &front.root,
        parts.method.as_str(),
        parts.uri.path(),
        parts.uri.query().unwrap_or_default(),
        &parts.headers,
        body,
    )
    .await;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 256 << 20).await.expect("body");
    let mut traffic = front.traffic.lock().expect("traffic");
    traffic.requests += 1;
    traffic.received += received;
    traffic.sent += body.len();
    Response::from_parts(parts, body.into())
}

/// Runs one request through `git http-backend`, which implements CGI.
async fn backend(
    root: &Path,
    method: &str,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env(
            "CONTENT_TYPE",
            headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().expect("text")),
        )
        .env("CONTENT_LENGTH", body.len().to_string())
        .env(
            "GIT_PROTOCOL",
            headers.get("Git-Protocol").map_or("", |value| value.to_str().expect("text")),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git");
    let mut input = child.stdin.take().expect("input");
    input.write_all(&body).await.expect("write");
    drop(input);
    let output = child.wait_with_output().await.expect("output").stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("headers");
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").expect("header");
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().expect("status")),
            _ => response.header(name, value),
        };
    }
    response.body(output[end + 4..].to_vec().into()).expect("response")
}

/// A repository `images` in a folder of its own, with a commit, two tags and a branch. Other
/// repositories can be next to it.
struct Repository {
    folder: Arc<TempDir>,
    name: &'static str,
}

impl Repository {
    fn new() -> Self {
        let repository =
            Self { folder: Arc::new(tempfile::tempdir().expect("folder")), name: "images" };
        repository.init();
        repository.git(&["config", "uploadpack.allowFilter", "true"]);
        repository.file("README.md", "not in the context");
        repository.file("base/Dockerfile", "FROM alpine:3.20\n");
        repository.file("base/build/usr/bin/tool", "#!/bin/sh\n");
        let tool = repository.work().join("base/build/usr/bin/tool");
        std::fs::set_permissions(tool, std::fs::Permissions::from_mode(0o755)).expect("mode");
        repository.commit();
        repository.git(&["tag", "light"]);
        repository.git(&["tag", "--annotate", "--message=t", "v1.0"]);
        repository.git(&["branch", "release/1"]);
        repository
    }

    /// Creates an empty repository next to this one.
    fn sibling(&self, name: &'static str) -> Self {
        let repository = Self { folder: self.folder.clone(), name };
        repository.init();
        repository
    }

    fn init(&self) {
        std::fs::create_dir(self.work()).expect("folder");
        self.git(&["init", "--quiet", "--initial-branch=main"]);
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    /// Adds a submodule to the next commit, without a line in `.gitmodules`.
    fn link(&self, path: &str, commit: &str) {
        let entry = format!("160000,{commit},{path}");
        self.git(&["update-index", "--add", "--cacheinfo", &entry]);
    }

    /// Commits the files and what was added, and returns the commit.
    fn commit_with(&self, paths: &[&str]) -> String {
        self.git(&[&["add"], paths].concat());
        self.git(&["commit", "--quiet", "--allow-empty", "--message=next"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.work().join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, content).expect("file");
    }

    fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=next"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "safe.directory=*"])
            .args(arguments)
            .current_dir(self.work())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .expect("git");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

fn credential(server: &Server, password: &str) -> GitCredential {
    let data = BTreeMap::from([
        ("username".to_owned(), b"me".to_vec()),
        ("password".to_owned(), password.as_bytes().to_vec()),
    ]);
    GitCredential::from_secret("deploy", &data, Some(&server.address), &server.url())
        .expect("credential")
}

/// `me:hunter2`.
const AUTHORIZATION: &str = "Basic bWU6aHVudGVyMg==";

fn wanted<'a>(url: &'a str, revision: &'a str) -> WantedFolders<'a> {
    WantedFolders { url, revision, credential: None, known: None, folders: &[], addresses: None }
}

/// Returns the commit of a revision, as a poll without folders does.
async fn resolve(
    url: &str,
    revision: &str,
    credential: Option<GitCredential>,
) -> Result<String, GitError> {
    let (url, revision) = (url.to_owned(), revision.to_owned());
    let work = move || {
        let scratch = tempfile::tempdir().expect("folder");
        let wanted = WantedFolders { credential: credential.as_ref(), ..wanted(&url, &revision) };
        git::read_folders(&wanted, &scratch.path().join("scratch"))
    };
    match tokio::task::spawn_blocking(work).await.expect("thread")? {
        FolderAnswer::Read { commit, .. } => Ok(commit),
        FolderAnswer::Unmoved => panic!("nothing was known"),
    }
}

async fn fetch(
    url: &str,
    commit: &str,
    folder: Option<&'static str>,
    to: &Path,
    limits: FetchLimits,
) -> Result<FetchedCommit, GitError> {
    let source = GitSource { path: folder.map(Into::into), ..source(url, commit) };
    fetch_source(&source, None, to, limits).await
}

/// Returns the source of a commit, whose Dockerfile is at the usual place.
fn source(url: &str, commit: &str) -> GitSource {
    GitSource {
        url: url.into(),
        revision: commit.into(),
        dockerfile: "Dockerfile".into(),
        ..GitSource::default()
    }
}

/// Fetches a source as a build does, whose revision is a commit.
async fn fetch_source(
    source: &GitSource,
    secret: Option<SourceSecret>,
    to: &Path,
    limits: FetchLimits,
) -> Result<FetchedCommit, GitError> {
    let (source, to) = (source.clone(), to.to_owned());
    let work = move || {
        let selection = Selection::of(&source).expect("globs");
        let folder = source.folder().expect("a path");
        let wanted = WantedCommit {
            url: &source.url,
            commit: &source.revision,
            folder: Some(folder.as_str()).filter(|folder| !folder.is_empty()),
            selection: &selection,
            submodules: source.submodules,
            lfs: source.lfs,
            secret: secret.as_ref(),
        };
        git::fetch(&wanted, &to.join("scratch"), &to.join("context"), &limits)
    };
    tokio::task::spawn_blocking(work).await.expect("thread")
}

/// A folder for a build context.
struct Target(TempDir);

impl Target {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    /// Fetches a source. Nothing of it is left outside of the context.
    async fn fetch(&self, source: &GitSource) -> Result<FetchedCommit, GitError> {
        let fetched = fetch_source(source, None, self.0.path(), FetchLimits::default()).await;
        assert!(!self.0.path().join("scratch").exists());
        fetched
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.0.path().join("context").join(path)).ok()
    }

    /// Returns the paths of the files and links of the context.
    fn files(&self) -> Vec<String> {
        let root = self.0.path().join("context");
        let mut folders = vec![root.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("folder") {
                let entry = entry.expect("entry");
                if entry.file_type().expect("type").is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    let path = path.strip_prefix(&root).expect("inside");
                    files.push(path.to_str().expect("text").to_owned());
                }
            }
        }
        files.sort_unstable();
        files
    }
}

#[tokio::test]
async fn branches_and_tags_resolve_to_commits() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.file("next", "");
    let second = repository.commit();
    for (revision, commit) in
        [("main", &second), ("release/1", &first), ("light", &first), ("v1.0", &first)]
    {
        assert_eq!(resolve(&server.url(), revision, None).await.as_ref(), Ok(commit), "{revision}");
    }
    let nowhere = "http://127.0.0.1:9/nothing";
    assert_eq!(resolve(&server.url(), &first, None).await.as_ref(), Ok(&first));
    let missing = resolve(&server.url(), "v2", None).await.expect_err("missing");
    assert!(
        matches!(missing, GitError::NotFound { .. }) && missing.to_string().contains("`v2`"),
        "{missing}"
    );
    let no_repository = resolve(&format!("http://{}/other", server.address), "main", None)
        .await
        .expect_err("missing");
    assert!(matches!(no_repository, GitError::NotFound { .. }), "{no_repository}");
    let unreachable = resolve(nowhere, "main", None).await.expect_err("unreachable");
    assert!(matches!(unreachable, GitError::Unavailable { .. }), "{unreachable}");
}

#[tokio::test]
async fn a_folder_of_a_commit_becomes_the_context() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.file("base/Dockerfile", "FROM alpine:3.21\n");
    std::os::unix::fs::symlink("../build/usr", repository.work().join("base/build/link"))
        .expect("link");
    let second = repository.commit();
    repository.file("base/Dockerfile", "FROM alpine:3.22\n");
    repository.commit();

    let to = tempfile::tempdir().expect("folder");
    fetch(&server.url(), &second, Some("base"), to.path(), FetchLimits::default())
        .await
        .expect("fetched");
    let context = to.path().join("context");
    assert_eq!(
        std::fs::read_to_string(context.join("Dockerfile")).expect("file"),
        "FROM alpine:3.21\n"
    );
    let mode =
        std::fs::metadata(context.join("build/usr/bin/tool")).expect("tool").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(
        std::fs::read_link(context.join("build/link")).expect("link"),
        Path::new("../build/usr")
    );
    assert!(!context.join(".git").exists() && !to.path().join("scratch").exists());

    let to = tempfile::tempdir().expect("folder");
    fetch(&server.url(), &first, None, to.path(), FetchLimits::default()).await.expect("fetched");
    let context = to.path().join("context");
    assert!(context.join("base/Dockerfile").exists() && context.join("README.md").exists());

    for (commit, folder, text) in [
        (second.as_str(), Some("none"), "the folder `none`"),
        (second.as_str(), Some("README.md"), "the folder `README.md`"),
        ("0123456789012345678901234567890123456789", None, "the commit 0123"),
    ] {
        let to = tempfile::tempdir().expect("folder");
        let error = fetch(&server.url(), commit, folder, to.path(), FetchLimits::default())
            .await
            .expect_err(text);
        assert!(
            matches!(error, GitError::NotFound { .. }) && error.to_string().contains(text),
            "{error}"
        );
    }
}

#[tokio::test]
async fn unsafe_links_and_large_sources_are_rejected() {
    let repository = Repository::new();
    let server = Server::start(repository.folder.path(), Rules::default()).await;
    let small = repository.git(&["rev-parse", "HEAD"]);
    for (limits, text) in [
        (FetchLimits { entries: 3, ..FetchLimits::default() }, "more than 3 files"),
        (FetchLimits { file: 4, ..FetchLimits::default() }, "README.md is larger than"),
        (FetchLimits { written: 30, ..FetchLimits::default() }, "of files"),
        (FetchLimits { received: 10, ..FetchLimits::default() }, "to receive"),
    ] {
        let to = tempfile::tempdir().expect("folder");
        let error = fetch(&server.url(), &small, None, to.path(), limits).await.expect_err(text);
        assert!(
            matches!(error, GitError::TooLarge { .. }) && error.to_string().contains(text),
            "{error}"
        );
    }
    let folder = repository.work().join("base/deep/dir");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::os::unix::fs::symlink("../..", folder.join("up")).expect("a link");
    for target in
        ["/etc/passwd", "../../../etc/passwd", "deep/dir/up/../../docker-config/config.json"]
    {
        let link = repository.work().join("base/leak");
        std::os::unix::fs::symlink(target, &link).expect("link");
        let commit = repository.commit();
        std::fs::remove_file(link).expect("link");
        let to = tempfile::tempdir().expect("folder");
        let error = fetch(&server.url(), &commit, Some("base"), to.path(), FetchLimits::default())
            .await
            .expect_err(target);
        assert!(
            matches!(error, GitError::Unsafe { .. })
                && error.to_string().contains("leak is a symbolic link"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_credential_gives_access_to_a_private_repository() {
    let repository = Repository::new();
    let commit = repository.git(&["rev-parse", "HEAD"]);
    let rules = Rules { authorization: Some(AUTHORIZATION.into()), ..Rules::default() };
    let server = Server::start(repository.folder.path(), rules).await;
    assert_eq!(
        resolve(&server.url(), "main", Some(credential(&server, "hunter2"))).await,
        Ok(commit)
    );
    let none = resolve(&server.url(), "main", None).await.expect_err("none");
    assert!(
        matches!(none, GitError::Unavailable { .. })
            && none.to_string().contains("set `source.git.secretRef`"),
        "{none}"
    );
    let wrong = resolve(&server.url(), "main", Some(credential(&server, "hunter3")))
        .await
        .expect_err("wrong");
    assert!(
        matches!(wrong, GitError::Credential { .. })
            && wrong.to_string().contains("rejects the credential"),
        "{wrong}"
    );
    assert!(
        wrong.to_string().contains("`deploy`") && !wrong.to_string().contains("hunter3"),
        "{wrong}"
    );
}

#[tokio::test]
async fn a_redirect_does_not_forward_the_credential() {
    let repository = Repository::new();
    let closed = Rules { authorization: Some(AUTHORIZATION.into()), ..Rules::default() };
    let other = Server::start(repository.folder.path(), closed).await;
    let redirect = Rules {
        redirect: Some(format!(
            "http://localhost:{}",
            other.address.rsplit_once(':').expect("port").1
        )),
        ..Rules::default()
    };
    let named = Server::start(repository.folder.path(), redirect).await;
    let error = resolve(&named.url(), "main", Some(credential(&named, "hunter2")))
        .await
        .expect_err("redirected");
    assert!(error.to_string().contains("redirects to another host"), "{error}");
    assert_eq!(
        other.authorizations(),
        [None],
        "the other host gets a request without the credential"
    );
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_groundswell"));
    let repository = Repository::new();
    let commit = repository.git(&["rev-parse", "HEAD"]);
    let rules = Rules { authorization: Some(AUTHORIZATION.into()), ..Rules::default() };
    let server = Server::start(repository.folder.path(), rules).await;
    let resolver = Resolver::new(program.clone(), Duration::from_mins(1));
    let secret = credential(&server, "hunter2");
    let url = server.url();
    let tag = WantedFolders { credential: Some(&secret), ..wanted(&url, "v1.0") };
    let FolderAnswer::Read { commit: read, folders } = resolver.read(&tag).await.expect("read")
    else {
        panic!("nothing was known");
    };
    assert_eq!((read, folders), (commit.clone(), vec![]));
    let known = WantedFolders { known: Some(&commit), ..tag };
    assert_eq!(resolver.read(&known).await, Ok(FolderAnswer::Unmoved));

    let silent = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}/images", silent.local_addr().expect("address"));
    let impatient = Resolver::new(program, Duration::from_secs(1));
    let error = impatient.read(&wanted(&url, "main")).await.expect_err("silent");
    assert!(error.to_string().contains("did not answer within 1 s"), "{error}");
}
