//! `kubectl family audit`: what each image is built on, how old it is, and how far it is behind.
//! From what the controller has recorded, or from a registry alone.
//!
//! - [`upstream_digests`]: the upstream digests that builds depend on, from the records
//! - [`recorded`]: the images of families
//! - [`registry`]: the images of a registry
//! - [`report`]: what is shown

mod recorded;
mod registry;
pub mod report;
#[cfg(test)]
mod tests;
mod upstream_digests;

use std::str::FromStr;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use groundswell::api::Duration;

use crate::{
    audit::report::AuditOrigin,
    input::{Estate, InputArguments},
    output::{self, Outcome, TabularFormat, note},
    registry_images::RegistryArguments,
};

const EXAMPLES: &str = "Examples:
  # Images that were built more than 30 days ago
  kubectl family audit -A --older-than 30d
  # All images with their owners, for a spreadsheet
  kubectl family audit -A --owner-label team -o csv > images.csv
  # From the registry alone, if the cluster is gone
  kubectl family audit registry.example.com/team -o wide";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct AuditArguments {
    /// Read the images of a registry, with the beginning of their repositories, and nothing of a
    /// cluster
    #[arg(
        value_name = "REGISTRY[/PREFIX]",
        conflicts_with_all = ["filenames", "selector", "all_namespaces", "namespace", "context"]
    )]
    registry: Option<String>,
    /// List only images that are older, for example 30d or 12h, and those of unknown age
    #[arg(long, value_name = "AGE")]
    older_than: Option<MinimumAge>,
    /// Label that names the owner: of the family, or of the image if the family does not have it
    #[arg(long, value_name = "LABEL", default_value = "team")]
    owner_label: String,
    /// Maximum number of tags of a registry that are read
    #[arg(long, value_name = "N", default_value_t = 5000)]
    limit: usize,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: TabularFormat,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    access: RegistryArguments,
}

/// An age in days, hours, minutes or seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MinimumAge(SignedDuration);

impl FromStr for MinimumAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(days) = text.strip_suffix('d') else {
            let duration: Duration =
                text.parse().map_err(|error| format!("{error}; or days, as in 30d"))?;
            return Ok(Self(duration.signed()));
        };
        let days = days.parse::<u16>().map_err(|_| "write a number of days, as in 30d")?;
        Ok(Self(SignedDuration::from_hours(i64::from(days) * 24)))
    }
}

pub async fn run(arguments: AuditArguments) -> anyhow::Result<Outcome> {
    let now = Timestamp::now();
    let mut report = if let Some(registry) = &arguments.registry {
        let access = arguments.access.access()?;
        Box::pin(registry::audit(&access, registry, &arguments, now)).await?
    } else {
        let estate = Box::pin(Estate::read(&arguments.input)).await?;
        recorded::audit(&estate, &arguments.owner_label, now)
    };
    if let Some(MinimumAge(age)) = arguments.older_than {
        report.keep_older(age.as_secs());
    }
    for problem in &report.problems {
        note(&format!("not read: {problem}"));
    }
    let is_incomplete = report.origin == AuditOrigin::Registry && !report.problems.is_empty();
    output::write(&report.rendered(arguments.output)?)?;
    Ok(if is_incomplete { Outcome::Findings } else { Outcome::Fine })
}
