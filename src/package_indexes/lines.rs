//! Lines and paragraphs of texts, with bounds.

use std::io::{self, BufRead, Read as _};

/// Maximum length of a line in bytes. `Provides` of some packages of Debian have 30,000.
const MAX_LINE: u64 = 1 << 20;
/// Maximum number of lines of a paragraph.
const MAX_PARAGRAPH_LINES: usize = 10_000;

/// Calls a function with the values of these fields in each paragraph, which an empty line ends:
/// the first of each name, or an empty text. Lines that continue a field are left out.
///
/// # Errors
/// Returns an error of the reader, of a bound, or of the function.
pub(super) fn paragraphs<const N: usize>(
    mut text: impl BufRead,
    separator: char,
    fields: [&str; N],
    mut each: impl FnMut(&[String; N]) -> io::Result<()>,
) -> io::Result<()> {
    let mut values = [const { String::new() }; N];
    let (mut line, mut lines) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = text.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read as u64 == MAX_LINE {
            return Err(io::Error::other(format!("has a line of {MAX_LINE} bytes or more")));
        }
        let content = line.trim_ascii_end();
        if !content.is_empty() {
            lines += 1;
            if lines > MAX_PARAGRAPH_LINES {
                let problem = format!("has a paragraph of more than {MAX_PARAGRAPH_LINES} lines");
                return Err(io::Error::other(problem));
            }
            add_field(content, separator, &fields, &mut values);
        } else if lines > 0 {
            each(&values)?;
            values.iter_mut().for_each(String::clear);
            lines = 0;
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn add_field<const N: usize>(
    line: &[u8],
    separator: char,
    fields: &[&str; N],
    values: &mut [String; N],
) {
    let Some(end) = line.iter().position(|byte| char::from(*byte) == separator) else { return };
    let (Some(name), Some(value)) = (line.get(..end), line.get(end + 1..)) else { return };
    // apk distinguishes the case of its one-letter names, and Debian does not.
    let is_field = |field: &&str| match field.len() {
        1 => field.as_bytes() == name,
        _ => field.as_bytes().eq_ignore_ascii_case(name),
    };
    let known = fields.iter().position(is_field).and_then(|position| values.get_mut(position));
    if let Some(known) = known.filter(|known| known.is_empty()) {
        known.push_str(String::from_utf8_lossy(value).trim());
    }
}
