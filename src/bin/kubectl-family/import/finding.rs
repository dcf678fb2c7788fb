//! What an import could not use, and why.

use std::fmt;

use serde::Serialize;

/// Something that the import could not use. It names a file, and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ImportFinding {
    /// The file, with the line if it is known, or the image.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl ImportFinding {
    pub fn new(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into() }
    }
}

impl fmt::Display for ImportFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
