//! Findings in the format of code scanners: SARIF 2.1.0.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use groundswell::{build_info, registry::Digest};
use serde_sarif::sarif::{
    ArtifactLocation, Location, LogicalLocation, Message, MultiformatMessageString,
    PhysicalLocation, Region, ReportingConfiguration, ReportingDescriptor, Result as SarifResult,
    ResultLevel, Run, Sarif, Tool, ToolComponent,
};

use crate::lint::{
    finding::{Level, LintFinding},
    rules::{RULES, Rule},
    subject::LintedEstate,
};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";
/// The name of the fingerprint by which scanners recognise a finding after lines have moved.
const FINGERPRINT: &str = "groundswellFinding/v1";

/// Returns the findings as SARIF.
///
/// # Errors
///
/// Never: all keys are texts.
pub fn document(findings: &[LintFinding], estate: &LintedEstate<'_>) -> anyhow::Result<String> {
    let driver = ToolComponent::builder()
        .name("kubectl-family")
        .version(build_info::LONG_VERSION.clone())
        .rules(RULES.iter().map(descriptor).collect::<Vec<_>>())
        .build();
    let run = Run::builder()
        .tool(Tool::builder().driver(driver).build())
        .results(findings.iter().map(|finding| result(finding, estate)).collect::<Vec<_>>())
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

fn result(finding: &LintFinding, estate: &LintedEstate<'_>) -> SarifResult {
    let level = match finding.level {
        Level::Error => ResultLevel::Error,
        Level::Warning => ResultLevel::Warning,
        Level::Note => ResultLevel::Note,
    };
    SarifResult::builder()
        .rule_id(finding.rule)
        .level(level)
        .message(Message::builder().text(finding.message.clone()).build())
        .locations(vec![location(finding, estate)])
        .partial_fingerprints(fingerprints(finding))
        .build()
}

fn fingerprints(finding: &LintFinding) -> BTreeMap<String, String> {
    let LintFinding { rule, subject, message, .. } = finding;
    let digest = Digest::of(format!("{rule}\n{subject}\n{message}").as_bytes());
    BTreeMap::from([(FINGERPRINT.to_owned(), digest.to_string())])
}

/// Returns where a finding is. Scanners reject a document in which one has no file: what is in no
/// Dockerfile of a checkout is in the manifest, and in a cluster there is only the name.
fn location(finding: &LintFinding, estate: &LintedEstate<'_>) -> Location {
    let logical = LogicalLocation::builder().fully_qualified_name(finding.subject.clone()).build();
    let (file, line) = if let Some(file) = &finding.file {
        (file.clone(), u64::try_from(finding.line.unwrap_or(1)).unwrap_or(1))
    } else {
        let place = estate.manifest_line(&finding.subject);
        place.unwrap_or_else(|| (finding.subject.clone(), 1))
    };
    let artifact = ArtifactLocation::builder().uri(relative_uri(&file)).build();
    let region = Region::builder().start_line(i64::try_from(line).unwrap_or(1)).build();
    let physical = PhysicalLocation::builder().artifact_location(artifact).region(region).build();
    Location::builder().logical_locations(vec![logical]).physical_location(physical).build()
}

/// Returns a path as a URI: relative to the current folder, if it is in it.
fn relative_uri(path: &str) -> String {
    let current = std::env::current_dir().unwrap_or_default();
    let path = Path::new(path).strip_prefix(&current).unwrap_or(Path::new(path));
    let path = path.to_string_lossy();
    let path = path.strip_prefix("./").unwrap_or(&path);
    let mut uri = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => uri.push(char::from(byte)),
            other if other.is_ascii_alphanumeric() => uri.push(char::from(other)),
            // Writing to a String never fails.
            other => _ = write!(uri, "%{other:02X}"),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_uris() {
        let current = std::env::current_dir().expect("a folder").join("a/b.yaml");
        for (path, expected) in [
            ("my app/50%#x.Dockerfile", "my%20app/50%25%23x.Dockerfile"),
            ("./a/b", "a/b"),
            (current.to_str().expect("a path"), "a/b.yaml"),
        ] {
            assert_eq!(relative_uri(path), expected);
        }
    }
}
