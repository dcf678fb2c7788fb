//! Splits the text of a Dockerfile into instructions: comments, continued lines, the escape
//! directive, flags, here-documents. The rules are those of `BuildKit`'s
//! `frontend/dockerfile/parser`.

use crate::builds::dockerfile::{fields::is_blank, heredoc};

/// Maximum size of a Dockerfile in bytes.
const MAX_LENGTH: usize = 1 << 20;
/// Maximum number of flags of one instruction.
const MAX_FLAGS: usize = 256;

/// Why a Dockerfile cannot be interpreted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Dockerfile cannot be parsed: line {line}: {problem}")]
pub struct SyntaxError {
    line: usize,
    problem: String,
}

impl SyntaxError {
    pub(super) fn new(line: usize, problem: &str) -> Self {
        Self { line, problem: problem.chars().take(512).collect() }
    }

    /// Returns the number of the line, counted from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    pub(super) fn problem(&self) -> &str {
        &self.problem
    }
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The number of its first line, counted from 1.
    pub line: usize,
    /// The keyword in upper case.
    pub keyword: String,
    /// The flags, as `--name=value`, without quotes.
    pub flags: Vec<String>,
    /// The text after the flags.
    pub rest: String,
    /// The here-documents that follow it, each with the line that ends it.
    pub heredocs: String,
}

impl Instruction {
    /// Returns the values of a flag.
    pub fn values<'a>(&'a self, flag: &str) -> impl Iterator<Item = &'a str> {
        self.flags
            .iter()
            .filter_map(move |text| text.strip_prefix("--")?.strip_prefix(flag)?.strip_prefix('='))
    }
}

/// Returns the instructions of a Dockerfile, and its escape character.
///
/// # Errors
/// Returns an error if the file is larger than 1 MiB, or if a line cannot be interpreted.
pub fn parse(text: &str) -> Result<(Vec<Instruction>, char), SyntaxError> {
    if text.len() > MAX_LENGTH {
        return Err(SyntaxError::new(1, "the file is larger than 1 MiB"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape_character(text)?;
    let mut lines = (1..).zip(text.split('\n').map(|line| line.trim_end_matches('\r')));
    let mut instructions = Vec::new();
    while let Some((number, first)) = lines.next() {
        let first = first.trim_start();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (mut whole, mut continued) = continuation(first, escape);
        while continued {
            let Some((_, line)) = lines.next() else { break };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let (part, more) = continuation(line, escape);
            whole.push_str(&part);
            continued = more;
        }
        let mut instruction = split(number, &whole, escape)?;
        let error = |problem: String| SyntaxError::new(number, &problem);
        if has_heredocs(&instruction, &whole, escape)? {
            for heredoc in heredoc::begun_by(&whole).map_err(error)? {
                loop {
                    let Some((_, line)) = lines.next() else {
                        let delimiter = heredoc.delimiter;
                        return Err(error(format!("the here-document `{delimiter}` has no end")));
                    };
                    instruction.heredocs.push('\n');
                    if heredoc.is_ended_by(line) {
                        instruction.heredocs.push_str(&heredoc.delimiter);
                        break;
                    }
                    instruction.heredocs.push_str(line);
                }
            }
        }
        instructions.push(instruction);
    }
    Ok((instructions, escape))
}

/// Returns the escape character. The directive `# escape` sets it, which is allowed only among the
/// first lines.
fn escape_character(text: &str) -> Result<char, SyntaxError> {
    let mut escape = '\\';
    let mut known = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let directive = line.trim_start().strip_prefix('#').and_then(|line| line.split_once('='));
        let Some((name, value)) = directive else { break };
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim();
        if value.is_empty() || !["escape", "syntax", "check"].contains(&name.as_str()) {
            break;
        }
        if known.contains(&name) {
            return Err(SyntaxError::new(number, &format!("the directive `{name}` is repeated")));
        }
        if name == "escape" {
            escape = match value {
                "`" => '`',
                "\\" => '\\',
                _ => return Err(SyntaxError::new(number, "the escape must be `\\` or a backtick")),
            };
        }
        known.push(name);
    }
    Ok(escape)
}

/// Returns a line without the escape character that continues it, and whether there was one. Two
/// escape characters do not continue a line.
fn continuation(line: &str, escape: char) -> (String, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

fn split(line: usize, text: &str, escape: char) -> Result<Instruction, SyntaxError> {
    let text = text.trim();
    let (keyword, rest) = text.split_once(is_blank).unwrap_or((text, ""));
    let (flags, rest) = flags(rest, escape);
    if flags.len() > MAX_FLAGS {
        return Err(SyntaxError::new(line, "the instruction has too many flags"));
    }
    Ok(Instruction {
        line,
        keyword: keyword.to_uppercase(),
        flags,
        rest: rest.trim().to_owned(),
        heredocs: String::new(),
    })
}

/// Returns the flags at the beginning of a text without their quotes, and the text after them.
///
/// `BuildKit` reads bytes here, not characters: a byte of a longer character can be white space.
fn flags(text: &str, escape: char) -> (Vec<String>, String) {
    let bytes = text.as_bytes();
    let char_at = |index: usize| bytes.get(index).copied().map(char::from);
    let tail =
        |index: usize| String::from_utf8_lossy(bytes.get(index..).unwrap_or_default()).into_owned();
    let mut flags = Vec::new();
    let mut index = 0;
    loop {
        while char_at(index).is_some_and(char::is_whitespace) {
            index += 1;
        }
        if (char_at(index), char_at(index + 1)) != (Some('-'), Some('-')) {
            return (flags, tail(index));
        }
        let mut flag = String::new();
        let mut quote = None;
        while let Some(c) = char_at(index) {
            match quote {
                None if c.is_whitespace() => break,
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == escape => {
                    index += 1;
                    flag.extend(char_at(index));
                }
                _ => flag.push(c),
            }
            index += 1;
        }
        if flag == "--" {
            return (flags, tail(index));
        }
        flags.push(flag);
    }
}

/// Whether here-documents may follow an instruction. `ONBUILD` may precede it, and a command in
/// JSON has none.
fn has_heredocs(instruction: &Instruction, whole: &str, escape: char) -> Result<bool, SyntaxError> {
    if !whole.contains("<<") {
        return Ok(false);
    }
    let trigger;
    let instruction = match instruction.keyword.as_str() {
        "ONBUILD" => {
            trigger = split(instruction.line, &instruction.rest, escape)?;
            &trigger
        }
        _ => instruction,
    };
    let is_json = || serde_json::from_str::<Vec<String>>(&instruction.rest).is_ok();
    Ok(["ADD", "COPY", "RUN"].contains(&instruction.keyword.as_str()) && !is_json())
}
