//! Parsing of manifests and image configurations, as far as a cascade reads them. No IO.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;

use crate::registry::{
    Digest, Platform,
    content::ContentFields,
    platform::{RawPlatform, null_is_absent},
};

/// Media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of Docker's manifest list, its form of an index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of Docker's image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media types of an image's configuration. An entry of an index with another type of artifact is
/// no image.
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Describes content by its media type, size and digest.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The digest of the content.
    pub digest: Digest,
    /// The media type.
    pub media_type: String,
    /// The size of the content in bytes.
    pub size: u64,
}

/// A manifest as the registry stores it, together with its parsed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The digest of `bytes`, computed by the client.
    pub digest: Digest,
    /// The media type.
    pub media_type: String,
    /// The exact bytes. Pushing them unchanged keeps the digest.
    pub bytes: Bytes,
    /// The parsed form.
    pub kind: ManifestKind,
}

/// The kind of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image.
    Image(ImageManifest),
    /// One image per platform.
    Index(Index),
}

/// The manifest of one image.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ImageManifest {
    /// The descriptor of the image's configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// The annotations.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of images by platform.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The entries, including attestations. An entry that cannot be read is left out: it is none
    /// that can be built from.
    #[serde(deserialize_with = "readable_entries")]
    pub manifests: Vec<IndexEntry>,
    /// The annotations.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub annotations: BTreeMap<String, String>,
}

/// An entry of an [`Index`].
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The descriptor of the listed manifest.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// The platform of the listed image. Attestations have the platform `unknown/unknown`.
    pub platform: Option<Platform>,
    /// The type of the artifact, if the entry is none of an image.
    #[serde(rename = "artifactType")]
    pub artifact_type: Option<String>,
}

/// An image of an index that names its platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformEntry {
    /// The platform.
    pub platform: Platform,
    /// The digest of the image.
    pub digest: Digest,
}

/// The part of an image's configuration that a cascade reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// When the image was created, if the configuration says so.
    pub created: Option<Timestamp>,
    /// When the newest of its layers was created, if the history says so.
    pub newest_layer: Option<Timestamp>,
    /// The instructions that run in a build on this image: `ONBUILD`.
    pub triggers: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The platform that the image runs on.
    pub platform: Platform,
    /// Whether the configuration names the variant of the platform.
    pub variant_is_named: bool,
    /// The digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// Hash of what a user can notice of the image; see
    /// [`ContentIdentity::content`](crate::registry::ContentIdentity::content).
    pub content: Digest,
}

impl Manifest {
    /// Parses a manifest that a registry sent with this `Content-Type`. The error is a predicate
    /// whose subject is the registry.
    ///
    /// A body whose `mediaType` differs from its `Content-Type` is rejected, as the specification
    /// advises after CVE-2021-41190: two readers could interpret it as two different images.
    pub(super) fn parse(content_type: Option<&str>, bytes: Bytes) -> Result<Self, String> {
        let shape: ManifestShape = serde_json::from_slice(&bytes).map_err(|error| {
            format!(
                "sent a body that is not a manifest (invalid JSON at line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        if shape.schema_version != 2 {
            return Err(format!(
                "sent a manifest of schema version {}, but only version 2 is supported",
                shape.schema_version
            ));
        }
        let served = content_type.map(without_parameters).filter(|served| is_manifest_type(served));
        let own = shape.media_type.as_deref();
        let media_type = match (own, served) {
            (Some(own), Some(served)) if own != served => {
                return Err(format!("sent a manifest as {served} whose mediaType is {own}"));
            }
            (Some(own), _) => own,
            (None, Some(served)) => served,
            (None, None) if shape.manifests.is_some() => OCI_INDEX,
            (None, None) => OCI_MANIFEST,
        };
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err("sent a manifest that is both an image and an index".into());
        }
        let malformed = |error: serde_json::Error| {
            format!(
                "sent a malformed {media_type} (line {}, column {})",
                error.line(),
                error.column()
            )
        };
        let kind = match media_type {
            OCI_INDEX | DOCKER_LIST => {
                ManifestKind::Index(serde_json::from_slice(&bytes).map_err(malformed)?)
            }
            OCI_MANIFEST | DOCKER_MANIFEST => {
                ManifestKind::Image(serde_json::from_slice(&bytes).map_err(malformed)?)
            }
            other => return Err(format!("sent a manifest of the unknown type {other}")),
        };
        Ok(Self { digest: Digest::of(&bytes), media_type: media_type.into(), kind, bytes })
    }

    /// Returns the manifest's annotations.
    #[must_use]
    pub const fn annotations(&self) -> &BTreeMap<String, String> {
        match &self.kind {
            ManifestKind::Image(image) => &image.annotations,
            ManifestKind::Index(index) => &index.annotations,
        }
    }

    /// Returns the image manifest, or `None` for an index.
    #[must_use]
    pub const fn image(&self) -> Option<&ImageManifest> {
        match &self.kind {
            ManifestKind::Image(image) => Some(image),
            ManifestKind::Index(_) => None,
        }
    }
}

impl Index {
    /// Returns the entries without attestations.
    pub fn images(&self) -> impl Iterator<Item = &IndexEntry> {
        let is_image = |entry: &&IndexEntry| {
            entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
        };
        self.manifests.iter().filter(is_image)
    }

    /// Returns the image that a build for a platform uses: the first one of that platform, or else
    /// of the highest lower variant of its architecture, as `BuildKit` chooses it.
    #[must_use]
    pub fn image_for(&self, platform: &Platform) -> Option<&IndexEntry> {
        let images = self.images().filter(|entry| entry.is_image());
        best_image(images.filter_map(|entry| Some((entry.platform.as_ref()?, entry))), platform)
    }

    /// Returns the images that name their platform, the first of each platform.
    #[must_use]
    pub fn platform_entries(&self) -> Vec<PlatformEntry> {
        let mut entries: Vec<PlatformEntry> = Vec::new();
        let mut known = HashSet::new();
        for entry in self.manifests.iter().filter(|entry| entry.is_image()) {
            let platform = entry.platform.as_ref().filter(|platform| platform.is_known());
            if let Some(platform) = platform.filter(|platform| known.insert(*platform)) {
                let digest = entry.descriptor.digest.clone();
                entries.push(PlatformEntry { platform: platform.clone(), digest });
            }
        }
        entries
    }

    /// Returns the sorted platforms of the entries, without attestations.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<_> =
            self.images().filter_map(|entry| entry.platform.clone()).collect();
        platforms.sort();
        platforms.dedup();
        platforms
    }
}

impl IndexEntry {
    /// Whether the entry is an image, and not another index or another artifact.
    fn is_image(&self) -> bool {
        let artifact = self.artifact_type.as_deref().filter(|artifact| !artifact.is_empty());
        matches!(self.descriptor.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
            && artifact.is_none_or(|artifact| CONFIG_TYPES.contains(&artifact))
    }
}

/// Returns the image that a build for a platform uses; see [`Index::image_for`].
#[must_use]
pub fn image_of<'e>(entries: &'e [PlatformEntry], platform: &Platform) -> Option<&'e Digest> {
    best_image(entries.iter().map(|entry| (&entry.platform, &entry.digest)), platform)
}

/// Returns the first of the images of a platform, or else of the highest lower variant of its
/// architecture.
fn best_image<'e, T>(
    images: impl Iterator<Item = (&'e Platform, T)>,
    platform: &Platform,
) -> Option<T> {
    let suitable = images.filter(|(offered, _)| {
        (&offered.os, &offered.architecture) == (&platform.os, &platform.architecture)
            && offered.variant <= platform.variant
    });
    suitable.min_by_key(|(offered, _)| Reverse(&offered.variant)).map(|(_, image)| image)
}

/// Reads the entries of an index that can be read.
fn readable_entries<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<IndexEntry>, D::Error> {
    let entries: Vec<Value> = null_is_absent(deserializer)?;
    Ok(entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect())
}

impl ImageConfig {
    /// Parses a configuration blob. The error is a predicate whose subject is the registry.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let config: ConfigShape = serde_json::from_slice(bytes).map_err(|error| {
            format!(
                "sent a malformed image configuration (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let variant = config.platform.variant.as_deref();
        let variant_is_named = variant.is_some_and(|variant| !variant.is_empty());
        let platform = Platform::from(config.platform);
        Ok(Self {
            created: config.created.as_ref().and_then(timestamp),
            newest_layer: config.content_fields.newest_layer(),
            triggers: config.content_fields.triggers(),
            labels: config.content_fields.labels(),
            content: config.content_fields.content_hash(&platform, &config.rootfs.diff_ids),
            platform,
            variant_is_named,
            diff_ids: config.rootfs.diff_ids,
        })
    }
}

/// The fields of a body that determine what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestShape {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct ConfigShape {
    created: Option<Value>,
    #[serde(flatten)]
    platform: RawPlatform,
    #[serde(flatten)]
    content_fields: ContentFields,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// Returns a time that a configuration contains. What is not a time is no reason to reject an
/// image.
pub(super) fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Returns a media type without its parameters.
pub(super) fn without_parameters(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether this is the media type of a manifest that the client can parse.
pub(super) fn is_manifest_type(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":2}}"#)
    }

    fn image(media_type: &str) -> String {
        let part = descriptor("application/vnd.oci.image.config.v1+json");
        format!(r#"{{"schemaVersion":2{media_type},"config":{part},"layers":[{part}],"#)
            + r#""annotations":{"a":"b"}}"#
    }

    fn parse(content_type: Option<&str>, body: &str) -> Result<Manifest, String> {
        Manifest::parse(content_type, Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn the_media_type_comes_from_the_body_or_the_header() {
        for (content_type, own) in [
            (Some(OCI_MANIFEST), String::new()),
            (Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"), String::new()),
            (Some("application/json"), format!(r#","mediaType":"{OCI_MANIFEST}""#)),
            (None, String::new()),
        ] {
            let manifest = parse(content_type, &image(&own)).expect("manifest");
            assert_eq!(manifest.media_type, OCI_MANIFEST);
            assert_eq!(manifest.annotations().get("a").map(String::as_str), Some("b"));
            assert_eq!(manifest.image().map(|image| image.layers.len()), Some(1));
            assert_eq!(manifest.digest, Digest::of(&manifest.bytes));
        }
    }

    #[test]
    fn the_platforms_of_an_index_exclude_attestations() {
        let entry = |platform: &str| {
            format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{DIGEST}","size":2,"#)
                + &format!(r#""platform":{platform}}}"#)
        };
        let entries = [
            entry(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#),
            entry(r#"{"os":"linux","architecture":"amd64","os.version":"1"}"#),
            entry(r#"{"os":"unknown","architecture":"unknown"}"#),
        ];
        let body = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let manifest = parse(Some(OCI_INDEX), &body).expect("index");
        let ManifestKind::Index(index) = &manifest.kind else { panic!("{manifest:?}") };
        let platforms: Vec<String> = index.platforms().iter().map(ToString::to_string).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
        assert_eq!(manifest.image(), None);
    }

    #[test]
    fn a_build_uses_the_image_of_its_platform_or_of_a_lower_variant() {
        let entry = |(architecture, variant, name): (&str, &str, &str)| {
            let digest = Digest::of(name.as_bytes());
            serde_json::json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 2,
                "platform": {"os": "linux", "architecture": architecture, "variant": variant}})
        };
        let images = [
            ("arm", "v5", "v5"),
            ("arm", "v7", "v7"),
            ("amd64", "v3", "amd v3"),
            ("amd64", "", "amd"),
            ("amd64", "", "another"),
        ];
        let body = serde_json::json!({"schemaVersion": 2, "manifests": images.map(entry)});
        let manifest = parse(Some(OCI_INDEX), &body.to_string()).expect("index");
        let ManifestKind::Index(index) = &manifest.kind else { panic!("{manifest:?}") };
        for (wanted, expected) in [
            ("linux/amd64", Some("amd")),
            ("linux/amd64/v2", Some("amd")),
            ("linux/amd64/v3", Some("amd v3")),
            ("linux/arm", Some("v7")),
            ("linux/arm/v6", Some("v5")),
            ("linux/arm64", None),
            ("windows/amd64", None),
        ] {
            let Ok(platform) = wanted.parse();
            let found = index.image_for(&platform).map(|entry| entry.descriptor.digest.clone());
            assert_eq!(found, expected.map(|name| Digest::of(name.as_bytes())), "{wanted}");
        }
    }

    #[test]
    fn invalid_manifests_are_rejected() {
        let own = |media_type| format!(r#","mediaType":"{media_type}""#);
        for (content_type, body, problem) in [
            (None, "<html>".to_owned(), "not a manifest"),
            (None, "[]".to_owned(), "not a manifest"),
            (None, r#"{"schemaVersion":1}"#.to_owned(), "schema version 1"),
            (Some(OCI_INDEX), image(&own(OCI_MANIFEST)), "whose mediaType is"),
            (None, image(&own("text/plain")), "unknown type text/plain"),
            (
                None,
                image("").replace("\"layers\"", "\"manifests\":[],\"layers\""),
                "both an image and an index",
            ),
            (Some(OCI_MANIFEST), r#"{"schemaVersion":2}"#.to_owned(), "malformed"),
            (None, image("").replace(DIGEST, "md5:12"), "malformed"),
            (None, image("").replace("\"size\":2", "\"size\":-1"), "malformed"),
        ] {
            let error = parse(content_type, &body).expect_err(&body);
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn the_newest_layer_is_found_in_the_history() {
        let body = serde_json::json!({
            "created": "2026-05-01T00:00:00Z",
            "rootfs": { "type": "layers", "diff_ids": [] },
            "history": [
                { "created": "2026-01-01T00:00:00Z" },
                { "created": "2026-03-01T01:00:00+01:00" },
                { "created": "never" },
                { "created": 5 },
                {},
                { "created": "2026-04-01T00:00:00Z", "empty_layer": true },
            ],
        });
        let config = ImageConfig::parse(body.to_string().as_bytes()).expect("config");
        assert_eq!(config.newest_layer, Some("2026-03-01T00:00:00Z".parse().expect("time")));
    }

    #[test]
    fn a_configuration_is_parsed() {
        let body = serde_json::json!({
            "created": "2026-01-02T03:04:05Z",
            "os": "linux", "architecture": "arm", "variant": "v7",
            "config": { "OnBuild": ["COPY --from=build /a /a", 5] },
            "rootfs": { "type": "layers", "diff_ids": [DIGEST] }, "history": [],
        })
        .to_string();
        let config = ImageConfig::parse(body.as_bytes()).expect("config");
        assert_eq!(config.created, Some("2026-01-02T03:04:05Z".parse().expect("time")));
        assert_eq!(config.platform.to_string(), "linux/arm/v7");
        assert_eq!(config.diff_ids.len(), 1);
        assert_eq!(config.triggers, ["COPY --from=build /a /a"]);
        for hostile in [
            "\"never\"",
            "\"\"",
            "\"292277026596-12-04T15:30:08Z\"",
            "\"-9999999-01-01T00:00:00Z\"",
            "1767323045",
            "1e999",
            "{\"a\":[]}",
            "null",
        ] {
            let body = body.replace("\"2026-01-02T03:04:05Z\"", hostile);
            let config = ImageConfig::parse(body.as_bytes());
            if hostile == "1e999" {
                assert!(config.is_err(), "no JSON number");
                continue;
            }
            let config = config.expect(hostile);
            assert_eq!((config.created, config.newest_layer), (None, None), "{hostile}");
        }
        assert!(ImageConfig::parse(b"{}").is_err());
    }
}
