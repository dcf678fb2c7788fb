//! Adoption: how a family begins with images that exist already.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum length of [`AdoptionRecord::mismatch`] in characters.
pub const MAX_MISMATCH: usize = 400;
/// Maximum number of entries of [`AdoptionRecord::platforms`].
pub const MAX_LOST_PLATFORMS: usize = 16;

/// How a family begins with the images that its tags point to, instead of building each one.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// What happens to an image that cannot be adopted as current, because it has no floating tag,
    /// because its tags point to different images, because it is not built on the current digest of
    /// its base, or because it offers platforms that the family does not build. `Wait` leaves it as
    /// it is until one of its inputs changes or a user requests a build; an image whose platforms a
    /// build would take away waits for the user. `Build` builds it. Defaults to `Wait`.
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
    /// Digest that was adopted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,

    /// Time of the adoption.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,

    /// Why the image is not known to be built on its base. Not set if it is. At most 400
    /// characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,

    /// Platforms of the image that a rebuild would take away, because the family does not build
    /// them. An image with such platforms is not rebuilt when an input changes. At most 16 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub platforms: Vec<String>,
}
