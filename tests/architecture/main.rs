//! What CONTRIBUTING.md says about the code, checked: which module may use which ([`arrows`]),
//! which words are in use ([`words`]), and what types, signatures and lines look like ([`style`]).
//!
//! Needs nothing but the sources.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports what is wrong by failing")]

mod arrows;
mod sources;
mod style;
mod words;
