//! Finds the images that a Dockerfile names, and compares them with the edges that an image
//! declares. Pure.
//!
//! This is not a full parser for Dockerfiles. It interprets `FROM`, `ARG` before the first `FROM`,
//! `COPY --from` and `RUN --mount=from`, by the rules of `BuildKit`'s own frontend. It rejects what
//! it cannot interpret: an image that is built from an undeclared image would not be rebuilt when
//! that one changes.

mod edges;
mod instructions;
mod lexer;

use std::collections::BTreeMap;

pub use edges::{DeclaredEdge, DockerfileMismatch, verify_edges};
use instructions::Instruction;
pub use instructions::SyntaxError;

use crate::registry::Platform;

/// Maximum number of stages of a Dockerfile.
const MAX_STAGES: usize = 256;
/// Maximum number of `COPY --from` and `RUN --mount=from` in a Dockerfile.
const MAX_USES: usize = 2048;

/// The stages of a Dockerfile, and the images that each uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    stages: Vec<Stage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stage {
    name: Option<String>,
    line: usize,
    base: Origin,
    uses: Vec<Origin>,
}

/// What a stage is built on, or copies files from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Scratch,
    Stage(usize),
    External(ExternalImage),
}

/// An image that a Dockerfile names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ExternalImage {
    /// The reference as written, before build arguments are substituted.
    written: String,
    /// The reference after substitution.
    name: String,
    /// The build arguments that the reference uses.
    args: Vec<String>,
    /// The line number, counted from 1.
    line: usize,
}

/// Returns the arguments that `BuildKit` predefines before the first `FROM`. A build runs on a node
/// of its platform, so that target and builder have the same.
fn predefined_args(platform: &Platform) -> impl Iterator<Item = (String, String)> {
    ["TARGET", "BUILD"].into_iter().flat_map(move |side| {
        [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
        ]
        .map(|(name, value)| (format!("{side}{name}"), value))
    })
}

impl Dockerfile {
    /// Parses a Dockerfile with the build arguments that the build passes to it.
    ///
    /// # Errors
    /// Returns an error if the file is larger than 1 MiB, or if a line cannot be interpreted. The
    /// message names the line.
    pub fn parse(
        text: &str,
        args: &BTreeMap<String, String>,
        platform: &Platform,
    ) -> Result<Self, SyntaxError> {
        let mut parser = StageParser {
            given: args,
            platform,
            globals: predefined_args(platform).collect(),
            stages: Vec::new(),
            uses: 0,
        };
        let (instructions, escape) = instructions::parse(text)?;
        for instruction in &instructions {
            parser.add_instruction(instruction, escape)?;
        }
        if parser.stages.is_empty() {
            return Err(SyntaxError::new(1, "the file has no FROM"));
        }
        parser.finish()
    }

    /// Returns the index of the stage to build: the one of that name, or the last one if `name` is
    /// `None`.
    fn target(&self, name: Option<&str>) -> Option<usize> {
        match name {
            None => self.stages.len().checked_sub(1),
            Some(name) => self.stages.iter().rposition(|stage| stage.is_named(name)),
        }
    }
}

impl Stage {
    fn is_named(&self, name: &str) -> bool {
        self.name.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name))
    }
}

/// A stage during parsing. The stages that it copies files from may follow later.
struct StageDraft {
    name: Option<String>,
    line: usize,
    base: Origin,
    uses: Vec<FromUse>,
}

/// A `from` of a `COPY` or of a mount of `RUN`.
struct FromUse {
    line: usize,
    from: String,
    instruction: FromInstruction,
}

/// Which instruction has a `from`. Only in `COPY` can it be the number of a stage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FromInstruction {
    Copy,
    RunMount,
}

struct StageParser<'a> {
    given: &'a BTreeMap<String, String>,
    platform: &'a Platform,
    globals: BTreeMap<String, String>,
    stages: Vec<StageDraft>,
    uses: usize,
}

impl StageParser<'_> {
    fn add_instruction(
        &mut self,
        instruction: &Instruction,
        escape: char,
    ) -> Result<(), SyntaxError> {
        match instruction.keyword.as_str() {
            "FROM" => self.add_stage(instruction, escape),
            "ARG" if self.stages.is_empty() => self.add_global_arg(instruction, escape),
            "COPY" => {
                for from in instruction.flags.iter().filter_map(|flag| flag.strip_prefix("--from="))
                {
                    self.add_use(instruction.line, from, FromInstruction::Copy)?;
                }
                Ok(())
            }
            "RUN" => {
                for mount in
                    instruction.flags.iter().filter_map(|flag| flag.strip_prefix("--mount="))
                {
                    let fields = lexer::csv(mount);
                    let from = fields.iter().find_map(|field| {
                        field
                            .split_once('=')
                            .filter(|(key, _)| key.eq_ignore_ascii_case("from"))
                            .map(|(_, from)| from)
                    });
                    if let Some(from) = from.filter(|from| !from.is_empty()) {
                        self.add_use(instruction.line, from, FromInstruction::RunMount)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add_stage(&mut self, instruction: &Instruction, escape: char) -> Result<(), SyntaxError> {
        let line = instruction.line;
        let wrong = |problem: &str| SyntaxError::new(line, problem);
        let words: Vec<_> = instruction.rest.split_whitespace().collect();
        let (written, name) = match words.as_slice() {
            [base] => (*base, None),
            [base, word, name] if word.eq_ignore_ascii_case("as") => {
                (*base, Some(name.to_ascii_lowercase()))
            }
            _ => return Err(wrong("FROM requires `image` or `image AS stage`")),
        };
        if self.stages.len() >= MAX_STAGES {
            return Err(wrong(&format!("the file has more than {MAX_STAGES} stages")));
        }
        let expanded =
            lexer::expand(written, escape, &self.globals).map_err(|problem| wrong(&problem))?;
        if expanded.text.is_empty() {
            let problem = format!(
                "FROM {written} is empty: declare the ARG before the first FROM, and set its value \
                 as its default, in `args` or in `from`"
            );
            return Err(wrong(&problem));
        }
        let earlier = self
            .stages
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(&expanded.text.to_ascii_lowercase()));
        let base = match earlier {
            Some(index) => Origin::Stage(index),
            None if expanded.text == "scratch" => Origin::Scratch,
            None => {
                self.check_platform(instruction, escape)?;
                Origin::External(ExternalImage {
                    written: written.to_owned(),
                    name: expanded.text,
                    args: expanded.used,
                    line,
                })
            }
        };
        self.stages.push(StageDraft { name, line, base, uses: Vec::new() });
        Ok(())
    }

    /// Rejects an image for another platform than that of the build: the image is pinned to its
    /// digest for the platform of the build, and the builder would silently use that one.
    fn check_platform(&self, instruction: &Instruction, escape: char) -> Result<(), SyntaxError> {
        let mut flags = instruction.flags.iter();
        let Some(written) = flags.find_map(|flag| flag.strip_prefix("--platform=")) else {
            return Ok(());
        };
        let wrong = |problem: &str| SyntaxError::new(instruction.line, problem);
        let expanded =
            lexer::expand(written, escape, &self.globals).map_err(|problem| wrong(&problem))?;
        let other = Platform::from_user(&expanded.text).filter(|other| {
            (&other.os, &other.architecture) != (&self.platform.os, &self.platform.architecture)
        });
        other.map_or(Ok(()), |other| {
            Err(wrong(&format!(
                "the build is for {}, and FROM asks for {other}: remove --platform, or set the \
                 strategy's parameter `platform`",
                self.platform
            )))
        })
    }

    fn add_global_arg(
        &mut self,
        instruction: &Instruction,
        escape: char,
    ) -> Result<(), SyntaxError> {
        for word in lexer::split(&instruction.rest, escape).unwrap_or_default() {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default)),
                None => (word.as_str(), None),
            };
            let value = match (self.given.get(name), default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let expanded = lexer::expand(default, escape, &self.globals)
                        .map_err(|problem| SyntaxError::new(instruction.line, &problem))?;
                    Some(expanded.text)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                self.globals.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn add_use(
        &mut self,
        line: usize,
        from: &str,
        instruction: FromInstruction,
    ) -> Result<(), SyntaxError> {
        if from.contains('$') {
            let problem = format!(
                "`from={from}`: BuildKit substitutes no arguments here; declare a stage with FROM \
                 and copy from that stage"
            );
            return Err(SyntaxError::new(line, &problem));
        }
        self.uses += 1;
        if self.uses > MAX_USES {
            return Err(SyntaxError::new(
                line,
                &format!("the file copies from other images more than {MAX_USES} times"),
            ));
        }
        match self.stages.last_mut() {
            Some(stage) => stage.uses.push(FromUse { line, from: from.to_owned(), instruction }),
            None => {
                return Err(SyntaxError::new(line, "the instruction comes before the first FROM"));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Dockerfile, SyntaxError> {
        let names: Vec<_> = self.stages.iter().map(|stage| stage.name.clone()).collect();
        let origin = |FromUse { line, from, instruction }: FromUse| {
            let by_index = instruction == FromInstruction::Copy;
            let stage =
                names.iter().rposition(|name| name.as_deref() == Some(&from.to_ascii_lowercase()));
            match (by_index.then(|| from.parse::<usize>().ok()).flatten(), stage) {
                (Some(index), _) if index < names.len() => Ok(Origin::Stage(index)),
                (Some(index), _) => {
                    Err(SyntaxError::new(line, &format!("there is no stage number {index}")))
                }
                (None, Some(index)) => Ok(Origin::Stage(index)),
                (None, None) if from == "scratch" => Ok(Origin::Scratch),
                (None, None) => Ok(Origin::External(ExternalImage {
                    written: from.clone(),
                    name: from,
                    args: Vec::new(),
                    line,
                })),
            }
        };
        let stages = self.stages.into_iter().map(|draft| {
            let uses = draft.uses.into_iter().map(origin).collect::<Result<_, _>>()?;
            Ok(Stage { name: draft.name, line: draft.line, base: draft.base, uses })
        });
        Ok(Dockerfile { stages: stages.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests;
