//! Everything that is said to an OCI registry.
