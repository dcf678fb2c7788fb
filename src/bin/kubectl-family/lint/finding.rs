//! What a rule has found.

use schemars::JsonSchema;
use serde::Serialize;

/// How much a finding matters.
#[derive(JsonSchema, Serialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something is wrong, or will be.
    Error,
    /// Something costs size, time or safety.
    Warning,
    /// Something may be intended.
    Note,
}

impl Level {
    /// Returns the level as SARIF writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding.
#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LintFinding {
    /// The image or the upstream, as `namespace/family/name`.
    pub subject: String,
    /// The Dockerfile, relative to the checkout. Not set for an inline Dockerfile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line of the Dockerfile, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The id of the rule.
    pub rule: &'static str,
    pub level: Level,
    /// What is wrong, and what to do.
    pub message: String,
}
