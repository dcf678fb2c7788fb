//! Every command of the plugin that a document shows is one that the plugin parses.

use clap::Parser as _;

use crate::command_line::CommandLine;

#[path = "../../../tests/support/documents.rs"]
mod text;

use text::{blocks, documents, read};

/// The commands in the fenced shell code of all documents, each with the document's path. Continued
/// lines are joined and comments are left out.
fn commands() -> Vec<(String, String)> {
    let comment = regex::Regex::new(r"\s+#.*$").expect("regex");
    let mut found = Vec::new();
    for document in documents() {
        let text = read(&document);
        let console = blocks(&text, "console").join("\n");
        let prompted =
            console.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned);
        let scripts = blocks(&text, "sh").join("\n").replace("\\\n", " ");
        let lines: Vec<String> = scripts.lines().map(str::to_owned).chain(prompted).collect();
        let commands = lines.iter().map(|line| comment.replace(line, "").trim().to_owned());
        found.extend(commands.map(|command| (document.display().to_string(), command)));
    }
    found
}

#[test]
fn the_plugin_parses_the_commands_in_documents() {
    let quoted = regex::Regex::new(r#"'[^']*'|"[^"]*""#).expect("regex");
    let mut found = 0;
    let commands = commands();
    let parts = commands
        .iter()
        .flat_map(|(document, command)| command.split(" | ").map(move |part| (document, part)));
    for (document, command) in parts {
        let Some(arguments) = command.strip_prefix("kubectl family ") else { continue };
        let arguments = arguments.split(" > ").next().unwrap_or_default();
        let line = quoted.replace_all(arguments, "quoted");
        let parsed = CommandLine::try_parse_from(
            ["kubectl-family"].into_iter().chain(line.split_whitespace()),
        );
        assert!(parsed.is_ok(), "{document}: {command}: {parsed:?}");
        found += 1;
    }
    assert!(found > 0, "no document shows the plugin");
}
