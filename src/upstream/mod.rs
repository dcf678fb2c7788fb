//! Following upstream tags and source revisions.
