//! Writes the difference of two images.

use std::fmt::Write as _;

use crate::{
    diff::compare::{DiffLayer, ImageDiff, PackageChangeKind, SizeChange},
    input::plural,
    output::{Document, ListFormat, Terminal, table},
    registry_images::human_size,
};

impl ImageDiff {
    /// Returns the text of a format. `name` lists the packages that differ.
    pub fn rendered(&self, format: ListFormat) -> anyhow::Result<String> {
        let document = Document::new("ImageDiff", self);
        Ok(match format {
            ListFormat::Json => document.json()?,
            ListFormat::Yaml => document.yaml()?,
            ListFormat::Name => {
                let names = self.packages.iter().map(|change| table::one_line(&change.name) + "\n");
                let mut names: Vec<String> = names.collect();
                names.dedup();
                names.concat()
            }
            ListFormat::Table => self.text(Terminal::of_stdout().width),
            ListFormat::Wide => self.text(None),
        })
    }

    fn text(&self, width: Option<u16>) -> String {
        let mut text =
            format!("from {}\nto   {}\n", table::one_line(&self.from), table::one_line(&self.to));
        if self.is_empty() {
            text += "\nnothing differs\n";
        }
        if let Some(base) = &self.base {
            _ = write!(
                text,
                "\nbase\n- {}\n+ {}\n",
                table::one_line(&base.from),
                table::one_line(&base.to)
            );
        }
        text += &self.layers(width);
        text += &self.settings(width);
        text += &self.packages(width);
        for problem in &self.problems {
            _ = write!(text, "\npackages may be missing: {}\n", table::one_line(problem));
        }
        text
    }

    fn layers(&self, width: Option<u16>) -> String {
        if self.removed_layers.is_empty() && self.added_layers.is_empty() {
            return String::new();
        }
        let row = |sign: &str, layer: &DiffLayer| {
            vec![sign.into(), human_size(layer.size).into(), layer.command.clone().into()]
        };
        let removed = self.removed_layers.iter().map(|layer| row("-", layer));
        let added = self.added_layers.iter().map(|layer| row("+", layer));
        let SizeChange { from, to } = self.size;
        let shared = self.shared_layers;
        format!(
            "\nlayers: {shared} layer{} in both, {} before, {} now\n{}",
            plural(shared),
            human_size(from),
            human_size(to),
            table::render(&["", "SIZE", "COMMAND"], removed.chain(added).collect(), width)
        )
    }

    fn settings(&self, width: Option<u16>) -> String {
        if self.settings.is_empty() {
            return String::new();
        }
        let rows = self.settings.iter().map(|change| {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
            vec![
                change.setting.clone().into(),
                value(&change.from).into(),
                value(&change.to).into(),
            ]
        });
        format!("\n{}", table::render(&["SETTING", "BEFORE", "NOW"], rows.collect(), width))
    }

    fn packages(&self, width: Option<u16>) -> String {
        if self.packages.is_empty() {
            return String::new();
        }
        let rows = self.packages.iter().map(|change| {
            let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".into());
            let kind = match change.change {
                PackageChangeKind::Added => "added",
                PackageChangeKind::Removed => "removed",
                PackageChangeKind::Upgraded => "upgraded",
                PackageChangeKind::Downgraded => "downgraded",
                PackageChangeKind::Changed => "changed",
            };
            vec![
                change.name.clone().into(),
                version(&change.from).into(),
                version(&change.to).into(),
                kind.into(),
            ]
        });
        let header = ["PACKAGE", "BEFORE", "NOW", "CHANGE"];
        format!("\n{}", table::render(&header, rows.collect(), width))
    }
}
