//! Identity of images: by the content that a user can notice, and byte for byte. No IO.
//!
//! A rebuild from unchanged inputs still produces a different manifest digest, because its
//! annotations describe the build and its configuration contains the time. A cascade stops at an
//! image where only these have changed, so the comparison omits them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::registry::{
    Digest, HistoryStep, ImageConfig, ImageManifest, Platform, image_config::timestamp,
};

/// Keys of a configuration's `config` that builders fill with leftovers of the build container.
/// They have no effect on a user of the image. Every other key is part of the content: a cascade
/// that continues needlessly is better than one that stops wrongly.
const BUILDER_LEFTOVERS: [&str; 9] = [
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Hostname",
    "Image",
    "OpenStdin",
    "StdinOnce",
    "Tty",
];

/// An image for one platform: a single image, or an entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformImage {
    /// The platform according to the index, or to the image's own configuration if there is no
    /// index.
    pub platform: Platform,
    /// Whether the variant of the platform is named. A builder may write none into the
    /// configuration, which then says `linux/arm` for any variant of it.
    pub variant_is_named: bool,
    /// The image's manifest.
    pub manifest: ImageManifest,
    /// The image's configuration.
    pub config: ImageConfig,
}

impl PlatformImage {
    /// Returns whether the image is one for the `wanted` platform. An image that names no variant
    /// is one for any.
    #[must_use]
    pub fn is_for(&self, wanted: &Platform) -> bool {
        let Platform { os, architecture, .. } = &self.platform;
        self.platform.is_for(wanted)
            || !self.variant_is_named && (os, architecture) == (&wanted.os, &wanted.architecture)
    }
}

/// Two hashes of an image. Images with equal hashes are the same in that sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentIdentity {
    /// Hash of what a user can notice: platforms, files, runtime configuration and the commands of
    /// the history. It excludes times, other notes of the builder and annotations.
    pub content: Digest,
    /// Hash of the configurations and layers as they are stored: equal for images that are the same
    /// byte for byte, apart from annotations.
    pub blobs: Digest,
}

impl ContentIdentity {
    /// Returns the identity of an image with these platforms, in any order. An index of one
    /// platform has the same identity as its only image.
    #[must_use]
    pub fn of(images: &[PlatformImage]) -> Self {
        let blobs = |image: &PlatformImage| {
            let layers = image.manifest.layers.iter().map(|layer| layer.digest.as_str());
            std::iter::once(image.manifest.config.digest.as_str())
                .chain(layers)
                .collect::<Vec<_>>()
                .join(" ")
        };
        Self {
            content: hash_platforms(images, |image| image.config.content.to_string()),
            blobs: hash_platforms(images, blobs),
        }
    }
}

fn hash_platforms(images: &[PlatformImage], of: impl Fn(&PlatformImage) -> String) -> Digest {
    let mut lines: Vec<String> =
        images.iter().map(|image| format!("{} {}", image.platform, of(image))).collect();
    lines.sort();
    Digest::of(lines.join("\n").as_bytes())
}

/// The fields of an image's configuration that a user can notice.
#[derive(Deserialize)]
pub(super) struct ContentFields {
    #[serde(rename = "os.version")]
    os_version: Option<Value>,
    #[serde(rename = "os.features")]
    os_features: Option<Value>,
    config: Option<Value>,
    history: Option<Vec<HistoryEntry>>,
}

/// An entry of the history, without its author. Its time is not part of the content.
#[derive(Deserialize)]
struct HistoryEntry {
    created: Option<Value>,
    created_by: Option<Value>,
    #[serde(default)]
    empty_layer: bool,
}

impl ContentFields {
    /// Returns when the newest layer was created.
    pub(super) fn newest_layer(&self) -> Option<Timestamp> {
        let layers = self.history.iter().flatten().filter(|entry| !entry.empty_layer);
        layers.filter_map(|entry| timestamp(entry.created.as_ref()?)).max()
    }

    /// Returns the steps of the history.
    pub(super) fn steps(&self) -> Vec<HistoryStep> {
        let step = |entry: &HistoryEntry| HistoryStep {
            command: Digest::of(entry.created_by.as_ref().map_or("", text_of).as_bytes()),
            is_empty_layer: entry.empty_layer,
        };
        self.history.iter().flatten().map(step).collect()
    }

    /// Returns the instructions of `ONBUILD`. What is not a text is ignored: no builder accepts it.
    pub(super) fn triggers(&self) -> Vec<String> {
        let triggers = self.config.as_ref().and_then(|config| config.get("OnBuild"));
        let triggers = triggers.and_then(Value::as_array).into_iter().flatten();
        triggers.filter_map(|trigger| trigger.as_str().map(str::to_owned)).collect()
    }

    /// Returns the labels. What is no text is left out.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let labels = self.config.as_ref().and_then(|config| config.get("Labels")?.as_object());
        let texts = labels.into_iter().flatten();
        texts.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
    }

    /// Returns the hash of these fields together with the platform and the layers.
    pub(super) fn content_hash(&self, platform: &Platform, diff_ids: &[Digest]) -> Digest {
        let mut text = String::new();
        write_list(&mut text, [&Value::from(platform.to_string())]);
        write_list(
            &mut text,
            [self.os_version.as_ref(), self.os_features.as_ref()]
                .map(|value| value.unwrap_or(&Value::Null)),
        );
        write_list(
            &mut text,
            &diff_ids.iter().map(|layer| Value::from(layer.as_str())).collect::<Vec<_>>(),
        );
        match &self.config {
            Some(Value::Object(config)) => {
                let is_content = |(key, value): &(&String, &Value)| {
                    !BUILDER_LEFTOVERS.contains(&key.as_str()) && !is_unset(value)
                };
                write_object(&mut text, config.iter().filter(is_content));
            }
            other => write_value(&mut text, other.as_ref().unwrap_or(&Value::Null)),
        }
        for entry in self.history.iter().flatten() {
            write_list(
                &mut text,
                [
                    entry.created_by.as_ref().unwrap_or(&Value::Null),
                    &Value::from(entry.empty_layer),
                ],
            );
        }
        Digest::of(text.as_bytes())
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether a setting is equivalent to an absent one. Some builders write such settings and others
/// omit them.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Writes JSON with sorted keys and without blanks. The parser has already limited the depth.
fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Array(items) => write_list(text, items),
        Value::Object(fields) => write_object(text, fields.iter()),
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn write_list<'a>(text: &mut String, items: impl IntoIterator<Item = &'a Value>) {
    text.push('[');
    for item in items {
        write_value(text, item);
        text.push(',');
    }
    text.push(']');
}

fn write_object<'a>(text: &mut String, fields: impl Iterator<Item = (&'a String, &'a Value)>) {
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by_key(|(key, _)| *key);
    text.push('{');
    for (key, value) in fields {
        write_value(text, &Value::from(key.as_str()));
        text.push(':');
        write_value(text, value);
        text.push(',');
    }
    text.push('}');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::registry::Descriptor;

    fn configuration() -> Value {
        json!({
            "created": "2026-01-02T03:04:05Z", "author": "somebody",
            "os": "linux", "architecture": "amd64",
            "config": {
                "Env": ["PATH=/bin", "A=1"], "Entrypoint": ["/app"], "Cmd": ["-v"],
                "WorkingDir": "/", "User": "app",
                "ExposedPorts": { "80/tcp": {}, "443/tcp": {} },
                "Volumes": { "/data": {} }, "StopSignal": "SIGTERM",
                "Labels": { "b": "2", "a": "1" }, "Shell": ["/bin/sh"], "OnBuild": ["RUN x"],
                "Healthcheck": { "Test": ["CMD", "true"], "Interval": 30 },
            },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"1"), Digest::of(b"2")] },
            "history": [
                { "created": "2026-01-02T03:04:05Z", "created_by": "ADD rootfs.tar /" },
                { "created": "2026-01-02T03:04:06Z", "created_by": "CMD -v", "empty_layer": true },
            ],
        })
    }

    fn parse(configuration: &Value) -> ImageConfig {
        ImageConfig::parse(configuration.to_string().as_bytes()).expect("configuration")
    }

    #[test]
    fn labels_are_texts() {
        let mut configuration = configuration();
        configuration["config"]["Labels"]["c"] = json!(3);
        let expected = [("a", "1"), ("b", "2")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(parse(&configuration).labels, expected.into());
        configuration["config"]["Labels"] = Value::Null;
        assert!(parse(&configuration).labels.is_empty());
    }

    /// Returns the hash after the value at `pointer` has been replaced. A missing last segment is
    /// added.
    fn content(changes: &[(&str, Value)]) -> Digest {
        let mut changed = configuration();
        for (pointer, value) in changes {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            match changed.pointer_mut(parent).expect(pointer) {
                Value::Object(fields) => {
                    fields.insert(key.into(), value.clone());
                }
                Value::Array(items) => {
                    items[key.parse::<usize>().expect("an index")] = value.clone();
                }
                other => panic!("{other}"),
            }
        }
        parse(&changed).content
    }

    #[test]
    fn changes_that_no_user_notices_keep_the_content_hash() {
        for changes in [
            &[("/created", json!("2027-01-01T00:00:00Z"))][..],
            &[("/created", json!("never"))],
            &[("/author", json!("somebody else")), ("/docker_version", json!("29.0"))],
            &[
                ("/history/0/created", json!("2027-01-01T00:00:00Z")),
                ("/history/1/comment", json!("buildkit")),
            ],
            &[("/history/0/empty_layer", json!(false))],
            &[
                ("/container", json!("1234")),
                ("/container_config", json!({ "Cmd": ["x"] })),
                ("/id", json!("5")),
            ],
            &[("/moby.buildkit.buildinfo.v1", json!("e30="))],
            &[("/config/Hostname", json!("4a5b6c")), ("/config/Image", json!("sha256:5"))],
            &[
                ("/config/ArgsEscaped", json!(false)),
                ("/config/MacAddress", json!("")),
                ("/config/Tty", json!(true)),
            ],
            &[("/config/Labels", json!({ "a": "1", "b": "2" }))],
            &[("/architecture", json!("x86_64"))],
        ] {
            assert_eq!(content(changes), content(&[]), "{changes:?}");
        }
    }

    #[test]
    fn changes_that_a_user_notices_change_the_content_hash() {
        for (pointer, value) in [
            ("/os", json!("windows")),
            ("/architecture", json!("arm64")),
            ("/variant", json!("v3")),
            ("/os.version", json!("10.0.1")),
            ("/os.features", json!(["win32k"])),
            ("/config/Env/1", json!("A=2")),
            ("/config/Env", json!(["A=1", "PATH=/bin"])),
            ("/config/Entrypoint", json!(["/other"])),
            ("/config/Entrypoint", json!([])),
            ("/config/Cmd", json!(["-", "v"])),
            ("/config/WorkingDir", json!("/app")),
            ("/config/User", json!("")),
            ("/config/ExposedPorts", json!({ "80/tcp": {} })),
            ("/config/Volumes", json!({})),
            ("/config/StopSignal", json!("SIGKILL")),
            ("/config/Labels/a", json!("3")),
            ("/config/Labels/c", json!("")),
            ("/config/Shell", json!(["/bin/bash"])),
            ("/config/OnBuild", json!(["RUN y"])),
            ("/config/Healthcheck/Interval", json!(31)),
            ("/config/StopTimeout", json!(0)),
            ("/config/SomethingNew", json!("x")),
            ("/rootfs/diff_ids", json!([Digest::of(b"2"), Digest::of(b"1")])),
            ("/rootfs/diff_ids", json!([Digest::of(b"1")])),
            ("/history/0/created_by", json!("ADD other.tar /")),
            ("/history/0/empty_layer", json!(true)),
            ("/history", json!([])),
        ] {
            assert_ne!(content(&[(pointer, value.clone())]), content(&[]), "{pointer} = {value}");
        }
    }

    #[test]
    fn adjacent_values_are_kept_separate() {
        let env = |values: &[&str]| content(&[("/config/Env", json!(values))]);
        assert_ne!(env(&["a,b"]), env(&["a", "b"]));
        assert_ne!(env(&["a\",\"b"]), env(&["a", "b"]));
        assert_ne!(env(&["a"]), content(&[("/config/Env", json!("a"))]));
    }

    #[test]
    fn a_minimal_configuration_is_accepted() {
        let bare = parse(&json!({ "rootfs": { "diff_ids": [] } }));
        let null = json!({
            "os": "", "architecture": "", "config": null, "history": null,
            "rootfs": { "diff_ids": [] }
        });
        assert_eq!(bare.content, parse(&null).content);
        assert_ne!(bare.content, parse(&configuration()).content);
    }

    fn image(architecture: &str, env: &str, time: &str) -> PlatformImage {
        let mut configuration = configuration();
        configuration["architecture"] = json!(architecture);
        configuration["config"]["Env"] = json!([env]);
        configuration["created"] = json!(time);
        let (config, text) = (parse(&configuration), configuration.to_string());
        let descriptor = |content: &[u8]| Descriptor {
            digest: Digest::of(content),
            media_type: "application/octet-stream".into(),
            size: content.len() as u64,
        };
        PlatformImage {
            platform: config.platform.clone(),
            variant_is_named: config.variant_is_named,
            manifest: ImageManifest {
                config: descriptor(text.as_bytes()),
                layers: vec![descriptor(b"1 compressed"), descriptor(b"2 compressed")],
                annotations: [("made.at".to_owned(), time.to_owned())].into(),
                artifact_type: None,
            },
            config,
        }
    }

    #[test]
    fn an_image_without_a_variant_is_for_any_variant() {
        let unnamed = image("arm", "A=1", "2026-01-01T00:00:00Z");
        let named = PlatformImage { variant_is_named: true, ..unnamed.clone() };
        for (wanted, of_unnamed, of_named) in [
            ("linux/arm/v5", true, false),
            ("linux/arm/v6", true, false),
            ("linux/arm", true, true),
            ("linux/arm64", false, false),
        ] {
            let wanted = Platform::from_user(wanted).expect("a platform");
            assert_eq!(unnamed.is_for(&wanted), of_unnamed, "{wanted}");
            assert_eq!(named.is_for(&wanted), of_named, "{wanted}");
        }
    }

    #[test]
    fn blobs_are_compared_byte_for_byte_and_without_annotations() {
        let (one, later) = (
            image("amd64", "A=1", "2026-01-01T00:00:00Z"),
            image("amd64", "A=1", "2026-02-01T00:00:00Z"),
        );
        let annotated = PlatformImage {
            manifest: ImageManifest {
                annotations: later.manifest.annotations.clone(),
                ..one.manifest.clone()
            },
            ..one.clone()
        };
        let identity = |image: &PlatformImage| ContentIdentity::of(std::slice::from_ref(image));
        assert_eq!(identity(&annotated), identity(&one));
        assert_eq!(identity(&later).content, identity(&one).content);
        assert_ne!(identity(&later).blobs, identity(&one).blobs);
        let mut recompressed = one.clone();
        recompressed.manifest.layers[1].digest = Digest::of(b"2 compressed more");
        assert_eq!(identity(&recompressed).content, identity(&one).content);
        assert_ne!(identity(&recompressed).blobs, identity(&one).blobs);
    }

    #[test]
    fn the_order_of_platforms_in_an_index_does_not_matter() {
        let (amd, arm) = (
            image("amd64", "A=1", "2026-01-01T00:00:00Z"),
            image("arm64", "A=1", "2026-01-01T00:00:00Z"),
        );
        let both = ContentIdentity::of(&[amd.clone(), arm.clone()]);
        assert_eq!(ContentIdentity::of(&[arm.clone(), amd.clone()]), both);
        let other = image("arm64", "A=2", "2026-01-01T00:00:00Z");
        for images in [&[amd.clone()][..], &[amd.clone(), other], &[amd.clone(), amd], &[]] {
            let identity = ContentIdentity::of(images);
            assert_ne!(identity.content, both.content);
            assert_ne!(identity.blobs, both.blobs);
        }
    }
}
