//! Reads the configuration files that a repository may contain: `.gitmodules` and `.lfsconfig`.
//! Pure. Unlike the parser of libgit2, it follows no `include`, because the file is not trusted.

use std::{iter::Peekable, str::Chars};

/// Maximum number of sections in a file.
const MAX_SECTIONS: usize = 2000;
/// Maximum number of variables in a section.
const MAX_VARIABLES: usize = 100;

/// One section of a configuration file: `[name "subsection"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ConfigSection {
    /// The name in lower case.
    pub name: String,
    /// The text in quotes; empty without one.
    pub subsection: String,
    variables: Vec<ConfigVariable>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ConfigVariable {
    key: String,
    value: String,
}

impl ConfigSection {
    /// Returns the value of a variable. The last one of this name counts.
    pub fn get(&self, key: &str) -> Option<&str> {
        let variable = self.variables.iter().rev().find(|variable| variable.key == key);
        variable.map(|variable| variable.value.as_str())
    }
}

/// Parses a configuration file. The error says what is wrong in which line.
pub(super) fn parse(text: &str) -> Result<Vec<ConfigSection>, String> {
    let mut parser = ConfigParser { rest: text.chars().peekable(), line: 1 };
    let mut sections = Vec::new();
    parser.file(&mut sections).map_err(|problem| format!("line {}: {problem}", parser.line))?;
    Ok(sections)
}

struct ConfigParser<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl ConfigParser<'_> {
    fn file(&mut self, sections: &mut Vec<ConfigSection>) -> Result<(), &'static str> {
        while let Some(character) = self.next() {
            match character {
                _ if character.is_whitespace() || character == '\u{feff}' => {}
                '#' | ';' => self.comment(),
                '[' => {
                    sections.push(self.header()?);
                    if sections.len() > MAX_SECTIONS {
                        return Err("it has too many sections");
                    }
                }
                _ if character.is_ascii_alphabetic() => {
                    let section = sections.last_mut().ok_or("a variable outside of a section")?;
                    let variable = self.variable(character)?;
                    section.variables.push(variable);
                    if section.variables.len() > MAX_VARIABLES {
                        return Err("a section has too many variables");
                    }
                }
                _ => return Err("neither a section nor a variable"),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<char> {
        let mut character = self.rest.next();
        if character == Some('\r') && self.rest.peek() == Some(&'\n') {
            character = self.rest.next();
        }
        self.line += usize::from(character == Some('\n'));
        character
    }

    fn comment(&mut self) {
        while self.next().is_some_and(|character| character != '\n') {}
    }

    fn header(&mut self) -> Result<ConfigSection, &'static str> {
        let mut section = ConfigSection::default();
        loop {
            match self.next() {
                Some(']') => return Ok(section),
                Some(' ' | '\t') => {
                    section.subsection = self.subsection()?;
                    return Ok(section);
                }
                Some(character)
                    if character.is_ascii_alphanumeric() || "-.".contains(character) =>
                {
                    section.name.push(character.to_ascii_lowercase());
                }
                _ => return Err("the name of a section is not valid"),
            }
        }
    }

    /// Reads `"subsection"]`.
    fn subsection(&mut self) -> Result<String, &'static str> {
        while self.rest.next_if(|character| matches!(character, ' ' | '\t')).is_some() {}
        let problem = "the name of a subsection is not valid";
        let mut name = String::new();
        if self.next() != Some('"') {
            return Err(problem);
        }
        loop {
            match self.next().ok_or(problem)? {
                '\n' => return Err(problem),
                '"' => break,
                '\\' => name.push(self.next().filter(|next| *next != '\n').ok_or(problem)?),
                character => name.push(character),
            }
        }
        if self.next() == Some(']') { Ok(name) } else { Err(problem) }
    }

    /// Reads the rest of a line that begins with a name.
    fn variable(&mut self, first: char) -> Result<ConfigVariable, &'static str> {
        let mut key = first.to_ascii_lowercase().to_string();
        while let Some(character) =
            self.rest.next_if(|character| character.is_ascii_alphanumeric() || *character == '-')
        {
            key.push(character.to_ascii_lowercase());
        }
        while self.rest.next_if(|character| matches!(character, ' ' | '\t')).is_some() {}
        let value = match self.next() {
            None | Some('\n') => "true".to_owned(),
            Some('#' | ';') => {
                self.comment();
                "true".to_owned()
            }
            Some('=') => self.value()?,
            Some(_) => return Err("a variable has no `=`"),
        };
        Ok(ConfigVariable { key, value })
    }

    /// Reads a value, which may have quotes, escapes, comments and further lines.
    fn value(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        // White space counts only before more text.
        let mut spaces = String::new();
        let mut in_quotes = false;
        while let Some(character) = self.next() {
            let literal = match character {
                '\n' if in_quotes => return Err("a quotation has no end"),
                '\n' => break,
                '"' => {
                    in_quotes = !in_quotes;
                    value.push_str(&std::mem::take(&mut spaces));
                    continue;
                }
                '#' | ';' if !in_quotes => {
                    self.comment();
                    break;
                }
                '\\' => match self.next() {
                    Some('\n') => continue,
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('b') => '\u{8}',
                    Some(escaped @ ('"' | '\\')) => escaped,
                    _ => return Err("a value has an unknown escape"),
                },
                _ if !in_quotes && character.is_whitespace() => {
                    if !value.is_empty() {
                        spaces.push(character);
                    }
                    continue;
                }
                _ => character,
            };
            value.push_str(&std::mem::take(&mut spaces));
            value.push(literal);
        }
        if in_quotes { Err("a quotation has no end") } else { Ok(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<String> {
        let sections = parse(&format!("[a]\n\tkey = {text}\n")).ok()?;
        sections[0].get("key").map(str::to_owned)
    }

    #[test]
    fn sections_and_variables_are_read_as_git_reads_them() {
        let text = "\u{feff}# a comment\n[Submodule \"libs/A \\\"b\\\"\"]\r\n\tPATH = libs/a ; \
                    why\r\n\turl=../a.git\n\turl = ../b.git\n[core] bare\n[lfs]url = x";
        let sections = parse(text).expect("a file");
        assert_eq!(sections[0].name, "submodule");
        assert_eq!(sections[0].subsection, "libs/A \"b\"");
        assert_eq!(sections[0].get("path"), Some("libs/a"));
        assert_eq!(sections[0].get("url"), Some("../b.git"), "the last one counts");
        assert_eq!(sections[1].get("bare"), Some("true"));
        assert_eq!(sections[2].get("url"), Some("x"));
        assert_eq!(sections[2].get("other"), None);
    }

    #[test]
    fn values_have_quotes_escapes_and_further_lines() {
        for (text, expected) in [
            ("a b  ", "a b"),
            ("\"a  \" ", "a  "),
            ("a\" # \"b # c", "a # b"),
            (r#"a\\b\"c"#, r#"a\b"c"#),
            ("a\\\n b", "a b"),
            ("", ""),
        ] {
            assert_eq!(value(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_rejected_with_its_line() {
        for (text, said) in [
            ("key = 1", "line 1: a variable outside"),
            ("[a]\nkey = \"x\ny", "a quotation has no end"),
            ("[a]\nkey = \\x", "line 2: a value has an unknown escape"),
            ("[a\n]", "the name of a section"),
            ("[a \"b]\n", "the name of a subsection"),
            ("[a \"b\" c]\n", "the name of a subsection"),
            ("[a]\nkey value", "line 2: a variable has no `=`"),
            ("[a]\n= 1", "line 2: neither"),
            (&"[a]\n".repeat(2001), "too many sections"),
            (&format!("[a]\n{}", "k=1\n".repeat(101)), "too many variables"),
        ] {
            let error = parse(text).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
    }
}
