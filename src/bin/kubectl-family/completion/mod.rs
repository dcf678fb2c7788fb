//! `kubectl family completion`: the shell completes commands, flags, files, and the names of
//! families, images, upstreams, namespaces, checks, builds and more.
//!
//! The script of a shell calls the plugin again with [`VARIABLE`] set, and the plugin answers with
//! candidates. kubectl does the same through the script `kubectl_complete-family`.

mod kubectl;
mod live_names;
mod names;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;

use clap::{Args, Command, CommandFactory as _, ValueEnum};
use clap_complete::{
    CompletionCandidate,
    engine::ArgValueCompleter,
    env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh},
};

pub use crate::completion::names::{NamesArguments, print};
use crate::{
    command_line::CommandLine,
    completion::{kubectl::Kubectl, names::NameKind},
    output,
};

/// Environment variable that a script sets to the name of its shell to ask for candidates.
const VARIABLE: &str = "KUBECTL_FAMILY_COMPLETE";
/// Name of the binary.
const BINARY: &str = "kubectl-family";

#[derive(Args, Debug)]
pub struct CompletionArguments {
    /// Shell for which the script is: it completes kubectl-family. The script for kubectl completes
    /// kubectl family in every shell in which kubectl itself is completed
    shell: CompletedShell,
}

/// What a script is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompletedShell {
    Bash,
    Zsh,
    Fish,
    Kubectl,
}

impl CompletedShell {
    const fn completer(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &Bash,
            Self::Zsh => &Zsh,
            Self::Fish => &Fish,
            Self::Kubectl => &Kubectl,
        }
    }
}

/// Prints the script of a shell.
pub fn run(arguments: &CompletionArguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    let completer = arguments.shell.completer();
    completer.write_registration(VARIABLE, BINARY, BINARY, BINARY, &mut script)?;
    output::write(&String::from_utf8(script)?)?;
    Ok(())
}

/// Answers a script that asks for candidates, and returns whether one did. Errors are silent: they
/// would be printed into the line that a user is typing.
pub fn answer() -> bool {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty()) {
        return false;
    }
    let folder = std::env::current_dir().ok();
    let shells: [&dyn EnvCompleter; 4] = [&Bash, &Zsh, &Fish, &Kubectl];
    _ = CompleteEnv::with_factory(command)
        .var(VARIABLE)
        .bin(BINARY)
        .completer(BINARY)
        .shells(Shells(&shells))
        .try_complete(std::env::args_os(), folder.as_deref());
    true
}

/// Returns the command line with the arguments whose values are names.
fn command() -> Command {
    CommandLine::command().mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        command.mut_args(|argument| match kind(&name, argument.get_id().as_str()) {
            Some(kind) => argument.add(ArgValueCompleter::new(move |current: &OsStr| {
                let found = names::ask(kind, current);
                found.into_iter().map(CompletionCandidate::new).collect()
            })),
            None => argument,
        })
    })
}

/// Returns which names an argument of a command takes.
fn kind(command: &str, argument: &str) -> Option<NameKind> {
    match (command, argument) {
        ("status" | "approve" | "check" | "history", "family") => Some(NameKind::Family),
        ("trigger" | "retry" | "cancel" | "force" | "hold" | "unhold" | "rollback", "target") => {
            Some(NameKind::Scope)
        }
        ("hold" | "unhold" | "approve", "upstream") | ("plan", "moved") => Some(NameKind::Upstream),
        ("graph", "image") | ("impact", "target") => Some(NameKind::Target),
        ("graph", "focus")
        | ("why" | "layers" | "diff" | "history" | "logs", "image")
        | ("outdated", "images") => Some(NameKind::Image),
        ("plan", "set") => Some(NameKind::SetUpstream),
        ("check", "strategy") => Some(NameKind::Strategy),
        ("logs", "check") => Some(NameKind::Check),
        ("logs", "build") => Some(NameKind::Build),
        ("diff", "builds") | ("rollback", "to") => Some(NameKind::VerifiedBuild),
        (_, "namespace") => Some(NameKind::Namespace),
        (_, "context") => Some(NameKind::Context),
        _ => None,
    }
}
