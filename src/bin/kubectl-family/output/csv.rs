//! Tables for spreadsheets, as RFC 4180 describes them.

use groundswell::terminal::printable;

/// First characters of what a spreadsheet takes for a formula.
const BEGINNINGS_OF_FORMULAS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// Renders a table. A value that a spreadsheet would take for a formula gets an apostrophe in
/// front, and characters on which a terminal acts become escapes.
///
/// # Errors
///
/// Returns an error if a row has another length than the header.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header)?;
    for row in rows {
        writer.write_record(row.iter().map(|value| inert(value)))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// Returns a value that no spreadsheet calculates.
fn inert(value: &str) -> String {
    let is_formula = value.trim_start_matches(' ').starts_with(BEGINNINGS_OF_FORMULAS);
    format!("{}{}", if is_formula { "'" } else { "" }, printable(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_becomes_a_formula() {
        for (value, shown) in [
            ("=HYPERLINK(\"http://x\")", "\"'=HYPERLINK(\"\"http://x\"\")\""),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("  =1", "'  =1"),
            ("\t=1", "' =1"),
            ("\r=1", "'\\u{d}=1"),
            ("a=1", "a=1"),
            ("registry.example.com/app@sha256:1", "registry.example.com/app@sha256:1"),
            ("one, two", "\"one, two\""),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            let text = render(&["value"], &[vec![value.into()]]).expect("a table");
            assert_eq!(text, format!("value\n{shown}\n"));
        }
    }

    #[test]
    fn a_row_has_a_value_for_each_column() {
        assert!(render(&["a", "b"], &[vec!["1".into()]]).is_err());
        assert_eq!(render(&["a", "b"], &[]).expect("a table"), "a,b\n");
    }
}
