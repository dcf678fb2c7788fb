//! The lines on which the values of a YAML document are, so that one value is replaced and
//! everything else stays as a user wrote it.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};

/// Maximum nesting of a manifest.
const MAX_DEPTH: usize = 64;

/// A value, and the lines that it takes, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineNode {
    pub kind: LineNodeKind,
    pub first_line: usize,
    /// The last line with a part of the value.
    pub last_line: usize,
    /// The column of its first character, counted from 0.
    pub column: usize,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineNodeKind {
    Scalar(String),
    Sequence(Vec<LineNode>),
    Mapping(Vec<LineEntry>),
    /// An alias of another value.
    Alias,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineEntry {
    pub key: String,
    pub key_line: usize,
    pub column: usize,
    pub value: LineNode,
    /// Whether key and value are in lines of their own, and not in braces.
    pub is_block: bool,
}

/// A document, and where its comments begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineDocument {
    pub root: LineNode,
    /// The column of the `#` of each line with a comment, both counted from 0.
    pub comments: BTreeMap<usize, usize>,
}

impl LineNode {
    /// Returns the entry of a key.
    pub fn entry(&self, key: &str) -> Option<&LineEntry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub fn entries(&self) -> &[LineEntry] {
        match &self.kind {
            LineNodeKind::Mapping(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[LineNode] {
        match &self.kind {
            LineNodeKind::Sequence(items) => items,
            _ => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            LineNodeKind::Scalar(text) => Some(text),
            _ => None,
        }
    }
}

/// Returns a text with one document; `None` if it has none.
///
/// # Errors
/// Returns an error with the line if the text is no YAML, or is nested too deep.
pub fn parse(text: &str) -> anyhow::Result<Option<LineDocument>> {
    let mut events = Vec::new();
    let mut comments = BTreeMap::new();
    for next in Parser::new_from_str(text) {
        let (event, span) =
            next.map_err(|error| anyhow::anyhow!("line {}: {error}", error.marker().line()))?;
        if matches!(event, Event::Comment(..)) {
            comments.insert(span.start.line().saturating_sub(1), span.start.col());
        } else {
            events.push((event, span));
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut reader = NodeReader { events: events.into_iter(), lines: &lines, depth: 0 };
    while let Some((event, span)) = reader.events.next() {
        if !matches!(
            event,
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd
        ) {
            let root = reader.node(&event, span)?;
            return Ok(Some(LineDocument { root, comments }));
        }
    }
    Ok(None)
}

struct NodeReader<'a, 't, I: Iterator<Item = (Event<'a>, Span)>> {
    events: I,
    lines: &'t [&'t str],
    depth: usize,
}

impl<'a, I: Iterator<Item = (Event<'a>, Span)>> NodeReader<'a, '_, I> {
    fn node(&mut self, event: &Event<'a>, span: Span) -> anyhow::Result<LineNode> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            anyhow::bail!("it is nested more than {MAX_DEPTH} deep");
        }
        let mut first_line = span.start.line().saturating_sub(1);
        let mut last_line = last_line(&span);
        let kind = match event {
            Event::Scalar(text, style, ..) => {
                if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    first_line = self.header_of_block(&span);
                    last_line = self.last_line_of_block(first_line, &span);
                }
                LineNodeKind::Scalar(text.to_string())
            }
            Event::SequenceStart(style, ..) => {
                let mut items = Vec::new();
                while let Some((event, span)) = self.events.next() {
                    if matches!(event, Event::SequenceEnd) {
                        if *style == StructureStyle::Flow {
                            last_line = self::last_line(&span);
                        }
                        break;
                    }
                    let item = self.node(&event, span)?;
                    last_line = last_line.max(item.last_line);
                    items.push(item);
                }
                LineNodeKind::Sequence(items)
            }
            Event::MappingStart(style, ..) => {
                let is_block = *style == StructureStyle::Block;
                let mut entries = Vec::new();
                while let Some((event, span)) = self.events.next() {
                    if matches!(event, Event::MappingEnd) {
                        if !is_block {
                            last_line = self::last_line(&span);
                        }
                        break;
                    }
                    let key = self.node(&event, span)?;
                    let Some((event, span)) = self.events.next() else { break };
                    let value = self.node(&event, span)?;
                    last_line = last_line.max(key.last_line).max(value.last_line);
                    entries.push(LineEntry {
                        key: key.text().unwrap_or_default().to_owned(),
                        key_line: key.first_line,
                        column: key.column,
                        value,
                        is_block,
                    });
                }
                LineNodeKind::Mapping(entries)
            }
            _ => LineNodeKind::Alias,
        };
        self.depth -= 1;
        Ok(LineNode {
            kind,
            first_line,
            last_line: last_line.max(first_line),
            column: span.start.col(),
        })
    }

    /// Returns the line with the `|` or `>` of a block scalar. Its token may begin at its text, or
    /// after it if it has none.
    fn header_of_block(&self, span: &Span) -> usize {
        let start = span.start.line().saturating_sub(1);
        let line = |at: usize| self.lines.get(at).copied().unwrap_or_default();
        let is_header = line(start).chars().nth(span.start.col()).is_some_and(|c| "|>".contains(c));
        let above = || (0..start).rev().find(|at| !line(*at).trim().is_empty());
        if is_header { start } else { above().unwrap_or(start) }
    }

    /// Returns the last line with text of a block scalar. Its token ends where the next one begins,
    /// so that empty lines and comments may be between.
    fn last_line_of_block(&self, header: usize, span: &Span) -> usize {
        let line = |at: usize| self.lines.get(at).copied().unwrap_or_default();
        let indent = |at: usize| line(at).len() - line(at).trim_start().len();
        let is_empty = |at: usize| line(at).trim().is_empty();
        let mut last = span.end.line().saturating_sub(1).min(self.lines.len().saturating_sub(1));
        if last > header && line(last).chars().take(span.end.col()).all(char::is_whitespace) {
            last -= 1;
        }
        // With a number in its header, a text may begin further to the right than it goes on.
        let options = line(header).rsplit(['|', '>']).next().unwrap_or_default();
        let is_fixed = options.contains(|c: char| c.is_ascii_digit());
        let first = (header + 1..=last).find(|at| !is_empty(*at));
        let own = first.filter(|_| !is_fixed).map(indent);
        let is_after = |at: usize| {
            let is_comment = line(at).trim_start().starts_with('#');
            is_empty(at) || is_comment && own.is_some_and(|own| indent(at) < own)
        };
        while last > header && is_after(last) {
            last -= 1;
        }
        last
    }
}

/// Returns the last line of a token, counted from 0. A token may end at the start of the line after
/// it.
fn last_line(span: &Span) -> usize {
    let end = span.end.line().saturating_sub(1);
    if span.end.col() == 0 && span.end.line() > span.start.line() { end - 1 } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of the entry `a` of a text.
    fn lines_of_a(text: &str) -> (usize, usize) {
        let document = parse(text).expect(text).expect("a document");
        let entry = document.root.entry("a").expect("an entry");
        (entry.key_line, entry.value.last_line)
    }

    #[test]
    fn a_block_scalar_ends_with_its_own_text() {
        for (text, last) in [
            ("a: |\n  x\nb: 1\n", 1),
            ("a:\n  c: |\n    x\n  d: 2\nb: 1\n", 3),
            ("a:\n  c: |\n    x\nb: 1\n", 2),
            ("a: |\n  x\n\n# of b\nb: 1\n", 1),
            ("a: |\n  x\n  # text\nb: 1\n", 2),
            ("a: >-\n  x\n  y", 2),
            ("a: |2\n    x\n  # text\nb: 1\n", 2),
            ("a: |\nb: 1\n", 0),
        ] {
            assert_eq!(lines_of_a(text), (0, last), "{text}");
        }
        // The next key is further to the right than the first column.
        let text = "s:\n    a: |\n      x\n    b: 1\n";
        let document = parse(text).expect("YAML").expect("a document");
        let entries = document.root.entry("s").expect("an entry").value.entries();
        assert_eq!((entries[0].value.last_line, entries[1].key_line), (2, 3));
    }

    #[test]
    fn comments_are_those_of_yaml() {
        let text = "a: O'Brien # one\nb: |\n  # text\nc: \"#\"\n";
        let document = parse(text).expect("YAML").expect("a document");
        assert_eq!(document.comments, [(0, 11)].into());
    }
}
