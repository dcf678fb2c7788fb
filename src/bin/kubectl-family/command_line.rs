//! The command line of `kubectl family`: its commands, their help, and which code runs them.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use groundswell::{
    api::{Duration, GROUP, RequestScope, RequestedAction, VERSION},
    build_info,
};

use crate::{
    audit, check, completion, contains, diff, discover, examples, graph, history, impact, import,
    layers, lint, logs, man, outdated, output, plan, request, status, ui, why,
};

/// The command line.
#[derive(Parser, Debug)]
#[command(
    name = "kubectl family",
    bin_name = "kubectl family",
    version = build_info::LONG_VERSION.as_str(),
    about = "Show families of container images and request manual actions"
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Subcommand, Debug)]
enum PluginCommand {
    /// Check whether builds can run in a namespace, before or after the installation. Runs one pod
    #[command(after_long_help = examples::CHECK)]
    Check(Box<check::CheckArguments>),
    /// Show which images of a registry are built on which, without any manifest
    Discover(Box<discover::DiscoverArguments>),
    /// Write families from a tree of Dockerfiles, Bake files and Compose files
    Import(Box<import::ImportArguments>),
    /// Show which images and running workloads contain a package
    Contains(Box<contains::ContainsArguments>),
    /// Show what a rebuild has changed: base, layers, sizes, settings and packages
    Diff(Box<diff::DiffArguments>),
    /// Show the layers of an image, what they share, and what a node pulls after a rebuild
    Layers(Box<layers::LayersArguments>),
    /// Check families and their Dockerfiles for what a linter of single Dockerfiles cannot see
    Lint(Box<lint::LintArguments>),
    /// Show which installed packages have a newer version in the repositories of their image
    Outdated(Box<outdated::OutdatedArguments>),
    /// Show the status of a family and its images, or of all families if no name is given
    #[command(after_long_help = examples::STATUS)]
    Status(status::StatusArguments),
    /// Show how images are built on one another, as a tree or a drawing
    Graph(Box<graph::GraphArguments>),
    /// Show what would be rebuilt if an upstream or an image moved
    Impact(Box<impact::ImpactArguments>),
    /// Show what the controller would do now, after a move, or with another manifest
    Plan(Box<plan::PlanArguments>),
    /// Show a page with the graph of all images, live, on this machine alone
    Ui(Box<ui::UiArguments>),
    /// Explain why an image was built last, and what it waits for
    Why(Box<why::WhyArguments>),
    /// Show what each image is built on, how old it is, and how far it is behind
    Audit(Box<audit::AuditArguments>),
    /// List the builds of an image, or the cascades of families
    History(Box<history::HistoryArguments>),
    /// Show the log of the build or check of an image, of the running one or of the last
    Logs(Box<logs::LogsArguments>),
    /// Start stale builds now, without waiting for the quiet time
    #[command(after_long_help = examples::TRIGGER)]
    Trigger(request::ScopeArguments),
    /// Clear recorded failures, so that failed images are built again
    #[command(after_long_help = examples::RETRY)]
    Retry(request::ScopeArguments),
    /// Stop builds until an input changes or a retry is requested
    #[command(after_long_help = examples::CANCEL)]
    Cancel(request::ScopeArguments),
    /// Rebuild images even if they are current
    #[command(after_long_help = examples::FORCE)]
    Force(request::ScopeArguments),
    /// Hold an image or an upstream at its current digest
    #[command(after_long_help = examples::HOLD)]
    Hold(request::HoldArguments),
    /// End a hold that the hold command has set
    #[command(after_long_help = examples::UNHOLD)]
    Unhold(request::UnholdArguments),
    /// Approve the candidate of an upstream for use in builds
    #[command(after_long_help = examples::APPROVE)]
    Approve(request::ApproveArguments),
    /// Move the tags of an image back to an earlier build, and hold it there
    #[command(after_long_help = examples::ROLLBACK)]
    Rollback(request::RollbackArguments),
    /// Print a script with which a shell completes commands, flags and live names
    #[command(after_long_help = examples::COMPLETION)]
    Completion(completion::CompletionArguments),
    /// Write the man pages of all commands
    #[command(after_long_help = examples::MAN)]
    Man(man::ManArguments),
    /// Print names for the completion of a shell
    #[command(name = "__names", hide = true)]
    Names(Box<completion::NamesArguments>),
    /// Print the version of the plugin and of the API that it uses
    #[command(after_long_help = examples::VERSION)]
    Version,
}

/// The flags of kubectl that select the cluster and the namespace.
#[derive(Args, Clone, Debug, Default)]
pub struct KubectlFlags {
    /// If present, the namespace scope of the command. Defaults to that of the kubeconfig context
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Name of the kubeconfig context to use
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Path of the kubeconfig file to use
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// User to impersonate for the calls to the API server
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonated: Option<String>,
    /// Timeout of one call to the API server, for example 30s. Defaults to 10s
    #[arg(long, global = true, value_name = "DURATION")]
    pub request_timeout: Option<Duration>,
}

/// Runs the command. Returns the exit code.
pub async fn run(command_line: CommandLine) -> anyhow::Result<ExitCode> {
    match command_line.command {
        PluginCommand::Check(arguments) => return check::run(*arguments).await,
        PluginCommand::Import(arguments) => return import::run(&arguments).map(Into::into),
        PluginCommand::Discover(arguments) => {
            return Box::pin(discover::run(*arguments)).await.map(Into::into);
        }
        PluginCommand::Contains(arguments) => {
            return Box::pin(contains::run(*arguments)).await.map(Into::into);
        }
        PluginCommand::Diff(arguments) => {
            return Box::pin(diff::run(*arguments)).await.map(Into::into);
        }
        PluginCommand::Layers(arguments) => {
            return Box::pin(layers::run(*arguments)).await.map(Into::into);
        }
        PluginCommand::Lint(arguments) => {
            return Box::pin(lint::run(*arguments)).await.map(Into::into);
        }
        PluginCommand::Outdated(arguments) => {
            return Box::pin(outdated::run(*arguments)).await.map(Into::into);
        }
        PluginCommand::Status(arguments) => status::run(arguments).await?,
        PluginCommand::Graph(arguments) => return Ok(graph::run(*arguments).await?.into()),
        PluginCommand::Impact(arguments) => return Ok(impact::run(*arguments).await?.into()),
        PluginCommand::Plan(arguments) => return Ok(plan::run(*arguments).await?.into()),
        PluginCommand::Ui(arguments) => {
            return Box::pin(ui::run(*arguments)).await.map(Into::into);
        }
        PluginCommand::Why(arguments) => return Ok(why::run(*arguments).await?.into()),
        PluginCommand::Audit(arguments) => return Ok(audit::run(*arguments).await?.into()),
        PluginCommand::Logs(arguments) => return Ok(logs::run(*arguments).await?.into()),
        PluginCommand::History(arguments) => return Ok(history::run(*arguments).await?.into()),
        PluginCommand::Trigger(arguments) => {
            return Box::pin(request_scope(RequestedAction::Trigger, arguments)).await;
        }
        PluginCommand::Retry(arguments) => {
            return Box::pin(request_scope(RequestedAction::Retry, arguments)).await;
        }
        PluginCommand::Cancel(arguments) => {
            return Box::pin(request_scope(RequestedAction::Cancel, arguments)).await;
        }
        PluginCommand::Force(arguments) => {
            return Box::pin(request_scope(RequestedAction::Force, arguments)).await;
        }
        PluginCommand::Hold(arguments) => {
            return Ok(Box::pin(request::hold(arguments)).await?.into());
        }
        PluginCommand::Unhold(arguments) => {
            return Ok(Box::pin(request::unhold(arguments)).await?.into());
        }
        PluginCommand::Approve(arguments) => {
            return Ok(Box::pin(request::approve(arguments)).await?.into());
        }
        PluginCommand::Rollback(arguments) => {
            return Ok(Box::pin(request::rollback(arguments)).await?.into());
        }
        PluginCommand::Completion(arguments) => completion::run(&arguments)?,
        PluginCommand::Man(arguments) => man::run(&arguments)?,
        PluginCommand::Names(arguments) => completion::print(*arguments).await?,
        PluginCommand::Version => {
            let version = &*build_info::LONG_VERSION;
            output::write(&format!("kubectl-family {version}\nAPI {GROUP}/{VERSION}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn request_scope(
    action: fn(RequestScope) -> RequestedAction,
    arguments: request::ScopeArguments,
) -> anyhow::Result<ExitCode> {
    Ok(Box::pin(request::send_for_scope(action, arguments)).await?.into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_valid() {
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
    fn requests_take_only_the_flags_that_they_use() {
        let parses = |line: &str| CommandLine::try_parse_from(line.split_whitespace()).is_ok();
        for valid in [
            "kubectl-family trigger flask -n team",
            "kubectl-family retry flask/app --subtree --wait --timeout 5m",
            "kubectl-family force flask/app --reason openssl --context c",
            "kubectl-family cancel flask",
            "kubectl-family hold flask/app --for 72h --reason freeze",
            "kubectl-family hold flask --upstream debian --until 2026-05-01T12:00:00Z",
            "kubectl-family unhold flask --upstream debian",
            "kubectl-family approve flask debian",
            "kubectl-family rollback flask/app --to 41 --reason leak",
            "kubectl-family rollback flask/app --to 41 --subtree --rollout --reason leak --wait",
            "kubectl-family check",
            "kubectl-family check --pre -n team --timeout 30s -o json",
            "kubectl-family check --family flask --context c --no-pod --allow-unchecked",
            "kubectl-family check -f family.yaml --strategy buildkit-privileged",
        ] {
            assert!(parses(valid), "{valid}");
        }
        for invalid in [
            "kubectl-family trigger",
            "kubectl-family trigger flask/",
            "kubectl-family force flask --replace",
            "kubectl-family retry flask --timeout 5m",
            "kubectl-family hold flask/app --for 72h --until 2026-05-01T12:00:00Z",
            "kubectl-family hold flask/app --for soon",
            "kubectl-family hold flask/app --digest sha256:0",
            "kubectl-family unhold flask/app --until 2026-05-01T12:00:00Z",
            "kubectl-family approve flask",
            "kubectl-family rollback flask/app --to 41",
            "kubectl-family rollback flask/app --reason leak",
            "kubectl-family check flask",
            "kubectl-family check --family flask -f family.yaml",
            "kubectl-family check --timeout soon",
        ] {
            assert!(!parses(invalid), "{invalid}");
        }
    }

    #[test]
    fn help_texts_are_plain() {
        let mut command = CommandLine::command();
        command.build();
        let mut texts = vec![command.render_long_help().to_string()];
        texts.extend(command.get_subcommands_mut().map(|one| one.render_long_help().to_string()));
        assert_eq!(texts.len(), 31, "the command itself, its commands, and help");
        for text in texts {
            assert!(!text.contains('`'), "a back-quote in:\n{text}");
        }
    }

    #[test]
    fn the_version_has_the_commit() {
        let version = CommandLine::command().render_version();
        assert!(version.contains(build_info::COMMIT), "{version}");
    }
}
