//! The plugin as a process that serves the page.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A running `kubectl family ui`. It ends with this value.
pub struct ServedPage {
    process: Child,
    /// The address that it has printed.
    pub address: String,
}

impl ServedPage {
    /// Starts the plugin.
    pub fn start(kubeconfig: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_kubectl-family"))
            .args(["ui", "--kubeconfig"])
            .arg(kubeconfig)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the plugin runs");
        let mut address = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut address).expect("an address");
        Self { process, address: address.trim().to_owned() }
    }

    /// Ends the plugin.
    pub fn stop(&mut self) {
        // It fails only if the process has ended.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Drop for ServedPage {
    fn drop(&mut self) {
        self.stop();
    }
}
