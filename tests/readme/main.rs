//! Every command in README.md is run by a test, or `commands.yaml` says why it is not.
//!
//! A command is what a fenced block of shell code contains, and what the text quotes if it starts
//! with one of the programs that a reader runs.

#![allow(clippy::expect_used, clippy::panic, reason = "a test reports what is wrong by failing")]

use std::{collections::BTreeSet, fs, path::Path};

use serde::Deserialize;

/// What a quoted command starts with.
const PROGRAMS: [&str; 5] = ["kubectl ", "helm ", "make ", "cargo ", "examples/"];

/// One row of `commands.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandRow {
    command: String,
    /// The test that runs it: `path/of/file.rs::name`.
    run_by: Option<String>,
    /// The reason why no test runs it.
    not_run: Option<String>,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn table() -> Vec<CommandRow> {
    serde_yaml::from_str(&read("tests/readme/commands.yaml")).expect("the table of commands")
}

/// Returns the commands of a document. Continued lines are joined, comments and outputs left out.
fn commands(text: &str) -> BTreeSet<String> {
    let comment = regex::Regex::new(r"\s+#.*$").expect("regex");
    let quoted = regex::Regex::new("`([^`]+)`").expect("regex");
    let mut found = BTreeSet::new();
    let mut language = None;
    let mut prose = String::new();
    for line in text.replace("\\\n", " ").lines() {
        if let Some(rest) = line.strip_prefix("```") {
            language = language.is_none().then(|| rest.to_owned());
            continue;
        }
        let command = match language.as_deref() {
            Some("sh") => line,
            Some("console") => line.strip_prefix("$ ").unwrap_or_default(),
            Some(_) => "",
            None => {
                prose.push_str(line);
                prose.push(' ');
                ""
            }
        };
        found.insert(comment.replace(command, "").into_owned());
    }
    let quotes = quoted.captures_iter(&prose).map(|quote| quote[1].to_owned());
    found.extend(quotes.filter(|quote| PROGRAMS.iter().any(|start| quote.starts_with(start))));
    let words = found.iter().map(|command| command.split_whitespace().collect::<Vec<_>>());
    words.map(|words| words.join(" ")).filter(|command| !command.is_empty()).collect()
}

#[test]
fn every_command_of_the_readme_is_accounted_for() {
    let written = commands(&read("README.md"));
    let listed: BTreeSet<String> = table().into_iter().map(|row| row.command).collect();
    let missing: Vec<_> = written.difference(&listed).collect();
    assert!(missing.is_empty(), "tests/readme/commands.yaml does not say what runs {missing:#?}");
    let left: Vec<_> = listed.difference(&written).collect();
    assert!(left.is_empty(), "README.md does not have the commands {left:#?}");
}

#[test]
fn every_command_has_a_test_or_a_reason() {
    for CommandRow { command, run_by, not_run } in table() {
        match (run_by, not_run) {
            (Some(test), None) => {
                let (path, name) = test.split_once("::").expect("path/of/file.rs::name");
                let defined = read(path).contains(&format!("fn {name}()"));
                assert!(defined, "`{command}`: there is no test {test}");
            }
            (None, Some(reason)) => {
                assert!(
                    reason.split_whitespace().count() > 4,
                    "`{command}`: {reason} is no reason"
                );
            }
            _ => panic!("`{command}`: set one of run_by and not_run"),
        }
    }
}

#[test]
fn commands_are_found() {
    let text = "Run `kubectl get\nmimg`, not `mimg`.\n```sh\nmake a \\\n  B=1   # why\n\n```\n\
                ```console\n$ helm list\nNAME\n```\n```yaml\nhelm: no\n```\n";
    let found: Vec<String> = commands(text).into_iter().collect();
    assert_eq!(found, ["helm list", "kubectl get mimg", "make a B=1"]);
}
