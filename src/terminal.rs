//! What is printed on a terminal. Names, messages and reasons come from whoever may write a family,
//! a Dockerfile or a registry's response, so none of their characters may act on the terminal.

use std::fmt::Write as _;

/// Returns a text whose characters are all shown: line breaks stay, a tabulator becomes a space,
/// and what a terminal acts on, hides, or uses to reorder the line becomes an escape such as
/// `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => printable.push('\n'),
            '\t' => printable.push(' '),
            hidden if hidden.is_control() || is_format(hidden) => {
                // Writing to a String never fails.
                _ = write!(printable, "{}", hidden.escape_unicode());
            }
            shown => printable.push(shown),
        }
    }
    printable
}

/// Whether a character is invisible and changes how its neighbours are shown: marks, embeddings and
/// isolates of the bidirectional algorithm (Unicode Standard Annex 9), separators of lines, spaces
/// and fillers without a width, and the tags and selectors in which text can be hidden. Joiners are
/// left, because scripts need them.
const fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180b}'..='\u{180e}'
            | '\u{3164}'
            | '\u{ffa0}'
            | '\u{e0100}'..='\u{e01ef}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_as_an_escape() {
        for (text, shown) in [
            ("plain grün 日本語 👩\u{200d}🔧", "plain grün 日本語 👩\u{200d}🔧"),
            ("two\nlines\tof", "two\nlines of"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("all\rnothing", "all\\u{d}nothing"),
            ("\u{9b}2J\u{8}", "\\u{9b}2J\\u{8}"),
            ("app\u{202e}gpj", "app\\u{202e}gpj"),
            ("hid\u{e0041}den\u{200b}", "hid\\u{e0041}den\\u{200b}"),
            ("a\u{e0100}\u{ad}\u{3164}", "a\\u{e0100}\\u{ad}\\u{3164}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
