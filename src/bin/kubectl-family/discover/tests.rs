//! Tests against a registry on this machine, with the shapes of estates that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use axum::{Router, extract::Request, response::IntoResponse as _};
use clap::Parser;
use groundswell::{
    api::{ImageFamily, ImageFamilySpec},
    engine::{expansion::expand, validate::validate},
    registry::{Digest, OCI_INDEX, OCI_MANIFEST},
};
use http::{StatusCode, header};
use serde_json::json;

use super::{
    ancestry::FoundBase,
    scan::{RegistryPrefix, RegistryScan},
    *,
};
use crate::registry_images::RegistryAccess;

#[path = "reading_tests.rs"]
mod reading;

/// An image of a generated registry.
#[derive(Clone, Debug)]
struct ShapedImage {
    name: String,
    /// The index of its base.
    base: Option<usize>,
    layers: Vec<String>,
    commands: Vec<String>,
    is_annotated: bool,
}

/// A registry whose edges are known.
#[derive(Clone, Debug, Default)]
struct RegistryShape {
    images: Vec<ShapedImage>,
    /// The images whose base leaves no trace.
    unknowable: BTreeSet<usize>,
}

impl RegistryShape {
    /// Adds an image with its own layers on those of its base.
    fn add(&mut self, name: &str, base: Option<usize>, own_layers: usize) -> usize {
        let parent = base.map(|base| self.images[base].clone());
        let mut layers = parent.as_ref().map(|parent| parent.layers.clone()).unwrap_or_default();
        let mut commands = parent.map(|parent| parent.commands).unwrap_or_default();
        for layer in 0..own_layers {
            layers.push(format!("{name} {layer}"));
            commands.push(format!("RUN step {layer} of {name}"));
        }
        commands.push(format!("!ENV NAME={name}"));
        let name = name.to_owned();
        self.images.push(ShapedImage { name, base, layers, commands, is_annotated: false });
        self.images.len() - 1
    }

    /// Makes one layer of all: nothing says any more what the image was built on.
    fn squash(&mut self, index: usize) {
        let image = &mut self.images[index];
        image.layers = vec![format!("squashed {}", image.name)];
        image.commands = vec!["COPY / /".into()];
        self.unknowable.insert(index);
    }

    fn annotate(&mut self, index: usize) {
        self.images[index].is_annotated = true;
    }

    /// 600 images: distributions, runtime dependencies, runtime, framework, development kit, each
    /// in versions and variants, with images that only set the environment.
    fn dotnet() -> Self {
        let mut shape = Self::default();
        for version in 0..5 {
            for os in 0..24 {
                let os = shape.add(&format!("os-{os}:{version}"), None, 1);
                let mut parent = Some(os);
                for level in ["runtime-deps", "runtime", "aspnet", "sdk"] {
                    let name = format!("{level}:{version}-{os}");
                    // Only its history distinguishes an image without a layer of its own.
                    let own = usize::from(level != "runtime-deps");
                    parent = Some(shape.add(&name, parent, own));
                }
            }
        }
        shape
    }

    /// 266 images: many operators on few bases, in chains of up to 5, squashed ones with and
    /// without annotations.
    fn ocp() -> Self {
        let mut shape = Self::default();
        let ubi = shape.add("ubi:9", None, 1);
        let base = shape.add("openshift-base:4", Some(ubi), 2);
        let bases: Vec<usize> =
            (0..8).map(|at| shape.add(&format!("base-{at}:4"), Some(base), 1)).collect();
        for at in 0..256 {
            let parent = if at % 3 == 2 { shape.images.len() - 1 } else { bases[at % bases.len()] };
            let parent = if shape.unknowable.contains(&parent) { bases[0] } else { parent };
            let image = shape.add(&format!("operator-{at}:4"), Some(parent), 1 + at % 3);
            match at % 32 {
                30 => shape.squash(image),
                31 => {
                    shape.squash(image);
                    shape.unknowable.remove(&image);
                    shape.annotate(image);
                }
                _ => {}
            }
        }
        shape
    }

    /// 217 images: one chain per release, with short cuts to its lower levels.
    fn ros() -> Self {
        let mut shape = Self::default();
        for release in 0..7 {
            let mut chain = vec![shape.add(&format!("ubuntu:{release}"), None, 1)];
            for level in ["core", "base", "robot", "perception", "simulation", "desktop"] {
                let parent = chain[chain.len() - 1];
                chain.push(shape.add(&format!("ros-{level}:{release}"), Some(parent), 2));
            }
            for app in 0..24 {
                let parent = chain[(app * 5) % chain.len()];
                let image = shape.add(&format!("ros-app-{app}:{release}"), Some(parent), 1);
                if app % 4 == 0 {
                    shape.annotate(image);
                }
            }
        }
        shape
    }

    /// 16 images: a tree of notebooks.
    fn jupyter() -> Self {
        let mut shape = Self::default();
        let ubuntu = shape.add("ubuntu:24.04", None, 1);
        let mut chain = vec![ubuntu];
        for level in ["foundation", "base", "minimal", "scipy"] {
            let parent = chain[chain.len() - 1];
            chain.push(shape.add(&format!("{level}-notebook:1"), Some(parent), 3));
        }
        for at in 0..11 {
            let parent = chain[2 + at % 3];
            shape.add(&format!("notebook-{at}:1"), Some(parent), 2);
        }
        shape
    }

    /// Puts several copies of a shape into folders of their own, with different layers.
    fn repeated(&self, copies: usize) -> Self {
        let mut all = Self::default();
        for copy in 0..copies {
            let offset = all.images.len();
            let prefixed = |text: &String| format!("c{copy}/{text}");
            all.unknowable.extend(self.unknowable.iter().map(|index| index + offset));
            all.images.extend(self.images.iter().map(|image| ShapedImage {
                name: prefixed(&image.name),
                base: image.base.map(|base| base + offset),
                layers: image.layers.iter().map(prefixed).collect(),
                ..image.clone()
            }));
        }
        all
    }

    /// Returns the edges that a registry can show, by names without the registry.
    fn edges(&self) -> BTreeSet<(String, String)> {
        let known = self.images.iter().enumerate().filter(|(at, _)| !self.unknowable.contains(at));
        known
            .filter_map(|(_, image)| {
                Some((image.name.clone(), self.images[image.base?].name.clone()))
            })
            .collect()
    }
}

/// A registry on this machine that counts its requests.
struct ShapeRegistry {
    host: String,
    requests: Arc<AtomicUsize>,
}

impl ShapeRegistry {
    async fn start(shape: &RegistryShape) -> Self {
        Self::start_with(shape, |_| {}).await
    }

    /// Starts a registry whose answers are changed before.
    async fn start_with(
        shape: &RegistryShape,
        change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>),
    ) -> Self {
        // Only the first call of a process can succeed.
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let mut contents = contents(shape, &host);
        change(&mut contents);
        let contents = Arc::new(contents);
        let requests = Arc::new(AtomicUsize::default());
        let counter = Arc::clone(&requests);
        let handler = move |request: Request| {
            counter.fetch_add(1, Ordering::SeqCst);
            assert_eq!(request.method(), http::Method::GET, "nothing is written");
            let found = contents.get(request.uri().path()).cloned();
            async move {
                match found {
                    Some(body) => {
                        let is_index = String::from_utf8_lossy(&body).contains("\"manifests\"");
                        let kind = if is_index { OCI_INDEX } else { OCI_MANIFEST };
                        ([(header::CONTENT_TYPE, kind)], body).into_response()
                    }
                    None => StatusCode::NOT_FOUND.into_response(),
                }
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { host, requests }
    }

    fn access(&self) -> RegistryAccess {
        let arguments = RegistryArguments {
            plain_http: vec![self.host.clone()],
            platform: Some("linux/amd64".into()),
            ..RegistryArguments::default()
        };
        arguments.access().expect("a client")
    }

    async fn scan(&self) -> RegistryScan {
        let access = self.access();
        let prefix = RegistryPrefix::parse(&self.host).expect("a prefix");
        let mut problems = Vec::new();
        let references =
            list_tags(&access, &prefix, 10_000, &mut problems).await.expect("a list of tags");
        let mut scan = read_images(&access, references, &[]).await;
        scan.problems.extend(problems);
        scan
    }
}

/// Returns what the registry sends for each path.
fn contents(shape: &RegistryShape, host: &str) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut digests: Vec<Digest> = Vec::new();
    for image in &shape.images {
        let (path, tag) = image.name.split_once(':').expect("a tag");
        tags.entry(path).or_default().push(tag);
        let digest = |layer: &String| Digest::of(layer.as_bytes());
        let history = image
            .commands
            .iter()
            .map(|command| json!({"created_by": command, "empty_layer": command.starts_with('!')}));
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-05-01T00:00:00Z",
            "rootfs": {"type": "layers",
                "diff_ids": image.layers.iter().map(digest).collect::<Vec<_>>()},
            "history": history.collect::<Vec<_>>(),
        });
        let config = config.to_string().into_bytes();
        let layer = |layer: &String| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(layer), "size": 1000})
        };
        let mut annotations = json!({});
        if let Some(base) = image.base.filter(|_| image.is_annotated) {
            let name = format!("{host}/{}", shape.images[base].name);
            annotations = json!({
                "org.opencontainers.image.base.name": name,
                "org.opencontainers.image.base.digest": digests[base],
            });
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "annotations": annotations,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config), "size": config.len()},
            "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        digests.push(Digest::of(&manifest));
        contents.insert(format!("/v2/{path}/blobs/{}", Digest::of(&config)), config);
        contents.insert(format!("/v2/{path}/manifests/{tag}"), manifest);
    }
    let repositories: Vec<_> = tags.keys().collect();
    let catalog = json!({ "repositories": repositories }).to_string();
    contents.insert("/v2/_catalog".into(), catalog.into_bytes());
    for (path, tags) in tags {
        let list = json!({"name": path, "tags": tags}).to_string();
        contents.insert(format!("/v2/{path}/tags/list"), list.into_bytes());
    }
    contents
}

/// Returns the edges that were found, by names without the registry.
fn found_edges(scan: &RegistryScan, bases: &[FoundBase], host: &str) -> BTreeSet<(String, String)> {
    let name = |index: usize| {
        let name = scan.images[index].names[0].to_string();
        name.strip_prefix(host).expect("the registry").trim_start_matches('/').to_owned()
    };
    let edge = |(at, base): (usize, &FoundBase)| match base {
        FoundBase::Image { index, .. } => Some((name(at), name(*index))),
        _ => None,
    };
    bases.iter().enumerate().filter_map(edge).collect()
}

/// Discovers a shape, checks its edges and requests, and prints how long it has taken.
async fn check_shape(what: &str, shape: &RegistryShape, images: usize) {
    assert_eq!(shape.images.len(), images, "{what}");
    let registry = ShapeRegistry::start(shape).await;
    let start = Instant::now();
    let scan = registry.scan().await;
    let bases = bases(&scan.images);
    let taken = start.elapsed();
    assert_eq!(scan.problems, Vec::<String>::new(), "{what}");
    assert_eq!(scan.images.len(), images, "{what}");
    let found = found_edges(&scan, &bases, &registry.host);
    let expected = shape.edges();
    let invented: Vec<_> = found.difference(&expected).collect();
    assert!(invented.is_empty(), "{what}: invented {invented:?}");
    let right = found.intersection(&expected).count();
    assert!(right * 100 >= expected.len() * 99, "{what}: {right} of {}", expected.len());
    let requests = registry.requests.load(Ordering::SeqCst);
    assert!(requests <= 3 * images + 1, "{what}: {requests} requests for {images} images");
    println!(
        "{what}: {images} images, {right} of {} edges, {} unknowable, {requests} requests, {} ms",
        expected.len(),
        shape.unknowable.len(),
        taken.as_millis()
    );
}

#[tokio::test]
async fn the_edges_of_known_shapes_are_found_and_none_is_invented() {
    check_shape("dotnet-like", &RegistryShape::dotnet(), 600).await;
    check_shape("ocp-like", &RegistryShape::ocp(), 266).await;
    check_shape("ros-like", &RegistryShape::ros(), 217).await;
    check_shape("jupyter-like", &RegistryShape::jupyter(), 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_images_take_three_requests_each() {
    check_shape("2,000", &RegistryShape::jupyter().repeated(125), 2000).await;
}

/// The specs of the manifests for a shape, and the problems.
async fn adopted(shape: &RegistryShape) -> (Vec<ImageFamilySpec>, Vec<String>) {
    let registry = ShapeRegistry::start(shape).await;
    let scan = registry.scan().await;
    let bases = bases(&scan.images);
    let prefix = RegistryPrefix::parse(&registry.host).expect("a prefix");
    let mut problems = Vec::new();
    let manifests = families::manifests(&scan.images, &bases, &prefix, None, &mut problems);
    let read = |manifest: &crate::import::manifest::FamilyManifest| {
        let text = manifest.text().expect("a text");
        serde_yaml::from_str::<ImageFamily>(&text).expect("a family").spec
    };
    (manifests.expect("manifests").iter().map(read).collect(), problems)
}

#[tokio::test]
async fn families_adopt_the_images() {
    let (specs, problems) = adopted(&RegistryShape::jupyter()).await;
    assert_eq!(problems, Vec::<String>::new());
    let [spec] = specs.as_slice() else { panic!("{} families", specs.len()) };
    assert!(spec.adopt.is_some() && spec.suspend);
    assert_eq!(spec.images.len(), 16);
    let minimal = spec.images.iter().find(|image| image.name == "minimal-notebook").expect("one");
    assert_eq!(minimal.tags, ["1"]);
    let text = minimal.source.inline.as_deref().expect("a Dockerfile");
    assert!(text.contains("/base-notebook:1\n") && text.contains("&& false"), "{text}");
    for shape in [RegistryShape::dotnet(), RegistryShape::ocp(), RegistryShape::ros()] {
        let (specs, _) = adopted(&shape).await;
        let mut images = 0;
        for spec in specs {
            let spec = expand(spec);
            assert_eq!(spec.left_out, []);
            let blueprint = validate(&spec).expect("a valid family");
            assert!(blueprint.images.iter().all(|image| image.problem.is_none()));
            images += spec.images.len();
        }
        assert_eq!(images, shape.images.len());
    }
}

#[tokio::test]
async fn the_report_counts_images_and_bytes() {
    let registry = ShapeRegistry::start(&RegistryShape::jupyter()).await;
    let mut scan = registry.scan().await;
    // The port is another one in each run.
    for name in scan.images.iter_mut().flat_map(|image| &mut image.names) {
        let shown = name.to_string().replace(&registry.host, "registry.example.com");
        *name = shown.parse().expect("a reference");
    }
    let bases = bases(&scan.images);
    let now = "2026-05-03T00:00:00Z".parse().expect("a time");
    let report = DiscoveryReport::new(&scan.images, &bases, Vec::new(), now);
    assert_eq!((report.totals.images, report.totals.edges, report.totals.unknown), (16, 15, 1));
    // 1 + 4 * 3 + 11 * 2 layers of 1000 bytes.
    assert_eq!(report.totals.stored, 35_000);
    assert!(report.totals.size > report.totals.stored);
    insta::assert_snapshot!(report.table(Some(120)) + "\n" + &report.summary());
    let document = Document::new("RegistryDiscovery", &report).json().expect("JSON");
    let document = serde_json::from_str(&document).expect("JSON");
    let schema = include_str!("../../../../docs/reference/plugin/discovery.schema.json");
    let schema = serde_json::from_str(schema).expect("a schema");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<_> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    let row = &report.images[0];
    assert_eq!(row.age_seconds, Some(2 * 24 * 3600));
}

#[test]
fn a_registry_is_parsed() {
    for (text, registry, path) in [
        ("registry.example.com", "registry.example.com", ""),
        ("localhost:5000/team/", "localhost:5000", "team"),
        ("r.example/a/b", "r.example", "a/b"),
    ] {
        let prefix = RegistryPrefix::parse(text).expect(text);
        assert_eq!((&*prefix.registry, &*prefix.path), (registry, path));
    }
    for text in ["", "team", "team/app", "r.example/app:1", "r.example/UPPER", "r.example/a@b"] {
        assert!(RegistryPrefix::parse(text).is_err(), "{text}");
    }
}

#[derive(Parser, Debug)]
struct DiscoverLine {
    #[command(flatten)]
    arguments: DiscoverArguments,
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let mut shape = RegistryShape::jupyter();
    let registry = ShapeRegistry::start(&shape).await;
    let run = |line: String| {
        let arguments = DiscoverLine::parse_from(line.split(' ')).arguments;
        async move { run(arguments).await.map_err(|error| format!("{error:#}")) }
    };
    let host = registry.host.clone();
    let list = tempfile::NamedTempFile::new().expect("a file");
    let text = format!("\u{feff}# some\n{host}/ubuntu:24.04\n\n{host}/none:1\n");
    std::fs::write(list.path(), text).expect("written");
    let line = format!("discover --images {} --plain-http {host} -o name", list.path().display());
    assert_eq!(run(line).await, Ok(Outcome::Findings));
    std::fs::write(list.path(), "NO IMAGE\n").expect("written");
    let error = run(format!("discover --images {}", list.path().display())).await;
    assert!(error.expect_err("no reference").contains("line 1"));
    shape.images.clear();
    let empty = ShapeRegistry::start(&shape).await;
    let error = run(format!("discover {0} --plain-http {0}", empty.host)).await;
    assert!(error.expect_err("no image").contains("there is no image"));
    let error = run("discover localhost:1 --plain-http localhost:1".into()).await;
    assert!(error.expect_err("no registry").contains("does not list its repositories"));
}
