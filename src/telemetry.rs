//! Logs: to standard error, as text for people or as JSON for machines, filtered by `RUST_LOG`.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt, util::TryInitError};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a log filter: write for example `info` or `groundswell=debug,info`")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// Somebody else set it up before.
    #[error("logging is already set up")]
    AlreadySet(#[from] TryInitError),
}

/// Sets logging up for the whole process, once. Without `RUST_LOG`, everything from `info` on is
/// logged.
pub fn init(format: LogFormat) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env()?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(true).finish().try_init()?;
        }
    }
    Ok(())
}
