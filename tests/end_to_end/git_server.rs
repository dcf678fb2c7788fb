//! A Git server on this machine that the cluster reaches over HTTPS, with an authority of its own:
//! `git http-backend` behind a small front.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Response, header},
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::{support::Cluster, tls::TlsListener};

/// Maximum size of a request in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// A server for one repository.
pub struct GitServer {
    folder: TempDir,
    address: SocketAddr,
    answered: Arc<AtomicUsize>,
}

impl GitServer {
    /// Starts a server at this machine's end of the link to the cluster's node.
    pub async fn start(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let host = host_address(cluster);
        certify(folder.path(), &host);
        let listener = TcpListener::bind((host.as_str(), 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answered = Arc::new(AtomicUsize::new(0));
        let state = (folder.path().to_owned(), answered.clone());
        let router = Router::new().fallback(serve).with_state(state);
        let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
        let listener = TlsListener::new(listener, &read("tls.crt"), &read("tls.key"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let server = Self { folder, address, answered };
        std::fs::create_dir(server.work()).expect("a folder");
        server.git(&["init", "--quiet", "--initial-branch=main"]);
        server
    }

    /// Returns the URL of the repository.
    pub fn url(&self) -> String {
        format!("https://{}/images", self.address)
    }

    /// Returns the certificate of the server's authority in PEM.
    pub fn authority(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("ca.crt")).expect("a certificate")
    }

    /// Returns how many requests were answered.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Writes a file of the work tree.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.work().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    /// Commits everything to the branch that is served. Returns the commit.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    fn git(&self, arguments: &[&str]) -> String {
        let own = ["user.name=t", "user.email=t@example.com", "uploadpack.allowFilter=true"];
        let output = Command::new("git")
            .args(own.iter().flat_map(|setting| ["-c", setting]))
            .args(arguments)
            .current_dir(self.work())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .expect("git");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

/// Returns the address of this machine on the link to the cluster's node.
fn host_address(cluster: &Cluster) -> String {
    let arguments = ["exec", "--name", &cluster.name, "--", "ip", "-4", "route", "show", "default"];
    let route = cluster.run("dev/cluster", &arguments).expect("the route of the node");
    route.split(' ').nth(2).expect("a gateway").to_owned()
}

/// Creates an authority and a certificate of the server for an address.
fn certify(folder: &Path, host: &str) {
    let script = "
        key() { openssl ecparam -name prime256v1 -genkey -noout -out \"$1\"; }
        key ca.key; key tls.key
        openssl req -new -x509 -days 2 -key ca.key -subj /CN=tests -out ca.crt \\
            -addext keyUsage=critical,keyCertSign
        openssl req -new -x509 -days 2 -key tls.key -subj /CN=git -CA ca.crt -CAkey ca.key \\
            -addext basicConstraints=critical,CA:FALSE -addext \"subjectAltName=IP:$0\" \\
            -out tls.crt";
    let made = Command::new("bash")
        .args(["-euc", script, host])
        .current_dir(folder)
        .output()
        .expect("bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Runs one request through `git http-backend`, which implements CGI.
async fn serve(
    State((root, answered)): State<(PathBuf, Arc<AtomicUsize>)>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, MAX_REQUEST).await.expect("a body");
    let given = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let mut child = tokio::process::Command::new("git")
        .args(["-c", "safe.directory=*", "-c", "uploadpack.allowFilter=true"])
        .args(["-c", "uploadpack.allowAnySHA1InWant=true", "http-backend"])
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_PROTOCOL", given("git-protocol").unwrap_or_default())
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", given(header::CONTENT_TYPE.as_str()).unwrap_or_default())
        .env("HTTP_CONTENT_ENCODING", given("content-encoding").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git");
    let mut input = child.stdin.take().expect("an input");
    input.write_all(&body).await.expect("written");
    drop(input);
    let output = child.wait_with_output().await.expect("an output").stdout;
    answered.fetch_add(1, Ordering::Relaxed);
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("headers");
    let (head, content) = output.split_at(end);
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(head).lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().expect("a status")),
            _ => response.header(name, value),
        };
    }
    response.body(content[4..].to_vec().into()).expect("a response")
}
