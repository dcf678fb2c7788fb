//! Adoption: how a family begins with images that exist already.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum length of [`AdoptionRecord::mismatch`] in characters.
pub const MAX_MISMATCH: usize = 400;

/// How a family begins with the images that its tags point to, instead of building each one.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// What happens to an image that cannot be adopted as current, because it has no floating tag,
    /// because its tags point to different images, or because it is not built on the current digest
    /// of its base. `Wait` leaves it as it is until one of its inputs changes or a user requests a
    /// build. `Build` builds it. Defaults to `Wait`.
    #[serde(default)]
    pub unmatched: Unmatched,
}

/// What happens to an image that cannot be adopted as current.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unmatched {
    /// It stays as it is until one of its inputs changes or a user requests a build.
    #[default]
    Wait,
    /// It is built.
    Build,
}

/// That a digest was adopted from the registry.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct AdoptionRecord {
    /// Time of the adoption.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,

    /// Why the image is not known to be built on its base. Not set if it is. At most 400
    /// characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,
}
