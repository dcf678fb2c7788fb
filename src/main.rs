//! The `groundswell` binary: the controller, and the first steps of builds and checks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use groundswell::{
    build_info::LONG_VERSION,
    builds::{checks::credentials, git, prepare},
    operator,
    preflight::{self, CheckCaller, PreflightSettings},
    telemetry,
    terminal::printable,
};

#[derive(Parser)]
#[command(version = LONG_VERSION.as_str(), about = "Kubernetes operator that rebuilds container \
    images when their base images change")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Format of log lines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text", global = true)]
    log_format: telemetry::LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller
    Controller(Box<operator::Settings>),
    // The Helm test runs it with the controller's ServiceAccount.
    /// Check whether builds can run in a namespace, with the rights of the controller
    Check {
        #[command(flatten)]
        settings: Box<PreflightSettings>,
        /// Namespace in which builds are to run
        #[arg(short, long)]
        namespace: String,
    },
    // The controller runs this as a child process, so that the C library that talks to Git servers
    // is not in its own process.
    /// Look up the commit of a branch or a tag on a Git server
    #[command(name = git::subprocess::SUBCOMMAND, hide = true)]
    ResolveGit,
    // Runs in the pod of a build, before the builder.
    /// Fetch the source of a build and check its Dockerfile
    Prepare,
    // Runs in the pod of a check, before the check.
    /// Write the credential for the image that a check inspects
    #[command(name = credentials::SUBCOMMAND, hide = true)]
    Credentials,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("groundswell: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::init(arguments.log_format)?;
    // Two TLS providers are compiled in, and rustls chooses none of them on its own.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.command {
        Command::Controller(settings) => runtime.block_on(operator::run_controller(*settings))?,
        Command::Check { settings, namespace } => {
            return runtime.block_on(check(&namespace, &settings));
        }
        Command::ResolveGit => git::subprocess::answer()?,
        Command::Credentials => return Ok(credentials::main()),
        Command::Prepare => return Ok(runtime.block_on(prepare::main())),
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(namespace: &str, settings: &PreflightSettings) -> anyhow::Result<ExitCode> {
    let mut config = kube::Config::infer().await?;
    // The report describes every failed call. Nothing is hidden by a retry.
    config.default_retry = false;
    let client = kube::Client::try_from(config)?;
    preflight::run(&client, namespace, CheckCaller::Controller, settings).await
}
