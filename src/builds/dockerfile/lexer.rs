//! Words of a Dockerfile: splitting them, taking their quotes off, and filling in build arguments.
//! The rules are those of `BuildKit`'s `frontend/dockerfile/shell`.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

/// How deep `${A:-${B:-...}}` may be nested.
const MAX_DEPTH: usize = 8;
/// The most bytes that a word may expand to.
const MAX_LENGTH: usize = 64 * 1024;

/// A word with its arguments filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The arguments that were named, set or not.
    pub(super) used: Vec<String>,
}

/// Splits a text at white space that is not quoted or escaped; quotes stay. `<<` keeps the white
/// space after it, as a here-document's name may stand apart. `None` if a quote is not closed.
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

/// A word without its quotes.
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

/// The fields of a comma-separated list with `"` as its quote.
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

/// Fills in `$NAME` and `${NAME}`, with `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%` and `%%`,
/// and takes quotes off.
///
/// # Errors
/// A substitution does not parse, demands a value that is not set, or replaces patterns with `/`.
pub(super) fn expand(
    word: &str,
    escape: char,
    values: &BTreeMap<String, String>,
) -> Result<Expanded, String> {
    let mut expander =
        Expander { chars: word.chars().peekable(), escape, values, used: Vec::new() };
    let text = expander.until(None, 0)?;
    Ok(Expanded { text, used: expander.used })
}

struct Expander<'a> {
    chars: Peekable<Chars<'a>>,
    escape: char,
    values: &'a BTreeMap<String, String>,
    used: Vec<String>,
}

impl Expander<'_> {
    /// Everything up to an unquoted `stop`, or to the end.
    fn until(&mut self, stop: Option<char>, depth: usize) -> Result<String, String> {
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
                '$' => text.push_str(&self.dollar(depth)?),
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

    fn dollar(&mut self, depth: usize) -> Result<String, String> {
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
            return Err("`${` needs a name after it".into());
        }
        let empty_is_unset = self.chars.next_if_eq(&':').is_some();
        let sign = self.chars.next();
        if sign == Some('}') && !empty_is_unset {
            return Ok(self.value(&name).unwrap_or_default());
        }
        if let Some(end @ ('#' | '%')) = sign.filter(|_| !empty_is_unset) {
            let longest = self.chars.next_if_eq(&end).is_some();
            let pattern = self.until(Some('}'), depth + 1)?;
            return Ok(trim(&self.value(&name).unwrap_or_default(), &pattern, end == '#', longest));
        }
        let word = match sign {
            Some('-' | '+' | '?') => self.until(Some('}'), depth + 1)?,
            _ => {
                return Err(format!(
                    "the substitution of `{name}` is not understood; write `${{{name}:-default}}` \
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

/// A value without the shortest, or longest, beginning or end that a pattern of `*` and `?`
/// matches.
fn trim(value: &str, pattern: &str, from_start: bool, longest: bool) -> String {
    let pattern: Vec<_> = pattern.chars().collect();
    let cuts = value.char_indices().map(|(index, _)| index).chain([value.len()]);
    let fits = |part: &str| matches(&part.chars().collect::<Vec<_>>(), &pattern);
    let kept = cuts.map(|cut| value.split_at(cut)).filter_map(|(start, end)| {
        if from_start { fits(start).then_some(end) } else { fits(end).then_some(start) }
    });
    // What is kept is longest where what is cut off is shortest.
    let best = if longest {
        kept.min_by_key(|kept| kept.len())
    } else {
        kept.max_by_key(|kept| kept.len())
    };
    best.unwrap_or(value).to_owned()
}

fn matches(text: &[char], pattern: &[char]) -> bool {
    // Where the last `*` stood, and how much of the text it has taken so far.
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
