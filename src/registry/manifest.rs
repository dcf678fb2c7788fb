//! Parsing of manifests, as far as a cascade reads them. No IO.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;

use crate::registry::{
    Digest, ManifestHead, Platform, json_values::check_values, platform::null_is_absent,
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

/// Media type of the configuration of an artifact that has none.
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";
/// How the media types of the configurations of other artifacts begin.
const OTHER_CONFIGS: [&str; 4] = [
    "application/vnd.cncf.",
    "application/vnd.dev.",
    "application/vnd.wasm.",
    "application/vnd.cyclonedx",
];

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
    #[serde(default, deserialize_with = "null_is_absent")]
    pub layers: Vec<Descriptor>,
    /// The annotations.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub annotations: BTreeMap<String, String>,
    /// The type of the artifact, if it names one.
    #[serde(default, rename = "artifactType")]
    pub artifact_type: Option<String>,
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

impl Manifest {
    /// Parses a manifest that a registry sent with this `Content-Type`. The error is a predicate
    /// whose subject is the registry.
    ///
    /// A body whose `mediaType` differs from its `Content-Type` is rejected, as the specification
    /// advises after CVE-2021-41190: two readers could interpret it as two different images.
    pub(super) fn parse(content_type: Option<&str>, bytes: Bytes) -> Result<Self, String> {
        check_values(&bytes, "a manifest")?;
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
        let served = content_type.map(normalized).filter(|served| is_manifest_type(served));
        let own = shape.media_type.as_deref();
        let media_type = match (own, served.as_deref()) {
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

    /// Returns what a `HEAD` would say of it.
    #[must_use]
    pub fn head(&self) -> ManifestHead {
        ManifestHead { digest: self.digest.clone(), media_type: Some(self.media_type.clone()) }
    }

    /// Returns the type of the artifact if it is no image.
    #[must_use]
    pub fn artifact_type(&self) -> Option<&str> {
        self.image().and_then(ImageManifest::foreign_type)
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

impl ImageManifest {
    /// Returns the type of the artifact if it is no image. Builders wrote other types of
    /// configurations than today's, so that only known artifacts count.
    fn foreign_type(&self) -> Option<&str> {
        let is_foreign = |artifact: &&str| !artifact.is_empty() && !CONFIG_TYPES.contains(artifact);
        let config = Some(self.config.media_type.as_str());
        let artifact = self.artifact_type.as_deref().filter(is_foreign);
        artifact.or(config.filter(|config| {
            *config == EMPTY_CONFIG || OTHER_CONFIGS.iter().any(|known| config.starts_with(known))
        }))
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

    /// Returns the index that lists the images of a platform, if this index lists one.
    #[must_use]
    pub fn nested_for(&self, platform: &Platform) -> Option<&IndexEntry> {
        let nested = self.images().filter(|entry| entry.is_index());
        best_image(nested.filter_map(|entry| Some((entry.platform.as_ref()?, entry))), platform)
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
    /// Whether the entry is another index.
    #[must_use]
    pub fn is_index(&self) -> bool {
        matches!(self.descriptor.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// Whether the entry is an image, and not another index or another artifact.
    #[must_use]
    pub fn is_image(&self) -> bool {
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

/// Returns a media type in lower case and without its parameters.
pub(super) fn normalized(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
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
}
