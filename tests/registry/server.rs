//! A separate registry for each test: the real program on a free port of loopback, with its storage
//! in a temporary folder that is deleted with it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use groundswell::registry::{Digest, OCI_INDEX, OCI_MANIFEST};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::Mutex,
    time::timeout,
};

use crate::{
    certificate::Certificate,
    token_service::{ALICE, ISSUER, SERVICE, TokenService},
};

/// How long the program may take to start listening on a busy machine, and to respond to a request.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// `alice` with the password `hunter2`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "alice:$2b$05$groundswellgroundswele0dyXdt8ZruMKSXrskmgN2tvVkgLBKeG\n";

/// Who may access the registry.
#[derive(Clone, Default)]
pub enum Users {
    #[default]
    Anonymous,
    /// `alice` with the password `hunter2`.
    Alice,
    /// Who has a token of this service.
    OfService(Arc<TokenService>),
}

/// The program that serves.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Program {
    /// CNCF Distribution.
    #[default]
    Distribution,
    /// `crane registry serve`, another implementation: without accounts and TLS, in memory.
    Crane,
}

/// How a registry is set up.
#[derive(Clone, Default)]
pub struct Setup {
    pub program: Program,
    pub users: Users,
    /// Its certificate, if it serves over TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// The address of the registry that it mirrors, if it is a pull-through mirror.
    pub mirrored: Option<String>,
}

/// A running registry. It is stopped when it is dropped.
pub struct RegistryServer {
    /// `127.0.0.1:port`.
    pub address: String,
    setup: Setup,
    folder: TempDir,
    process: Child,
    http: reqwest::Client,
}

impl RegistryServer {
    /// Starts the registry on a free port, without TLS.
    pub async fn start(users: Users) -> Self {
        Self::with_setup(Setup { users, ..Setup::default() }).await
    }

    /// Starts a registry on a free port.
    pub async fn with_setup(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (process, address) = launch(folder.path(), &setup, "127.0.0.1:0").await;
        let mut http = reqwest::Client::builder();
        if let Some(certificate) = &setup.certificate {
            http = http.add_root_certificate(certificate.root());
        }
        let http = http.build().expect("a client");
        Self { address, setup, folder, process, http }
    }

    /// Stops the registry and keeps its content.
    pub async fn stop(&mut self) {
        self.process.kill().await.expect("stop the registry");
    }

    /// Starts the registry again after [`stop`](Self::stop), with its content and at the same
    /// address.
    pub async fn restart(&mut self) {
        let (process, address) = launch(self.folder.path(), &self.setup, &self.address).await;
        assert_eq!(address, self.address);
        self.process = process;
    }

    /// Pushes an image of one layer. Equal arguments produce the same digest.
    pub async fn push(
        &self,
        repository: &str,
        tag: &str,
        architecture: &str,
        variant: &str,
    ) -> Digest {
        let image = self.image(repository, architecture, variant).await;
        self.put_manifest(repository, tag, OCI_MANIFEST, &image).await
    }

    /// Pushes an index with one image per architecture.
    pub async fn push_index(&self, repository: &str, tag: &str, architectures: &[&str]) -> Digest {
        let mut manifests = Vec::new();
        for architecture in architectures {
            let image = self.image(repository, architecture, "one").await;
            let digest = Digest::of(image.to_string().as_bytes());
            self.put_manifest(repository, digest.as_str(), OCI_MANIFEST, &image).await;
            let mut entry = descriptor(OCI_MANIFEST, image.to_string().as_bytes());
            entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            manifests.push(entry);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        self.put_manifest(repository, tag, OCI_INDEX, &index).await
    }

    /// Pushes the blobs of an image and returns its manifest.
    async fn image(&self, repository: &str, architecture: &str, variant: &str) -> Value {
        let layer = format!("layer {variant}").into_bytes();
        let config = json!({
            "created": "2026-01-02T03:04:05Z", "os": "linux", "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        let config = config.to_string().into_bytes();
        for blob in [&layer, &config] {
            self.put_blob(repository, blob).await;
        }
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
            "annotations": { "test.variant": variant },
        })
    }

    async fn put_blob(&self, repository: &str, blob: &[u8]) {
        let url = self.url(repository, "blobs/uploads/");
        let started = self
            .send(Method::POST, &url, "application/octet-stream", Vec::new(), StatusCode::ACCEPTED)
            .await;
        let location = started.headers()["location"].to_str().expect("location");
        let base = reqwest::Url::parse(&self.url(repository, "")).expect("a URL");
        let mut url = base.join(location).expect("a URL");
        url.query_pairs_mut().append_pair("digest", Digest::of(blob).as_str());
        let url = url.to_string();
        self.send(
            Method::PUT,
            &url,
            "application/octet-stream",
            blob.to_vec(),
            StatusCode::CREATED,
        )
        .await;
    }

    async fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &Value,
    ) -> Digest {
        let body = manifest.to_string().into_bytes();
        let digest = Digest::of(&body);
        let url = self.url(repository, &format!("manifests/{tag}"));
        self.send(Method::PUT, &url, media_type, body, StatusCode::CREATED).await;
        digest
    }

    fn url(&self, repository: &str, rest: &str) -> String {
        let scheme = if self.setup.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/v2/{repository}/{rest}", self.address)
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        media_type: &str,
        body: Vec<u8>,
        expected: StatusCode,
    ) -> reqwest::Response {
        let mut request =
            self.http.request(method, url).header("content-type", media_type).body(body);
        request = match &self.setup.users {
            Users::Anonymous => request,
            Users::Alice => request.basic_auth(ALICE.0, Some(ALICE.1)),
            Users::OfService(service) => request.bearer_auth(service.token_for_all()),
        };
        let response = request.timeout(START_TIMEOUT).send().await.expect(url);
        assert_eq!(response.status(), expected, "{url}");
        response
    }
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(content), "size": content.len() })
}

/// Starts the program and waits until it logs its address.
async fn launch(folder: &Path, setup: &Setup, listen: &str) -> (Child, String) {
    let (mut command, said) = match setup.program {
        Program::Distribution => {
            let mut command = Command::new(program("registry").await);
            command.arg("serve").arg(configuration(folder, setup, listen));
            (command, "listening on ")
        }
        Program::Crane => {
            let mut command = Command::new(program("crane").await);
            command.args(["registry", "serve", "--address", listen]);
            (command, "serving on port ")
        }
    };
    let mut process = command
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start the registry");
    let mut log = BufReader::new(process.stderr.take().expect("log")).lines();
    let address = timeout(START_TIMEOUT, async {
        let mut output = String::new();
        while let Some(line) = log.next_line().await.expect("read the registry's log") {
            if let Some((_, rest)) = line.split_once(said) {
                return rest.split(['"', ' ', ',']).next().expect("address").to_owned();
            }
            output.push_str(&line);
        }
        panic!("the registry exited: {output}");
    });
    let address = address.await.expect("the registry did not start to listen in time");
    // Keep reading, so that the program never blocks on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    let is_port = !address.contains(':');
    (process, if is_port { format!("127.0.0.1:{address}") } else { address })
}

/// Writes the configuration of CNCF Distribution.
fn configuration(folder: &Path, setup: &Setup, listen: &str) -> PathBuf {
    let mut config = json!({
        "version": 0.1,
        "log": { "level": "info", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": folder.join("storage") },
            "maintenance": { "uploadpurging": { "enabled": false } },
        },
        "http": { "addr": listen },
    });
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("a file");
        path
    };
    match &setup.users {
        Users::Anonymous => {}
        Users::Alice => {
            let passwords = file("htpasswd", HTPASSWD);
            config["auth"] = json!({ "htpasswd": { "realm": "test", "path": passwords } });
        }
        Users::OfService(service) => {
            let roots = file("tokens.crt", &service.certificate.pem);
            config["auth"] = json!({ "token": {
                "realm": service.realm(), "service": SERVICE, "issuer": ISSUER,
                "rootcertbundle": roots,
            }});
        }
    }
    if let Some(certificate) = &setup.certificate {
        let (pem, key) = (file("tls.crt", &certificate.pem), file("tls.key", &certificate.key));
        config["http"]["tls"] = json!({ "certificate": pem, "key": key });
    }
    if let Some(mirrored) = &setup.mirrored {
        config["proxy"] = json!({ "remoteurl": format!("http://{mirrored}") });
    }
    // JSON is YAML.
    file("registry.yaml", &config.to_string())
}

/// Returns a program, which `dev/tools/build` compiles if it is not in its cache yet.
async fn program(name: &'static str) -> PathBuf {
    static PROGRAMS: Mutex<BTreeMap<&str, PathBuf>> = Mutex::const_new(BTreeMap::new());
    let mut programs = PROGRAMS.lock().await;
    if let Some(known) = programs.get(name) {
        return known.clone();
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/tools/build");
    let output = Command::new(build).args(["--path", name]).stderr(Stdio::inherit()).output().await;
    let output = output.expect("run dev/tools/build");
    assert!(output.status.success(), "dev/tools/build {name} failed");
    let folder = String::from_utf8(output.stdout).expect("path");
    let path = Path::new(folder.trim()).join(name);
    programs.insert(name, path.clone());
    path
}
