//! Finds the here-documents that follow an instruction. The rules are those of `BuildKit`'s
//! `frontend/dockerfile/parser`.

use crate::builds::dockerfile::lexer::{self, LexError, Raw};

/// The beginning of a here-document: `<<EOF` or `3<<-"EOF"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heredoc {
    /// The line that ends it.
    pub(super) delimiter: String,
    /// Whether leading tabs of its lines are stripped.
    strips_tabs: bool,
}

impl Heredoc {
    /// Returns whether a line ends the here-document.
    pub(super) fn is_ended_by(&self, line: &str) -> bool {
        let line = line.trim_end_matches(['\r', '\n']);
        (if self.strips_tabs { line.trim_start_matches('\t') } else { line }) == self.delimiter
    }
}

/// Returns the here-documents that a whole line begins, with its keyword and flags. A line that is
/// no list of words for a shell, for example because a quote is not closed, begins none.
///
/// # Errors
/// Returns a message if the delimiter of one cannot be determined.
pub(super) fn begun_by(line: &str) -> Result<Vec<Heredoc>, String> {
    let words = match lexer::words(line, Raw::QuotesAndEscapes) {
        Ok(words) => words,
        Err(LexError::Invalid(_)) => return Ok(Vec::new()),
        Err(error @ LexError::TooLarge(_)) => return Err(error.into_message()),
    };
    words.iter().filter_map(|word| parse(word).transpose()).collect()
}

fn parse(word: &str) -> Result<Option<Heredoc>, String> {
    let Some(rest) = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")
    else {
        return Ok(None);
    };
    let (rest, strips_tabs) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let words = lexer::words(rest, Raw::Nothing).map_err(LexError::into_message)?;
    let Ok([delimiter]) = <[String; 1]>::try_from(words) else { return Ok(None) };
    let raw = lexer::words(rest, Raw::Quotes).map_err(LexError::into_message)?;
    if raw.len() != 1 {
        return Err(format!("the delimiter of the here-document `{word}` is unclear"));
    }
    Ok(Some(Heredoc { delimiter, strips_tabs }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_has_no_quotes_and_escapes() {
        for (line, expected) in [
            ("RUN cat <<EOF >/x", vec!["EOF"]),
            ("RUN cat << EOF", vec!["EOF"]),
            ("RUN cat <<-EOF", vec!["EOF"]),
            (r"RUN cat <<\EOF > /x", vec!["EOF"]),
            (r"RUN cat <<E\OF", vec!["EOF"]),
            (r"RUN cat <<\$EOF", vec!["$EOF"]),
            ("RUN cat <<$EOF", vec!["$EOF"]),
            ("RUN cat <<\"END OF FILE\"", vec!["END OF FILE"]),
            ("RUN cat <<'END'OF", vec!["ENDOF"]),
            ("COPY <<a 3<<b /x/", vec!["a", "b"]),
            ("RUN cat<<EOF", vec![]),
            ("RUN cat <<<EOF", vec![]),
            ("RUN cat <<- EOF", vec![]),
            ("RUN cat <<", vec![]),
            ("RUN cat <<''", vec![]),
            ("RUN echo don't <<EOF", vec![]),
            ("RUN echo ${a^^} <<EOF", vec![]),
            ("RUN echo ${a:-b} $(x) <<EOF", vec!["EOF"]),
            ("RUN cat <<\"a${b:-c}\"", vec![]),
        ] {
            let found = begun_by(line).expect(line);
            let found: Vec<_> = found.iter().map(|heredoc| heredoc.delimiter.as_str()).collect();
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn only_a_dash_strips_tabs() {
        let [plain, stripping] =
            ["RUN <<EOF", "RUN <<-EOF"].map(|line| begun_by(line).expect(line));
        assert!(plain.iter().all(|heredoc| heredoc.is_ended_by("EOF\r")));
        assert!(!plain.iter().any(|heredoc| heredoc.is_ended_by("\tEOF")));
        assert!(stripping.iter().all(|heredoc| heredoc.is_ended_by("\t\tEOF")));
        assert!(!stripping.iter().any(|heredoc| heredoc.is_ended_by(" EOF")));
    }
}
