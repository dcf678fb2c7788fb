//! The published page of all commands is their help.

use std::{fmt::Write as _, fs, path::Path};

use clap::{CommandFactory as _, Parser as _};

use crate::command_line::CommandLine;

const PATH: &str = "docs/reference/plugin/commands.md";

/// The commands with their help, but for the hidden ones.
fn commands() -> Vec<(String, String)> {
    let mut plugin = CommandLine::command().disable_help_subcommand(true);
    plugin.build();
    let shown = plugin.get_subcommands_mut().filter(|command| !command.is_hide_set());
    shown
        .map(|command| (command.get_name().to_owned(), command.render_long_help().to_string()))
        .collect()
}

fn page() -> String {
    let mut text = "# The commands of `kubectl family`\n\n\
        `make generate` writes this page from the help of the commands. [The kubectl \
        plugin](../../plugin.md)\nexplains them.\n"
        .to_owned();
    for (name, help) in commands() {
        let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
        _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n"));
    }
    text
}

/// `make generate` writes the page.
#[test]
fn the_page_of_commands_is_generated() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    let wanted = page();
    if std::env::var_os("GENERATE").is_some() {
        fs::write(&path, &wanted).expect("a file");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{PATH} differs from the commands; run make generate");
}

#[test]
fn the_help_of_every_command_has_examples_that_parse() {
    let quoted = regex::Regex::new("'[^']*'").expect("regex");
    for (name, help) in commands() {
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name}"));
        let mut found = 0;
        for line in examples.lines().filter(|line| !line.trim_start().starts_with('#')) {
            for part in line.trim().split(" | ") {
                let Some(arguments) = part.strip_prefix("kubectl family ") else { continue };
                let arguments = arguments.split(" > ").next().unwrap_or_default();
                let line = quoted.replace_all(arguments, "quoted");
                let words = ["kubectl-family"].into_iter().chain(line.split_whitespace());
                let parsed = CommandLine::try_parse_from(words);
                assert!(parsed.is_ok(), "{name}: {part}: {parsed:?}");
                found += 1;
            }
        }
        assert!(found > 0, "{name} has no example");
    }
}
