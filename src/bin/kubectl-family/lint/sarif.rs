//! Findings in the format of code scanners: SARIF 2.1.0.

use groundswell::build_info;
use serde_sarif::sarif::{
    ArtifactLocation, Location, LogicalLocation, Message, MultiformatMessageString,
    PhysicalLocation, Region, ReportingConfiguration, ReportingDescriptor, Result as SarifResult,
    ResultLevel, Run, Sarif, Tool, ToolComponent,
};

use crate::lint::{
    finding::{Level, LintFinding},
    rules::{RULES, Rule},
};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// Returns the findings as SARIF.
///
/// # Errors
///
/// Never: all keys are texts.
pub fn document(findings: &[LintFinding]) -> anyhow::Result<String> {
    let driver = ToolComponent::builder()
        .name("kubectl-family")
        .version(build_info::LONG_VERSION.clone())
        .rules(RULES.iter().map(descriptor).collect::<Vec<_>>())
        .build();
    let run = Run::builder()
        .tool(Tool::builder().driver(driver).build())
        .results(findings.iter().map(result).collect::<Vec<_>>())
        .build();
    let sarif =
        Sarif::builder().schema(SCHEMA).version(serde_json::json!("2.1.0")).runs(vec![run]).build();
    Ok(serde_json::to_string_pretty(&sarif)? + "\n")
}

fn descriptor(rule: &Rule) -> ReportingDescriptor {
    let text = |text: &str| MultiformatMessageString::builder().text(text).build();
    ReportingDescriptor::builder()
        .id(rule.id)
        .short_description(text(rule.title))
        .full_description(text(rule.why))
        .help(text(&format!("{}\n\nExample:\n{}", rule.why, rule.example)))
        .default_configuration(
            ReportingConfiguration::builder().level(serde_json::json!(rule.level.as_str())).build(),
        )
        .build()
}

fn result(finding: &LintFinding) -> SarifResult {
    let level = match finding.level {
        Level::Error => ResultLevel::Error,
        Level::Warning => ResultLevel::Warning,
        Level::Note => ResultLevel::Note,
    };
    SarifResult::builder()
        .rule_id(finding.rule)
        .level(level)
        .message(Message::builder().text(finding.message.clone()).build())
        .locations(vec![location(finding)])
        .build()
}

fn location(finding: &LintFinding) -> Location {
    let logical = LogicalLocation::builder().fully_qualified_name(finding.subject.clone()).build();
    let mut location = Location::builder().logical_locations(vec![logical]).build();
    if let Some(file) = &finding.file {
        let line = i64::try_from(finding.line.unwrap_or(1)).unwrap_or(1);
        let artifact = ArtifactLocation::builder().uri(file.clone()).build();
        let region = Region::builder().start_line(line).build();
        let physical =
            PhysicalLocation::builder().artifact_location(artifact).region(region).build();
        location.physical_location = Some(physical);
    }
    location
}
