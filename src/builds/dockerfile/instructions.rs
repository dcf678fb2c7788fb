//! Splits the text of a Dockerfile into instructions: comments, continued lines, the escape
//! directive, flags, here-documents. The rules are those of `BuildKit`'s
//! `frontend/dockerfile/parser`.

use crate::builds::dockerfile::lexer;

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
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    /// The number of its first line, counted from 1.
    pub(super) line: usize,
    /// The keyword in upper case.
    pub(super) keyword: String,
    /// The flags, as `--name=value`, without quotes.
    pub(super) flags: Vec<String>,
    /// The text after the flags.
    pub(super) rest: String,
}

/// Returns the instructions of a Dockerfile, and its escape character.
pub(super) fn parse(text: &str) -> Result<(Vec<Instruction>, char), SyntaxError> {
    if text.len() > MAX_LENGTH {
        return Err(SyntaxError::new(1, "the file is larger than 1 MiB"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape_character(text);
    let mut lines = (1..).zip(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)));
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
        let instruction = split(number, &whole, escape)?;
        for Heredoc { name, strip_tabs } in heredocs(&instruction) {
            let ends = |line: &str| {
                (if strip_tabs { line.trim_start_matches('\t') } else { line }) == name
            };
            if !lines.by_ref().any(|(_, line)| ends(line)) {
                return Err(SyntaxError::new(
                    number,
                    &format!("the here-document `{name}` has no end"),
                ));
            }
        }
        instructions.push(instruction);
    }
    Ok((instructions, escape))
}

/// Returns the escape character. The directive `# escape` sets it, which is allowed only among the
/// first lines.
fn escape_character(text: &str) -> char {
    for line in text.lines() {
        let Some((name, value)) =
            line.trim_start().strip_prefix('#').and_then(|line| line.split_once('='))
        else {
            break;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "escape" if value.trim() == "`" => return '`',
            "syntax" | "check" => {}
            _ => break,
        }
    }
    '\\'
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
    let (keyword, mut rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let mut flags = Vec::new();
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            break;
        }
        let (flag, tail) = flag(rest, escape);
        rest = tail;
        if flag == "--" {
            break;
        }
        flags.push(flag);
        if flags.len() > MAX_FLAGS {
            return Err(SyntaxError::new(line, "the instruction has too many flags"));
        }
    }
    Ok(Instruction {
        line,
        keyword: keyword.to_ascii_uppercase(),
        flags,
        rest: rest.trim().to_owned(),
    })
}

/// Returns a flag without its quotes, and the text after it.
fn flag(text: &str, escape: char) -> (String, &str) {
    let mut flag = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (flag, text.get(index..).unwrap_or_default()),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => flag.extend(chars.next().map(|(_, c)| c)),
            _ => flag.push(c),
        }
    }
    (flag, "")
}

/// A here-document.
struct Heredoc {
    name: String,
    /// Whether leading tabs of its lines are stripped.
    strip_tabs: bool,
}

/// Returns the here-documents that follow an instruction.
fn heredocs(instruction: &Instruction) -> Vec<Heredoc> {
    let mut keyword = instruction.keyword.as_str();
    let mut rest = instruction.rest.as_str();
    let compound;
    if keyword == "ONBUILD" {
        let (inner, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        compound = inner.to_ascii_uppercase();
        (keyword, rest) = (compound.as_str(), tail);
    }
    let is_list = serde_json::from_str::<Vec<String>>(rest).is_ok();
    if !["ADD", "COPY", "RUN"].contains(&keyword) || is_list || !rest.contains("<<") {
        return Vec::new();
    }
    lexer::split(rest, '\\').unwrap_or_default().iter().filter_map(|word| heredoc(word)).collect()
}

/// Parses a word such as `<<EOF` or `3<<-"EOF"`.
fn heredoc(word: &str) -> Option<Heredoc> {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (word, strip_tabs) = word.strip_prefix('-').map_or((word, false), |word| (word, true));
    let word = word.trim_start();
    if word.contains('<') {
        return None;
    }
    let name = lexer::unquote(word);
    (!name.is_empty() && !name.contains(char::is_whitespace))
        .then_some(Heredoc { name, strip_tabs })
}
