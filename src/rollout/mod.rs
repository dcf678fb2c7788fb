//! Moving workloads to a promoted digest.
