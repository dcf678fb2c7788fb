//! A plan as a comment for a pull request, within the limit of what a comment may have.

use std::fmt::Write as _;

use groundswell::{api::condition::shorten, terminal::printable};

use super::{FamilyPlan, PlannedImage};
use crate::{input::plural, output::table::one_line};

/// Maximum number of bytes of a comment: forges allow 65,536 characters.
const MAX_COMMENT: usize = 60_000;
/// Maximum number of rows of the table of a family.
const MAX_ROWS: usize = 200;
/// Maximum number of characters of a fact, such as the list of changed fields.
const MAX_FACT: usize = 2_000;

/// Renders the comment.
pub(super) fn comment(families: &[FamilyPlan]) -> String {
    let total: usize = families.iter().map(|family| family.builds.len()).sum();
    let mut text = format!("### Rebuild plan: {total} image{}\n", plural(total));
    for (position, family) in families.iter().enumerate() {
        let facts = section(family);
        if text.len() + facts.len() > MAX_COMMENT {
            let left = families.len() - position;
            let noun = if left == 1 { "family is" } else { "families are" };
            // Writing to a String never fails.
            _ = write!(text, "\n{left} more {noun} not shown\n");
            break;
        }
        text.push_str(&facts);
        let left = MAX_COMMENT.saturating_sub(text.len());
        text.push_str(&images(family, left));
    }
    text
}

/// Renders what a plan says of a family as a whole.
fn section(family: &FamilyPlan) -> String {
    let mut text = format!("\n**{}**\n", markdown_text(&family.headline()));
    let facts = family.facts();
    for (name, value) in &facts {
        // Writing to a String never fails.
        _ = write!(text, "\n- {name}: {}", markdown_text(&shorten(value, MAX_FACT)));
    }
    if !facts.is_empty() {
        text.push('\n');
    }
    text
}

/// Renders the table of a family's images, of at most `max_bytes` bytes.
fn images(family: &FamilyPlan, max_bytes: usize) -> String {
    let (built, others) = (family.builds.len(), family.others.len());
    let count = built + others;
    let summary = match (built, others) {
        (0, 0) => return String::new(),
        (built, 0) => format!("{built} image{}", plural(built)),
        (0, others) => format!("{others} image{} not built", plural(others)),
        (built, others) => format!("{built} image{}, {others} not built", plural(built)),
    };
    let head = format!(
        "\n<details><summary>{summary}</summary>\n\n\
         | level | image | action | why |\n|---|---|---|---|\n"
    );
    let end = |more: usize| match more {
        0 => "\n</details>\n".into(),
        more => format!("| | … {more} more | | |\n\n</details>\n"),
    };
    let mut left = max_bytes.saturating_sub(head.len() + end(count).len());
    let images = family.builds.iter().chain(&family.others).take(MAX_ROWS).map(row);
    let rows: Vec<String> = images
        .take_while(|row| {
            let fits = row.len() <= left;
            left = left.saturating_sub(row.len());
            fits
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    head + &rows.concat() + &end(count - rows.len())
}

fn row(image: &PlannedImage) -> String {
    let (name, why) = (markdown_text(&image.image), markdown_text(&image.why));
    format!("| {} | {name} | {} | {why} |\n", image.level, image.action())
}

/// Returns a text that is shown as it is in a table of a Markdown document.
fn markdown_text(text: &str) -> String {
    let mut escaped = String::new();
    for character in one_line(&printable(text)).chars() {
        match character {
            '|' | '*' | '_' | '`' | '[' | ']' | '<' | '>' | '\\' | '#' | '@' | '~' => {
                escaped.push('\\');
                escaped.push(character);
            }
            '&' => escaped.push_str("&amp;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "../report_tests.rs"]
mod tests;
