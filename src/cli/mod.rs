//! The kubectl plugin `kubectl family`: what people ask for at a terminal. It reads the cluster with the caller's own rights and
//! changes nothing.

mod cluster;
mod status;

use clap::{Args, Parser, Subcommand};

use crate::api::{GROUP, VERSION};

/// The command line.
#[derive(Parser, Debug)]
#[command(
    name = "kubectl family",
    bin_name = "kubectl family",
    version,
    about = "Looks at families of container images"
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Shows what a family and its images are doing; without a name, all families in short
    Status(status::Arguments),
    /// Shows the versions of this plugin and of the API that it speaks
    Version,
}

/// Which cluster and namespace; as kubectl's own flags.
#[derive(Args, Debug)]
struct Place {
    /// The namespace; by default that of the kubeconfig's context
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The context of the kubeconfig
    #[arg(long, global = true)]
    context: Option<String>,
}

/// Does what the command line says.
pub async fn run(line: CommandLine) -> anyhow::Result<()> {
    match line.command {
        Command::Status(arguments) => status::run(arguments).await,
        Command::Version => {
            println!("kubectl-family {}\nAPI {GROUP}/{VERSION}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
        let parsed = CommandLine::try_parse_from(["kubectl-family", "status", "python", "-n", "team", "--watch"]);
        assert!(parsed.is_ok(), "{parsed:?}");
        let parsed = CommandLine::try_parse_from(["kubectl-family", "status", "python", "--all-namespaces"]);
        assert!(parsed.is_err(), "a name and all namespaces");
    }
}
