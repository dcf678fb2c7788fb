//! A table whose columns fit into a terminal. What does not fit is cut, and never wrapped.

use comfy_table::{Attribute, Cell, Color, Table, presets};

use groundswell::{api::condition::shorten, terminal::printable};

/// Width to which every column is cut before one of them is cut to less.
const LEGIBLE_WIDTH: usize = 15;
/// Minimum width to which a column is cut, however narrow the terminal.
const MIN_COLUMN_WIDTH: usize = 5;
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
    let widest = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| one_line(&cell.text).chars().count());
        cells.chain(header.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(widest).collect();
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

/// Reduces the widths of columns to fit into `width`: first that of the last column as long as it
/// is legible, then always the widest.
fn fit(mut widths: Vec<usize>, width: usize) -> Vec<usize> {
    let gaps = COLUMN_GAP * widths.len().saturating_sub(1);
    let excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
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

/// Returns a text as one line without control characters.
pub fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

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
