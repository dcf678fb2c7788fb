//! `BuildKit`'s own frontend, in a program that answers one build per line.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::{Deserialize, Serialize};

/// The component of `dev/tools`, and its program.
const PROGRAM: &str = "dockerfile-frontend";

/// A build of one Dockerfile.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    pub dockerfile: String,
    pub args: BTreeMap<String, String>,
    /// The stage to build; empty for the last one.
    pub target: String,
    pub platform: String,
    /// The named contexts: references by name.
    pub contexts: BTreeMap<String, String>,
    /// The `ONBUILD` triggers of images, by their full references.
    pub triggers: BTreeMap<String, Vec<String>>,
}

impl Build {
    pub fn of(dockerfile: impl Into<String>) -> Self {
        Self {
            dockerfile: dockerfile.into(),
            args: BTreeMap::new(),
            target: String::new(),
            platform: "linux/amd64".into(),
            contexts: BTreeMap::new(),
            triggers: BTreeMap::new(),
        }
    }
}

/// What `BuildKit` says of a build.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// The full references of the images that it uses.
    #[serde(deserialize_with = "null_is_empty")]
    pub images: Vec<String>,
    /// Why it rejects the Dockerfile; empty if it does not.
    pub error: String,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The running program. It ends when its input does.
pub struct Frontend {
    process: Child,
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

impl Frontend {
    /// Starts the program, which `dev/tools/build` compiles if it is not in its cache yet.
    pub fn start() -> Self {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/tools/build");
        let output = Command::new(build)
            .args(["--path", PROGRAM])
            .stderr(Stdio::inherit())
            .output()
            .expect("run dev/tools/build");
        assert!(output.status.success(), "dev/tools/build {PROGRAM} failed");
        let folder = String::from_utf8(output.stdout).expect("a path");
        let mut process = Command::new(Path::new(folder.trim()).join(PROGRAM))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the frontend");
        let input = process.stdin.take().map(BufWriter::new);
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, input, output }
    }

    /// Returns the answers for these builds, in their order.
    pub fn ask<'a>(&mut self, builds: impl IntoIterator<Item = &'a Build>) -> Vec<Answer> {
        let input = self.input.as_mut().expect("the program runs");
        let mut answers = Vec::new();
        for build in builds {
            serde_json::to_writer(&mut *input, build).expect("write a build");
            input.write_all(b"\n").and_then(|()| input.flush()).expect("write a build");
            let mut line = String::new();
            self.output.read_line(&mut line).expect("read an answer");
            answers.push(serde_json::from_str(&line).expect("an answer"));
        }
        answers
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}
