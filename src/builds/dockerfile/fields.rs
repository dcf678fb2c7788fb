//! Splits the texts of instructions that are not words of a shell: the names of `ARG`, the options
//! of a mount. The rules are those of `BuildKit`'s `frontend/dockerfile/parser`.

/// Splits a text at white space that is not quoted or escaped. Quotes and escapes are kept, and a
/// quote does not have to be closed.
#[must_use]
pub fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // An escape at the end of the text is dropped.
            let Some(escaped) = chars.next() else { break };
            word.extend([c, escaped]);
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Splits a text at white space. Only that of ASCII counts.
pub(super) fn blank_separated(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_blank).filter(|word| !word.is_empty())
}

/// Whether a character separates the keyword and the arguments of an instruction.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Returns the fields of a comma-separated list, or `None` if its quotes are misplaced. A field
/// that begins with `"` is quoted.
pub(super) fn csv(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return None;
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, tail) =
                rest.split_once(',').map_or((rest, None), |(field, tail)| (field, Some(tail)));
            if field.contains('"') {
                return None;
            }
            fields.push(field.to_owned());
            match tail {
                Some(tail) => rest = tail,
                None => return Some(fields),
            }
            continue;
        };
        let (field, tail) = quoted_field(quoted)?;
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(tail) => rest = tail,
            None => return tail.is_empty().then_some(fields),
        }
    }
}

/// Returns a quoted field up to its closing quote, and what follows. Two quotes stand for one.
fn quoted_field(mut text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (part, tail) = text.split_once('"')?;
        field.push_str(part);
        match tail.strip_prefix('"') {
            Some(tail) => {
                field.push('"');
                text = tail;
            }
            None => return Some((field, tail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_quotes_and_escapes() {
        for (text, expected) in [
            ("A=1 B", vec!["A=1", "B"]),
            ("A=1 # don't move it", vec!["A=1", "#", "don't move it"]),
            ("A=\"x y\" B='z \\'", vec!["A=\"x y\"", "B='z \\'"]),
            ("A=x\\ y\\", vec!["A=x\\ y"]),
            ("", vec![]),
        ] {
            assert_eq!(quoted_words(text, '\\'), expected, "{text}");
        }
    }

    #[test]
    fn fields_are_separated_by_commas() {
        for (text, expected) in [
            ("type=bind,from=a", Some(vec!["type=bind", "from=a"])),
            ("\"from=a,b\",target=\"\"", None),
            ("\"from=a,b\",\"t=\"\"x\"", Some(vec!["from=a,b", "t=\"x"])),
            ("a,,", Some(vec!["a", "", ""])),
            ("\"a\"b", None),
            ("\"a", None),
            ("", None),
        ] {
            let expected: Option<Vec<String>> =
                expected.map(|fields| fields.into_iter().map(str::to_owned).collect());
            assert_eq!(csv(text), expected, "{text}");
        }
    }
}
