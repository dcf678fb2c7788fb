//! A registry on loopback with images that a test builds from files.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use groundswell::{
    contents::ContentsReader,
    registry::{Client, Config, Digest, Keychain, OCI_INDEX, OCI_MANIFEST, Platform, Reference},
};
use serde_json::{Value, json};

/// What a path of the registry's API returns: its media type and its content.
type Contents = HashMap<String, (&'static str, Vec<u8>)>;

/// The images of a registry that is not started yet.
#[derive(Default)]
pub struct TestImages(Contents);

/// A registry that runs until the test's runtime ends.
pub struct TestRegistry {
    pub host: String,
}

/// A layer with these files.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, path, text.as_bytes()).expect("a file");
    }
    builder.into_inner().expect("a tar")
}

/// A layer with the database of dpkg that lists these packages.
pub fn deb_layer(packages: &[(&str, &str)]) -> Vec<u8> {
    let paragraph = |(name, version): &(&str, &str)| {
        format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\n\
             Version: {version}\n\n"
        )
    };
    let status: String = packages.iter().map(paragraph).collect();
    layer(&[("var/lib/dpkg/status", &status)])
}

impl TestImages {
    /// Adds an image of these layers under a tag, as `path:tag`. `settings` is the part `config` of
    /// its configuration. Returns its digest.
    pub fn add(&mut self, name: &str, layers: &[Vec<u8>], settings: Value) -> Digest {
        self.annotated(name, layers, settings, json!({}))
    }

    /// Adds an image with annotations.
    pub fn annotated(
        &mut self,
        name: &str,
        layers: &[Vec<u8>],
        settings: Value,
        annotations: Value,
    ) -> Digest {
        let (path, tag) = name.split_once(':').expect("path:tag");
        let bytes = self.manifest(path, layers, "amd64", [settings, annotations]);
        self.publish(path, tag, OCI_MANIFEST, bytes)
    }

    /// Adds an index of images, each for an architecture. Returns the digests of the images.
    pub fn index(&mut self, name: &str, images: &[(&str, Vec<u8>)]) -> Vec<Digest> {
        let (path, tag) = name.split_once(':').expect("path:tag");
        let (mut entries, mut digests) = (Vec::new(), Vec::new());
        for (architecture, layer) in images {
            let layers = [layer.clone()];
            let bytes = self.manifest(path, &layers, architecture, [json!({}), json!({})]);
            let size = bytes.len();
            let digest = self.publish(path, architecture, OCI_MANIFEST, bytes);
            entries.push(json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size,
                "platform": {"os": "linux", "architecture": architecture}}));
            digests.push(digest);
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.publish(path, tag, OCI_INDEX, index.to_string().into_bytes());
        digests
    }

    /// Adds the blobs of an image. Returns its manifest.
    fn manifest(
        &mut self,
        path: &str,
        layers: &[Vec<u8>],
        architecture: &str,
        [settings, annotations]: [Value; 2],
    ) -> Vec<u8> {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let history: Vec<Value> = (1..=layers.len())
            .map(|number| json!({"created_by": format!("RUN step {number}")}))
            .collect();
        let config = json!({"os": "linux", "architecture": architecture, "config": settings,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history});
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let layers: Vec<Value> =
            layers.iter().map(|layer| self.blob(path, layer_type, layer.clone())).collect();
        let config_type = "application/vnd.oci.image.config.v1+json";
        let config = self.blob(path, config_type, config.to_string().into_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
            "layers": layers, "annotations": annotations});
        manifest.to_string().into_bytes()
    }

    /// Puts a manifest under a tag and its digest.
    fn publish(
        &mut self,
        path: &str,
        tag: &str,
        media_type: &'static str,
        bytes: Vec<u8>,
    ) -> Digest {
        let digest = Digest::of(&bytes);
        for reference in [tag, digest.as_str()] {
            let place = format!("/v2/{path}/manifests/{reference}");
            self.0.insert(place, (media_type, bytes.clone()));
        }
        digest
    }

    fn blob(&mut self, path: &str, media_type: &'static str, bytes: Vec<u8>) -> Value {
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        self.0.insert(format!("/v2/{path}/blobs/{digest}"), (media_type, bytes));
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Replaces a blob by another content of the same length.
    pub fn damage_blobs(&mut self) {
        for (place, (_, bytes)) in &mut self.0 {
            if place.contains("/blobs/") && bytes.first() != Some(&b'{') {
                *bytes.last_mut().expect("a byte") ^= 1;
            }
        }
    }

    /// Adds the list of repositories, and the list of tags of each.
    fn with_lists(mut self) -> Self {
        let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for place in self.0.keys() {
            let manifest =
                place.strip_prefix("/v2/").and_then(|rest| rest.split_once("/manifests/"));
            let Some((path, tag)) = manifest.filter(|(_, tag)| !tag.contains(':')) else {
                continue;
            };
            tags.entry(path.to_owned()).or_default().push(tag.to_owned());
        }
        let repositories: Vec<&String> = tags.keys().collect();
        let catalog = json!({ "repositories": repositories }).to_string().into_bytes();
        self.0.insert("/v2/_catalog".into(), ("application/json", catalog));
        for (path, tags) in tags {
            let list = json!({ "name": path, "tags": tags }).to_string().into_bytes();
            self.0.insert(format!("/v2/{path}/tags/list"), ("application/json", list));
        }
        self
    }

    /// Starts the registry.
    pub async fn start(self) -> TestRegistry {
        self.start_on(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    /// Starts the registry on a port that is known before its images are.
    pub fn start_on(self, listener: tokio::net::TcpListener) -> TestRegistry {
        let host = listener.local_addr().expect("an address").to_string();
        let contents = Arc::new(self.with_lists().0);
        let handler = move |request: Request| {
            let response = respond(&contents, request.uri().path());
            async move { response }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        TestRegistry { host }
    }
}

fn respond(contents: &Contents, path: &str) -> Response {
    match contents.get(path) {
        Some((media_type, bytes)) => {
            ([(header::CONTENT_TYPE, *media_type)], bytes.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

impl TestRegistry {
    /// Returns a reader of its images.
    pub fn reader(&self) -> ContentsReader {
        // Only the first call of a process can succeed.
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = Config { plain_http: vec![self.host.clone()], ..Config::default() };
        let platform = Platform::from_user("linux/amd64").expect("a platform");
        let client = Client::new(config).expect("a client");
        ContentsReader::new(client, Keychain::default(), platform)
    }

    /// Returns the reference of an image, given as `path:tag`.
    pub fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().expect("a reference")
    }
}

/// The packages of this machine, as `name version architecture`, and the layer that has their
/// database; `None` if the machine has no dpkg.
pub fn packages_of_this_machine() -> Option<(std::collections::BTreeSet<String>, Vec<u8>)> {
    let status = std::fs::read_to_string("/var/lib/dpkg/status").ok()?;
    let format = "${Package} ${Version} ${Architecture} ${db:Status-Status}\n";
    let output =
        std::process::Command::new("dpkg-query").args(["-W", "-f", format]).output().ok()?;
    let output = String::from_utf8(output.stdout).expect("text");
    let listed = output.lines().filter_map(|line| line.rsplit_once(' '));
    let present = listed.filter(|(_, state)| !matches!(*state, "config-files" | "not-installed"));
    let layer = layer(&[("var/lib/dpkg/status", &status)]);
    Some((present.map(|(package, _)| package.to_owned()).collect(), layer))
}
