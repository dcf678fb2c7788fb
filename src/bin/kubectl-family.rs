//! `kubectl family`: a kubectl plugin. kubectl finds it on the `PATH` by the name of this binary.

use std::process::ExitCode;

use clap::Parser as _;
use groundswell::{
    cli::{CommandLine, run},
    terminal::printable,
};

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    // Two TLS providers are compiled in, and rustls chooses none of them on its own. Only a second
    // call can fail.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match outcome.map_err(Into::into).and_then(|runtime| runtime.block_on(run(command_line))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
