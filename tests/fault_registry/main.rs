//! The registry client against registries that misbehave as real ones do: one small file per
//! scenario, in `scenarios`, lists the requests that are expected, the raw responses, and what the
//! client concludes. No sockets are used, and time is virtual.
//!
//! To add a scenario, add a file; `scenario.rs` documents its fields. The table in
//! `docs/registry-scenarios.md` is written by `GENERATE=1 cargo test --test fault_registry`.

#![allow(clippy::expect_used, clippy::panic, reason = "tests report failures by panicking")]

mod calls;
mod loads;
mod player;
mod scenario;
mod table;

use std::path::Path;

use crate::scenario::FaultScenario;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Plays every scenario, and reports all that fail. With `SCENARIO=05` it plays those whose names
/// begin with that.
#[test]
fn scenarios() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let mut failed = Vec::new();
    for scenario in FaultScenario::all().iter().filter(|known| known.name.starts_with(&wanted)) {
        if let Err(problem) = play(scenario) {
            failed.push(format!("{}: {problem}", scenario.name));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

/// Plays one scenario on a runtime of its own, whose time passes only while everything waits.
fn play(scenario: &FaultScenario) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(calls::play(scenario))
}
