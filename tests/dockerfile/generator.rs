//! Random Dockerfiles. They are made of what real ones are made of, in unlikely combinations, and
//! then damaged a little.

use std::fmt::Write as _;

use crate::{frontend::Build, random::Random};

const ARGS: [&str; 6] = ["A", "B", "V", "TARGETARCH", "TARGETVARIANT", "TARGETSTAGE"];
const STAGES: [&str; 6] = ["build", "base", "base-amd64", "tools", "x.y", "scratch"];
const DIGEST: &str = "@sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// A file in the making.
struct Generator {
    random: Random,
    escape: char,
    images: usize,
    text: String,
}

/// Returns the build of a seed.
pub fn build(seed: u64) -> Build {
    let mut random = Random::from_seed(seed);
    let escape = if random.one_in(6) { '`' } else { '\\' };
    let mut generator = Generator { random, escape, images: 0, text: String::new() };
    generator.write();
    let mut build = Build::of(std::mem::take(&mut generator.text));
    let random = &mut generator.random;
    for name in ARGS {
        if random.one_in(4) {
            build.args.insert(name.into(), random.of(&["1", "build", "img:7", "", "a-b"]).into());
        }
    }
    let mut named = STAGES
        .into_iter()
        .filter(|stage| build.dockerfile.to_lowercase().contains(&format!(" as {stage}\n")));
    if random.one_in(3) {
        build.target = named.nth(random.below(2)).unwrap_or_default().into();
    } else if random.one_in(20) {
        build.target = random.of(&["gone", "BASE", "scratch"]).into();
    }
    build.platform =
        random.of(&["linux/amd64", "linux/amd64", "linux/arm64", "linux/arm/v7"]).into();
    for image in 0..generator.images {
        if generator.random.one_in(8) {
            let triggers = (0..=generator.random.below(2)).map(|_| generator.trigger()).collect();
            build.triggers.insert(format!("docker.io/library/img{image}:1"), triggers);
        }
    }
    build
}

impl Generator {
    fn write(&mut self) {
        if self.random.one_in(12) {
            self.text.push('\u{feff}');
        }
        if self.escape == '`' {
            self.text.push_str("# escape=`\n");
        } else if self.random.one_in(8) {
            self.text.push_str(self.random.of(&["# syntax=x\n", "# a\n", "\n", "#escape=\\\n"]));
        }
        for _ in 0..self.random.below(4) {
            self.global_arg();
        }
        for _ in 0..=self.random.below(4) {
            self.from();
            for _ in 0..self.random.below(4) {
                self.command();
            }
        }
        if self.random.one_in(5) {
            self.damage();
        }
        if self.random.one_in(10) {
            self.text = self.text.replace('\n', "\r\n");
        }
    }

    fn line(&mut self, line: &str) {
        let mut line = line.to_owned();
        if self.random.one_in(6) {
            let blanks: Vec<_> = line.match_indices(' ').map(|(index, _)| index).collect();
            if let Some(&index) = blanks.get(self.random.below(blanks.len())) {
                let break_ = ["\n", "\n# a comment\n", " \n\n", "\n  # b \\\n"];
                let break_ = format!(" {}{}", self.escape, self.random.of(&break_));
                line.replace_range(index..=index, &break_);
            }
        }
        let _ = writeln!(self.text, "{line}");
    }

    fn global_arg(&mut self) {
        let name = self.random.of(&ARGS);
        let line = match self.random.below(4) {
            0 => format!("ARG {name}"),
            1 => format!("ARG {name}={} # don't", self.value()),
            2 => format!("ARG {name}={} {}={}", self.value(), self.random.of(&ARGS), self.value()),
            _ => format!("ARG {name}={}", self.value()),
        };
        self.line(&line);
    }

    /// A value of an argument, possibly quoted.
    fn value(&mut self) -> String {
        let value = self.word();
        match self.random.below(5) {
            0 => format!("\"{value}\""),
            1 => format!("'{value}'"),
            _ => value,
        }
    }

    /// A word with or without substitutions.
    fn word(&mut self) -> String {
        let plain = ["1", "base", "build", "3.20*", "a-b-c", "v1.2", "x", "img:7", "a/b", ""];
        match self.random.below(3) {
            0 => self.random.of(&plain).to_owned(),
            1 => format!("{}{}", self.random.of(&plain), self.substitution(2)),
            _ => self.substitution(2),
        }
    }

    fn substitution(&mut self, depth: usize) -> String {
        let name = self.random.of(&ARGS);
        let rare = self.random.of(&["?", ":?", ":#", "^^", "", ":-", "%", "-"]);
        let operator = self.random.of(&[
            "-", ":-", "-", ":-", "+", ":+", "#", "##", "%", "%%", "/", "//", "", "", "", rare,
        ]);
        let word = if depth > 0 && self.random.one_in(3) {
            self.substitution(depth - 1)
        } else {
            let words = ["b", "*", "?.", "-", "\\*", "v", "\"q\"", "'q'", "a*", "", "1", "-*"];
            self.random.of(&words).to_owned()
        };
        match operator {
            "" if self.random.one_in(2) => format!("${name}"),
            "" => format!("${{{name}}}"),
            "/" | "//" => {
                let replacement = self.random.of(&[".", "", "x$A", "\\}", "-"]);
                format!("${{{name}{operator}{word}/{replacement}}}")
            }
            operator => format!("${{{name}{operator}{word}}}"),
        }
    }

    /// The name of an image that no other place of the file names, or of the one before.
    fn image(&mut self) -> String {
        if self.images == 0 || !self.random.one_in(6) {
            self.images += 1;
        }
        let number = self.images - 1;
        match self.random.below(8) {
            0 => format!("img{number}:1{DIGEST}"),
            1 => format!("docker.io/library/img{number}:1"),
            2 => format!("example.com/img{number}"),
            3 => format!("example.com/img{number}{DIGEST}"),
            _ => format!("img{number}:1"),
        }
    }

    fn from(&mut self) {
        let base = match self.random.below(8) {
            0 | 1 => self.random.of(&STAGES).to_owned(),
            2 => format!("img:{}", self.word()),
            3 if self.random.one_in(2) => self.substitution(1),
            4 if self.random.one_in(2) => "scratch".into(),
            5 if self.random.one_in(2) => format!("base-{}", self.substitution(1)),
            _ => self.image(),
        };
        let platform = match self.random.below(24) {
            0 => "--platform=$BUILDPLATFORM ",
            1 => "--platform=linux/amd64 ",
            _ => "",
        };
        let name = if self.random.below(3) == 0 {
            String::new()
        } else {
            let names = [self.random.of(&STAGES), self.random.of(&STAGES), "Tools"];
            format!(" {} {}", self.random.of(&["AS", "as"]), self.random.of(&names))
        };
        let keyword = self.random.of(&["FROM", "FROM", "from", "  FROM"]);
        self.line(&format!("{keyword} {platform}{base}{name}"));
    }

    fn command(&mut self) {
        match self.random.below(9) {
            0 | 1 => {
                let line = self.copy();
                self.line(&line);
            }
            2 | 3 => {
                let line = self.run();
                self.line(&line);
            }
            4 => {
                let trigger = self.trigger();
                self.line(&format!("ONBUILD {trigger}"));
            }
            5 | 6 => self.heredoc(),
            7 => {
                let line = self.random.of(&[
                    "ENV A=b",
                    "RUN echo don't",
                    "# FROM comment",
                    "WORKDIR /w",
                    "CMD [\"a\"]",
                    "LABEL a=b",
                    "ARG A=stage",
                    "RUN [\"a\", \"<<EOF\"]",
                    "COPY a b",
                    "",
                ]);
                self.line(line);
            }
            _ => {
                let stage = self.random.of(&STAGES);
                self.line(&format!("COPY --from={stage} /a /b"));
            }
        }
    }

    fn source(&mut self) -> String {
        match self.random.below(8) {
            0 | 1 => self.random.of(&STAGES).to_owned(),
            2 => self.random.of(&["0", "0", "+0", "1"]).to_owned(),
            3 => self.random.of(&["", "", "", "a$$", "scratch", "BASE"]).to_owned(),
            4 if self.random.one_in(8) => self.random.of(&["$A", "a$", "'a'"]).to_owned(),
            _ => self.image(),
        }
    }

    fn copy(&mut self) -> String {
        let source = self.source();
        match self.random.below(4) {
            0 => format!("COPY --chown=1:1 --from=\"{source}\" /a /b"),
            1 => format!("COPY --from={source} --link /a /b"),
            _ => format!("COPY --from={source} /a /b"),
        }
    }

    fn run(&mut self) -> String {
        let (one, two) = (self.source(), self.source());
        match self.random.below(6) {
            0 => format!("RUN --mount=from={one},target=/t,from={two} x"),
            1 => format!("RUN --mount=type=cache,target=/c --mount=type=bind,FROM={one},dst=/t x"),
            2 => format!("RUN --mount=type=bind,\"from={one}\",target=/t x"),
            3 => format!("RUN --mount=\"target=/t,from={one}\" x"),
            4 => "RUN --mount=type=cache,target=/c x".into(),
            _ => format!("RUN --mount=from={one},target=/t x"),
        }
    }

    fn trigger(&mut self) -> String {
        match self.random.below(4) {
            0 => "RUN true".into(),
            1 => self.run(),
            _ => self.copy(),
        }
    }

    fn heredoc(&mut self) {
        let [begin, end] = match self.random.below(10) {
            0 => ["<<\\EOF", "EOF"],
            1 => ["<<E\\OF", "EOF"],
            2 => ["<<\"THE END\"", "THE END"],
            3 => ["<<-EOF", "\t\tEOF"],
            4 => ["<<'E'OF", "EOF"],
            5 => ["<< EOF", "EOF"],
            6 => ["<<$EOF", "$EOF"],
            7 => ["3<<EOF", "EOF"],
            _ => ["<<EOF", "EOF"],
        };
        let command = self.random.of(&[
            "RUN cat",
            "RUN",
            "RUN sh -c 'a'",
            "ONBUILD RUN cat",
            "RUN echo ${A:-b}",
            "RUN x <<<y",
            "RUN echo don't",
        ]);
        let after = self.random.of(&["", " >/x", " | y", " && z"]);
        self.line(&format!("{command} {begin}{after}"));
        let body = self.random.of(&["FROM gone:1", "COPY --from=gone:2 a b", "x\\", "# y", "'"]);
        let _ = writeln!(self.text, "{body}\n{end}");
    }

    /// Removes, doubles or replaces a few characters.
    fn damage(&mut self) {
        for _ in 0..=self.random.below(2) {
            let chars: Vec<_> = self.text.char_indices().collect();
            let Some(&(index, c)) = chars.get(self.random.below(chars.len())) else { return };
            let replacement = match self.random.below(3) {
                0 => String::new(),
                1 => format!("{c}{c}"),
                _ => self
                    .random
                    .of(&["\"", "'", "\\", "$", "{", "}", "<", " ", "\n", "#", "=", "é"])
                    .into(),
            };
            self.text.replace_range(index..index + c.len_utf8(), &replacement);
        }
    }
}
