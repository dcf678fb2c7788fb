//! `kubectl family ui`: who can read the page, and what it serves. `tests/page` opens it in a
//! browser.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::runs::{plugin, root, run};

/// A running plugin. It ends with this value.
struct Served {
    process: Child,
    /// The host and the path of the address.
    host: String,
    path: String,
}

impl Served {
    fn start(file: &str) -> Self {
        let mut process = plugin()
            .args(["ui", "-f", file])
            .current_dir(root())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the plugin runs");
        let mut address = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut address).expect("an address");
        let address = address.trim().strip_prefix("http://").expect("an address");
        let (host, path) = address.split_once('/').expect("a path");
        let (host, path) = (host.to_owned(), format!("/{path}"));
        Self { process, host, path }
    }

    /// Sends a request, and returns what is answered first.
    fn connection(&self, method: &str, path: &str, host: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.host).expect("a connection");
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("a request");
        BufReader::new(stream)
    }

    /// Returns the head and the body of an answer.
    fn answer(&self, method: &str, path: &str, host: &str) -> (String, String) {
        let mut text = String::new();
        self.connection(method, path, host).read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    fn status(&self, method: &str, path: &str, host: &str) -> String {
        let (head, _) = self.answer(method, path, host);
        head.split(' ').nth(1).expect("a status").to_owned()
    }

    fn json(&self, path: &str) -> Value {
        let (_, body) = self.answer("GET", &format!("{}{path}", self.path), &self.host);
        serde_json::from_str(&body).expect("JSON")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It fails only if the process has ended.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn only_the_printed_address_is_answered() {
    let served = Served::start("examples/flask/family.yaml");
    let Served { host, path, .. } = &served;
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    assert_eq!(path.len(), 34, "a token of 16 bytes: {path}");
    let port = host.rsplit(':').next().expect("a port");
    for (method, path, host, status) in [
        ("GET", path.as_str(), host.as_str(), "200"),
        ("HEAD", path, host, "200"),
        ("GET", path, &format!("localhost:{port}"), "200"),
        ("GET", path, &format!("rebound.example.com:{port}"), "421"),
        ("GET", path, "127.0.0.1", "421"),
        ("GET", "/", host, "404"),
        ("GET", "/api/state", host, "404"),
        ("GET", &format!("{path}../../etc/passwd"), host, "404"),
        ("GET", &format!("{path}api/nothing"), host, "404"),
        ("GET", &format!("{path}nothing.js"), host, "404"),
        ("GET", &format!("{path}api/details?node=nothing"), host, "404"),
        ("POST", path, host, "405"),
        ("DELETE", &format!("{path}api/state"), host, "405"),
    ] {
        assert_eq!(served.status(method, path, host), status, "{method} {path} {host}");
    }
}

#[test]
fn every_answer_forbids_what_the_page_does_not_need() {
    let served = Served::start("examples/flask/family.yaml");
    for path in [&*served.path, "/", &format!("{}api/state", served.path)] {
        let (head, _) = served.answer("GET", path, &served.host);
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{path} {header}: {head}");
        }
        assert!(!head.contains("access-control"), "{head}");
    }
}

#[test]
fn the_documents_are_those_of_the_other_commands() {
    let served = Served::start("tests/plugin/recorded.yaml");
    let recorded = "-f tests/plugin/recorded.yaml";
    let graph = run(&format!("graph -o json {recorded}")).document("graph");
    let state = served.json("api/state");
    assert_eq!(state["graph"], graph);
    assert_eq!(state["cascades"][0]["family"], "web/shop");
    let details = served.json("api/details?node=base");
    let why: Value =
        serde_json::from_str(&run(&format!("why base -o json {recorded}")).stdout).expect("JSON");
    let impact = run(&format!("impact base -o json {recorded}")).document("impact");
    assert_eq!((&details["why"], &details["impact"]), (&why, &impact));
    assert_eq!(details["status"]["history"].as_array().map(Vec::len), Some(2));
    let upstream = served.json("api/details?node=docker.io%2Flibrary%2Fdebian%3Atrixie-slim");
    assert!(upstream["upstream"]["adopted"]["digest"].is_string(), "{upstream}");
    let log = served.json("api/log?node=base");
    assert!(log["error"].as_str().expect("an error").contains("files have no logs"), "{log}");
}

#[test]
fn the_first_event_names_the_first_snapshot() {
    let served = Served::start("examples/flask/family.yaml");
    let path = format!("{}api/events", served.path);
    let mut lines = served.connection("GET", &path, &served.host).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    while !line().is_empty() {}
    let event: Vec<String> = (0..3).map(|_| line()).filter(|line| line.contains(':')).collect();
    assert_eq!(event, ["event: snapshot", "data: 1"]);
}

#[test]
fn an_interrupt_ends_it_quietly() {
    let mut served = Served::start("examples/flask/family.yaml");
    let process = served.process.id().to_string();
    // Answered once, so that it waits for the interrupt.
    assert_eq!(served.status("GET", &served.path, &served.host), "200");
    let sent = Command::new("kill").args(["-INT", &process]).status().expect("kill runs");
    assert!(sent.success());
    assert_eq!(served.process.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_port_in_use_and_bad_input_are_errors() {
    let used = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = used.local_addr().expect("an address").port();
    let failed = run(&format!("ui -f examples/flask/family.yaml --port {port}"));
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{failed:#?}");
    let message = format!("port {port} of 127.0.0.1 is in use; name another one with --port");
    assert!(failed.stderr.contains(&message), "{}", failed.stderr);
    for (line, message) in [
        ("ui -f tests/plugin/nothing.yaml", "nothing.yaml"),
        ("ui -f examples/flask/family.yaml --port 70000", "70000"),
        ("ui -f examples/flask/family.yaml --platform x", "`x` is no platform"),
    ] {
        let failed = run(line);
        assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{line}: {failed:#?}");
        assert!(failed.stderr.contains(message), "{line}: {}", failed.stderr);
    }
}
