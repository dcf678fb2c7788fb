//! The `groundswell` binary: the controller, and the first steps of builds and checks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use groundswell::{
    builds::{checks::credentials, git, prepare},
    operator, telemetry,
};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text", global = true)]
    log_format: telemetry::LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the controller.
    Controller(operator::Settings),
    /// Asks a Git server where a branch or a tag stands; the controller runs it, for the library
    /// that asks is not its own.
    #[command(name = git::subprocess::SUBCOMMAND, hide = true)]
    ResolveGit,
    /// Fetches a build's source and checks its Dockerfile; runs inside of a build's pod, before the
    /// builder.
    Prepare,
    /// Writes the credential for the image that a check looks at; runs inside of a check's pod,
    /// before the check.
    #[command(name = credentials::SUBCOMMAND, hide = true)]
    Credentials,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("groundswell: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::init(arguments.log_format)?;
    // Before any TLS: with two providers compiled in, nothing chooses by itself.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.command {
        Command::Controller(settings) => runtime.block_on(operator::operate(settings))?,
        Command::ResolveGit => git::subprocess::answer()?,
        Command::Credentials => return Ok(credentials::main()),
        Command::Prepare => return Ok(runtime.block_on(prepare::main())),
    }
    Ok(ExitCode::SUCCESS)
}
