//! `kubectl family`: a kubectl plugin. kubectl finds it on the `PATH` by the name of this binary.
//!
//! It acts with the permissions of the user who runs it. It creates nothing but
//! [requests](request), and `check` runs one pod.

mod audit;
mod bounded_answers;
mod build_times;
mod check;
mod cluster;
mod command_line;
mod completion;
mod contains;
mod diff;
mod discover;
#[cfg(test)]
mod document_tests;
mod estate_graph;
mod examples;
#[cfg(test)]
mod fake_cluster;
mod graph;
mod history;
mod impact;
mod import;
mod input;
mod layers;
mod lint;
mod logs;
mod man;
mod missing_rights;
mod outdated;
mod output;
mod plan;
#[cfg(test)]
mod reference_tests;
mod registry_images;
mod request;
mod status;
mod ui;
mod why;

use std::process::ExitCode;

use crate::command_line::{CommandLine, run};
use clap::Parser as _;

fn main() -> ExitCode {
    if completion::answer() {
        return ExitCode::SUCCESS;
    }
    let command_line = CommandLine::parse();
    // Two TLS providers are compiled in, and rustls chooses none of them on its own. Only a second
    // call can fail.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build();
    output::exit_code(
        outcome.map_err(Into::into).and_then(|runtime| runtime.block_on(run(command_line))),
    )
}
