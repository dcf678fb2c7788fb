//! Git sources that are looked up later than their interval asks for.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of entries of [`ImageFamilyStatus::late_sources`].
///
/// [`ImageFamilyStatus::late_sources`]: crate::api::ImageFamilyStatus::late_sources
pub const MAX_LATE_SOURCES: usize = 16;

/// Maximum number of characters of [`LateSource::message`].
pub const MAX_LATE_SOURCE_MESSAGE: usize = 256;

/// Git source whose next poll is more than a minute later than its `interval` asks for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct LateSource {
    /// URL of the repository.
    pub url: String,

    /// Branch or tag that is looked up.
    pub revision: String,

    /// Time at which it is looked up next. It is an estimate, and not set again before it has
    /// passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub next_poll: Option<Timestamp>,

    /// Reason constant of the last poll, if it has failed. Images are built from what an earlier
    /// one has read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Human-readable explanation of `reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
