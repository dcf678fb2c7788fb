//! What a failed call means to a person who reads a status.

use crate::{
    api::condition::{Problem, reason},
    registry::{ParseDigestError, ParseReferenceError, RegistryError},
};

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

impl From<ParseReferenceError> for Problem {
    fn from(error: ParseReferenceError) -> Self {
        Self { reason: reason::INVALID_SPEC, message: error.to_string() }
    }
}

impl From<ParseDigestError> for Problem {
    fn from(error: ParseDigestError) -> Self {
        Self { reason: reason::INVALID_SPEC, message: error.to_string() }
    }
}
