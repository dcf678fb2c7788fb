//! XML as a stream of elements, with bounds. Entities other than those of XML itself are not
//! expanded.

use std::io::{self, BufRead};

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

/// Maximum depth of elements.
const MAX_DEPTH: usize = 64;
/// Maximum size of one element's tag or text in bytes. Descriptions have some thousand.
const MAX_TOKEN_BYTES: usize = 16 << 20;

/// What is read of a document.
pub(super) enum XmlEvent {
    /// An element begins, whose name has no prefix.
    Start(XmlElement),
    /// The text of the element that has begun last.
    Text(String),
    /// An element ends.
    End(String),
}

/// An element without its content.
pub(super) struct XmlElement {
    pub(super) name: String,
    attributes: Vec<XmlAttribute>,
}

struct XmlAttribute {
    name: String,
    value: String,
}

impl XmlElement {
    /// Returns the value of an attribute, or an empty text.
    pub(super) fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|attribute| attribute.name == name);
        found.map_or("", |attribute| &attribute.value)
    }
}

/// Calls a function with each part of a document.
///
/// # Errors
/// Returns an error if it is malformed, ends early or exceeds a bound, or that of the function.
pub(super) fn read_xml(
    document: impl BufRead,
    mut each: impl FnMut(XmlEvent) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = Reader::from_reader(LimitedTokens { inner: document, left: MAX_TOKEN_BYTES });
    reader.config_mut().expand_empty_elements = true;
    let (mut buffer, mut depth, mut elements) = (Vec::new(), 0_usize, 0_usize);
    loop {
        buffer.clear();
        reader.get_mut().left = MAX_TOKEN_BYTES;
        let event = reader.read_event_into(&mut buffer);
        match event.map_err(|error| io::Error::other(format!("is no valid XML: {error}")))? {
            Event::Start(start) => {
                depth += 1;
                elements += 1;
                if depth > MAX_DEPTH {
                    return Err(io::Error::other("has elements that are too deep"));
                }
                each(XmlEvent::Start(element(&start)?))?;
            }
            Event::End(end) => {
                depth = depth.saturating_sub(1);
                each(XmlEvent::End(end.local_name().as_ref().to_owned()))?;
            }
            Event::Text(content) => each(XmlEvent::Text(content.to_string()))?,
            Event::GeneralRef(name) => each(XmlEvent::Text(resolved(&name)))?,
            Event::Eof if depth == 0 && elements > 0 => return Ok(()),
            Event::Eof => return Err(io::Error::other("ends early")),
            _ => {}
        }
    }
}

/// Returns the character that an entity of XML stands for, or nothing.
fn resolved(name: &str) -> String {
    quick_xml::escape::resolve_predefined_entity(name).unwrap_or_default().to_owned()
}

fn element(start: &BytesStart<'_>) -> io::Result<XmlElement> {
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute =
            attribute.map_err(|error| io::Error::other(format!("is no valid XML: {error}")))?;
        let value = quick_xml::escape::unescape(&attribute.value)
            .map_err(|error| io::Error::other(format!("is no valid XML: {error}")))?
            .into_owned();
        attributes
            .push(XmlAttribute { name: attribute.key.local_name().as_ref().to_owned(), value });
    }
    Ok(XmlElement { name: start.local_name().as_ref().to_owned(), attributes })
}

/// A source that fails if one token takes more than its bound.
struct LimitedTokens<R> {
    inner: R,
    left: usize,
}

impl<R: BufRead> io::Read for LimitedTokens<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl<R: BufRead> BufRead for LimitedTokens<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::other("has a token that is too large"));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.inner.consume(amount);
    }
}
