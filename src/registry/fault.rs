//! What a failed call means to a person who reads a status.

use super::{Error, ParseDigestError, ParseReferenceError};
use crate::api::condition::{Fault, reason};

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

impl From<ParseReferenceError> for Fault {
    fn from(error: ParseReferenceError) -> Self {
        Self { reason: reason::INVALID_SPEC, message: error.to_string() }
    }
}

impl From<ParseDigestError> for Fault {
    fn from(error: ParseDigestError) -> Self {
        Self { reason: reason::INVALID_SPEC, message: error.to_string() }
    }
}
