//! Why an index cannot be used.

/// Why an index cannot be used. Each is a sentence about its URL, which has no credential. What an
/// image is behind is not known then: it is never an empty index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// No response, or one that broke off.
    #[error("{url} cannot be read: {problem}")]
    Unreachable {
        /// The URL.
        url: String,
        /// What has happened.
        problem: String,
    },
    /// The repository does not have it, or does not let us read it.
    #[error("{url} cannot be read: the server responds with {status}")]
    Status {
        /// The URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// It was valid until a time that has passed.
    #[error(
        "{url} has expired: it was valid until {valid_until}; its mirror lags or is frozen, so \
         that newer packages may exist"
    )]
    Expired {
        /// The URL.
        url: String,
        /// Until when it was valid.
        valid_until: String,
    },
    /// It has another size or hash than the file that lists it says.
    #[error("{url} is not what its repository lists: {problem}; its mirror may be changing")]
    Mismatch {
        /// The URL.
        url: String,
        /// What differs.
        problem: String,
    },
    /// It is in no format that is read, or exceeds a bound.
    #[error("{url} {problem}")]
    Malformed {
        /// The URL.
        url: String,
        /// A predicate.
        problem: String,
    },
    /// It has no signature, although the image has keys.
    #[error("{url} is not signed; it is not used, as the package manager of the image would not")]
    Unsigned {
        /// The URL.
        url: String,
    },
    /// No key of the image has signed it.
    #[error("{url} is not signed by a key of the image ({problem}); it is not used")]
    OtherKey {
        /// The URL.
        url: String,
        /// What was found.
        problem: String,
    },
}

impl IndexError {
    /// Returns the error of an index that cannot be read as one.
    pub(super) fn malformed(url: &str, problem: impl Into<String>) -> Self {
        Self::Malformed { url: url.to_owned(), problem: problem.into() }
    }

    /// Returns the error of a file that is not what its repository lists.
    pub(super) fn mismatch(url: &str, problem: impl Into<String>) -> Self {
        Self::Mismatch { url: url.to_owned(), problem: problem.into() }
    }
}
