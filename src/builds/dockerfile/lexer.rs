//! Expands the words of an instruction: removes quotes and escapes, and substitutes build
//! arguments. The rules are those of `BuildKit`'s `frontend/dockerfile/shell`, including those that
//! differ from a shell's.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

use crate::builds::dockerfile::pattern::{self, Occurrences, TrimSide};

/// Maximum depth of nested substitutions such as `${A:-${B:-...}}`.
const MAX_DEPTH: usize = 32;
/// Maximum length of a word in bytes after the substitution of its arguments.
const MAX_LENGTH: usize = 64 * 1024;

/// A word after the substitution of its arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The arguments that the word names, whether they are set or not.
    pub(super) used: Vec<String>,
}

/// Why a text cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LexError {
    /// `BuildKit` rejects the text, too.
    Invalid(String),
    /// The text exceeds a limit that `BuildKit` does not have.
    TooLarge(String),
}

impl LexError {
    pub(super) fn into_message(self) -> String {
        match self {
            Self::Invalid(message) | Self::TooLarge(message) => message,
        }
    }
}

/// Which quotes and escapes stay in the words that [`words`] returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw {
    Nothing,
    Quotes,
    QuotesAndEscapes,
}

/// Substitutes arguments in a word, and removes its quotes and escapes.
///
/// # Errors
/// Returns a message if a substitution does not parse, or requires a value that is not set.
pub(super) fn expand(
    word: &str,
    escape: char,
    values: &BTreeMap<String, String>,
) -> Result<Expanded, String> {
    let mut lexer = Lexer { escape, values: Some(values), ..Lexer::new(word) };
    let text = lexer.until(None).map_err(LexError::into_message)?.text;
    Ok(Expanded { text, used: lexer.used })
}

/// Splits a text into words at white space that is not quoted or escaped. No argument is set, and
/// each substitution stays as it is written. `<<` keeps the white space after it, because that may
/// separate it from the delimiter of a here-document.
pub(super) fn words(text: &str, raw: Raw) -> Result<Vec<String>, LexError> {
    let mut lexer = Lexer {
        raw_quotes: raw != Raw::Nothing,
        raw_escapes: raw == Raw::QuotesAndEscapes,
        ..Lexer::new(text)
    };
    lexer.until(None).map(|processed| processed.words)
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    escape: char,
    /// The values of arguments; `None` if substitutions stay as they are written.
    values: Option<&'a BTreeMap<String, String>>,
    raw_quotes: bool,
    raw_escapes: bool,
    used: Vec<String>,
    /// The word that is being read. `BuildKit` has one for all nested substitutions: the beginning
    /// of a word is lost at `${A:-...}`.
    word: String,
    depth: usize,
}

/// A whole text, or its part up to the character that stops it.
#[derive(Default)]
struct Processed {
    text: String,
    words: Vec<String>,
}

type LexResult<T = String> = Result<T, LexError>;

fn invalid<T>(message: impl Into<String>) -> LexResult<T> {
    Err(LexError::Invalid(message.into()))
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            chars: text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable(),
            escape: '\\',
            values: None,
            raw_quotes: false,
            raw_escapes: false,
            used: Vec::new(),
            word: String::new(),
            depth: 0,
        }
    }

    /// Processes everything up to `stop`, or up to the end if `stop` is `None`.
    fn until(&mut self, stop: Option<char>) -> LexResult<Processed> {
        if self.depth > MAX_DEPTH {
            let message = format!("`${{...}}` is nested deeper than {MAX_DEPTH}");
            return Err(LexError::TooLarge(message));
        }
        self.word.clear();
        let mut done = Processed::default();
        let mut in_word = false;
        while let Some(&c) = self.chars.peek() {
            if Some(c) == stop {
                self.chars.next();
                return Ok(self.finish(done));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    done.text.push_str(&value);
                    for c in value.chars() {
                        self.add(c, &mut in_word, &mut done.words);
                    }
                }
                '<' | '\'' | '"' => {
                    let part = match c {
                        '<' => self.less_than(),
                        '\'' => self.single_quoted()?,
                        _ => self.double_quoted()?,
                    };
                    done.text.push_str(&part);
                    self.word.push_str(&part);
                    in_word = true;
                }
                c if c == self.escape => {
                    self.chars.next();
                    if self.raw_escapes {
                        done.text.push(c);
                        self.word.push(c);
                    }
                    let Some(escaped) = self.chars.next() else { break };
                    done.text.push(escaped);
                    self.word.push(escaped);
                    in_word = true;
                }
                c => {
                    self.chars.next();
                    done.text.push(c);
                    self.add(c, &mut in_word, &mut done.words);
                }
            }
            if self.values.is_some() && done.text.len() > MAX_LENGTH {
                return Err(LexError::TooLarge("a word is too long".into()));
            }
        }
        match stop {
            None => Ok(self.finish(done)),
            Some(stop) => invalid(format!("`{stop}` is missing")),
        }
    }

    fn finish(&mut self, mut done: Processed) -> Processed {
        if !self.word.is_empty() {
            done.words.push(std::mem::take(&mut self.word));
        }
        done
    }

    /// Adds a character that may end the word.
    fn add(&mut self, c: char, in_word: &mut bool, words: &mut Vec<String>) {
        if !c.is_whitespace() {
            self.word.push(c);
            *in_word = true;
        } else if *in_word && !self.word.is_empty() {
            words.push(std::mem::take(&mut self.word));
            *in_word = false;
        }
    }

    /// Processes a part of a substitution.
    fn nested(&mut self, stop: char, escapes: PatternEscapes) -> LexResult {
        let outer = std::mem::replace(&mut self.raw_escapes, escapes == PatternEscapes::Keep);
        self.depth += 1;
        let processed = self.until(Some(stop));
        self.depth -= 1;
        self.raw_escapes = outer;
        processed.map(|processed| processed.text)
    }

    fn single_quoted(&mut self) -> LexResult {
        let mut text = String::new();
        self.quote(&mut text);
        loop {
            match self.chars.peek() {
                None => return invalid("a quote is not closed"),
                Some('\'') => {
                    self.quote(&mut text);
                    return Ok(text);
                }
                Some(_) => text.extend(self.chars.next()),
            }
        }
    }

    fn double_quoted(&mut self) -> LexResult {
        let mut text = String::new();
        self.quote(&mut text);
        loop {
            match self.chars.peek() {
                None => return invalid("a quote is not closed"),
                Some('"') => {
                    self.quote(&mut text);
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(&c) if c == self.escape => {
                    self.chars.next();
                    if self.raw_escapes {
                        text.push(c);
                    }
                    match self.chars.peek() {
                        None => {}
                        Some(&next) if next == '"' || next == '$' || next == self.escape => {
                            text.extend(self.chars.next());
                        }
                        Some(_) => text.push(c),
                    }
                }
                Some(_) => text.extend(self.chars.next()),
            }
        }
    }

    fn quote(&mut self, text: &mut String) {
        let quote = self.chars.next();
        if self.raw_quotes {
            text.extend(quote);
        }
    }

    fn less_than(&mut self) -> String {
        self.chars.next();
        let mut text = String::from("<");
        if let Some(second) = self.chars.next_if_eq(&'<') {
            text.push(second);
            while let Some(space) = self.chars.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
                text.push(space);
            }
        }
        text
    }

    fn dollar(&mut self) -> LexResult {
        self.chars.next();
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(match self.value(&name) {
                _ if name.is_empty() => "$".into(),
                Value::Set(value) => value,
                Value::Unset => String::new(),
                Value::AsWritten => format!("${name}"),
            });
        }
        if matches!(self.chars.peek(), None | Some('{' | '}' | ':')) {
            return invalid("`${` requires a name after it");
        }
        let name = self.name();
        match self.chars.next() {
            Some('}') => Ok(match self.value(&name) {
                Value::Set(value) => value,
                Value::Unset => String::new(),
                Value::AsWritten => format!("${{{name}}}"),
            }),
            Some('/') => self.replacement(&name),
            Some(':') => {
                let sign = self.chars.next();
                self.default_or_trim(&name, sign, EmptyValue::IsUnset)
            }
            sign @ Some('+' | '-' | '?' | '#' | '%') => {
                self.default_or_trim(&name, sign, EmptyValue::IsSet)
            }
            _ => Err(unsupported(&name)),
        }
    }

    /// Expands `${NAME-word}`, with any of the signs `-`, `+`, `?`, `#` and `%`.
    fn default_or_trim(&mut self, name: &str, sign: Option<char>, empty: EmptyValue) -> LexResult {
        let Some(sign) = sign else { return Err(unsupported(name)) };
        let trims = matches!(sign, '#' | '%');
        if trims && empty == EmptyValue::IsUnset {
            return Err(unsupported(name));
        }
        let escapes = if trims { PatternEscapes::Keep } else { PatternEscapes::Remove };
        let word = self.nested('}', escapes)?;
        let value = match self.value(name) {
            Value::AsWritten => {
                let colon = if empty == EmptyValue::IsUnset { ":" } else { "" };
                return Ok(format!("${{{name}{colon}{sign}{word}}}"));
            }
            Value::Set(value) => Some(value),
            Value::Unset => None,
        };
        if trims {
            let side = if sign == '#' { TrimSide::Start } else { TrimSide::End };
            let value = value.unwrap_or_default();
            return pattern::trim(&value, &word, side).map_err(LexError::Invalid);
        }
        let value = value.filter(|value| empty == EmptyValue::IsSet || !value.is_empty());
        match (sign, value) {
            ('+', Some(_)) | ('-', None) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('-' | '?', Some(value)) => Ok(value),
            ('?', None) => invalid(format!("the argument `{name}` has no value: {word}")),
            _ => Err(unsupported(name)),
        }
    }

    /// Expands `${NAME/pattern/replacement}` and `${NAME//pattern/replacement}`.
    fn replacement(&mut self, name: &str) -> LexResult {
        let occurrences = match self.chars.next_if_eq(&'/') {
            Some(_) => Occurrences::All,
            None => Occurrences::First,
        };
        let pattern = self.nested('/', PatternEscapes::Keep)?;
        let replacement = self.nested('}', PatternEscapes::Keep)?;
        let value = match self.value(name) {
            Value::AsWritten => return Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            Value::Set(value) => value,
            Value::Unset => String::new(),
        };
        pattern::replace(&value, &pattern, &replacement, occurrences).map_err(LexError::Invalid)
    }

    /// Reads the name of an argument: letters, digits and `_`, or digits alone, or one special
    /// character of a shell, which is never set.
    fn name(&mut self) -> String {
        let special = |c: &char| "@*#?-$!".contains(*c);
        if let Some(c) = self.chars.next_if(special) {
            return c.into();
        }
        let only_digits = self.chars.peek().is_some_and(|c| c.is_numeric());
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| {
            if only_digits { c.is_numeric() } else { c.is_alphanumeric() || *c == '_' }
        }) {
            name.push(c);
        }
        name
    }

    fn value(&mut self, name: &str) -> Value {
        let Some(values) = self.values else { return Value::AsWritten };
        if !name.is_empty() && !self.used.iter().any(|used| used == name) {
            self.used.push(name.to_owned());
        }
        values.get(name).map_or(Value::Unset, |value| Value::Set(value.clone()))
    }
}

/// The value of an argument.
enum Value {
    Set(String),
    Unset,
    /// The lexer substitutes nothing.
    AsWritten,
}

/// Whether an argument with an empty value counts as one without a value: `:-` or `-`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EmptyValue {
    IsSet,
    IsUnset,
}

/// Whether a part of a substitution keeps its escapes, which a pattern interprets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PatternEscapes {
    Keep,
    Remove,
}

fn unsupported(name: &str) -> LexError {
    LexError::Invalid(format!(
        "the substitution of `{name}` is not supported; write `${{{name}:-default}}` or \
         `${{{name}}}`"
    ))
}
