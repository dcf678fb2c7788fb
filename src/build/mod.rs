//! From an image and its inputs to a Job, and from a finished Job to a result.
