//! Which images a Dockerfile names, and whether they are the ones that an image's edges declare.
//! Pure.
//!
//! This is no Dockerfile parser: of all instructions it understands `FROM`, `ARG` before the first
//! `FROM`, `COPY --from` and `RUN --mount=from`, and it follows the rules of `BuildKit`'s own
//! frontend for these. What it can't follow it refuses: an image that is built from something
//! undeclared would not be rebuilt when that moves.

mod edges;
mod instructions;
mod lexer;

use std::collections::BTreeMap;

pub use edges::{DeclaredEdge, DockerfileMismatch, verify_edges};
use instructions::Instruction;
pub use instructions::SyntaxError;

/// The most stages of a Dockerfile.
const MAX_STAGES: usize = 256;
/// The most `COPY --from` and `RUN --mount=from` of a Dockerfile.
const MAX_USES: usize = 2048;

/// The stages of a Dockerfile, and where each comes from.
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

/// What a stage stands on, or takes files from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Scratch,
    Stage(usize),
    External(ExternalImage),
}

/// An image that a Dockerfile names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ExternalImage {
    /// As it stands there, before build arguments are filled in.
    written: String,
    /// The reference.
    name: String,
    /// The build arguments that it takes it from.
    args: Vec<String>,
    /// The line, counted from 1.
    line: usize,
}

/// A platform, for the arguments that `BuildKit` defines by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuilderPlatform {
    /// `linux`, for example.
    pub os: &'static str,
    /// `amd64`, for example.
    pub architecture: &'static str,
}

impl BuilderPlatform {
    /// The platform of the machine that this runs on. `prepare` runs in the build's own pod, so it
    /// is the builder's.
    #[must_use]
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux", architecture }
    }

    /// The arguments that `BuildKit` defines before the first `FROM`.
    fn args(self) -> impl Iterator<Item = (String, String)> {
        let pair = format!("{}/{}", self.os, self.architecture);
        ["TARGET", "BUILD"].into_iter().flat_map(move |side| {
            [
                ("PLATFORM", pair.clone()),
                ("OS", self.os.to_owned()),
                ("ARCH", self.architecture.to_owned()),
            ]
            .map(|(name, value)| (format!("{side}{name}"), value))
        })
    }
}

impl Dockerfile {
    /// Reads a Dockerfile with the build arguments that it will get.
    ///
    /// # Errors
    /// It is larger than 1 MiB, or a line of it can't be followed; the message says which.
    pub fn parse(
        text: &str,
        args: &BTreeMap<String, String>,
        platform: BuilderPlatform,
    ) -> Result<Self, SyntaxError> {
        let mut reader = StageParser {
            given: args,
            globals: platform.args().collect(),
            stages: Vec::new(),
            uses: 0,
        };
        let (instructions, escape) = instructions::read(text)?;
        for instruction in &instructions {
            reader.instruction(instruction, escape)?;
        }
        if reader.stages.is_empty() {
            return Err(SyntaxError::new(1, "there is no FROM"));
        }
        reader.finish()
    }

    /// The index of the stage that is built: the named one, else the last.
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

/// A stage while it is read: other stages that it takes files from may come later.
struct StageDraft {
    name: Option<String>,
    line: usize,
    base: Origin,
    uses: Vec<(usize, String, bool)>,
}

struct StageParser<'a> {
    given: &'a BTreeMap<String, String>,
    globals: BTreeMap<String, String>,
    stages: Vec<StageDraft>,
    uses: usize,
}

impl StageParser<'_> {
    fn instruction(&mut self, instruction: &Instruction, escape: char) -> Result<(), SyntaxError> {
        match instruction.keyword.as_str() {
            "FROM" => self.from(instruction, escape),
            "ARG" if self.stages.is_empty() => self.arg(instruction, escape),
            "COPY" => {
                for from in instruction.flags.iter().filter_map(|flag| flag.strip_prefix("--from="))
                {
                    self.uses_from(instruction.line, from, true)?;
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
                        self.uses_from(instruction.line, from, false)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn from(&mut self, instruction: &Instruction, escape: char) -> Result<(), SyntaxError> {
        let line = instruction.line;
        let wrong = |problem: &str| SyntaxError::new(line, problem);
        let words: Vec<_> = instruction.rest.split_whitespace().collect();
        let (written, name) = match words.as_slice() {
            [base] => (*base, None),
            [base, word, name] if word.eq_ignore_ascii_case("as") => {
                (*base, Some(name.to_ascii_lowercase()))
            }
            _ => return Err(wrong("FROM takes an image, or `image AS stage`")),
        };
        if self.stages.len() >= MAX_STAGES {
            return Err(wrong(&format!("there are more than {MAX_STAGES} stages")));
        }
        let expanded =
            lexer::expand(written, escape, &self.globals).map_err(|problem| wrong(&problem))?;
        if expanded.text.is_empty() {
            let problem = format!(
                "FROM {written} is empty: declare the ARG before the first FROM, with a default or \
                 with a value in `args` or in `from`"
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
            None => Origin::External(ExternalImage {
                written: written.to_owned(),
                name: expanded.text,
                args: expanded.used,
                line,
            }),
        };
        self.stages.push(StageDraft { name, line, base, uses: Vec::new() });
        Ok(())
    }

    fn arg(&mut self, instruction: &Instruction, escape: char) -> Result<(), SyntaxError> {
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

    fn uses_from(&mut self, line: usize, from: &str, by_index: bool) -> Result<(), SyntaxError> {
        if from.contains('$') {
            let problem = format!(
                "`from={from}`: BuildKit fills in no arguments here; name a stage with FROM, and \
                 take it from that"
            );
            return Err(SyntaxError::new(line, &problem));
        }
        self.uses += 1;
        if self.uses > MAX_USES {
            return Err(SyntaxError::new(
                line,
                &format!("there are more than {MAX_USES} uses of other images"),
            ));
        }
        match self.stages.last_mut() {
            Some(stage) => stage.uses.push((line, from.to_owned(), by_index)),
            None => return Err(SyntaxError::new(line, "it stands before the first FROM")),
        }
        Ok(())
    }

    fn finish(self) -> Result<Dockerfile, SyntaxError> {
        let names: Vec<_> = self.stages.iter().map(|stage| stage.name.clone()).collect();
        let origin = |(line, from, by_index): (usize, String, bool)| {
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
