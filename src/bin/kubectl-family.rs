//! `kubectl family`: a kubectl plugin, found by kubectl under this binary's name on the `PATH`.

use std::process::ExitCode;

use clap::Parser as _;
use groundswell::cli::{CommandLine, run};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    // Before any TLS: with two providers compiled in, nothing chooses by itself. Only a second call
    // can fail.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match outcome.map_err(Into::into).and_then(|runtime| runtime.block_on(run(line))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
