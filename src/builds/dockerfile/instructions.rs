//! From the text of a Dockerfile to its instructions: comments, continued lines, the escape
//! directive, flags, heredocs. The rules are those of `BuildKit`'s `frontend/dockerfile/parser`.

use crate::builds::dockerfile::lexer;

/// The most bytes of a Dockerfile.
const MAX_LENGTH: usize = 1 << 20;
/// The most flags of one instruction.
const MAX_FLAGS: usize = 256;

/// Why a Dockerfile can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Dockerfile can't be read: line {line}: {problem}")]
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
    /// The line that it begins on, counted from 1.
    pub(super) line: usize,
    /// Its keyword in upper case.
    pub(super) keyword: String,
    /// Its flags, `--name=value`, without quotes.
    pub(super) flags: Vec<String>,
    /// What comes after the flags.
    pub(super) rest: String,
}

/// The instructions of a Dockerfile, and the character that escapes in it.
pub(super) fn read(text: &str) -> Result<(Vec<Instruction>, char), SyntaxError> {
    if text.len() > MAX_LENGTH {
        return Err(SyntaxError::new(1, "it is larger than 1 MiB"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape(text);
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
        for (name, chomp) in heredocs(&instruction) {
            let ends =
                |line: &str| (if chomp { line.trim_start_matches('\t') } else { line }) == name;
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

/// The escape character: of the directive `# escape`, which may stand only among the first lines.
fn escape(text: &str) -> char {
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

/// A line without the escape character that continues it, and whether there was one. Two of them
/// are no continuation.
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
            return Err(SyntaxError::new(line, "it has too many flags"));
        }
    }
    Ok(Instruction {
        line,
        keyword: keyword.to_ascii_uppercase(),
        flags,
        rest: rest.trim().to_owned(),
    })
}

/// A flag without its quotes, and what comes after it.
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

/// The here-documents that follow an instruction: their names, and whether leading tabs count.
fn heredocs(instruction: &Instruction) -> Vec<(String, bool)> {
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

/// A word such as `<<EOF`, `3<<-"EOF"`.
fn heredoc(word: &str) -> Option<(String, bool)> {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (word, chomp) = word.strip_prefix('-').map_or((word, false), |word| (word, true));
    let word = word.trim_start();
    if word.contains('<') {
        return None;
    }
    let name = lexer::unquote(word);
    (!name.is_empty() && !name.contains(char::is_whitespace)).then_some((name, chomp))
}
