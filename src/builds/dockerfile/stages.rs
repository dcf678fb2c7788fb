//! Reads the stages of a Dockerfile, with the build arguments substituted in their bases.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    builds::dockerfile::{
        BuildOptions, MAX_STAGES, args,
        fields::{self, blank_separated},
        instructions::{Instruction, SyntaxError},
        lexer,
    },
    registry::Platform,
};

/// Maximum number of different build arguments before the first `FROM`.
const MAX_GLOBAL_ARGS: usize = 1024;

/// The stages of a Dockerfile, and the names of all its `ARG`.
pub(super) struct ParsedStages {
    pub(super) stages: Vec<Stage>,
    pub(super) args: BTreeSet<String>,
}

/// A stage, as it is written.
pub(super) struct Stage {
    pub(super) line: usize,
    /// The name in lower case.
    pub(super) name: Option<String>,
    pub(super) base: Base,
    pub(super) commands: Vec<NamingCommand>,
}

/// The base of a stage: the name of a stage or of an image.
pub(super) struct Base {
    /// The name as written, before build arguments are substituted.
    pub(super) written: String,
    /// The name after substitution.
    pub(super) name: String,
    /// The build arguments that the name uses.
    pub(super) args: Vec<String>,
    /// What is wrong with `--platform`, if the base is an image.
    pub(super) platform_problem: Option<SyntaxError>,
}

/// An instruction that may name images or stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamingCommand {
    pub(super) line: usize,
    pub(super) kind: CommandKind,
}

/// What a [`NamingCommand`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CommandKind {
    /// `COPY --from`.
    Copy(String),
    /// `RUN --mount`, with what each mount is from. It is empty if a mount names nothing.
    Run(Vec<String>),
    /// `ONBUILD`, with the instruction that runs in the stages that are built on this one.
    Trigger(String),
}

/// Reads the stages.
pub(super) fn parse(
    instructions: &[Instruction],
    escape: char,
    options: &BuildOptions<'_>,
) -> Result<ParsedStages, SyntaxError> {
    let last = instructions.iter().rfind(|instruction| instruction.keyword == "FROM");
    let last_stage = last.map(base_and_name).transpose()?.and_then(|from| from.name);
    let mut reader = Reader {
        escape,
        options,
        globals: args::platform_args(options, last_stage.as_deref()),
        parsed: ParsedStages { stages: Vec::new(), args: BTreeSet::new() },
    };
    for instruction in instructions {
        reader.read(instruction)?;
    }
    if reader.parsed.stages.is_empty() {
        return Err(SyntaxError::new(1, "the file has no FROM"));
    }
    Ok(reader.parsed)
}

/// Returns the command that an instruction is, if it may name images or stages.
pub(super) fn command(
    instruction: &Instruction,
    escape: char,
) -> Result<Option<NamingCommand>, SyntaxError> {
    let line = instruction.line;
    let wrong = |problem: String| SyntaxError::new(line, &problem);
    let kind = match instruction.keyword.as_str() {
        "COPY" => {
            let from: Vec<_> = instruction.values("from").collect();
            match from.as_slice() {
                [] | [""] => None,
                [from] => {
                    let unset = BTreeMap::new();
                    let expanded = lexer::expand(from, escape, &unset).map_err(wrong)?;
                    if expanded.text != *from {
                        return Err(wrong(no_substitution(from)));
                    }
                    Some(CommandKind::Copy((*from).to_owned()))
                }
                _ => return Err(wrong("the flag `--from` is repeated".into())),
            }
        }
        "RUN" => {
            let mounts: Result<Vec<_>, _> = instruction.values("mount").map(mount_from).collect();
            let mounts = mounts.map_err(wrong)?;
            (!mounts.is_empty()).then_some(CommandKind::Run(mounts))
        }
        "ONBUILD" => {
            let trigger = [instruction.rest.as_str(), &instruction.heredocs].concat();
            Some(CommandKind::Trigger(trigger))
        }
        _ => None,
    };
    Ok(kind.map(|kind| NamingCommand { line, kind }))
}

/// Returns what a mount is from. The last `from` of a mount counts.
fn mount_from(mount: &str) -> Result<String, String> {
    let fields = fields::csv(mount)
        .ok_or_else(|| format!("the quotes of `--mount={mount}` are misplaced"))?;
    let mut last = "";
    for (key, from) in fields.iter().filter_map(|field| field.split_once('=')) {
        if !key.eq_ignore_ascii_case("from") {
            continue;
        }
        if from.find('$').is_some_and(|index| index + 1 != from.len()) {
            return Err(no_substitution(from));
        }
        last = from;
    }
    Ok(last.to_owned())
}

fn no_substitution(from: &str) -> String {
    format!(
        "`from={from}`: BuildKit substitutes no arguments here; declare a stage with FROM and copy \
         from that stage"
    )
}

/// The arguments of a `FROM`, as they are written. The name is in lower case.
struct FromArguments<'a> {
    base: &'a str,
    name: Option<String>,
}

fn base_and_name(instruction: &Instruction) -> Result<FromArguments<'_>, SyntaxError> {
    let words: Vec<_> = blank_separated(&instruction.rest).collect();
    match words.as_slice() {
        [base] => Ok(FromArguments { base, name: None }),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            Ok(FromArguments { base, name: Some(name.to_lowercase()) })
        }
        _ => Err(SyntaxError::new(instruction.line, "FROM requires `image` or `image AS stage`")),
    }
}

struct Reader<'a> {
    escape: char,
    options: &'a BuildOptions<'a>,
    /// The arguments that are set before the first `FROM`.
    globals: BTreeMap<String, String>,
    parsed: ParsedStages,
}

impl Reader<'_> {
    fn read(&mut self, instruction: &Instruction) -> Result<(), SyntaxError> {
        match instruction.keyword.as_str() {
            "FROM" => return self.add_stage(instruction),
            "ARG" => self.declare_args(&instruction.rest),
            "ONBUILD" => self.declare_args_of_trigger(&instruction.rest),
            _ => {}
        }
        if instruction.keyword == "ARG" && self.parsed.stages.is_empty() {
            return self.set_global_args(instruction);
        }
        let Some(command) = command(instruction, self.escape)? else { return Ok(()) };
        let Some(stage) = self.parsed.stages.last_mut() else {
            let problem = "the instruction comes before the first FROM";
            return Err(SyntaxError::new(instruction.line, problem));
        };
        stage.commands.push(command);
        Ok(())
    }

    fn add_stage(&mut self, instruction: &Instruction) -> Result<(), SyntaxError> {
        let line = instruction.line;
        let wrong = |problem: String| SyntaxError::new(line, &problem);
        let FromArguments { base: written, name } = base_and_name(instruction)?;
        if self.parsed.stages.len() >= MAX_STAGES {
            return Err(wrong(format!("the file has more than {MAX_STAGES} stages")));
        }
        let expanded = lexer::expand(written, self.escape, &self.globals).map_err(wrong)?;
        if expanded.text.is_empty() {
            return Err(wrong(format!(
                "FROM {written} is empty: declare the ARG before the first FROM, and set its value \
                 as its default, in `args` or in `from`"
            )));
        }
        let base = Base {
            written: written.to_owned(),
            name: expanded.text,
            args: expanded.used,
            platform_problem: self.check_platform(instruction).err(),
        };
        self.parsed.stages.push(Stage { line, name, base, commands: Vec::new() });
        Ok(())
    }

    /// Rejects an image for another platform than that of the build: the image is pinned to its
    /// digest for the platform of the build, and the builder would silently use that one.
    fn check_platform(&self, instruction: &Instruction) -> Result<(), SyntaxError> {
        let Some(written) = instruction.values("platform").next() else { return Ok(()) };
        let wrong = |problem: &str| SyntaxError::new(instruction.line, problem);
        let expanded = lexer::expand(written, self.escape, &self.globals)
            .map_err(|problem| wrong(&problem))?;
        let wanted = self.options.platform;
        let other = Platform::from_user(&expanded.text)
            .filter(|other| (&other.os, &other.architecture) != (&wanted.os, &wanted.architecture));
        other.map_or(Ok(()), |other| {
            Err(wrong(&format!(
                "the build is for {wanted}, and FROM asks for {other}: remove --platform, or set \
                 the strategy's parameter `platform`"
            )))
        })
    }

    fn set_global_args(&mut self, instruction: &Instruction) -> Result<(), SyntaxError> {
        let wrong = |problem: &str| SyntaxError::new(instruction.line, problem);
        for word in fields::quoted_words(&instruction.rest, self.escape) {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default)),
                None => (word.as_str(), None),
            };
            let value = match (self.options.args.get(name), default) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => {
                    lexer::expand(default, self.escape, &self.globals)
                        .map_err(|problem| wrong(&problem))?
                        .text
                }
                (None, None) => continue,
            };
            self.globals.insert(name.to_owned(), value);
        }
        if self.globals.len() > MAX_GLOBAL_ARGS {
            return Err(wrong(&format!("the file has more than {MAX_GLOBAL_ARGS} arguments")));
        }
        Ok(())
    }

    /// Remembers the names that an `ARG` declares.
    fn declare_args(&mut self, rest: &str) {
        let words = fields::quoted_words(rest, self.escape);
        let names = words.iter().map(|word| word.split_once('=').map_or(&**word, |(name, _)| name));
        self.parsed.args.extend(names.map(str::to_owned));
    }

    fn declare_args_of_trigger(&mut self, trigger: &str) {
        if let Some((keyword, rest)) = trigger.split_once(fields::is_blank)
            && keyword.eq_ignore_ascii_case("ARG")
        {
            self.declare_args(rest);
        }
    }
}
