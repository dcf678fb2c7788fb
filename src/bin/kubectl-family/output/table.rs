//! A table whose columns fit into a terminal. What does not fit is cut, and never wrapped.

use comfy_table::{Attribute, Cell, Color, Table, presets};

use groundswell::{api::condition::shorten, terminal::printable};

/// Width to which every column is cut before one of them is cut to less.
const LEGIBLE_WIDTH: usize = 15;
/// Minimum width to which a column is cut, however narrow the terminal.
const MIN_COLUMN_WIDTH: usize = 5;
/// Width of the last column that is worth leaving out other columns for.
const READABLE_WIDTH: usize = 32;
/// Number of spaces between two columns.
const COLUMN_GAP: usize = 2;

/// A text with its style.
#[derive(Clone, Debug)]
pub struct StyledText {
    pub text: String,
    pub colour: Option<Color>,
    pub bold: bool,
}

impl<T: ToString> From<T> for StyledText {
    fn from(text: T) -> Self {
        Self { text: text.to_string(), colour: None, bold: false }
    }
}

/// Returns a text in a colour.
pub fn styled(text: &str, colour: Color) -> StyledText {
    StyledText { text: text.into(), colour: Some(colour), bold: false }
}

/// Renders a table with a row for each entry, or a text if there is none.
pub fn list<T>(
    entries: &[T],
    none: &str,
    header: &[&str],
    row: impl Fn(&T) -> Vec<StyledText>,
    width: Option<u16>,
) -> String {
    if entries.is_empty() {
        return none.into();
    }
    render(header, entries.iter().map(row).collect(), width)
}

/// Renders a table that fits into `width`, unless a column would get less than
/// [`MIN_COLUMN_WIDTH`].
pub fn render(header: &[&str], rows: Vec<Vec<StyledText>>, width: Option<u16>) -> String {
    let widths = natural_widths(header, &rows);
    let widths = width.map_or(widths.clone(), |width| fit(widths, usize::from(width)));
    let mut table = Table::new();
    table.load_style(presets::NOTHING).enforce_styling();
    table.set_header(header.iter().zip(&widths).map(|(name, width)| shorten(name, *width)));
    for row in rows {
        table.add_row(
            row.into_iter().zip(&widths).map(|(cell, width)| cell.cut(*width)).collect::<Vec<_>>(),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, u16::try_from(COLUMN_GAP).unwrap_or(1)));
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// Renders a table as [`render`] does. The columns of these names are left out, the first one
/// first, as long as the last column would be cut to less than [`READABLE_WIDTH`], or another one
/// at all.
pub fn render_without(
    expendable: &[&str],
    header: &[&str],
    rows: Vec<Vec<StyledText>>,
    width: Option<u16>,
) -> String {
    let Some(columns) = width.map(usize::from) else { return render(header, rows, width) };
    let widths = natural_widths(header, &rows);
    let mut kept: Vec<usize> = (0..header.len()).collect();
    for name in expendable {
        let needed = kept.iter().filter_map(|column| widths.get(*column).copied());
        if table_width(&least_widths(needed.collect())) <= columns {
            break;
        }
        kept.retain(|column| header.get(*column) != Some(name));
    }
    let header: Vec<&str> = kept.iter().filter_map(|column| header.get(*column).copied()).collect();
    let kept_of = |row: Vec<StyledText>| {
        let cells = row.into_iter().enumerate().filter(|(column, _)| kept.contains(column));
        cells.map(|(_, cell)| cell).collect()
    };
    render(&header, rows.into_iter().map(kept_of).collect(), width)
}

/// Returns the widths that columns need for nothing to be cut but the last one.
fn least_widths(mut widths: Vec<usize>) -> Vec<usize> {
    if let Some(last) = widths.last_mut() {
        *last = READABLE_WIDTH.min(*last);
    }
    widths
}

/// Returns the widths of columns of which nothing is cut.
fn natural_widths(header: &[&str], rows: &[Vec<StyledText>]) -> Vec<usize> {
    let widest = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| one_line(&cell.text).chars().count());
        cells.chain(header.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    (0..header.len()).map(widest).collect()
}

/// Returns the width of a table with columns of these widths.
fn table_width(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + COLUMN_GAP * widths.len().saturating_sub(1)
}

/// Reduces the widths of columns to fit into `width`: first that of the last column as long as it
/// is legible, then always the widest.
fn fit(mut widths: Vec<usize>, width: usize) -> Vec<usize> {
    let excess = table_width(&widths).saturating_sub(width);
    for _ in 0..excess {
        let last = widths.last().is_some_and(|last| *last > LEGIBLE_WIDTH);
        let chosen = if last { widths.last_mut() } else { widths.iter_mut().max() };
        match chosen {
            Some(width) if *width > MIN_COLUMN_WIDTH => *width -= 1,
            _ => break,
        }
    }
    widths
}

impl StyledText {
    fn cut(self, width: usize) -> Cell {
        let mut cell = Cell::new(shorten(&one_line(&self.text), width));
        if let Some(colour) = self.colour {
            cell = cell.fg(colour);
        }
        if self.bold { cell.add_attribute(Attribute::Bold) } else { cell }
    }
}

/// Breaks a line between words into lines of at most `width` characters, unless a word is longer.
/// The first one keeps its indentation, and the others are indented by `indent` spaces.
pub fn wrapped(line: &str, width: Option<u16>, indent: usize) -> String {
    let width = width.map_or(usize::MAX, usize::from);
    let mut text: String = line.chars().take_while(|character| *character == ' ').collect();
    let mut used = text.len();
    for (position, word) in line.split_whitespace().enumerate() {
        let length = word.chars().count();
        if position > 0 && used + 1 + length > width {
            text = text + "\n" + &" ".repeat(indent);
            used = indent;
        } else if position > 0 {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += length;
    }
    text + "\n"
}

/// Returns a text as one line without control characters.
pub fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_left_out_before_names_and_messages_are_cut() {
        let header = ["IMAGE", "STATE", "DIGEST", "AGE", "MESSAGE"];
        let message = "waiting for python, which is built on tooling";
        let row = ["flask-helloworld", "Waiting", "2aea60fbe9b0", "118s", message];
        let shown = |width: Option<u16>| {
            let rows = vec![row.map(StyledText::from).to_vec()];
            let text = render_without(&["AGE", "DIGEST"], &header, rows, width);
            anstream::adapter::strip_str(&text).to_string()
        };
        assert!(shown(None).ends_with(&format!("2aea60fbe9b0  118s  {message}\n")));
        assert_eq!(shown(Some(200)), shown(None));
        let without_age = shown(Some(76));
        assert!(without_age.contains("2aea60fbe9b0") && !without_age.contains("118s"));
        let without_both = shown(Some(60));
        assert!(!without_both.contains("2aea60fbe9b0"), "{without_both}");
        assert!(without_both.contains("flask-helloworld  Waiting  waiting for python, which is"));
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        assert_eq!(wrapped("one two three", None, 2), "one two three\n");
        assert_eq!(wrapped("one two three", Some(13), 2), "one two three\n");
        assert_eq!(wrapped("one two three", Some(12), 2), "one two\n  three\n");
        assert_eq!(wrapped("  one two three", Some(9), 2), "  one two\n  three\n");
        assert_eq!(wrapped("immeasurably long", Some(3), 0), "immeasurably\nlong\n");
        assert_eq!(wrapped("", Some(40), 2), "\n");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let header = ["LEVEL", "IMAGE", "STATE", "BUILD", "DIGEST", "STATE-AGE", "MESSAGE"];
        let row =
            ["1", "flask-helloworld", "Building", "12", "2aea60fbe9b0", "118s", "build 12 runs"];
        for width in [49, 60, 80] {
            let text = render(&header, vec![row.map(StyledText::from).to_vec()], Some(width));
            let plain = anstream::adapter::strip_str(&text).to_string();
            assert_eq!(plain.lines().count(), 2, "{plain}");
            let widest = plain.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(width)), "{width}: {plain}");
        }
    }
}
