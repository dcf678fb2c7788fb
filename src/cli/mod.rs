//! The kubectl plugin `kubectl family`: what people ask for at a terminal. It acts with the
//! caller's own rights, and changes nothing but the annotation that holds a [request].

mod cluster;
mod request;
mod status;

use clap::{Args, Parser, Subcommand};

use crate::api::{Act, GROUP, VERSION};

/// The command line.
#[derive(Parser, Debug)]
#[command(
    name = "kubectl family",
    bin_name = "kubectl family",
    version,
    about = "Looks at families of container images, and asks for what is done by hand"
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Shows what a family and its images are doing; without a name, all families in short
    Status(status::Arguments),
    /// Starts what is stale now, without the quiet time
    Trigger(request::ScopeArguments),
    /// Forgets failures, so that failed images are tried again
    Retry(request::ScopeArguments),
    /// Stops builds; they are not tried again until an input changes or a retry is asked for
    Cancel(request::ScopeArguments),
    /// Rebuilds, even what is current
    Force(request::ScopeArguments),
    /// Keeps an image from being built, or an upstream where it is
    Hold(request::HoldArguments),
    /// Ends a hold that `hold` has set
    Unhold(request::UnholdArguments),
    /// Lets builds use the candidate of an upstream that needs approval
    Approve(request::ApproveArguments),
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
        Command::Trigger(arguments) => request::of_scope(Act::Trigger, arguments).await,
        Command::Retry(arguments) => request::of_scope(Act::Retry, arguments).await,
        Command::Cancel(arguments) => request::of_scope(Act::Cancel, arguments).await,
        Command::Force(arguments) => request::of_scope(Act::Force, arguments).await,
        Command::Hold(arguments) => request::hold(arguments).await,
        Command::Unhold(arguments) => request::unhold(arguments).await,
        Command::Approve(arguments) => request::approve(arguments).await,
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
        let parsed = CommandLine::try_parse_from([
            "kubectl-family",
            "status",
            "python",
            "-n",
            "team",
            "--watch",
        ]);
        assert!(parsed.is_ok(), "{parsed:?}");
        let parsed =
            CommandLine::try_parse_from(["kubectl-family", "status", "python", "--all-namespaces"]);
        assert!(parsed.is_err(), "a name and all namespaces");
    }

    #[test]
    fn requests_take_what_they_can_use() {
        let parses = |line: &str| CommandLine::try_parse_from(line.split_whitespace()).is_ok();
        for sound in [
            "kubectl-family trigger flask -n team",
            "kubectl-family retry flask/app --subtree --wait --timeout 5m",
            "kubectl-family force flask/app --replace --context c",
            "kubectl-family cancel flask",
            "kubectl-family hold flask/app --for 72h --reason freeze",
            "kubectl-family hold flask --upstream debian --until 2026-05-01T12:00:00Z",
            "kubectl-family unhold flask --upstream debian",
            "kubectl-family approve flask debian",
        ] {
            assert!(parses(sound), "{sound}");
        }
        for unsound in [
            "kubectl-family trigger",
            "kubectl-family trigger flask/",
            "kubectl-family retry flask --reason why",
            "kubectl-family retry flask --timeout 5m",
            "kubectl-family hold flask/app --for 72h --until 2026-05-01T12:00:00Z",
            "kubectl-family hold flask/app --for soon",
            "kubectl-family hold flask/app --digest sha256:0",
            "kubectl-family unhold flask/app --until 2026-05-01T12:00:00Z",
            "kubectl-family approve flask",
        ] {
            assert!(!parses(unsound), "{unsound}");
        }
    }
}
