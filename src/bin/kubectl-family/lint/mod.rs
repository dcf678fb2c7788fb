//! `kubectl family lint`: what a linter of single Dockerfiles cannot see.

mod checkout;
mod checks;
mod commands;
#[cfg(test)]
mod commands_tests;
mod dockerfile;
mod finding;
mod rules;
mod sarif;
mod shell;
mod subject;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf};

use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use comfy_table::Color;
use groundswell::api::Image;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    input::{Estate, InputArguments, plural},
    lint::{
        checkout::Checkout,
        finding::{Level, LintFinding},
        rules::{RULES, RuleReports},
        subject::{LintedEstate, checked_out_text},
    },
    output::{
        self, Document, Outcome, Terminal,
        table::{self, StyledText, styled},
    },
};

/// Commands that the help shows.
const EXAMPLES: &str = "Examples:
  kubectl family lint -f family.yaml
  kubectl family lint -f families/ --checkout . --disable unused-image
  kubectl family lint -A -o sarif";

/// The arguments of the command.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct LintArguments {
    #[command(flatten)]
    input: InputArguments,
    /// Checkout of the Git repository that has the Dockerfiles. Without it, only those outside of
    /// Git are read
    #[arg(long, value_name = "DIR")]
    checkout: Option<PathBuf>,
    /// Rule that is not checked. May be repeated, or a list with commas
    #[arg(long, value_name = "RULE", value_delimiter = ',',
          value_parser = PossibleValuesParser::new(RULES.iter().map(|rule| rule.id)))]
    disable: Vec<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: LintFormat,
}

/// Format of the findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LintFormat {
    /// A table
    #[default]
    Table,
    /// A JSON object
    Json,
    /// The same object as YAML
    Yaml,
    /// SARIF 2.1.0, for code scanners
    Sarif,
}

/// The findings, as `-o json` writes them.
#[derive(JsonSchema, Serialize)]
pub struct LintReport {
    findings: Vec<LintFinding>,
    /// Number of Dockerfiles that were read.
    read: usize,
    /// Number of images whose Dockerfile is not here.
    unread: usize,
}

/// Runs the command.
pub async fn run(arguments: LintArguments) -> anyhow::Result<Outcome> {
    let checkout = arguments.checkout.as_deref().map(Checkout::open).transpose()?;
    let text_of = |image: &Image| checked_out_text(image, checkout.as_ref());
    let estate = Box::pin(Estate::read_with_dockerfiles(&arguments.input, &text_of)).await?;
    let now = jiff::Timestamp::now();
    let linted = LintedEstate::read(&estate, checkout.as_ref(), now);
    let disabled: BTreeSet<&str> = arguments.disable.iter().map(String::as_str).collect();
    let report = LintReport::new(&linted, &disabled);
    output::write(&report.rendered(arguments.output, &linted)?)?;
    Ok(if report.findings.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

impl LintReport {
    fn new(estate: &LintedEstate<'_>, disabled: &BTreeSet<&str>) -> Self {
        let mut findings = Vec::new();
        for rule in RULES.iter().filter(|rule| !disabled.contains(rule.id)) {
            let mut reports = RuleReports::default();
            (rule.check)(estate, &mut reports);
            findings.extend(reports.0.into_iter().map(|report| LintFinding {
                subject: report.subject,
                file: report.file,
                line: report.line,
                rule: rule.id,
                level: rule.level,
                message: report.message,
            }));
        }
        findings.sort();
        let read = estate.images().filter(|image| image.dockerfile.text.is_some()).count();
        let unread = estate.images().count() - read;
        Self { findings, read, unread }
    }

    fn rendered(&self, format: LintFormat, estate: &LintedEstate<'_>) -> anyhow::Result<String> {
        let document = Document::new("LintReport", self);
        Ok(match format {
            LintFormat::Json => document.json()?,
            LintFormat::Yaml => document.yaml()?,
            LintFormat::Sarif => sarif::document(&self.findings, estate)?,
            LintFormat::Table => self.table(Terminal::of_stdout().width),
        })
    }

    fn table(&self, width: Option<u16>) -> String {
        let rows = self.findings.iter().map(|finding| {
            let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
            let place = match &finding.file {
                Some(file) => format!("{file}{line}"),
                None => format!("{}{line}", finding.subject),
            };
            vec![
                level(finding.level),
                finding.rule.into(),
                place.into(),
                StyledText::from(&finding.message),
            ]
        });
        let (count, read) = (self.findings.len(), self.read);
        let mut text = if count == 0 {
            String::new()
        } else {
            table::render(&["LEVEL", "RULE", "PLACE", "MESSAGE"], rows.collect(), width) + "\n"
        };
        _ = write!(
            text,
            "{count} finding{}, {read} Dockerfile{} read",
            plural(count),
            plural(read)
        );
        if self.unread > 0 {
            _ = write!(text, ", {} not here (see --checkout)", self.unread);
        }
        text + "\n"
    }
}

fn level(level: Level) -> StyledText {
    let colour = match level {
        Level::Error => Color::Red,
        Level::Warning => Color::Yellow,
        Level::Note => Color::Grey,
    };
    styled(level.as_str(), colour)
}
