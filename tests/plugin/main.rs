//! Runs the plugin as a user does, on files: its output, its exit codes, and what it makes of bad
//! input. Needs nothing but the binary.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports what is wrong by failing")]

mod api_server;
mod audit;
mod completion;
mod contents;
mod discover;
mod documents;
mod graph;
mod history;
mod impact;
mod import;
mod input;
mod krew;
mod lint;
mod online;
mod outdated;
mod plan;
mod runs;
mod ui;
mod why;

/// It is that of the unit tests, which use all of it.
#[allow(dead_code, reason = "the unit tests use the rest")]
#[path = "../../src/bin/kubectl-family/registry_images/test_registry.rs"]
mod test_registry;
