//! The result of a pre-flight: one line per subject, and the exit code. Pure.

use std::{fmt::Write as _, process::ExitCode};

use clap::ValueEnum;
use serde::Serialize;

use crate::terminal::printable;

/// Exit code if something prevents builds.
const EXIT_PROBLEM: u8 = 1;
/// Exit code if nothing prevents builds as far as is known, and something could not be checked. 2
/// is the exit code of a wrong command line.
const EXIT_NOT_CHECKED: u8 = 3;

/// What was found about a subject, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Nothing is to be done.
    Ok,
    /// It could not be checked. The message says why.
    NotChecked,
    /// Builds cannot run. The message says what to do.
    Problem,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub subject: String,
    /// What was found.
    pub verdict: Verdict,
    /// The details, and what to do.
    pub message: String,
}

impl Finding {
    /// Creates a line that asks for nothing.
    pub fn ok(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject: subject.into(), verdict: Verdict::Ok, message: message.into() }
    }

    /// Creates a line about something that could not be checked.
    pub fn not_checked(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject: subject.into(), verdict: Verdict::NotChecked, message: message.into() }
    }

    /// Creates a line about something that prevents builds.
    pub fn problem(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { subject: subject.into(), verdict: Verdict::Problem, message: message.into() }
    }
}

/// Format of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// One line per subject
    #[default]
    Text,
    /// A JSON object with the list findings
    Json,
}

/// Whether something that could not be checked is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// It has an exit code of its own.
    Strict,
    /// Only problems are errors.
    ProblemsOnly,
}

/// The result of a pre-flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The lines, in the order in which they were checked.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Returns the exit code, which the worst line determines.
    #[must_use]
    pub fn exit_code(&self, strictness: Strictness) -> ExitCode {
        ExitCode::from(self.code(strictness))
    }

    fn code(&self, strictness: Strictness) -> u8 {
        match self.findings.iter().map(|finding| finding.verdict).max() {
            Some(Verdict::Problem) => EXIT_PROBLEM,
            Some(Verdict::NotChecked) if strictness == Strictness::Strict => EXIT_NOT_CHECKED,
            _ => 0,
        }
    }

    /// Returns the report in a format.
    #[must_use]
    pub fn render(&self, format: ReportFormat) -> String {
        match format {
            ReportFormat::Text => self.text(),
            ReportFormat::Json => {
                ascii(&serde_json::to_string_pretty(self).unwrap_or_default()) + "\n"
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for Finding { subject, verdict, message } in &self.findings {
            let mark = match verdict {
                Verdict::Ok => "ok",
                Verdict::NotChecked => "not checked",
                Verdict::Problem => "PROBLEM",
            };
            // Writing to a String never fails.
            _ = writeln!(
                text,
                "{mark:<11}  {}: {}",
                printable(subject),
                printable(message).replace('\n', "\n             ")
            );
        }
        let count = |wanted| self.findings.iter().filter(|found| found.verdict == wanted).count();
        let summary = match (count(Verdict::Problem), count(Verdict::NotChecked)) {
            (0, 0) => "everything is ok".to_owned(),
            (0, unknown) => format!("no problem found; {unknown} not checked"),
            (problems, 0) => format!("{problems} to solve"),
            (problems, unknown) => format!("{problems} to solve; {unknown} not checked"),
        };
        text + "\n" + &summary + "\n"
    }
}

/// Returns a text of JSON in which only ASCII that can be printed is left, and line breaks. Such
/// characters are in strings alone, so that an escape means the same.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || c == ' ' || c.is_ascii_graphic() {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a String never fails.
            _ = write!(text, "\\u{unit:04x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let finding = |verdict: &Verdict| Finding {
            subject: "registry".into(),
            verdict: *verdict,
            message: "first line\nsecond line".into(),
        };
        Report { findings: verdicts.iter().map(finding).collect() }
    }

    #[test]
    fn the_worst_line_determines_the_exit_code_and_the_summary() {
        use Strictness::{ProblemsOnly, Strict};
        use Verdict::{NotChecked, Ok, Problem};
        for (verdicts, strict, problems_only, summary) in [
            (&[][..], 0, 0, "everything is ok"),
            (&[Ok, Ok], 0, 0, "everything is ok"),
            (&[NotChecked, Ok], 3, 0, "no problem found; 1 not checked"),
            (&[Problem, Ok], 1, 1, "1 to solve"),
            (&[Ok, Problem, NotChecked], 1, 1, "1 to solve; 1 not checked"),
        ] {
            let report = report(verdicts);
            assert_eq!((report.code(Strict), report.code(ProblemsOnly)), (strict, problems_only));
            let text = report.render(ReportFormat::Text);
            assert_eq!(text.lines().last(), Some(summary), "{text}");
        }
    }

    #[test]
    fn nothing_in_a_message_acts_on_the_terminal() {
        let mut report = report(&[Verdict::Problem]);
        report.findings[0].message = "the registry says \u{1b}[2Jok".into();
        assert!(report.render(ReportFormat::Text).contains("says \\u{1b}[2Jok"));

        let message = "a\u{7f}\u{9b}2J\u{202e}b\u{e0041}é";
        report.findings[0].message = message.into();
        let json = report.render(ReportFormat::Json);
        assert!(json.contains(r"a\u007f\u009b2J\u202eb\udb40\udc41\u00e9"), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read["findings"][0]["message"], message);
    }

    #[test]
    fn every_line_begins_with_its_verdict() {
        let text = report(&[Verdict::Ok, Verdict::NotChecked, Verdict::Problem]);
        let expected = "\
ok           registry: first line
             second line
not checked  registry: first line
             second line
PROBLEM      registry: first line
             second line

1 to solve; 1 not checked
";
        assert_eq!(text.render(ReportFormat::Text), expected);
        let json: serde_json::Value =
            serde_json::from_str(&text.render(ReportFormat::Json)).expect("JSON");
        assert_eq!(json["findings"][1]["verdict"], "notChecked");
        assert_eq!(json["findings"][2]["message"], "first line\nsecond line");
    }
}
