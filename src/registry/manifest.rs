//! Manifests and image configurations, as far as a cascade reads them. Parsing only, no IO.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use crate::registry::{Digest, Platform, content::ContentFields};

/// Media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of Docker's form of an index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of Docker's form of an image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Names some content: what it is, how large, and its digest.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The digest of the content.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
}

/// A manifest as the registry keeps it, with what was read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The digest of `bytes`, computed here.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// The exact bytes: pushed again unchanged, they keep the digest.
    pub bytes: Bytes,
    /// What it says.
    pub kind: ManifestKind,
}

/// What a manifest describes.
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
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A list of images by platform.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// What it lists.
    pub manifests: Vec<IndexEntry>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// An entry of an [`Index`].
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The manifest that it lists.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// The platform that it is for. Attestations are listed with the platform `unknown/unknown`.
    pub platform: Option<Platform>,
}

/// What a cascade reads of an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// When the image was made, if it says so.
    pub created: Option<Timestamp>,
    /// The platform that it runs on.
    pub platform: Platform,
    /// The digests of its layers, uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// Hash of what a user would notice of the image: see
    /// [`ContentIdentity::content`](crate::registry::ContentIdentity::content).
    pub content: Digest,
}

impl Manifest {
    /// Reads a manifest that a registry sent with this `Content-Type`. The error says what is wrong
    /// with it, as the end of a sentence about the registry.
    ///
    /// A body that calls itself one thing and came as another is refused, as the specification
    /// advises after CVE-2021-41190: two readers could take it for two different images.
    pub(super) fn parse(content_type: Option<&str>, bytes: Bytes) -> Result<Self, String> {
        let shape: ManifestShape = serde_json::from_slice(&bytes).map_err(|error| {
            format!(
                "sends something that is not a manifest (not JSON of that form, line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        if shape.schema_version != 2 {
            return Err(format!(
                "sends a manifest of schema version {}, and only 2 is known",
                shape.schema_version
            ));
        }
        let served = content_type.map(without_parameters).filter(|served| is_manifest_type(served));
        let own = shape.media_type.as_deref();
        let media_type = match (own, served) {
            (Some(own), Some(served)) if own != served => {
                return Err(format!("sends a manifest as {served} that calls itself {own}"));
            }
            (Some(own), _) => own,
            (None, Some(served)) => served,
            (None, None) if shape.manifests.is_some() => OCI_INDEX,
            (None, None) => OCI_MANIFEST,
        };
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err("sends a manifest that is an image and an index at once".into());
        }
        let malformed = |error: serde_json::Error| {
            format!(
                "sends a malformed {media_type} (line {}, column {})",
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
            other => return Err(format!("sends a manifest of the unknown type {other}")),
        };
        Ok(Self { digest: Digest::of(&bytes), media_type: media_type.into(), kind, bytes })
    }

    /// The manifest's annotations.
    #[must_use]
    pub const fn annotations(&self) -> &BTreeMap<String, String> {
        match &self.kind {
            ManifestKind::Image(image) => &image.annotations,
            ManifestKind::Index(index) => &index.annotations,
        }
    }

    /// What it says of one image, unless it is an index.
    #[must_use]
    pub const fn image(&self) -> Option<&ImageManifest> {
        match &self.kind {
            ManifestKind::Image(image) => Some(image),
            ManifestKind::Index(_) => None,
        }
    }
}

impl Index {
    /// What it lists, without attestations.
    pub fn images(&self) -> impl Iterator<Item = &IndexEntry> {
        let is_image = |entry: &&IndexEntry| {
            entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
        };
        self.manifests.iter().filter(is_image)
    }

    /// The platforms that it offers, sorted, without attestations.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<_> =
            self.images().filter_map(|entry| entry.platform.clone()).collect();
        platforms.sort();
        platforms.dedup();
        platforms
    }
}

impl ImageConfig {
    /// Reads a configuration blob. The error says what is wrong with it, as the end of a sentence
    /// about the registry.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let config: ConfigShape = serde_json::from_slice(bytes).map_err(|error| {
            format!(
                "sends a malformed image configuration (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        Ok(Self {
            created: config.created.and_then(|text| text.parse().ok()),
            content: config.content_fields.hash(&config.platform, &config.rootfs.diff_ids),
            platform: config.platform,
            diff_ids: config.rootfs.diff_ids,
        })
    }
}

/// Just enough of a body to know what it is.
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
    created: Option<String>,
    #[serde(flatten)]
    platform: Platform,
    #[serde(flatten)]
    content_fields: ContentFields,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// A media type without parameters.
pub(super) fn without_parameters(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether it is the media type of a manifest that we read.
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
        format!(
            r#"{{"schemaVersion":2{media_type},"config":{part},"layers":[{part}],"annotations":{{"a":"b"}}}}"#
        )
    }

    fn parse(content_type: Option<&str>, body: &str) -> Result<Manifest, String> {
        Manifest::parse(content_type, Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn images() {
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
    fn indexes() {
        let entry = |platform: &str| {
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{DIGEST}","size":2,"platform":{platform}}}"#
            )
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
    fn garbage() {
        let own = |media_type| format!(r#","mediaType":"{media_type}""#);
        for (content_type, body, problem) in [
            (None, "<html>".to_owned(), "not a manifest"),
            (None, "[]".to_owned(), "not a manifest"),
            (None, r#"{"schemaVersion":1}"#.to_owned(), "schema version 1"),
            (Some(OCI_INDEX), image(&own(OCI_MANIFEST)), "calls itself"),
            (None, image(&own("text/plain")), "unknown type text/plain"),
            (
                None,
                image("").replace("\"layers\"", "\"manifests\":[],\"layers\""),
                "an image and an index at once",
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
    fn configurations() {
        let body = format!(
            r#"{{"created":"2026-01-02T03:04:05Z","os":"linux","architecture":"arm","variant":"v7","rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[]}}"#
        );
        let config = ImageConfig::parse(body.as_bytes()).expect("config");
        assert_eq!(config.created, Some("2026-01-02T03:04:05Z".parse().expect("time")));
        assert_eq!(config.platform.to_string(), "linux/arm/v7");
        assert_eq!(config.diff_ids.len(), 1);
        assert_eq!(
            ImageConfig::parse(body.replace("2026-01-02T", "x").as_bytes())
                .expect("config")
                .created,
            None
        );
        assert!(ImageConfig::parse(b"{}").is_err());
    }
}
