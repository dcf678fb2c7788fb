//! What `discover` shows: one row for each image, and the totals.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use groundswell::{
    api::{Follow, Upstream},
    engine::end_of_life::ended_upstreams,
    registry::{Digest, Reference},
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    discover::ancestry::{BaseEvidence, DiscoveredImage, FoundBase, UnknownBase},
    input::plural,
    output::table::{self, StyledText},
    registry_images::human_size,
    status::age_of,
};

/// The images of a registry, as `-o json` writes them.
#[derive(Serialize, JsonSchema, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryReport {
    pub images: Vec<DiscoveredRow>,
    pub totals: DiscoveryTotals,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// An image and what it is built on.
#[derive(Serialize, JsonSchema, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveredRow {
    /// The references by tag.
    pub names: Vec<String>,
    #[schemars(with = "String")]
    pub digest: Digest,
    pub base: BaseRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub created: Option<Timestamp>,
    /// Age in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// The releases below the image whose support has ended, each with its last day.
    pub end_of_life: Vec<String>,
    /// Size of all layers in bytes, compressed.
    pub size: u64,
    /// Size of the layers that the base has, too.
    pub shared_with_base: u64,
}

/// What an image is built on.
#[derive(Serialize, JsonSchema, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BaseRow {
    pub state: BaseState,
    /// The base; the candidates if it is ambiguous; empty if it is not known.
    pub images: Vec<String>,
    /// What shows it: `Annotation` or `Layers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<&'static str>,
    /// Whether the image is built on an earlier build of the base.
    pub is_outdated: bool,
    /// How long after the image its base was built, in seconds, if the image is built on an
    /// earlier build of the base. Not set if one of them has no date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<i64>,
    /// Why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// Whether the base of an image is known.
#[derive(Serialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseState {
    /// It is one of the images.
    Known,
    /// It is an image that was not read.
    Elsewhere,
    Ambiguous,
    Unknown,
}

/// Counts of images and bytes.
#[derive(Serialize, JsonSchema, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryTotals {
    pub images: usize,
    /// Images whose base is one of the images.
    pub edges: usize,
    pub elsewhere: usize,
    pub ambiguous: usize,
    pub unknown: usize,
    /// Images on an earlier build of their base.
    pub behind: usize,
    /// Images on a release whose support has ended.
    pub end_of_life: usize,
    /// Size of all images in bytes, as if nothing were shared.
    pub size: u64,
    /// Size of all different layers in bytes.
    pub stored: u64,
}

impl DiscoveryReport {
    /// Describes images at a time.
    pub fn new(
        images: &[DiscoveredImage],
        bases: &[FoundBase],
        problems: Vec<String>,
        now: Timestamp,
    ) -> Self {
        let ends = ends(images, bases, now);
        let rows: Vec<DiscoveredRow> = images
            .iter()
            .zip(bases)
            .zip(ends)
            .map(|((image, base), end_of_life)| row(images, image, base, end_of_life, now))
            .collect();
        let count = |state| rows.iter().filter(|row| row.base.state == state).count();
        let stored: BTreeMap<&Digest, u64> =
            images.iter().flat_map(|image| &image.layers).map(|l| (&l.digest, l.size)).collect();
        let totals = DiscoveryTotals {
            images: rows.len(),
            edges: count(BaseState::Known),
            elsewhere: count(BaseState::Elsewhere),
            ambiguous: count(BaseState::Ambiguous),
            unknown: count(BaseState::Unknown),
            behind: rows.iter().filter(|row| row.base.is_outdated).count(),
            end_of_life: rows.iter().filter(|row| !row.end_of_life.is_empty()).count(),
            size: rows.iter().fold(0, |sum, row| sum.saturating_add(row.size)),
            stored: stored.values().fold(0, |sum, size| sum.saturating_add(*size)),
        };
        Self { images: rows, totals, problems }
    }

    /// Returns the report as a table that fits into `width`.
    pub fn table(&self, width: Option<u16>) -> String {
        let header = ["IMAGE", "BASE", "SHOWN BY", "AGE", "BEHIND", "SIZE", "SHARED", "SUPPORT"];
        let prefix = self.common_prefix();
        let rows = self.images.iter().map(|row| row.cells(prefix)).collect();
        let expendable = ["SHARED", "SIZE", "SHOWN BY", "AGE"];
        let table = table::render_without(&expendable, &header, rows, width);
        if prefix.is_empty() { table } else { format!("Names below {prefix}\n\n{table}") }
    }

    /// Returns the registry and the folders that all images have in common, with the last slash. In
    /// a narrow table, the ends of names are what distinguishes them.
    fn common_prefix(&self) -> &str {
        let mut names = self.images.iter().flat_map(|row| &row.names);
        let Some(first) = names.next() else { return "" };
        let mut end = first.rfind('/').map_or(0, |slash| slash + 1);
        for name in names {
            while !first.get(..end).is_some_and(|prefix| name.starts_with(prefix)) {
                let shorter = first.get(..end.saturating_sub(1)).unwrap_or_default();
                end = shorter.rfind('/').map_or(0, |slash| slash + 1);
            }
        }
        first.get(..end).unwrap_or_default()
    }

    /// Returns the totals as sentences.
    pub fn summary(&self) -> String {
        let t = &self.totals;
        let mut text = format!(
            "{} image{}: {} on another one of them, {} on an image elsewhere, {} ambiguous, {} \
             unknown.\n{} in all, {} stored: {} are shared.\n",
            t.images,
            plural(t.images),
            t.edges,
            t.elsewhere,
            t.ambiguous,
            t.unknown,
            human_size(t.size),
            human_size(t.stored),
            human_size(t.size.saturating_sub(t.stored))
        );
        if t.behind > 0 {
            _ = writeln!(text, "{} are built on an earlier build of their base.", t.behind);
        }
        if t.end_of_life > 0 {
            _ = writeln!(text, "{} are built on a release without support.", t.end_of_life);
        }
        text.push_str("Build stages leave no trace in an image, so they are not shown.\n");
        text
    }
}

impl DiscoveredRow {
    /// Returns the cells of the row. Names are without the prefix that all have in common.
    fn cells(&self, prefix: &str) -> Vec<StyledText> {
        let short = |name: &String| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        let first = self.names.first().map(short).unwrap_or_default();
        let bases = self.base.images.iter().map(short).collect::<Vec<_>>().join(", ");
        let more = self.names.len().saturating_sub(1);
        let name = if more > 0 { format!("{first} +{more}") } else { first };
        let base = match self.base.state {
            BaseState::Known | BaseState::Elsewhere => bases,
            BaseState::Ambiguous => format!("one of: {bases}"),
            BaseState::Unknown => format!("unknown: {}", self.base.reason.unwrap_or_default()),
        };
        let duration = |seconds: Option<i64>| seconds.map_or("-".to_owned(), age_of);
        let support = self.end_of_life.first().map_or("-", String::as_str);
        [
            name,
            base,
            self.base.evidence.unwrap_or("-").to_lowercase(),
            duration(self.age_seconds),
            if self.base.is_outdated && self.base.behind_seconds.is_none() {
                "yes".to_owned()
            } else {
                duration(self.base.behind_seconds)
            },
            human_size(self.size),
            human_size(self.shared_with_base),
            support.to_owned(),
        ]
        .into_iter()
        .map(StyledText::from)
        .collect()
    }
}

fn row(
    images: &[DiscoveredImage],
    image: &DiscoveredImage,
    base: &FoundBase,
    end_of_life: Vec<String>,
    now: Timestamp,
) -> DiscoveredRow {
    let of_base: BTreeSet<&Digest> = match base {
        FoundBase::Image { index, .. } => images.get(*index),
        _ => None,
    }
    .map(|base| base.layers.iter().map(|layer| &layer.digest).collect())
    .unwrap_or_default();
    let shared = image.layers.iter().filter(|layer| of_base.contains(&layer.digest));
    DiscoveredRow {
        names: image.names.iter().map(ToString::to_string).collect(),
        digest: image.digest.clone(),
        base: base_row(images, image, base),
        created: image.created,
        age_seconds: image.created.map(|created| now.as_second() - created.as_second()),
        end_of_life,
        size: image.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
        shared_with_base: shared.fold(0, |sum, layer| sum.saturating_add(layer.size)),
    }
}

fn base_row(images: &[DiscoveredImage], image: &DiscoveredImage, base: &FoundBase) -> BaseRow {
    let name = |index: &usize| {
        images.get(*index).and_then(|one| one.names.first()).map(ToString::to_string)
    };
    let mut row = BaseRow {
        state: BaseState::Unknown,
        images: Vec::new(),
        evidence: None,
        is_outdated: false,
        behind_seconds: None,
        reason: None,
    };
    match base {
        FoundBase::Image { index, evidence, is_outdated } => {
            row.state = BaseState::Known;
            row.images.extend(name(index));
            row.evidence = Some(match evidence {
                BaseEvidence::Annotation => "Annotation",
                BaseEvidence::Layers => "Layers",
            });
            row.is_outdated = *is_outdated;
            let newer = images.get(*index).filter(|_| *is_outdated).and_then(|base| base.created);
            row.behind_seconds = newer
                .zip(image.created)
                .map(|(base, own)| (base.as_second() - own.as_second()).max(0));
        }
        FoundBase::Elsewhere(reference) => {
            row.state = BaseState::Elsewhere;
            row.images.push(reference.to_string());
            row.evidence = Some("Annotation");
        }
        FoundBase::Ambiguous(candidates) => {
            row.state = BaseState::Ambiguous;
            row.images.extend(candidates.iter().filter_map(name));
        }
        FoundBase::Unknown(why) => {
            row.reason = Some(match why {
                UnknownBase::SingleLayer => "one layer, squashed or built from nothing",
                UnknownBase::NoSuchLayers => "no image here has its lowest layers",
                UnknownBase::Cycle => "annotations name each other",
            });
        }
    }
    row
}

/// Returns the releases without support below each image.
fn ends(images: &[DiscoveredImage], bases: &[FoundBase], now: Timestamp) -> Vec<Vec<String>> {
    let of_image = |start: usize| {
        let mut found = Vec::new();
        let mut next = Some(start);
        // A chain has each image once, so that it is not longer than all of them.
        for _ in 0..images.len() {
            let Some(at) = next.take() else { break };
            if let Some(image) = images.get(at) {
                found.extend(image.names.iter().filter_map(|name| ended(name, now)));
            }
            match bases.get(at) {
                Some(FoundBase::Image { index, .. }) => next = Some(*index),
                Some(FoundBase::Elsewhere(name)) => found.extend(ended(name, now)),
                _ => {}
            }
        }
        found.sort();
        found.dedup();
        found
    };
    (0..images.len()).map(of_image).collect()
}

fn ended(name: &Reference, now: Timestamp) -> Option<String> {
    let upstream = Upstream {
        image: name.repository(),
        follow: Follow { tag: name.tag()?.to_owned() },
        ..Upstream::default()
    };
    let ended = ended_upstreams(&[upstream], now).pop()?;
    Some(format!("{} ended {}", ended.reference, ended.supported_until))
}
