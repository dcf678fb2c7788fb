//! The files of scenarios.

use std::{collections::BTreeMap, fs};

use groundswell::registry::{Config, Digest};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use crate::root;

/// A scenario, as its file contains it.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultScenario {
    /// The name of its file, without the extension: its number and a short title.
    #[serde(skip)]
    pub name: String,
    /// What the registry does.
    pub scenario: String,
    /// What the client does.
    pub behaviour: String,
    /// Public reports of it.
    #[serde(default)]
    pub reports: Vec<String>,
    /// The test that shows the behaviour, if it is not played: `path::name`.
    pub test: Option<String>,
    /// Why the behaviour is not there yet.
    pub open: Option<String>,
    /// The operator's configuration of registries.
    #[serde(default)]
    pub config: Config,
    /// The Docker configurations of the family's Secrets, in order. They are named `s1`, `s2`, ...
    #[serde(default)]
    pub secrets: Vec<Value>,
    /// Contents of registries by name. `{name}` in any text is the digest of that content. `config`
    /// and `image` are always known.
    #[serde(default)]
    pub contents: BTreeMap<String, Value>,
    /// What happens, in order.
    #[serde(default)]
    pub steps: Vec<FaultStep>,
}

/// A call of the client and what it returns.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultStep {
    /// How many seconds pass before the call.
    #[serde(default)]
    pub wait: u64,
    /// The call.
    pub call: ClientCall,
    /// The image that it is about.
    #[serde(default = "default_image")]
    pub image: String,
    /// For `poll`: the platforms that are required.
    #[serde(default)]
    pub platforms: Option<Vec<String>>,
    /// For `promote`: the content that the tag is pointed to. For `verify`: the base.
    pub to: Option<String>,
    /// The requests that are expected, in order, and their responses.
    #[serde(default)]
    pub exchanges: Vec<FaultExchange>,
    /// What the call returns.
    pub expect: Expectation,
    /// For `credentials`: what a builder gets, by key: `user:password`.
    #[serde(default)]
    pub builder: BTreeMap<String, String>,
}

/// The calls.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub enum ClientCall {
    /// `Client::head`.
    Head,
    /// The poll of an upstream's tag, which knows the result of the last one.
    Poll,
    /// `Client::manifest`.
    Manifest,
    /// The lookup of a tag of our own.
    Lookup,
    /// Whether a build may pull the image now.
    PullPause,
    /// Pointing a tag of our own to a digest.
    Promote,
    /// The verification that a build is built on its base.
    Verify,
    /// Reading the Secrets, and writing them for a builder of `image`, which names two images with
    /// a blank in between if there are two.
    Credentials,
}

/// A request and its response.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultExchange {
    /// Method and URL.
    pub request: String,
    /// The credential: `user:password` for Basic, `Bearer ...` for a token. Without it, none may be
    /// sent.
    pub sends: Option<String>,
    /// A text that the request's body contains.
    pub contains: Option<String>,
    /// The status. 200 by default.
    #[serde(default = "default_status")]
    pub status: u16,
    /// The content that is served, with all its headers.
    pub serves: Option<String>,
    /// Headers of a served content that are missing.
    #[serde(default)]
    pub without: Vec<String>,
    /// Headers, as `name: value`. They replace those of a served content.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The body.
    #[serde(default)]
    pub body: String,
    /// The connection fails with this error.
    pub fails: Option<String>,
    /// The host accepts the request and never responds.
    #[serde(default)]
    pub silent: bool,
}

/// What a call returns.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// The content that is found.
    pub found: Option<String>,
    /// Nothing is found.
    #[serde(default)]
    pub absent: bool,
    /// The call succeeds and returns nothing.
    #[serde(default)]
    pub done: bool,
    /// The reason of the error.
    pub error: Option<String>,
    /// Texts that the error's message contains.
    #[serde(default)]
    pub says: Vec<String>,
    /// For `poll`: required platforms that are missing.
    #[serde(default)]
    pub missing: Vec<String>,
    /// The pause in seconds that the error asks for.
    pub retry_after: Option<u64>,
}

fn default_image() -> String {
    "registry.test/team/app:1".into()
}

const fn default_status() -> u16 {
    200
}

impl FaultScenario {
    /// Reads all scenarios, sorted by name.
    pub fn all() -> Vec<Self> {
        let folder = root().join("tests/fault_registry/scenarios");
        let files = fs::read_dir(&folder).expect("the folder of scenarios");
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.sort();
        let read = |path: &std::path::PathBuf| {
            let text = fs::read_to_string(path).expect("a scenario");
            let mut scenario: Self = serde_yaml::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            scenario.name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            scenario
        };
        paths.iter().map(read).collect()
    }

    /// Returns the contents by name, as texts, in which digests are filled in.
    pub fn texts(&self) -> IndexMap<String, String> {
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"layer")]},
        });
        let image = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": "{config}", "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": Digest::of(b"stored layer"), "size": 12}],
        });
        let mut texts = IndexMap::new();
        for (name, content) in [("config", &config), ("image", &image)] {
            let text = fill_in(&content.to_string(), &texts);
            texts.insert(name.to_owned(), text);
        }
        // A content that names another one comes after it.
        let mut rest: Vec<_> = self.contents.iter().collect();
        while !rest.is_empty() {
            let is_open = |text: &str| {
                let known = rest.iter().map(|(name, _)| format!("{{{name}}}"));
                known.into_iter().any(|name| text.contains(&name))
            };
            let ready = rest.iter().position(|(_, content)| !is_open(&content.to_string()));
            let (name, content) = rest.remove(ready.expect("contents without a circle"));
            let text = fill_in(&content.to_string(), &texts);
            texts.insert(name.clone(), text);
        }
        texts
    }
}

/// Replaces `{name}` by the digest of that content.
pub fn fill_in(text: &str, contents: &IndexMap<String, String>) -> String {
    contents.iter().fold(text.to_owned(), |text, (name, content)| {
        text.replace(&format!("{{{name}}}"), Digest::of(content.as_bytes()).as_str())
    })
}
