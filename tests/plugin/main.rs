//! Runs the plugin as a user does, on files: its output, its exit codes, and what it makes of bad
//! input. Needs nothing but the binary.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports what is wrong by failing")]

mod discover;
mod graph;
mod impact;
mod import;
mod input;
mod plan;
mod runs;
mod why;
