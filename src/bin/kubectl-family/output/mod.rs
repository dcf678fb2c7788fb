//! What every command writes, and how it ends: formats, standard output, and exit codes.
//!
//! - [`table`]: columns that fit into a terminal
//! - [`colours`]: the colour of each state
//! - [`csv`]: tables for spreadsheets

pub mod colours;
pub mod csv;
#[cfg(test)]
mod schemas;
pub mod table;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use serde::Serialize;

use groundswell::terminal::printable;

/// API version of every document that `-o json` and `-o yaml` write.
pub const API_VERSION: &str = "plugin.groundswell.dev/v1alpha1";

/// Exit code of a command that has found something to act on.
const EXIT_FINDINGS: u8 = 1;
/// Exit code of a wrong command line, of input that cannot be read, and of a cluster or registry
/// that does not answer. clap uses it, too.
const EXIT_ERROR: u8 = 2;

/// What a command has found. It determines the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// There is nothing to act on: exit code 0.
    Fine,
    /// There is something to act on: exit code 1.
    Findings,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Fine => Self::SUCCESS,
            Outcome::Findings => Self::from(EXIT_FINDINGS),
        }
    }
}

/// Format of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// A table with the most important columns
    #[default]
    Table,
    /// A table with all columns
    Wide,
    /// A JSON object, described by a schema in docs/reference
    Json,
    /// The same object as YAML
    Yaml,
    /// One name per line
    Name,
}

/// Format of a list that a spreadsheet reads, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TabularFormat {
    /// A table with the most important columns
    #[default]
    Table,
    /// A table with all columns
    Wide,
    /// A JSON object, described by a schema in docs/reference
    Json,
    /// The same object as YAML
    Yaml,
    /// One name per line
    Name,
    /// Values separated by commas, with all columns
    Csv,
}

/// A document for programs: the kind of its content, and the content. Its schema is in
/// `docs/reference/plugin`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a, T> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    content: &'a T,
}

impl<'a, T: Serialize> Document<'a, T> {
    /// Creates the document of this kind.
    pub fn new(kind: &'static str, content: &'a T) -> Self {
        Self { api_version: API_VERSION, kind, content }
    }

    /// Returns the document as JSON, with a line break at the end.
    ///
    /// # Errors
    ///
    /// Never, for the types of this program: their keys are texts.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(escaped_json(&(serde_json::to_string_pretty(self)? + "\n")))
    }

    /// Returns the document as YAML.
    ///
    /// # Errors
    ///
    /// Never, for the types of this program: their keys are texts.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_yaml::to_string(&serde_json::to_value(self)?)?)
    }
}

/// Escapes what a terminal acts on. In JSON it is only inside of texts: line breaks between values
/// stay.
fn escaped_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let mut buffer = [0; 4];
        let original = character.encode_utf8(&mut buffer);
        if printable(original) == *original {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a String never fails.
            _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// The standard output as a command needs it: how wide it is, and what it can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Width in characters; `None` if the output is no terminal, so that nothing is cut.
    pub width: Option<u16>,
    /// Height in lines; `None` if the output is no terminal.
    pub height: Option<u16>,
}

impl Terminal {
    /// Returns the properties of the standard output. A terminal that reports no size counts as one
    /// of 80x24.
    pub fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self { width: None, height: None };
        }
        let (width, height) =
            terminal_size::terminal_size().map_or((80, 24), |(width, height)| (width.0, height.0));
        Self { width: Some(width.max(1)), height: Some(height.max(1)) }
    }
}

/// Writes a text to the standard output, without its colours if it shows none: where it is no
/// terminal, or `NO_COLOR` is set.
///
/// # Errors
///
/// Returns the error of the write. [`exit_code`] treats a closed pipe as the end of the command.
pub fn write(text: &str) -> anyhow::Result<()> {
    let output = io::stdout();
    let coloured = AutoStream::choice(&output) != ColorChoice::Never;
    let mut output = output.lock();
    if coloured {
        output.write_all(text.as_bytes())?;
    } else {
        let plain = anstream::adapter::strip_str(text).to_string();
        output.write_all(plain.as_bytes())?;
    }
    output.flush()?;
    Ok(())
}

/// Writes a line about the command itself to the standard error, if that is still open.
pub fn note(text: &str) {
    _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Returns the exit code of a command, and reports its error.
pub fn exit_code(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        // Whoever reads the output has read enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {error:#}"));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[derive(Serialize)]
    struct ExampleContent {
        images: Vec<&'static str>,
    }

    #[test]
    fn a_document_says_what_it_is() {
        let content = ExampleContent { images: vec!["base"] };
        let document = Document::new("Example", &content);
        let json: serde_json::Value =
            serde_json::from_str(&document.json().expect("JSON")).expect("JSON");
        assert_eq!(json["apiVersion"], API_VERSION);
        assert_eq!((&json["kind"], &json["images"][0]), (&"Example".into(), &"base".into()));
        let yaml: serde_json::Value =
            serde_yaml::from_str(&document.yaml().expect("YAML")).expect("YAML");
        assert_eq!(yaml, json);
    }

    #[test]
    fn json_has_no_character_on_which_a_terminal_acts() {
        let content =
            ExampleContent { images: vec!["a\u{9b}2J\u{7f}\u{202e}\u{e0041}\u{1b}gr\u{fc}n"] };
        let json = Document::new("Example", &content).json().expect("JSON");
        assert!(json.contains("a\\u009b2J\\u007f\\u202e\\udb40\\udc41\\u001bgr\u{fc}n"), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read["images"][0], content.images[0]);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let wrapped = Err::<(), _>(closed()).context("write the list");
        assert!(is_closed_pipe(&wrapped.expect_err("an error")));
        let full = anyhow::Error::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!is_closed_pipe(&full));
    }
}
