//! What the final stage of a Dockerfile does.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::builds::dockerfile::{Instruction, parse_instructions, quoted_words};

use crate::lint::commands::{InstalledPackage, installed_packages};

/// Returns the names and values of an `ENV`, a `LABEL` or an `ARG`, without their quotes. `ENV name
/// value`, the old form, sets one; `ARG name` sets nothing.
pub fn assignments(instruction: &Instruction, escape: char) -> Vec<(String, String)> {
    let unquoted = |text: &str| text.trim_matches(['"', '\'']).to_owned();
    let words = quoted_words(&instruction.rest, escape);
    let is_old = words.first().is_some_and(|first| !first.contains('='));
    if is_old && instruction.keyword != "ARG" {
        let value = words.get(1..).unwrap_or_default().join(" ");
        let name = words.first().map(|name| unquoted(name)).unwrap_or_default();
        return vec![(name, unquoted(&value))];
    }
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (unquoted(name), unquoted(value))).collect()
}

/// What the final stage of a Dockerfile does, with the stages of the file that it is built on.
#[derive(Debug, Default)]
pub struct FinalStage {
    /// The instructions, the lowest stage first.
    pub instructions: Vec<Instruction>,
    /// The character that continues lines.
    pub escape: char,
    /// The last `USER`, and its line.
    pub user: Option<(String, usize)>,
    /// The packages that are installed.
    pub packages: Vec<InstalledPackage>,
    /// The labels that are set, with their lines.
    pub labels: BTreeMap<String, (String, usize)>,
}

/// A stage of the file.
struct FileStage {
    base: String,
    name: Option<String>,
    instructions: Vec<Instruction>,
}

impl FinalStage {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    ///
    /// Returns the error of a line that cannot be interpreted.
    pub fn parse(text: &str, target: Option<&str>) -> anyhow::Result<Self> {
        let (instructions, escape) = parse_instructions(text)?;
        let mut stages: Vec<FileStage> = Vec::new();
        for instruction in instructions {
            if instruction.keyword == "FROM" {
                stages.push(FileStage::begin(&instruction));
            } else if let Some(stage) = stages.last_mut() {
                stage.instructions.push(instruction);
            }
        }
        let mut read = Self { escape, ..Self::default() };
        for index in chain(&stages, target) {
            if let Some(stage) = stages.get(index) {
                read.instructions.extend(stage.instructions.iter().cloned());
            }
        }
        read.collect();
        Ok(read)
    }

    fn collect(&mut self) {
        for instruction in &self.instructions {
            let line = instruction.line;
            match instruction.keyword.as_str() {
                "USER" => self.user = Some((instruction.rest.trim().to_owned(), line)),
                "RUN" => self.packages.extend(installed_packages(instruction)),
                "LABEL" => {
                    for (name, value) in assignments(instruction, self.escape) {
                        self.labels.insert(name, (value, line));
                    }
                }
                _ => {}
            }
        }
    }

    /// Returns the names of the packages that are installed.
    pub fn package_names(&self) -> BTreeSet<&str> {
        self.packages.iter().map(|package| package.name.as_str()).collect()
    }
}

impl FileStage {
    fn begin(from: &Instruction) -> Self {
        let words: Vec<&str> = from.rest.split_whitespace().collect();
        let name = match words.as_slice() {
            [_, word, name] if word.eq_ignore_ascii_case("as") => Some(name.to_lowercase()),
            _ => None,
        };
        let base = words.first().copied().unwrap_or_default().to_owned();
        Self { base, name, instructions: Vec::new() }
    }
}

/// Returns the positions of the stages that the target is made of, the lowest first.
fn chain(stages: &[FileStage], target: Option<&str>) -> Vec<usize> {
    let named = |name: &str, before: usize| {
        let name = name.to_lowercase();
        stages.iter().take(before).rposition(|stage| stage.name.as_ref() == Some(&name))
    };
    let last = stages.len().checked_sub(1);
    let target = match target {
        Some(target) => named(target, stages.len()),
        None => last,
    };
    let (mut chain, mut next) = (Vec::new(), target);
    // Each stage comes before the one that is built on it, so that this ends.
    while let Some(index) = next {
        chain.push(index);
        next = stages.get(index).and_then(|stage| named(&stage.base, index));
    }
    chain.reverse();
    chain
}
