//! The first step of a build, in the build's own pod and from the operator's own image: `groundswell prepare`.
//!
//! It checks that the pod runs in the user namespace that the strategy asks for, writes the build context, holds the
//! Dockerfile against the declared edges, and writes the credentials and the registries' configuration for the builder.
//! What it refuses it says in its termination message, and the builder never starts.

pub mod refusal;
pub mod specification;
