//! Random Dockerfiles of somebody who wants `BuildKit` to pull what the reader does not find. They
//! are made of what two readers are most likely to read in two ways.

use crate::{frontend::Build, random::Random};

/// White space, and what only looks like it. `à` and `Å` end in bytes that are white space if they
/// are taken for characters.
const SPACES: [&str; 26] = [
    " ",
    " ",
    " ",
    " ",
    "  ",
    "\t",
    "\u{a0}",
    "\u{85}",
    "\u{0b}",
    "\u{0c}",
    "\r",
    "\r\r",
    "\u{feff}",
    "\u{2028}",
    "\u{3000}",
    "\u{200b}",
    "\u{1c}",
    "\0",
    "à",
    "Å",
    "\\\n",
    "`\n",
    " \\ \n",
    "\\\r\n",
    "\\\r\r\n",
    "\\\n# x\\\n",
];
const ENDS: [&str; 14] = [
    "\n", "\n", "\n", "\n", "\n", "\n", "\r\n", "\r\r\n", "\\\n", "\\\r\n", "\\\r\r\n", "`\n",
    "\u{85}\n", "\u{0c}\n",
];
const IMAGES: [&str; 8] = [
    "one:1",
    "two:2",
    "evil:1",
    "evil.example.com/x:1",
    "docker.io/library/one:1",
    "0",
    "a",
    "scratch",
];
const DIRECTIVES: [&str; 20] = [
    "# escape=`\n",
    "#escape=\\\n",
    "# escape = `\r\n",
    "#\tESCAPE=`\n",
    "\u{feff}# escape=`\n",
    "# syntax=evil:1\n# escape=`\n",
    "#syntax=evil:1\n",
    "# check=skip=all\n# escape=`\n",
    "# x=y\n# escape=`\n",
    "# x\n# escape=`\n",
    "\n# escape=`\n",
    " # escape=`\n",
    "#\u{a0}escape=`\n",
    "# escape=`\r\r\n",
    "// escape=`\n",
    "#!/bin/x\n# escape=`\n",
    "# escape=\n# escape=`\n",
    "#escape=`\u{85}\n",
    "{\"syntax\":\"evil:1\"}\n",
    "# escape=`x\n",
];
const HEREDOCS: [[&str; 2]; 18] = [
    ["<<E", "E"],
    ["<<-E", "\tE"],
    ["<<\"E F\"", "E F"],
    ["<<'E'", "E"],
    ["<<E\\F", "EF"],
    ["<<$E", "$E"],
    ["<<${E:-x}", "${E:-x}"],
    ["<< E", "E"],
    ["<<\tE", "E"],
    ["<<\u{a0}E", "E"],
    ["9<<E", "E"],
    ["٣<<E", "E"],
    ["<<E <<F", "E\nF"],
    ["<<E\u{a0}<<F", "E"],
    ["<<`E", "E"],
    ["<<\u{feff}E", "E"],
    ["<<E;", "E;"],
    ["<<''", ""],
];
const ARGS: [&str; 10] = [
    "A",
    "B",
    "TARGETSTAGE",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDOS",
    "1",
    "A_",
    "é",
    "HTTP_PROXY",
];

/// Returns the build of a seed.
pub fn build(seed: u64) -> Build {
    let mut random = Random::from_seed(seed ^ 0x4A5D_19C3);
    let odd_left = 1 + random.below(4);
    let mut generator = Generator { random, text: String::new(), odd_left };
    generator.write();
    let mut build = Build::of(std::mem::take(&mut generator.text));
    let random = &mut generator.random;
    for name in ARGS {
        if random.one_in(4) {
            let values = ["evil:1", "one:1", "", "a", "y", "one:1=evil:1", "\"one:1\"", "$B"];
            build.args.insert(name.into(), random.of(&values).into());
        }
    }
    if random.one_in(6) {
        build.target = random.of(&["a", "A", "b", "0", "1", "é"]).into();
    }
    build.platform = random.of(&["linux/amd64", "linux/amd64", "linux/arm/v7"]).into();
    for image in ["one:1", "two:2"] {
        if generator.random.one_in(6) {
            let triggers = (0..=generator.random.below(2)).map(|_| generator.trigger()).collect();
            build.triggers.insert(format!("docker.io/library/{image}"), triggers);
        }
    }
    build
}

/// A file in the making.
struct Generator {
    random: Random,
    text: String,
    /// How many oddities the file may still get. `BuildKit` rejects files with many.
    odd_left: usize,
}

impl Generator {
    fn write(&mut self) {
        if self.random.one_in(2) && self.is_odd() {
            let directive = self.random.of(&DIRECTIVES);
            self.text.push_str(directive);
        }
        for _ in 0..self.random.below(3) {
            let arg = self.arg();
            self.line(&arg);
        }
        for _ in 0..=self.random.below(3) {
            let from = self.from();
            self.line(&from);
            for _ in 0..self.random.below(4) {
                let command = self.command();
                self.line(&command);
            }
        }
    }

    /// Whether something odd comes next.
    fn is_odd(&mut self) -> bool {
        let is_odd = self.odd_left > 0 && self.random.one_in(3);
        self.odd_left -= usize::from(is_odd);
        is_odd
    }

    /// Returns one of these, most often the first.
    fn odd<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        if self.is_odd() {
            self.random.of(choices)
        } else {
            choices.first().copied().unwrap_or_default()
        }
    }

    /// Writes a line: now and then one of its spaces is replaced, or a character is inserted.
    fn line(&mut self, line: &str) {
        for c in line.chars() {
            if c == ' ' && self.random.one_in(4) {
                let space = self.odd(&SPACES);
                self.text.push_str(space);
                continue;
            }
            self.text.push(c);
            if self.random.one_in(40) && self.is_odd() {
                let odd = if self.random.one_in(2) {
                    self.random.of(&SPACES)
                } else {
                    self.random.of(&["\"", "'", "\\", "`", "$", "{", "}", "=", ",", "-", "#"])
                };
                self.text.push_str(odd);
            }
        }
        let end = self.odd(&ENDS);
        self.text.push_str(end);
    }

    fn image(&mut self) -> String {
        match self.random.below(6) {
            0 => self.expansion(2),
            1 => format!("{}{}", self.random.of(&["one:1", "", "x"]), self.expansion(1)),
            _ => self.random.of(&IMAGES).into(),
        }
    }

    fn expansion(&mut self, depth: usize) -> String {
        let name = self.random.of(&ARGS);
        let word = if depth > 0 && self.random.one_in(3) {
            self.expansion(depth - 1)
        } else {
            let words = [
                "evil:1", "one:1", "", "*", "?*", "\\}", "\"", "'", "y", "à", "=*", "[a-z]",
                "\u{a0}",
            ];
            self.random.of(&words).into()
        };
        match self.random.below(9) {
            0 => format!("${name}"),
            1 => format!("${name}y"),
            2 => format!("${{{name}}}"),
            3 => format!("${{{name}/{word}/{}}}", self.random.of(&["evil:1", "", "y"])),
            4 => {
                let odd =
                    ["${A}", "${!A}", "${A^^}", "${A@Q}", "${A:0:1}", "${A:?x}", "${", "$", "$$"];
                self.odd(&odd).into()
            }
            _ => {
                let signs = [":-", "-", ":+", "+", "#", "##", "%", "%%", "//x/"];
                format!("${{{name}{}{word}}}", self.random.of(&signs))
            }
        }
    }

    fn arg(&mut self) -> String {
        let (name, value) = (self.random.of(&ARGS), self.image());
        match self.random.below(5) {
            0 => format!("ARG {name}"),
            1 => format!("ARG {name}=\"{value}\" {}={value}", self.random.of(&ARGS)),
            2 => format!("arg {name}='{value}' # {}={value}", self.random.of(&ARGS)),
            _ => format!("ARG {name}={value}"),
        }
    }

    fn from(&mut self) -> String {
        let image = self.image();
        let flag = self.odd(&["", "--platform=$BUILDPLATFORM ", "--x ", "-- ", "--platform="]);
        let name = self.random.of(&["", " AS a", " as b", " AS A", " AS x"]);
        let name = if self.is_odd() {
            self.random.of(&[" AS é", " AS one", " AS 0a", " AS \"a\"", " AS a # x"])
        } else {
            name
        };
        let keyword = self.odd(&["FROM", "from", "FROM ", "\u{feff}FROM", "\u{a0}FROM", "ſrom"]);
        format!("{keyword} {flag}{image}{name}")
    }

    fn command(&mut self) -> String {
        match self.random.below(8) {
            0 | 1 => self.copy(),
            2 | 3 => self.run(),
            4 => format!("{} {}", self.random.of(&["ONBUILD", "onbuild"]), self.trigger()),
            5 | 6 => self.heredoc(),
            _ => {
                let odd = [
                    "RUN true # \\",
                    "CMD [\"<<E\"]",
                    "RUN [\"a\"] <<E",
                    "# \\",
                    "LABEL a=\"\\",
                    "USER x",
                ];
                self.random.of(&odd).into()
            }
        }
    }

    fn copy(&mut self) -> String {
        let image = self.image();
        let before = self.odd(&[
            "",
            "--link ",
            "--exclude=à",
            "--exclude=Å",
            "--chown=\"1 ",
            "--parents --",
            "--x\\ ",
        ]);
        let quote = self.odd(&["", "\"", "'", "\\"]);
        let after = self.odd(&["", " --link", "--from=", " --from=one:1", " -- --from=two:2"]);
        let keyword = self.odd(&["COPY", "copy", "ADD"]);
        format!("{keyword} {before}{quote}--from={image}{quote}{after} / /")
    }

    fn run(&mut self) -> String {
        let (one, two) = (self.image(), self.image());
        let mount = match self.random.below(7) {
            0 => format!("from={one},from={two},target=/t"),
            1 => format!("type=bind,\"from={one}\",target=/t"),
            2 => format!("\"from={one},target=/t\",from={two}"),
            3 => format!("type=cache,target=/c,FROM={one}"),
            4 => format!("from=,from={one},target=/t"),
            _ => format!("from={one},target=/t"),
        };
        let more = self.odd(&[
            "",
            " --mount=type=tmpfs,target=/x",
            " --mount=from=evil:1,target=/e",
            "--mount=from=evil:1",
        ]);
        format!("RUN --mount={mount}{more} x")
    }

    fn trigger(&mut self) -> String {
        match self.random.below(8) {
            0 => format!("ONBUILD {}", self.copy()),
            1..4 => self.run(),
            _ => self.copy(),
        }
    }

    /// A here-document, whose text is a stage or a copy for whoever does not see its begin or end.
    fn heredoc(&mut self) -> String {
        let [begin, end] = if self.is_odd() {
            HEREDOCS.get(self.random.below(HEREDOCS.len())).copied().unwrap_or_default()
        } else {
            ["<<E", "E"]
        };
        let command = self.odd(&[
            "RUN cat",
            "RUN",
            "COPY",
            "ONBUILD RUN cat",
            "ADD",
            "RUN echo don't",
            "run \"a\"",
            "CMD",
            "RUN ${A^^}",
        ]);
        let hidden =
            self.random.of(&["FROM evil:1", "COPY --from=evil:1 / /", "FROM one:1", "x\\", "'"]);
        let destination = if command.ends_with("RUN cat") { "" } else { " /x" };
        format!("{command} {begin}{destination}\n{hidden}\n{end}")
    }
}
