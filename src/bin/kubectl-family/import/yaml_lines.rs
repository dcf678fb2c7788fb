//! The lines on which the values of a YAML document are, so that one value is replaced and
//! everything else stays as a user wrote it.

use granit_parser::{Event, Parser, Span, StructureStyle};

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

/// Returns the root of a text with one document; `None` if it has none.
///
/// # Errors
/// Returns an error with the line if the text is no YAML, or is nested too deep.
pub fn parse(text: &str) -> anyhow::Result<Option<LineNode>> {
    let mut events = Vec::new();
    for next in Parser::new_from_str(text) {
        let (event, span) =
            next.map_err(|error| anyhow::anyhow!("line {}: {error}", error.marker().line()))?;
        if !matches!(event, Event::Comment(..)) {
            events.push((event, span));
        }
    }
    let mut reader = NodeReader { events: events.into_iter(), depth: 0 };
    while let Some((event, span)) = reader.events.next() {
        if !matches!(
            event,
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd
        ) {
            return reader.node(&event, span).map(Some);
        }
    }
    Ok(None)
}

struct NodeReader<'a, I: Iterator<Item = (Event<'a>, Span)>> {
    events: I,
    depth: usize,
}

impl<'a, I: Iterator<Item = (Event<'a>, Span)>> NodeReader<'a, I> {
    fn node(&mut self, event: &Event<'a>, span: Span) -> anyhow::Result<LineNode> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            anyhow::bail!("it is nested more than {MAX_DEPTH} deep");
        }
        let first_line = span.start.line().saturating_sub(1);
        let mut last_line = last_line(&span);
        let kind = match event {
            Event::Scalar(text, ..) => LineNodeKind::Scalar(text.to_string()),
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
}

/// Returns the last line of a token, counted from 0. A block scalar ends at the start of the line
/// after it.
fn last_line(span: &Span) -> usize {
    let end = span.end.line().saturating_sub(1);
    if span.end.col() == 0 && span.end.line() > span.start.line() { end - 1 } else { end }
}
