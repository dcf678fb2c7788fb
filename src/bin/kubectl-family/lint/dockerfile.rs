//! The Dockerfile of an image: where it is read, and what its final stage does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use groundswell::{
    api::{Image, SourceKind},
    builds::dockerfile::{Instruction, parse_instructions, quoted_words},
};

use crate::lint::commands::{InstalledPackage, installed_packages};

/// Maximum size of a Dockerfile in bytes, the same as that of the reader.
const MAX_DOCKERFILE_BYTES: u64 = 1 << 20;

/// The text of a Dockerfile.
pub struct DockerfileText {
    /// Its path in the checkout; `None` if it is inline.
    pub file: Option<String>,
    pub text: String,
}

/// Reads the Dockerfile of an image. Returns `None` if it is not here: it is in a `ConfigMap`, or
/// in Git and no checkout is given.
pub fn read(image: &Image, checkout: Option<&Path>) -> anyhow::Result<Option<DockerfileText>> {
    let git = match (image.source.kind(), checkout) {
        (Some(SourceKind::Inline(text)), _) => {
            return Ok(Some(DockerfileText { file: None, text: text.to_owned() }));
        }
        (Some(SourceKind::Git(git)), Some(_)) => git,
        _ => return Ok(None),
    };
    let Some(checkout) = checkout else { return Ok(None) };
    let file = PathBuf::from(git.path.as_deref().unwrap_or(".")).join(&git.dockerfile);
    let file: PathBuf = file.components().filter(|part| part.as_os_str() != ".").collect();
    let shown = file.display().to_string();
    let inside = || -> anyhow::Result<String> {
        let root = checkout.canonicalize()?;
        let path = root.join(&file).canonicalize()?;
        if !path.starts_with(&root) {
            bail!("it leads out of the checkout");
        }
        let mut text = String::new();
        let read = File::open(&path)?.take(MAX_DOCKERFILE_BYTES + 1).read_to_string(&mut text)?;
        if read as u64 > MAX_DOCKERFILE_BYTES {
            bail!("it has more than 1 MiB");
        }
        Ok(text)
    };
    let text = inside().with_context(|| format!("read {shown}"))?;
    Ok(Some(DockerfileText { file: Some(shown), text }))
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
                    for word in quoted_words(&instruction.rest, self.escape) {
                        if let Some((name, value)) = word.split_once('=') {
                            let unquoted = |text: &str| text.trim_matches(['"', '\'']).to_owned();
                            self.labels.insert(unquoted(name), (unquoted(value), line));
                        }
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
