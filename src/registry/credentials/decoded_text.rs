//! Texts as they read once an encoding is undone, with the places in the original text. The work is
//! linear in the length of the text.

use std::ops::Range;

/// A way in which programs write a text into another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextEncoding {
    /// As it is.
    Plain,
    /// As in a URL: `%2F`.
    Percent,
    /// As in a string of JSON: `\"` and `\u0022`.
    Json,
}

impl TextEncoding {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Percent, Self::Json];

    /// Whether a text could read differently once this is undone.
    fn may_be_in(self, text: &str) -> bool {
        match self {
            Self::Plain => true,
            Self::Percent => text.contains('%'),
            Self::Json => text.contains('\\'),
        }
    }
}

/// A text without its encoding and without line breaks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DecodedText {
    pub bytes: Vec<u8>,
    /// Where each byte is in the original text.
    places: Vec<Range<usize>>,
}

impl DecodedText {
    /// Undoes an encoding, and joins the lines. Returns `None` if the text does not have it.
    pub fn of(text: &str, encoding: TextEncoding) -> Option<Self> {
        encoding.may_be_in(text).then(|| Self::decode(text, encoding).joined())
    }

    fn decode(text: &str, encoding: TextEncoding) -> Self {
        let mut decoded = Self::default();
        let mut at = 0;
        while let Some(rest) = text.as_bytes().get(at..).filter(|rest| !rest.is_empty()) {
            let found = match encoding {
                TextEncoding::Plain => None,
                TextEncoding::Percent => percent(rest),
                TextEncoding::Json => json(rest),
            };
            let length = found.as_ref().map_or(1, |escape| escape.length);
            match (found, rest) {
                (None, [byte, ..]) => decoded.push(*byte, at..at + length),
                (found, _) => {
                    let bytes = found.into_iter().flat_map(|escape| escape.bytes);
                    bytes.for_each(|byte| decoded.push(byte, at..at + length));
                }
            }
            at += length;
        }
        decoded
    }

    /// Removes line breaks, with what begins the lines of lists and of a builder's log.
    fn joined(self) -> Self {
        let mut joined = Self::default();
        let mut skipped = 0;
        for (at, (byte, place)) in self.bytes.iter().zip(self.places).enumerate() {
            match byte {
                _ if at < skipped => {}
                b'\r' => {}
                b'\n' => {
                    let line = self.bytes.get(at + 1..).unwrap_or_default();
                    skipped = at + 1 + line_head(line);
                }
                byte => joined.push(*byte, place),
            }
        }
        joined
    }

    fn push(&mut self, byte: u8, place: Range<usize>) {
        self.bytes.push(byte);
        self.places.push(place);
    }

    /// Returns where these bytes are in the original text.
    pub fn place(&self, range: Range<usize>) -> Option<Range<usize>> {
        let last = range.end.checked_sub(1)?;
        Some(self.places.get(range.start)?.start..self.places.get(last)?.end)
    }

    /// Returns the range, extended by the bytes before and after it that such a text can have, up
    /// to the ends of its line.
    pub fn extended(&self, range: Range<usize>, is_part: impl Fn(u8) -> bool) -> Range<usize> {
        let belongs = |at: usize, next: usize| {
            let byte = self.bytes.get(at).copied().filter(|byte| is_part(*byte));
            byte.is_some() && self.is_adjacent(at.min(next), at.max(next))
        };
        let Range { mut start, mut end } = range;
        while start > 0 && belongs(start - 1, start) {
            start -= 1;
        }
        while end > 0 && belongs(end, end - 1) {
            end += 1;
        }
        start..end
    }

    fn is_adjacent(&self, one: usize, next: usize) -> bool {
        let places = self.places.get(one).zip(self.places.get(next));
        places.is_some_and(|(one, next)| one.end >= next.start)
    }
}

/// An escape at the beginning of a text: its length there, and what it stands for.
struct Escape {
    length: usize,
    bytes: Vec<u8>,
}

fn percent(text: &[u8]) -> Option<Escape> {
    match text {
        [b'%', high, low, ..] => {
            let byte = digit(*high)? * 16 + digit(*low)?;
            Some(Escape { length: 3, bytes: vec![u8::try_from(byte).ok()?] })
        }
        _ => None,
    }
}

fn json(text: &[u8]) -> Option<Escape> {
    let (b'\\', rest) = text.split_first()? else { return None };
    let byte = match rest.first()? {
        byte @ (b'"' | b'\\' | b'/') => *byte,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => return json_unicode(text),
        _ => return None,
    };
    Some(Escape { length: 2, bytes: vec![byte] })
}

/// Reads `\u` with four digits, twice for a pair of surrogates.
fn json_unicode(text: &[u8]) -> Option<Escape> {
    let unit = |text: &[u8]| {
        let digits = text.strip_prefix(b"\\u")?.get(..4)?;
        digits.iter().try_fold(0, |unit, byte| Some(unit * 16 + digit(*byte)?))
    };
    let first = unit(text)?;
    let (length, code) = match text.get(6..).and_then(unit) {
        Some(second @ 0xdc00..=0xdfff) if (0xd800..0xdc00).contains(&first) => {
            (12, 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
        }
        _ => (6, first),
    };
    let character = char::from_u32(code)?;
    Some(Escape { length, bytes: character.to_string().into_bytes() })
}

fn digit(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

/// Returns the length of what begins a line: blanks, and the step and time that a build prints
/// before each line of its log, `#12 0.345 `.
fn line_head(line: &[u8]) -> usize {
    let indented = after(line, |byte| matches!(byte, b' ' | b'\t'));
    let text = after_step(indented).unwrap_or(indented);
    line.len() - after(text, |byte| matches!(byte, b' ' | b'\t')).len()
}

/// Returns what follows the step and the time in a line.
fn after_step(line: &[u8]) -> Option<&[u8]> {
    let step =
        line.strip_prefix(b"#").filter(|step| step.first().is_some_and(u8::is_ascii_digit))?;
    let time = after(step, u8::is_ascii_digit).strip_prefix(b" ")?;
    let time = Some(time).filter(|time| time.first().is_some_and(u8::is_ascii_digit))?;
    after(time, |byte| byte.is_ascii_digit() || *byte == b'.').strip_prefix(b" ")
}

/// Returns what follows the bytes of one kind at the beginning of a text.
fn after(text: &[u8], is_skipped: impl Fn(&u8) -> bool) -> &[u8] {
    let skipped = text.iter().take_while(|byte| is_skipped(byte)).count();
    text.get(skipped..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str, encoding: TextEncoding) -> String {
        let decoded = DecodedText::of(text, encoding).expect("it may have it");
        String::from_utf8(decoded.bytes).expect("text")
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_stays() {
        for (encoding, text, expected) in [
            (TextEncoding::Percent, "a%2Fb%2fc%3d", "a/b/c="),
            (TextEncoding::Percent, "100% of %zz %4", "100% of %zz %4"),
            (TextEncoding::Percent, "%C3%A9\u{e9}", "\u{e9}\u{e9}"),
            (TextEncoding::Json, r#"\"a\\b\/ \u0026\u003C\t"#, "\"a\\b/ &<\t"),
            (TextEncoding::Json, r"\ud83d\ude00 \u00e9", "\u{1f600} \u{e9}"),
            (TextEncoding::Json, r"\x \u12 \ud83d \", r"\x \u12 \ud83d \"),
            (TextEncoding::Json, r"ab\ncd\r\n ef", "abcdef"),
            (TextEncoding::Plain, "ab\r\n  cd\n#12 0.345 ef\n# 1 2", "abcdef# 1 2"),
            (TextEncoding::Plain, "a\n#1 2\n#x 1 c", "a#1 2#x 1 c"),
        ] {
            assert_eq!(decoded(text, encoding), expected, "{text}");
        }
        assert_eq!(DecodedText::of("plain", TextEncoding::Percent), None);
        assert_eq!(DecodedText::of("plain", TextEncoding::Json), None);
    }

    #[test]
    fn places_are_those_of_the_original_text() {
        let text = "a%2Fb\nc";
        let decoded = DecodedText::of(text, TextEncoding::Percent).expect("decoded");
        assert_eq!(decoded.bytes, b"a/bc");
        let original = |range| decoded.place(range).and_then(|place| text.get(place));
        assert_eq!(original(1..2), Some("%2F"));
        assert_eq!(original(1..4), Some("%2Fb\nc"));
        assert_eq!(original(0..0), None);
        assert_eq!(decoded.extended(1..2, |_| true), 0..3, "up to the end of the line");
        assert_eq!(decoded.extended(1..2, |byte| byte == b'a'), 0..2);
        assert_eq!(decoded.extended(3..4, |_| true), 3..4);
    }
}
