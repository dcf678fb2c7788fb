//! What `audit` shows: one row for each image, and for spreadsheets one for each image and
//! upstream.

use std::fmt::Write as _;

use comfy_table::Color;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use groundswell::engine::causes::short;

use crate::{
    history::{cascades::seconds, patched::TimeToPatched},
    input::plural,
    output::{
        Document, TabularFormat, Terminal, csv,
        table::{self, StyledText, styled},
    },
    status::age_of,
};

/// The images of families or of a registry, with their age and what they are built on.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditReport {
    pub origin: AuditOrigin,
    pub images: Vec<AuditedImage>,
    /// How long the recorded cascades took until images were patched. Not set without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_patched: Option<TimeToPatched>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// Where the facts are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum AuditOrigin {
    /// What the controller has recorded, in a cluster or in files.
    Records,
    /// The images of a registry.
    Registry,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditedImage {
    /// `namespace/family/image`; of a registry, the first reference by tag.
    pub name: String,
    /// Repository that the image is in.
    pub repository: String,
    /// Value of the label that names the owner. Not set without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Recorded state of the image. Not set if none is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// Number of the build. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// Digest of the last verified build or of the one to which a user has rolled back, or of the
    /// tag. Not set if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Time at which the build of the digest ended; of a registry, the date in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub built_at: Option<Timestamp>,
    /// Time since `builtAt` in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// What the image is built on. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<AuditedBase>,
    /// The upstreams below the image, also below its parents and build stages.
    pub upstreams: Vec<AuditedUpstream>,
}

/// The base of an image.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditedBase {
    /// Name of the upstream or image; of a registry, its reference.
    pub name: String,
    /// Digest that the image is built on. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Digest that builds use now. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// Whether the image is built on another digest than the newest. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_outdated: Option<bool>,
}

/// An upstream below an image.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditedUpstream {
    /// Reference that is followed.
    pub reference: String,
    /// Digest that the image depends on. Not set if it does not follow from what is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Digest that builds use. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<String>,
    /// Newest digest that was observed. Not set if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// Why the image does not use the newest digest. Not set if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<BehindReason>,
    /// Time since which there is a newer digest, as far as it is known: it may be earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub behind_since: Option<Timestamp>,
    /// Time since `behindSince` in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<i64>,
}

/// Why an image does not use the newest digest of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum BehindReason {
    /// The image was not rebuilt since a newer digest was adopted; of a registry, since the tag
    /// has moved.
    NotRebuilt,
    /// The image depends on the adopted digest, and a newer one was observed.
    NotAdopted,
    /// It is not known whether the image is behind.
    Unknown,
}

impl BehindReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NotRebuilt => "NotRebuilt",
            Self::NotAdopted => "NotAdopted",
            Self::Unknown => "Unknown",
        }
    }
}

impl AuditedImage {
    /// Returns the upstream to show if there is place for one: one that is behind longest, or else
    /// an unknown one, or else the first.
    fn main_upstream(&self) -> Option<&AuditedUpstream> {
        self.upstreams.iter().rev().max_by_key(|upstream| {
            let weight = match upstream.behind {
                Some(BehindReason::NotRebuilt | BehindReason::NotAdopted) => 2,
                Some(BehindReason::Unknown) => 1,
                None => 0,
            };
            (weight, upstream.behind_seconds)
        })
    }

    fn is_behind(&self) -> bool {
        let is_behind = |upstream: &AuditedUpstream| {
            matches!(upstream.behind, Some(BehindReason::NotRebuilt | BehindReason::NotAdopted))
        };
        let base = self.base.as_ref().and_then(|base| base.is_outdated);
        base == Some(true) || self.upstreams.iter().any(is_behind)
    }

    /// Returns the columns that both tables begin with.
    fn cells(&self) -> Vec<StyledText> {
        let main = self.main_upstream();
        let base = self.base.as_ref().map_or("-".to_owned(), |base| {
            let digest = base.digest.as_deref().map(|digest| format!("@{}", short(digest)));
            format!("{}{}", base.name, digest.unwrap_or_default())
        });
        let upstream = main.map_or("-".to_owned(), |main| {
            let digest = main.digest.as_deref().map_or("unknown", short);
            let more = self.upstreams.len() - 1;
            let more = if more > 0 { format!(" +{more}") } else { String::new() };
            format!("{}@{digest}{more}", main.reference)
        });
        vec![
            (&self.name).into(),
            self.owner.as_deref().unwrap_or("-").into(),
            self.age_seconds.map_or("-".to_owned(), age_of).into(),
            self.behind_cell(),
            base.into(),
            upstream.into(),
        ]
    }

    fn behind_cell(&self) -> StyledText {
        let main = self.main_upstream();
        if self.is_behind() {
            let since = main.and_then(|main| main.behind_seconds);
            return styled(&since.map_or("yes".to_owned(), age_of), Color::Yellow);
        }
        if self.is_unknown() { styled("unknown", Color::Grey) } else { styled("no", Color::Green) }
    }

    /// Whether it does not follow from the records whether the image is behind.
    fn is_unknown(&self) -> bool {
        !self.is_behind() && self.main_upstream().is_none_or(|main| main.behind.is_some())
    }
}

impl AuditReport {
    /// Keeps the images that are older, or of unknown age.
    pub fn keep_older(&mut self, age_seconds: i64) {
        self.images.retain(|image| image.age_seconds.is_none_or(|age| age > age_seconds));
    }

    /// Returns the report in a format.
    pub fn rendered(&self, format: TabularFormat) -> anyhow::Result<String> {
        let width = Terminal::of_stdout().width;
        Ok(match format {
            TabularFormat::Table => self.table(width),
            TabularFormat::Wide => self.wide(width),
            TabularFormat::Json => Document::new("Audit", self).json()?,
            TabularFormat::Yaml => Document::new("Audit", self).yaml()?,
            TabularFormat::Name => {
                self.images.iter().map(|image| table::one_line(&image.name) + "\n").collect()
            }
            TabularFormat::Csv => self.csv()?,
        })
    }

    fn table(&self, width: Option<u16>) -> String {
        let header = ["IMAGE", "OWNER", "AGE", "BEHIND", "BASE", "UPSTREAM"];
        self.tabular(&header, AuditedImage::cells, width)
    }

    fn wide(&self, width: Option<u16>) -> String {
        let header = [
            "IMAGE",
            "OWNER",
            "AGE",
            "BEHIND",
            "BASE",
            "UPSTREAM",
            "STATE",
            "BUILD",
            "DIGEST",
            "NEWEST-BASE",
            "ADOPTED",
            "OBSERVED",
            "REASON",
        ];
        let row = |image: &AuditedImage| {
            let mut row = image.cells();
            let main = image.main_upstream();
            let digest = |digest: Option<&String>| digest.map_or("-", |one| short(one)).into();
            row.extend([
                image.state.unwrap_or("-").into(),
                image.build.map_or("-".to_owned(), |build| build.to_string()).into(),
                digest(image.digest.as_ref()),
                digest(image.base.as_ref().and_then(|base| base.newest.as_ref())),
                digest(main.and_then(|main| main.adopted.as_ref())),
                digest(main.and_then(|main| main.observed.as_ref())),
                main.and_then(|main| main.behind).map_or("-", BehindReason::as_str).into(),
            ]);
            row
        };
        self.tabular(&header, row, width)
    }

    fn tabular(
        &self,
        header: &[&str],
        row: impl Fn(&AuditedImage) -> Vec<StyledText>,
        width: Option<u16>,
    ) -> String {
        let summary = self.summary();
        if self.images.is_empty() {
            return summary;
        }
        let rows = self.images.iter().map(row).collect();
        table::render_without(&["BASE"], header, rows, width) + "\n" + &summary
    }

    fn summary(&self) -> String {
        let behind = self.images.iter().filter(|image| image.is_behind()).count();
        let unbuilt = self.images.iter().filter(|image| image.digest.is_none()).count();
        let count = self.images.len();
        let mut text = format!("{count} image{}: {behind} behind", plural(count));
        let is_unknown = |image: &&AuditedImage| image.digest.is_some() && image.is_unknown();
        let unknown = self.images.iter().filter(is_unknown).count();
        if unknown > 0 {
            _ = write!(text, ", {unknown} unknown");
        }
        if unbuilt > 0 {
            _ = write!(text, ", {unbuilt} without a build");
        }
        text.push('\n');
        if let Some(times) = &self.time_to_patched {
            let time = |value| seconds(Some(value));
            _ = writeln!(
                text,
                "Time to patched: p50 {}, p95 {}, max {}, over {} build{} of the recorded cascades",
                time(times.p50_seconds),
                time(times.p95_seconds),
                time(times.max_seconds),
                times.images,
                plural(times.images)
            );
        }
        text
    }

    /// Returns one row for each image and upstream, and one for an image without an upstream.
    fn csv(&self) -> anyhow::Result<String> {
        let header = [
            "image",
            "repository",
            "owner",
            "state",
            "build",
            "digest",
            "built",
            "age_seconds",
            "base",
            "base_digest",
            "base_newest",
            "upstream",
            "upstream_digest",
            "adopted",
            "observed",
            "behind",
            "behind_since",
            "behind_seconds",
        ];
        let mut rows = Vec::new();
        for image in &self.images {
            let upstreams = image.upstreams.iter().map(Some);
            let none = image.upstreams.is_empty().then_some(None);
            for upstream in upstreams.chain(none) {
                rows.push(csv_row(image, upstream));
            }
        }
        csv::render(&header, &rows)
    }
}

fn csv_row(image: &AuditedImage, upstream: Option<&AuditedUpstream>) -> Vec<String> {
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let base = image.base.as_ref();
    let of_upstream = |value: fn(&AuditedUpstream) -> Option<String>| {
        upstream.and_then(value).unwrap_or_default()
    };
    let behind = upstream.and_then(|one| one.behind).map_or("", BehindReason::as_str);
    vec![
        image.name.clone(),
        image.repository.clone(),
        image.owner.clone().unwrap_or_default(),
        image.state.unwrap_or_default().to_owned(),
        number(image.build),
        image.digest.clone().unwrap_or_default(),
        time(image.built_at),
        number(image.age_seconds),
        base.map(|base| base.name.clone()).unwrap_or_default(),
        base.and_then(|base| base.digest.clone()).unwrap_or_default(),
        base.and_then(|base| base.newest.clone()).unwrap_or_default(),
        of_upstream(|one| Some(one.reference.clone())),
        of_upstream(|one| one.digest.clone()),
        of_upstream(|one| one.adopted.clone()),
        of_upstream(|one| one.observed.clone()),
        behind.to_owned(),
        time(upstream.and_then(|one| one.behind_since)),
        number(upstream.and_then(|one| one.behind_seconds)),
    ]
}
