//! The patterns of `${NAME#pattern}`, `${NAME%pattern}` and `${NAME/pattern/text}`: `*` and `?`,
//! which an escape makes ordinary characters. The rules are those of `BuildKit`'s
//! `frontend/dockerfile/shell`.

use regex::Regex;

/// The side of a value that is trimmed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TrimSide {
    Start,
    End,
}

/// Which occurrences of a pattern are replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Occurrences {
    First,
    All,
}

/// How much `*` matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Star {
    Shortest,
    Longest,
}

/// Returns a value without the beginning or the end that a pattern matches. The shortest match is
/// trimmed, or the longest if the pattern begins with another `#` or `%`.
pub(super) fn trim(value: &str, pattern: &str, side: TrimSide) -> Result<String, String> {
    let sign = if side == TrimSide::Start { '#' } else { '%' };
    let (pattern, star) = match pattern.strip_prefix(sign) {
        Some(pattern) => (pattern, Star::Longest),
        None => (pattern, Star::Shortest),
    };
    match side {
        TrimSide::Start => trim_start(value, pattern, star),
        // The search goes from left to right: it finds the shortest end in the reversed value.
        TrimSide::End => {
            let trimmed = trim_start(&reversed(value), &reversed_pattern(pattern), star)?;
            Ok(reversed(&trimmed))
        }
    }
}

/// Returns a value with another text for what a pattern matches.
pub(super) fn replace(
    value: &str,
    pattern: &str,
    replacement: &str,
    occurrences: Occurrences,
) -> Result<String, String> {
    let regex = to_regex(pattern, Star::Longest, "")?;
    if occurrences == Occurrences::All {
        return Ok(regex.replace_all(value, replacement).into_owned());
    }
    Ok(match regex.find(value) {
        Some(found) => {
            let (start, end) = (value.get(..found.start()), value.get(found.end()..));
            [start.unwrap_or_default(), replacement, end.unwrap_or_default()].concat()
        }
        None => value.to_owned(),
    })
}

fn trim_start(value: &str, pattern: &str, star: Star) -> Result<String, String> {
    let regex = to_regex(pattern, star, "^")?;
    let end = regex.find(value).map_or(0, |found| found.end());
    Ok(value.get(end..).unwrap_or_default().to_owned())
}

fn to_regex(pattern: &str, star: Star, anchor: &str) -> Result<Regex, String> {
    let invalid = |problem: &str| format!("the pattern `{pattern}` is invalid: {problem}");
    let mut regex = String::from(anchor);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if star == Star::Longest => regex.push_str(".*"),
            '*' => regex.push_str(".*?"),
            '?' => regex.push('.'),
            // The escape of a character that would end the pattern is no part of it.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\')) => regex.extend(['\\', escaped]),
                _ => return Err(invalid("`\\` escapes only `*`, `?`, `\\`, `/` and `}`")),
            },
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&regex).map_err(|_| invalid("it is too long"))
}

fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}

/// Returns a pattern that matches a reversed text: an escape stays before its character.
fn reversed_pattern(pattern: &str) -> String {
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let escaped = (c == '\\').then(|| chars.next()).flatten();
        parts.push([Some(c), escaped]);
    }
    parts.into_iter().rev().flatten().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_trim_the_shortest_or_the_longest_match() {
        for (value, pattern, side, expected) in [
            ("v1.2", "v", TrimSide::Start, "1.2"),
            ("1.2.3", "*.", TrimSide::Start, "2.3"),
            ("1.2.3", "#*.", TrimSide::Start, "3"),
            ("1.2.3", ".*", TrimSide::End, "1.2"),
            ("1.2.3", "%.*", TrimSide::End, "1"),
            ("3.20*", r"\*", TrimSide::End, "3.20"),
            ("3.20", r"\*", TrimSide::End, "3.20"),
            ("a?b", r"a\?", TrimSide::Start, "b"),
            ("a/b", r"a\/", TrimSide::Start, "b"),
            ("a+b", "?+", TrimSide::Start, "b"),
            ("é-ü", "-?", TrimSide::End, "é"),
        ] {
            assert_eq!(trim(value, pattern, side).as_deref(), Ok(expected), "{value} {pattern}");
        }
        assert!(trim("a", r"\a", TrimSide::Start).is_err());
        assert!(trim("a", r"a\", TrimSide::End).is_err());
    }

    #[test]
    fn patterns_replace_the_first_or_all_matches() {
        for (value, pattern, occurrences, expected) in [
            ("3-20-1", "-", Occurrences::First, "3.20-1"),
            ("3-20-1", "-", Occurrences::All, "3.20.1"),
            ("3-20-1", "-*", Occurrences::First, "3."),
            ("3-20", "+", Occurrences::All, "3-20"),
            ("ab", "", Occurrences::All, ".a.b."),
        ] {
            let replaced = replace(value, pattern, ".", occurrences);
            assert_eq!(replaced.as_deref(), Ok(expected), "{value} {pattern}");
        }
    }
}
