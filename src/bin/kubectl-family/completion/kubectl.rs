//! What kubectl asks of a plugin: an executable `kubectl_complete-NAME` on the `PATH` gets the
//! words after the plugin's name, and prints one candidate per line, its description after a tab,
//! and a last line `:N` whose bits say what the shell does next.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
};

use clap::Command;
use clap_complete::{CompletionCandidate, engine::complete, env::EnvCompleter};

use groundswell::terminal::printable;

/// Bit: no space follows the candidate.
const NO_SPACE: u8 = 2;
/// Bit: the shell does not complete files of its own.
const NO_FILES: u8 = 4;

/// Completion through kubectl.
pub struct Kubectl;

impl EnvCompleter for Kubectl {
    fn name(&self) -> &'static str {
        "kubectl"
    }

    fn is(&self, name: &str) -> bool {
        name == self.name()
    }

    fn write_registration(
        &self,
        variable: &str,
        _name: &str,
        binary: &str,
        completer: &str,
        script: &mut dyn Write,
    ) -> io::Result<()> {
        write!(
            script,
            "#!/bin/sh\n\
             # Completes kubectl family. kubectl finds it on the PATH as kubectl_complete-family.\n\
             {variable}=kubectl exec {completer} -- {binary} \"$@\"\n"
        )
    }

    fn write_complete(
        &self,
        command: &mut Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        answer: &mut dyn Write,
    ) -> io::Result<()> {
        let last = words.len().saturating_sub(1);
        let candidates = complete(command, words, last, folder).unwrap_or_default();
        for candidate in &candidates {
            writeln!(answer, "{}", line(candidate))?;
        }
        let goes_on = |candidate: &CompletionCandidate| {
            candidate.get_value().to_string_lossy().ends_with(['/', '='])
        };
        let no_space = !candidates.is_empty() && candidates.iter().all(goes_on);
        writeln!(answer, ":{}", NO_FILES | if no_space { NO_SPACE } else { 0 })
    }
}

/// A candidate, and the first line of what it means.
fn line(candidate: &CompletionCandidate) -> String {
    let value = candidate.get_value().to_string_lossy();
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    match help.lines().next() {
        Some(first) => format!("{}\t{}", printable(&value), printable(first)),
        None => printable(&value),
    }
}
