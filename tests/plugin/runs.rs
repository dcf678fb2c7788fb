//! Runs of the plugin, and the files that it gets.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// What a run has written, and its exit code.
#[derive(Debug)]
pub struct PluginRun {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The plugin, without a cluster and without colours.
pub fn plugin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-family"));
    command.env_remove("KUBECONFIG").env("HOME", "/nonexistent").env_remove("NO_COLOR");
    command
}

/// Runs the plugin with the arguments of a line, which has no quotes.
pub fn run(line: &str) -> PluginRun {
    run_with_input(line, "")
}

/// Runs the plugin with a text on its standard input.
pub fn run_with_input(line: &str, input: &str) -> PluginRun {
    let mut child = plugin()
        .args(line.split_whitespace())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin runs");
    // A run that fails early does not read it.
    _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the plugin ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    PluginRun {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl PluginRun {
    /// Returns the output of a run that has found nothing to act on.
    pub fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// Returns the document of a run, which must match a schema of `docs/reference/plugin`.
    pub fn document(self, schema: &str) -> Value {
        let document: Value = serde_json::from_str(&self.stdout).expect("JSON");
        let path = root().join("docs/reference/plugin").join(format!("{schema}.schema.json"));
        let text = std::fs::read_to_string(path).expect("a schema");
        let schema = serde_json::from_str(&text).expect("a schema is JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<String> =
            validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        document
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with these files.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        for (name, text) in files {
            let path = folder.path(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn folder(&self) -> String {
        self.0.path().display().to_string()
    }
}
