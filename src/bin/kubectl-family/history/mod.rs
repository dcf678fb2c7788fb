//! `kubectl family history`: the builds of an image, or the cascades of families, as the controller
//! has recorded them.
//!
//! - [`builds`]: the builds of an image
//! - [`cascades`]: the cascades of families
//! - [`patched`]: how long cascades take until images are patched

pub mod builds;
pub mod cascades;
pub mod patched;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;

use crate::{
    history::{builds::BuildHistory, cascades::CascadeHistory},
    input::{Estate, InputArguments, target::TargetName},
    output::{self, Document, Outcome, TabularFormat, Terminal},
};

const EXAMPLES: &str = "Examples:
  # The builds of an image: cause, base, digest, duration and result
  kubectl family history app
  # The cascades of all families, with the time until images were patched
  kubectl family history -A -o wide
  # The cascades of one family for a spreadsheet
  kubectl family history --family flask -o csv > cascades.csv";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct HistoryArguments {
    /// The image: NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME. Without one, the cascades are listed
    image: Option<TargetName>,
    /// List the cascades of this family only
    #[arg(long, value_name = "FAMILY", conflicts_with = "image")]
    family: Option<String>,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: TabularFormat,
    #[command(flatten)]
    input: InputArguments,
}

pub async fn run(arguments: HistoryArguments) -> anyhow::Result<Outcome> {
    let mut estate = Estate::read(&arguments.input).await?;
    let (format, now) = (arguments.output, Timestamp::now());
    let width = Terminal::of_stdout().width;
    let text = if let Some(image) = &arguments.image {
        let (family, index) = image.find_image(&estate)?;
        let history = BuildHistory::of(family, index, now)?;
        match format {
            TabularFormat::Table => history.table(now, width),
            TabularFormat::Wide => history.wide(now, width),
            TabularFormat::Json => Document::new("BuildHistory", &history).json()?,
            TabularFormat::Yaml => Document::new("BuildHistory", &history).yaml()?,
            TabularFormat::Name => history.names(),
            TabularFormat::Csv => history.csv()?,
        }
    } else {
        if let Some(name) = &arguments.family {
            estate.families.retain(|family| family.name.name == *name);
            if estate.families.is_empty() {
                bail!("there is no family {name}; list all with kubectl family status");
            }
        }
        let history = CascadeHistory::of(&estate);
        match format {
            TabularFormat::Table => history.table(now, width),
            TabularFormat::Wide => history.wide(now, width),
            TabularFormat::Json => Document::new("CascadeHistory", &history).json()?,
            TabularFormat::Yaml => Document::new("CascadeHistory", &history).yaml()?,
            TabularFormat::Name => history.names(),
            TabularFormat::Csv => history.csv()?,
        }
    };
    output::write(&text)?;
    Ok(Outcome::Fine)
}
