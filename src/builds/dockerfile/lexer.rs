//! Splits the text of an instruction into words, removes quotes and substitutes build arguments.
//! The rules are those of `BuildKit`'s `frontend/dockerfile/shell`.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

/// Maximum depth of nested substitutions such as `${A:-${B:-...}}`.
const MAX_DEPTH: usize = 8;
/// Maximum length of an expanded word in bytes.
const MAX_LENGTH: usize = 64 * 1024;

/// A word after the substitution of its arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The arguments that the word names, whether they are set or not.
    pub(super) used: Vec<String>,
}

/// Splits a text at white space that is not quoted or escaped. Quotes are kept. `<<` keeps the
/// white space after it, because that may separate it from the name of the here-document. Returns
/// `None` if a quote is not closed.
pub(super) fn split(text: &str, escape: char) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == escape && quote != Some('\'') {
            word.push(c);
            word.extend(chars.next());
            continue;
        }
        match quote {
            Some(open) => {
                if c == open {
                    quote = None;
                }
                word.push(c);
            }
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.push(c);
            }
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            None => {
                word.push(c);
                if c == '<' && word.ends_with("<<") {
                    while let Some(space) = chars.next_if(|c| c.is_whitespace()) {
                        word.push(space);
                    }
                }
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    quote.is_none().then_some(words)
}

/// Returns a word without its quotes.
pub(super) fn unquote(word: &str) -> String {
    let mut text = String::new();
    let mut quote = None;
    for c in word.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => text.push(c),
        }
    }
    text
}

/// Returns the fields of a comma-separated list, in which `"` quotes.
pub(super) fn csv(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(c),
        }
    }
    fields
}

/// Substitutes `$NAME` and `${NAME}`, with `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%` and
/// `%%`, and removes quotes.
///
/// # Errors
/// Returns a message if a substitution does not parse, requires a value that is not set, or
/// replaces patterns with `/`.
pub(super) fn expand(
    word: &str,
    escape: char,
    values: &BTreeMap<String, String>,
) -> Result<Expanded, String> {
    let mut expander =
        Expander { chars: word.chars().peekable(), escape, values, used: Vec::new() };
    let text = expander.expand_until(None, 0)?;
    Ok(Expanded { text, used: expander.used })
}

struct Expander<'a> {
    chars: Peekable<Chars<'a>>,
    escape: char,
    values: &'a BTreeMap<String, String>,
    used: Vec<String>,
}

impl Expander<'_> {
    /// Expands everything up to an unquoted `stop`, or up to the end if `stop` is `None`.
    fn expand_until(&mut self, stop: Option<char>, depth: usize) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(format!("`${{...}}` is nested deeper than {MAX_DEPTH}"));
        }
        let mut text = String::new();
        let mut double = false;
        while let Some(c) = self.chars.next() {
            match c {
                _ if Some(c) == stop && !double => return Ok(text),
                '"' => double = !double,
                '\'' if !double => loop {
                    match self.chars.next() {
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err("a quote is not closed".into()),
                    }
                },
                '$' => text.push_str(&self.expand_substitution(depth)?),
                c if c == self.escape => text.extend(self.chars.next()),
                c => text.push(c),
            }
            if text.len() > MAX_LENGTH {
                return Err("a word is too long".into());
            }
        }
        match stop {
            None if double => Err("a quote is not closed".into()),
            None => Ok(text),
            Some(stop) => Err(format!("`{stop}` is missing")),
        }
    }

    fn expand_substitution(&mut self, depth: usize) -> Result<String, String> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(if name.is_empty() {
                "$".into()
            } else {
                self.value(&name).unwrap_or_default()
            });
        }
        let name = self.name();
        if name.is_empty() {
            return Err("`${` requires a name after it".into());
        }
        let empty_is_unset = self.chars.next_if_eq(&':').is_some();
        let sign = self.chars.next();
        if sign == Some('}') && !empty_is_unset {
            return Ok(self.value(&name).unwrap_or_default());
        }
        if let Some(end @ ('#' | '%')) = sign.filter(|_| !empty_is_unset) {
            let length = match self.chars.next_if_eq(&end) {
                Some(_) => TrimLength::Longest,
                None => TrimLength::Shortest,
            };
            let pattern = self.expand_until(Some('}'), depth + 1)?;
            let side = if end == '#' { TrimSide::Start } else { TrimSide::End };
            return Ok(trim(&self.value(&name).unwrap_or_default(), &pattern, side, length));
        }
        let word = match sign {
            Some('-' | '+' | '?') => self.expand_until(Some('}'), depth + 1)?,
            _ => {
                return Err(format!(
                    "the substitution of `{name}` is not supported; write `${{{name}:-default}}` \
                     or `${{{name}}}`"
                ));
            }
        };
        let value = self.value(&name).filter(|value| !(empty_is_unset && value.is_empty()));
        match (sign, value) {
            (Some('+'), Some(_)) => Ok(word),
            (Some('+'), None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (Some('?'), None) => Err(format!("the argument `{name}` has no value: {word}")),
            (_, None) => Ok(word),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        if !self.used.iter().any(|used| used == name) {
            self.used.push(name.to_owned());
        }
        self.values.get(name).cloned()
    }
}

/// The side of a value that is trimmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TrimSide {
    Start,
    End,
}

/// Which match of a pattern is trimmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TrimLength {
    Shortest,
    Longest,
}

/// Returns a value without the beginning or the end that a pattern of `*` and `?` matches.
fn trim(value: &str, pattern: &str, side: TrimSide, length: TrimLength) -> String {
    let pattern: Vec<_> = pattern.chars().collect();
    let cuts = value.char_indices().map(|(index, _)| index).chain([value.len()]);
    let fits = |part: &str| matches(&part.chars().collect::<Vec<_>>(), &pattern);
    let kept = cuts.map(|cut| value.split_at(cut)).filter_map(|(start, end)| match side {
        TrimSide::Start => fits(start).then_some(end),
        TrimSide::End => fits(end).then_some(start),
    });
    // The longest match leaves the shortest rest.
    let best = match length {
        TrimLength::Longest => kept.min_by_key(|kept| kept.len()),
        TrimLength::Shortest => kept.max_by_key(|kept| kept.len()),
    };
    best.unwrap_or(value).to_owned()
}

fn matches(text: &[char], pattern: &[char]) -> bool {
    // `star`: the position of the last `*`, and the position in the text up to which it matches.
    let (mut t, mut p, mut star) = (0, 0, None);
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => {
                t += 1;
                p += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    t = taken + 1;
                    p = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}
