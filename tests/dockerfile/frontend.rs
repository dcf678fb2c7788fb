//! `BuildKit`'s own frontend, in a program that answers one build per line.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
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
    /// The policy of sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<serde_json::Value>,
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
            policy: None,
        }
    }
}

/// What `BuildKit` says of a build.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// The full references of the images that it uses.
    #[serde(deserialize_with = "null_is_empty")]
    pub images: Vec<String>,
    /// The sources that the policy refuses.
    #[serde(deserialize_with = "null_is_empty")]
    pub denied: Vec<String>,
    /// Why it rejects the Dockerfile; empty if it does not.
    pub error: String,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Returns the answers for these builds, in their order.
pub fn ask<'a>(builds: impl IntoIterator<Item = &'a Build>) -> Vec<Answer> {
    let program = program();
    let line = |build| serde_json::to_string(build).expect("JSON") + "\n";
    let lines: Vec<String> = builds.into_iter().map(line).collect();
    let mut answers = Vec::new();
    // The program ends early after a build that takes too long.
    while let Some(rest) = lines.get(answers.len()..).filter(|rest| !rest.is_empty()) {
        let before = answers.len();
        answers.extend(run(&program, rest));
        assert!(answers.len() > before, "the frontend gives no answer");
    }
    answers
}

/// Runs the program once, and returns its answers.
fn run(program: &Path, lines: &[String]) -> Vec<Answer> {
    let mut process = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the frontend");
    let mut input = process.stdin.take().expect("piped");
    let output = BufReader::new(process.stdout.take().expect("piped"));
    let answers = thread::scope(|scope| {
        // Without waiting for the answers. The pipe breaks if the program ends early.
        scope.spawn(move || lines.iter().try_for_each(|line| input.write_all(line.as_bytes())));
        let answer = |line: std::io::Result<String>| {
            serde_json::from_str(&line.expect("a line")).expect("an answer")
        };
        output.lines().map(answer).collect()
    });
    process.wait().expect("the frontend ends");
    answers
}

/// Returns the program, which `dev/tools/build` compiles if it is not in its cache yet.
fn program() -> PathBuf {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/tools/build");
    let output = Command::new(build)
        .args(["--path", PROGRAM])
        .stderr(Stdio::inherit())
        .output()
        .expect("run dev/tools/build");
    assert!(output.status.success(), "dev/tools/build {PROGRAM} failed");
    Path::new(String::from_utf8(output.stdout).expect("a path").trim()).join(PROGRAM)
}
