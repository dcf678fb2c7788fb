//! Parsing of image configurations, as far as a cascade reads them. No IO.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::registry::{
    Digest, Platform,
    content::ContentFields,
    json_values::check_values,
    platform::{RawPlatform, null_is_absent},
};

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
    /// The steps that made the image, the first one first. Builders may omit them.
    pub history: Vec<HistoryStep>,
    /// Its size in bytes.
    pub size: usize,
    /// Hash of what a user can notice of the image; see
    /// [`ContentIdentity::content`](crate::registry::ContentIdentity::content).
    pub content: Digest,
}

/// A step that made an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryStep {
    /// Hash of the step's command.
    pub command: Digest,
    /// Whether the step has made no layer.
    pub is_empty_layer: bool,
}

impl ImageConfig {
    /// Parses a configuration blob. The error is a predicate whose subject is the registry.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        check_values(bytes, "an image configuration")?;
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
            history: config.content_fields.steps(),
            content: config.content_fields.content_hash(&platform, &config.rootfs.diff_ids),
            platform,
            size: bytes.len(),
            variant_is_named,
            diff_ids: config.rootfs.diff_ids,
        })
    }
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
    #[serde(default, deserialize_with = "null_is_absent")]
    diff_ids: Vec<Digest>,
}

/// Returns a time that a configuration contains. What is not a time is no reason to reject an
/// image.
pub(super) fn timestamp(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

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
