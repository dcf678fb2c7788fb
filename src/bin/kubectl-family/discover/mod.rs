//! `kubectl family discover`: which images of a registry are built on which, without any manifest.
//! It only reads.
//!
//! - [`scan`]: the requests
//! - [`ancestry`]: what follows from annotations, layers and histories
//! - [`report`]: what is shown
//! - [`families`]: manifests that adopt the images

pub mod ancestry;
mod families;
mod report;
pub mod scan;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use crate::discover::report::DiscoveryReport;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use groundswell::registry::Reference;
use jiff::Timestamp;

use crate::{
    discover::{
        ancestry::bases,
        scan::{RegistryPrefix, list_tags, read_images},
    },
    import::write,
    output::{self, Document, Outcome, Terminal, note},
    registry_images::RegistryArguments,
};

/// Maximum size of a list of references in bytes.
const MAX_LIST_BYTES: u64 = 16 << 20;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    # Show what the images of a team are built on\n  \
    kubectl family discover registry.example.com/team\n\n  \
    # Read the images that a file lists, one reference per line\n  \
    kubectl family discover --images images.txt\n\n  \
    # Write families that adopt the images: nothing is built, and no tag moves\n  \
    kubectl family discover registry.example.com/team -o family\n\n\
    Exit codes: 0 if everything was read, 1 if something was not, 2 for a usage or input error \
    or a registry that does not answer")]
pub struct DiscoverArguments {
    /// Registry, with the beginning of the repositories that are read
    #[arg(value_name = "REGISTRY[/PREFIX]", required_unless_present = "images")]
    registry: Option<String>,
    /// File with the references to read, one per line, in place of a registry
    #[arg(long, value_name = "FILE", conflicts_with = "registry")]
    images: Option<PathBuf>,
    /// Maximum number of tags that are read
    #[arg(long, value_name = "N", default_value_t = 5000)]
    limit: usize,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: DiscoverFormat,
    /// Namespace of the families that are written
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    access: RegistryArguments,
}

/// Format of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum DiscoverFormat {
    /// A table, and the totals
    #[default]
    Table,
    /// A JSON object
    Json,
    /// The same object as YAML
    Yaml,
    /// One reference per line
    Name,
    /// Manifests of families that adopt the images
    Family,
}

/// Runs the command.
pub async fn run(arguments: DiscoverArguments) -> anyhow::Result<Outcome> {
    let access = arguments.access.access()?;
    let mut problems = Vec::new();
    let (prefix, references) = match (&arguments.registry, &arguments.images) {
        (_, Some(file)) => {
            let references = read_list(file, arguments.limit)?;
            (common_prefix(&references)?, references)
        }
        (Some(registry), None) => {
            let prefix = RegistryPrefix::parse(registry)?;
            let references = list_tags(&access, &prefix, arguments.limit, &mut problems).await?;
            (prefix, references)
        }
        (None, None) => bail!("name a registry, or a file with references"),
    };
    let mut scan = read_images(&access, references, &[]).await;
    problems.append(&mut scan.problems);
    if scan.images.is_empty() {
        let first = problems.first().map_or("it has no tag", String::as_str);
        bail!("there is no image: {first}");
    }
    let bases = bases(&scan.images);
    if arguments.output == DiscoverFormat::Family {
        let manifests =
            families::manifests(&scan.images, &bases, &prefix, arguments.namespace, &mut problems)?;
        write::print(&manifests)?;
    } else {
        let report = DiscoveryReport::new(&scan.images, &bases, problems.clone(), Timestamp::now());
        print(&report, arguments.output)?;
    }
    for problem in &problems {
        note(&format!("not read: {problem}"));
    }
    Ok(if problems.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

fn print(report: &DiscoveryReport, format: DiscoverFormat) -> anyhow::Result<()> {
    let document = Document::new("RegistryDiscovery", report);
    let text = match format {
        DiscoverFormat::Json => document.json()?,
        DiscoverFormat::Yaml => document.yaml()?,
        DiscoverFormat::Name => {
            let names = report.images.iter().flat_map(|image| &image.names);
            names.fold(String::new(), |text, name| text + name + "\n")
        }
        DiscoverFormat::Table | DiscoverFormat::Family => {
            report.table(Terminal::of_stdout().width) + "\n" + &report.summary()
        }
    };
    output::write(&write::shown(text))
}

/// Reads a list of references. Empty lines and comments are skipped.
fn read_list(file: &std::path::Path, limit: usize) -> anyhow::Result<Vec<Reference>> {
    let shown = file.display();
    let text =
        crate::import::read_text_of(file, MAX_LIST_BYTES).with_context(|| shown.to_string())?;
    let mut references = Vec::new();
    let lines = text.trim_start_matches('\u{feff}').lines();
    for (number, line) in (1..).zip(lines.map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let reference: Reference =
            line.parse().with_context(|| format!("{shown}: line {number}"))?;
        references.push(reference);
    }
    if references.len() > limit {
        bail!("{shown}: it has {} references; raise --limit", references.len());
    }
    Ok(references)
}

/// Returns the registry and the folders that all references have in common.
fn common_prefix(references: &[Reference]) -> anyhow::Result<RegistryPrefix> {
    let first = references.first().context("the list has no reference")?;
    let mut common: Vec<&str> = first.path().split('/').collect();
    common.pop();
    for reference in references.iter().filter(|one| one.registry() == first.registry()) {
        let same = common.iter().zip(reference.path().split('/')).take_while(|(a, b)| **a == *b);
        let same = same.count();
        common.truncate(same);
    }
    Ok(RegistryPrefix { registry: first.registry().to_owned(), path: common.join("/") })
}
