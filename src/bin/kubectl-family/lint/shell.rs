//! The simple commands of a shell script: their words, without comments, redirections and data of
//! here-documents. Nothing is expanded: a word that the shell would change is marked.

use std::{iter::Peekable, str::Chars};

/// Maximum depth of scripts in scripts: here-documents, and `sh -c`.
const MAX_DEPTH: usize = 4;
/// Words that come before a command, and do not change what it is.
const PREFIXES: [&str; 17] = [
    "!", "{", "}", "command", "do", "elif", "else", "env", "exec", "if", "nice", "sudo", "then",
    "time", "until", "while", "export",
];
/// Programs that run a script.
const SHELLS: [&str; 5] = ["ash", "bash", "dash", "sh", "zsh"];

/// A word of a command, without its quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShellWord {
    pub text: String,
    /// Whether it has a part that the shell replaces.
    pub is_expanded: bool,
}

/// A command with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShellCommand {
    /// The variables that are set for it, or by it.
    pub settings: Vec<String>,
    /// The program and its arguments.
    pub words: Vec<ShellWord>,
}

impl ShellCommand {
    /// Returns the name of the program, without its folder.
    pub fn program(&self) -> &str {
        let word = self.words.first().map_or("", |word| word.text.as_str());
        word.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the words after the program.
    pub fn arguments(&self) -> &[ShellWord] {
        self.words.get(1..).unwrap_or_default()
    }

    /// Whether an argument is this text.
    pub fn has(&self, argument: &str) -> bool {
        self.arguments().iter().any(|word| word.text == argument)
    }
}

/// Returns the commands of a script in their order. Those in `$( )` are left out: what they do is
/// rarely part of an image.
pub fn commands(script: &str) -> Vec<ShellCommand> {
    let mut commands = Vec::new();
    ShellReader::new(script, 0).read(&mut commands);
    commands
}

/// A here-document whose lines follow.
struct HereDocument {
    delimiter: String,
    has_tabs: bool,
    is_script: bool,
}

struct ShellReader<'t> {
    chars: Peekable<Chars<'t>>,
    depth: usize,
    command: ShellCommand,
    word: Option<ShellWord>,
    /// Whether the next word is the target of a redirection.
    is_target: bool,
    here_documents: Vec<HereDocument>,
}

impl<'t> ShellReader<'t> {
    fn new(script: &'t str, depth: usize) -> Self {
        Self {
            chars: script.chars().peekable(),
            depth,
            command: ShellCommand::default(),
            word: None,
            is_target: false,
            here_documents: Vec::new(),
        }
    }

    fn read(mut self, commands: &mut Vec<ShellCommand>) {
        while let Some(c) = self.chars.next() {
            match c {
                ' ' | '\t' | '\r' => self.end_word(),
                '#' if self.word.is_none() => self.skip_line(),
                '\'' => self.single_quoted(),
                '"' => self.double_quoted(),
                '`' => self.back_quoted(),
                '$' => self.expansion(),
                '\\' => match self.chars.next() {
                    Some('\n') | None => {}
                    Some(escaped) => self.word().text.push(escaped),
                },
                '<' => self.input(),
                '>' => self.output(),
                '&' if self.chars.peek() == Some(&'>') => self.end_word(),
                ';' | '|' | '&' | '(' | ')' => self.end_command(commands),
                '\n' => {
                    self.end_command(commands);
                    self.read_here_documents(commands);
                }
                other => self.word().text.push(other),
            }
        }
        self.end_command(commands);
    }

    fn word(&mut self) -> &mut ShellWord {
        self.word.get_or_insert_default()
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if !std::mem::take(&mut self.is_target) {
            self.command.words.push(word);
        }
    }

    fn skip_line(&mut self) {
        while self.chars.next_if(|c| *c != '\n').is_some() {}
    }

    fn single_quoted(&mut self) {
        self.word();
        while let Some(c) = self.chars.next().filter(|c| *c != '\'') {
            self.word().text.push(c);
        }
    }

    fn double_quoted(&mut self) {
        self.word();
        while let Some(c) = self.chars.next().filter(|c| *c != '"') {
            match c {
                '\\' => match self.chars.next() {
                    Some('\n') | None => {}
                    Some(escaped) => self.word().text.push(escaped),
                },
                '$' => self.expansion(),
                '`' => self.back_quoted(),
                other => self.word().text.push(other),
            }
        }
    }

    fn back_quoted(&mut self) {
        let word = self.word();
        word.text.push('$');
        word.is_expanded = true;
        while self.chars.next().is_some_and(|c| c != '`') {}
    }

    /// Reads what follows a dollar. The name of a variable stays in the word.
    fn expansion(&mut self) {
        let word = self.word();
        word.text.push('$');
        word.is_expanded = true;
        if self.chars.next_if_eq(&'(').is_none() {
            return;
        }
        let (mut depth, mut quote) = (1, None);
        for c in self.chars.by_ref() {
            match (quote, c) {
                (Some(open), c) if open == c => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }

    fn output(&mut self) {
        // The number of a file comes directly before it.
        let is_number = |word: &ShellWord| {
            word.text.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_expanded
        };
        if self.word.as_ref().is_some_and(is_number) {
            self.word = None;
        }
        self.end_word();
        while self.chars.next_if(|c| matches!(c, '>' | '|' | '&')).is_some() {}
        self.is_target = true;
    }

    fn input(&mut self) {
        self.end_word();
        if self.chars.next_if_eq(&'<').is_none() {
            self.chars.next_if(|c| matches!(c, '&' | '>'));
            self.is_target = true;
            return;
        }
        if self.chars.next_if_eq(&'<').is_some() {
            self.is_target = true;
            return;
        }
        let has_tabs = self.chars.next_if_eq(&'-').is_some();
        while self.chars.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        let mut delimiter = String::new();
        while let Some(c) = self.chars.next_if(|c| !c.is_whitespace() && !";|&<>()".contains(*c)) {
            if !matches!(c, '\'' | '"' | '\\') {
                delimiter.push(c);
            }
        }
        // Alone, it is the script of a RUN.
        let words = &self.command.words;
        let is_script = words.is_empty() || SHELLS.contains(&self.command.program());
        self.here_documents.push(HereDocument { delimiter, has_tabs, is_script });
    }

    fn read_here_documents(&mut self, commands: &mut Vec<ShellCommand>) {
        for document in std::mem::take(&mut self.here_documents) {
            let mut body = String::new();
            while self.chars.peek().is_some() {
                let mut line = String::new();
                while let Some(c) = self.chars.next_if(|c| *c != '\n') {
                    line.push(c);
                }
                self.chars.next();
                let text = if document.has_tabs { line.trim_start_matches('\t') } else { &line };
                if text.trim_end_matches('\r') == document.delimiter {
                    break;
                }
                body += text;
                body.push('\n');
            }
            // Another interpreter reads what begins with its path.
            let first = body.lines().next().unwrap_or_default();
            let is_shell = !first.starts_with("#!")
                || SHELLS.iter().any(|shell| first.trim_end().ends_with(shell));
            if document.is_script && is_shell {
                self.read_inner(&body, commands);
            }
        }
    }

    fn read_inner(&self, script: &str, commands: &mut Vec<ShellCommand>) {
        if self.depth < MAX_DEPTH {
            ShellReader::new(script, self.depth + 1).read(commands);
        }
    }

    fn end_command(&mut self, commands: &mut Vec<ShellCommand>) {
        self.end_word();
        self.is_target = false;
        let ShellCommand { mut settings, words } = std::mem::take(&mut self.command);
        let mut words = words.into_iter().peekable();
        let mut is_prefixed = false;
        while let Some(word) = words.next_if(|word| {
            let is_option = is_prefixed && word.text.starts_with('-');
            PREFIXES.contains(&word.text.as_str()) || is_setting(word) || is_option
        }) {
            if is_setting(&word) {
                settings.push(word.text);
            } else {
                is_prefixed = true;
            }
        }
        let mut command = ShellCommand { settings, words: words.collect() };
        if command.program() == "xargs" {
            command.words = arguments_of_xargs(command.words);
        }
        if SHELLS.contains(&command.program())
            && let Some(script) = script_argument(&command)
        {
            self.read_inner(&script, commands);
        } else if !command.words.is_empty() || !command.settings.is_empty() {
            commands.push(command);
        }
    }
}

/// Whether a word sets a variable.
fn is_setting(word: &ShellWord) -> bool {
    word.text.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// Returns the command that `xargs` runs, with arguments that are not known.
fn arguments_of_xargs(words: Vec<ShellWord>) -> Vec<ShellWord> {
    let is_option =
        |word: &ShellWord| word.text.starts_with('-') || word.text.parse::<u32>().is_ok();
    let unknown = ShellWord { text: "$".into(), is_expanded: true };
    words.into_iter().skip(1).skip_while(is_option).chain([unknown]).collect()
}

/// Returns the script of `sh -c`, also of `bash -euxc`.
fn script_argument(command: &ShellCommand) -> Option<String> {
    let is_flag = |word: &ShellWord| {
        word.text.starts_with('-') && !word.text.starts_with("--") && word.text.ends_with('c')
    };
    let flag = command.arguments().iter().position(is_flag)?;
    command.arguments().get(flag + 1).map(|word| word.text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the words of each command, and `*` after one that the shell would change.
    fn read(script: &str) -> Vec<String> {
        let shown = |word: &ShellWord| {
            let mark = if word.is_expanded { "*" } else { "" };
            format!("{}{mark}", word.text)
        };
        let line = |command: ShellCommand| {
            let words: Vec<String> = command.words.iter().map(shown).collect();
            command.settings.into_iter().chain(words).collect::<Vec<_>>().join(" ")
        };
        commands(script).into_iter().map(line).collect()
    }

    #[test]
    fn commands_are_separated() {
        for (script, expected) in [
            ("a b && c; d | e & f\ng", vec!["a b", "c", "d", "e", "f", "g"]),
            ("a \\\n b", vec!["a b"]),
            ("(a; b)", vec!["a", "b"]),
            ("if ! a; then b; else c; fi", vec!["a", "b", "c", "fi"]),
            ("{ a; }", vec!["a"]),
            ("X=1 Y=2 a", vec!["X=1 Y=2 a"]),
            ("export X=1", vec!["X=1"]),
            ("sudo -E env X=1 a -b", vec!["X=1 a -b"]),
            ("a # not; b\nc a#b", vec!["a", "c a#b"]),
            ("", vec![]),
            ("; ;\n\n", vec![]),
        ] {
            assert_eq!(read(script), expected, "{script}");
        }
    }

    #[test]
    fn quotes_and_expansions_are_read() {
        for (script, expected) in [
            ("echo 'a; b' \"c && d\" e\\;f", vec!["echo a; b c && d e;f"]),
            ("a $X \"b ${Y} c\" 'd $Z'", vec!["a $X* b ${Y} c* d $Z"]),
            ("a \"$(b; c 'd)')\" e", vec!["a $* e"]),
            ("a `b; c` d", vec!["a $* d"]),
            ("X=\"$(a; b)\"; c", vec!["X=$", "c"]),
            ("echo 'never closed; b", vec!["echo never closed; b"]),
            ("ls | xargs -r -n 1 rm -f", vec!["ls", "rm -f $*"]),
            ("sh -c 'a; b' && bash -euxc \"c\"", vec!["a", "b", "c"]),
        ] {
            assert_eq!(read(script), expected, "{script}");
        }
    }

    #[test]
    fn redirections_are_no_arguments() {
        for script in
            ["a b >/c", "a b > c", "a b 2>&1", "a 2>/dev/null b", "a b &> c", "a b < c", "a b >> c"]
        {
            assert_eq!(read(script), ["a b"], "{script}");
        }
        assert_eq!(read("a b2 >c"), ["a b2"], "a word that ends with a digit");
    }

    #[test]
    fn here_documents_are_data_or_scripts() {
        for (script, expected) in [
            ("cat <<EOF >/f\napt-get install x\nEOF\nb", vec!["cat", "b"]),
            ("cat <<-'EOF' > f && b\n\ta\n\tEOF\nc", vec!["cat", "b", "c"]),
            ("<<EOF\na b\nc\nEOF", vec!["a b", "c"]),
            ("bash -e <<EOF\na\nEOF", vec!["a", "bash -e"]),
            ("<<EOF\n#!/usr/bin/env python3\nimport os\nEOF", vec![]),
            ("<<EOF\n#!/bin/bash\na\nEOF", vec!["a"]),
            ("a <<< 'b; c'; d", vec!["a", "d"]),
            ("<<A\ncat <<B\nx; y\nB\nz\nA", vec!["cat", "z"]),
        ] {
            let mut found = read(script);
            found.sort();
            let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            expected.sort();
            assert_eq!(found, expected, "{script}");
        }
    }

    /// Scripts in scripts end.
    #[test]
    fn depth_is_bounded() {
        let mut script = "a".to_owned();
        for _ in 0..20 {
            script = format!("sh -c '{}'", script.replace('\'', "'\\''"));
            if script.len() > 1 << 16 {
                break;
            }
        }
        assert!(read(&script).len() <= 1);
        assert!(read(&"(".repeat(100_000)).is_empty());
        assert_eq!(read(&"$(".repeat(100_000)).len(), 1);
    }
}
